"""Tasks whose student chooses among classes, or predicts a quantity: of a text or of each word."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
from transformers import EvalPrediction, PreTrainedModel, set_seed

from hf_distill import columns
from hf_distill.data.labelled import Splits, load, load_further, texts_of, unlabelled
from hf_distill.data.tokenization import tokenize
from hf_distill.evaluation.predictions import decide
from hf_distill.matching.base import Matching
from hf_distill.metrics import unfit
from hf_distill.problems import TASKS, check_problem
from hf_distill.reports.classification import compare
from hf_distill.reports.comparison import SINGLE_LABEL
from hf_distill.reports.report import Report
from hf_distill.soft_targets.cross_fit import folds_of, inherited_folds
from hf_distill.soft_targets.label_map import check_label_map
from hf_distill.students.tokenizer import student_tokenizer
from hf_distill.tasks.base import Keep, Loaded, RecipeTask, Trained
from hf_distill.tasks.models import Models, check_lengths, with_new_head
from hf_distill.tasks.new_texts import made_texts
from hf_distill.tasks.settings import Settings, refuse_unused
from hf_distill.tasks.teacher_logits import TeacherLogits

SELF_TRAINING, HARD_LABELS = "self_training", "teacher_hard_labels"
COMPARING = ("teacher_agreement", "agreement_with_teacher", "teacher_kl")
Control = Callable[[Splits], Any]


class LabellingTask(RecipeTask):
    """What text and token classification share."""

    splits: Splits
    teacher_training: ClassVar[Mapping[str, Any]] = {"learning_rate": 5e-5, "weight_decay": 0.01}
    soft_control: ClassVar[str]  # the control that learns from the teacher's outputs without a network

    def __init__(self, settings: Settings, models: Models, keep: Keep) -> None:
        super().__init__(settings, models, keep)
        self.further = {
            name: load_further(data, self.splits, task=settings.task) for name, data in settings.further_data.items()
        }
        self.classes = self.splits.classes or [settings.data.label_columns[0]]  # a regression has one output
        self._tokenized: dict[tuple[str, ...], datasets.Dataset] = {}

    @classmethod
    def check_settings(cls, settings: Settings) -> None:
        """Raise a ValueError for what can be known to be wrong without reading any data."""
        names = ("lora", "generation", "ledger")
        unused = {f"teacher.{name}": getattr(settings.teacher, name) for name in names}
        refuse_unused(unused, settings.task, "translation and text generation")
        if settings.teacher.cross_fit is not None and (
            settings.teacher.fine_tune is None or settings.teacher.cross_fit < 2
        ):
            raise ValueError(
                "teacher.cross_fit: expected two or more teachers that are fine-tuned here, got "
                f"cross_fit={settings.teacher.cross_fit} with fine_tune={settings.teacher.fine_tune}."
            )
        if settings.data.augment is not None and (
            TASKS[settings.task].word_level or len(settings.data.text_columns) > 1
        ):
            raise ValueError("data.augment: new texts are made of single texts, not of pairs or tagged sentences.")
        if settings.teacher.fine_tune is not None and settings.teacher.label_map:
            raise ValueError(
                "teacher.label_map: a teacher that learns this task with teacher.fine_tune has its classes already. "
                "Leave one of them out."
            )

    def load_splits(self) -> Splits:
        """Read, clean and split the data."""
        settings = self.settings
        return load(settings.data, settings.seed, task=settings.task, keep=settings.compare.by)

    # Before anything expensive

    @property
    def checks(self) -> Sequence[Callable[[], None]]:
        """What raises a ValueError for whatever would fail later."""
        return self.check_metrics, self.check_controls, self.check_teacher, self.check_texts

    def check_metrics(self) -> None:
        """Raise a ValueError for metrics that cannot judge these labels."""
        for number, name in enumerate(self.settings.metrics):
            metric = self.metric(name)
            if name in COMPARING or (number == 0 and not getattr(metric, "larger_is_better", True)):
                raise ValueError(
                    f"compare.metrics: {name} cannot stand {'first' if number == 0 else 'here'}. The first metric "
                    "selects the models, so it grows with quality; agreement with the teacher is in the report anyway."
                )
            reason = unfit(name, self.splits.problem_type, self.kind.word_level)
            if reason is not None:
                raise ValueError(f"compare.metrics: {name} is about {reason}")

    def check_controls(self) -> None:
        """Raise a ValueError for controls that this task does not have."""
        known = self.known_controls
        unknown = set(self.settings.compare.asked) - set(known)
        if unknown:
            raise ValueError(f"compare.controls: no {', '.join(sorted(unknown))} here; there are {', '.join(known)}.")

    def check_teacher(self) -> None:
        """Raise a ValueError where the teacher cannot teach these classes."""
        settings = self.settings.teacher
        if (settings.calibrate or settings.label_map) and self.splits.problem_type not in (None, SINGLE_LABEL):
            raise ValueError(
                "teacher.calibrate and teacher.label_map are about one choice among classes, and the labels are "
                f"{self.splits.problem_type}. Leave them out."
            )
        if settings.fine_tune is not None:
            self.models.config()
        elif settings.label_map:
            check_label_map(settings.label_map, self.models.teacher_classes, self.classes)
        elif not self.settings.uses_soft_targets:
            return
        elif self.teacher_is_anonymous and not (self.settings.data.labels or self.classes_are_numbered):
            raise ValueError(
                f"The classes of the teacher have no names ({', '.join(self.models.teacher_classes[:3])}, ...), and "
                f"those of the data are {self.classes}: which is which is not known. Set data.labels to the classes in "
                "the teacher's order, or let it learn them with teacher.fine_tune."
            )
        elif not self.same_classes:
            raise ValueError(
                f"The labels of the data are {self.classes}, the classes of the teacher are "
                f"{self.models.teacher_classes}: a teacher that is used as it is needs the same, in the same order. "
                "Set data.labels; or let it learn them with teacher.fine_tune; or say which is which with "
                "teacher.label_map; or learn from its inner states alone, with a matching and soft_target_weight: 0."
            )
        if settings.fine_tune is None and self.splits.problem_type is not None:
            check_problem(self.models.config(), self.splits.problem_type)

    def check_texts(self) -> None:
        """Raise a ValueError where a tokenizer cannot read the texts, or the teacher has no positions for them."""
        self.read(self.splits.train.select(range(1)))
        settings, tokenizer = self.settings, self.models.tokenizer(self.models.source)
        limits = {"teacher": settings.teacher.max_length}
        if settings.student.vocab_size is None or settings.student.kind == "transformer":
            limits["student"] = settings.student.max_length
        for model, limit in limits.items():
            check_lengths(self.parts, tokenizer, limit, self.models.places, f"{model}.max_length")

    @property
    def classes_are_numbered(self) -> bool:
        """Whether the names of the classes are their numbers, or there is none (a quantity)."""
        own = [str(number) for number in range(len(self.classes))]
        return not self.splits.classes or self.classes in (own, [f"LABEL_{number}" for number in own])

    @cached_property
    def same_classes(self) -> bool:
        """Whether the teacher's classes are those of the data."""
        if self.settings.teacher.fine_tune is not None:
            return True
        names = self.models.teacher_classes
        return len(names) == len(self.classes) and (self.teacher_is_anonymous or names == self.classes)

    @property
    def teacher_is_anonymous(self) -> bool:
        """Whether the teacher's classes have no names but LABEL_0 and so on."""
        return all(name == f"LABEL_{number}" for number, name in enumerate(self.models.teacher_classes))

    def check_loaded_teacher(self) -> None:
        """Raise a ValueError where the teacher, used as it is, has its classes in another order than the data."""
        single = self.splits.problem_type in (None, SINGLE_LABEL)
        if not single or not self.same_classes or not self.settings.uses_soft_targets:
            return
        order = self.teacher_logits.better_order()
        if order is not None:
            raise ValueError(
                f"teacher.model: on the validation labels the teacher is right more often if its classes are {order} "
                f"and not {self.classes}, the order of the data. Set data.labels: {order}, or use another teacher."
            )

    @property
    def selection_metric(self) -> str:
        """The recipe's first metric."""
        return self.settings.metrics[0]

    # What results depend on

    @property
    def parts(self) -> dict[str, datasets.Dataset]:
        """The rows by the name of their split, without the columns that the report alone reads."""
        parts = {**super().parts, "fidelity": self.splits.fidelity}
        by = self.settings.compare.by
        return {
            name: part.remove_columns([each for each in by if each in part.column_names])
            for name, part in parts.items()
        }

    def inputs(self, step: str) -> dict[str, Any]:
        """The classes; for the report also the further test sets and what quality is broken down by."""
        found: dict[str, Any] = {"data.classes": self.classes, "data.problem_type": self.splits.problem_type}
        if step == "compare":
            by = [name for name in self.settings.compare.by if name in self.splits.test.column_names]
            found["rows.test.by"] = self.splits.test.select_columns(by).to_dict()
            found |= {f"rows.{name}": part.to_dict() for name, part in self.further.items()}
        return found

    # Teacher and student

    def head(self) -> dict[str, Any]:
        """The classes of the data, and the problem type; a student of a teacher with other classes gets them later."""
        return self.data_head if self.same_classes or not self.settings.student.from_teacher else {}

    @property
    def data_head(self) -> dict[str, Any]:
        """The fields of a config that say what a head for this data decides on."""
        names = dict(enumerate(self.classes))
        problem = {} if self.kind.word_level else {"problem_type": self.splits.problem_type}
        return {"id2label": names, "label2id": {name: number for number, name in names.items()}, **problem}

    def untrained_teacher(self) -> Loaded:
        """The teacher before its fine-tuning; a head for other classes gives way to a new one."""
        tokenizer = self.models.tokenizer(self.models.source)
        set_seed(self.settings.seed)
        return self.models.with_untrained_head(**self.data_head), tokenizer

    @property
    def student_texts(self) -> Iterable[str]:
        """The training texts, with and without a label."""
        return chain(texts_of(self.splits.train), texts_of(self.splits.unlabelled))

    def new_student_tokenizer(self) -> Any:
        """A smaller tokenizer trained on the texts, or the teacher's."""
        settings = self.settings.student
        teacher_tokenizer = self.models.tokenizer(self.models.source)
        tokenizer = teacher_tokenizer
        if settings.vocab_size is not None:
            tokenizer = student_tokenizer(teacher_tokenizer, self.student_texts, settings.vocab_size)
        # A Transformer cut from its teacher has the teacher's positions, and shared tokens are read by both.
        unlimited = settings.kind != "transformer" and settings.vocab_size is not None
        limit = settings.max_length if unlimited else min(settings.max_length, teacher_tokenizer.model_max_length)
        tokenizer.model_max_length = limit
        return tokenizer

    def finished_student(
        self, student: PreTrainedModel, carried: dict[str, str], teacher: Loaded, tokenizer: Any
    ) -> tuple[PreTrainedModel, dict[str, str]]:
        """The student with the classes of the data."""
        if not self.settings.student.from_teacher:
            return student, carried
        if not self.same_classes:
            # By way of one class more: a head for equally many other classes would be taken for one of these.
            sizes = {"num_labels": len(self.classes) + 1 + len(self.models.teacher_classes)}
            return with_new_head(student, carried, self.kind.auto_class, (sizes, self.data_head))
        for name, value in self.data_head.items():  # a teacher's may be anonymous
            setattr(student.config, name, value)
        return student, carried

    # Rows

    def teacher_rows(self, rows: datasets.Dataset, what: str) -> datasets.Dataset:
        """Rows in the teacher's tokens."""
        tokenizer = self.models.tokenizer(self.models.source)
        return tokenize(rows, tokenizer, max_length=self.settings.teacher.max_length)

    def read(self, rows: datasets.Dataset) -> datasets.Dataset:
        """Rows as the student reads them and, where it has its own tokenizer, as its teacher does."""
        key = (rows._fingerprint, str(self.models.initialized), str(self.models.initial))
        if key not in self._tokenized:
            own = self.settings.student.vocab_size is not None
            self._tokenized[key] = tokenize(
                rows,
                self.student_tokenizer(),
                max_length=self.settings.student.max_length,
                teacher_tokenizer=self.models.tokenizer(self.models.source) if own else None,
                teacher_max_length=self.settings.teacher.max_length,
            )
        return self._tokenized[key]

    def distillation_rows(self) -> datasets.Dataset:
        """All training texts."""
        return self.read(self.all_texts)

    def labelled_rows(self) -> datasets.Dataset:
        """The training rows with a label."""
        return self.read(self.splits.train)

    def validation_rows(self) -> datasets.Dataset:
        """The validation rows."""
        return self.read(self.splits.validation)

    def training_rows(self, rows: datasets.Dataset, matching: Sequence[Matching]) -> datasets.Dataset:
        """Without the teacher's tokens, unless a matching calls the teacher."""
        return rows if matching else rows.remove_columns(columns.teacher_input_columns(rows.column_names))

    @cached_property
    def all_texts(self) -> datasets.Dataset:
        """All that the student learns from: labelled rows, rows without a label, and new texts made of both."""
        rows = datasets.concatenate_datasets([self.splits.train, self.splits.unlabelled])
        if self.settings.data.augment is None:
            return rows
        new = unlabelled(self.new_texts["texts"], rows)
        return datasets.concatenate_datasets([rows.select_columns(["text", "label"]), new])

    @cached_property
    def new_texts(self) -> dict[str, Any]:
        """`texts` made once of the training texts; `sources`, the number of each one's source row; and `counts`."""
        tokenizer = self.models.tokenizer(self.models.source)
        return self.keep("augmented", lambda: made_texts(self.settings, self.splits, tokenizer, self.notes))

    # Soft targets

    @cached_property
    def teacher_logits(self) -> TeacherLogits:
        """What the teachers predict."""
        return TeacherLogits(self.settings, self.models, self.classes, self.splits.validation, self.read, self.notes)

    @cached_property
    def folds(self) -> np.ndarray:
        """The fold of each training row, the labelled ones first."""
        with_label, without = map(texts_of, (self.splits.train, self.splits.unlabelled))
        return folds_of(with_label, without, self.settings.teacher.cross_fit or 1)

    def fold_rows(self, number: int) -> datasets.Dataset:
        """The labelled rows that are not of a fold."""
        train = self.splits.train
        return train.select(np.flatnonzero(self.folds[: len(train)] != number))

    def with_soft_targets(self, rows: datasets.Dataset, folder: Path, bf16: bool) -> datasets.Dataset:
        """The rows with the logits of their teachers, in the data's classes."""
        if self.settings.teacher.cross_fit is None:
            return self.teacher_logits.cached(rows, folder, bf16)
        # A teacher knows a text that it was fine-tuned on in other words too.
        sources = self.new_texts["sources"] if self.settings.data.augment else []
        folds = inherited_folds(self.folds.tolist(), len(rows) - len(sources), sources)
        return self.teacher_logits.cross_fitted(rows, folds.tolist(), folder, bf16)

    # Training

    def validation_metrics(self, tokenizer: Any) -> Callable[[EvalPrediction], dict[str, float]]:
        """The recipe's metrics on the validation rows."""

        def scored(prediction: EvalPrediction) -> dict[str, float]:
            labels = np.asarray(prediction.label_ids)
            logits = np.asarray(prediction.predictions)
            decisions = decide(logits, self.splits.problem_type)
            values: dict[str, float] = {}
            for name in self.settings.metrics:
                metric = self.metric(name)
                predicted, true = self.counted(
                    logits if getattr(metric, "reads_logits", False) else decisions, labels, name
                )
                values |= metric.compute(predictions=predicted, references=true) or {}
            return {name: float(value) for name, value in values.items()}

        return scored

    def counted(self, predicted: np.ndarray, labels: np.ndarray, metric: str) -> tuple[Any, Any]:
        """What a metric compares on the validation rows: predictions, and labels.

        Args:
            predicted: decisions, or logits for metrics that read those.
            labels: of the same items.
            metric: its name.
        """
        return predicted, labels

    # Controls

    @property
    @abstractmethod
    def own_controls(self) -> Mapping[str, Control]:
        """Controls that need neither a neural student nor the teacher: name to what predicts the test labels."""

    @property
    def known_controls(self) -> list[str]:
        """The names of all controls, beside the student without a teacher."""
        return [*self.own_controls, self.soft_control, SELF_TRAINING, HARD_LABELS]

    @property
    def with_teacher(self) -> tuple[str, ...]:
        """The controls that use the teacher."""
        return HARD_LABELS, self.soft_control

    @abstractmethod
    def soft_control_predictions(self, rows: datasets.Dataset) -> Any:
        """What the control predicts that learns from the teacher's outputs without a network.

        Args:
            rows: all training texts, tokenized, with the teacher's logits.
        """

    @abstractmethod
    def decisions(self, loaded: Loaded, rows: datasets.Dataset) -> Any:
        """A model's class for each row, or for each word of it."""

    @abstractmethod
    def relabelled(self, row: dict[str, Any], answer: Any, keep_known: bool) -> Any:
        """The labels of a tokenized row, replaced by decisions.

        Args:
            row: with `labels`.
            answer: the class number of the row, or one a word.
            keep_known: whether labels that are there stay.
        """

    def controls(
        self, rows: Callable[[], datasets.Dataset], train: Callable[[str, datasets.Dataset], Loaded], baseline: Path
    ) -> dict[str, Any]:
        """What the controls predict on the test set, by name."""
        wanted = [name for name in self.known_controls if self.settings.compare.wants(name)]
        if not self.settings.uses_soft_targets:
            wanted = [name for name in wanted if name not in self.with_teacher]
        own = [name for name in wanted if name in self.own_controls]
        made = self.on_main(lambda: {name: self.own_controls[name](self.splits) for name in own})
        for name in wanted:
            if name == self.soft_control:
                with_outputs = rows()
                made[name] = self.on_main(lambda: self.soft_control_predictions(with_outputs))  # noqa: B023
            elif name in (SELF_TRAINING, HARD_LABELS):
                made[name] = self._student_on_decisions(name, rows, train, baseline)
        return {name: each.tolist() if isinstance(each, np.ndarray) else each for name, each in made.items()}

    def _student_on_decisions(
        self,
        name: str,
        rows: Callable[[], datasets.Dataset],
        train: Callable[[str, datasets.Dataset], Loaded],
        baseline: Path,
    ) -> Any:
        """Test predictions of the student, trained on the decisions of its baseline or of its teacher."""
        if name == HARD_LABELS:
            with_outputs = rows()
            answers = [np.argmax(row, axis=-1) for row in with_outputs[columns.LOGITS]]
            outputs = [column for column in with_outputs.column_names if columns.is_output(column)]
            tokenized = with_outputs.remove_columns(outputs)
        else:
            tokenized = self.distillation_rows()
            answers = self.on_main(lambda: self.decisions(self.models.load(baseline), tokenized))
        keep_known = name == SELF_TRAINING
        labels = [self.relabelled(row, answers[number], keep_known) for number, row in enumerate(tokenized)]
        labelled = tokenized.remove_columns("labels").add_column("labels", labels, feature=tokenized.features["labels"])
        trained = train(name, labelled)
        return self.on_main(lambda: self.test_decisions(trained))

    def test_decisions(self, loaded: Loaded) -> Any:
        """A model's class for each test row, or for each word of it."""
        return self.decisions(loaded, self.read(self.splits.test))

    # The end

    def compare(self, trained: Trained) -> Report:
        """Measure the models on the test rows."""
        settings = self.settings
        taught = [name for name in trained.controls if name in self.with_teacher]
        single = self.splits.problem_type in (None, SINGLE_LABEL)
        return compare(
            trained.teacher[0],
            trained.student[0],
            self.for_comparison(self.splits.test),
            task=settings.task,
            baseline_model=trained.baseline[0],
            more_students=[(student[0], baseline[0]) for student, baseline in trained.more],
            student_processing_class=trained.student[1],
            teacher_processing_class=trained.teacher[1],
            metrics=tuple(settings.metrics),
            trust_remote_code=settings.compare.trust_remote_code,
            revision=settings.compare.revision,
            controls={name: each for name, each in trained.controls.items() if name not in taught},
            controls_with_teacher={name: trained.controls[name] for name in taught},
            fidelity_dataset=self.for_comparison(self.splits.fidelity) if len(self.splits.fidelity) else None,
            groups=self.groups,
            test_sets={name: self.for_comparison(part) for name, part in self.further.items()},
            texts=list(texts_of(self.splits.test)) if settings.compare.quote else None,
            raw_texts=self.raw_texts,
            training_labels=self.splits.train["label"] if single else None,
            validation_rows=len(self.splits.validation),
            onnx=trained.onnx,
            detailed_costs=settings.compare.detailed_costs,
            teacher_floor=settings.teacher.floor,
            resamples=settings.compare.resamples,
            seed=settings.seed,
        )

    @property
    @abstractmethod
    def raw_texts(self) -> list[Any]:
        """The test rows as a user has them, to time the way from text to label."""

    def for_comparison(self, rows: datasets.Dataset) -> datasets.Dataset:
        """Rows as `compare` reads them: with the teacher's mapped logits where it has other classes."""
        asked = self.settings.teacher.label_map or self.settings.cascade is not None
        return self.teacher_logits.compared(self.read(rows)) if asked else self.read(rows)

    @property
    def groups(self) -> dict[str, Sequence[Any]]:
        """What the report breaks quality down by: a value for each test row, or for each of its words."""
        return {name: self.splits.test[name] for name in self.settings.compare.by}

    def final_counts(self) -> dict[str, int]:
        """The rows by what became of them, with the texts that were made."""
        made = {} if self.settings.data.augment is None else self.new_texts["counts"]
        return self.counts | made
