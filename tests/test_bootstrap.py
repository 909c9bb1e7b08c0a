"""Intervals against closed forms, and fast counting against scikit-learn."""

import numpy as np
import pytest
import scipy.stats

from hf_distill import metrics
from hf_distill.bootstrap import FROM_CONFUSION, draws, interval, resampled, value_of


def test_the_interval_of_a_share_is_the_binomial_one():
    n, share = 1000, 0.8
    said, true = np.repeat([1, 0], [800, 200]), np.ones(n, dtype=int)
    low, high = interval(resampled(metrics.load("accuracy"), said, true, resamples=10_000))
    expected = scipy.stats.binom.ppf([0.025, 0.975], n, share) / n
    assert (low, high) == pytest.approx(tuple(expected), abs=0.002)


@pytest.mark.parametrize(
    ("name", "classes"), [(name, 2) for name in FROM_CONFUSION] + [("macro_f1", 4), ("matthews_correlation", 4)]
)
def test_counting_equals_scikit_learn_on_every_resample(name, classes):
    generator = np.random.default_rng(1)
    # So few examples that resamples lose whole classes.
    said, true = generator.integers(classes, size=9), generator.integers(classes, size=9)
    metric = metrics.load(name)
    expected = [metric.score(said[row], true[row]) for rows in draws(9, 200, seed=3) for row in rows]
    assert resampled(metric, said, true, resamples=200, seed=3) == pytest.approx(np.array(expected))


def test_the_same_seed_gives_the_same_draws_in_any_chunks():
    whole = np.concatenate(list(draws(50, 40, seed=5)))
    pieces = list(draws(50, 40, seed=5, width=300_000))
    assert len(pieces) > 1
    assert np.array_equal(whole, np.concatenate(pieces))
    assert not np.array_equal(whole, np.concatenate(list(draws(50, 40, seed=6))))


def test_differences_are_paired():
    generator = np.random.default_rng(2)
    true = generator.integers(2, size=500)
    worse = np.where(generator.random(500) < 0.7, true, 1 - true)
    better = worse.copy()
    mistakes = np.flatnonzero(worse != true)[:20]
    better[mistakes] = true[mistakes]
    accuracy = metrics.load("accuracy")
    gain = resampled(accuracy, better, true) - resampled(accuracy, worse, true)
    # The better one is right wherever the worse one is: unpaired intervals would overlap, the paired one excludes 0.
    assert gain.min() >= 0
    assert interval(gain)[0] > 0.02
    assert interval(resampled(accuracy, better, true))[0] < interval(resampled(accuracy, worse, true))[1]


def test_metrics_without_counts_are_resampled_too():
    generator = np.random.default_rng(4)
    true = generator.normal(size=200)
    values = resampled(metrics.load("pearson"), true + generator.normal(size=200), true, resamples=300)
    low, high = interval(values)
    assert low < np.sqrt(0.5) < high


def test_a_metric_with_several_numbers_is_refused():
    class Several:
        name = "several"

        def compute(self, predictions, references):
            return {"a": 1.0, "b": 2.0}

    with pytest.raises(ValueError, match="expected one number"):
        value_of(Several(), np.zeros(2), np.zeros(2))
