"""Intervals where the bootstrap fails: shares near 0 or 1, and metrics at their largest or smallest value.

If all examples are right, or nearly all, all resamples are alike and their range is too narrow, or has no width. The
bounds here are binomial instead: if none of n examples had an error, up to 1 - 0.025^(1/n) of all examples may have one
(about 3.7/n), at 95 % confidence.
"""

from collections.abc import Callable

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
    """The largest share of examples with an error if none of so many had one, at 95 % confidence, two-sided.

    >>> round(unseen(100), 4), unseen(0)
    (0.0362, 1.0)
    """
    return 1.0 if examples == 0 else float(1 - ((1 - LEVEL) / 2) ** (1 / examples))


def alike(drawn: np.ndarray) -> bool:
    """Whether the interval of resampled values has no width."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return bool(high - low < SAME)


def mixed(value: float, share: float, lowest: float, highest: float) -> Bounds:
    """The bounds of a mean if a share of the examples may have any value between two ends.

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
    of_itself: Callable[[], float],
) -> Bounds | None:
    """The interval of a metric if the bootstrap's would be too narrow; None if it is not.

    Args:
        metric: of ours, or one that `evaluate` loaded.
        predictions: (items,) or (items, classes).
        references: likewise.
        items: the examples they belong to.
        value: of the metric.
        drawn: (resamples,) its values.
        of_itself: the metric where the predictions were all right.
    """
    examples = len(np.unique(items.owners))
    exact = share_bounds(predictions == references, items, value) if isinstance(metric, Accuracy) else None
    if exact is not None or not len(drawn) or not alike(drawn):
        return exact
    constant = examples > 1 and predictions.shape == references.shape and len(np.unique(predictions, axis=0)) == 1
    if value == 0 and constant and of_itself() == 0:
        return None  # by the metric's definition, whatever the examples
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
    """The exact (Clopper-Pearson) interval of a share if fewer than `FEW` examples are right, or wrong; None otherwise.

    Items of one example are not independent, so examples with an error are counted. Each is taken to have as many
    errors as those that were seen had in the mean; if none was seen, all of its items are taken to be wrong.

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
    """The counts of `class_counts` in the worst case that an evaluation without errors allows.

    As many errors are added as `unseen` allows: in all examples together, and in the examples of each class. They are
    added to the rarest classes first, where they change the metric most.

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
    """The macro F1 of multi-label rows in that worst case, with the classes taken one by one.

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
