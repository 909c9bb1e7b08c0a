"""Intervals by resampling the test examples, the same draws for every model so that differences are paired."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import evaluate
import numpy as np
from scipy.sparse import csr_matrix

from hf_distill.evaluation.bounds import Bounds, alike, bounds_of, mixed, unseen, width_of
from hf_distill.evaluation.counts import FROM_COUNTS, FROM_ROWS, Counted, Items
from hf_distill.metrics import OfflineMetric

RESAMPLES = 2000
CHUNK = 2_000_000  # values held at once


@dataclass(frozen=True)
class Estimate:
    """A number with its value on every resample; of two with the same draws, difference and ratio are paired.

    Attributes:
        value: on the examples as they are.
        drawn: (resamples,)
        values: where `value` is the mean over several seeds, the value of each.
        bounds: the interval, where that of the resamples would be too narrow, see `bounds`.
        examples: how many were resampled; 0 where that is not known.
        width: by how much two such numbers differ at most.
    """

    value: float
    drawn: np.ndarray
    values: tuple[float, ...] = ()
    bounds: Bounds | None = None
    examples: int = 0
    width: float = 0.0

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference. Where no resample changes it, examples that were not seen yet still may."""
        value, width = self.value - other.value, max(self.width, other.width)
        bounds = mixed(value, unseen(self.examples), -width, width)
        return self._combined(other, value, self.drawn - other.drawn, bounds)

    def __truediv__(self, other: "Estimate") -> "Estimate":
        """The ratio; without resamples, so without an interval, where the divisor is not above 0 on all of them."""
        drawn = self.drawn / other.drawn if (other.drawn > 0).all() else np.empty(0)
        value = self.value / other.value
        reach = unseen(self.examples) * max(self.width, other.width) / abs(other.value)
        return self._combined(other, value, drawn, (value - reach, value + reach))

    def _combined(self, other: "Estimate", value: float, drawn: np.ndarray, bounds: Bounds) -> "Estimate":
        """What two estimates come to, with the bounds only where they are known and the resamples are all alike."""
        known = self.examples > 0 and len(drawn) > 0 and alike(drawn)
        width = max(self.width, other.width)
        return Estimate(value, drawn, bounds=bounds if known else None, examples=self.examples, width=width)

    @property
    def missing(self) -> "Estimate":
        """What a share leaves of 1: the error."""
        return replace(
            self,
            value=1 - self.value,
            drawn=1 - self.drawn,
            values=tuple(1 - value for value in self.values),
            bounds=None if self.bounds is None else (1 - self.bounds[1], 1 - self.bounds[0]),
        )

    @property
    def interval(self) -> Bounds | None:
        """Of 95 %; None without resamples."""
        if self.bounds is not None or not len(self.drawn):
            return self.bounds
        return interval(self.drawn)

    def summary(self) -> dict[str, Any]:
        """`value`, with `low` and `high` of its 95 % interval and the seeds' `values` where there are any."""
        result: dict[str, Any] = {"value": self.value}
        if self.interval is not None:
            result |= dict(zip(("low", "high"), self.interval, strict=True))
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
    drawn = _resampled(metric, predictions, references, items, resamples, seed)

    def of_itself() -> float:
        # Words that were not read have no class, and a class is needed here.
        answers = predictions.clip(min=0) if predictions.dtype.kind in "iu" else predictions
        return value_of(metric, answers, answers, items)

    return Estimate(
        value,
        drawn,
        bounds=bounds_of(metric, predictions, references, items, value, drawn, of_itself),
        examples=len(np.unique(items.owners)),
        width=width_of(metric, value),
    )


def _resampled(
    metric: evaluate.EvaluationModule,
    predictions: np.ndarray,
    references: np.ndarray,
    items: Items,
    resamples: int,
    seed: int,
) -> np.ndarray:
    """(resamples,) the metric on resampled examples."""
    additive = _additive(metric, references)
    if additive is not None:
        totals = resampled_totals(additive.counts(predictions, references, items), resamples, seed)
        return np.concatenate([additive.value(part) for part in totals])
    ends = np.cumsum(items.counts)
    places = [np.arange(end - count, end) for end, count in zip(ends, items.counts, strict=True)]
    values = []
    for rows in draws(items.examples, resamples, seed):
        for row in rows:
            chosen = np.concatenate([places[example] for example in row])
            values.append(value_of(metric, predictions[chosen], references[chosen]))
    return np.array(values)


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
    together = Estimate(
        value=float(np.mean([one.value for one in estimates])),
        drawn=np.take_along_axis(wider, picks, axis=1).mean(axis=1),
        values=tuple(one.value for one in estimates),
        examples=estimates[0].examples,
        width=estimates[0].width,
    )
    if all(one.bounds is None for one in estimates):
        return together
    ends = np.array([one.interval for one in (*estimates, together)])  # (seeds + 1, 2)
    low, high = ends[:-1].mean(axis=0)
    return replace(together, bounds=(float(min(low, ends[-1, 0])), float(max(high, ends[-1, 1]))))


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
