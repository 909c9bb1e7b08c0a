"""Intervals against closed forms; examples are drawn whole, seeds with them."""

import numpy as np
import pytest
import scipy.stats

from hf_distill import metrics
from hf_distill.evaluation.bootstrap import Estimate, draws, estimate, interval, over_seeds, value_of
from hf_distill.evaluation.counts import Items


def test_the_interval_of_a_share_is_the_binomial_one():
    n, share = 1000, 0.8
    said, true = np.repeat([1, 0], [800, 200]), np.ones(n, dtype=int)
    low, high = interval(estimate(metrics.load("accuracy"), said, true, resamples=10_000).drawn)
    expected = scipy.stats.binom.ppf([0.025, 0.975], n, share) / n
    assert (low, high) == pytest.approx(tuple(expected), abs=0.002)


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
    gain = (estimate(accuracy, better, true) - estimate(accuracy, worse, true)).drawn
    # The better one is right wherever the worse one is: unpaired intervals would overlap, the paired one excludes 0.
    assert gain.min() >= 0
    assert interval(gain)[0] > 0.02
    assert interval(estimate(accuracy, better, true).drawn)[0] < interval(estimate(accuracy, worse, true).drawn)[1]


def test_metrics_without_counts_are_resampled_too():
    generator = np.random.default_rng(4)
    true = generator.normal(size=200)
    low, high = interval(
        estimate(metrics.load("pearson"), true + generator.normal(size=200), true, resamples=300).drawn
    )
    assert low < np.sqrt(0.5) < high


def test_a_metric_with_several_numbers_is_refused():
    class Several:
        name = "several"

        def compute(self, predictions, references):
            return {"a": 1.0, "b": 2.0}

    with pytest.raises(ValueError, match="expected one number"):
        value_of(Several(), np.zeros(2), np.zeros(2))


class Share:
    """A metric from elsewhere, which nothing is known about but its value."""

    name = "share"

    def compute(self, predictions, references):
        return {"share": float((predictions == references).mean())}


@pytest.mark.parametrize("metric", [metrics.load("accuracy"), Share()])
def test_an_example_is_drawn_with_all_its_items(metric):
    # In each example all items are right or all are wrong: with 25 items each, only the examples' number counts.
    right = np.arange(40) % 4 > 0
    items = Items(np.repeat(np.arange(40), 25), 40)
    said, true = np.repeat(right, 25).astype(int), np.ones(1000, dtype=int)
    drawn = estimate(metric, said, true, items, resamples=500).drawn
    assert drawn == pytest.approx(np.concatenate([right[rows].mean(axis=1) for rows in draws(40, 500, seed=0)]))
    assert drawn.std() == pytest.approx(np.sqrt(0.75 * 0.25 / 40), rel=0.15)


def test_uneven_examples_weigh_by_their_items():
    items = Items(np.array([0, 0, 0, 2]), 3)
    said, true = np.array([1, 1, 1, 0]), np.ones(4, dtype=int)
    found = estimate(metrics.load("accuracy"), said, true, items, resamples=50, seed=2).drawn
    expected = [3 * (row == 0).sum() / max(1, 3 * (row == 0).sum() + (row == 2).sum()) for row in next(draws(3, 50, 2))]
    assert found == pytest.approx(np.array(expected))


def test_differences_and_ratios_are_taken_draw_by_draw():
    one, other = Estimate(0.8, np.array([0.7, 0.9])), Estimate(0.4, np.array([0.5, 0.3]))
    assert (one - other).drawn == pytest.approx(np.array([0.2, 0.6]))
    assert (one / other).drawn == pytest.approx(np.array([1.4, 3.0]))
    assert (one / other).value == pytest.approx(2)
    assert one.missing.value == pytest.approx(0.2)
    without = (one / Estimate(0.1, np.array([0.2, 0.0]))).summary()
    assert without == {"value": pytest.approx(8)}


def test_seeds_widen_the_interval_by_their_own_spread():
    generator = np.random.default_rng(0)
    of_examples = generator.normal(0, 0.003, size=20_000)
    values = np.array([0.90, 0.92, 0.94, 0.96])
    mean = over_seeds([Estimate(value, value + of_examples) for value in values])
    assert mean.value == pytest.approx(values.mean())
    assert mean.values == tuple(values)
    expected = np.sqrt(0.003**2 + values.var(ddof=1) / 4)
    assert mean.drawn.std() == pytest.approx(expected, rel=0.03)
    alone = Estimate(0.9, of_examples)
    assert over_seeds([alone]) is alone
    # Paired by seed: a gain that is the same for each has no spread of seeds.
    lower = over_seeds([Estimate(value - 0.1, value - 0.1 + of_examples) for value in values])
    assert (mean - lower).drawn == pytest.approx(0.1)
