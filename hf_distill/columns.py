"""The teacher's columns: their names, and how they pass any collator unharmed."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

LOGITS = "teacher_logits"
TOP_K_LOGITS = "teacher_top_k_logits"
TOP_K_IDS = "teacher_top_k_ids"
TAIL = "teacher_tail"
TEMPERATURE = "teacher_temperature"
HIDDEN = "teacher_hidden_"
SCALE = "_scale"  # ends the name of a column that int8 numbers are multiplied by
SOFT_TARGETS = (LOGITS, TOP_K_LOGITS, TOP_K_IDS, TAIL)
PREFIX = "teacher_"
WORD_STARTS = "word_starts"
TEACHER_WORD_STARTS = PREFIX + WORD_STARTS
TEACHER_LABELS = PREFIX + "labels"  # the teacher's own tokens that are targets, where its vocabulary is another one

IGNORED = -100  # in labels and word starts: special tokens, padding and whatever else does not count


def is_output(name: object) -> bool:
    """Whether a column holds outputs of a teacher. Names that are no strings are of no teacher's."""
    return isinstance(name, str) and (
        name.removesuffix(SCALE) in SOFT_TARGETS or name == TEMPERATURE or name.startswith(HIDDEN)
    )


def is_teacher_column(name: object) -> bool:
    """Whether a column is not the student's own."""
    return isinstance(name, str) and (name.startswith(PREFIX) or name == WORD_STARTS)


def teacher_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The teacher's own inputs in a batch or a row, under the names its tokenizer gave them; labels are none.

    >>> teacher_inputs({"input_ids": [1], "teacher_input_ids": [2], "teacher_labels": [3], "teacher_logits": [0.5]})
    {'input_ids': [2]}
    """
    return {
        name.removeprefix(PREFIX): value
        for name, value in batch.items()
        if is_teacher_column(name) and not is_output(name)
        if name not in (WORD_STARTS, TEACHER_WORD_STARTS, TEACHER_LABELS)
    }


def read_in_training(names: Iterable[str], of_tokens: bool) -> set[str]:
    """The teacher's columns that a training reads beside the inputs of its models.

    Args:
        names: of the data sets; a streamed one may not know its columns beforehand.
        of_tokens: whether the targets are tokens.
    """
    names = {name for name in names if isinstance(name, str)}
    read = {*SOFT_TARGETS, TEMPERATURE, WORD_STARTS, TEACHER_WORD_STARTS, *(name for name in names if is_output(name))}
    read |= {name + SCALE for name in SOFT_TARGETS}
    if of_tokens:
        read.add(TEACHER_LABELS)
    if any(name.startswith(HIDDEN) for name in names):  # of the positions that the teacher read
        read |= {name for name in names if name.startswith(PREFIX)}
    return read


def words_read(row: Mapping[str, Any]) -> int:
    """How many words of a row the teacher reads: those that start in `teacher_word_starts`, else in `word_starts`, else
    the labelled positions.

    Raises:
        ValueError: a row with none of the three, or with something else than numbers there.

    >>> words_read({"word_starts": [-100, 1, 0, 1, -100]})
    2
    """
    for name in (TEACHER_WORD_STARTS, WORD_STARTS):
        if name in row:
            return int((as_tensor(row[name], name) == 1).sum())
    if "labels" not in row:
        raise ValueError(
            f"No column marks where words start: expected {TEACHER_WORD_STARTS}, {WORD_STARTS} (1 a word's first "
            f"piece, 0 further pieces, -100 special tokens) or labels, got {sorted(row)}."
        )
    return int((as_tensor(row["labels"], "labels") != IGNORED).sum())


def teacher_input_columns(names: Iterable[str]) -> list[str]:
    """Those columns that only a live teacher reads.

    >>> teacher_input_columns(["input_ids", "teacher_input_ids", "teacher_word_starts", "teacher_logits"])
    ['teacher_input_ids']
    """
    return [PREFIX + name for name in teacher_inputs(dict.fromkeys(names))]


def numbers(row: Mapping[str, Any], name: str) -> Tensor:
    """A column of a row as numbers, whatever form it was cached in.

    Bytes are bfloat16, and a column `<name>_scale` is what int8 numbers are multiplied by.

    Args:
        row: of a data set.
        name: of the column.
    Raises:
        ValueError: there is no such column, it holds no numbers, or as many scales as it has items are not there.

    >>> numbers({"teacher_logits": [-127, 127], "teacher_logits_scale": 0.5}, "teacher_logits")
    tensor([-63.5000,  63.5000])
    """
    if name not in row:
        raise ValueError(f"Expected a column {name}, got {sorted(map(str, row))}. Every row needs the same columns.")
    tensor = as_tensor(row[name], name)
    if name + SCALE not in row:
        return tensor
    scale = as_tensor(row[name + SCALE], name + SCALE)
    if not scale.numel() + tensor.numel():
        return tensor  # no items, so that a list does not tell the rest of the shape
    if scale.shape != tensor.shape[:-1]:
        raise ValueError(
            f"{name}{SCALE} must have one number an item of {name}, got the shapes {tuple(scale.shape)} and "
            f"{tuple(tensor.shape)}. Take both columns from one cache, or remove the scales if the numbers have none."
        )
    return tensor * scale.unsqueeze(-1)


def all_numbers(dataset: Any, name: str) -> list[np.ndarray]:
    """A column of a whole data set as numbers, row by row, whatever form it was cached in.

    Args:
        dataset: a `datasets.Dataset`.
        name: of the column.
    Raises:
        ValueError: see `numbers`.
    """
    names = [each for each in (name, name + SCALE) if each in dataset.column_names]
    return [numbers(row, name).numpy() for row in dataset.with_format(None).select_columns(names)]


def as_tensor(value: Any, name: str = "a column", *, packed: bool = True) -> Tensor:
    """A value of a column as a tensor: numbers, arrays, lists of them, or the bytes of bfloat16 numbers.

    Args:
        value: of one row.
        name: of the column, for errors.
        packed: whether bytes are numbers.
    Raises:
        ValueError: something else than numbers, lists of uneven lengths, or numbers that no tensor holds.
    """
    if isinstance(value, Tensor):
        return value
    first = value[0] if isinstance(value, list) and value else value
    if not packed and isinstance(first, bytes):
        raise ValueError(_no_numbers(name, value, "bytes"))
    several = isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim > 0)
    if several and len(value) and isinstance(value[0], bytes):
        if any(not isinstance(each, bytes) or len(each) != len(value[0]) or len(each) % 2 for each in value):
            raise ValueError(_no_numbers(name, value, "bytes of odd or uneven lengths"))
        if not value[0]:
            return torch.empty(len(value), 0)
        return as_tensor(b"".join(value), name).view(len(value), -1)
    if isinstance(value, bytes):
        if len(value) % 2:
            raise ValueError(_no_numbers(name, value, "an odd number of bytes, where two are a bfloat16 number"))
        return torch.frombuffer(bytearray(value), dtype=torch.bfloat16).float() if value else torch.empty(0)
    # By way of numpy, which reads lists of lists many times faster, and with the types that torch can compute with.
    try:
        array = np.asarray(value)
        if array.dtype == object and array.ndim:  # as the numpy format of datasets gives lists of lists
            array = np.stack(list(array))
    except ValueError as error:  # which numpy raises for lists of uneven lengths
        raise ValueError(_no_numbers(name, value, "lists of uneven lengths")) from error
    wide = array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max
    if array.dtype.kind not in "fuib" or wide:
        raise ValueError(_no_numbers(name, value, type(value).__name__))
    unsigned = np.int32 if array.itemsize <= 2 else np.int64
    narrow = {"f": np.float32, "u": unsigned, "i": np.int64, "b": np.bool_}[array.dtype.kind]
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinity, as in any other column
        return torch.from_numpy(array.astype(narrow))


def _no_numbers(name: str, value: Any, found: str) -> str:
    return (
        f"{name}: expected a number, or lists of numbers of even lengths, in each row; got {found}: {value!s:.80}. "
        "Fill in or remove rows without it; a column of another kind needs another name, since those of the teacher "
        "are read as numbers."
    )


def column_names(datasets: Iterable[Any]) -> set[str]:
    """The columns of some data sets, as far as they know them."""
    names: set[str] = set()
    for dataset in datasets:
        if isinstance(dataset, dict):
            names |= column_names(dataset.values())
        else:
            names |= set(getattr(dataset, "column_names", None) or ())
    return names
