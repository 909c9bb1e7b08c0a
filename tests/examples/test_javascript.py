"""Exported students in node and in a browser: the answers are those of hf_distill.runtime."""

import http.server
import json
import re
import shutil
import subprocess
import threading
from functools import partial
from pathlib import Path

import pytest

from hf_distill.runtime import Student
from tests.test_runtime import NAMES, PAIRS, STUDENTS, TEXTS, bert, changed, exported, lstm, wordpiece

FOLDER = Path(__file__).parents[2] / "examples" / "javascript"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = ("@huggingface/transformers", "onnxruntime-node", "onnxruntime-web")


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    missing = [name for name in PACKAGES if not (FOLDER / "node_modules" / name).is_dir()]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: run `npm run setup` in examples/javascript")
    return found


def classify(node, *words):
    command = [node, FOLDER / "classify.mjs", *words]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)


def answers(node, tmp_path, folder, texts, *words):
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    done = classify(node, folder, "--file", tmp_path / "texts.json", *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_versions_are_exact_and_no_lockfile_or_registry_is_named():
    package = json.loads((FOLDER / "package.json").read_text())
    assert {*package["dependencies"]} == {*PACKAGES}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+(-dev\.\d+-\w+)?", version) for version in package["dependencies"].values())
    assert "ONNXRUNTIME_NODE_INSTALL=skip" in package["scripts"]["setup"]
    tracked = [path for path in FOLDER.iterdir() if path.name != "node_modules"]
    assert not [path for path in tracked if "lock" in path.name]
    assert not [path for path in tracked if re.search(r"https?://(?!localhost)", path.read_text())]


READ = (
    "lstm",
    "lstm, padded on the left",
    "lstm, no special tokens",
    "bert",
    "bert, tokenizer without segments",
    "roberta",
)


@pytest.mark.cheapest
@pytest.mark.parametrize("name", [*READ, "bert, special tokens of texts split"])
def test_node_answers_as_python_does(name, node, tmp_path):
    make, tokenizer = STUDENTS[name]
    tokenizer = tokenizer()
    exported(tmp_path, make, tokenizer, int8=name == "lstm", id2label=NAMES)
    if tokenizer.split_special_tokens:
        done = classify(node, tmp_path, "a text")
        assert done.returncode == 1 and "split_special_tokens is true, which JavaScript cannot do" in done.stderr
        return
    texts = [*TEXTS, *PAIRS]
    for int8 in (False, True)[: 1 + (name == "lstm")]:
        wanted = Student(tmp_path, int8)(texts, batch_size=1)
        got = answers(node, tmp_path, tmp_path, texts, *["--int8"] * int8)
        for text, one, other in zip(texts, got, wanted, strict=True):
            assert one["label"] == other["label"], text
            assert one["score"] == pytest.approx(other["score"], abs=2e-2 if int8 else 1e-5), text


@pytest.mark.cheapest
@pytest.mark.parametrize(
    "head",
    [
        {"id2label": NAMES, "problem_type": "multi_label_classification"},
        {"num_labels": 1, "problem_type": "regression"},
        {"num_labels": 1},
        {},
    ],
)
def test_every_head(head, node, tmp_path):
    exported(tmp_path, lstm, wordpiece(), **head)
    if head.get("problem_type") != "regression":
        changed(tmp_path / "config.json", cascade_threshold=0.6, cascade_temperature=2.5)
    for got, wanted in zip(answers(node, tmp_path, tmp_path, TEXTS), Student(tmp_path)(TEXTS), strict=True):
        assert got == wanted | {"score": pytest.approx(wanted["score"], abs=1e-5)}


@pytest.mark.cheapest
def test_what_does_not_fit_is_told_in_one_line(node, tmp_path):
    exported(tmp_path / "tags", bert, wordpiece(), tags=True, id2label=NAMES)
    exported(tmp_path / "fits", lstm, wordpiece(), id2label=NAMES)
    (tmp_path / "none").mkdir()
    for words, told in (
        ([], "Expected: node classify.mjs FOLDER"),
        ([tmp_path / "fits"], "Expected at least one text"),
        ([tmp_path / "none", "a"], "The folder has no onnx/model.onnx. Write it with hf_distill.export_onnx"),
        ([tmp_path / "fits", "a", "--int8"], "The folder has no onnx/model_quantized.onnx"),
        ([tmp_path / "tags", "a"], "This student tags words"),
    ):
        done = classify(node, *words)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("classify.mjs: ") and told in line
    assert answers(node, tmp_path, tmp_path / "fits", [["The food", "was lovely"]]) == [
        json.loads(classify(node, tmp_path / "fits", "The food", "--pair", "was lovely").stdout)
    ]
    (tmp_path / "texts.json").write_text("[3]")
    done = classify(node, tmp_path / "fits", "--file", tmp_path / "texts.json")
    assert "text: expected a string, got 3" in done.stderr


class Quiet(http.server.SimpleHTTPRequestHandler):
    def translate_path(self, path):
        """Files of the example, and under /students/ those of the test."""
        _, separator, rest = path.partition("/students/")
        return str(self.server.students / rest) if separator else super().translate_path(path)

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    handler = partial(Quiet, directory=str(FOLDER))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.students = tmp_path
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.served
def test_the_page_answers_in_a_browser(node, served, tmp_path):
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser is installed: looked for {', '.join(BROWSERS)}")
    from playwright.sync_api import expect, sync_playwright

    exported(tmp_path / "one", lstm, wordpiece(), int8=True, id2label=NAMES)
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        for query, int8 in (("", False), ("&int8", True)):
            page.goto(f"{served}/index.html?student=students/one{query}")
            expect(page.get_by_role("status")).to_have_text("The student of students/one is ready.", timeout=120_000)
            for text, pair in (("The food was lovely", ""), *PAIRS):
                page.get_by_label("Text", exact=True).fill(text)
                page.get_by_label("Second text").fill(pair)
                page.evaluate("document.querySelector('#answers').replaceChildren()")
                page.get_by_role("button", name="Classify").click()
                expect(page.locator("#answers div")).to_have_count(len(NAMES), timeout=60_000)
                shown = [line.split() for line in page.locator("#answers div").all_inner_texts()]
                (wanted,) = Student(tmp_path / "one", int8)([(text, pair)], top_k=None)
                assert [label for label, _ in shown] == [answer["label"] for answer in wanted]
                scores = [answer["score"] for answer in wanted]
                assert [float(score) for _, score in shown] == pytest.approx(scores, abs=2e-2 if int8 else 1e-4)
        page.goto(f"{served}/index.html?student=students/none")
        missing = "students/none: The folder has no onnx/model.onnx. Write it with"
        expect(page.get_by_role("status")).to_contain_text(missing, timeout=120_000)
        chromium.close()
    assert all(url.startswith((served, "blob:", "data:")) for url in asked), "nothing comes from elsewhere"
