"""Quality by groups of examples, by class, and the examples on which two models differ most."""

from collections.abc import Mapping, Sequence
from typing import Any

import evaluate
import numpy as np

from hf_distill.evaluation.bootstrap import value_of
from hf_distill.evaluation.counts import by_class, class_counts, divide
from hf_distill.evaluation.predictions import Predictions, first_words
from hf_distill.metrics import kl_to_teacher

MOST_CLASSES = 20
MOST_EXAMPLES = 10
MOST_NUMBERS = 10  # of different ones that are groups each; more are cut into quarters


def by_group(
    groups: Mapping[str, Sequence[Any]],
    predictions: Predictions,
    metric: evaluate.EvaluationModule,
    models: Sequence[str],
) -> dict[str, dict[str, dict[str, Any]]]:
    """The metric apart for each value of each group.

    Args:
        groups: by name, a value for each example, or for each example a list with a value for each of its words. A
            quantity of the examples, more than ten different numbers, is cut into quarters: see `quarters`.
        predictions: those with a label are counted.
        metric: grows with quality.
        models: of whom.
    Returns:
        name -> value -> `{"examples" or "words": count, model: {metric: value}}`, with `error_ratio` (the student's
        errors ÷ the teacher's) where the metric is accuracy and the teacher errs.
    Raises:
        ValueError: a group that does not fit the examples.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, values in groups.items():
        of_items, unit = _of_items(name, values, predictions)
        found[name] = {}
        for value in sorted(set(of_items[predictions.labelled].tolist())):
            part = predictions.where(predictions.labelled & (of_items == value))
            count = len(part.labels) if unit == "words" else len(np.unique(part.items.owners))
            entry: dict[str, Any] = {unit: count}
            for model in models:
                answers = part.answers(metric, model)
                if answers is not None:
                    entry[model] = {metric.name: value_of(metric, answers, part.labels, part.items)}
            if metric.name == "accuracy" and entry.get("teacher", {"accuracy": 1})["accuracy"] < 1:
                entry["error_ratio"] = (1 - entry["student"]["accuracy"]) / (1 - entry["teacher"]["accuracy"])
            found[name][str(value)] = entry
    return found


def length_groups(lengths: np.ndarray) -> list[str]:
    """The quarter of the examples that each one's length puts it in, as "first to last" of that quarter's lengths.

    Args:
        lengths: (examples,) tokens.

    >>> length_groups(np.array([1, 2, 3, 4, 50, 60, 70, 80]))[::2]
    ['01-02 tokens', '03-04 tokens', '50-60 tokens', '70-80 tokens']
    """
    # Leading zeros keep them in order wherever names are sorted.
    digits = len(str(int(lengths.max())))
    numbers, ranges = _quarters(lengths)
    return [f"{ranges[number][0]:0{digits}d}-{ranges[number][1]:0{digits}d} tokens" for number in numbers]


def quarters(values: np.ndarray) -> list[str]:
    """The quarter of the examples that each one's number puts it in, lowest first.

    Args:
        values: (examples,); NaN is a group of its own.

    >>> quarters(np.array([0.5, 0.9, 1.0, 0.7, np.nan]))
    ['1: 0.5 to 0.5', '3: 0.9 to 0.9', '4: 1 to 1', '2: 0.7 to 0.7', 'nan']
    """
    known = ~np.isnan(values)
    numbers, ranges = _quarters(values[known])
    names = np.full(len(values), "nan", dtype=object)
    names[known] = [f"{number + 1}: {ranges[number][0]:.4g} to {ranges[number][1]:.4g}" for number in numbers]
    return names.tolist()


def _quarters(values: np.ndarray) -> tuple[np.ndarray, dict[int, tuple[Any, Any]]]:
    """(examples,) the quarter of each value, and the least and the greatest of each quarter; equal ones stay together,
    so there may be fewer than four."""
    edges = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
    quarter = np.searchsorted(edges, values, side="left")
    parts = {int(number): values[quarter == number] for number in np.unique(quarter)}
    return quarter, {number: (part.min(), part.max()) for number, part in parts.items()}


def per_class(predictions: Predictions, models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Precision, recall and F1 of each class; of many classes only of the commonest.

    Args:
        predictions: single-label; those with a label are counted.
        models: of whom.
    Returns:
        class name -> `{"support": items, model: {"precision", "recall", "f1"}}`
    """
    known = predictions.where(predictions.labelled)
    names = known.items.names
    support = np.bincount(known.labels, minlength=len(names))
    chosen = [int(number) for number in np.argsort(-support, kind="stable")[:MOST_CLASSES] if support[number]]
    found: dict[str, dict[str, Any]] = {_name(names, number): {"support": int(support[number])} for number in chosen}
    for model in models:
        totals = np.asarray(class_counts(known.decisions[model], known.labels, known.items).sum(axis=0))[0]
        hits, predicted, true = by_class(totals)
        scores = {
            "precision": divide(hits, predicted),
            "recall": divide(hits, true),
            "f1": divide(2 * hits, predicted + true),
        }
        for number in chosen:
            found[_name(names, number)][model] = {name: float(values[number]) for name, values in scores.items()}
    return found


def most_different(predictions: Predictions, texts: Sequence[Any] | None) -> list[dict[str, Any]]:
    """The examples on which student and teacher differ most, by KL(teacher ‖ student), in tagging averaged over words.

    Args:
        predictions: with logits of both.
        texts: of the examples, or lists of their words; None: they are not shown.
    Returns:
        At most ten of `{"example": row number, "kl": nats, "teacher": class, "student": class}`, with `label` and
        `text` where they are known; in tagging the classes are lists, one for each word that both read.
    Raises:
        ValueError: texts of other examples.
    """
    items = predictions.items
    if texts is not None and len(texts) != items.examples:
        raise ValueError(f"Expected a text for each of the {items.examples} examples, got {len(texts)}.")
    predictions = predictions.where(predictions.read_by("student", "teacher"))
    items = predictions.items
    kl = kl_to_teacher(predictions.logits["student"], predictions.logits["teacher"])
    mean = divide(np.bincount(items.owners, weights=kl, minlength=items.examples), items.counts)
    found = []
    for example in np.argsort(-mean, kind="stable")[:MOST_EXAMPLES]:
        if mean[example] <= 0:
            break
        places = np.flatnonzero(items.owners == example)
        chosen_classes = {name: predictions.decisions[name][places] for name in ("teacher", "student")}
        if len(predictions.labels) and predictions.labelled[places].all():
            chosen_classes["label"] = predictions.labels[places]
        classes = {name: [_name(items.names, number) for number in numbers] for name, numbers in chosen_classes.items()}
        entry: dict[str, Any] = {"example": int(example), "kl": float(mean[example])}
        entry |= classes if predictions.words else {name: one for name, (one,) in classes.items()}
        if texts is not None:
            entry["text"] = texts[example] if isinstance(texts[example], str) else list(texts[example])
        found.append(entry)
    return found


def _of_items(name: str, values: Sequence[Any], predictions: Predictions) -> tuple[np.ndarray, str]:
    """A group's value for each item, and what it groups."""
    items = predictions.items
    if len(values) != items.examples:
        raise ValueError(
            f"The group {name!r} has {len(values)} values for {items.examples} examples. Expected one for each row of "
            "the test set, or for each row a list with one for each of its words."
        )
    if not isinstance(values[0], list | tuple | np.ndarray):
        known = {value for value in values if value is not None}
        many = len(known) > MOST_NUMBERS and all(isinstance(value, int | float | np.number) for value in known)
        named = quarters(np.array(values, dtype=np.float64)) if many else [str(value) for value in values]
        return np.asarray(named, dtype=object)[items.owners], "examples"
    short = [row for row, count in enumerate(items.counts) if len(values[row]) < count]
    if short:
        raise ValueError(
            f"The group {name!r} has {len(values[short[0]])} values for the {items.counts[short[0]]} words of row "
            f"{short[0]}. Expected one for each word of the sentence."
        )
    word_level = [[str(value) for value in row] for row in values]
    return first_words([np.asarray(row, dtype=object) for row in word_level], items.counts), "words"


def _name(names: Sequence[str], number: int) -> str:
    return names[number] if 0 <= number < len(names) else str(number)
