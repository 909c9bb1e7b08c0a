"""Imports point down only: whoever reads a module need not know its callers."""

import ast
from pathlib import Path

import hf_distill

PACKAGE = Path(hf_distill.__file__).parent
LAYERS = (
    (
        "losses",
        "inner_states",
        "label_map",
        "metrics",
        "students",
        "columns",
        "sources",
        "replacement",
        "space_app",
        "privacy",
    ),
    ("hub", "additive", "arguments", "matching", "tasks", "cached_columns", "controls", "augment"),
    ("bootstrap", "conversations", "data", "publishing", "tokenising", "sampling", "teacher"),
    ("answers", "bridge", "labelled_data", "writing_data", "measure", "plot", "provenance", "terms"),
    ("cache", "rivals", "trainer", "export", "text_teacher", "verdicts", "flops"),
    ("breakdown", "caveats", "onnx_model", "speed", "targets", "training"),
    ("timings", "seeds"),
    ("quality", "writing_speed"),
    ("report",),
    ("card_tables", "writing_report"),
    ("card",),
    ("recipe",),
    ("steps",),
    ("labelling_run", "writing_rows"),
    ("writing_run",),
    ("run", "space"),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports when it runs; imports for type checkers alone are left out."""
    tree = ast.parse(path.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in typing_only or not isinstance(node, ast.ImportFrom) or node.level or not node.module:
            continue
        if node.module == "hf_distill":
            names |= {alias.name for alias in node.names}
        elif node.module.startswith("hf_distill."):
            names.add(node.module.split(".")[1])
    return names


def test_imports_point_down():
    modules = [path for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    assert {path.stem for path in modules} | {"students"} == set(LEVEL), "a new module needs its place in LAYERS"
    for path in modules:
        for name in imported(path):
            assert LEVEL[name] < LEVEL[path.stem], f"{path.stem} imports {name}, which is not below it"


def test_students_stand_alone():
    """Their code is uploaded with them: nothing of the rest of the package, and no folders inside."""
    for path in (PACKAGE / "students").glob("*.py"):
        assert imported(path) <= {"students"}, path.name
    for name in ("configuration_lstm", "modeling_lstm"):
        tree = ast.parse((PACKAGE / "students" / f"{name}.py").read_text())
        relative = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
        assert all(module == "configuration_lstm" for module in relative)


def test_the_trainer_distils_any_model():
    assert "students" not in imported(PACKAGE / "trainer.py")


def test_public_names_are_there():
    for name in hf_distill.__all__:
        assert hasattr(hf_distill, name), name


def test_nothing_is_pinned_twice():
    pins = [
        line.split("==")[0].lower()
        for line in (Path(__file__).parents[1] / "constraints.txt").read_text().splitlines()
        if "==" in line
    ]
    assert sorted(pins) == sorted(set(pins))
