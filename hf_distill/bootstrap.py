"""Intervals by resampling the test examples, the same draws for every model so that differences are paired."""

from collections.abc import Callable, Iterator

import evaluate
import numpy as np

from hf_distill.metrics import OfflineMetric

RESAMPLES = 2000
CHUNK = 2_000_000  # values held at once


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


def resampled(
    metric: evaluate.EvaluationModule,
    predictions: np.ndarray,
    references: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """A metric on resampled examples.

    Args:
        metric: its value is read by `value_of`.
        predictions: (examples,) or (examples, classes).
        references: likewise.
        resamples: how many.
        seed: the same seed and number of examples give the same draws.
    Returns:
        (resamples,)
    """
    if metric.name in FROM_CONFUSION and isinstance(metric, OfflineMetric) and references.ndim == 1:
        # scikit-learn takes about 1 ms a call; counting the pairs of true and predicted class does all at once.
        classes = int(max(predictions.max(), references.max())) + 1
        cells = references.astype(np.int64) * classes + predictions.astype(np.int64)
        values = []
        for rows in draws(len(references), resamples, seed, width=classes**2):
            offsets = np.arange(len(rows))[:, None] * classes**2
            counts = np.bincount((cells[rows] + offsets).ravel(), minlength=len(rows) * classes**2)
            values.append(FROM_CONFUSION[metric.name](counts.reshape(-1, classes, classes).astype(float)))
        return np.concatenate(values)
    return np.array(
        [
            value_of(metric, predictions[row], references[row])
            for rows in draws(len(references), resamples, seed)
            for row in rows
        ]
    )


def value_of(metric: evaluate.EvaluationModule, predictions: np.ndarray, references: np.ndarray) -> float:
    """The one number of a metric.

    Args:
        metric: of ours, or one that `evaluate` loaded.
        predictions: (examples, ...), every one counted.
        references: likewise.
    Raises:
        ValueError: a metric with several numbers, none under its own name.
    """
    if isinstance(metric, OfflineMetric):
        return float(metric.score(predictions, references))
    result = metric.compute(predictions=predictions, references=references) or {}
    if metric.name not in result and len(result) != 1:
        raise ValueError(
            f"The metric {metric.name!r} gives {', '.join(result)}: expected one number, or one called "
            f"{metric.name!r}, to compare models by. Choose another metric."
        )
    return float(result.get(metric.name, next(iter(result.values()))))


# Each takes (resamples, true class, predicted class) counts and returns (resamples,); a quotient 0/0 is 0, as in
# scikit-learn, whose functions remain the definition: the tests hold these to them.


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _accuracy(counts: np.ndarray) -> np.ndarray:
    return np.trace(counts, axis1=1, axis2=2) / counts.sum(axis=(1, 2))


def _f1_by_class(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    hits = np.diagonal(counts, axis1=1, axis2=2)
    named = counts.sum(axis=1) + counts.sum(axis=2)
    return _divide(2 * hits, named), named > 0


def _f1(counts: np.ndarray) -> np.ndarray:
    return _f1_by_class(counts)[0][:, 1] if counts.shape[1] > 1 else np.zeros(len(counts))


def _macro_f1(counts: np.ndarray) -> np.ndarray:
    scores, present = _f1_by_class(counts)
    return scores.sum(axis=1) / present.sum(axis=1)


def _matthews_correlation(counts: np.ndarray) -> np.ndarray:
    true, said, hits = counts.sum(axis=2), counts.sum(axis=1), np.trace(counts, axis1=1, axis2=2)
    total = true.sum(axis=1)
    covariance = hits * total - (true * said).sum(axis=1)
    spread = np.sqrt((total**2 - (said**2).sum(axis=1)) * (total**2 - (true**2).sum(axis=1)))
    return _divide(covariance, spread)


FROM_CONFUSION: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews_correlation": _matthews_correlation,
}
