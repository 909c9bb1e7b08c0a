"""Names and numbers of classes, read from the labels of a data set."""

from collections.abc import Iterable
from typing import Any

import datasets


def label_names(feature: Any) -> list[str] | None:
    """The names of a column of classes, or of lists of them."""
    inner = getattr(feature, "feature", feature)
    return inner.names if isinstance(inner, datasets.ClassLabel) else None


def flattened(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, list):
            yield from value
        else:
            yield value


def label_name(value: Any) -> str:
    # One empty cell makes a whole csv column of whole numbers into floats.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
