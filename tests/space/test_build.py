"""The app of a finished distillation: what is in its folder, what it answers, and how it looks to a browser."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, SpaceCard
from playwright.sync_api import expect, sync_playwright
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    set_seed,
)

from hf_distill import LSTMStudentConfig, LSTMStudentForSequenceClassification
from hf_distill.cli import main
from hf_distill.reports.report import Report
from hf_distill.space.app import Panel, ask, summarize, timed
from hf_distill.space.build import GRADIO, PYTHON, SENTENCEPIECE, push_space, write_space
from tests.conftest import tiny_bert
from tests.hub_server import Hub

ROOT = Path(__file__).parents[2]
WORDS = "fine great lovely awful bad dull food it place room service staff was".split()
NAMES = {0: "bad", 1: "good", 2: "neither"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUALITY = {"accuracy": {"value": 0.91, "low": 0.9, "high": 0.92}}


def tokenizer():
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", eos_token="[PAD]", model_max_length=16
    )


def save(model, folder):
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model.eval()


def named(**config):
    return {"id2label": NAMES, "label2id": {name: number for number, name in NAMES.items()}, **config}


def lstm():
    set_seed(1)
    sizes = {"vocab_size": 20, "embedding_size": 4, "hidden_size": 6, "initializer_range": 1.0}
    config = LSTMStudentConfig(**sizes, pad_token_id=0, **named())
    return LSTMStudentForSequenceClassification(config)


def probabilities(model, *texts):
    encoded = tokenizer()(*texts, return_tensors="pt", return_token_type_ids=False)
    return dict(zip(NAMES.values(), model(**encoded).logits[0].softmax(-1).tolist(), strict=True))


def measured(parameters, milliseconds):
    return {
        "quality": QUALITY,
        "parameters": parameters,
        "bytes": 4 * parameters,
        "latency_ms": {"batch_1": {"p50": milliseconds, "p95": milliseconds}},
        "throughput": {"batch_32": 1000.0},
        "tokens_per_text": 5.0,
    }


def finished_run(tmp_path):
    """The folder of a finished run: a BERT, an LSTM, and what else a run leaves."""
    folder = tmp_path / "out"
    save(tiny_bert(**named()), folder / "teacher")
    save(lstm(), folder / "student")
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump(
            {
                "task": "text-classification",
                "output_dir": str(folder),
                "data": {"path": str(tmp_path / "reviews.csv"), "text": "review"},
                "teacher": {"model": str(tmp_path / "base"), "fine_tune": {}},
            }
        )
    )
    report = Report(
        task="text-classification",
        metrics=["accuracy"],
        examples=1234,
        models={"teacher": measured(9876, 8.0), "student": measured(543, 0.5)},
        ratios={"faster": 16.0},
    )
    report.save(folder)
    report.save(folder / "student")
    card = "---\nlicense: mit\nbase_model: user/base\nmodel-index:\n- name: reviews\n  results: []\n---\n# reviews\n"
    (folder / "student" / "README.md").write_text(card)
    for name in ("student/training_args.bin", "student/_kd_bridge.safetensors", "student/onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path)


def test_a_run_becomes_an_app_with_all_it_needs(run, tmp_path):
    space = write_space(run, examples=["lovely food"])
    assert space == run / "space"
    files = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    loadable = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    code = {"configuration_lstm.py", "modeling_lstm.py"}
    assert files == {
        "README.md",
        "app.py",
        "requirements.txt",
        "space.json",
        *(f"teacher/{name}" for name in loadable),
        *(f"student/{name}" for name in loadable | code),
    }
    for path in ("README.md", "app.py", "requirements.txt", "space.json"):
        assert str(tmp_path) not in (space / path).read_text()
    assert "hf_distill" not in re.sub(r'""".*?"""', "", (space / "app.py").read_text(), flags=re.S)
    card = SpaceCard.load(space / "README.md")
    assert (card.data.sdk, card.data.sdk_version, card.data.app_file) == ("gradio", GRADIO, "app.py")
    assert card.data.python_version == PYTHON
    assert (card.data.title, card.data.license, card.data.models) == ("reviews", "mit", ["user/base"])
    for figure in ("543", "9,876", "1,234", "0.9100 [0.9000, 0.9200]", "16 times"):
        assert figure in card.text
    assert write_space(run / "student") == space  # a run's student knows its teacher
    assert (space / "teacher").is_dir()


def test_the_summary_of_several_seeds_and_of_a_teacher_of_other_classes(run):
    report = Report.load(run)
    report.models["teacher"]["quality"].clear()
    replace(report, seeds=3).save(run / "student")
    summary = json.loads((write_space(run) / "space.json").read_text())["summary"]
    assert "accuracy 0.9100 [0.9000, 0.9200] (95 % intervals, means of 3 seeds), 16 times as fast." in summary
    assert "against" not in summary


def test_versions_are_those_that_are_tested(run):
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert set((write_space(run) / "requirements.txt").read_text().split()) <= set(pins)


def test_a_student_alone_or_with_a_teacher_from_the_hub(run, tmp_path):
    alone = tmp_path / "mine"
    shutil.copytree(run / "student", alone)
    settings = json.loads((write_space(alone) / "space.json").read_text())
    assert [model["name"] for model in settings["models"]] == ["Student"]
    space = write_space(alone, tmp_path / "app", teacher="user/teacher")
    settings = json.loads((space / "space.json").read_text())
    assert settings["models"][0] == {"name": "Teacher", "path": "user/teacher", "trusted": False}
    assert not (space / "teacher").exists()
    assert SpaceCard.load(space / "README.md").data.models == ["user/teacher"]


def test_a_teacher_that_was_used_as_it_is_is_found(run):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["teacher"] = {"model": str(run / "given")}
    (run / "teacher").rename(run / "given")
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert (write_space(run) / "teacher" / "model.safetensors").exists()
    shutil.rmtree(run / "given")
    with pytest.raises(ValueError, match=r"There is no teacher .*given"):
        write_space(run)


def test_what_is_no_student_and_what_would_be_lost_is_refused(run, tmp_path):
    (run / "space").mkdir()
    (run / "space" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        write_space(run)
    assert (run / "space" / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="is not a finished model"):
        write_space(tmp_path)
    with pytest.raises(ValueError, match=r"space\.json is missing"):
        push_space(tmp_path, "me/app")
    tags = tmp_path / "tags"
    save(BertForTokenClassification(BertConfig(vocab_size=20, hidden_size=8, num_attention_heads=2)), tags)
    with pytest.raises(ValueError, match=r"student's task is text-classification .* token-classification"):
        write_space(run, tmp_path / "app", teacher=tags)
    (run / "student" / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(ValueError, match="holds a BertModel"):
        write_space(run, tmp_path / "app")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("report.json", '{"accuracy": 1}', "report.json: expected a report that hf_distill wrote"),
        ("report.json", "[1, 2]", "report.json: expected a report that hf_distill wrote"),
        ("README.md", "---\ntags: [a\n---\n", "README.md: expected YAML"),
    ],
)
def test_a_foreign_report_and_a_broken_card_are_told(run, capsys, name, content, told):
    (run / "student" / name).write_text(content)
    assert main(["space", str(run)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert not [path for path in run.iterdir() if "space" in path.name]


def test_the_command_line_writes_the_app(run, tmp_path, capsys):
    assert main(["space", str(run), "--output", str(tmp_path / "app"), "--example", "lovely food"]) == 0
    assert "app.py" in capsys.readouterr().out
    assert json.loads((tmp_path / "app" / "space.json").read_text())["examples"] == [["lovely food"]]
    assert main(["space", str(tmp_path)]) == 1
    assert "is not a finished model" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["space", str(run), "--exampel", "lovely food"])


def test_both_models_answer_with_their_probabilities(run):
    space = write_space(run)
    settings = json.loads((space / "space.json").read_text())
    panels = [Panel(model, settings["task"], space) for model in settings["models"]]
    teacher, student, *facts, closing = ask(panels, "lovely food it was")
    for shown, model in ((teacher, tiny_bert(**named())), (student, lstm().eval())):
        assert shown == pytest.approx(probabilities(model, "lovely food it was"), abs=1e-6)
    assert all(re.fullmatch(r"\*\*\d+\.\d\d ms\*\* for 4 tokens, [\d,]+ parameters", fact) for fact in facts)
    assert ("Both predict" in closing) == (max(teacher, key=teacher.get) == max(student, key=student.get))
    with pytest.raises(Exception, match="Type a text first"):
        ask(panels, "  ")


def panel(model, task, folder, reads=None):
    save(model, folder)
    (reads or tokenizer()).save_pretrained(folder)
    return Panel({"name": "Student", "path": folder.name, "trusted": True}, task, folder.parent)


def shown_output(made, *texts):
    encoded = made.tokenize(*texts)
    return made.shown(encoded, made.run(encoded), *texts)


def test_multi_label_regression_and_pairs(tmp_path):
    model = tiny_bert(**named(problem_type="multi_label_classification"))
    shown = shown_output(panel(model, "text-classification", tmp_path / "multi"), "lovely food")
    logits = model(**tokenizer()("lovely food", return_tensors="pt", return_token_type_ids=False)).logits[0]
    assert list(shown.values()) == pytest.approx(logits.sigmoid().tolist(), abs=1e-6)
    model = tiny_bert(num_labels=1)
    shown = shown_output(panel(model, "text-classification", tmp_path / "value"), "lovely", "food")
    logits = model(**tokenizer()("lovely", "food", return_tensors="pt")).logits[0]
    assert shown == f"{logits.item():.3f}"


def test_tags_are_those_of_each_words_first_piece(tmp_path):
    set_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_attention_heads=2, num_hidden_layers=1, initializer_range=0.5, **named()
    )
    model = BertForTokenClassification(config)
    rows = shown_output(panel(model, "token-classification", tmp_path / "tags"), "lovely food was bad")
    logits = model(**tokenizer()("lovely food was bad", return_tensors="pt", return_token_type_ids=False)).logits[0]
    best = logits.softmax(-1).max(-1)
    tags = [NAMES[number] for number in best.indices.tolist()]
    assert rows == [
        [word, tag, f"{probability:.3f}"]
        for word, tag, probability in zip("lovely food was bad".split(), tags, best.values.tolist(), strict=True)
    ]


def test_words_are_shown_as_they_stand_in_the_text(tmp_path):
    reads = tokenizer()
    reads.backend_tokenizer.normalizer = normalizers.Lowercase()
    config = BertConfig(vocab_size=20, hidden_size=8, num_attention_heads=2, num_hidden_layers=1, **named())
    rows = shown_output(
        panel(BertForTokenClassification(config), "token-classification", tmp_path / "tags", reads), "Lovely soup"
    )
    assert [row[0] for row in rows] == ["Lovely", "soup"]


def test_a_model_that_chats_reads_what_a_user_says(tmp_path):
    reads = tokenizer()
    reads.chat_template = (
        "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}"
        "{% if add_generation_prompt %}staff{% endif %}"
    )
    config = GPT2Config(vocab_size=20, n_positions=80, n_embd=8, n_layer=1, n_head=2, pad_token_id=0, eos_token_id=0)
    made = panel(GPT2LMHeadModel(config), "text-generation", tmp_path / "lm", reads)
    assert made.tokenizer.decode(made.tokenize("lovely food")["input_ids"][0]) == "[UNK] lovely food staff"
    assert isinstance(shown_output(made, "lovely food"), str)


def test_tokenizers_of_sentencepiece_get_their_package(run):
    assert "sentencepiece" not in (write_space(run) / "requirements.txt").read_text()
    (run / "teacher" / "source.spm").write_bytes(b"x")
    needed = (write_space(run) / "requirements.txt").read_text().split()
    assert f"sentencepiece=={SENTENCEPIECE}" in needed
    assert set(needed) <= set((ROOT / "constraints.txt").read_text().splitlines())


def test_what_models_write_is_shown(tmp_path):
    set_seed(0)
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 0}
    config = GPT2Config(vocab_size=20, n_positions=80, n_embd=8, n_layer=1, n_head=2, **tokens)
    made = panel(GPT2LMHeadModel(config), "text-generation", tmp_path / "lm")
    encoded = made.tokenize("lovely food")
    written = made.model.generate(encoded["input_ids"], max_new_tokens=64, do_sample=False)[0, 2:]
    assert made.shown(encoded, made.run(encoded)) == made.tokenizer.decode(written, skip_special_tokens=True)
    config = BartConfig(
        vocab_size=20,
        d_model=8,
        max_position_embeddings=80,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        decoder_start_token_id=0,
        **tokens,
    )
    made = panel(BartForConditionalGeneration(config), "translation", tmp_path / "mt")
    encoded = made.tokenize("lovely food")
    written = made.model.generate(encoded["input_ids"], max_new_tokens=64, do_sample=False)[0]
    assert made.shown(encoded, made.run(encoded)) == made.tokenizer.decode(written, skip_special_tokens=True)


def test_models_are_timed_in_turns():
    order = []

    class Named:
        def __init__(self, name):
            self.name = name

        def run(self, inputs):
            order.append(self.name)
            return torch.zeros(2)

    answers, milliseconds = timed([Named("teacher"), Named("student")], [None, None])
    assert order == ["teacher", "student"] * (len(order) // 2)
    assert len(order) > 2
    assert len(answers) == len(milliseconds) == 2


def test_the_summary_names_the_faster_model():
    answers = [{"good": 0.9, "bad": 0.1}, {"good": 0.2, "bad": 0.8}]
    assert summarize(answers, [8.0, 0.5]) == "They differ: **good** and **bad**. The student is 16.0 times as fast."
    assert summarize(["a text", "another"], [1.0, 2.0]) == "The student took 2.0 times as long."


@pytest.mark.slow
def test_the_app_is_published_in_one_commit(run, tmp_path):
    with Hub() as hub:
        words = ["space", str(run), "--push", "me/app"]
        # A process of its own: a client reads its environment when it imports huggingface_hub.
        called = [sys.executable, "-m", "hf_distill", *words]
        environment = {**os.environ, **hub.environment(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(called, capture_output=True, text=True, env=environment, timeout=200)
        assert done.returncode == 0, done.stderr
        (commit,) = hub.commits("me/app", "space")
        assert done.stdout.splitlines()[-1].endswith(f"/spaces/me/app/commit/{commit.oid}")
        assert hub.repositories["space", "me/app"].private
        assert hub.repositories["space", "me/app"].sdk == "gradio"
        space = run / "space"
        written = {path.relative_to(space).as_posix(): path for path in space.rglob("*") if path.is_file()}
        assert {name: path.read_bytes() for name, path in written.items()} == hub.files("me/app", "space")
        assert ModelCard(hub.files("me/app", "space")["README.md"].decode()).data.sdk == "gradio"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of the app, run as its README says, from somewhere else."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    space = write_space(finished_run(tmp_path_factory.mktemp("run")), examples=["lovely food"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "OMP_NUM_THREADS": "1"}
    app = subprocess.Popen(
        [sys.executable, "-u", str(space / "app.py")],
        cwd=elsewhere,
        env={**os.environ, **quiet},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = []
        for line in app.stdout:
            lines.append(line)
            if "Running on local URL" in line:
                break
        else:
            pytest.fail("".join(lines))
        yield f"http://127.0.0.1:{port}"
    finally:
        app.terminate()
        app.communicate(timeout=30)


@pytest.mark.slow
def test_the_running_app_answers_programs(served):
    asked = httpx2.post(f"{served}/gradio_api/call/ask", json={"data": ["lovely food"]}, timeout=60)
    told = httpx2.get(f"{served}/gradio_api/call/ask/{asked.json()['event_id']}", timeout=60).text
    assert "event: complete" in told
    shown = json.loads(told.rpartition("data: ")[2])[:2]
    for label, model in zip(shown, (tiny_bert(**named()), lstm().eval()), strict=True):
        found = {row["label"]: row["confidence"] for row in label["confidences"]}
        assert found == pytest.approx(probabilities(model, "lovely food"), abs=1e-6)


@pytest.mark.slow
def test_a_browser_shows_both_answers(served, tmp_path):
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser is installed: looked for {', '.join(BROWSERS)}")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1100, "height": 900})
        page.goto(served, timeout=60_000)
        page.get_by_role("button", name="lovely food").click()
        expect(page.get_by_label("Review", exact=True)).to_have_value("lovely food", timeout=60_000)
        page.get_by_role("button", name="Run both").click()
        page.get_by_text("The student took").wait_for(timeout=60_000)
        text = page.inner_text("body")
        page.screenshot(path=tmp_path / "space.png", full_page=True)
        chromium.close()
    for model in (tiny_bert(**named()), lstm().eval()):
        for name, probability in probabilities(model, "lovely food").items():
            assert re.search(rf"{name}\s+{100 * probability:.0f}%", text), text
    assert len(re.findall(r"\d+\.\d\d ms for 2 tokens", text)) == 2
    assert (tmp_path / "space.png").stat().st_size > 10_000
