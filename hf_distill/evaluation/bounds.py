"""Intervals where resampling has nothing to resample: shares near 0 or 1, and metrics at their end.

Where no example, or hardly any, differs from the others, all resamples are alike and their range is far too narrow, up
to nothing. The bounds here are from counts: of a kind of example of which none was seen among n, up to 1 - 0.025^(1/n)
may be of that kind (the exact binomial bound; about 3.7/n).
"""

import evaluate
import numpy as np
import scipy.stats

from hf_distill.evaluation.counts import FROM_COUNTS, Items, divide
from hf_distill.metrics import Accuracy, OfflineMetric

LEVEL = 0.95
FEW = 10  # right or wrong examples below which a share's interval is the exact one
OF_CLASSES = ("f1", "macro_f1", "matthews_correlation")
SAME = 1e-9  # resampled values that differ by less are alike

Bounds = tuple[float, float]


def unseen(examples: int) -> float:
    """The largest share of a kind of example of which none is among so many, at 95 % confidence, two-sided.

    >>> round(unseen(100), 4), unseen(0)
    (0.0362, 1.0)
    """
    return 1.0 if examples == 0 else float(1 - ((1 - LEVEL) / 2) ** (1 / examples))


def alike(drawn: np.ndarray) -> bool:
    """Whether resampled values leave an interval of no width."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return bool(high - low < SAME)


def mixed(value: float, share: float, lowest: float, highest: float) -> Bounds:
    """A mean in which a share of the examples, not seen yet, lies anywhere between two ends.

    >>> mixed(0.5, 0.1, 0.0, 1.0)
    (0.45, 0.55)
    """
    return (1 - share) * value + share * lowest, (1 - share) * value + share * highest


def bounds_of(
    metric: evaluate.EvaluationModule,
    predictions: np.ndarray,
    references: np.ndarray,
    items: Items,
    value: float,
    drawn: np.ndarray,
) -> Bounds | None:
    """The interval of a metric where that of the resamples would be too narrow; None where it is not.

    Args:
        metric: of ours, or one that `evaluate` loaded.
        predictions: (items,) or (items, classes).
        references: likewise.
        items: the examples they belong to.
        value: of the metric.
        drawn: (resamples,) its values.
    """
    examples = len(np.unique(items.owners))
    if isinstance(metric, Accuracy):
        return share_bounds(predictions == references, items, value)
    if not len(drawn) or not alike(drawn):
        return None
    if value == 0 and len(np.unique(predictions, axis=0)) == 1:
        return None  # by the definition of correlations and F1, whatever the examples
    if value == 1 and isinstance(metric, OfflineMetric):
        if metric.name in OF_CLASSES and references.ndim == 1:
            totals = worst_counts(references, items)
            return float(FROM_COUNTS[metric.name].value(totals[None])[0]), 1.0
        if metric.name == "macro_f1":
            return worst_macro_f1_of_rows(references), 1.0
        if metric.name == "seqeval":
            return 1 - unseen(_with_entities(references, items)), 1.0
    share, limits = unseen(examples), limits_of(metric)
    if limits is None:
        return value - share * abs(value), value + share * abs(value)
    return mixed(value, share, *limits)


def share_bounds(right: np.ndarray, items: Items, value: float) -> Bounds | None:
    """The exact (Clopper-Pearson) interval of a share of which few examples are on one side; None otherwise.

    Several items of an example are not independent, so examples with a fault are counted, and each is taken to have
    as many faults as those that were seen; where none was seen, nothing but faults.

    Args:
        right: (items,) or (items, classes) bool.
        items: the examples they belong to.
        value: the share of items that are right.
    """
    right = np.all(right.reshape(len(right), -1), axis=1)
    examples = len(np.unique(items.owners))
    for wrong, share in ((True, 1 - value), (False, value)):
        holding = len(np.unique(items.owners[right != wrong]))
        if holding >= FEW:
            continue
        found = scipy.stats.binomtest(holding, examples).proportion_ci(LEVEL, method="exact")
        scale = share * examples / holding if holding else 1.0
        low, high = scale * float(found.low), min(1.0, scale * float(found.high))
        return (1 - high, 1 - low) if wrong else (low, high)
    return None


def worst_counts(references: np.ndarray, items: Items) -> np.ndarray:
    """Counts as `class_counts` has them, with as many errors as may have gone unseen, in the rarest classes first.

    All errors together are bounded by the number of examples, and those in a class by the examples that have the class.

    Args:
        references: (items,) class numbers, all predicted right.
        items: the examples they belong to.
    Returns:
        (3 x classes,) hits, predicted, true
    """
    true = np.bincount(references.astype(np.int64)).astype(np.float64)
    holders = [len(np.unique(items.owners[references == number])) for number in range(len(true))]
    lost, left = np.zeros_like(true), unseen(len(np.unique(items.owners))) * true.sum()
    for number in np.argsort(true, kind="stable"):
        lost[number] = min(left, true[number] * unseen(holders[number]))
        left -= lost[number]
    predicted = true - lost
    for number, count in enumerate(lost):  # taken for the others, as often as these are
        others = np.where(np.arange(len(true)) == number, 0.0, true)
        predicted = predicted + count * divide(others, np.full_like(others, others.sum()))
    return np.concatenate([true - lost, predicted, true])


def worst_macro_f1_of_rows(references: np.ndarray) -> float:
    """The same for the macro F1 of rows of 0 and 1, whose classes are judged one by one.

    Args:
        references: (examples, classes), all predicted right.
    """
    true = (references > 0).sum(axis=0).astype(np.float64)
    lost = np.minimum([count * unseen(int(count)) for count in true], unseen(len(references)) * len(references))
    return float(divide(2 * (true - lost), 2 * true - lost).mean())


def _with_entities(references: np.ndarray, items: Items) -> int:
    """How many sentences have an entity."""
    tags = np.array([name != "O" for name in items.names])
    return len(np.unique(items.owners[tags[references.astype(np.int64)]]))


def limits_of(metric: evaluate.EvaluationModule) -> Bounds | None:
    """The least and the greatest value of a metric; None where they are not known."""
    return metric.limits if isinstance(metric, OfflineMetric) else None


def width_of(metric: evaluate.EvaluationModule, value: float) -> float:
    """By how much two values of a metric differ at most; where that is not known, by the value itself."""
    limits = limits_of(metric)
    return abs(value) if limits is None else limits[1] - limits[0]
