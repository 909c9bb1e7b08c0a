"""Counts against scikit-learn and seqeval, which define the metrics."""

import numpy as np
import pytest

from hf_distill import metrics
from hf_distill.evaluation.bootstrap import draws, estimate, value_of
from hf_distill.evaluation.counts import FROM_COUNTS, FROM_ROWS, Items

OF_TEXTS = ("sacrebleu", "chrf", "bits_per_byte")
OF_CLASSES = [name for name in FROM_COUNTS if name not in ("seqeval", *OF_TEXTS)]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


@pytest.mark.parametrize(
    ("name", "classes"), [(name, 2) for name in OF_CLASSES] + [("macro_f1", 4), ("matthews_correlation", 4)]
)
def test_counting_equals_scikit_learn_on_every_resample(name, classes):
    generator = np.random.default_rng(1)
    # So few examples that resamples lose whole classes.
    said, true = generator.integers(classes, size=9), generator.integers(classes, size=9)
    metric = metrics.load(name)
    expected = [metric.score(said[row], true[row]) for rows in draws(9, 200, seed=3) for row in rows]
    found = estimate(metric, said, true, resamples=200, seed=3)
    assert found.drawn == pytest.approx(np.array(expected))
    assert found.value == pytest.approx(metric.score(said, true))


@pytest.mark.parametrize(("name", "value"), [("accuracy", 1), ("f1", 0), ("macro_f1", 1), ("matthews_correlation", 0)])
def test_one_class_alone_is_no_error(name, value):
    same = np.zeros(4, dtype=int)
    assert value_of(metrics.load(name), same, same) == value


@pytest.mark.parametrize("name", FROM_ROWS)
def test_rows_of_labels_are_counted_as_scikit_learn_does(name):
    generator = np.random.default_rng(3)
    said, true = generator.integers(2, size=(9, 4)), generator.integers(2, size=(9, 4)).astype(float)
    said[:, 3] = true[:, 3] = 0  # a class that nobody names lowers the mean
    metric = metrics.load(name)
    expected = [metric.score(said[row], true[row]) for rows in draws(9, 100, seed=3) for row in rows]
    assert estimate(metric, said, true, resamples=100, seed=3).drawn == pytest.approx(np.array(expected))


def sentences(generator, count):
    lengths = generator.integers(0, 8, size=count)
    items = Items(np.repeat(np.arange(count), lengths), count, TAGS)
    true = generator.integers(len(TAGS), size=lengths.sum())
    said = np.where(generator.random(len(true)) < 0.7, true, generator.integers(len(TAGS), size=len(true)))
    return said, true, items


def test_entities_are_those_of_seqeval_on_every_resample():
    pytest.importorskip("seqeval")
    said, true, items = sentences(np.random.default_rng(2), 12)
    metric = metrics.load("seqeval")
    ends = np.cumsum(items.counts)[:-1]
    rows = [[[TAGS[tag] for tag in row] for row in np.split(tags, ends)] for tags in (said, true)]
    found = estimate(metric, said, true, items, resamples=30, seed=1)
    assert found.value == pytest.approx(metric.compute(predictions=rows[0], references=rows[1])["seqeval"])
    for drawn, value in zip(next(draws(12, 30, seed=1)), found.drawn, strict=True):
        said_then, true_then = ([side[row] for row in drawn] for side in rows)
        assert value == pytest.approx(metric.compute(predictions=said_then, references=true_then)["seqeval"])


def test_entities_end_with_their_sentence():
    pytest.importorskip("seqeval")
    # One entity of two words, or two of one word each in sentences of their own.
    together, apart = (Items(np.array(owners), 2, TAGS) for owners in ([0, 0], [0, 1]))
    true, said = np.array([1, 2]), np.array([1, 0])
    assert value_of(metrics.load("seqeval"), said, true, together) == 0
    assert value_of(metrics.load("seqeval"), said, true, apart) == pytest.approx(2 / 3)
