"""Pads the teacher's columns around any collator."""

from array import array
from collections.abc import Mapping, Sequence, Sized
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorWithFlattening

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
    as_tensor,
    is_output,
    is_teacher_column,
    numbers,
    teacher_inputs,
    words_read,
)
from hf_distill.packed_rows import check_packing_is_marked
from hf_distill.unmasked_padding import IS_TOKEN, is_token

LABELS = ("labels", "label", "label_ids")
MOST = 2**62  # of a label, so that a tensor holds it
READ = ("input_ids", "attention_mask", "token_type_ids", *LABELS)  # of the student's own columns


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
        names = teacher_columns(rows, self._is_plain)
        self._check_own_columns(rows)
        student_rows = [{name: value for name, value in row.items() if name not in names} for row in rows]
        originals = [row.get("input_ids") for row in student_rows]
        batch = self._collated(student_rows)
        if any(is_output(name) for name in names) and not self._checked:
            self._check_rows(originals, batch)
            self._checked = True
        check_packing_is_marked(originals, batch)
        known = is_token(originals, batch)
        if known is not None:
            batch[IS_TOKEN] = known

        inputs = [teacher_inputs(row) for row in rows]
        if inputs[0]:
            batch |= {PREFIX + name: value for name, value in self._pad_inputs(inputs, rows).items()}
        if TEACHER_LABELS in names and self.per_position and not self.word_level:
            batch[TEACHER_LABELS] = self._pad_labels(rows, batch)
        for name in names:
            if self.word_level and name in SOFT_TARGETS:
                batch[name] = self._stack_words(rows, name)
            elif name in (WORD_STARTS, TEACHER_WORD_STARTS) or (is_output(name) and not name.endswith(SCALE)):
                tensors = (
                    of_one_shape(rows, name)
                    if is_output(name)
                    else [flat(row, name, number) for number, row in enumerate(rows)]
                )
                if TEACHER_LABELS in batch and name in SOFT_TARGETS:
                    self._check_targets(rows, tensors, name)
                batch[name] = self._stack(tensors, name, batch, rows)
        return batch

    @property
    def _is_plain(self) -> bool:
        """Whether the student's collator is one of transformers', which read numbers alone."""
        kind = self.collator if isinstance(self.collator, FunctionType) else type(self.collator)
        return str(kind.__module__).startswith("transformers.")

    def _check_own_columns(self, rows: list[dict[str, Any]]) -> None:
        # A collator that pads labels reads lists of them; another one takes them as they are.
        padded = hasattr(self.collator, "label_pad_token_id") or isinstance(self.collator, DataCollatorWithFlattening)
        check_student_columns(rows, self.per_position and not self.in_decoder, self._is_plain, padded, self.in_decoder)
        if not self._is_plain or isinstance(self.collator, DataCollatorWithFlattening):
            return
        pads = hasattr(self.collator, "tokenizer")
        for name in () if padded else LABELS if pads else ("label",):
            if any(isinstance(row.get(name), Tensor) and row[name].numel() != 1 for row in rows):
                raise ValueError(
                    f"{name}: {type(self.collator).__name__} cannot put tensors of several labels together. Give it "
                    'lists or arrays, by dataset.with_format(None) or with_format("numpy").'
                )
        if not pads:
            for name in rows[0]:
                if not is_teacher_column(name) and not isinstance(rows[0][name], str | None):
                    tensors = [as_tensor(row.get(name), name, packed=False) for row in rows]
                    if len({tensor.shape for tensor in tensors}) > 1:
                        raise ValueError(
                            f"{name} must have one shape in every row of a batch, as {type(self.collator).__name__} "
                            f"does not pad; got {_shapes(tensors)}. Pass processing_class=tokenizer, or a "
                            "data_collator that pads."
                        )
        elif "input_ids" not in rows[0]:
            raise ValueError(
                f"Expected rows with input_ids, which {type(self.collator).__name__} pads; got "
                f"{sorted(map(str, rows[0]))}. Tokenize the data set before."
            )

    def _collated(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collator(rows)
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"The data_collator must return a mapping of columns to tensors, got {type(batch).__name__}. Return "
                "a dict, or a BatchEncoding."
            )
        return dict(batch)

    def _pad_inputs(self, inputs: list[dict[str, Any]], rows: list[dict[str, Any]]) -> Mapping[str, Tensor]:
        read = {name: of_one_shape(rows, PREFIX + name) for name in inputs[0]}
        ids = read.get("input_ids")
        if ids is None and self.processing_class is not None:
            raise ValueError(
                f"Expected {PREFIX}input_ids beside {', '.join(PREFIX + name for name in read)}: the teacher's "
                "tokenizer pads them together. Add it, or rename columns that are none of the teacher's inputs."
            )
        for name, tensors in read.items():
            for number, tensor in enumerate(tensors):
                tokens = tensor.numel() if ids is None else ids[number].numel()
                if tensor.dim() == 0 or (tensor.dim() == 1 and len(tensor) != tokens):
                    raise ValueError(
                        f"{PREFIX}{name} must be a list with one entry a token of {PREFIX}input_ids; row {number} of "
                        f"a batch has {tuple(tensor.shape)} for {tokens}. Tokenize again with the teacher's "
                        "tokenizer, or rename a column that is none of the teacher's inputs."
                    )
        if self.processing_class is not None:
            return self.processing_class.pad(inputs, return_tensors="pt")
        if ids is not None and "attention_mask" not in read and len({len(row) for row in ids}) > 1:
            read["attention_mask"] = [torch.ones_like(row) for row in ids]
        return {
            name: pad_sequence(tensors, batch_first=True, padding_value=self.pad_id if name == "input_ids" else 0)
            for name, tensors in read.items()
        }

    def _pad_labels(self, rows: list[dict[str, Any]], batch: dict[str, Any]) -> Tensor:
        """The teacher's labels, at the positions of its logits."""
        labels = [flat(row, TEACHER_LABELS, number).clone() for number, row in enumerate(rows)]
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
            if len({tensor.shape for tensor in tensors}) > 1:
                raise ValueError(
                    f"{name} must have as many numbers in every row of a batch; got the shapes {_shapes(tensors)}. "
                    "Were they made by teachers of different classes?"
                )
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
            at_labels = self.per_position and isinstance(labels, Tensor) and labels.dim() > 1
            found = labels if at_labels else batch.get("input_ids")
            if not isinstance(found, Tensor) or found.dim() != 2:
                raise ValueError(
                    f"{name} has one entry a position, and the batch has no labels or input_ids of shape (batch, "
                    f"length) that say where these are; it has {sorted(batch)}. Let the data_collator return them."
                )
            positions = found
            sides = self._student_sides(rows, batch)
        length = max(*(len(tensor) for tensor in tensors), positions.shape[1])
        fill = IGNORED if name in (WORD_STARTS, TEACHER_WORD_STARTS) else 0
        return torch.stack([_pad_to(each, length, side, fill) for each, side in zip(tensors, sides, strict=True)])

    def _student_sides(self, rows: list[dict[str, Any]], batch: dict[str, Any]) -> list[str]:
        """The side that each row was padded on, read from where its own tokens (or a decoder's targets) are."""
        otherwise = getattr(getattr(self.collator, "tokenizer", None), "padding_side", "right")
        name = "labels" if self.in_decoder else "input_ids"
        if not isinstance(batch.get(name), Tensor) or name not in rows[0]:
            return [otherwise] * len(rows)
        if batch[name].dim() != 2 or len(batch[name]) != len(rows):
            raise self._changed_rows(len(rows), batch[name])
        sides = []
        for padded, row in zip(batch[name].tolist(), rows, strict=True):
            original = as_tensor(row[name], name).tolist()
            begins = padded[: len(original)] == original
            ends = padded[len(padded) - len(original) :] == original
            sides.append(otherwise if begins == ends else "right" if begins else "left")
        return sides

    def _stack_words(self, rows: list[dict[str, Any]], name: str) -> Tensor:
        logits = of_one_shape(rows, name)
        for row, tensor in zip(rows, logits, strict=True):
            words = words_read(row)
            if not tensor.dim() or len(tensor) != words:
                raise ValueError(
                    f"{name} has {_items(tensor)} rows for a sentence of which the teacher reads {words} words: "
                    "for tagging a cache holds one row a word. Make it with cache_teacher_outputs on these very rows."
                )
        return pad_sequence(logits, True)

    def _check_targets(self, rows: list[dict[str, Any]], tensors: list[Tensor], name: str) -> None:
        for row, tensor in zip(rows, tensors, strict=True):
            targets = as_tensor(row[TEACHER_LABELS]).numel()
            if not tensor.dim() or len(tensor) != targets:
                raise ValueError(
                    f"{name} has {_items(tensor)} entries for {targets} of {TEACHER_LABELS}: a cache "
                    "holds one a position of the teacher's. Make it with cache_teacher_outputs on these very rows."
                )

    def _check_rows(self, originals: list[Any], batch: dict[str, Any]) -> None:
        collated = batch.get("input_ids")
        if originals[0] is None or not isinstance(collated, Tensor):
            return
        same = collated.dim() == 2 and len(collated) == len(originals)
        same = same and all(
            _contains(row.tolist(), as_tensor(original).tolist())
            for row, original in zip(collated, originals, strict=True)
        )
        if not same:
            raise self._changed_rows(len(originals), collated)

    def _changed_rows(self, number: int, collated: Tensor) -> ValueError:
        return ValueError(
            f"{type(self.collator).__name__} packs, shuffles, truncates or masks rows: {number} rows went in and "
            f"{tuple(collated.shape)} token ids came out that are not those rows padded. Cached teacher outputs would "
            "stand beside other tokens than the teacher read. Use a collator that only pads, or a live teacher."
        )


# The rows of a batch, checked before any collator reads them


def teacher_columns(rows: Any, are_collated_here: bool) -> list[str]:
    """The columns of some rows that are not the student's own.

    Args:
        rows: of a batch.
        are_collated_here: see `check_student_columns`.
    Raises:
        TypeError: no list of mappings.
        ValueError: no row, or rows with different columns of those that are read here.
    """
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        kinds = sorted({type(row).__name__ for row in rows}) if isinstance(rows, Sequence) else type(rows).__name__
        raise TypeError(
            f"Expected a list of rows, each a mapping of column to value; got {kinds}. Collate rows of a data set."
        )
    if not rows:
        raise ValueError("Expected at least one row to collate, got none. Leave empty batches out.")
    own = READ if are_collated_here else READ[:1]
    read = [[name for name in row if is_teacher_column(name) or name in own] for row in rows]
    for number, names in enumerate(read):
        if set(names) != set(read[0]):
            raise ValueError(
                f"Every row of a batch needs the same columns: row 0 has {sorted(read[0])} and row {number} "
                f"{sorted(names)}. Fill in what is missing (labels of -100 where there are none), or leave the column "
                "out everywhere."
            )
    return [name for name in rows[0] if is_teacher_column(name)]


def check_student_columns(
    rows: Sequence[Mapping[str, Any]],
    at_tokens: bool,
    are_collated_here: bool,
    labels_are_padded: bool,
    may_lack_labels: bool,
) -> None:
    """Raise where the student's own columns are no tokens and labels.

    Args:
        rows: of a batch, all with the same columns.
        at_tokens: whether labels stand at the tokens.
        are_collated_here: whether the collator is known to read numbers alone; another one may make them of anything.
        labels_are_padded: whether that collator needs a list of labels in each row.
        may_lack_labels: whether that collator leaves out labels that are None in every row, as those of decoders do.
    Raises:
        ValueError: token ids that are no list of whole numbers, companions or labels of another length, or labels that
            are no numbers.
    """
    for name in LABELS if are_collated_here and not labels_are_padded else ():
        values = [row[name] for row in rows if name in row]
        if all(isinstance(value, int | float) and not abs(value) > MOST for value in values):
            continue
        if len({as_tensor(value, name, packed=False).shape for value in values}) > 1 and not may_lack_labels:
            raise ValueError(
                f"{name} must have one shape in every row of a batch, since the collator does not pad it; got "
                f"{', '.join(f'{value!s:.40}' for value in values[:3])}. Use a collator that pads labels, as "
                "DataCollatorForTokenClassification does, or labels of one length."
            )
    for number, row in enumerate(rows):
        tokens = _length(row, "input_ids", number) if "input_ids" in row else None
        if not are_collated_here:
            continue
        for name in READ:
            lacks = may_lack_labels and name in LABELS and all(each.get(name) is None for each in rows)
            if name not in row or name == "input_ids" or lacks:
                continue
            of_tokens = name not in LABELS or (at_tokens and isinstance(row[name], Sized))
            if not of_tokens and not labels_are_padded:
                continue
            found = _length(row, name, number)
            if of_tokens and tokens is not None and found != tokens:
                raise ValueError(
                    f"{name} must have one entry a token of input_ids; row {number} of a batch has {found} for "
                    f"{tokens}. Tokenize the rows again, or cut both alike."
                )


def _length(row: Mapping[str, Any], name: str, number: int) -> int:
    """The length of what `flat` returns."""
    if isinstance(row[name], list):
        try:
            return len(array("q", row[name]))  # several times faster than a tensor, and of whole numbers alone
        except (TypeError, OverflowError):
            pass
    return len(flat(row, name, number))


def flat(row: Mapping[str, Any], name: str, number: int) -> Tensor:
    """A column of a row that is a list of whole numbers.

    Args:
        row: of a batch.
        name: of the column.
        number: of the row.
    Returns:
        (length,), integers.
    Raises:
        ValueError: it is something else.
    """
    values = as_tensor(row[name], name, packed=False)
    if values.dim() != 1 or ((values.is_floating_point() or values.is_complex()) and len(values)):
        raise ValueError(
            f"{name} must be a list of whole numbers; row {number} of a batch has {row[name]!s:.80}. Tokenize the rows "
            "before, and leave padding to the collator."
        )
    return values.long()


def of_one_shape(rows: Sequence[Mapping[str, Any]], name: str) -> list[Tensor]:
    """A column of some rows, which differ in their number of items alone.

    Args:
        rows: of a batch.
        name: of the column.
    Returns:
        For each row (...), or (items, ...). A row without items, whose list does not tell the rest of the shape, takes
        that of the others.
    Raises:
        ValueError: the rows differ in more than that.
    """
    tensors = [numbers(row, name) for row in rows]
    filled = [tensor for tensor in tensors if tensor.numel() or not tensor.dim()]
    shapes = {(tensor.dim(), *tensor.shape[1:]) for tensor in filled}
    mixed = len({tensor.dim() == 0 for tensor in tensors}) > 1
    if mixed or len(shapes) > 1 or any(tensor.dim() > 2 for tensor in tensors if is_output(name)):
        raise ValueError(
            f"{name} must have one shape in every row of a batch, but for the number of items; got the shapes "
            f"{_shapes(tensors)}. Were they made by teachers of different classes, or for another task?"
        )
    rest = filled[0].shape[1:] if filled else tensors[0].shape[1:]
    return [tensor if tensor.numel() or not tensor.dim() else tensor.new_zeros(0, *rest) for tensor in tensors]


def _shapes(tensors: Sequence[Tensor]) -> str:
    return " and ".join(map(str, sorted({tuple(tensor.shape) for tensor in tensors})))


def _items(tensor: Tensor) -> str:
    return str(len(tensor)) if tensor.dim() else "no"


def _contains(padded: list[int], row: list[int]) -> bool:
    return padded[: len(row)] == row or padded[len(padded) - len(row) :] == row


def _pad_to(tensor: Tensor, length: int, side: str, fill: int) -> Tensor:
    missing = length - len(tensor)
    padding = tensor.new_full((missing, *tensor.shape[1:]), fill)
    return torch.cat([padding, tensor] if side == "left" else [tensor, padding])
