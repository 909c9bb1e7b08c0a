"""What users install: a wheel and an sdist with all files, an editable install that editors can follow."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.space.conftest import finished_run

ROOT = Path(__file__).parents[1]
DATA = {
    "hf_distill/py.typed",
    "hf_distill/reports/model_card_template.md",
    "hf_distill/space/app.py",
    "hf_distill/.agents/skills/hf-distill/SKILL.md",
}
BUILT = (
    "setup.cfg",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "MANIFEST.in",
    "Makefile",
    "hf_distill",
    "tests",
    "docs",
)
CARD = """
import sys
from importlib.resources import files
import hf_distill
from hf_distill.cli import main
from hf_distill.reports import Report
from hf_distill.reports.card import model_card

report, run, space = sys.argv[1:]
folder = f"{run}/student"
card = model_card(Report.load(report), folder, student_name="a student", teacher="user/teacher")
assert "# a student" in card.text and "user/teacher" in card.text
assert files("hf_distill").joinpath("py.typed").is_file()
assert main(["space", run, "--output", space]) == 0
print(hf_distill.__file__)
"""


def call(*words: object, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of what is built, since building leaves files behind."""
    copy = tmp_path_factory.mktemp("tree")
    for name in BUILT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    return copy


def environment(folder: Path) -> Path:
    """The Python of a new environment that finds this one's packages after its own, and no editable install."""
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=ROOT)
    site = next(folder.glob("lib*/python*/site-packages"))
    (site / "further.pth").write_text(sysconfig.get_paths()["purelib"])
    return folder / "bin" / "python"


def install(python: Path, *what: object, cwd: Path) -> None:
    words = ("--python", python, "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    call(sys.executable, "-m", "pip", *words, *what, cwd=cwd)


@pytest.fixture(scope="module")
def built(tree) -> dict[str, Path]:
    """The wheel, which is built from the sdist, as pip does where there is no wheel."""
    backend = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
    call(sys.executable, "-c", backend, "build_sdist", tree / "dist", cwd=tree)
    (sdist,) = (tree / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tree / "unpacked", filter="data")
    (unpacked,) = (tree / "unpacked").iterdir()
    call(sys.executable, "-c", backend, "build_wheel", tree / "dist", cwd=unpacked)
    (wheel,) = (tree / "dist").glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


@pytest.mark.long
def test_every_file_of_the_package_is_in_the_wheel_and_the_sdist(built):
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hf_distill").rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    assert files >= DATA
    with zipfile.ZipFile(built["wheel"]) as wheel:
        assert {name for name in wheel.namelist() if name.startswith("hf_distill/")} == files
    with tarfile.open(built["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert names >= files | tests | {"LICENSE", "README.md", "setup.cfg", "pyproject.toml", "Makefile"}


def test_one_version_everywhere():
    versions = {
        re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.M)[1]
        for name, pattern in (
            ("setup.cfg", r"^version = (.*)$"),
            ("CITATION.cff", r"^version: (.*)$"),
            ("hf_distill/__init__.py", r'^__version__ = "(.*)"$'),
        )
    }
    assert len(versions) == 1


def test_workflows_and_templates_are_yaml_and_call_targets_that_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for path in sorted((ROOT / ".github").rglob("*.yml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert content, path
        for job in content.get("jobs", {}).values():
            for step in job["steps"]:
                for target in re.findall(r"^make ([\w-]+)", step.get("run", ""), re.M):
                    assert target in targets, target


def test_the_pages_of_llms_txt_exist():
    text = (ROOT / "llms.txt").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert text.startswith("# hf_distill\n\n> ") and len(links) > 15
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.long
def test_the_wheel_writes_cards_and_apps(built, tmp_path):
    python = environment(tmp_path / "env")
    install(python, built["wheel"], cwd=tmp_path)
    command = python.with_name("hf-distill")
    assert "run a recipe" in call(command, "--help", cwd=tmp_path)
    run = finished_run(tmp_path)
    report = ROOT / "model_cards" / "tweet-sentiment-lstm"
    assert str(tmp_path / "env") in call(python, "-c", CARD, report, run, tmp_path / "space", cwd=tmp_path)
    assert (tmp_path / "space" / "app.py").read_bytes() == (ROOT / "hf_distill" / "space" / "app.py").read_bytes()


@pytest.mark.long
def test_an_editable_install_names_a_folder(tree, tmp_path):
    """Type checkers and editors follow a path; they cannot follow a finder that has to be imported."""
    python = environment(tmp_path / "env")
    install(python, "--editable", tree, cwd=tmp_path)
    (link,) = (tmp_path / "env").rglob("__editable__*")
    assert link.suffix == ".pth" and Path(link.read_text().strip()) == tree
    assert call(python, "-c", "import hf_distill; print(hf_distill.__file__)", cwd=tmp_path).startswith(str(tree))
