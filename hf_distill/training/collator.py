"""Pads the teacher's columns around any collator."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hf_distill.columns import (
    HIDDEN,
    IGNORED,
    PREFIX,
    SCALE,
    SOFT_TARGETS,
    TAIL,
    TEACHER_LABELS,
    TEACHER_WORD_STARTS,
    TOP_K_IDS,
    TOP_K_LOGITS,
    WORD_STARTS,
    is_output,
    is_teacher_column,
    numbers,
    teacher_inputs,
    words_read,
)
from hf_distill.packed_rows import check_packing_is_marked


class TeacherColumnsCollator:
    """Any collator, with the teacher's columns taken out before it and put back after it.

    The rows of a batch must come out of the collator as they went in: one collator that packs, shuffles or masks would
    put another row's targets beside a row, silently. That is checked on the first batch that carries targets.

    Args:
        collator: the student's.
        processing_class: the teacher's tokenizer, which pads `teacher_input_ids` and its companions. None: they are
            padded on the right with `pad_id`.
        pad_id: the teacher's pad token id.
        word_level: whether cached outputs are one row a word, for tagging, rather than one a position.
        per_position: whether labels stand at positions; else two dimensions of them are classes.
        in_decoder: whether the positions with labels are those of a decoder, rather than those of `input_ids`.
    Raises:
        ValueError: rows changed inside the collator, or cached outputs of other words or targets than a row has.
    """

    def __init__(
        self,
        collator: Any,
        processing_class: Any = None,
        pad_id: int = 0,
        word_level: bool = False,
        per_position: bool = True,
        in_decoder: bool = False,
    ) -> None:
        self.collator = collator
        self.processing_class = processing_class
        self.pad_id = pad_id
        self.word_level = word_level
        self.per_position = per_position
        self.in_decoder = in_decoder
        self._checked = False

    def __getattr__(self, name: str) -> Any:
        # Trainer saves `data_collator.tokenizer` with the model. Dunder names are left alone for pickling.
        if name.startswith("__") or name == "collator":
            raise AttributeError(name)
        return getattr(self.collator, name)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        names = [name for name in rows[0] if is_teacher_column(name)]
        student_rows = [{name: value for name, value in row.items() if name not in names} for row in rows]
        originals = [row.get("input_ids") for row in student_rows]
        batch = dict(self.collator(student_rows))
        if any(is_output(name) for name in names) and not self._checked:
            self._check_rows(originals, batch)
            self._checked = True
        check_packing_is_marked(originals, batch)

        inputs = [teacher_inputs(row) for row in rows]
        if inputs[0]:
            batch |= {PREFIX + name: value for name, value in self._pad_inputs(inputs).items()}
        if TEACHER_LABELS in names and self.per_position and not self.word_level:
            batch[TEACHER_LABELS] = self._pad_labels(rows, batch)
        for name in names:
            if self.word_level and name in SOFT_TARGETS:
                batch[name] = self._stack_words(rows, name)
            elif name in (WORD_STARTS, TEACHER_WORD_STARTS) or (is_output(name) and not name.endswith(SCALE)):
                if TEACHER_LABELS in batch and name in SOFT_TARGETS:
                    self._check_targets(rows, name)
                batch[name] = self._stack([numbers(row, name) for row in rows], name, batch, rows)
        return batch

    def _pad_inputs(self, rows: list[dict[str, Any]]) -> Mapping[str, Tensor]:
        if self.processing_class is not None:
            return self.processing_class.pad(rows, return_tensors="pt")
        return {
            name: pad_sequence(
                [torch.as_tensor(row[name]) for row in rows],
                batch_first=True,
                padding_value=self.pad_id if name == "input_ids" else 0,
            )
            for name in rows[0]
        }

    def _pad_labels(self, rows: list[dict[str, Any]], batch: dict[str, Any]) -> Tensor:
        """The teacher's labels, at the positions of its logits."""
        labels = [torch.as_tensor(row[TEACHER_LABELS]).clone() for row in rows]
        length = max(map(len, labels))
        if not self.in_decoder:
            for row in labels:
                row[:1] = IGNORED  # no position is before it, or one of padding
        if not self.in_decoder and PREFIX + "input_ids" in batch:
            if any(len(row[TEACHER_LABELS]) != len(row[PREFIX + "input_ids"]) for row in rows):
                raise ValueError(
                    f"{TEACHER_LABELS} must have one entry a token of {PREFIX}input_ids, {IGNORED} where it is no "
                    "target, since a causal model's targets are among what it reads; got rows of other lengths."
                )
            length = batch[PREFIX + "input_ids"].shape[1]
        return torch.stack([_pad_to(row, length, self._teacher_side, IGNORED) for row in labels])

    @property
    def _teacher_side(self) -> str:
        # A decoder reads its labels moved by one: padding on their left would come between.
        return "right" if self.in_decoder else getattr(self.processing_class, "padding_side", "right")

    def _stack(self, tensors: list[Tensor], name: str, batch: dict[str, Any], rows: list[dict[str, Any]]) -> Tensor:
        """One column of a batch; a column with a row a position takes the length and the side of what it belongs to."""
        of_positions = tensors[0].dim() > 1 or name in (WORD_STARTS, TEACHER_WORD_STARTS, TAIL, TOP_K_IDS, TOP_K_LOGITS)
        if not of_positions or tensors[0].dim() == 0:
            return torch.stack(tensors)
        sides = [self._teacher_side] * len(rows)
        if name == TEACHER_WORD_STARTS:  # with cached outputs there may be no inputs of the teacher to line up with
            positions = batch.get(PREFIX + "input_ids", torch.empty(1, 0))
        elif TEACHER_LABELS in batch and name != WORD_STARTS:
            positions = batch[TEACHER_LABELS]
        elif name.startswith(HIDDEN) and PREFIX + "input_ids" in batch:  # at the positions that the teacher read
            positions = batch[PREFIX + "input_ids"]
        else:
            labels = batch.get("labels")
            at_labels = self.per_position and labels is not None and labels.dim() > 1
            positions = labels if at_labels else batch["input_ids"]
            sides = self._student_sides(rows, batch)
        length = max(*(len(tensor) for tensor in tensors), positions.shape[1])
        fill = IGNORED if name in (WORD_STARTS, TEACHER_WORD_STARTS) else 0
        return torch.stack([_pad_to(each, length, side, fill) for each, side in zip(tensors, sides, strict=True)])

    def _student_sides(self, rows: list[dict[str, Any]], batch: dict[str, Any]) -> list[str]:
        """The side that each row was padded on, read from where its own tokens (or a decoder's targets) are."""
        otherwise = getattr(getattr(self.collator, "tokenizer", None), "padding_side", "right")
        name = "labels" if self.in_decoder else "input_ids"
        if name not in batch or name not in rows[0]:
            return [otherwise] * len(rows)
        sides = []
        for padded, row in zip(batch[name].tolist(), rows, strict=True):
            original = torch.as_tensor(row[name]).tolist()
            begins = padded[: len(original)] == original
            ends = padded[len(padded) - len(original) :] == original
            sides.append(otherwise if begins == ends else "right" if begins else "left")
        return sides

    def _stack_words(self, rows: list[dict[str, Any]], name: str) -> Tensor:
        for row in rows:
            if len(row[name]) != (words := words_read(row)):
                raise ValueError(
                    f"{name} has {len(row[name])} rows for a sentence of which the teacher reads {words} words: "
                    "for tagging a cache holds one row a word. Make it with cache_teacher_outputs on these very rows."
                )
        logits = [numbers(row, name) for row in rows]
        shape = next((tensor.shape[1:] for tensor in logits if len(tensor)), torch.Size())
        # A sentence without words has an empty list, without the number of classes.
        return pad_sequence([tensor if len(tensor) else tensor.new_zeros(0, *shape) for tensor in logits], True)

    def _check_targets(self, rows: list[dict[str, Any]], name: str) -> None:
        for row in rows:
            if len(row[name]) != len(row[TEACHER_LABELS]):
                raise ValueError(
                    f"{name} has {len(row[name])} entries for {len(row[TEACHER_LABELS])} of {TEACHER_LABELS}: a cache "
                    "holds one a position of the teacher's. Make it with cache_teacher_outputs on these very rows."
                )

    def _check_rows(self, originals: list[Any], batch: dict[str, Any]) -> None:
        if originals[0] is None or "input_ids" not in batch:
            return
        collated = batch["input_ids"]
        same = len(collated) == len(originals) and all(
            _contains(row.tolist(), list(original)) for row, original in zip(collated, originals, strict=True)
        )
        if not same:
            raise ValueError(
                f"{type(self.collator).__name__} packs, shuffles, truncates or masks rows: {len(originals)} rows went "
                f"in and {tuple(collated.shape)} token ids came out that are not those rows padded. Cached teacher "
                "outputs would stand beside other tokens than the teacher read. Use a collator that only pads, or a "
                "live teacher."
            )


def _contains(padded: list[int], row: list[int]) -> bool:
    return padded[: len(row)] == row or padded[len(padded) - len(row) :] == row


def _pad_to(tensor: Tensor, length: int, side: str, fill: int) -> Tensor:
    missing = length - len(tensor)
    padding = tensor.new_full((missing, *tensor.shape[1:]), fill)
    return torch.cat([padding, tensor] if side == "left" else [tensor, padding])
