"""The first rows of a data set before the training, without losing any of them."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info


def first_rows(dataset: Any, number: int) -> tuple[list[Any], Any]:
    """The first rows, and the data set that still begins with them.

    A stream that can be read only once would lose the rows that were looked at; it is found by reading its beginning a
    second time.

    Args:
        dataset: with rows by number, or a stream.
        number: of rows, at most.
    Returns:
        The rows, and the data set itself or, for a stream that does not begin anew, one that yields all of its rows.
    """
    by_number = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if by_number and not isinstance(dataset, IterableDataset):  # torch's has a __getitem__ that raises
        return [dataset[index] for index in range(min(number, len(dataset)))], dataset
    begun = iter(dataset)
    rows = list(itertools.islice(begun, number))
    again = iter(dataset)
    second = list(itertools.islice(again, len(rows)))
    if again is not begun and len(second) == len(rows) and all(map(_same, second, rows)):
        return rows, dataset
    # The first iterator is kept: closing it may close the source that both read.
    return rows, _Continued(dataset, [*rows, *second], again if second else begun, begun)


def _same(row: Any, other: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(other, dict):
        return row is other
    return row.keys() == other.keys() and all(np.array_equal(row[name], other[name]) for name in row)


class _Continued(IterableDataset):
    """A stream that was begun: the rows that were read, then the rest. Later readings begin as the stream itself does.

    Args:
        dataset: the stream.
        rows: that were read of it.
        rest: reads on after them.
        kept: other iterators of the stream that must not be closed before.
    """

    def __init__(self, dataset: Any, rows: list[Any], rest: Iterator[Any], *kept: Iterator[Any]) -> None:
        self.dataset = dataset
        self.column_names = getattr(dataset, "column_names", None)
        self._begun: Iterator[Any] | None = itertools.chain(rows, rest)
        self._kept = kept

    def __iter__(self) -> Iterator[Any]:
        begun, self._begun = self._begun, None
        # A worker process takes its own share of a stream, which was begun without any.
        return iter(self.dataset) if begun is None or get_worker_info() is not None else begun
