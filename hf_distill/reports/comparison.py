"""What `compare` was given: its arguments, what follows from them, and what they are checked for."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import torch
from datasets import Dataset
from torch import nn

from hf_distill import columns
from hf_distill.evaluation.seeds import BASELINE, further_trainings
from hf_distill.export.onnx_model import OnnxModel, onnx_models
from hf_distill.metrics import IGNORE_INDEX, TeacherAgreement, TeacherKL
from hf_distill.metrics import load as load_metric
from hf_distill.models import problem_type
from hf_distill.problems import TASKS, check_classes
from hf_distill.teachers.ensemble import TeacherEnsemble

SINGLE_LABEL = "single_label_classification"
TEST_SET = "the test set"


@dataclass(frozen=True)
class Comparison:
    """What `compare` was given, and what follows from it.

    Attributes:
        teacher_model: a model with logits, or an ensemble. None: one that is not here; its `teacher_logits` are on
            every data set, and its size and speed are not measured. One that answers in other classes than the
            student's is only timed and sized, and the report warns of it.
        student_model: likewise a model with logits.
        dataset: the tokenised test set, with `labels` (-100 is not counted) and the student's columns; where the
            teacher has its own tokenizer also `teacher_input_ids` and its companions. For tagging, labels stand at the
            words' first pieces, which `word_starts` and, for the teacher's own tokens, `teacher_word_starts` mark with
            1. With `word_labels`, the class numbers of all words of each sentence, words that a model did not read
            count as wrong; without, only words that all models read are scored. If `teacher_logits` were cached on it,
            the teacher's quality and fidelity are those of the cache; its speed is always measured live.
        task: "text-classification" (single-label, multi-label or regression by the student's config) or
            "token-classification".
        baseline_model: the same student, trained on labels alone. It counts as a control without a teacher.
        more_students: the student from further seeds, each with its baseline if there is one. Quality and all claims
            are then means over the seeds, and intervals cover examples and seeds; all else describes `student_model`.
        teacher_processing_class: the teacher's tokenizer, which pads. None: the config's pad token, on the right.
        student_processing_class: likewise the student's.
        metrics: names of `hf_distill.metrics`, or what `metrics.load` finds where scripts may run; the first one
            decides and grows with quality.
        trust_remote_code: whether metrics that are scripts may run here.
        revision: the commit of a metric of the Hub. None: the newest.
        controls: what other ways without a teacher predict on `dataset`: name to (examples,) class numbers or
            (examples, classes) logits; for tagging to a list for each sentence with the class numbers of its words.
            Where "majority_class" is missing, the commonest class of `training_labels` is added.
        controls_with_teacher: likewise of other ways that did use the teacher.
        fidelity_dataset: held-out tokenised text, without labels. None: `dataset`.
        test_sets: further tokenised sets with labels, by name; quality is measured on them too.
        groups: a breakdown of the first metric, by name: a value for each example of `dataset` or, for tagging, a list
            for each with a value for each word.
        texts: the examples as a reader sees them, shown where student and teacher differ most. None: not shown.
        raw_texts: what each row of `dataset` was tokenised from: a text, the two of a pair, or a list of words. They
            are not shown; the time from a text to its label is measured with them and the tokenizers. None: it is not.
        training_texts: what teacher or student learned from, as `texts` are; the report warns of test texts that are
            among them. A recipe keeps them apart by itself.
        training_labels: the labels that the student was trained on, as class numbers (-100 is not counted), for tagging
            a list for each sentence; their commonest class is what a prediction without any model gives. None: the
            commonest class of `dataset`, which is at least as good on it.
        validation_rows: how many labelled rows chose the models; the report warns of very few. None: not known.
        onnx: the folder to which `export_onnx` wrote the student's files, which are measured as well. None: they are
            not.
        detailed_costs: whether latency and throughput are also measured apart by batch size and length of the texts.
        teacher_floor: what the teacher should reach on the first metric; the report warns below.
        batch_size: of predictions, which do not depend on it.
        device: where to run everything. None: where the models are.
        resamples: of the test examples, for the intervals.
        seed: of resampled intervals and of the choice of texts to time.
    """

    teacher_model: nn.Module | TeacherEnsemble | None
    student_model: nn.Module
    dataset: Dataset
    task: str
    baseline_model: nn.Module | None
    more_students: Sequence[tuple[nn.Module, nn.Module | None]]
    teacher_processing_class: Any
    student_processing_class: Any
    metrics: Sequence[str]
    trust_remote_code: bool
    revision: str | None
    controls: Mapping[str, Any] | None
    controls_with_teacher: Mapping[str, Any] | None
    fidelity_dataset: Dataset | None
    test_sets: Mapping[str, Dataset] | None
    groups: Mapping[str, Sequence[Any]] | None
    texts: Sequence[Any] | None
    raw_texts: Sequence[Any] | None
    training_texts: Iterable[Any] | None
    training_labels: Sequence[Any] | None
    validation_rows: int | None
    onnx: str | Path | None
    detailed_costs: bool
    teacher_floor: float | None
    batch_size: int
    device: str | torch.device | None
    resamples: int
    seed: int

    @property
    def config(self) -> Any:
        """The student's config."""
        return self.student_model.config

    @cached_property
    def names(self) -> list[str]:
        """Of the classes, in their order."""
        return [str(self.config.id2label[number]) for number in sorted(self.config.id2label)]

    @property
    def word_level(self) -> bool:
        """Whether words are scored."""
        return TASKS[self.task].word_level

    @cached_property
    def problem(self) -> str:
        """See `models.problem_type`."""
        if self.word_level:
            return SINGLE_LABEL
        return problem_type(self.config, torch.as_tensor(np.asarray(self.dataset.with_format(None)["labels"][:1])))

    @cached_property
    def models(self) -> dict[str, nn.Module | TeacherEnsemble]:
        """The models that have figures of their own: `student` and, where they are here, `teacher` and `baseline`."""
        models: dict[str, nn.Module | TeacherEnsemble] = {"student": self.student_model}
        if self.teacher_model is not None:
            models = {"teacher": self.teacher_model, **models}
        return models if self.baseline_model is None else models | {BASELINE: self.baseline_model}

    @cached_property
    def _further(self) -> tuple[dict[str, Any], dict[str, list[str]]]:
        return further_trainings(self.more_students, self.baseline_model is not None)

    @property
    def further_models(self) -> dict[str, Any]:
        """The models from further seeds, by name."""
        return self._further[0]

    @property
    def trainings(self) -> dict[str, list[str]]:
        """Which trainings each mean over seeds is of, see `further_trainings`."""
        return self._further[1]

    @cached_property
    def files(self) -> dict[str, OnnxModel]:
        """The student's exported files, as models."""
        found = onnx_models(self.onnx, self.config) if self.onnx else {}
        return {f"onnx {kind}": model for kind, model in found.items()}

    @property
    def sets(self) -> dict[str, Dataset]:
        """Every data set that is read, by the name that errors give it."""
        return {
            TEST_SET: self.dataset,
            **({} if self.fidelity_dataset is None else {"fidelity_dataset": self.fidelity_dataset}),
            **(self.test_sets or {}),
        }

    @cached_property
    def other_classes(self) -> str:
        """A warning where the teacher answers in other classes, else an empty text."""
        if self.teacher_model is None:
            return ""
        return _other_classes(self.config, self.teacher_model.config, self.task, self.sets)

    @property
    def judged_by_teacher(self) -> bool:
        """Whether the labels are the teacher's own answers, so that its quality is none."""
        return self.metrics[0] == "agreement_with_teacher"

    @cached_property
    def known_labels(self) -> np.ndarray | None:
        """(labels,) class numbers of the training, -100 among them; None where they were not given.

        Raises:
            ValueError: something else than numbers of the student's classes.
        """
        if self.training_labels is None:
            return None
        rows = [np.atleast_1d(np.asarray(label)) for label in self.training_labels]
        found = np.concatenate([row for row in rows if len(row)]) if any(map(len, rows)) else np.empty(0, dtype=int)
        known = found[found != IGNORE_INDEX] if found.dtype.kind in "iu" else found
        if found.dtype.kind not in "iu" or not len(known) or known.min() < 0 or known.max() >= len(self.names):
            raise ValueError(
                f"training_labels: expected class numbers from 0 to {len(self.names) - 1}, -100 where a label is "
                f"missing, and at least one label; got {sorted(set(found.tolist()))[:5]}. Give the labels of the rows "
                "that the student was trained on, or leave them out."
            )
        return found

    def tokenizer_of(self, name: str) -> Any:
        """Of a model by its name; the student's for all but the teacher.

        Raises:
            ValueError: there is none, and a text is to be read.
        """
        tokenizer = self.teacher_processing_class if name == "teacher" else self.student_processing_class
        if tokenizer is None and self.raw_texts is not None:
            whose = "teacher" if name == "teacher" else "student"
            raise ValueError(
                f"raw_texts: the time from text to label needs the tokenizer of the {whose}. Give "
                f"{whose}_processing_class, or leave raw_texts out."
            )
        return tokenizer

    def check(self) -> list[evaluate.EvaluationModule]:
        """The metrics, once all that needs no model's answer is known to fit.

        Raises:
            ValueError: see `compare`.
        """
        if self.task not in ("text-classification", "token-classification"):
            raise ValueError(
                f"compare measures text-classification and token-classification, got task={self.task!r}. For models "
                "that write there are compare_translation and compare_generation in hf_distill.reports."
            )
        if self.training_texts is not None and self.texts is None:
            raise ValueError(
                "training_texts are compared with the test texts: give those as texts, in the rows' order."
            )
        without = [name for name, rows in self.sets.items() if columns.LOGITS not in rows.column_names]
        if self.teacher_model is None and (self.word_level or without):
            raise ValueError(
                f"teacher_model: got none, so expected the column {columns.LOGITS} with the teacher's probabilities of "
                f"the classes on all sets of texts, and {', '.join(without) or 'a tagged set'} lacks it."
            )
        metrics = [load_metric(name, self.trust_remote_code, self.revision) for name in self.metrics]
        _check_metrics(metrics, self.metrics, self.names, {TEST_SET: self.dataset, **(self.test_sets or {})})
        taken = self.models.keys() | self.further_models.keys() | self.files.keys() | {BASELINE}
        _check_names(self.controls or {}, self.controls_with_teacher or {}, taken)
        if self.problem == SINGLE_LABEL:
            _ = self.known_labels  # raises
        return metrics


def _other_classes(student: Any, teacher: Any, task: str, sets: Mapping[str, Dataset]) -> str:
    """A warning where the teacher answers in other classes, so that only its speed and size can be measured.

    Cached logits are in the student's classes already.
    """
    try:
        check_classes(student, teacher, TASKS[task])
    except ValueError as error:
        live = [name for name, rows in sets.items() if columns.LOGITS not in rows.column_names]
        if not live:
            return ""
        if len(live) < len(sets):
            raise ValueError(
                f"{', '.join(live)} lacks the column {columns.LOGITS} that the other sets have, and the live teacher "
                f"answers in other classes: its numbers would not mean the same. Add the column. {error}"
            ) from error
        return f"The teacher's quality and the student's fidelity to it were not measured. {error}"
    return ""


def _check_metrics(
    scores: Sequence[evaluate.EvaluationModule],
    metrics: Sequence[str],
    names: Sequence[str],
    test_sets: Mapping[str, Dataset],
) -> None:
    """Raise a ValueError unless the metrics and the test sets will do."""
    for name, rows in test_sets.items():
        if "labels" not in rows.column_names:
            raise ValueError(
                f"compare needs the column `labels` of {name} for quality, got {rows.column_names}. Rename or add it."
            )
    for metric in scores:
        if isinstance(metric, TeacherAgreement | TeacherKL):
            raise ValueError(
                f"{metric.name} compares with the teacher, not with labels: the report has it as fidelity. Leave it "
                "out."
            )
    if not getattr(scores[0], "larger_is_better", True):
        raise ValueError(
            f"The first metric decides, so it has to grow with quality; {metrics[0]} falls. Put another first."
        )
    if "f1" in metrics and len(names) > 2 and "labels" in next(iter(test_sets.values())).column_names:
        labels = next(iter(test_sets.values())).with_format(None)["labels"][:1]
        if np.asarray(labels).ndim == 1:
            raise ValueError(
                f"f1 is about one positive class of two, and there are {len(names)} classes. Use macro_f1."
            )
    if "seqeval" in metrics and list(names) == [f"LABEL_{number}" for number in range(len(names))]:
        raise ValueError(
            "seqeval reads entities off the names of the tags (B-PER, I-PER, O), but the student's config names its "
            f"{len(names)} classes {names[0]}, ... Set its id2label."
        )


def _check_names(controls: Mapping[str, Any], with_teacher: Mapping[str, Any], models: Set[str]) -> None:
    twice = models & (controls.keys() | with_teacher.keys()) | controls.keys() & with_teacher.keys()
    if twice:
        raise ValueError(f"Two results would be called {sorted(twice)}. Give each control a name of its own.")
