"""Parts of a test set against figures worked out by hand and by scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics

from hf_distill import metrics
from hf_distill.evaluation import breakdown
from hf_distill.evaluation.counts import Items
from hf_distill.evaluation.predictions import Predictions


def predictions(true, student, teacher=None, logits=None, names=("no", "yes")):
    items = Items.one_an_example(len(true), names)
    decisions = {"teacher": np.array(true if teacher is None else teacher), "student": np.array(student)}
    return Predictions(items, decisions, logits or {}, np.array(true))


def test_a_group_has_its_count_its_metric_and_the_ratio_of_errors():
    said = predictions([1, 1, 0, 0, -100], [1, 0, 1, 1, 0], teacher=[1, 1, 1, 0, 0])
    found = breakdown.by_group({"half": [1, 1, 2, 2, 2]}, said, metrics.load("accuracy"), ["teacher", "student"])
    assert found == {
        "half": {
            "1": {"examples": 2, "teacher": {"accuracy": 1.0}, "student": {"accuracy": 0.5}},
            "2": {"examples": 2, "teacher": {"accuracy": 0.5}, "student": {"accuracy": 0.0}, "error_ratio": 2.0},
        }
    }
    other = breakdown.by_group({"half": [1, 1, 2, 2, 2]}, said, metrics.load("macro_f1"), ["teacher", "student"])
    assert "error_ratio" not in other["half"]["2"]


def test_lengths_fall_into_quarters_that_keep_equals_together():
    groups = breakdown.length_groups(np.array([5, 5, 5, 5, 5, 5, 7, 120]))
    assert groups == ["005-005 tokens"] * 6 + ["007-120 tokens"] * 2
    assert breakdown.length_groups(np.array([3])) == ["3-3 tokens"]
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 1000, size=4000)
    groups = np.array(breakdown.length_groups(lengths))
    counts = [(groups == name).sum() for name in np.unique(groups)]
    assert len(counts) == 4
    assert min(counts) > 950


def test_a_quantity_is_cut_into_quarters_and_few_numbers_are_not():
    said = predictions([1] * 24, [1] * 12 + [0] * 12)
    confidence = [0.5 + number / 50 for number in range(23)] + [None]
    found = breakdown.by_group(
        {"confidence": confidence, "stars": [1, 2] * 12}, said, metrics.load("accuracy"), ["student"]
    )
    assert list(found["stars"]) == ["1", "2"]
    assert list(found["confidence"]) == [
        "1: 0.5 to 0.6",
        "2: 0.62 to 0.72",
        "3: 0.74 to 0.84",
        "4: 0.86 to 0.94",
        "nan",
    ]
    assert [part["student"]["accuracy"] for part in found["confidence"].values()] == [1, 1, 0, 0, 0]


def test_classes_are_scored_as_scikit_learn_does_and_the_commonest_kept():
    generator = np.random.default_rng(0)
    names = [f"class {number}" for number in range(25)]
    true = np.minimum(generator.geometric(0.1, size=2000), 25) - 1
    student = np.where(generator.random(2000) < 0.7, true, generator.integers(25, size=2000))
    hidden = np.where(np.arange(2000) < 100, -100, true)
    found = breakdown.per_class(predictions(hidden, student, teacher=true, names=names), ["teacher", "student"])
    support = np.bincount(true[100:], minlength=25)
    assert set(found) == {names[number] for number in np.argsort(-support, kind="stable")[:20]}
    precision, recall, f1, counts = sklearn.metrics.precision_recall_fscore_support(
        true[100:], student[100:], labels=range(25)
    )
    for number in np.argsort(-support, kind="stable")[:20]:
        entry = found[names[number]]
        assert entry["support"] == counts[number]
        expected = {"precision": precision[number], "recall": recall[number], "f1": f1[number]}
        assert entry["student"] == pytest.approx(expected)
        assert entry["teacher"] == {"precision": 1, "recall": 1, "f1": 1}


def test_the_most_different_are_at_most_ten_and_in_order():
    generator = np.random.default_rng(1)
    teacher = generator.normal(size=(30, 2))
    student = teacher.copy()
    student[:15] += np.linspace(3, 0.1, 15)[:, None] * np.array([1, -1])
    said = predictions(teacher.argmax(axis=1), student.argmax(axis=1), logits={"student": student, "teacher": teacher})
    found = breakdown.most_different(said, None)
    assert len(found) == 10
    kl = metrics.kl_to_teacher(student, teacher)
    assert [row["example"] for row in found] == np.argsort(-kl)[:10].tolist()
    assert [row["kl"] for row in found] == pytest.approx(np.sort(kl)[::-1][:10].tolist())
    assert found[0]["teacher"] == found[0]["label"] in ("no", "yes")
    assert "text" not in found[0]
    same = predictions([0, 1], [0, 1], logits={"student": teacher[:2], "teacher": teacher[:2]})
    assert breakdown.most_different(same, ["a", "b"]) == []
