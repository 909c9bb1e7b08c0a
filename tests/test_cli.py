"""The command line: what it answers at once, and what it refuses."""

import subprocess
import sys

import pytest

from hf_distill import __version__
from hf_distill.cli import main

# Reads its own arguments as the command line does, and prints which packages that imported.
QUICK = """
import sys
from hf_distill.cli import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    print(done.code, sorted({"torch", "transformers", "datasets", "evaluate", "yaml"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["run", "--help"], ["push", "--help"], []])
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
