"""The controls of a recipe that need no neural student: what each task can have without one."""

from collections.abc import Callable, Iterable
from typing import Any

import datasets
import numpy as np
from scipy.special import softmax

from hf_distill.data.labelled import Splits, texts_of
from hf_distill.evaluation.controls import crf_tagger, majority_class, most_frequent_tag, tfidf_logistic_regression
from hf_distill.problems import IGNORE_INDEX, Task

SELF_TRAINING, HARD_LABELS = "self_training", "teacher_hard_labels"
TAUGHT_TFIDF, TAUGHT_CRF = "tfidf_on_teacher_soft_labels", "crf_on_teacher_tags"
WITH_TEACHER = (HARD_LABELS, TAUGHT_TFIDF, TAUGHT_CRF)


MANY_SENTENCES = 10_000


def known_controls(task: Task, problem_type: str | None) -> list[str]:
    """The names of the controls that a task has, beside the student without a teacher."""
    if task.word_level:
        return [*TAGGING, TAUGHT_CRF, SELF_TRAINING, HARD_LABELS]
    if problem_type == "single_label_classification":
        return [*CLASSIFICATION, TAUGHT_TFIDF, SELF_TRAINING, HARD_LABELS]
    return []


def on_teacher(name: str, splits: Splits, texts: datasets.Dataset, logits: Iterable[Any]) -> Any:
    """What a control that learns from the teacher alone says of the test set.

    Args:
        name: `TAUGHT_TFIDF` or `TAUGHT_CRF`.
        splits: of the data.
        texts: what the teacher was asked about.
        logits: its answers: (classes,) for each text, or (words, classes).
    """
    if name == TAUGHT_CRF:
        tags = [np.argmax(row, axis=-1).tolist() for row in logits]
        whole = [(words, said) for words, said in zip(texts["words"], tags, strict=True) if len(words) == len(said)]
        words, said = [list(part) for part in zip(*whole, strict=True)]
        return crf_tagger(
            words,
            said,
            splits.validation["words"],
            splits.validation["label"],
            splits.test["words"],
            algorithm="ap",
        )
    soft = softmax(np.array(list(logits), dtype=np.float64), axis=-1)
    return tfidf_logistic_regression(list(texts_of(texts)), None, *_judged(splits), soft_labels=soft)


def _majority_class(splits: Splits) -> Any:
    return majority_class(splits.train["label"], len(splits.test))


def _tfidf(splits: Splits) -> Any:
    return tfidf_logistic_regression(list(texts_of(splits.train)), splits.train["label"], *_judged(splits))


def _most_frequent_tag(splits: Splits) -> Any:
    return most_frequent_tag(splits.train["words"], splits.train["label"], splits.test["words"])


def _crf(splits: Splits) -> Any:
    validation = splits.validation["words"], splits.validation["label"]
    # The averaged perceptron takes a thirtieth of the time.
    algorithm = "lbfgs" if len(splits.train) <= MANY_SENTENCES else "ap"
    return crf_tagger(splits.train["words"], splits.train["label"], *validation, splits.test["words"], algorithm)


def _judged(splits: Splits) -> tuple[list[str], list[int], list[str]]:
    return list(texts_of(splits.validation)), splits.validation["label"], list(texts_of(splits.test))


CLASSIFICATION: dict[str, Callable[[Splits], Any]] = {
    "majority_class": _majority_class,
    "tfidf_logistic_regression": _tfidf,
}
TAGGING: dict[str, Callable[[Splits], Any]] = {"most_frequent_tag": _most_frequent_tag, "crf_tagger": _crf}


def relabelled(
    rows: datasets.Dataset, answers: list[Any], word_level: bool, keep_known: bool = False
) -> datasets.Dataset:
    """Tokenised rows with somebody's decisions as their labels.

    Args:
        rows: with `labels`, and for tagging `word_starts`.
        answers: a class number a row, or a list of them a word.
        word_level: whether this is tagging.
        keep_known: whether labels that are there stay.
    """

    def label(row: dict[str, Any], number: int) -> dict[str, Any]:
        known = row["labels"]
        if not word_level:
            return {"labels": known if keep_known and known != IGNORE_INDEX else int(answers[number])}
        if keep_known and any(each != IGNORE_INDEX for each in known):
            return {"labels": known}
        said = iter(answers[number])
        return {"labels": [int(next(said, IGNORE_INDEX)) if mark == 1 else IGNORE_INDEX for mark in row["word_starts"]]}

    return rows.map(label, with_indices=True, keep_in_memory=True, desc="Label")
