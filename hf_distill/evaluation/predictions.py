"""The predictions of models and controls on one test set: an item is an example or, in tagging, a word."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import evaluate
import numpy as np
from datasets import Dataset

from hf_distill import columns
from hf_distill.evaluation.counts import Items, span_counts
from hf_distill.evaluation.predictor import Predictor, check_finite, predict_logits, predict_word_logits
from hf_distill.metrics import IGNORE_INDEX
from hf_distill.tag_schemes import tag_scheme

# For tagging, the class number of every word of a sentence, also of those beyond the longest that a model reads.
WORD_LABELS = "word_labels"
UNREAD = -1  # the decision on a word that a model did not read; it is never right
CONTROL = "Expected one class number, or one row of logits,"


@dataclass(frozen=True)
class Predictions:
    """The predictions of models and controls on the same items.

    Attributes:
        items: the examples that they belong to, and the names of the classes.
        decisions: class numbers (items,), by model or control; (items, classes) of 0/1 or numbers where the labels are.
        logits: (items, classes), by model or control, where it returned logits.
        labels: (items,) or (items, classes); empty where the rows have none.
        words: of a tagged set, see `Report.words`.
    """

    items: Items
    decisions: dict[str, np.ndarray]
    logits: dict[str, np.ndarray]
    labels: np.ndarray
    words: dict[str, int] = field(default_factory=dict)

    @property
    def labelled(self) -> np.ndarray:
        """(items,) whether an item's label is known."""
        present = self.labels != IGNORE_INDEX
        if self.labels.dtype.kind == "f":
            present &= ~np.isnan(self.labels)
        return present if present.ndim == 1 else present.all(axis=-1)

    @property
    def scored_examples(self) -> int:
        """How many examples have an item with a label."""
        return len(np.unique(self.items.owners[self.labelled]))

    def answers(self, metric: evaluate.EvaluationModule, name: str) -> np.ndarray | None:
        """What a metric reads of a model: its decisions or its logits; None if the model returned no logits."""
        return (self.logits if getattr(metric, "reads_logits", False) else self.decisions).get(name)

    def read_by(self, *names: str) -> np.ndarray:
        """(items,) whether all of some models gave logits: in tagging, whether they read a word.

        Args:
            names: of models.
        """
        read = np.ones(len(self.items.owners), dtype=bool)
        for name in names:
            read &= ~np.isnan(self.logits[name]).any(axis=-1)
        return read

    def where(self, chosen: np.ndarray) -> "Predictions":
        """Those about some of the items.

        Args:
            chosen: (items,) bool.
        """
        return Predictions(
            self.items.where(chosen),
            {name: values[chosen] for name, values in self.decisions.items()},
            {name: values[chosen] for name, values in self.logits.items()},
            self.labels[chosen],
            self.words,
        )


@dataclass(frozen=True)
class Predictors:
    """Several models whose predictions are compared, each within its `ready`.

    Attributes:
        models: by name, "student" among them, and "teacher" where its classes are the student's; for tagging each one
            `word_level`.
        problem: see `models.problem_type`.
        names: of the classes.
        word_level: whether an item is a word.
        batch_size: of predictions.
    """

    models: Mapping[str, Predictor]
    problem: str
    names: Sequence[str]
    word_level: bool
    batch_size: int

    def predict(self, dataset: Dataset, controls: Mapping[str, Any] | None = None) -> Predictions:
        """What all models and controls predict on a tokenised data set.

        Where there is a column `teacher_logits`, it holds the logits of the teacher. The k-th word of one tokenizer is
        the k-th of the other; words are cut off at a sentence's end, at the length that a model's rows were given.

        Args:
            dataset: tokenised, with the columns that the predictors were made for.
            controls: (examples,) class numbers or (examples, classes) logits, by name; of words, for each sentence a
                class number for each of its words.
        Raises:
            ValueError: a control about other examples or words, or NaN logits.
        """
        for name, given in (controls or {}).items():
            if len(given) != len(dataset):
                raise ValueError(
                    f"The control {name!r} predicts {len(given)} examples, but the test set has {len(dataset)}. "
                    + ("Expected the class numbers of its words" if self.word_level else CONTROL)
                    + " for every row, in the same order, unlabelled rows included."
                )
        return (self._about_words if self.word_level else self._about_texts)(dataset, controls or {})

    def _about_texts(self, dataset: Dataset, controls: Mapping[str, Any]) -> Predictions:
        logits: dict[str, np.ndarray] = {}
        for name, predictor in self.models.items():
            if name == "teacher" and columns.LOGITS in dataset.column_names:
                logits[name] = _cached_texts(dataset)
            else:
                logits[name] = predict_logits(predictor, dataset, name=name, batch_size=self.batch_size)
        if columns.LOGITS in dataset.column_names and "teacher" not in logits:  # one that is not here
            logits["teacher"] = _cached_texts(dataset)
        decided = {}
        for name, given in controls.items():
            values = np.asarray(given)
            if values.ndim == 2 and values.dtype.kind == "f":
                check_finite(values, name)
                logits[name] = values
            else:
                decided[name] = values
        labels = np.asarray(dataset.with_format(None)["labels"][:]) if "labels" in dataset.column_names else np.empty(0)
        decisions = {name: decide(values, self.problem) for name, values in logits.items()} | decided
        return Predictions(Items.one_an_example(len(dataset), self.names), decisions, logits, labels)

    def _about_words(self, dataset: Dataset, controls: Mapping[str, Any]) -> Predictions:
        by_sentence: dict[str, list[np.ndarray]] = {}
        for name, predictor in self.models.items():
            if name == "teacher" and columns.LOGITS in dataset.column_names:
                by_sentence[name] = _cached(predictor, dataset, len(self.names))
            else:
                by_sentence[name] = predict_word_logits(predictor, dataset, name=name, batch_size=self.batch_size)
        lengths = {name: np.array([len(row) for row in rows]) for name, rows in {**by_sentence, **controls}.items()}
        read_by_all = np.min([lengths[name] for name in by_sentence], axis=0)
        known = _word_labels(self.models["student"], dataset)
        if WORD_LABELS in dataset.column_names:
            whole = _all_labels(dataset, known, {name: lengths[name] for name in by_sentence})
            scored = total = np.array([len(row) for row in whole], dtype=np.int64)
            labels = first_words(whole, scored).astype(np.int64)
        else:  # of the words beyond, no label is known
            scored, total = read_by_all, np.max(list(lengths.values()), axis=0)
            labels = first_words(known, scored)
        for name in controls:
            for row in np.flatnonzero(lengths[name] < scored)[:1]:
                raise ValueError(
                    f"The control {name!r} predicts {lengths[name][row]} words of row {row}, but all models read "
                    f"{read_by_all[row]} of it and {scored[row]} are scored. Expected a class number for each word of "
                    "the sentence."
                )
        logits = {name: first_words(_filled(rows, scored), scored) for name, rows in by_sentence.items()}
        decisions = {name: _decided(values) for name, values in logits.items()}
        decisions |= {name: first_words(rows, scored).astype(np.int64) for name, rows in controls.items()}
        items = Items(np.repeat(np.arange(len(scored)), scored), len(scored), self.names)
        counts = {
            "words": int(total.sum()),
            **{
                f"cut_off_{name}": int((total - lengths[name]).sum())
                for name in ("teacher", "student")
                if name in lengths
            },
            "read_by_all": int(read_by_all.sum()),
            "scored": int((labels != IGNORE_INDEX).sum()),
        }
        if WORD_LABELS in dataset.column_names:
            counts |= lost(decisions["student"], labels, items)
        return Predictions(items, decisions, logits, labels, counts)


def _all_labels(dataset: Dataset, known: Sequence[np.ndarray], lengths: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The labels of all words of each sentence, once they are known to be those of the same words.

    Args:
        dataset: with `word_labels`.
        known: the labels of the words that the student reads.
        lengths: (sentences,) how many words each model reads.
    Raises:
        ValueError: a model reads more words, or the student's have other labels.
    """
    whole = [np.asarray(row, dtype=np.int64) for row in dataset.with_format(None)[WORD_LABELS]]
    counts = np.array([len(row) for row in whole])
    for name, read in lengths.items():
        for row in np.flatnonzero(read > counts)[:1]:
            raise ValueError(
                f"The column {WORD_LABELS} has {counts[row]} labels in row {row}, of which the {name} reads "
                f"{read[row]} words. Expected a class number for each word of the sentence, read or not."
            )
    if "labels" in dataset.column_names:
        for row, (labels, read) in enumerate(zip(whole, known, strict=True)):
            if not np.array_equal(labels[: len(read)], read):
                raise ValueError(
                    f"The column {WORD_LABELS} of row {row} does not begin with the labels of the words that the "
                    "student reads: it is of other rows, or in another order of classes. Make it of the same rows."
                )
    return whole


def _filled(rows: Sequence[np.ndarray], counts: np.ndarray) -> list[np.ndarray]:
    """Logits with NaN for the words that a model did not read."""
    missing = (count - len(row) for row, count in zip(rows, counts, strict=True))
    return [
        row if more <= 0 else np.concatenate([row, np.full((more, row.shape[-1]), np.nan, dtype=row.dtype)])
        for row, more in zip(rows, missing, strict=True)
    ]


def _decided(logits: np.ndarray) -> np.ndarray:
    """(items,) the best class, `UNREAD` where there are no logits."""
    unread = np.isnan(logits).any(axis=-1)
    return np.where(unread, UNREAD, np.where(unread[:, None], 0.0, logits).argmax(axis=-1))


def lost(decisions: np.ndarray, labels: np.ndarray, items: Items) -> dict[str, int]:
    """What a tagger did not read: `lost_words` with a label, and of entities `entities` and `lost_entities`.

    Args:
        decisions: (words,) of the tagger, `UNREAD` where it read nothing.
        labels: (words,)
        items: the words.
    """
    unread = decisions == UNREAD
    found = {"lost_words": int((unread & (labels != IGNORE_INDEX)).sum())}
    if tag_scheme(items.names) is None or importlib.util.find_spec("seqeval") is None:
        return found
    whole = np.where(labels == IGNORE_INDEX, UNREAD, labels)
    read = np.where(unread, UNREAD, whole)
    hits, _, true = (int(total) for total in np.asarray(span_counts(read, whole, items).sum(axis=0))[0])
    return found | {"entities": true, "lost_entities": true - hits}


def first_words(rows: Sequence[Any], counts: np.ndarray) -> np.ndarray:
    """The first words of each sentence, one after the other.

    Args:
        rows: a value or a row of values for each word of a sentence, (words, ...) each.
        counts: (sentences,) how many are taken.
    Returns:
        (sum of counts, ...)
    """
    taken = [np.asarray(row)[:count] for row, count in zip(rows, counts, strict=True) if count]
    return np.concatenate(taken) if taken else np.empty(0)


def decide(logits: np.ndarray, problem: str | None) -> np.ndarray:
    """What a model decides.

    Args:
        logits: (..., classes).
        problem: see `models.problem_type`; None: tagging.
    Returns:
        (...,) class numbers; (..., classes) of 0 and 1 for multi-label; the quantity of a regression, (...,) if there
        is one.
    """
    if problem == "regression":
        return logits[..., 0] if logits.shape[-1] == 1 else logits
    if problem == "multi_label_classification":
        return (logits > 0).astype(np.int64)
    return logits.argmax(axis=-1)


def _cached_texts(dataset: Dataset) -> np.ndarray:
    """(examples, classes) float32, of the column `teacher_logits`."""
    logits = np.stack(columns.all_numbers(dataset, columns.LOGITS)).astype(np.float32)
    check_finite(logits, "teacher's cache")
    return logits


def _cached(predictor: Predictor, dataset: Dataset, classes: int) -> list[np.ndarray]:
    rows = columns.all_numbers(dataset, columns.LOGITS)
    logits = [row.astype(np.float32) if len(row) else np.empty((0, classes), np.float32) for row in rows]
    read = [len(starts) for starts in predictor.word_positions(dataset)]
    if read != [len(row) for row in logits]:
        raise ValueError(
            f"The column {columns.LOGITS} holds {sum(map(len, logits))} rows for {sum(read)} words that the teacher "
            "reads: for tagging a cache holds one row a word. Make it with cache_teacher_outputs on these very rows."
        )
    check_finite(np.concatenate(logits), "teacher's cache", "words")
    return logits


def _word_labels(predictor: Predictor, dataset: Dataset) -> list[np.ndarray]:
    positions = predictor.word_positions(dataset)
    if "labels" not in dataset.column_names:
        return [np.full(len(starts), IGNORE_INDEX) for starts in positions]
    labels = dataset.with_format(None)["labels"]
    return [np.asarray(row, dtype=np.int64)[starts] for row, starts in zip(labels, positions, strict=True)]
