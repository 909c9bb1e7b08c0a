"""Text classification by a teacher behind a prompt: with labels, with a few of them for the test, or with none."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy.special import softmax
from transformers import EvalPrediction

from hf_distill.columns import LOGITS
from hf_distill.data.labelled import Splits, load, texts_of
from hf_distill.data.tokenization import tokenize
from hf_distill.evaluation.controls import majority_class, tfidf_logistic_regression
from hf_distill.evaluation.quality import MAJORITY
from hf_distill.problems import IGNORE_INDEX
from hf_distill.reports.costs import costs
from hf_distill.reports.report import Report, plain
from hf_distill.soft_targets.calibration import calibration_temperature
from hf_distill.tasks.base import Trained
from hf_distill.tasks.labelling import HARD_LABELS
from hf_distill.tasks.models import NOTHING, check_lengths
from hf_distill.tasks.prompt_settings import AGREEMENT
from hf_distill.tasks.prompted_teacher import RecipeTeacher
from hf_distill.tasks.settings import Settings
from hf_distill.tasks.text_classification import TextClassification
from hf_distill.teachers.class_targets import METHODS, ClassTargets
from hf_distill.teachers.identity import short_hash
from hf_distill.teachers.prompted import Questions

WIDE = 0.1  # of an interval, from which on a test set is too small to tell much
SLIGHTLY = 1e-3  # by which the right class is less likely than the others where the teacher named none


class PromptedClassification(TextClassification):
    """A student whose teacher is asked for the class of each text."""

    @classmethod
    def check_settings(cls, settings: Settings) -> None:
        """Whatever cannot go with its teacher was refused before, see `prompt_checks`."""

    def load_splits(self) -> Splits:
        """Read, clean and split the data, whose classes are the prompt's."""
        settings = self.settings
        data = dataclasses.replace(settings.data, labels=list(self.names))
        return load(data, settings.seed, task=settings.task, keep=settings.compare.by)

    @property
    def names(self) -> list[str]:
        """The classes of the prompt, in their order."""
        prompt: Any = self.settings.teacher.prompt
        return prompt.question.names

    @property
    def has_labels(self) -> bool:
        """Whether training texts have labels."""
        return self.settings.data.label is not None

    @property
    def has_baseline(self) -> bool:
        """Whether there are labels to train a student without a teacher on."""
        return self.has_labels

    @cached_property
    def teacher(self) -> RecipeTeacher:
        """The teacher behind its prompt."""
        return RecipeTeacher(self.settings, self.models)

    # Before anything expensive

    @property
    def checks(self) -> Sequence[Callable[[], None]]:
        """What raises a ValueError for whatever would fail later."""
        return *super().checks, self.check_budget

    def check_metrics(self) -> None:
        """Raise a ValueError for metrics that cannot judge these labels."""
        if not self.settings.judged_by_teacher:
            super().check_metrics()

    def check_teacher(self) -> None:
        """Raise a ValueError where the teacher cannot be asked; nothing is sent."""
        if self.teacher.is_served:
            try:
                self.teacher.loaded()
            except ImportError as error:
                raise ValueError(f"teacher.server: {error}") from error
        else:
            self.models.config(self.models.asked)

    def check_texts(self) -> None:
        """Raise a ValueError where the student's base has no positions for the texts."""
        settings = self.settings.student
        if self.models.source != NOTHING and (settings.vocab_size is None or settings.kind == "transformer"):
            tokenizer = self.models.tokenizer(self.models.source)
            check_lengths(self.parts, tokenizer, settings.max_length, self.models.places, "student.max_length")

    def check_budget(self) -> None:
        """Raise a ValueError where the texts that are held out leave nothing of the budget."""
        budget = self.settings.teacher.budget
        if budget is not None and budget <= len(self.held_out_texts):
            raise ValueError(
                f"teacher.budget: {budget} texts may be asked about, and {len(self.held_out_texts)} are held out for "
                "validation and tests, which the teacher is asked about too. Raise it, or hold out fewer."
            )

    def check_loaded_teacher(self) -> None:
        """Its classes are those of its prompt."""

    @property
    def same_classes(self) -> bool:
        """A model that the student starts from has no head for these classes."""
        return False

    @property
    def selection_metric(self) -> str:
        """The recipe's first metric; agreement with the teacher where there are no labels."""
        return self.settings.metrics[0] if self.has_labels else AGREEMENT

    # What results depend on

    def inputs(self, step: str) -> dict[str, Any]:
        """Beside the classes: what is asked of whom about which texts, and for the report what it costs."""
        found = super().inputs(step)
        teacher: Any = self.settings.teacher
        if step == "cache":
            server = teacher.server
            found |= {
                "teacher.prompt": short_hash(json.dumps(teacher.prompt.question.record()).encode()),
                "teacher.prompt.method": teacher.prompt.method,
                "teacher.prompt.samples": teacher.prompt.samples,
                "teacher.prompt.prior": teacher.prompt.prior,
                "teacher.server": None if server is None else {"model": server.model, "extra": server.extra},
                "teacher.budget": teacher.budget,
                "rows.held out": short_hash(json.dumps(self.held_out_texts).encode()),
            }
        if step == "compare":
            found["teacher.price"] = None if teacher.price is None else dataclasses.asdict(teacher.price)
        return found

    # Texts and answers

    @cached_property
    def held_out_texts(self) -> list[str]:
        """The different texts of validation and tests."""
        splits = self.splits
        parts = (splits.validation, splits.test, splits.fidelity, *self.further.values())
        return list(dict.fromkeys(chain.from_iterable(map(texts_of, parts))))

    @cached_property
    def all_texts(self) -> datasets.Dataset:
        """The training rows that the teacher is asked about: all, or as many as the budget allows.

        Labelled ones come first, as they teach twice; else they are drawn at random.
        """
        rows = datasets.concatenate_datasets([self._given.train, self._given.unlabelled])
        budget = self.settings.teacher.budget
        left = len(rows) if budget is None else budget - len(self.held_out_texts)
        if left >= len(rows):
            return rows
        order = np.random.default_rng(self.settings.seed).permutation(len(rows))
        labels = np.asarray(rows["label"])[order]
        chosen = order[np.argsort(labels == IGNORE_INDEX, kind="stable")][:left]
        return rows.select(np.sort(chosen))

    @cached_property
    def _given(self) -> Splits:
        """The splits as they were read, before the teacher gave labels."""
        return self.splits

    @property
    def asked_texts(self) -> list[str]:
        """All texts that the teacher is asked about, those to learn from first."""
        return list(dict.fromkeys([*self.all_texts["text"], *self.held_out_texts]))

    def questions(self) -> Questions:
        """The prompt of one row, and how many questions a run asks."""
        return self.teacher.described(self.asked_texts)

    @cached_property
    def targets(self) -> ClassTargets:
        """The teacher's answers to `asked_texts`."""
        given, texts = self._given, self.asked_texts
        targets = self.teacher.answers(texts, str(self.models.folder / "cache"))
        self._number_of = {text: number for number, text in enumerate(texts)}
        self.notes += [f"answers: {METHODS[targets.method]}", *targets.notes[1:]]
        if not self.has_labels:
            parts = {"train": given.train, "validation": given.validation}
            parts |= {"test": given.test} if self.settings.judged_by_teacher else {}
            named = {name: self._labelled(part, targets, keep=name == "train") for name, part in parts.items()}
            self.splits = dataclasses.replace(given, **named)
        return targets

    def _labelled(self, rows: datasets.Dataset, targets: ClassTargets, keep: bool) -> datasets.Dataset:
        """Rows with the teacher's classes for labels, without those that it gave none; or, to `keep` all, -100."""
        numbers = [self._number_of.get(text) for text in rows["text"]]
        labels = [IGNORE_INDEX if number is None else int(targets.labels[number]) for number in numbers]
        made = rows.remove_columns("label").add_column("label", labels)
        return made if keep else made.select(np.flatnonzero(np.array(labels) != IGNORE_INDEX))

    def log_probabilities(self, rows: datasets.Dataset) -> np.ndarray:
        """(rows, classes) of rows with `text`, calibrated where asked to; NaN where the teacher named no class."""
        targets = self.targets
        return targets.log_probabilities[[self._number_of[text] for text in rows["text"]]] / self.temperature

    @cached_property
    def temperature(self) -> float:
        """The calibration temperature on the validation labels; 1 where it is not asked for."""
        if not self.settings.teacher.calibrate:
            return 1.0
        targets, rows = self.targets, self.splits.validation
        known = targets.log_probabilities[[self._number_of[text] for text in rows["text"]]]
        answered = ~np.isnan(known).any(axis=1)
        found = calibration_temperature(known[answered], np.asarray(rows["label"])[answered])
        self.notes.append(f"calibration temperature of the teacher: {found:.3f}")
        return found

    # Rows

    def read(self, rows: datasets.Dataset) -> datasets.Dataset:
        """Rows as the student reads them; the teacher is asked about their texts."""
        key = (rows._fingerprint, str(self.models.initialized))
        if key not in self._tokenized:
            limit = self.settings.student.max_length
            self._tokenized[key] = tokenize(rows, self.student_tokenizer(), max_length=limit)
        return self._tokenized[key]

    def validation_rows(self) -> datasets.Dataset:
        """The validation rows, with the teacher's classes where there are no labels."""
        _ = self.targets
        return super().validation_rows()

    def with_soft_targets(self, rows: datasets.Dataset, folder: Path, bf16: bool) -> datasets.Dataset:
        """The rows with the teacher's log-probabilities, without those that it gave none."""
        known = self.log_probabilities(self.all_texts)
        self._answered = np.flatnonzero(~np.isnan(known).any(axis=1))
        if len(self._answered) < len(rows):
            self.counts["training texts whose answer names no class, left out"] = len(rows) - len(self._answered)
        kept = rows.select(self._answered)
        return kept.add_column(LOGITS, [row.tolist() for row in known[self._answered]])

    def for_comparison(self, rows: datasets.Dataset) -> datasets.Dataset:
        """Rows as `compare` reads them: with the teacher's log-probabilities.

        Where the teacher named no class it is wrong, and its probabilities are nearly the same for all.
        """
        known = self.log_probabilities(rows)
        silent = np.isnan(known).any(axis=1)
        known[silent] = -np.log(len(self.classes))
        labels = np.asarray(rows["label"])
        unnamed = np.flatnonzero(silent & (labels != IGNORE_INDEX))
        known[unnamed, labels[unnamed]] -= SLIGHTLY
        return self.read(rows).add_column(LOGITS, [row.tolist() for row in known])

    # Training, controls and the end

    def validation_metrics(self, tokenizer: Any) -> Callable[[EvalPrediction], dict[str, float]]:
        """The recipe's metrics on the validation rows; agreement with the teacher where there are no labels."""
        if self.has_labels:
            return super().validation_metrics(tokenizer)
        metric = self.metric(AGREEMENT)

        def agreement(prediction: EvalPrediction) -> dict[str, float]:
            decided = np.asarray(prediction.predictions).argmax(axis=-1)
            return metric.compute(predictions=decided, references=np.asarray(prediction.label_ids))

        return agreement

    @property
    def known_controls(self) -> list[str]:
        """Without labels those that learn from the teacher."""
        return super().known_controls if self.has_labels else [self.soft_control, HARD_LABELS]

    @property
    def with_teacher(self) -> tuple[str, ...]:
        """The controls that use the teacher; without labels the majority class is that of its answers."""
        return super().with_teacher if self.has_labels else (*super().with_teacher, MAJORITY)

    def soft_control_predictions(self, rows: datasets.Dataset) -> Any:
        """TF-IDF and logistic regression on the teacher's probabilities."""
        soft = softmax(np.array(list(rows[LOGITS]), dtype=np.float64), axis=-1)
        texts = list(texts_of(self.all_texts.select(self._answered)))
        validation = list(texts_of(self.splits.validation)), self.splits.validation["label"]
        return tfidf_logistic_regression(texts, None, *validation, list(texts_of(self.splits.test)), soft_labels=soft)

    def compare(self, trained: Trained) -> Report:
        """Measure the student on the test rows, beside what the teacher answered there."""
        targets = self.targets
        no_model: Any = None
        controls = trained.controls
        if not self.has_labels:
            controls = {MAJORITY: majority_class(self.splits.train["label"], len(self.splits.test)), **controls}
        trained = dataclasses.replace(trained, teacher=(no_model, trained.teacher[1]), controls=controls)
        report = super().compare(trained)
        counted = {name: targets.counts.get(name, 0) for name in ("texts", "distinct", "without_target", "unreturned")}
        teacher: Any = self.settings.teacher
        answers: dict[str, Any] = {
            "model": teacher.source.removeprefix("./") if teacher.server else Path(teacher.source).name,
            "method": targets.method,
            "told": METHODS[targets.method],
            "notes": targets.notes[1:],
            "outside": float(targets.outside.mean()),
            **counted,
        }
        warnings = report.warnings
        if not self.has_labels:
            answers["without_labels"] = self._without_labels(report)
            warnings = [answers["without_labels"], *self._too_small(report), *warnings]
        return dataclasses.replace(report, answers=plain(answers), warnings=warnings)

    def finished_report(self, report: Report) -> Report:
        """The report with what the answers cost."""
        targets, price = self.targets, self.settings.teacher.price
        seconds = report.run["seconds"]
        speed = report.models["student"]["end_to_end_throughput"]["batch_32"]
        trained = sum(seconds.get(step, 0.0) for step in ("initialize", "distill"))
        priced = None if price is None else dataclasses.asdict(price)
        found = costs(targets.counts, targets.seconds, speed, trained, priced)
        curves = {} if self.has_labels else {"curves_of": AGREEMENT}
        return dataclasses.replace(report, cost=plain(found), run={**report.run, **curves})

    def _without_labels(self, report: Report) -> str:
        chosen = f"agreement with the teacher on {len(self.splits.validation):,} validation texts"
        if self.settings.judged_by_teacher:
            return (
                f"No text had a label: models were selected by {chosen}, and every quality here is agreement with the "
                "teacher's answers, right or wrong."
            )
        return (
            f"Trained without labels: models were selected by {chosen}; quality is measured on {report.examples:,} "
            "labelled texts that were used for nothing else."
        )

    def _too_small(self, report: Report) -> list[str]:
        """Warnings of a labelled test set that is too small to tell."""
        metric = report.metrics[0]
        student: Mapping[str, float] = report.models["student"]["quality"][metric]
        warnings = []
        if student["high"] - student["low"] > WIDE:
            warnings.append(
                f"{report.examples:,} test texts are too few to tell the student's {metric.replace('_', ' ')}: it lies "
                f"between {student['low']:.3f} and {student['high']:.3f}."
            )
        kept = report.ratio_intervals.get("quality_kept")
        if kept and kept["low"] < 1 < kept["high"]:
            warnings.append(
                f"{report.examples:,} test texts are too few to tell student and teacher apart: the student keeps "
                f"between {kept['low']:.1%} and {kept['high']:.1%} of its {metric}."
            )
        return warnings
