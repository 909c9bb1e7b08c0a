"""Imports point down, from folder to folder, and never in a circle."""

import ast
import configparser
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import hf_distill
from tests.conftest import PARTS

PACKAGE = Path(hf_distill.__file__).parent
ROOT = PACKAGE.parent
# A folder imports those before it, and itself. The files of the top level are below all folders but `cli`.
FOLDERS = (
    "",
    *("matching", "students"),
    *("data", "teachers", "export", "hub"),
    *("soft_targets", "training", "evaluation"),
    *("reports", "tasks", "recipes", "space", "cli"),
)
# Three lines each: names that the cards of published caches import.
ALIASES = ("provenance", "hub.redaction")
# Modules without a test file of their name, and the file that tests them by way of what is built on them.
TESTED_BY = {
    "data.assistant_tokens": "data/test_language_modeling.py",
    "data.cells": "data/test_files.py",
    "data.class_names": "data/test_labels.py",
    "data.config": "recipes/test_recipe.py",
    "data.delimited": "data/test_files.py",
    "data.labelled": "data/test_splits.py",
    "data.labels": "data/test_splits.py",
    "data.no_labels": "recipes/test_run_prompted.py",
    "data.near_duplicates": "data/test_splits.py",
    "data.scripts": "data/test_near_duplicates.py",
    "evaluation.answering": "evaluation/test_cascade.py",
    "evaluation.quality": "reports/test_classification.py",
    "evaluation.seeds": "reports/test_classification.py",
    "hub.cache": "hub/test_server.py",
    "loss_checks": "test_losses_properties.py",
    "matching.tensors": "matching/test_base.py",
    "recipes.cache_folder": "recipes/test_faults.py",
    "recipes.card": "recipes/test_run.py",
    "recipes.inputs": "recipes/test_run.py",
    "recipes.overrides": "recipes/test_recipe.py",
    "recipes.steps": "recipes/test_run.py",
    "recipes.training": "recipes/test_run.py",
    "reports.deferral": "recipes/test_run_cascade.py",
    "reports.ladder": "recipes/test_ladder.py",
    "reports.comparison": "reports/test_classification.py",
    "reports.card_tables": "reports/test_card.py",
    "reports.report": "reports/test_card.py",
    "reports.texts": "reports/test_generation.py",
    "reports.translation": "reports/test_generation.py",
    "reports.writer": "reports/test_generation.py",
    "soft_targets.asked": "soft_targets/test_prompted.py",
    "soft_targets.calibration": "soft_targets/test_cross_fit.py",
    "soft_targets.checks": "soft_targets/test_cache.py",
    "soft_targets.inference": "soft_targets/test_cache.py",
    "soft_targets.layout": "soft_targets/test_cache.py",
    "soft_targets.provenance": "soft_targets/test_cache.py",
    "soft_targets.shards": "soft_targets/test_cache.py",
    "teachers.class_requests": "teachers/test_prompted.py",
    "teachers.padding": "teachers/test_ensemble.py",
    "teachers.without_adapter": "teachers/test_live.py",
    "training.arguments": "training/test_trainer.py",
    "training.objective": "training/test_trainer.py",
    "training.seq2seq": "training/test_evaluating.py",
    "training.totals": "training/test_resuming.py",
    # A file a task: each is run whole, from its recipe to its card.
    **{
        f"tasks.{name}": "recipes/test_run.py"
        for name in ("base", "labelling", "models", "new_texts", "settings", "teacher_logits")
    },
    "tasks.cascading": "recipes/test_run_cascade.py",
    "tasks.rungs": "recipes/test_ladder.py",
    "tasks.generation": "recipes/test_run_translation.py",
    **{
        f"tasks.{name}": "recipes/test_run_prompted.py"
        for name in ("prompt_checks", "prompt_settings", "prompted_classification", "prompted_teacher")
    },
    "tasks.text_classification": "recipes/test_run_problems.py",
    "tasks.text_generation": "recipes/test_run_dialogue.py",
    "tasks.token_classification": "recipes/test_run_tagging.py",
    "tasks.translation": "recipes/test_run_translation.py",
}
UPLOADED = {kind: (f"configuration_{kind}", f"modeling_{kind}") for kind in ("lstm", "static")}

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def folder_of(module: str) -> str:
    first = module.split(".")[0]
    return "cli" if first in ("cli", "__main__") else first if (PACKAGE / first).is_dir() else ""


def imported(module: str) -> set[str]:
    """The modules of the package that a module imports anywhere, also for type checkers alone."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("hf_distill")}
        if not isinstance(node, ast.ImportFrom):
            continue
        parent = [f"hf_distill.{module}".rpartition(".")[0]] if node.level else []
        source = ".".join([*parent, node.module or ""])
        if source.split(".")[0] == "hf_distill":
            names |= {f"{source}.{alias.name}" for alias in node.names}
    found = set()
    for name in names:
        inside = name.removeprefix("hf_distill").removeprefix(".")
        found.add(inside if inside in MODULES else inside.rpartition(".")[0])
    return found - {"", "__init__", module}


IMPORTS = {module: imported(module) for module in MODULES if module != "__init__"}


def test_folders_import_those_below_them():
    assert {folder_of(module) for module in IMPORTS} <= set(FOLDERS), "a new folder needs its place in FOLDERS"
    for module, names in IMPORTS.items():
        for name in names if module not in ALIASES else ():
            assert FOLDERS.index(folder_of(name)) <= FOLDERS.index(folder_of(module)), f"{module} imports {name}"


def test_no_module_imports_itself_by_way_of_others():
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError with the circle


def test_aliases_are_three_lines():
    for module in ALIASES:
        lines = [line for line in MODULES[module].read_text().splitlines() if line]
        assert len(lines) <= 3, module
        assert module not in set().union(*IMPORTS.values()), f"{module} is for users: import from where it stands"


def test_uploaded_files_import_only_each_other():
    for kind, names in UPLOADED.items():
        modules = {f"students.{kind}.{name}" for name in names}
        for module in modules:
            assert IMPORTS[module] <= modules, module


def test_the_runtime_is_one_file_that_needs_three_packages():
    """It is copied beside a student, where there is no torch, no transformers and no hf_distill."""
    text = MODULES["runtime"].read_text()
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {name.name for node in nodes for name in node.names if isinstance(node, ast.Import)}
    modules |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not any(node.level for node in nodes if isinstance(node, ast.ImportFrom))
    others = {module.split(".")[0] for module in modules} - sys.stdlib_module_names
    assert others == {"numpy", "onnxruntime", "tokenizers"}
    assert len(text.splitlines()) <= 250 and "import_module" not in text and "__import__" not in text


def test_the_trainer_distils_any_model():
    reached, waiting = set(), ["training.trainer"]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += IMPORTS[module]
    assert not any(folder_of(module) == "students" for module in reached)


def test_public_names_are_there():
    for name in hf_distill.__all__:
        assert hasattr(hf_distill, name), name


def test_no_file_is_longer_than_500_lines():
    for module, path in MODULES.items():
        if module != "students.lstm.modeling_lstm":
            assert len(path.read_text().splitlines()) <= 500, module


def test_no_function_is_longer_than_80_lines():
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 80, f"{module}: {node.name}"


def test_parts_of_the_long_tests_have_one_list():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    assert [line.split(":")[0] for line in settings["tool:pytest"]["markers"].split("\n") if line] == [*PARTS]
    assert f'-m "not ({" or ".join(PARTS)})"' in settings["tool:pytest"]["addopts"]
    assert f"\nLONG = {' or '.join(PARTS)}\n" in (ROOT / "Makefile").read_text()
    assert sum(PARTS.values()) <= 15, "make test-long takes fifteen minutes"


def test_nothing_is_pinned_twice():
    pins = [line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    assert sorted(pins) == sorted(set(pins))


def is_public(path: Path) -> bool:
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, definitions) and node.name[0] != "_" for node in ast.parse(path.read_text()).body)


def test_a_module_with_public_behaviour_has_a_test_file_of_its_name():
    tests = ROOT / "tests"
    missing = [
        module
        for module, path in MODULES.items()
        if is_public(path) and path.name != "__init__.py" and module not in TESTED_BY
        if not (tests / path.relative_to(PACKAGE).with_name(f"test_{path.name}")).exists()
    ]
    assert not missing, "write a test file of its name, or give it a place in TESTED_BY"
    assert {*TESTED_BY} <= {*MODULES}, "a module that is gone"
    assert all((tests / name).exists() for name in TESTED_BY.values())


def test_tests_mirror_the_folders():
    for path in (ROOT / "tests").rglob("*"):
        if path.is_dir() and path.name != "__pycache__" and path.name != "examples":
            assert (PACKAGE / path.relative_to(ROOT / "tests")).is_dir(), path
