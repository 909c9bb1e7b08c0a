"""What differs between the tasks: the auto class, which positions count, and the loss on the labels."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from hf_distill.columns import TEACHER_LABELS, TEACHER_WORD_STARTS, WORD_STARTS

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
    """

    name: str
    auto_class: Any
    class_name_ends: tuple[str, ...]
    per_position: bool
    shift: int
    metrics: tuple[str, ...]

    def labels(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """The labels in line with the logits of `aligned`."""
        labels = inputs.get("labels")
        return labels[:, self.shift :] if labels is not None and self.shift else labels

    def aligned(self, logits: Tensor) -> Tensor:
        """The logits that have a label to meet: a causal model's last position has none."""
        return logits[:, : -self.shift] if self.shift else logits

    def labelled(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Which items carry a label.

        Args:
            inputs: a collated batch.
        Returns:
            (batch,) or, for tasks with an output a position, (batch, length) bool; None without labels. A label of -100
            is no label. Neither is NaN in a regression, and a multi-label row counts where none of its labels is
            either.
        """
        labels = self.labels(inputs)
        if labels is None:
            return None
        present = labels != IGNORE_INDEX
        if labels.is_floating_point():
            present &= ~labels.isnan()
        return present if self.per_position or present.dim() == 1 else present.all(dim=-1)

    @property
    def of_words(self) -> bool:
        """Whether an item is a word, read at its first piece, so that two tokenizers can be aligned."""
        return self.name == "token-classification"

    @property
    def writes(self) -> bool:
        """Whether an item is the choice of the next token, so that a teacher may have a vocabulary of its own."""
        return self.per_position and not self.of_words

    def taught(self, inputs: Mapping[str, Any]) -> Tensor:
        """Which items a teacher is listened to at.

        Args:
            inputs: a collated batch.
        Returns:
            bool, shaped as `labelled`: every example; in tagging every word's first piece (where `word_starts` is 1;
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

    def unmet(self, inputs: Mapping[str, Any]) -> Tensor:
        """How many targets meet none of the other side, where student and teacher write other tokens.

        The k-th target of a row meets the k-th one of the teacher, up to the end of the shorter sequence.

        Args:
            inputs: a collated batch with `labels` and `teacher_labels`.
        Returns:
            (4,): of the student's targets those beyond the end of the teacher's, and all; of the teacher's likewise.
        """
        own, theirs = self._items(inputs).sum(dim=-1), inputs[TEACHER_LABELS][:, self.shift :] != IGNORE_INDEX
        theirs = theirs.sum(dim=-1)
        beyond = own - theirs
        return torch.stack([beyond.clamp(min=0).sum(), own.sum(), (-beyond).clamp(min=0).sum(), theirs.sum()])

    def answers(self, value: Tensor, inputs: Mapping[str, Any], cached: bool) -> Tensor:
        """What the teacher said of the items of `taught`, in their order.

        Args:
            value: (batch, classes), (batch, teacher's length, classes), or for cached tags (batch, words, classes).
            inputs: the batch.
            cached: whether `value` is a cached column.
        Returns:
            (items, classes)
        Raises:
            ValueError: an output a position, and the teacher has other positions.
        """
        taught = self.taught(inputs)
        if not self.per_position:
            return value[taught]
        value, theirs = self.aligned(value), self._teacher_items(inputs)
        if self.of_words and cached:
            heard = torch.arange(value.shape[1], device=value.device) < taught.sum(dim=-1, keepdim=True)
        elif theirs is not None:
            heard = _first(theirs, taught.sum(dim=-1))
        else:
            heard = taught
        if heard.shape != value.shape[:2] or not torch.equal(heard.sum(dim=-1), taught.sum(dim=-1)):
            raise ValueError(
                f"The student has {tuple(taught.shape)} positions and the teacher something else: "
                f"{tuple(value.shape[:2])}. Cache the teacher's outputs for the tokens that the student reads (for "
                "tagging: one row a word, for the same words)."
            )
        return value[heard]

    def _items(self, inputs: Mapping[str, Any]) -> Tensor:
        if self.of_words and WORD_STARTS in inputs:
            return inputs[WORD_STARTS] == 1
        labelled = self.labelled(inputs)
        if labelled is None:
            raise ValueError(
                f"{self.name}: a batch without labels does not say which positions the teacher should be heard at. "
                "Add `labels` (their -100 positions are left out) or, for tagging, `word_starts`."
            )
        return labelled

    def _teacher_items(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """The items of the teacher's own reading; None where it reads what the student does."""
        if self.of_words:
            return inputs[TEACHER_WORD_STARTS] == 1 if TEACHER_WORD_STARTS in inputs else None
        return inputs[TEACHER_LABELS][:, self.shift :] != IGNORE_INDEX if TEACHER_LABELS in inputs else None


def _first(marks: Tensor, number: Tensor) -> Tensor:
    """The first `number` marked positions of each row."""
    return marks & (marks.cumsum(dim=-1) <= number.unsqueeze(-1))


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
        ),
        Task(
            "translation",
            AutoModelForSeq2SeqLM,
            ("ForConditionalGeneration", "ForSeq2SeqLM", "MTModel"),
            per_position=True,
            shift=0,
            metrics=("sacrebleu", "chrf"),
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


def base_model(model: Any) -> Any:
    """A model without its PEFT adapters around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


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


def decoder_inputs(model: Any, labels: Tensor) -> Tensor:
    """What an encoder-decoder model's decoder reads when it is given labels, by the model's own rule.

    Args:
        model: an encoder-decoder model with a language head, PEFT adapters allowed.
        labels: (batch, target), padded on the right; -100 is read as padding.
    Returns:
        (batch, target), the labels moved by one behind the token that the decoder starts with.
    Raises:
        ValueError: the model has no such rule that could be called.
    """
    base = base_model(model)
    if hasattr(base, "prepare_decoder_input_ids_from_labels"):
        return base.prepare_decoder_input_ids_from_labels(labels=labels)
    # M2M100 (NLLB) and others of transformers 5.23 shift by a function beside the class, and in `forward` alone.
    for cls in type(base).__mro__:
        shift = getattr(sys.modules[cls.__module__], "shift_tokens_right", None)
        if shift is not None:
            return shift(labels, base.config.pad_token_id, base.config.decoder_start_token_id)
    raise ValueError(
        f"{type(base).__name__} does not say what its decoder reads for given labels: expected a method "
        "prepare_decoder_input_ids_from_labels, or a function shift_tokens_right in its module. Add the method to it."
    )


def problem_type(config: Any, labels: Tensor | None) -> str:
    """`single_label_classification`, `multi_label_classification` or `regression`, by transformers' own rule.

    Args:
        config: of a sequence classification model.
        labels: of a batch, their type tells where the config does not.
    """
    if config.problem_type is not None:
        return config.problem_type
    if config.num_labels == 1:
        return "regression"
    multi_label = labels is not None and labels.is_floating_point()
    return "multi_label_classification" if multi_label else "single_label_classification"


def hard_loss(logits: Tensor, labels: Tensor, problem: str, label_smoothing: float = 0.0) -> Tensor:
    """The loss of each item on its label, unreduced.

    Args:
        logits: (items, classes).
        labels: (items,) class numbers; (items, classes) 0/1 floats for multi-label; (items,) or (items, classes) floats
            for regression.
        problem: see `problem_type`.
        label_smoothing: share of the probability spread over all classes, 0 to 1; single-label only.
    Returns:
        (items,): cross-entropy in nats; binary cross-entropy in nats, averaged over the classes; squared error,
        averaged over the outputs.
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    if problem == "single_label_classification":
        return F.cross_entropy(logits, labels.long(), reduction="none", label_smoothing=label_smoothing)
    targets = labels.to(logits.dtype).view_as(logits)
    if problem == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=-1)
    return F.mse_loss(logits, targets, reduction="none").mean(dim=-1)


def any_tensor(inputs: Mapping[str, Any]) -> Tensor:
    """Some tensor of a batch, to read its device and its batch size from."""
    return next(value for value in inputs.values() if isinstance(value, Tensor) and value.dim() > 0)


def batch_size(inputs: Mapping[str, Any]) -> int:
    """The number of examples in a collated batch."""
    return any_tensor(inputs).shape[0]
