"""Pairs of texts, several labels a text, and quantities: each from a file to a measured student."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.run import run_recipe
from tests.recipes.test_run import BAD, FILLER, GOOD, write_teacher


def review(generator, good: int, words: int = 6) -> str:
    chosen = [*generator.choice(GOOD, good), *generator.choice(BAD, 3 - good), *generator.choice(FILLER, words)]
    return " ".join(generator.permutation(chosen))


def write(path: Path, names: list[str], rows: list[tuple]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


def pairs(folder: Path) -> dict:
    """Is the first review the better one?"""
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(400):
        first, second = generator.choice(4, 2, replace=False)
        rows.append((review(generator, first, 3), review(generator, second, 3), ["no", "yes"][int(first > second)]))
    write(folder / "data.csv", ["first", "second", "better"], rows)
    return {"text": ["first", "second"], "label": "better"}


def several(folder: Path) -> dict:
    """Is something praised, is something blamed? Every fourth text has no labels."""
    generator = np.random.default_rng(0)
    rows = []
    for row in range(400):
        good = int(generator.integers(0, 4))
        labels = ("", "") if row % 4 == 0 else (int(good > 0), int(good < 3))
        rows.append((review(generator, good), *labels))
    write(folder / "data.csv", ["text", "praise", "blame"], rows)
    return {"label": ["praise", "blame"]}


def quantity(folder: Path) -> dict:
    """How many good words has it? Every fourth text has no number."""
    generator = np.random.default_rng(0)
    drawn = [int(generator.integers(0, 4)) for _ in range(400)]
    rows = [(review(generator, good), "" if row % 4 == 0 else good - 1.5) for row, good in enumerate(drawn)]
    write(folder / "data.csv", ["text", "stars"], rows)
    return {"label": "stars", "problem_type": "regression"}


SAMPLES = {pairs: [["fine food", "bad food"]], several: ["fine food", "bad"], quantity: ["fine food"]}


@pytest.mark.long
@pytest.mark.parametrize(
    ("problem", "metrics", "kind", "least"),
    [
        (pairs, ["accuracy"], "single_label_classification", 0.6),
        (several, ["macro_f1", "accuracy"], "multi_label_classification", 0.85),
        (quantity, ["pearson", "spearman"], "regression", 0.7),
    ],
)
def test_from_a_file_to_a_student(tmp_path, problem, metrics, kind, least):
    write_teacher(tmp_path / "teacher")
    content = {
        "task": "text-classification",
        "output_dir": str(tmp_path / "out"),
        "data": {"path": str(tmp_path / "data.csv"), "test": 60, "validation": 40, **problem(tmp_path)},
        "teacher": {
            "model": str(tmp_path / "teacher"),
            "fine_tune": {"num_train_epochs": 12, "learning_rate": 2.0e-3, "per_device_train_batch_size": 16},
        },
        "student": {"kind": "transformer", "vocab_size": None, "config": {"num_hidden_layers": 1}},
        "distill": {"num_train_epochs": 12, "learning_rate": 3.0e-3, "per_device_train_batch_size": 16},
        "compare": {"resamples": 100, "metrics": metrics, "controls": False, "detailed_costs": False},
        "push": {"samples": SAMPLES[problem], "title": "Some problem"},
    }
    report = run_recipe(Recipe.from_dict(content))
    assert report is not None
    card = (tmp_path / "out" / "student" / "README.md").read_text(encoding="utf-8")
    assert "## What it answers" in card and "| fine" in card and "# Some problem: " in card
    assert report.metrics == metrics
    quality = {name: model["quality"][metrics[0]]["value"] for name, model in report.models.items()}
    assert quality["teacher"] > least
    assert quality["student"] > least
    saved = json.loads((tmp_path / "out" / "student" / "config.json").read_text())
    assert saved["problem_type"] == kind
    if kind == "multi_label_classification":
        assert saved["id2label"] == {"0": "praise", "1": "blame"}
        assert report.run["rows"]["unlabelled"] > 60


@pytest.mark.parametrize("problem", [several, quantity])
def test_only_a_choice_among_classes_can_be_calibrated(tmp_path, problem):
    write_teacher(tmp_path / "teacher")
    content = {
        "task": "text-classification",
        "output_dir": str(tmp_path / "out"),
        "data": {"path": str(tmp_path / "data.csv"), "test": 60, "validation": 40, **problem(tmp_path)},
        "teacher": {"model": str(tmp_path / "teacher"), "fine_tune": {}, "calibrate": True},
    }
    with pytest.raises(ValueError, match=r"teacher\.calibrate and teacher\.label_map are about one choice"):
        run_recipe(Recipe.from_dict(content))
