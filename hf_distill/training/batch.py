"""A collated batch, parsed once: the inputs of both models, the targets and the masks."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hf_distill import columns
from hf_distill.models import base_model, decoder_inputs, evaluating, position_ids
from hf_distill.problems import Task, batch_size
from hf_distill.teachers.live import LiveTeacher
from hf_distill.unmasked_padding import IS_TOKEN, UnmaskedPaddingCheck

COMPANIONS = ("attention_mask", "token_type_ids", "position_ids")  # one entry a token


class Batch:
    """What the objective needs of a collated batch; each part is derived at its first use.

    Args:
        inputs: the whole batch, the teacher's columns included.
        task: of the student.
        student: the student, without data parallelism around it.
        arguments: of the student's forward.
        teacher: None where its outputs are cached, or where there is none.
    Raises:
        ValueError: see `check_batch`.
    """

    def __init__(
        self, inputs: Mapping[str, Any], task: Task, student: Any, arguments: set[str], teacher: LiveTeacher | None
    ) -> None:
        check_batch(inputs, task)
        self.inputs = inputs
        self.task = task
        self.student = student
        self.arguments = arguments
        self.teacher = teacher

    def __len__(self) -> int:
        return batch_size(self.inputs)

    @cached_property
    def labels(self) -> Tensor | None:
        """The labels in line with the logits of `Task.aligned`; None where the batch has none."""
        return self.task.labels(self.inputs)

    @cached_property
    def label_mask(self) -> Tensor | None:
        """See `Task.label_mask`."""
        return self.task.label_mask(self.inputs)

    @cached_property
    def soft_target_mask(self) -> Tensor:
        """See `Task.soft_target_mask`."""
        return self.task.soft_target_mask(self.inputs)

    @cached_property
    def cached(self) -> dict[str, Tensor]:
        """The cached soft targets, by the names of their columns; empty where there are none."""
        return {name: self.inputs[name] for name in columns.SOFT_TARGETS if self.inputs.get(name) is not None}

    @cached_property
    def student_inputs(self) -> dict[str, Any]:
        """What the student reads: never the labels, since its own loss is a mean over the wrong items."""
        read = {name: value for name, value in self.inputs.items() if name in self.arguments and name != "labels"}
        if read.get("position_ids") is None:
            places = position_ids(self.student, read.get("attention_mask"))
            if places is not None:
                read["position_ids"] = places
        return read

    @cached_property
    def teacher_inputs(self) -> Mapping[str, Any]:
        """What the teacher reads, or read when it was cached."""
        if self.teacher is None:
            return columns.teacher_inputs(self.inputs) or self.inputs
        return self.teacher.inputs_from(self.inputs)

    @property
    def has_own_tokens(self) -> bool:
        """Whether the teacher reads other tokens than the student."""
        return columns.PREFIX + "input_ids" in self.inputs

    @property
    def teacher_length(self) -> int:
        """How many positions the live teacher has to have for this batch, its decoder's included."""
        read = [self.teacher_inputs.get("input_ids")]
        if self.task.in_decoder:
            read.append(self.inputs.get(columns.TEACHER_LABELS, self.inputs.get("labels")))
        return max((value.shape[1] for value in read if isinstance(value, Tensor) and value.dim() == 2), default=0)

    @property
    def only_generates(self) -> bool:
        """Whether nothing can be read off a forward: a decoder without a target reads only what it generates."""
        return self.task.in_decoder and self.inputs.get("labels") is None


def check_batch(inputs: Mapping[str, Any], task: Task) -> None:
    """Raise where the labels, the marks or the cached outputs of a batch cannot be those of its rows.

    Args:
        inputs: a collated batch.
        task: of the student.
    Raises:
        ValueError: one of them is no tensor, or of another shape than the task's; or there is no tensor at all.
    """
    if not any(isinstance(value, Tensor) and value.dim() > 0 for value in inputs.values()):
        raise ValueError(
            f"Expected a batch with at least one tensor of (batch, ...), got {sorted(map(str, inputs))}. Let the "
            "data_collator return tensors."
        )
    items = 1 if task.per_position else 0  # dimensions between the batch's and the classes
    ids = inputs.get("input_ids")
    at_tokens = task.per_position and not task.in_decoder
    tokens = (*ids.shape,) if at_tokens and isinstance(ids, Tensor) and ids.dim() == 2 else None
    marks = (columns.WORD_STARTS, columns.TEACHER_WORD_STARTS, columns.TEACHER_LABELS)
    for name in ("labels", *(marks if items else ()), *columns.SOFT_TARGETS):
        value = inputs.get(name)
        if value is None:
            continue
        dims = 2 if name in ("labels", *marks) else items + (1 if name == columns.TAIL else 2)
        wordless = task.word_level and name in columns.SOFT_TARGETS  # sentences without a word have no classes
        fits = isinstance(value, Tensor) and (value.dim() == dims or (wordless and value.dim() < dims))
        if name == "labels" and not items:  # numbers of classes, or a number for each class
            fits = isinstance(value, Tensor) and value.dim() > 0
        rows = (batch_size(inputs),) if tokens is None or name not in ("labels", columns.WORD_STARTS) else tokens
        if not fits or value.shape[: len(rows)] != rows:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            expected = ", ".join(map(str, [*rows, *["..."] * (dims - len(rows))]))
            raise ValueError(
                f"{name}: expected a tensor of shape ({expected}) for {task.name}, got {got}. Let the data_collator "
                "pad it beside input_ids, and leave it out where the task has none."
            )


class LeftPaddingCheck:
    """Whether the student's outputs depend on padding on the left, found out at the first batch that has some.

    Positions are given where a model takes them. A model may still read something at the start of the padded row: its
    classes, as BERT does, or states, as convolutions do. On either side, decoders with one output a row find its last
    token by their config's `pad_token_id`, which has to be the one that rows are padded with. Padding without an
    attention mask is another matter, see `UnmaskedPaddingCheck`.

    Args:
        tokenizers: that know the padding token; None among them is left out.
    """

    TOLERANCE = 0.05  # of the greatest logit: above what bfloat16 rounds, below what another position changes

    def __init__(self, *tokenizers: Any) -> None:
        self._passed = self._finds_last_token = False
        self._tokenizers = tokenizers
        self._unmasked: UnmaskedPaddingCheck | None = None

    def __call__(self, batch: Batch, matches_states: bool = False) -> None:
        """Raise where a row has other outputs than the same row alone.

        Args:
            batch: any.
            matches_states: whether states are compared, which needs to know the positions that are no padding.
        Raises:
            ValueError: it does.
        """
        mask = batch.student_inputs.get("attention_mask")
        if mask is None and "attention_mask" in batch.arguments:
            if self._unmasked is None:
                self._unmasked = UnmaskedPaddingCheck(batch.student, "student", self._tokenizers)
            known = {IS_TOKEN: batch.inputs[IS_TOKEN]} if IS_TOKEN in batch.inputs else {}
            self._unmasked(batch.student_inputs | known, matches_states and not batch.task.in_decoder)
        if mask is None or mask.dim() != 2:
            return
        self._check_last_token(batch, mask)
        if self._passed:
            return
        starts = (mask != 0).int().argmax(dim=-1)
        row = int(starts.argmax())
        start = int(starts[row])
        if not start:
            return
        padded = {
            name: value[row : row + 1] if isinstance(value, Tensor) and len(value) == len(mask) else value
            for name, value in batch.student_inputs.items()
        }
        alone = {
            name: value[:, start:] if name in ("input_ids", *COMPANIONS) else value for name, value in padded.items()
        }
        with evaluating(batch.student), torch.no_grad():
            among, by_itself = (batch.student(**inputs)["logits"] for inputs in (padded, alone))
        if among.shape != by_itself.shape:
            among = among[:, start:]
        if (among - by_itself).abs().max() > self.TOLERANCE * by_itself.abs().max():
            raise ValueError(
                f"Rows are padded on the left, and the outputs of the student, a "
                f"{type(base_model(batch.student)).__name__}, depend on how much padding a row has: it reads the start "
                'of the padded row. Pad on the right (tokenizer.padding_side = "right").'
            )
        self._passed = True

    def _check_last_token(self, batch: Batch, mask: Tensor) -> None:
        model, ids = base_model(batch.student), batch.student_inputs.get("input_ids")
        decodes = "past_key_values" in batch.arguments and not model.config.is_encoder_decoder
        classifies = type(model).__name__.endswith("ForSequenceClassification")
        if self._finds_last_token or not (decodes and classifies) or ids is None or ids.shape != mask.shape:
            return
        padding = ids[mask == 0]
        pad_id = getattr(model.config.get_text_config(), "pad_token_id", None)
        if padding.numel() and (pad_id is None or (padding != pad_id).any()):
            raise ValueError(
                f"Rows are padded with the token {int(padding[0])}, and the student, a {type(model).__name__}, reads "
                f"its classes at the last token that is not its config's pad_token_id, {pad_id}: it would read them at "
                "the padding, now and once it is published. Set model.config.pad_token_id to the id of the padding."
            )
        self._finds_last_token = bool(padding.numel())


def add_decoder_inputs(inputs: dict[str, Any], student: Any) -> dict[str, Any]:
    """What the student's decoder reads, which it would make of labels, and is not given those.

    Args:
        inputs: a collated batch of an encoder-decoder model.
        student: the model.
    """
    labels = inputs.get("labels")
    if labels is None:
        return inputs
    if inputs.get("decoder_input_ids") is None:
        inputs["decoder_input_ids"] = decoder_inputs(student, labels)
    return inputs
