"""What a cell of a table holds: a text, a number, or nothing."""

import re
from collections.abc import Collection, Iterable
from typing import Any

import datasets

AS_LIST = re.compile(r"\s*(\[.*\]|\(\s*(['\"].*)?\))\s*", flags=re.DOTALL)  # or a tuple of strings
AS_OBJECT = re.compile(r"\s*\{.*\}\s*", flags=re.DOTALL)
NUMERAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
LEADING_ZERO = re.compile(r"[+-]?0\d")


def text_of(value: Any, column: str, missing: Collection[str] = (), *, key: str = "data.text") -> str:
    """A cell as a text, stripped; empty where there is none.

    Args:
        value: of the cell.
        column: its name.
        missing: texts that stand for none.
        key: of the recipe, that names the column.
    Raises:
        ValueError: it is a list or an object.
    """
    if value is None:
        return ""
    if isinstance(value, list | dict):
        raise ValueError(_no_text(value, column, key))
    text = str(value).strip()
    return "" if text in missing else text


def check_texts(dataset: datasets.Dataset, columns: Iterable[str], key: str = "data.text") -> None:
    """Raise a ValueError for a column whose cells are all lists or objects that are written as text."""
    for column in columns:
        if not isinstance(dataset.features[column], datasets.Value):
            continue
        texts = [value for value in dataset[column] if isinstance(value, str) and value]
        for pattern, begins in ((AS_LIST, ("['", '["')), (AS_OBJECT, ("{'", '{"'))):
            if texts and all(text.lstrip().startswith(begins) and pattern.fullmatch(text) for text in texts):
                raise ValueError(_no_text(texts[0], column, key))


def _no_text(value: Any, column: str, key: str) -> str:
    advice = "Write the part that is meant to a column of its own, and name that."
    if isinstance(value, list) or str(value).lstrip().startswith("["):
        advice = (
            "Where each word has a tag, set task: token-classification, and write words and tags as lists (jsonl, "
            "parquet) or as CoNLL; else join the words to one text."
        )
    kind = "objects" if isinstance(value, dict) or str(value).lstrip().startswith("{") else "lists"
    return f"{key}: expected texts in the column {column!r}, got {kind}: {value!s:.80}. {advice}"


def words_of(value: Any, column: str) -> list[str]:
    """A cell as the words of a sentence; none where it is empty.

    Args:
        value: of the cell.
        column: its name.
    Raises:
        ValueError: it is no list of words.
    """
    if value is None:
        return []
    if not isinstance(value, list) or any(isinstance(word, list | dict) for word in value):
        raise ValueError(
            f"data.text: for tagging expected a list of words in the column {column!r}, got {value!s:.80}. Write words "
            "and tags as lists (jsonl, parquet) or as CoNLL; for one label a text set task: text-classification."
        )
    return ["" if word is None else str(word) for word in value]


def number_of(value: Any, column: str, missing: Collection[str] = (), *, key: str) -> float | None:
    """A cell as a number; None where it is empty.

    Args:
        value: of the cell.
        column: its name.
        missing: values that stand for none.
        key: of the recipe, that names the column.
    Raises:
        ValueError: it is no number.
    """
    if value is None or (isinstance(value, str) and not value.strip()) or str(value).strip() in missing:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{key}: expected numbers in the column {column!r}, got {value!r:.80}. If it means that there is none, set "
            f"data.missing: [{value!s:.40}]."
        ) from None


def is_numeral(text: str) -> bool:
    """Whether a text spells a number as a number would be written: 7, -1 or 0.5, but not 007.

    >>> [is_numeral(text) for text in ("7", "-1.5", "007", "1e3", "nan", "")]
    [True, True, False, True, False, False]
    """
    return bool(NUMERAL.fullmatch(text)) and not LEADING_ZERO.match(text)


def numeric_columns(parts: Iterable[datasets.Dataset], names: Collection[str]) -> dict[str, type[int] | type[float]]:
    """The columns of strings in which every cell spells a number, each with the kind of number.

    In csv and tsv files all cells are strings.

    Args:
        parts: of one data set; columns that one lacks are not looked at in it.
        names: of columns.
    """
    found: dict[str, type[int] | type[float]] = {}
    for name in names:
        columns = [part[name] for part in parts if name in part.column_names]
        values = {value for column in columns for value in column if value is not None}
        if values and all(isinstance(value, str) and is_numeral(value) for value in values):
            found[name] = int if all(re.fullmatch(r"[+-]?\d+", value) for value in values) else float
    return found


def as_number(value: Any, kind: type[int] | type[float] | None) -> Any:
    """A cell of one of the `numeric_columns` as a number; of other columns as it is."""
    return value if value is None or kind is None else kind(value)
