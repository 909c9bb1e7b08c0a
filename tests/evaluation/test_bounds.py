"""Intervals from counts, where resampling leaves none."""

import numpy as np
import pytest
from scipy.stats import binomtest

from hf_distill import metrics
from hf_distill.evaluation.bootstrap import estimate, interval, over_seeds
from hf_distill.evaluation.bounds import unseen
from hf_distill.evaluation.counts import Items

TAGS = ["O", "B-PER", "I-PER"]


def exact(count, total):
    found = binomtest(count, total).proportion_ci(0.95, method="exact")
    return pytest.approx((found.low, found.high))


def judged(name, said, true, items=None, **settings):
    return estimate(metrics.load(name), np.asarray(said), np.asarray(true), items, resamples=400, **settings)


@pytest.mark.parametrize("right", [0, 1, 9, 91, 99, 100])
def test_a_share_near_its_end_has_the_exact_interval(right):
    true = np.ones(100, dtype=int)
    assert judged("accuracy", np.arange(100) < right, true).interval == exact(right, 100)
    rows = np.stack([np.arange(100) < right, true], axis=1).astype(int)
    assert judged("accuracy", rows, np.ones((100, 2))).interval == exact(right, 100)


def test_a_share_in_the_middle_is_resampled():
    found = judged("accuracy", np.arange(100) < 60, np.ones(100, dtype=int))
    assert found.bounds is None and found.interval == interval(found.drawn)


def test_words_of_a_sentence_are_no_examples_of_their_own():
    items = Items(np.repeat(np.arange(20), 30), 20, TAGS)
    true = np.ones(600, dtype=int)
    assert judged("accuracy", true, true, items).interval == exact(20, 20)
    # Three words wrong, in two sentences: a faulty sentence has 1.5 of 30 words wrong.
    said = true.copy()
    said[[0, 1, 30]] = 0
    low, high = binomtest(2, 20).proportion_ci(0.95, method="exact")
    assert judged("accuracy", said, true, items).interval == pytest.approx((1 - high * 1.5 / 30, 1 - low * 1.5 / 30))


@pytest.mark.parametrize("name", ["f1", "macro_f1", "matthews_correlation", "seqeval", "pearson", "spearman"])
@pytest.mark.parametrize("count", [6, 60, 600])
def test_a_perfect_score_has_a_bound_that_narrows_with_the_rows(name, count):
    true = np.arange(count) % 2 if name not in ("pearson", "spearman") else np.arange(float(count))
    found = judged(name, true, true, Items.one_an_example(count, TAGS))
    low, high = found.interval
    assert found.value == pytest.approx(1) and high == pytest.approx(1)
    assert 0.7 * unseen(count) < 1 - low < 3 * unseen(count) + 0.01


def test_a_rare_class_counts_by_its_own_rows():
    often, rare = (np.arange(400) < count for count in (200, 5))
    for name in ("f1", "macro_f1", "matthews_correlation"):
        lows = [judged(name, true.astype(int), true.astype(int)).interval[0] for true in (often, rare)]
        assert lows[1] < 0.8 < 0.95 < lows[0]
    entity = np.zeros(400, dtype=int)
    entity[:5] = 1
    assert judged("seqeval", entity, entity, Items.one_an_example(400, TAGS)).interval[0] == pytest.approx(
        1 - unseen(5)
    )


def test_many_rare_classes_are_not_all_wrong_at_once():
    true = np.arange(20)
    assert judged("macro_f1", true, true).interval[0] == pytest.approx(1 - unseen(20), abs=0.07)


def test_texts_at_their_end():
    pytest.importorskip("sacrebleu")
    texts = np.array(["one two three four five"] * 8, dtype=object)
    for name in ("sacrebleu", "chrf"):
        assert judged(name, texts, texts).interval == pytest.approx((100 * (1 - unseen(8)), 100), abs=1e-6)


def test_a_prediction_that_never_changes_scores_nothing_for_certain():
    true = np.arange(50) % 2
    for name in ("f1", "matthews_correlation"):
        assert judged(name, np.zeros(50, dtype=int), true).interval == (0, 0)


def test_one_example_is_certain_of_nothing():
    found = judged("bits_per_byte", np.array([2.0]), np.array([3.0]))
    assert found.interval[0] < 0.2 * found.value and found.interval[1] > 1.8 * found.value


def test_differences_and_ratios_that_no_resample_changes():
    true = np.ones(50, dtype=int)
    both = [judged("accuracy", np.arange(50) < 40, true) for _ in range(2)]
    same = both[0] - both[1]
    assert same.value == 0 and same.interval == pytest.approx((-unseen(50), unseen(50)))
    assert (both[0] / both[1]).interval == pytest.approx((1 - unseen(50) / 0.8, 1 + unseen(50) / 0.8))
    assert both[0].missing.interval == pytest.approx(tuple(1 - end for end in reversed(both[0].interval)))
    perfect = judged("accuracy", true, true)
    assert perfect.missing.summary() == pytest.approx({"value": 0, "low": 0, "high": unseen(50)})


def test_seeds_keep_the_bound():
    true = np.ones(50, dtype=int)
    perfect = judged("accuracy", true, true)
    assert over_seeds([perfect] * 3).interval == pytest.approx(perfect.interval)
    mixed = over_seeds([perfect, judged("accuracy", np.arange(50) < 49, true)])
    assert mixed.interval[0] < mixed.value <= mixed.interval[1]


def test_a_constant_prediction_that_may_yet_be_right_has_an_interval():
    """0 by definition is what no other examples change; the F1 of a class that was predicted is not."""
    once = Items.one_an_example(20, ["a", "b", "c"])
    zeros, twos, nothing = np.zeros(20, dtype=int), np.full(20, 2), np.zeros((20, 3), dtype=int)
    assert judged("macro_f1", zeros, twos, once).interval == pytest.approx((0, unseen(20)))
    assert judged("f1", zeros + 1, twos, once).interval == pytest.approx((0, unseen(20)))
    assert judged("macro_f1", nothing + 1, nothing).interval == pytest.approx((0, unseen(20)))
    assert judged("macro_f1", zeros - 1, zeros, once).interval == pytest.approx((0, unseen(20)))  # no word was read
    for name, said, true in (
        ("f1", zeros, twos),
        ("macro_f1", nothing, nothing),
        ("matthews_correlation", twos, zeros),
    ):
        assert judged(name, said, true).interval == (0, 0)
    assert judged("seqeval", zeros, zeros, Items.one_an_example(20, TAGS)).interval == (0, 0)
    assert judged("seqeval", zeros + 1, zeros, Items.one_an_example(20, TAGS)).interval == pytest.approx(
        (0, unseen(20))
    )


@pytest.mark.parametrize("name", ["f1", "macro_f1", "matthews_correlation", "pearson"])
def test_one_example_is_no_constant_prediction(name):
    found = judged(name, [0.5] if name == "pearson" else [0], [0.5] if name == "pearson" else [2])
    assert found.interval[1] - found.interval[0] > 0.9


def test_sentences_with_the_same_share_of_errors_have_an_interval():
    """Every resample has the accuracy of two thirds, and other sentences may have another."""
    items = Items(np.repeat(np.arange(10), 3), 10, TAGS)
    found = judged("accuracy", [1, 2, 0] * 10, [1, 2, 2] * 10, items)
    assert found.interval == pytest.approx((2 / 3 * (1 - unseen(10)), 2 / 3 + unseen(10) / 3))
