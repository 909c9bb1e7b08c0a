"""What the app answers, and how it looks to a browser."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import httpx2
import numpy as np
import pytest
import torch
from playwright.sync_api import expect, sync_playwright
from tokenizers import normalizers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    set_seed,
)

from hf_distill.space.app import Panel, ask, summarize, timed
from hf_distill.space.build import write_space
from tests.conftest import tiny_bert
from tests.space.conftest import NAMES, finished_run, lstm, named, save, tokenizer

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def probabilities(model, *texts):
    encoded = tokenizer()(*texts, return_tensors="pt", return_token_type_ids=False)
    return dict(zip(NAMES.values(), model(**encoded).logits[0].softmax(-1).tolist(), strict=True))


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


@pytest.mark.cheapest
def test_a_slider_says_who_answers(run):
    space = write_space(run)
    path = space / "student" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cascade_threshold": 0.9, "cascade_temperature": 2.0}))
    inputs = "app.build(pathlib.Path()).fns[0].inputs"
    shown = f"import app, pathlib; print([getattr(each, 'maximum', None) and each.value for each in {inputs}])"
    # In a process of its own: gradio leaves sockets open.
    made = subprocess.run([sys.executable, "-c", shown], cwd=space, capture_output=True, text=True)
    assert made.stdout.splitlines()[-1:] == ["[None, 0.9]"], made.stderr
    settings = json.loads((space / "space.json").read_text())
    panels = [Panel(model, settings["task"], space) for model in settings["models"]]
    logits = np.log(list(probabilities(lstm().eval(), "lovely food it was").values())) / 2
    sure = float((np.exp(logits) / np.exp(logits).sum()).max())
    for threshold, answering in ((sure + 1e-3, "teacher"), (sure - 1e-3, "student")):
        *_, closing = ask(panels, "lovely food it was", threshold)
        assert f"The student is {sure:.3f} sure" in closing and f"**the {answering} answers**" in closing


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
        app.communicate(timeout=300)


@pytest.mark.served
def test_the_running_app_answers_programs(served):
    asked = httpx2.post(f"{served}/gradio_api/call/ask", json={"data": ["lovely food"]}, timeout=300)
    told = httpx2.get(f"{served}/gradio_api/call/ask/{asked.json()['event_id']}", timeout=300).text
    assert "event: complete" in told
    shown = json.loads(told.rpartition("data: ")[2])[:2]
    for label, model in zip(shown, (tiny_bert(**named()), lstm().eval()), strict=True):
        found = {row["label"]: row["confidence"] for row in label["confidences"]}
        assert found == pytest.approx(probabilities(model, "lovely food"), abs=1e-6)


@pytest.mark.served
def test_a_browser_shows_both_answers(served, tmp_path):
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser is installed: looked for {', '.join(BROWSERS)}")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1100, "height": 900})
        page.goto(served, timeout=300_000)
        page.get_by_role("button", name="lovely food").click()
        expect(page.get_by_label("Review", exact=True)).to_have_value("lovely food", timeout=300_000)
        page.get_by_role("button", name="Run both").click()
        page.get_by_text(re.compile("The student (took|is)")).wait_for(timeout=300_000)  # whichever was faster
        text = page.inner_text("body")
        page.screenshot(path=tmp_path / "space.png", full_page=True)
        chromium.close()
    for model in (tiny_bert(**named()), lstm().eval()):
        for name, probability in probabilities(model, "lovely food").items():
            assert re.search(rf"{name}\s+{100 * probability:.0f}%", text), text
    assert len(re.findall(r"\d+\.\d\d ms for 2 tokens", text)) == 2
    assert (tmp_path / "space.png").stat().st_size > 10_000
