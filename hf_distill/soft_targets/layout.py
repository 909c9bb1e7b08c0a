"""What a teacher's answers look like on disk: compressed, as the columns of an Arrow table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from hf_distill import columns

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True)
class Values:
    """One column of some rows, before it is one of Arrow's.

    Attributes:
        array: (items,) or (items, width), the items of all rows one after the other.
        lengths: (rows,), how many items each row has; None: one, not in a list.
        packed: whether the bytes of an item are kept as they are: bfloat16, which Arrow does not know.
    """

    array: np.ndarray
    lengths: np.ndarray | None
    packed: bool = False

    @property
    def feature(self) -> object:
        """The type of the column in `datasets`."""
        dtype = "large_binary" if self.packed else str(self.array.dtype)
        item = datasets.Value(dtype)
        if self.array.ndim == 2 and not self.packed:
            item = datasets.List(item, length=self.array.shape[1])
        return item if self.lengths is None else datasets.List(item)

    @property
    def arrow(self) -> pa.Array:
        """(rows,) of Arrow's, without a copy of the numbers."""
        array = np.ascontiguousarray(self.array)
        if self.packed:
            width = array.shape[1] * array.itemsize
            ends = np.arange(len(array) + 1, dtype=np.int64) * width  # states of long texts pass 2 GiB
            items = pa.Array.from_buffers(
                pa.large_binary(), len(array), [None, pa.py_buffer(ends.tobytes()), pa.py_buffer(array.tobytes())]
            )
        else:
            items = pa.array(array.reshape(-1))
            if array.ndim == 2:
                items = pa.FixedSizeListArray.from_arrays(items, array.shape[1])
        if self.lengths is None:
            return items
        ends = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(ends), items)


@dataclass(frozen=True)
class Layout:
    """Which of a teacher's outputs are kept, and in what form.

    Attributes:
        top_k: the most likely classes that are kept; None: all.
        temperature: of the tail, where only the top k are kept.
        dtype: a key of `BYTES`. `bfloat16` is kept as bytes; `int8` with a float32 scale an item, its greatest
            magnitude / 127, in a column `<name>_scale`.
        hidden_layers: of the states that are kept, 0 the embeddings.
    """

    top_k: int | None
    temperature: float
    dtype: str
    hidden_layers: tuple[int, ...]

    @property
    def names(self) -> list[str]:
        """The columns that will be there."""
        kept = [columns.LOGITS] if self.top_k is None else [columns.TOP_K_LOGITS]
        kept += [f"{columns.HIDDEN}{layer}" for layer in self.hidden_layers]
        scales = [name + columns.SCALE for name in kept] if self.dtype == "int8" else []
        top_k = [columns.TOP_K_IDS, columns.TAIL, columns.TEMPERATURE] if self.top_k is not None else []
        return kept + scales + top_k

    def bytes_per_item(self, classes: int) -> int:
        """What the logits of one example, word or position take in memory-mapped Arrow."""
        kept = self._bytes(self.top_k or classes)
        return kept if self.top_k is None else kept + self.top_k * id_type(classes).itemsize + 4

    def bytes_per_position(self, width: int) -> int:
        """What the states of one position take in memory-mapped Arrow."""
        return len(self.hidden_layers) * self._bytes(width)

    def _bytes(self, numbers: int) -> int:
        return numbers * BYTES[self.dtype] + {"int8": 4, "bfloat16": 8}.get(self.dtype, 0)  # its scale, or its end

    def logits(self, logits: Tensor) -> dict[str, np.ndarray]:
        """The columns of some items' logits.

        Args:
            logits: (items, classes) float32.
        Raises:
            ValueError: numbers that the dtype cannot hold.
        """
        if self.top_k is None:
            return self._numbers(columns.LOGITS, logits)
        kept, ids = logits.topk(self.top_k, dim=-1)
        # The rest itself, rather than the whole without the top: their difference would cancel.
        rest = (logits / self.temperature).scatter_(-1, ids, -torch.inf).logsumexp(-1)
        return self.top_k_logits(kept, ids, rest, logits.shape[-1])

    def top_k_logits(self, kept: Tensor, ids: Tensor, rest: Tensor, classes: int) -> dict[str, np.ndarray]:
        """The columns of some items of which the top k are known.

        Args:
            kept: (items, k) float32 logits.
            ids: (items, k), their classes.
            rest: (items,) float32, the log-sum-exp of all others / temperature.
            classes: how many there are.
        Raises:
            ValueError: numbers that the dtype cannot hold.
        """
        return {
            **self._numbers(columns.TOP_K_LOGITS, kept),
            columns.TOP_K_IDS: ids.cpu().numpy().astype(id_type(classes)),
            columns.TAIL: rest.cpu().numpy(),
        }

    def hidden(self, layer: int, states: Tensor) -> dict[str, np.ndarray]:
        """The columns of one layer's states.

        Args:
            layer: 0 is the embeddings.
            states: (positions, width) float32.
        Raises:
            ValueError: numbers that the dtype cannot hold.
        """
        return self._numbers(f"{columns.HIDDEN}{layer}", states)

    def _numbers(self, name: str, values: Tensor) -> dict[str, np.ndarray]:
        if self.dtype == "int8":
            scale = values.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
            if not torch.isfinite(scale).all():
                raise ValueError(f"{name}: int8 has no place for infinity. Use float16 or float32.")
            codes = (values / scale).round().to(torch.int8)
            return {name: codes.cpu().numpy(), name + columns.SCALE: scale.squeeze(-1).cpu().numpy()}
        cast = values.to(getattr(torch, self.dtype))
        if (cast.isinf() & ~values.isinf()).any():
            raise ValueError(
                f"{name}: the teacher's {values.abs().max().item():.3g} is more than {self.dtype} can hold. Use "
                "bfloat16 or float32."
            )
        bits = cast.cpu()
        return {name: bits.view(torch.int16).numpy() if self.dtype == "bfloat16" else bits.numpy()}

    def values(self, name: str, array: np.ndarray, lengths: np.ndarray | None) -> Values:
        """A column of some rows, from the items of `logits` or `hidden`."""
        plain = name.endswith(columns.SCALE) or name in (columns.TOP_K_IDS, columns.TAIL, columns.TEMPERATURE)
        return Values(array, lengths, packed=self.dtype == "bfloat16" and not plain)


def id_type(classes: int) -> np.dtype:
    """The narrowest integer type that counts the classes.

    >>> [id_type(classes).name for classes in (256, 257, 65_536, 65_537)]
    ['uint8', 'uint16', 'uint16', 'int32']
    """
    return np.dtype("uint8" if classes <= 2**8 else "uint16" if classes <= 2**16 else "int32")


def table(found: Mapping[str, Values], rows: pa.Table | None, features: Mapping[str, object]) -> pa.Table:
    """An Arrow table that `datasets` reads.

    Args:
        found: the teacher's columns.
        rows: the columns of the rows themselves, where they are kept too.
        features: of `rows`.
    """
    own = [] if rows is None else [rows.column(name) for name in features]
    schema = datasets.Features({**features, **{name: values.feature for name, values in found.items()}}).arrow_schema
    return pa.Table.from_arrays([*own, *(values.arrow for values in found.values())], schema=schema)


def in_order(parts: Sequence[np.ndarray], lengths: Sequence[np.ndarray], order: np.ndarray) -> np.ndarray:
    """The items of the rows, which came in batches in another order.

    Args:
        parts: of each batch, (items, ...).
        lengths: of each batch, how many items each of its rows has.
        order: (rows,), where each row of the batches belongs.
    """
    rows = [row for part, each in zip(parts, lengths, strict=True) for row in np.split(part, np.cumsum(each)[:-1])]
    return np.concatenate([rows[index] for index in np.argsort(order)])
