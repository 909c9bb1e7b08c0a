"""What a recipe's steps ask of its task."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets
from transformers import PreTrainedModel

from hf_distill import metrics
from hf_distill.matching.base import Matching
from hf_distill.models import embedding_width
from hf_distill.problems import TASKS
from hf_distill.reports.report import Report
from hf_distill.reports.samples import answers
from hf_distill.students.lstm.configuration_lstm import LSTMStudentConfig
from hf_distill.students.static.configuration_static import StaticStudentConfig
from hf_distill.students.static.from_teacher import unpooled_token_ids
from hf_distill.students.transformer.config import TransformerStudentConfig
from hf_distill.tasks.models import Models
from hf_distill.tasks.settings import Settings
from hf_distill.training.arguments import DistillationArguments
from hf_distill.training.trainer import DistillationTrainer

Loaded = tuple[PreTrainedModel, Any]  # a model and its tokenizer
Keep = Callable[[str, Callable[[], Any]], Any]


@dataclass(frozen=True)
class Trained:
    """The models that a report compares, each with its tokenizer.

    Attributes:
        teacher: after its fine-tuning.
        student: as published.
        baseline: the same student, trained without a teacher; a pair of None where there are no labels.
        more: students of further seeds, each with its baseline.
        controls: what the other controls predict on the test set, by name.
        onnx: the student's folder, where its exported files are. None: it was not exported.
    """

    teacher: Loaded
    student: Loaded
    baseline: Loaded
    more: Sequence[tuple[Loaded, Loaded]]
    controls: Mapping[str, Any]
    onnx: Path | None


class RecipeTask(ABC):
    """One run's task: its rows, and what the steps do differently for it.

    A subclass a task. All that the steps share is in `hf_distill.recipes.steps`.

    Args:
        settings: of the run.
        models: of the run.
        keep: gives what a function makes, made once for a run: (name, function) -> plain data.
    Raises:
        ValueError: the data cannot be read as the task needs it.
    """

    trainer_class: ClassVar[type[DistillationTrainer]] = DistillationTrainer
    arguments_class: ClassVar[type[Any]] = DistillationArguments
    stage_keys: ClassVar[tuple[str, ...]] = ("matching",)  # of a stage, beside training arguments
    greater_is_better: ClassVar[bool] = True  # of `selection_metric`
    teacher_training: ClassVar[Mapping[str, Any]] = {"learning_rate": 5e-5}

    def __init__(self, settings: Settings, models: Models, keep: Keep) -> None:
        self.settings, self.models, self.keep = settings, models, keep
        # Gives what the main one of several processes makes, to all of them; a run sets it.
        self.on_main: Callable[[Callable[[], Any]], Any] = lambda make: make()
        self.kind = TASKS[settings.task]  # what trainers and reports call their task
        self.notes: list[str] = []  # for the console
        self.splits: Any = self.load_splits()
        self.counts: dict[str, int] = dict(self.splits.counts)
        self._student_tokenizer: Any = None

    def with_student(self, settings: Settings, models: Models) -> "RecipeTask":
        """The same task on the same rows, for another student.

        Args:
            settings: of the run, with this student.
            models: likewise.
        """
        other = copy.copy(self)
        other.settings, other.models, other._student_tokenizer = settings, models, None
        vars(other).pop("teacher_logits", None)  # where it was made, it reads rows as the student does
        return other

    @classmethod
    @abstractmethod
    def check_settings(cls, settings: Settings) -> None:
        """Raise a ValueError for what can be known to be wrong without reading any data."""

    @abstractmethod
    def load_splits(self) -> Any:
        """Read, clean and split the data."""

    @property
    @abstractmethod
    def checks(self) -> Sequence[Callable[[], None]]:
        """What raises a ValueError for whatever would fail later."""

    @property
    @abstractmethod
    def selection_metric(self) -> str:
        """The metric on the validation rows that selects models, as the trainer calls it."""

    # What results depend on

    @property
    def parts(self) -> dict[str, datasets.Dataset]:
        """The rows by the name of their split, without what the report alone reads."""
        names = ("train", "unlabelled", "validation", "test")
        return {name: getattr(self.splits, name) for name in names}

    @abstractmethod
    def inputs(self, step: str) -> dict[str, Any]:
        """Named values that a step's result depends on for this task, beside the recipe's sections and the rows."""

    # Teacher and student

    @abstractmethod
    def untrained_teacher(self) -> Loaded:
        """The teacher before its fine-tuning, with the head or the adapters that are trained."""

    def check_loaded_teacher(self) -> None:  # noqa: B027  most tasks have nothing to check
        """Raise a ValueError where a teacher that is used as it is does not fit the data."""

    def trained_teacher(self, model: Any) -> PreTrainedModel:
        """The teacher after its fine-tuning, as it is saved."""
        return model

    def student_tokenizer(self) -> Any:
        """The student's tokenizer: made once, then read from its folder.

        Each call gives a copy, since a tokenizer remembers how it was last used, and saves that.
        """
        if self.models.initialized:
            return self.models.tokenizer(self.models.initial)
        if self._student_tokenizer is None:
            self._student_tokenizer = self.new_student_tokenizer()
        return copy.deepcopy(self._student_tokenizer)

    @abstractmethod
    def new_student_tokenizer(self) -> Any:
        """A tokenizer for the student, made of the training texts or the teacher's own."""

    @property
    def student_texts(self) -> Iterable[str] | None:
        """The texts that the student learns from, where its tokens may be counted in them."""
        return None

    def student_config(
        self, tokenizer: Any = None
    ) -> LSTMStudentConfig | StaticStudentConfig | TransformerStudentConfig:
        """The student's config.

        Args:
            tokenizer: the student's. None: it is not known yet, and the config is only checked.
        """
        settings = self.settings.student
        if settings.kind == "transformer":
            return TransformerStudentConfig(**settings.config)
        # No token id that the recipe gives is beyond the table of a vocabulary that is not known yet.
        size = 2**31 if tokenizer is None else len(tokenizer)
        derived = {"vocab_size": size, "pad_token_id": getattr(tokenizer, "pad_token_id", None), **self.head()}
        if tokenizer is not None and settings.from_teacher and "embedding_size" not in settings.config:
            width = embedding_width(self.models.config(), settings.config.get("teacher_embeddings") == "layers")
            family = StaticStudentConfig if settings.kind == "static" else LSTMStudentConfig
            derived["embedding_size"] = min(width, family.embedding_size)
        if settings.kind == "static":
            unpooled = unpooled_token_ids(tokenizer)
            return StaticStudentConfig(**{**derived, "unpooled_token_ids": unpooled, **settings.config})
        derived |= {name: getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id")}
        return LSTMStudentConfig(**{**derived, **settings.config})

    def head(self) -> dict[str, Any]:
        """The fields of a student's config that say what its head decides on."""
        return {}

    @abstractmethod
    def finished_student(
        self, student: PreTrainedModel, carried: dict[str, str], teacher: Loaded, tokenizer: Any
    ) -> tuple[PreTrainedModel, dict[str, str]]:
        """A new student with the head or the generation settings of the task.

        Args:
            student: before its training.
            carried: where its weights came from.
            teacher: with its tokenizer.
            tokenizer: the student's.
        """

    # Rows

    def fold_rows(self, number: int) -> datasets.Dataset:
        """The labelled rows that are not of a fold, for a teacher of cross-fitting."""
        raise NotImplementedError(f"{self.settings.task} has no cross-fitting.")

    @abstractmethod
    def teacher_rows(self, rows: datasets.Dataset, what: str) -> datasets.Dataset:
        """Tokenized rows for the teacher's fine-tuning.

        Args:
            rows: of a split.
            what: they are for, in words, for the counts.
        """

    @abstractmethod
    def distillation_rows(self) -> datasets.Dataset:
        """Tokenized rows that the student learns from, before the teacher's outputs are added."""

    @abstractmethod
    def labelled_rows(self) -> datasets.Dataset:
        """Tokenized rows that the student without a teacher learns from."""

    @abstractmethod
    def validation_rows(self) -> datasets.Dataset:
        """Tokenized rows that select the student."""

    @abstractmethod
    def with_soft_targets(self, rows: datasets.Dataset, folder: Path, bf16: bool) -> datasets.Dataset:
        """The rows with the teacher's outputs.

        Args:
            rows: see `distillation_rows`.
            folder: of the cache.
            bf16: whether the teacher computes in bfloat16.
        """

    def training_rows(self, rows: datasets.Dataset, matching: Sequence[Matching]) -> datasets.Dataset:
        """The rows as a stage's trainer takes them."""
        return rows

    # Training

    def training_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """A stage's settings as training arguments take them."""
        return dict(settings)

    @abstractmethod
    def collator(self, tokenizer: Any, model: Any) -> Any:
        """What pads the rows."""

    def validation_metrics(self, tokenizer: Any) -> Callable[[Any], dict[str, float]] | None:
        """What scores the validation rows; None where the loss alone selects."""
        return None

    def metric(self, name: str) -> Any:
        """A metric by its name; one that is a script only where the recipe allows it."""
        return metrics.load(name, self.settings.compare.trust_remote_code, self.settings.compare.revision)

    def controls(
        self, rows: Callable[[], datasets.Dataset], train: Callable[[str, datasets.Dataset], Loaded], baseline: Path
    ) -> dict[str, Any]:
        """What other ways than this student predict on the test set, by name.

        Args:
            rows: gives what the student learned from, with the teacher's outputs.
            train: trains the student without a teacher on some rows, under a name.
            baseline: folder of the student that was trained on the labels.
        """
        return {}

    # The end

    @property
    def has_baseline(self) -> bool:
        """Whether there are labels to train a student without a teacher on."""
        return True

    def questions(self) -> Any:
        """What a teacher behind a prompt would be asked, see `teachers.prompted.Questions`; None of any other."""
        return None

    def finished_report(self, report: Report) -> Report:
        """A report that knows of its run, with what follows from that for this task."""
        return report

    @abstractmethod
    def compare(self, trained: Trained) -> Report:
        """Measure the models on the test rows."""

    def samples(self, student: Path) -> list[tuple[str, str, str]]:
        """The recipe's sentences for the card, each with the answers of teacher and student.

        A teacher behind a prompt is not asked, since that may cost money: its answers are empty.

        Args:
            student: its folder.
        """
        texts = self.settings.push.samples
        if not texts:
            return []
        asked = self.settings.teacher.prompt is None
        loaded = [*([self.models.teacher()] if asked else []), self.models.load(student)]
        found = [answers(model, self.replying(tokenizer), self.settings.task, texts) for model, tokenizer in loaded]
        shown = [text if isinstance(text, str) else " / ".join(text) for text in texts]
        return list(zip(shown, *([] if asked else [[""] * len(texts)]), *found, strict=True))

    def replying(self, tokenizer: Any) -> Any:
        """A model's tokenizer, as it is used where the model is given single texts."""
        return tokenizer

    @property
    @abstractmethod
    def example(self) -> Any:
        """What the card's usage reads; of the test set only where it may be quoted."""

    def final_counts(self) -> dict[str, int]:
        """The rows by what became of them, at the end of a run."""
        return self.counts
