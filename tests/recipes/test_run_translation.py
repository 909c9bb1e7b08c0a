"""Translation from a file to a student: word- and sequence-level targets, both kinds of students, and rubbish."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    PreTrainedTokenizerFast,
    set_seed,
)

from hf_distill import Recipe, run_recipe
from hf_distill.recipes.card import told_of
from hf_distill.recipes.steps import Run

WORDS = {"cat": "gato", "dog": "perro", "sees": "ve", "red": "rojo", "eats": "come", "big": "grande"}
SELDOM = {"eval_steps": 150, "save_steps": 150}


def write_pairs(path: Path, number: int = 600) -> None:
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(number):
        words = generator.choice(list(WORDS), generator.integers(1, 4))
        rows.append([" ".join(words), " ".join(WORDS[word] for word in words)])
    rows[3][1] = ""  # a text without a target
    rows[4][0] = " "  # a target without a text
    rows[5] = [" ".join(["cat"] * 60), " ".join(["gato"] * 60)]  # longer than a model reads
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["en", "es"], *rows])


def write_teacher(folder: Path) -> None:
    tokens = ["<pad>", "</s>", "<unk>", *WORDS, *WORDS.values()]
    backend = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=32
    ).save_pretrained(folder)
    marian(len(tokens), pad_token_id=0, eos_token_id=1).save_pretrained(folder)


def marian(vocab_size: int, pad_token_id: int, eos_token_id: int) -> MarianMTModel:
    set_seed(0)
    sizes = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (
        ("layers", 2), ("attention_heads", 2), ("ffn_dim", 64))}  # fmt: skip
    return MarianMTModel(
        MarianConfig(
            vocab_size=vocab_size,
            d_model=32,
            max_position_embeddings=32,
            pad_token_id=pad_token_id,
            eos_token_id=eos_token_id,
            bos_token_id=None,
            decoder_start_token_id=pad_token_id,
            forced_eos_token_id=None,
            dropout=0.0,
            **sizes,
        )
    )


def recipe(folder: Path, **changes) -> Path:
    content = {
        "task": "translation",
        "output_dir": str(folder / "out"),
        "data": {"path": str(folder / "pairs.csv"), "text": "en", "target": "es", "test": 24, "validation": 12},
        "teacher": {
            "model": str(folder / "teacher-start"),
            "max_length": 24,
            "top_k": 4,
            "bf16": False,
            "generation": {"num_beams": 2},
            "fine_tune": {"learning_rate": 4e-3, "num_train_epochs": 60, **SELDOM},
        },
        "student": {
            "vocab_size": None,
            "max_length": 24,
            "bf16": False,
            "config": {"embedding_size": 16, "hidden_size": 32, "dropout": 0.0},
        },
        "distill": {
            "targets": "both",
            "num_train_epochs": 60,
            "learning_rate": 8e-3,
            "temperature": 1.0,
            **SELDOM,
        },
        "compare": {"resamples": 100, "metrics": ["chrf", "sacrebleu"]},
        "export": {"onnx": True},
    }
    for name, value in changes.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) else value
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("translation")
    write_pairs(folder / "pairs.csv")
    write_teacher(folder / "teacher-start")
    return folder


@pytest.fixture(scope="module")
def report(folder):
    run_recipe(recipe(folder), only="distill")
    return run_recipe(recipe(folder))  # as another process would, after one that was killed


@pytest.mark.long
def test_the_student_learns_from_what_the_teacher_writes(report, folder):
    quality = {name: model["quality"]["chrf"]["value"] for name, model in report.models.items()}
    assert quality["teacher"] > 40 and quality["student"] > 0.7 * quality["teacher"], quality
    assert {"sacrebleu", "chrf", "sacrebleu_beam", "chrf_beam"} == set(report.models["student"]["quality"])
    gap = report.differences["student_beam_over_greedy"]
    greedy, beam = (report.models["student"]["quality"][name]["value"] for name in ("chrf", "chrf_beam"))
    assert gap["value"] == pytest.approx(beam - greedy, abs=1e-3)
    counts = report.run["rows"]
    assert counts["rows without a target"] == counts["unlabelled"] == 1
    assert counts["empty texts, left out"] == 1
    written = [json.loads(line) for line in (folder / "out" / ".work" / "written.jsonl").read_text().splitlines()]
    assert (
        len({entry["text"] for entry in written})
        == len(written)
        <= counts["training texts that the teacher translated"]
    )
    left_out = "texts longer than a model reads, left out"
    assert counts.get(f"training: {left_out}", 0) + counts.get(f"test: {left_out}", 0) == 1
    assert report.onnx["float32"]["agreement"] == 1.0
    assert report.models["student"]["words_a_second"]["batch_1"] > 0
    assert set(report.run["curves"]) == {"student", "baseline"}


@pytest.mark.long
def test_the_student_writes_where_the_package_is_missing(report, folder):
    code = (
        "import sys; sys.modules['hf_distill'] = None\n"
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer\n"
        f"path = {str(folder / 'out' / 'student')!r}\n"
        "model = AutoModelForSeq2SeqLM.from_pretrained(path, trust_remote_code=True)\n"
        "tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)\n"
        "ids = model.generate(**tokenizer('red cat sees', return_tensors='pt'))\n"
        "print(tokenizer.decode(ids[0], skip_special_tokens=True))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    said = done.stdout.split()
    assert said and set(said) <= set(WORDS.values())


@pytest.mark.long
def test_a_shallow_decoder_from_the_teachers_words(report, folder):
    """The trained teacher as it is; the student keeps its encoder and one layer of its decoder."""
    made = run_recipe(
        Recipe.load(
            recipe(
                folder, student={"kind": "transformer", "config": {"num_hidden_layers": [2, 1]}}, export={"onnx": False}
            ),
            [
                f"--output_dir={folder / 'shallow'}",
                f"--teacher.model={folder / 'out' / 'teacher'}",
                "--teacher.fine_tune=null",
                "--distill.targets=word",
                "--distill.num_train_epochs=15",
                "--compare.more_seeds=[7]",
            ],
        )
    )
    assert made.seeds == 2
    for name in ("student", "baseline"):
        quality = made.models[name]["quality"]["chrf"]
        assert quality["value"] == pytest.approx(np.mean(quality["values"]), abs=1e-3)
        assert quality["values"][0] != quality["values"][1]
    assert "values" not in made.models["teacher"]["quality"]["chrf"]
    student = AutoModelForSeq2SeqLM.from_pretrained(folder / "shallow" / "student")
    assert (student.config.encoder_layers, student.config.decoder_layers) == (2, 1)
    assert made.ratios["quality_kept"] > 0.5


@pytest.mark.long
def test_the_tokenizer_of_marian_models_on_the_hub(folder, tmp_path):
    """Two sentencepiece models over one vocabulary, and a slow tokenizer."""
    with (folder / "pairs.csv").open(newline="") as file:
        sides = zip(*list(csv.reader(file))[1:], strict=True)
    vocabulary = {"</s>": 0, "<unk>": 1}
    for name, texts in zip(("source", "target"), sides, strict=True):
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_prefix=str(tmp_path / name),
            vocab_size=32,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        pieces = SentencePieceProcessor(model_file=str(tmp_path / f"{name}.model"))
        for number in range(pieces.get_piece_size()):
            vocabulary.setdefault(pieces.id_to_piece(number), len(vocabulary))
    vocabulary["<pad>"] = len(vocabulary)
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.warns(UserWarning, match="sacremoses"):
        MarianTokenizer(
            source_spm=str(tmp_path / "source.model"),
            target_spm=str(tmp_path / "target.model"),
            vocab=str(tmp_path / "vocab.json"),
            source_lang="en",
            target_lang="es",
            model_max_length=32,
        ).save_pretrained(tmp_path / "teacher")
    marian(len(vocabulary), pad_token_id=len(vocabulary) - 1, eos_token_id=0).save_pretrained(tmp_path / "teacher")
    changes = [f"--output_dir={tmp_path / 'out'}", f"--teacher.model={tmp_path / 'teacher'}"]
    with pytest.warns(UserWarning, match="sacremoses"):
        run_recipe(Recipe.load(recipe(folder), changes), only="distill")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "student")
    student = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out" / "student")
    written = student.generate(**tokenizer(["red cat", "dog"], padding=True, return_tensors="pt"))
    said = tokenizer.batch_decode(written, skip_special_tokens=True)
    assert said[1] == "perro"
    assert len(said[0].split()) == 2
    assert set(said[0].split()) <= set(WORDS.values())


AS_IT_IS = ["--teacher.fine_tune=null", "--data.test=5", "--data.validation=5"]


def started(folder: Path, output: Path, *changes: str) -> Run:
    """A run whose teacher is what the folder has."""
    return Run(Recipe.load(recipe(folder), [f"--output_dir={output}", *AS_IT_IS, *changes]))


@pytest.fixture(scope="module")
def lacking(folder) -> str:
    """Of the pairs 30 have no target."""
    with (folder / "pairs.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    words = list(WORDS)
    alone = [[f"{words[n % 6]} {words[n // 6]} eats big red cat", ""] for n in range(30)]
    with (folder / "lacking.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows[10:60], *alone])
    return f"--data.path={folder / 'lacking.csv'}"


def test_rows_without_a_target_are_counted_where_nobody_learns_from_them(folder, lacking, tmp_path):
    run = started(folder, tmp_path / "word", lacking, "--distill.targets=word")
    assert len(run.task.pairs()) == len(run.task.splits.train)
    assert (
        run.task.counts["training: rows without a target, left out: targets is word"]
        == 30
        == run.task.counts["unlabelled"]
    )
    run = started(folder, tmp_path / "few", lacking, "--distill.sequences=5")
    pairs = run.task.pairs()
    assert run.task.counts["training texts that the teacher translated"] == 5
    assert run.task.counts["training: rows without a target, left out: beyond distill.sequences"] == 25
    assert len(pairs) + run.task.counts["empty translations of the teacher, left out"] == len(run.task.splits.train) + 5


def test_translations_that_were_cut_are_left_out(folder, tmp_path):
    """The teacher knows no end, so it writes as many tokens as it may."""
    teacher = MarianMTModel.from_pretrained(folder / "teacher-start")
    with torch.no_grad():
        teacher.final_logits_bias[0, 1] = -1e4  # the end
        teacher.final_logits_bias[0, len(WORDS) + 3] = 1e4
    teacher.save_pretrained(tmp_path / "endless")
    AutoTokenizer.from_pretrained(folder / "teacher-start").save_pretrained(tmp_path / "endless")
    run = started(folder, tmp_path / "out", f"--teacher.model={tmp_path / 'endless'}", "--distill.sequences=5")
    pairs = run.task.pairs()
    assert run.task.counts["translations of the teacher cut at 23 tokens, left out"] == 5
    assert (
        len(pairs) == run.task.counts["train"] + run.task.counts["unlabelled"] - 5 - 1
    )  # and one that is too long to read
    run = started(folder, tmp_path / "all", f"--teacher.model={tmp_path / 'endless'}")
    with pytest.raises(ValueError, match="all into nothing or into more than 23 tokens"):
        _ = run.task.pairs()


@pytest.mark.parametrize("targets", ["word", "both"])
def test_a_teacher_with_fewer_positions_than_the_limit(folder, tmp_path, targets):
    """Its tokenizer knows no limit, as many on the Hub; its 32 positions are one."""
    MarianMTModel.from_pretrained(folder / "teacher-start").save_pretrained(tmp_path / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher-start")
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(tmp_path / "teacher")
    rows = [[" ".join(["cat"] * (26 + number // 7) + ["dog"] * (number % 7)), "gato"] for number in range(42)]
    with (tmp_path / "long.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["en", "es"], *rows])
    changes = [f"--data.path={tmp_path / 'long.csv'}", f"--teacher.model={tmp_path / 'teacher'}"]
    limits = ["--student.max_length=64", "--teacher.max_length=64"]
    run = started(folder, tmp_path / "out", *changes, *limits, f"--distill.targets={targets}")
    run.step("cache")
    run.step("initialize")
    trained = run.task.splits.train["source"]
    long = sum(len(text.split()) > 31 for text in trained)
    of = {"word": "pairs longer than a model's limit", "both": "texts longer than a model reads"}[targets]
    assert 0 < run.task.counts[f"training: {of}, left out"] == long < len(trained)
    student, own = run.models.load(run.models.initial)
    assert student.generation_config.max_length == own.model_max_length == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--distill.targets=words"], "distill.targets: expected one of word, sequence, both"),
        (["--distill.targets=word", "--distill.sequences=8"], "distill.sequences: the teacher writes nothing"),
        (["--distill.sequences=0"], "distill.sequences: expected one number of texts, 1 or more, .* got 0"),
        (["--distill.sequences=-5"], "distill.sequences: expected .* got -5"),
        (["--teacher.lora={rank: 8}"], "teacher.lora: unknown key 'rank'.* Known are .* r, rank_pattern"),
        (["--teacher.generation={num_beam: 4}"], "teacher.generation: unknown key 'num_beam'. Did you mean num_beams"),
        (["--teacher.generation={max_new_tokens: 400}"], "max_new_tokens must be .* below the 32 tokens .* got 400"),
        (["--student.vocab_size=100"], "student.vocab_size: with a vocabulary of its own"),
        (["--distill.temperature_end=2.0"], "distill.temperature: the teacher's top 4 tokens"),
        (["--compare.metrics=[accuracy]"], "compare.metrics: accuracy does not judge a translation"),
        (["--compare.by=[en]"], "compare.by: is for classification and tagging"),
        (["--teacher.lora={r: 4}", "--teacher.fine_tune=null"], "teacher.lora: adapters are trained by"),
        (["--data.target=missing"], "data.target: there is no column 'missing'"),
        (["--student.max_length=2"], "longer than the limit"),
        (
            ["--teacher.fine_tune=null", "--distill.targets=sequence", "--teacher.generation={forced_bos_token_id: 1}"],
            "all into nothing or into more than 23 tokens, and no other target is left",
        ),
    ],
)
def test_what_does_not_fit(folder, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run_recipe(Recipe.load(recipe(folder), [f"--output_dir={tmp_path / 'out'}", *changes]), only="cache")


def test_a_card_tells_of_soft_targets_where_there_are_some(folder, tmp_path):
    both = started(folder, tmp_path / "both")
    told = told_of(both.recipe.stages[0], both.recipe)
    assert (told["targets"], told["temperature"], told["soft_target_loss"]) == ("both", 1.0, "forward_kl")
    alone = started(folder, tmp_path / "alone", "--distill.targets=sequence")
    told = told_of(alone.recipe.stages[0], alone.recipe)
    assert told["targets"] == "sequence" and not {"temperature", "soft_target_loss"} & told.keys()
