"""Who labels which rows, and how sure they may be."""

import datasets
import numpy as np
import pytest
import torch

from hf_distill.soft_targets.calibration import adjusted, calibration_temperature
from hf_distill.soft_targets.cross_fit import (
    NO_FOLD,
    Share,
    ask_teachers,
    cross_fit_shares,
    fold_of,
    folds_of,
    inherited_folds,
)
from tests.conftest import tiny_bert, tiny_rows


def test_each_row_is_labelled_by_a_teacher_that_did_not_learn_from_it(tmp_path):
    rows = tiny_rows(12).remove_columns("labels")
    teachers = [tiny_bert(seed=seed, num_labels=3).eval() for seed in (1, 2)]
    folds = [0, 1, 1, 0, 1, 0, 0, 1]  # the last four rows have no label

    def direct(teacher, row):
        with torch.no_grad():
            return teacher(torch.tensor([row["input_ids"]])).logits[0].numpy()

    shares = cross_fit_shares(folds, 2, len(rows))
    made = ask_teachers(rows, teachers, shares, tmp_path, task="text-classification", dtype="float32")
    assert made["input_ids"][:] == rows["input_ids"][:]
    for number, row in enumerate(made):
        said = [direct(teacher, row) for teacher in teachers]
        if number < 8:
            expected = said[folds[number]]
        else:
            expected = np.log(np.mean([np.exp(each) / np.exp(each).sum() for each in said], axis=0))
        assert np.allclose(row["teacher_logits"], expected, atol=1e-5), number


def test_a_new_text_is_labelled_by_who_did_not_learn_from_the_old_one(tmp_path):
    """Rows 0 to 2 have labels, 3 has none; 4 to 6 were made from 1, 3 and 0."""
    rows = tiny_rows(7).remove_columns("labels")
    teachers = [tiny_bert(seed=seed, num_labels=3).eval() for seed in (1, 2)]
    folds = inherited_folds([0, 1, 0], 4, [1, 3, 0])
    assert folds.tolist() == [0, 1, 0, NO_FOLD, 1, NO_FOLD, 0]
    shares = cross_fit_shares(folds, 2, len(rows))
    made = ask_teachers(rows, teachers, shares, tmp_path, task="text-classification", dtype="float32")
    with torch.no_grad():
        said = [[teacher(torch.tensor([row["input_ids"]])).logits[0].numpy() for row in rows] for teacher in teachers]
    for number, fold in enumerate(folds):
        alone = [np.allclose(made[number]["teacher_logits"], said[teacher][number], atol=1e-5) for teacher in (0, 1)]
        assert alone == [fold == 0, fold == 1], number


def test_a_text_without_a_label_is_in_the_fold_of_the_one_it_is_like():
    labelled = [f"text {word}" for word in ("one", "two", "three", "four")]
    folds = folds_of(labelled, ["TEXT two, http://t.co/x", "text five", "text four!"], 2)
    assert len(set(folds[:4])) == 2
    assert folds.tolist() == [*(fold_of(text, 2) for text in labelled), folds[1], NO_FOLD, folds[3]]


def test_shares_hold_every_row_once():
    shares = cross_fit_shares([0, 1, 0], 2, rows=5)
    assert [share.name for share in shares] == ["fold-0", "fold-1", "others"]
    assert sorted(np.concatenate([share.rows for share in shares])) == [0, 1, 2, 3, 4]
    assert isinstance(shares[-1], Share)
    assert shares[-1].teachers == (0, 1)
    assert len(cross_fit_shares([0, 1], 2, rows=2)) == 2
    with pytest.raises(ValueError, match="fold-1 got none of 2 labelled rows"):
        cross_fit_shares([0, 0], 2, rows=2)


def test_near_duplicates_share_a_fold():
    assert fold_of("a tree", 3) == fold_of("a tree", 3)
    assert {fold_of(f"tree {number}", 3) for number in range(50)} == {0, 1, 2}


def test_a_temperature_is_found_again():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20_000, 3)) * 2
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = (probability.cumsum(-1) < generator.random((20_000, 1))).sum(-1)
    labels[::7] = -100
    assert calibration_temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)
    with pytest.raises(ValueError, match="there is none"):
        calibration_temperature(logits[:2], np.array([-100, -100]))


def test_logits_through_a_temperature_and_a_map():
    rows = datasets.Dataset.from_dict(
        {
            "input_ids": [[1], [2]],
            "teacher_logits": [np.log([[0.5, 0.3, 0.2]]).tolist(), np.log([[0.1, 0.1, 0.8], [0.6, 0.2, 0.2]]).tolist()],
        }
    )
    made, lost = adjusted(rows, label_map={"a": "x", "b": "y", "c": None}, teacher_classes="abc", student_classes="xy")
    assert made["input_ids"][:] == [[1], [2]]
    assert np.allclose(np.exp(made["teacher_logits"][1]), [[0.1, 0.1], [0.6, 0.2]], atol=1e-6)
    assert lost == pytest.approx(1 / 3)
    halved, lost = adjusted(rows, temperature=2.0)
    assert np.allclose(halved["teacher_logits"][0], np.log([[0.5, 0.3, 0.2]]) / 2, atol=1e-6)
    assert lost == 0
    each, _ = adjusted(rows, temperature=np.array([2.0, 0.5]))
    assert np.allclose(each["teacher_logits"][0], np.log([[0.5, 0.3, 0.2]]) / 2, atol=1e-6)
    assert np.allclose(each["teacher_logits"][1], np.log([[0.1, 0.1, 0.8], [0.6, 0.2, 0.2]]) / 0.5, atol=1e-6)
