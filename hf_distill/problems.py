"""The kinds of task as data: the auto class, which positions count, the metrics."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from hf_distill import columns
from hf_distill.columns import TEACHER_LABELS, TEACHER_WORD_STARTS, WORD_STARTS
from hf_distill.models import base_model, problem_type

MARKS = {
    "token-classification": (columns.TEACHER_WORD_STARTS, columns.WORD_STARTS, "labels"),
    "translation": (columns.TEACHER_LABELS, "labels"),
}


def marks(names: Iterable[str], task: str) -> str | None:
    """The column that marks the positions whose teacher outputs are used."""
    return next((name for name in MARKS.get(task, ()) if name in names), None)


IGNORE_INDEX = -100


@dataclass(frozen=True)
class Task:
    """A kind of output.

    Attributes:
        name: as recipes and the Hub call it.
        auto_class: loads a model with the head for it.
        class_name_ends: how the class names of such models end.
        per_position: whether logits are (batch, length, classes) rather than (batch, classes).
        shift: how many positions ahead of its logits a label stands.
        metrics: names of `hf_distill.metrics`, the first one selects the model.
        in_decoder: whether the positions with labels are those of a decoder, rather than those of `input_ids`.
        word_level: whether an item is a word, read at its first piece, so that two tokenizers can be aligned.
    """

    name: str
    auto_class: Any
    class_name_ends: tuple[str, ...]
    per_position: bool
    shift: int
    metrics: tuple[str, ...]
    in_decoder: bool = False
    word_level: bool = False

    @property
    def writes(self) -> bool:
        """Whether an item is the choice of the next token, so that a teacher may have a vocabulary of its own."""
        return self.per_position and not self.word_level

    def problem_type(self, config: Any, labels: Tensor | None) -> str:
        """`models.problem_type` of a sequence classification model; an output a position is a single label.

        A problem type that was read off the labels is kept in the config, as models of transformers keep it: the
        published config needs it.

        Args:
            config: the student's.
            labels: of a batch.
        """
        if self.per_position:
            return "single_label_classification"
        problem = problem_type(config, labels)
        if config.problem_type is None and labels is not None:
            config.problem_type = problem
        return problem

    def labels(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """The labels in line with the logits of `aligned`."""
        labels = inputs.get("labels")
        return labels[:, self.shift :] if labels is not None and self.shift else labels

    def aligned(self, logits: Tensor) -> Tensor:
        """The logits that have a label: those at a causal model's last position have none."""
        return logits[:, : -self.shift] if self.shift else logits

    def label_mask(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Which items carry a label.

        Args:
            inputs: a collated batch.
        Returns:
            (batch,) or, for tasks with an output a position, (batch, length) bool; None without labels. A label of -100
            is no label. Neither is NaN in a regression, and a multi-label row counts where none of its labels is
            either. A causal model's first token has no position before it, also where the row is padded on the left.
        """
        labels = self.labels(inputs)
        if labels is None:
            return None
        present = labels != IGNORE_INDEX
        if labels.is_floating_point():
            present &= ~labels.isnan()
        mask = inputs.get("attention_mask")
        if self.shift and isinstance(mask, Tensor) and mask.shape == inputs["labels"].shape:
            present &= (mask != 0).cumsum(dim=-1)[:, : -self.shift] > 0
        return present if self.per_position or present.dim() == 1 else present.all(dim=-1)

    def soft_target_mask(self, inputs: Mapping[str, Any]) -> Tensor:
        """Which items have a soft target.

        Args:
            inputs: a collated batch.
        Returns:
            bool, shaped as `label_mask`: every example; in tagging every word's first piece (where `word_starts` is 1;
            where the batch has no such column, the labelled positions), as far as the teacher read the sentence too;
            in language models every position with a target, as far as the teacher has targets too (`teacher_labels`,
            where its tokens are others).
        Raises:
            ValueError: a batch of an output a position has neither labels nor `word_starts`.
        """
        if not self.per_position:
            return torch.ones(batch_size(inputs), dtype=torch.bool, device=any_tensor(inputs).device)
        own, theirs = self._items(inputs), self._teacher_items(inputs)
        return own if theirs is None else _first(own, theirs.sum(dim=-1))

    def unmatched(self, inputs: Mapping[str, Any]) -> Tensor:
        """The number of targets without a counterpart, where student and teacher write other tokens.

        The k-th target of a row is compared with the teacher's k-th, up to the end of the shorter sequence.

        Args:
            inputs: a collated batch with `labels` and `teacher_labels`.
        Returns:
            (4,): of the student's targets those beyond the end of the teacher's, and all; of the teacher's likewise.
        """
        own = self._items(inputs).sum(dim=-1)
        theirs = (inputs[TEACHER_LABELS][:, self.shift :] != IGNORE_INDEX).sum(dim=-1)
        beyond = own - theirs
        return torch.stack([beyond.clamp(min=0).sum(), own.sum(), (-beyond).clamp(min=0).sum(), theirs.sum()])

    def check_same_targets(self, inputs: Mapping[str, Any], mask: Tensor) -> None:
        """Raise where the k-th target of a row is another token than the teacher's k-th.

        Args:
            inputs: a collated batch with `labels` and `teacher_labels` of one vocabulary.
            mask: `soft_target_mask` of it.
        Raises:
            ValueError: they differ: rows cut elsewhere, other texts, or another vocabulary.
        """
        labels, theirs = self.labels(inputs), inputs[TEACHER_LABELS][:, self.shift :]
        counterparts = _first(theirs != IGNORE_INDEX, mask.sum(dim=-1))
        if labels is None or not torch.equal(labels[mask], theirs[counterparts]):
            raise ValueError(
                "labels and teacher_labels hold other tokens, and every loss but universal_logit_distance compares "
                "the k-th target of a row with the teacher's k-th, as two prompts before one answer need it: the "
                "targets must be the same tokens on both sides (at most cut at the end). Mark the same tokens in both "
                "columns (a causal model's first token is never a target: put something before it on both sides), or "
                'set soft_target_loss="universal_logit_distance" for two vocabularies.'
            )

    def soft_targets(self, value: Tensor, inputs: Mapping[str, Any], cached: bool, mask: Tensor) -> Tensor:
        """The teacher's outputs for the items of `soft_target_mask`, in their order.

        Args:
            value: (batch, classes), (batch, teacher's length, classes), or for cached tags (batch, words, classes).
            inputs: the batch.
            cached: whether `value` is a cached column.
            mask: `soft_target_mask` of the batch.
        Returns:
            (items, classes)
        Raises:
            ValueError: an output a position, and the teacher has other positions.
        """
        if not self.per_position:
            return value[mask]
        value, theirs = self.aligned(value), self._teacher_items(inputs)
        if self.word_level and cached:
            kept = torch.arange(value.shape[1], device=value.device) < mask.sum(dim=-1, keepdim=True)
        elif theirs is not None:
            kept = _first(theirs, mask.sum(dim=-1))
        else:
            kept = mask
        if kept.shape != value.shape[:2] or not torch.equal(kept.sum(dim=-1), mask.sum(dim=-1)):
            raise ValueError(
                f"The student has {tuple(mask.shape)} positions and the teacher something else: "
                f"{tuple(value.shape[:2])}. Cache the teacher's outputs for the tokens that the student reads (for "
                "tagging: one row a word, for the same words)."
            )
        return value[kept]

    def _items(self, inputs: Mapping[str, Any]) -> Tensor:
        if self.word_level and WORD_STARTS in inputs:
            return inputs[WORD_STARTS] == 1
        labelled = self.label_mask(inputs)
        if labelled is None:
            raise ValueError(
                f"{self.name}: a batch without labels does not say which positions have a soft target. "
                "Add `labels` (their -100 positions are left out) or, for tagging, `word_starts`."
            )
        return labelled

    def _teacher_items(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """The items among the teacher's own tokens; None where it reads what the student does."""
        if self.word_level:
            return inputs[TEACHER_WORD_STARTS] == 1 if TEACHER_WORD_STARTS in inputs else None
        return inputs[TEACHER_LABELS][:, self.shift :] != IGNORE_INDEX if TEACHER_LABELS in inputs else None


def _first(marked: Tensor, number: Tensor) -> Tensor:
    """The first `number` marked positions of each row."""
    return marked & (marked.cumsum(dim=-1) <= number.unsqueeze(-1))


TASKS = {
    task.name: task
    for task in (
        Task(
            "text-classification",
            AutoModelForSequenceClassification,
            ("ForSequenceClassification",),
            per_position=False,
            shift=0,
            metrics=("accuracy", "macro_f1"),
        ),
        Task(
            "token-classification",
            AutoModelForTokenClassification,
            ("ForTokenClassification",),
            per_position=True,
            shift=0,
            metrics=("accuracy", "macro_f1"),
            word_level=True,
        ),
        Task(
            "translation",
            AutoModelForSeq2SeqLM,
            ("ForConditionalGeneration", "ForSeq2SeqLM", "MTModel"),
            per_position=True,
            shift=0,
            metrics=("sacrebleu", "chrf"),
            in_decoder=True,
        ),
        Task(
            "text-generation",
            AutoModelForCausalLM,
            ("ForCausalLM", "LMHeadModel"),
            per_position=True,
            shift=1,
            metrics=("bits_per_byte",),
        ),
    )
}


def task_of(model: Any) -> Task:
    """The task of a model, by the name of its class.

    Args:
        model: with a head, PEFT adapters allowed.
    Raises:
        ValueError: no known head.
    """
    base = base_model(model)
    for cls in type(base).__mro__:
        for task in TASKS.values():
            if cls.__name__.endswith(task.class_name_ends):
                return task
    raise ValueError(
        f"{type(base).__name__} has no head that can be distilled: expected a class whose name ends in one of "
        f"{', '.join(end for task in TASKS.values() for end in task.class_name_ends)}. "
        "Load it with an AutoModelFor... class."
    )


def any_tensor(inputs: Mapping[str, Any]) -> Tensor:
    """Some tensor of a batch, to read its device and its batch size from."""
    return next(value for value in inputs.values() if isinstance(value, Tensor) and value.dim() > 0)


def batch_size(inputs: Mapping[str, Any]) -> int:
    """The number of examples in a collated batch."""
    return any_tensor(inputs).shape[0]


def check_classes(
    student: Any, teacher: Any, task: Task, names: tuple[str, str] = ("the student", "the teacher")
) -> None:
    """Raise where a student and its teacher have other classes, or another kind of problem.

    Args:
        student: config.
        teacher: config.
        task: of both.
        names: of both, for the error.
    Raises:
        ValueError: another number of classes, the same classes under other numbers, or another problem type.
    """
    if task.name not in ("text-classification", "token-classification"):
        return
    one, other = names[0].capitalize(), names[1]
    if student.num_labels != teacher.num_labels:
        raise ValueError(
            f"{one} has {student.num_labels} classes {_classes(student)} and {other} {teacher.num_labels} "
            f"{_classes(teacher)}. Soft targets need the same classes: give both the same num_labels and id2label, the "
            "teacher's."
        )
    named = [config for config in (student, teacher) if not has_default_names(config)]
    if len(named) == 2 and dict(student.id2label) != dict(teacher.id2label):
        raise ValueError(
            f"{one}'s classes are {_classes(student)} and {other}'s {_classes(teacher)}: the same number, "
            "another order or other names. Give both the teacher's id2label and number the labels by it."
        )
    if task.name == "token-classification":
        return
    problems = [known_problem(config) for config in (student, teacher)]
    if None not in problems and problems[0] != problems[1]:
        raise ValueError(
            f"{one}'s problem type is {problems[0]} and {other}'s {problems[1]} (config.problem_type; one class "
            "without a problem_type is a regression): the outputs of one would be read as something else by the other. "
            "Set config.problem_type of both to what the teacher was trained for."
        )


def known_problem(config: Any) -> str | None:
    """The problem type as far as a config alone tells it; see `models.problem_type`."""
    return config.problem_type or ("regression" if config.num_labels == 1 else None)


def check_problem(config: Any, problem: str) -> None:
    """Raise a ValueError where a teacher that is used as it is was trained for another problem than its data's.

    Args:
        config: of the teacher.
        problem: of the data.
    """
    known = known_problem(config)
    if known not in (None, problem):
        raise ValueError(
            f"teacher.model: its config's problem_type is {known}, and the labels of the data are {problem}: its "
            "outputs would be read as something else. Take another teacher, let it learn the labels with "
            "teacher.fine_tune, or write the labels as its problem needs them (lists for several classes)."
        )


def _classes(config: Any) -> list[str]:
    return [config.id2label[number] for number in sorted(config.id2label)]


def has_default_names(config: Any) -> bool:
    """Whether classes have the names that transformers gives where none are given: LABEL_0, LABEL_1, ..."""
    return all(name == f"LABEL_{number}" for number, name in config.id2label.items())
