"""Dialogue from a file to a student: replies through a chat template, an adapted teacher, two vocabularies."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)

from hf_distill import Recipe, run_recipe
from hf_distill.data.language_modeling import cut_to_fit
from hf_distill.recipes.steps import Run
from hf_distill.reports.generation import compare_generation
from hf_distill.reports.writer import Writer
from hf_distill.teachers.generating import as_prompt

TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
QUESTIONS = {"how are you": "fine thanks", "who is there": "only me", "what is new": "not much", "is it cold": "it is"}


def write_conversations(path: Path, number: int = 120) -> None:
    generator = np.random.default_rng(0)
    with path.open("w") as file:
        for row in range(number):
            asked = generator.choice(list(QUESTIONS), 2, replace=False)
            name = "".join(generator.choice(list("abcdefgh"), 6))
            messages = []
            for question in asked:
                messages.append({"role": "user", "content": f"{question} {name}"})
                messages.append({"role": "assistant", "content": QUESTIONS[question]})
            file.write(json.dumps({"messages": messages if row != 7 else messages[:1]}) + "\n")  # one turn: no reply


def write_teacher(folder: Path) -> None:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    texts = [f"{question} {answer}" for question, answer in QUESTIONS.items()]
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=340, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|end|>", eos_token="<|end|>", model_max_length=128
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    set_seed(0)
    end = tokenizer.eos_token_id
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=128,
            pad_token_id=end,
            eos_token_id=end,
            bos_token_id=None,
        )
    ).save_pretrained(folder)


def recipe(folder: Path, **changes) -> Path:
    content = {
        "task": "text-generation",
        "output_dir": str(folder / "out"),
        "data": {"path": str(folder / "talk.jsonl"), "messages": "messages", "test": 16, "validation": 8},
        "teacher": {
            "model": str(folder / "teacher-start"),
            "max_length": 48,
            "top_k": 16,
            "bf16": False,
            "lora": {"r": 4, "target_modules": "all-linear"},
            "fine_tune": {"learning_rate": 1e-2, "num_train_epochs": 4, "per_device_train_batch_size": 8},
        },
        "student": {
            "vocab_size": None,
            "max_length": 48,
            "bf16": False,
            "config": {"embedding_size": 32, "hidden_size": 32, "dropout": 0.0},
        },
        "distill": {"num_train_epochs": 3, "per_device_train_batch_size": 8, "temperature": 1.0},
        "compare": {"resamples": 100},
        "push": {"samples": ["how are you"]},
    }
    for name, value in changes.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) else value
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(autouse=True, scope="module")
def short_replies() -> Iterator[None]:
    """Models that know no end yet write 8 tokens in place of 48 where they are compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(compare_generation.__kwdefaults__, "max_new_tokens", 8)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dialogue")
    write_conversations(folder / "talk.jsonl")
    write_teacher(folder / "teacher-start")
    return folder


@pytest.fixture(scope="module")
def report(folder):
    return run_recipe(recipe(folder))


@pytest.mark.long
def test_the_teacher_is_adapted_and_the_student_learns_its_replies(report, folder):
    bits = {name: model["quality"]["bits_per_byte"]["value"] for name, model in report.models.items()}
    assert bits["teacher"] < bits["untuned_teacher"], bits
    assert bits["student"] < bits["untuned_teacher"], bits
    assert report.ratios["quality_kept"] == pytest.approx(bits["teacher"] / bits["student"], rel=1e-3)
    gain = report.differences["gain_over_best_control"]
    assert gain["value"] == pytest.approx(bits["baseline"] - bits["student"], abs=1e-4)  # bits saved
    assert 0 < report.fidelity["agreement"] <= 1
    assert 0 < report.models["student"]["replies"]["distinct_1"] <= 1
    assert report.models["student"]["tokens_a_second"]["batch_1"] > 0
    assert any("without a reply, left out" in name for name in report.run["rows"])
    assert not (folder / "out" / "teacher" / "adapter_config.json").exists(), "adapters are merged"
    card = (folder / "out" / "student" / "README.md").read_text(encoding="utf-8")
    assert "| `lora` | {'r':" in card
    assert "the same next token on" in card
    assert "\n| how are you | " in card, "what both reply to it"


@pytest.mark.long
def test_the_student_replies_where_the_package_is_missing(report, folder):
    code = (
        "import sys; sys.modules['hf_distill'] = None\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"path = {str(folder / 'out' / 'student')!r}\n"
        "model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)\n"
        "tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)\n"
        "chat = [{'role': 'user', 'content': 'how are you'}]\n"
        "options = {'add_generation_prompt': True, 'return_tensors': 'pt', 'return_dict': True}\n"
        "read = tokenizer.apply_chat_template(chat, **options)\n"
        "ids = model.generate(**read, max_new_tokens=8)\n"
        "print(ids[0, read['input_ids'].shape[1] :].tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    student = AutoModelForCausalLM.from_pretrained(folder / "out" / "student")
    tokenizer = AutoTokenizer.from_pretrained(folder / "out" / "student")
    assert type(student).__module__.startswith("hf_distill")
    prompt = torch.tensor([as_prompt("how are you", tokenizer)])
    reply = student.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8)[0, prompt.shape[1] :]
    assert json.loads(done.stdout) == reply.tolist() and len(reply)


@pytest.mark.long
def test_a_vocabulary_of_its_own(report, folder):
    """Through the universal logit distance, from the teacher as it was trained above."""
    made = run_recipe(
        Recipe.load(
            recipe(folder, student={"vocab_size": 300}),
            [
                f"--output_dir={folder / 'own'}",
                f"--teacher.model={folder / 'out' / 'teacher'}",
                "--teacher.fine_tune=null",
                "--teacher.lora=null",
                "--distill.soft_target_loss=universal_logit_distance",
                "--distill.num_train_epochs=1",
                "--compare.more_seeds=[7]",
            ],
        )
    )
    assert made.seeds == len(made.models["student"]["quality"]["bits_per_byte"]["values"]) == 2
    assert made.fidelity == {}, "tokens of two vocabularies do not compare"
    untuned = report.models["untuned_teacher"]["quality"]["bits_per_byte"]["value"]
    assert made.models["student"]["quality"]["bits_per_byte"]["value"] < 0.9 * untuned
    rows = [len(AutoTokenizer.from_pretrained(folder / name / "student")) for name in ("out", "own")]
    of_a_row = 2 * 32  # numbers to read a token by, and as many to write it
    assert rows[1] <= 300
    fewer = report.models["student"]["parameters"] - made.models["student"]["parameters"]
    assert fewer == (rows[0] - rows[1]) * of_a_row


def test_a_teacher_whose_probabilities_are_all_kept(folder, tmp_path):
    """They are tempered in training, at as many temperatures as there are stages."""
    short = {"num_train_epochs": 1, "per_device_train_batch_size": 8}
    changes = [f"--output_dir={tmp_path / 'out'}", "--teacher.fine_tune=null", "--teacher.lora=null"]
    stages = recipe(folder, distill=[short | {"temperature": 2.0}, short | {"temperature": 1.5}])
    run_recipe(Recipe.load(stages, [*changes, "--teacher.top_k=null"]), only="cache")
    options = json.loads((tmp_path / "out" / "cache" / "provenance.json").read_text())["options"]
    assert (options["top_k"], options["temperature"]) == (None, 1.0)
    with pytest.raises(ValueError, match=r"distill\.temperature: the teacher's top 16 tokens are kept at one"):
        run_recipe(Recipe.load(stages, changes), only="cache")


def test_the_temperature_of_models_that_write_is_one_by_default(folder):
    assert Recipe.load(recipe(folder, distill=[{}, {"temperature": 2.0}])).stages == [
        {"temperature": 1.0},
        {"temperature": 2.0},
    ]


@pytest.mark.long
def test_a_shallow_transformer(report, folder):
    made = run_recipe(
        Recipe.load(
            recipe(folder, student={"kind": "transformer", "config": {"num_hidden_layers": 2}}),
            [
                f"--output_dir={folder / 'shallow'}",
                f"--teacher.model={folder / 'out' / 'teacher'}",
                "--teacher.fine_tune=null",
                "--teacher.lora=null",
                "--distill.num_train_epochs=1",
            ],
        )
    )
    assert "untuned_teacher" not in made.models
    student = AutoModelForCausalLM.from_pretrained(folder / "shallow" / "student")
    assert student.config.num_hidden_layers == 2
    assert made.ratios["smaller"] == pytest.approx(
        made.models["teacher"]["parameters"] / student.num_parameters(), 1e-4
    )
    untuned = report.models["untuned_teacher"]["quality"]["bits_per_byte"]["value"]
    assert made.models["student"]["quality"]["bits_per_byte"]["value"] < 0.9 * untuned
    assert made.fidelity["agreement"] > 0.5, "of some 300 tokens"


UNTUNED = ["--teacher.fine_tune=null", "--teacher.lora=null", "--distill.max_steps=1", "--compare.resamples=5"]
UNTUNED += ["--compare.detailed_costs=false"]


@pytest.mark.long
def test_plain_texts_need_no_chat_template(tmp_path):
    write_teacher(tmp_path / "teacher-start")
    (tmp_path / "teacher-start" / "chat_template.jinja").unlink()
    names = ["".join(np.random.default_rng(row).choice(list("abcdefgh"), 6)) for row in range(60)]
    lines = [json.dumps({"text": f"how are you {name} " + "on and on " * 6}) for name in names]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    data = {"path": str(tmp_path / "texts.jsonl"), "messages": None, "text": "text"}
    report = run_recipe(Recipe.load(recipe(tmp_path, data=data), UNTUNED))
    assert report.models["student"]["replies"]["prompts"] == 16
    assert report.fidelity["tokens"] > 0
    assert report.models["teacher"]["quality"]["bits_per_byte"]["value"] > 2, "a teacher that learnt nothing"
    assert "\n| how are you | " in (tmp_path / "out" / "student" / "README.md").read_text(encoding="utf-8")
    # What the card's usage and examples/chat.py read the student's prompt by.
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "student")
    read = tokenizer.apply_chat_template([{"role": "user", "content": "how are"}], tokenize=False)
    assert read == "<|end|>how are", "as each text began in training"


def test_what_leaves_no_room_for_a_reply_is_not_replied_to(folder, tmp_path):
    rows = [json.loads(line) for line in (folder / "talk.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["messages"][0]["content"] += " q" * (200 if number % 3 else 1)
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    changes = [f"--output_dir={tmp_path / 'out'}", f"--data.path={tmp_path / 'long.jsonl'}"]
    run = Run(Recipe.load(recipe(folder), [*changes, *UNTUNED]))
    model, tokenizer = run.models.teacher()
    replies = run.task.prompts(tokenizer)
    left_out = run.task.counts["test: first messages without room for 48 more tokens, not replied to"]
    assert left_out > 0 and len(replies) + left_out == len(run.task.splits.test)
    assert len(Writer(model, tokenizer).writes(48)(replies)) == len(replies)
    for row in rows:
        row["messages"][0]["content"] += " q" * 200
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="none leaves the model room for 48 more tokens"):
        run_recipe(Recipe.load(recipe(folder), [*changes, *UNTUNED]))


def test_what_either_tokenizer_cuts_off_is_counted_together(folder, tmp_path):
    """The student's own tokens are shorter than the teacher's at one text and longer at another."""
    own = ["--student.vocab_size=300", "--student.max_length=28", "--teacher.max_length=28"]
    changes = [f"--output_dir={tmp_path}/out", "--distill.soft_target_loss=universal_logit_distance", *own, *UNTUNED]
    run = Run(Recipe.load(recipe(folder), changes))
    rows = run.task.splits.train.filter(lambda row: len(row["messages"]) > 1)
    with_both = run.task.shared_texts(rows, "training")
    replies = [sum(map(len, part["messages"])) // 2 for part in (rows, with_both)]
    assert len(with_both) == len(rows)
    assert run.task.counts["training: replies beyond the limit of 28 tokens, cut off"] == replies[0] - replies[1] > 0
    _, counts = cut_to_fit(rows, run.task.student_tokenizer(), 28)
    assert 0 < counts["replies beyond the limit of 28 tokens, cut off"] < replies[0] - replies[1]


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["--student.vocab_size=300", "--distill.soft_target_loss=universal_logit_distance"],
        ["--student.kind=transformer", "--student.config={num_hidden_layers: 2}"],
    ],
)
def test_a_student_stops_where_its_teacher_does(folder, tmp_path, changes):
    """At the end of a turn, which is not the tokenizer's end of a text."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher-start")
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    teacher = LlamaForCausalLM.from_pretrained(folder / "teacher-start")
    teacher.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ends = tokenizer.convert_tokens_to_ids(["</s>", "<|end|>"])
    teacher.generation_config.eos_token_id = ends
    for part in (teacher, tokenizer):
        part.save_pretrained(tmp_path / "teacher")
    changes = [f"--output_dir={tmp_path / 'out'}", f"--teacher.model={tmp_path / 'teacher'}", *changes, *UNTUNED]
    run_recipe(Recipe.load(recipe(folder), changes), only="distill")
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "student")
    own = AutoTokenizer.from_pretrained(tmp_path / "out" / "student")
    assert set(student.generation_config.eos_token_id) == set(own.convert_tokens_to_ids(["</s>", "<|end|>"]))


@pytest.mark.long
@pytest.mark.parametrize("changes", [[], ["--student.kind=transformer", "--student.config={num_hidden_layers: 2}"]])
def test_a_teacher_whose_table_is_padded(folder, tmp_path, changes):
    """To a round number of rows, as many on the Hub are; here the padding is more likely than any token."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher-start")
    teacher = LlamaForCausalLM.from_pretrained(folder / "teacher-start")
    tokens = len(tokenizer)
    teacher.resize_token_embeddings(tokens + 12, mean_resizing=False)
    with torch.no_grad():
        teacher.lm_head.weight[tokens:] *= 100
    teacher.save_pretrained(tmp_path / "padded")
    tokenizer.save_pretrained(tmp_path / "padded")
    changes = [
        *changes,
        f"--output_dir={tmp_path / 'out'}",
        f"--teacher.model={tmp_path / 'padded'}",
        *UNTUNED,
    ]
    report = run_recipe(Recipe.load(recipe(folder), changes))
    assert 0 <= report.fidelity["agreement"] <= 1
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "student")
    assert student.config.vocab_size == tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--student.vocab_size=300"], "student.vocab_size: with a vocabulary of its own .* universal_logit_distance"),
        (["--compare.metrics=[sacrebleu]"], "compare.metrics: sacrebleu does not judge a text-generation"),
        (["--distill.targets=word"], "unknown key 'targets'"),
        (["--export.onnx=true"], "export.onnx: of generative students, LSTM translators"),
        (["--data.messages=talk"], "data.messages: there is no column 'talk'"),
    ],
)
def test_what_does_not_fit(folder, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run_recipe(Recipe.load(recipe(folder), [f"--output_dir={tmp_path / 'out'}", *changes]), only="cache")


def test_a_tokenizer_without_a_chat_template(folder, tmp_path):
    write_teacher(tmp_path / "teacher")
    (tmp_path / "teacher" / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=r"data.messages: the tokenizer of .* has no chat template"):
        run_recipe(
            Recipe.load(recipe(folder), [f"--output_dir={tmp_path / 'out'}", f"--teacher.model={tmp_path / 'teacher'}"])
        )
