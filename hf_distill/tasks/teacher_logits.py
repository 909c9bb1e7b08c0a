"""The logits of a recipe's teachers on its rows: cross-fitted, mapped to the data's classes, calibrated."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy.optimize import linear_sum_assignment
from transformers import PreTrainedModel

from hf_distill.columns import LOGITS
from hf_distill.evaluation.predictor import Predictor, predict_logits, predict_word_logits
from hf_distill.problems import IGNORE_INDEX
from hf_distill.soft_targets.cache import cache_teacher_outputs
from hf_distill.soft_targets.calibration import adjusted, calibration_temperature
from hf_distill.soft_targets.cross_fit import Share, as_one_teacher, ask_teachers, cross_fit_shares
from hf_distill.tasks.models import Models
from hf_distill.tasks.settings import Settings
from hf_distill.teachers.ensemble import TeacherEnsemble


class TeacherLogits:
    """What the teachers of a run predict.

    Args:
        settings: of the run.
        models: of the run.
        classes: of the data, in order.
        validation: rows with labels that no teacher was fine-tuned on, for the calibration.
        read: gives rows in the tokens of student and teacher.
        notes: for the console, appended to.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models,
        classes: Sequence[str],
        validation: datasets.Dataset,
        read: Callable[[datasets.Dataset], datasets.Dataset],
        notes: list[str],
    ) -> None:
        self.settings, self.models, self.classes = settings, models, classes
        self.validation, self.read, self.notes = validation, read, notes
        self.temperatures: dict[tuple[int, ...], float] = {}  # see `temperature`
        self._compared: dict[str, datasets.Dataset] = {}

    def fold_teachers(self, numbers: Iterable[int]) -> list[PreTrainedModel]:
        """The teachers that were fine-tuned without the rows of these folds."""
        return [self.models.load(self.models.work / "folds" / str(number))[0] for number in numbers]

    def cached(self, rows: datasets.Dataset, folder: Path, bf16: bool) -> datasets.Dataset:
        """The rows with the teacher's logits, in the data's classes.

        Args:
            rows: tokenized.
            folder: of the cache.
            bf16: whether the teacher computes in bfloat16.
        """
        teacher, _, placement = self.models.live_teacher()
        options = {**self.pass_options, "bf16": bf16, "teacher_placement": placement}
        return self.adjusted(cache_teacher_outputs(rows, teacher, output_dir=folder, **options))

    @property
    def pass_options(self) -> dict[str, Any]:
        """Arguments of `cache_teacher_outputs`."""
        return {"task": self.settings.task, "dtype": "float32"}

    def cross_fitted(self, rows: datasets.Dataset, folds: Sequence[int], folder: Path, bf16: bool) -> datasets.Dataset:
        """The rows with logits of the teachers that were not fine-tuned on them, in the data's classes.

        Args:
            rows: tokenized.
            folds: of all rows, see `cross_fit_shares`.
            folder: of the caches.
            bf16: whether the teachers compute in bfloat16.
        """
        number = self.settings.teacher.cross_fit or 0
        shares = cross_fit_shares(folds, number, len(rows))
        teachers = self.fold_teachers(range(number))
        with_logits = ask_teachers(rows, teachers, shares, folder, **self.pass_options, bf16=bf16)
        return self.adjusted(with_logits, shares)

    def adjusted(self, rows: datasets.Dataset, shares: Sequence[Share] = ()) -> datasets.Dataset:
        """The rows with the teacher's logits in the data's classes, divided by its calibration temperature.

        Args:
            rows: with logits.
            shares: which teachers gave which rows their logits, under cross-fitting.
        """
        settings = self.settings.teacher
        if not (settings.label_map or settings.calibrate):
            return rows
        temperature: float | np.ndarray = 1.0
        if settings.calibrate and shares:
            temperature = np.ones(len(rows))
            for share in shares:
                temperature[share.rows] = self.temperature(share.teachers)
        elif settings.calibrate:
            temperature = self.temperature()
        changed, lost = adjusted(rows, temperature, settings.label_map, self.models.teacher_classes, self.classes)
        if lost:
            self.notes.append(f"teacher.label_map leaves out the teacher's choice for {lost:.1%} of the items.")
        return changed

    def temperature(self, numbers: tuple[int, ...] = ()) -> float:
        """The calibration temperature of the teacher, or of the teachers of some folds, on the validation labels."""
        if numbers in self.temperatures:
            return self.temperatures[numbers]
        teacher = as_one_teacher(self.fold_teachers(numbers)) if numbers else self.models.teacher()[0]
        found = calibration_temperature(*self._on_validation(teacher))
        of_folds = f" without fold {' or '.join(map(str, numbers))}" if numbers else ""
        self.notes.append(f"calibration temperature of the teacher{of_folds}: {found:.3f}")
        self.temperatures[numbers] = found
        return found

    def better_order(self) -> list[str] | None:
        """The classes in an order in which the teacher is right more often, beyond what chance explains; mostly None.

        The order is the best assignment of the teacher's outputs to the classes on the validation labels. It counts
        where the 95 % interval of the paired gain in accuracy lies above 0.
        """
        logits, labels = self._on_validation(self.models.teacher()[0])
        decided, labels = logits[labels != IGNORE_INDEX].argmax(axis=-1), labels[labels != IGNORE_INDEX]
        if not len(labels):
            return None
        hits = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        np.add.at(hits, (decided, labels), 1)
        order = linear_sum_assignment(hits, maximize=True)[1]
        gains = (order[decided] == labels).astype(float) - (decided == labels)
        low = gains.mean() - 1.96 * gains.std(ddof=1 if len(gains) > 1 else 0) / np.sqrt(len(gains))
        return [self.classes[number] for number in order] if low > 0 else None

    def _on_validation(self, teacher: PreTrainedModel | TeacherEnsemble) -> tuple[np.ndarray, np.ndarray]:
        """Logits of a teacher in the data's classes and labels, of each validation row or each word of it."""
        rows = self.live(self.read(self.validation), teacher)
        if self.settings.teacher.label_map:
            rows, _ = adjusted(rows, 1.0, self.settings.teacher.label_map, self.models.teacher_classes, self.classes)
        logits = [np.asarray(row, dtype=np.float32).reshape(-1, len(self.classes)) for row in rows[LOGITS]]
        true = [np.atleast_1d(row) for row in self.validation["label"]]
        # Of a sentence that was cut off, the words that were read.
        labels = np.concatenate([row[: len(answers)] for row, answers in zip(true, logits, strict=True)])
        return np.concatenate(logits), labels

    def compared(self, rows: datasets.Dataset) -> datasets.Dataset:
        """Tokenized rows with the teacher's logits as reports and cascades read them, in the data's classes."""
        if rows._fingerprint not in self._compared:
            answered = self.live(rows, self.models.teacher()[0])
            mapped = self.settings.teacher.label_map
            self._compared[rows._fingerprint] = self.adjusted(answered) if mapped else answered
        return self._compared[rows._fingerprint]

    def live(self, rows: datasets.Dataset, teacher: PreTrainedModel | TeacherEnsemble) -> datasets.Dataset:
        """Tokenized rows with the logits of a teacher, computed now."""
        tokenizer, word_level = self.models.tokenizer(self.models.source), self.models.kind.word_level
        predictor = Predictor(teacher, rows, tokenizer, as_teacher=True, word_level=word_level)
        with predictor.ready():
            predict: Any = predict_word_logits if word_level else predict_logits
            logits = predict(predictor, rows, name="teacher")
        return rows.add_column(LOGITS, [row.tolist() for row in logits])
