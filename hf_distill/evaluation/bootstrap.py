"""Intervals by resampling the test examples, the same draws for every model so that differences are paired."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import evaluate
import numpy as np
from scipy.sparse import csr_matrix

from hf_distill.evaluation.counts import FROM_COUNTS, FROM_ROWS, Counted, Items
from hf_distill.metrics import OfflineMetric

RESAMPLES = 2000
CHUNK = 2_000_000  # values held at once


@dataclass(frozen=True)
class Estimate:
    """A number with what it came to on every resample; of two with the same draws, difference and ratio are paired.

    Attributes:
        value: on the examples as they are.
        drawn: (resamples,)
        values: where `value` is the mean over several seeds, theirs.
    """

    value: float
    drawn: np.ndarray
    values: tuple[float, ...] = ()

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference."""
        return Estimate(self.value - other.value, self.drawn - other.drawn)

    def __truediv__(self, other: "Estimate") -> "Estimate":
        """The ratio; without resamples, so without an interval, where the divisor is not above 0 on all of them."""
        drawn = self.drawn / other.drawn if (other.drawn > 0).all() else np.empty(0)
        return Estimate(self.value / other.value, drawn)

    @property
    def missing(self) -> "Estimate":
        """What a share leaves of 1: the error."""
        return Estimate(1 - self.value, 1 - self.drawn, tuple(1 - value for value in self.values))

    def summary(self) -> dict[str, Any]:
        """`value`, with `low` and `high` of its 95 % interval and the seeds' `values` where there are any."""
        result: dict[str, Any] = {"value": self.value}
        if len(self.drawn):
            result |= dict(zip(("low", "high"), interval(self.drawn), strict=True))
        return result | ({"values": list(self.values)} if self.values else {})


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The central range that holds `level` of the resampled values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def draws(examples: int, resamples: int, seed: int, width: int = 1) -> Iterator[np.ndarray]:
    """Row numbers drawn with replacement: the same for the same seed, whatever the chunks.

    Args:
        examples: how many there are.
        resamples: how many times they are drawn.
        seed: of the draws.
        width: values that the caller will hold for each resample, which bounds the chunks.
    Yields:
        (chunk, examples) int
    """
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK // max(examples, width))
    for start in range(0, resamples, chunk):
        yield generator.integers(examples, size=(min(chunk, resamples - start), examples))


def resampled_totals(counts: csr_matrix, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """What the counts of the drawn examples add up to.

    Args:
        counts: (examples, width).
        resamples: how many.
        seed: see `draws`.
    Yields:
        (chunk, width)
    """
    examples, width = counts.shape
    transposed = counts.T.tocsr()
    for rows in draws(examples, resamples, seed, width=width):
        chunk = len(rows)
        cells = (rows * chunk + np.arange(chunk)[:, None]).ravel()
        times = np.bincount(cells, minlength=examples * chunk).reshape(examples, chunk).astype(np.float64)
        yield (transposed @ times).T


def estimate(
    metric: evaluate.EvaluationModule,
    predictions: np.ndarray,
    references: np.ndarray,
    items: Items | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """A metric, and its value on resampled examples: an example is drawn with all its items.

    Args:
        metric: of ours, or one that `evaluate` loaded.
        predictions: (items,) or (items, classes), every one counted.
        references: likewise.
        items: the examples they belong to. None: each item is an example.
        resamples: how many.
        seed: the same seed and number of examples give the same draws.
    Raises:
        ValueError: see `value_of`.
    """
    items = items or Items.one_an_example(len(references))
    value = value_of(metric, predictions, references, items)
    additive = _additive(metric, references)
    if additive is not None:
        totals = resampled_totals(additive.counts(predictions, references, items), resamples, seed)
        return Estimate(value, np.concatenate([additive.value(part) for part in totals]))
    ends = np.cumsum(items.counts)
    places = [np.arange(end - count, end) for end, count in zip(ends, items.counts, strict=True)]
    values = []
    for rows in draws(items.examples, resamples, seed):
        for row in rows:
            chosen = np.concatenate([places[example] for example in row])
            values.append(value_of(metric, predictions[chosen], references[chosen]))
    return Estimate(value, np.array(values))


def over_seeds(estimates: Sequence[Estimate], seed: int = 0) -> Estimate:
    """The mean over several trainings, resampled over examples and seeds at once.

    Few seeds drawn with replacement vary less than seeds do, by (n - 1)/n in variance, which is made good here (Rao and
    Wu 1988, doi:10.1080/01621459.1988.10478591). With two or three the interval is a rough one all the same.

    Args:
        estimates: one a seed, on the same draws of examples.
        seed: of the draws of seeds; the same for two models pairs them seed by seed.
    """
    if len(estimates) == 1:
        return estimates[0]
    drawn = np.stack([one.drawn for one in estimates], axis=1)  # (resamples, seeds)
    mean = drawn.mean(axis=1, keepdims=True)
    wider = mean + (drawn - mean) * np.sqrt(len(estimates) / (len(estimates) - 1))
    picks = np.random.default_rng(seed).integers(len(estimates), size=drawn.shape)
    return Estimate(
        value=float(np.mean([one.value for one in estimates])),
        drawn=np.take_along_axis(wider, picks, axis=1).mean(axis=1),
        values=tuple(one.value for one in estimates),
    )


def value_of(
    metric: evaluate.EvaluationModule, predictions: np.ndarray, references: np.ndarray, items: Items | None = None
) -> float:
    """The one number of a metric.

    Args:
        metric: of ours, or one that `evaluate` loaded.
        predictions: (items, ...), every one counted.
        references: likewise.
        items: the examples they belong to. None: each item is an example.
    Raises:
        ValueError: a metric with several numbers, none under its own name.
    """
    additive = _additive(metric, references)
    if additive is not None:
        counts = additive.counts(predictions, references, items or Items.one_an_example(len(references)))
        return float(additive.value(np.asarray(counts.sum(axis=0)))[0])
    if isinstance(metric, OfflineMetric):
        return float(metric.score(predictions, references))
    result = metric.compute(predictions=predictions, references=references) or {}
    if metric.name not in result and len(result) != 1:
        raise ValueError(
            f"The metric {metric.name!r} gives {', '.join(result)}: expected one number, or one called "
            f"{metric.name!r}, to compare models by. Choose another metric."
        )
    return float(result.get(metric.name, next(iter(result.values()))))


def _additive(metric: evaluate.EvaluationModule, references: np.ndarray) -> Counted | None:
    if not isinstance(metric, OfflineMetric):
        return None
    return (FROM_COUNTS if references.ndim == 1 else FROM_ROWS).get(metric.name)
