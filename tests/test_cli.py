"""The command line: what it answers at once, and what it refuses."""

import subprocess
import sys

import pytest

from hf_distill import __version__
from hf_distill.cli import _parted, main

# Reads its own arguments as the command line does, and prints which packages that imported.
QUICK = """
import sys
from hf_distill.cli import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    print(done.code, sorted({"torch", "transformers", "datasets", "evaluate", "yaml"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["init", "--help"], ["run", "--help"], []])
def test_help_is_there_at_once(words):
    done = subprocess.run([sys.executable, "-c", QUICK, *words], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"{0 if words else 2} []", done.stderr


def test_the_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"hf-distill {__version__}\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train"], "invalid choice: 'train' (choose from"),
        (["push"], "the following arguments are required: folder"),
        (["push", "folder", "--pubic"], "unrecognized arguments: --pubic"),
    ],
)
def test_what_cannot_be_read(words, told, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert told in capsys.readouterr().err


def test_what_the_user_can_mend_is_one_line(tmp_path, capsys):
    assert main(["run", str(tmp_path / "recipe.yaml")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hf-distill: ") and "recipe.yaml" in line


@pytest.mark.parametrize(
    ("words", "own", "overrides"),
    [
        (["run", "r.yaml", "--seed", "4"], ["run", "r.yaml"], ["--seed", "4"]),
        (["run", "--seed", "4", "r.yaml"], ["run", "r.yaml"], ["--seed", "4"]),
        (["run", "--data.test", "-1", "--dry-run", "r.yaml"], ["run", "--dry-run", "r.yaml"], ["--data.test", "-1"]),
        (["run", "--only", "cache", "--a.b=1", "r.yaml"], ["run", "--only", "cache", "r.yaml"], ["--a.b=1"]),
        (["run", "--only=cache", "--verify", "r.yaml"], ["run", "--only=cache", "--verify", "r.yaml"], []),
        (["run", "r.yaml", "--seed"], ["run", "r.yaml"], ["--seed"]),
        (["push", "folder", "--a.b", "1"], ["push", "folder", "--a.b", "1"], []),
        ([], [], []),
    ],
)
def test_any_order_of_options(words, own, overrides):
    assert _parted(words) == (own, overrides)


def test_a_key_without_a_value_is_told(tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("seed: 1")
    assert main(["run", str(tmp_path / "r.yaml"), "--seed"]) == 1
    assert "--seed needs a value" in capsys.readouterr().err


def test_ctrl_c_before_a_run_begins(monkeypatch, tmp_path, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_distill.recipes.recipe.Recipe.load", interrupted)
    assert main(["run", str(tmp_path / "r.yaml")]) == 130
    assert capsys.readouterr().err == "\nhf-distill: Interrupted.\n"
