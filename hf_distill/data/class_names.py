"""Names of classes as labels spell them: sorted, and checked for what is no name of a class."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import datasets

from hf_distill.data.cells import AS_LIST, AS_OBJECT, NUMERAL, is_numeral

MANY = 10  # different values, of which nearly all rows have one of their own
SEPARATORS = (";", "|", ",", "/", "+", "&", "#", ":", "\t", "\n", " ")
STRANGE_IN_NAMES = (";", "|", "\t", "\n")
SIGNS = set(string.punctuation) - set("[](){}")
NO_LABEL = "-1"


def label_names(feature: Any) -> list[str] | None:
    """The names of a column of classes, or of lists of them."""
    inner = getattr(feature, "feature", feature)
    return inner.names if isinstance(inner, datasets.ClassLabel) else None


def label_name(value: Any) -> str:
    """A label's name; one empty cell makes a whole column of whole numbers into floats, which are named without .0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def folded(name: str) -> str:
    """A name without case, space and invisible characters, in whatever way its letters are composed.

    >>> folded("Caf\u00e9 \ufeff") == folded("cafe\u0301")
    True
    """
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "".join(letter for letter in plain if not letter.isspace() and unicodedata.category(letter) != "Cf")


def one_error_apart(name: str, other: str) -> bool:
    """Whether two names of five letters or more differ in one letter, or in two neighbours that changed places.

    >>> one_error_apart("delivrey", "Delivery"), one_error_apart("label 1", "label 2")
    (True, False)
    """
    short, long = sorted((folded(name), folded(other)), key=len)
    if len(short) < 5 or short == long or not (short + long).isalpha() or len(long) - len(short) > 1:
        return False
    pairs = enumerate(zip(short, long, strict=False))
    start = next((number for number, (one, two) in pairs if one != two), len(short))
    if len(short) < len(long):
        return short[start:] == long[start + 1 :]
    swapped = short[:start] + short[start : start + 2][::-1] + short[start + 2 :]
    return short[start + 1 :] == long[start + 1 :] or swapped == long


def whole(name: str) -> str:
    """A whole number without its decimals, any other name as it is.

    >>> whole("2.0"), whole("2.5"), whole("007"), whole("v2.0")
    ('2', '2.5', '007', 'v2.0')
    """
    return re.sub(r"^([+-]?\d+)\.0*$", r"\1", name)


def whole_numbers(names: Collection[str]) -> list[str]:
    """Names without the decimals that one empty cell gives to a column of whole numbers: 1.0, 2.0 are 1, 2.

    >>> whole_numbers(["1.0", "2.0"]), whole_numbers(["1.0", "1.5"]), whole_numbers(["007", "7"])
    (['1', '2'], ['1.0', '1.5'], ['007', '7'])
    """
    plain = [whole(name) for name in names]
    if all(name.lstrip("+-").isdecimal() and is_numeral(name) for name in plain):
        return list(dict.fromkeys(plain))
    return list(names)


def sorted_names(names: Iterable[str]) -> list[str]:
    """Names in order, numerals as numbers.

    >>> sorted_names(["10", "9", "b"]), sorted_names(["10", "9"]), sorted_names(["7", "007"])
    (['10', '9', 'b'], ['9', '10'], ['007', '7'])
    """
    names = list(names)
    if all(NUMERAL.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (float(name), name))
    return sorted(names)


def split_labels(cell: str, separator: str) -> list[str]:
    """The labels in a cell; brackets around all and quotation marks around each are no part of them.

    >>> split_labels("a; b", ";"), split_labels("['a', 'b']", ","), split_labels("[]", ",")
    (['a', 'b'], ['a', 'b'], [])
    """
    inside = cell.strip()
    if AS_LIST.fullmatch(inside):
        inside = inside[1:-1]
    parts = (part.strip().strip("'\"").strip() for part in inside.split(separator))
    return [part for part in parts if part]


def check_values(values: Sequence[Any], column: str, word_level: bool) -> None:
    """Raise for objects, and for lists of 0 and 1 that mark the classes instead of naming them.

    Args:
        values: of the column, as they were read.
        column: its name.
        word_level: whether each list has a label for each word.
    """
    objects = next((value for value in values if _has_objects(value)), None)
    if objects is not None:
        raise ValueError(
            f"data.label: expected names of classes in the column {column!r}, got objects: {objects!s:.80}. Spans "
            "become words and a tag for each of them, with task: token-classification; else write the label to a "
            "column of its own."
        )
    lists = [value for value in values if isinstance(value, list)]
    if not word_level and lists:
        check_marks(lists, column)


def check_marks(lists: Sequence[list[Any]], column: str) -> None:
    """Raise for lists of 0 and 1, or of probabilities, one number a class, that do not name the classes.

    Args:
        lists: the labels of some rows.
        column: where they stand.
    """
    if len({len(value) for value in lists}) > 1 or len(lists[0]) < 2:
        return
    numbers = [[float(part) for part in value if _is_number(str(part)) or isinstance(part, bool)] for value in lists]
    if any(len(value) < len(given) for value, given in zip(numbers, lists, strict=True)):
        return
    marked = all(set(value) <= {0, 1} for value in numbers)
    if marked or any(0 < part < 1 for value in numbers for part in value):
        raise ValueError(
            f"data.label: the lists of the column {column!r} mark classes by {'0 and 1' if marked else 'quantities'}, "
            f"{lists[0]!s:.80} for instance, and do not name them. Write lists of names; or a column of 0 and 1 for "
            "each class, and name them all in data.label."
        )


def _has_objects(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(part, dict | list) for part in value))


def check_names(names: Sequence[str], column: str, labels: int, *, single: bool) -> None:
    """Raise where the values of a column are no names of classes.

    Args:
        names: the different values, sorted.
        column: its name.
        labels: how many labels there are.
        single: whether each cell should hold one label.
    Raises:
        ValueError: quantities, objects, several labels in one cell, a -1 that may be a class or none, or values that
            are nearly all different.
    """
    numbers = bool(names) and all(map(_is_number, names))
    parts = [name for name in names if NUMERAL.fullmatch(name) and not float(name).is_integer()]
    if parts and numbers:
        raise ValueError(
            f"data.label: the column {column!r} has quantities, {parts[0]} for instance; each would be "
            "a class of its own. Set data.problem_type=regression, or name the classes with data.labels."
        )
    _check_none(names, column, single=single)
    if names and all(AS_OBJECT.fullmatch(name) for name in names):
        raise ValueError(
            f"data.label: expected one label a cell in the column {column!r}, got objects: {names[0]!s:.80}. Write the "
            "label to a column of its own; spans become words and a tag for each of them, with task: "
            "token-classification."
        )
    if single:
        found = several_in_a_cell(names)
        if found is not None:
            raise ValueError(_several(*found, column))
    if len(names) >= MANY and 2 * len(names) > labels:
        meant = "Did you mean data.problem_type: regression?" if numbers else "Is it a text?"
        raise ValueError(
            f"data.label: the column {column!r} has {len(names)} different values in {labels} labels, "
            f"{', '.join(names[:3])!s:.80} for instance: nearly each would be a class of its own. {meant} If they are "
            "classes, name them with data.labels."
        )


def _check_none(names: Sequence[str], column: str, *, single: bool) -> None:
    """Raise where one value looks as if it said that there is no label: -1, or a lone sign among words."""
    signs = [name for name in names if single and set(name) <= SIGNS]
    none = next(iter(signs), None) if len(signs) == 1 else None
    below = any(is_numeral(name) and name.startswith("-") and name != NO_LABEL for name in names)
    if NO_LABEL in names and not below and set(names) != {NO_LABEL, "1"}:
        none = NO_LABEL
    others = [name for name in names if name != none]
    if none is not None:
        shown = none if none == NO_LABEL else repr(none)
        raise ValueError(
            f"data.label: {shown} stands among the labels {', '.join(others[:8])} of the column {column!r}. If it "
            f"means that there is no label (as in SNLI), set data.missing: [{shown}]; if it is a class, set "
            f"data.labels: [{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}]."
        )


def _is_number(name: str) -> bool:
    return bool(NUMERAL.fullmatch(name)) or name.lower().lstrip("+-") in ("inf", "infinity", "nan")


def several_in_a_cell(names: Sequence[str]) -> tuple[str, str] | None:
    """A value that holds several labels, and what separates them; None where each is one label.

    Args:
        names: the different values of a column.

    >>> several_in_a_cell(["good", "good;cheap", "cheap"]), several_in_a_cell(["good", "good enough"])
    (('good;cheap', ';'), None)
    """
    found = None
    if names and all(AS_LIST.fullmatch(name) for name in names):
        longest = max(names, key=len)
        found = longest, "," if "," in longest or " " not in longest.strip("[] ") else " "
    for separator in SEPARATORS:
        parts = {name: set(split_labels(name, separator)) for name in names}
        shared = Counter(part for each in parts.values() for part in each)
        for name in (name for name in names if found is None and len(parts[name]) > 1):
            known = all(part in parts for part in parts[name])
            again = separator in STRANGE_IN_NAMES and all(shared[part] > 1 for part in parts[name])
            if known or again:
                found = name, separator
    return found


def check_one_label(name: str, classes: Collection[str], column: str) -> None:
    """Raise where a value that is no class holds several classes.

    Args:
        name: the value.
        classes: names of all.
        column: where it stands.
    """
    for separator in SEPARATORS:
        parts = split_labels(name, separator)
        if parts and all(part in classes for part in parts) and (len(parts) > 1 or AS_LIST.fullmatch(name)):
            raise ValueError(_several(name, separator, column))


def _several(name: str, separator: str, column: str) -> str:
    return (
        f"data.label: expected one label a cell in the column {column!r}, got several in {name!r:.80}. Set "
        f'data.label_separator: "{separator}" to read them; or, if it is one label, name the classes with data.labels.'
    )
