"""A student that answers what it is sure of, and hands the rest to its teacher."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_distill.evaluation.answering import (
    Answers,
    Classifier,
    RuntimeClassifier,
    TorchClassifier,
    classifier_of,
    names_of,
    teacher_of,
)
from hf_distill.evaluation.deferral import (
    Fit,
    Target,
    confidences,
    curve_of,
    fitted,
    interval,
    named,
    row_of,
    too_few,
)
from hf_distill.problems import IGNORE_INDEX
from hf_distill.soft_targets.calibration import calibration_temperature
from hf_distill.teachers.ask import checked_texts
from hf_distill.teachers.text import logger

THRESHOLD, TEMPERATURE = "cascade_threshold", "cascade_temperature"  # of a student's config
FIELDS = (THRESHOLD, TEMPERATURE)


class Cascade:
    """A student and its teacher as one classifier, called like a pipeline of transformers.

    With `agreement=0.99`, P(the student answers and differs from the teacher) is at most 0.01 for texts like the
    calibration texts, with the stated confidence over the choice of these texts; see
    `hf_distill.evaluation.deferral`. With `defer=0.1`, a tenth of such texts is handed over, without a promise. Without
    either, the threshold is the one in the student's config.

    Args:
        student: a folder or Hub id; (model, tokenizer); a text-classification pipeline; or an exported student as
            `hf_distill.runtime.Student` reads it. The threshold is fitted to it as it is, so fit it on the files
            that will answer.
        teacher: likewise; or a `PromptedTeacher`, a `ServedTeacher`, or any function from a list of texts to a list of
            class names. Its classes are the student's, in any order.
        agreement: 1 minus the largest probability that the student answers and differs from the teacher.
        defer: the share of the texts to hand over, in place of an agreement.
        confidence: with which the agreement is promised.
        calibration_texts: texts that neither trained nor selected the student, as those to come; no labels are needed,
            the teacher answers them. None: `fit` is called later.
        batch_size: texts that are read together.
        seed: of the choice of the texts that the temperature of the confidence is fitted on.
    Raises:
        TypeError: something else as student, teacher or texts.
        ValueError: numbers out of range, other classes, too few texts, blank texts, or no threshold that keeps the
            promise.

    >>> cascade = Cascade("student", "teacher", agreement=0.99, calibration_texts=texts)  # doctest: +SKIP
    >>> cascade(["a lovely day"])  # doctest: +SKIP
    [{'label': 'positive', 'score': 0.998, 'deferred': False}]
    """

    def __init__(
        self,
        student: Any,
        teacher: Any,
        *,
        agreement: float | None = None,
        defer: float | None = None,
        confidence: float = 0.95,
        calibration_texts: Sequence[Any] | None = None,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size: expected 1 or more, got {batch_size!r}.")
        wanted = agreement is not None or defer is not None
        self.target = Target(agreement, defer, confidence) if wanted else None
        found = classifier_of(student, batch_size, "student")
        if found is None:
            raise TypeError(
                f"The student is a {type(student).__name__}: expected a folder or Hub id, (model, tokenizer), a "
                "text-classification pipeline, or a hf_distill.runtime.Student."
            )
        self.student: Classifier = found
        self.teacher = teacher_of(teacher, found, batch_size)
        self.seed = seed
        self.source = Path(student) if isinstance(student, str | Path) and Path(student).is_dir() else None
        self.counts = {"texts": 0, "deferred": 0, "unanswered": 0}
        self.fitted: Fit | None = None
        self.threshold, self.temperature = _configured(found)
        self._handed_over: dict[str, str] = {}
        if self.target is None and self.threshold is None:
            raise ValueError(
                f"Neither agreement nor defer was given, and the student's config has no {THRESHOLD}. Give one of them "
                "with calibration_texts."
            )
        if self.target is None and calibration_texts is not None:
            raise ValueError("calibration_texts are for agreement or defer. Give one of them, or leave the texts out.")
        if self.target is not None:
            self.threshold = None
        if calibration_texts is not None:
            self.fit(calibration_texts)

    @property
    def classes(self) -> list[str]:
        """The names of the student's classes, in order."""
        return self.student.classes

    @property
    def curve(self) -> list[dict[str, Any]]:
        """The deferral curve on the texts that tested the threshold: for each share `handed_over`, the `agreement` with
        the teacher, both as `{value, low, high}` (exact 95 % intervals), and the `threshold`; see `report` for more.

        Raises:
            ValueError: nothing was fitted.
        """
        if self.fitted is None:
            raise ValueError("There is no curve before a fit. Call fit(texts), or report(texts).")
        return self.fitted.curve

    def fit(self, texts: Sequence[Any]) -> Fit:
        """Fit temperature and threshold on held-out texts, which the teacher answers; no labels are needed.

        A fifth of the texts, 20 to 500, drawn at random, fits the temperature; the others test thresholds. Texts whose
        answer names no class are left out and counted: the promise is about texts that the teacher can answer. A torch
        student's config gets both numbers, so that `save_pretrained` keeps them.

        Args:
            texts: as in a call.
        Raises:
            ValueError: too few texts (the number needed is said), or no threshold keeps the promise.
        """
        if self.target is None:
            raise ValueError("What shall the threshold be fitted for? Give the Cascade agreement or defer.")
        items = self._items(texts)
        if len(items) < self.target.texts:  # before the teacher is asked
            raise ValueError(too_few(len(items), self.target.texts, self.target))
        probabilities = self.student(items)
        answers = self.teacher(items).numbers
        if not named(answers).any():
            raise ValueError(
                f"None of the teacher's {len(answers):,} answers names one of the student's classes {self.classes}. "
                "Have it answer with a class name and nothing else."
            )
        found = fitted(
            probabilities,
            self.student.decided(probabilities),
            answers,
            self.target,
            temperature_of(self.student.several),
            several=self.student.several,
            seed=self.seed,
        )
        if found.threshold is None:
            raise ValueError(
                f"No threshold keeps agreement={self.target.agreement} with confidence {self.target.confidence}: on "
                f"{found.tested_texts:,} texts even the answers that the student is most sure of differ from its "
                "teacher's. Ask for less agreement, give more texts, or take a better student."
            )
        self.fitted, self.threshold, self.temperature = found, found.threshold, found.temperature
        if isinstance(self.student, TorchClassifier):
            for name, value in self.config_fields.items():
                setattr(self.student.model.config, name, value)
        return found

    @property
    def config_fields(self) -> dict[str, float]:
        """`cascade_threshold` and `cascade_temperature`, which the student's config holds.

        Raises:
            ValueError: nothing was fitted.
        """
        return {THRESHOLD: self._ready, TEMPERATURE: self.temperature}

    @property
    def _ready(self) -> float:
        if self.threshold is None:
            raise ValueError("There is no threshold yet. Call fit(texts), or give calibration_texts.")
        return self.threshold

    def __call__(self, texts: Any) -> list[dict[str, Any]]:
        """The answer to each text.

        Args:
            texts: one or several; a pair of texts is a tuple, or a dict of `text` and `text_pair`. Pairs need a
                classifier as teacher.
        Returns:
            Always a list: `label`; its probability `score`, of whoever answered (None where a teacher gives none); and
            `deferred`, whether the teacher was asked. With several labels, `label` is the list of all that apply, and
            `score` that of the least certain decision. Where the teacher names no class, the student's answer stands,
            which is counted (`counts["unanswered"]`) and warned of.
        Raises:
            TypeError, ValueError: something else than texts, or blank ones.
        """
        threshold, items = self._ready, self._items(texts)
        probabilities = self.student(items)
        decided = self.student.decided(probabilities)
        deferred = confidences(probabilities, self.temperature, self.student.several) < threshold
        scores = confidences(probabilities, 1.0, self.student.several)
        answers = [self._answer(*each) for each in zip(decided, scores, deferred, strict=True)]
        places = np.flatnonzero(deferred)
        told = self._asked([items[place] for place in places])
        for place, number, score in zip(places, told.numbers, told.scores, strict=True):
            if np.min(number) != IGNORE_INDEX:
                answers[place] = self._answer(number, score, True)
        self.counts["texts"] += len(items)
        self.counts["deferred"] += len(places)
        return answers

    def _asked(self, items: list[Any]) -> Answers:
        told = self.teacher(items)
        silent = ~named(told.numbers)
        if silent.any():
            number = int(silent.sum())
            self.counts["unanswered"] += number
            logger.warning(
                f"The teacher names no class for {number} of {len(items)} texts: there the student's stands."
            )
        for place, item in enumerate(items):
            if isinstance(item, str) and not silent[place]:
                self._handed_over[item] = "" if told.texts is None else told.texts[place]
        return told

    def _answer(self, decided: Any, score: float, deferred: bool) -> dict[str, Any]:
        names = names_of(decided, self.classes)
        return {
            "label": names if self.student.several else names[0],
            "score": None if np.isnan(score) else float(score),
            "deferred": bool(deferred),
        }

    def _items(self, texts: Any) -> list[Any]:
        """Texts, or pairs as tuples; none of them blank."""
        alone = isinstance(texts, str | Mapping) or (
            isinstance(texts, tuple) and all(isinstance(each, str) for each in texts)
        )
        items = [_item(each) for each in ([texts] if alone else texts)]
        kinds = {type(item) for item in items}
        if len(kinds) > 1:
            raise TypeError("Expected texts or pairs of texts, got both. Call the cascade for each kind.")
        checked_texts([item if isinstance(item, str) else " ".join(item) for item in items])
        return items

    def report(self, texts: Sequence[Any], labels: Sequence[str] | None = None) -> dict[str, Any]:
        """What the cascade is worth on further texts, which the teacher answers all.

        Args:
            texts: that neither trained the student nor fitted the threshold.
            labels: the name of each text's class. None: there is no `quality`.
        Returns:
            `curve`, rows as in `curve` with `quality` (accuracy, where labels are given) and `cost`: the time of
            student and teacher in shares of the teacher's time for all texts; `at_threshold`, such a row for the
            threshold; `texts`, and those `unanswered`, which are left out; and the `fit`.
        Raises:
            ValueError: labels that do not fit, no text, or no answer.
        """
        items = self._items(texts)
        threshold = self._ready
        probabilities, student_ms = _timed(self.student, items)
        told, teacher_ms = _timed(self.teacher, items)
        known = named(told.numbers)
        if not known.any():
            raise ValueError("There is no text with an answer of the teacher, so there is nothing to report.")
        decided, answers = self.student.decided(probabilities)[known], told.numbers[known]
        same = (decided == answers).reshape(len(answers), -1).all(axis=1)
        confidence = confidences(probabilities[known], self.temperature, self.student.several)
        quality = None
        if labels is not None:
            true = self._numbers(labels, len(items))[known]

            def quality(handed_over: np.ndarray) -> dict[str, float]:
                given = np.where(handed_over.reshape(-1, *[1] * (decided.ndim - 1)), answers, decided)
                return interval(int((given == true).reshape(len(true), -1).all(axis=1).sum()), len(true))

        times = student_ms, teacher_ms
        return {
            "texts": int(known.sum()),
            "unanswered": int((~known).sum()),
            "fit": None if self.fitted is None else self.fitted.as_dict(),
            "at_threshold": {"threshold": threshold, **row_of(confidence < threshold, same, quality, times)},
            "curve": curve_of(confidence, same, quality, times),
            "student_ms": student_ms,
            "teacher_ms": teacher_ms,
        }

    def _numbers(self, labels: Sequence[Any], texts: int) -> np.ndarray:
        rows = [[label] if isinstance(label, str) else list(label) for label in labels]
        unknown = sorted({str(name) for row in rows for name in row} - set(self.classes))
        if len(rows) != texts or unknown or (not self.student.several and any(len(row) != 1 for row in rows)):
            raise ValueError(
                f"labels: expected the class name of each of {texts} texts, of {self.classes}; got {len(rows)} labels"
                f"{' with ' + ', '.join(unknown[:3]) if unknown else ''}."
            )
        if self.student.several:
            return np.array([[name in row for name in self.classes] for row in rows], dtype=np.int64)
        return np.array([self.classes.index(row[0]) for row in rows])

    def harvest(self, path: str | Path, *, name: str | None = None) -> int:
        """Keep the texts that were handed over, with the teacher's answers, in a ledger for the next distillation.

        Every line has `key`, `text` and `answer`, as `hf_distill.teachers.ask` writes and reads them;
        `datasets.load_dataset("json", data_files=path)` reads them as rows. The texts are the hard ones, not a sample
        of all. They are forgotten here afterwards. Pairs are not kept.

        Args:
            path: of a new or an old ledger.
            name: under which a function's answers are kept.
        Returns:
            How many were new to the ledger.
        Raises:
            ValueError: a function and no name, or something else at the path.
        """
        added = self.teacher.harvested(self._handed_over, Path(path), name)
        self._handed_over = {}
        return added

    def save(self, folder: str | Path | None = None) -> None:
        """Write threshold and temperature into the `config.json` of a student's folder.

        `hf_distill.runtime`, its copy beside the student, and the script for JavaScript read them there.

        Args:
            folder: of the student. None: the one that the cascade was made with.
        Raises:
            ValueError: no threshold, or no config.json.
        """
        place = self.source if folder is None else Path(folder)
        if place is None or not (place / "config.json").is_file():
            raise ValueError(f"{place} has no config.json. Give the folder of the saved student.")
        fields, path = self.config_fields, place / "config.json"
        content = json.loads(path.read_text(encoding="utf-8")) | fields
        temporary = path.with_name("config.json.part")
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(temporary, path)


def temperature_of(several: bool) -> Any:
    """What fits the temperature at which a student's probabilities say how often it agrees with its teacher.

    Args:
        several: whether a text may have several labels; each is then a choice of its own.
    """

    def found(probabilities: np.ndarray, answers: np.ndarray) -> float:
        least = np.finfo(np.float64).tiny
        logs = np.log(np.maximum(probabilities, least))
        if not several:
            return calibration_temperature(logs, answers)
        against = np.log(np.maximum(1 - probabilities, least))
        return calibration_temperature(np.stack([against, logs], axis=-1).reshape(-1, 2), answers.reshape(-1))

    return found


def _configured(student: Classifier) -> tuple[float | None, float]:
    """Threshold and temperature in a student's config."""
    if isinstance(student, RuntimeClassifier):
        config: Mapping[str, Any] = student.student.config
    else:
        config = vars(student.model.config) if isinstance(student, TorchClassifier) else {}
    threshold, temperature = config.get(THRESHOLD), config.get(TEMPERATURE) or 1.0
    return (None if threshold is None else float(threshold)), float(temperature)


def _item(given: Any) -> Any:
    if isinstance(given, Mapping) and {*given} <= {"text", "text_pair"} and "text" in given:
        given = (given["text"], given["text_pair"]) if given.get("text_pair") else given["text"]
    if isinstance(given, list | tuple) and len(given) == 2 and all(isinstance(each, str) for each in given):
        return tuple(given)
    if not isinstance(given, str):
        raise TypeError(f"Expected texts, or pairs as (text, text_pair) or dicts of both; got {given!r:.80}.")
    return given


def _timed(answer: Any, items: list[Any]) -> tuple[Any, float]:
    """What a model answers, and its milliseconds a text."""
    start = time.perf_counter()
    found = answer(items)
    return found, (time.perf_counter() - start) * 1000 / max(1, len(items))
