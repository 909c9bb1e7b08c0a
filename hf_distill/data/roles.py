"""Which task some data is for, and which of its columns are text and label: by their names and values, or refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np

from hf_distill.data.cells import is_numeral
from hf_distill.data.class_names import NO_LABEL, several_in_a_cell

LOOKED_AT = 5_000  # rows
# Known names, the likeliest first; they are compared in lower case.
TEXTS = (
    *("text", "sentence", "review", "content", "comment", "tweet", "body", "message", "description", "utterance"),
    *("document", "article", "question", "query", "title", "headline"),
)
LABELS = (
    *("label", "labels", "sentiment", "class", "category", "categories", "intent", "topic", "emotion", "polarity"),
    *("rating", "stars", "score", "target", "tag", "tags", "language"),
)
PAIRS = (
    *(("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text1", "text2")),
    *(("text_a", "text_b"), ("text", "text_pair"), ("question", "sentence"), ("query", "passage")),
)
TARGETS = (("source", "target"), ("src", "tgt"), ("document", "summary"), ("article", "summary"))
QUANTITY = 20  # different whole numbers from which on they are a quantity
CLASSES = 50  # the most different values that may be classes in a column without a known name
REPEATED = 3  # rows a class has there in the mean, at least
WORDS = 3  # that a text has in the mean, at least; with fewer a column is a name or a key
REMEDY = "Name them: --text COLUMN, --label COLUMN, and --task where it is not the classification of texts."


@dataclass(frozen=True)
class Roles:
    """What some data is for.

    Attributes:
        task: of a recipe.
        text: the columns of the text, one or two; or that of the words, or of the messages.
        label: the column of the label, of the tags, or of a translation. None: there is none.
        regression: whether the label is a quantity.
        separator: what stands between several labels in one cell. None: a cell is one label.
        missing: values that mean that there is no label.
    """

    task: str
    text: tuple[str, ...]
    label: str | None
    regression: bool = False
    separator: str | None = None
    missing: tuple[str, ...] = ()


def find_roles(
    rows: datasets.Dataset, *, task: str | None = None, text: Sequence[str] = (), label: str | None = None
) -> Roles:
    """The roles of the columns of some data.

    Args:
        rows: of the training split.
        task: of a recipe. None: what the columns look like.
        text: columns of the text. Empty: those that look like one.
        label: column of the label. None: the one that looks like one.
    Raises:
        ValueError: there is no such column, or several columns could have a role.
    """
    for name in [*text, *([] if label is None else [label])]:
        if name not in rows.column_names:
            raise ValueError(f"There is no column {name!r}, the data has {', '.join(rows.column_names)}.")
    rows = rows.select(range(min(LOOKED_AT, len(rows))))
    values = {name: [value for value in rows[name] if value not in (None, "")] for name in rows.column_names}
    values = {name: found for name, found in values.items() if found}
    given = _Given(tuple(text), label)
    if task == "text-generation" or (task is None and not text and label is None and _messages(values)):
        return Roles("text-generation", _messages(values) or given.text or (_text(values, given),), None)
    pair = _translation(values) if task in (None, "translation") and label is None else None
    if task == "translation":
        source, target = (given.text[0], label) if given.text and label else (pair or (None, None))
        if source is None:
            raise ValueError(f"Which columns are the text and its translation? There are {_told(values)}. {REMEDY}")
        return Roles(task, (source,), target)
    words = _words(values)
    if task == "token-classification" or (task is None and words and not text and label is None):
        return Roles("token-classification", given.text or words[:1], label or (words[1] if words else None))
    if task is None and pair is not None and not text:
        return Roles("translation", pair[:1], pair[1])
    known = replace(given, label=label or _label(values, given))
    if known.label is None:
        if task is None and len(values) == 1:
            return Roles("text-generation", given.text or (_text(values, given),), None)
        raise ValueError(f"No column looks like a label. There are {_told(values)}. {REMEDY}")
    texts = given.text or _pair(values, known) or (_text(values, known),)
    return Roles("text-classification", texts, known.label, **_kind_of_label(rows, values, known.label))


@dataclass(frozen=True)
class _Given:
    """The columns whose role is known."""

    text: tuple[str, ...]
    label: str | None


Values = Mapping[str, list[Any]]


def _messages(values: Values) -> tuple[str, ...]:
    """The column of conversations, where there is one."""
    return tuple(
        name
        for name, found in values.items()
        if isinstance(found[0], list) and found[0] and isinstance(found[0][0], dict) and "role" in found[0][0]
    )[:1]


def _words(values: Values) -> tuple[str, ...]:
    """The columns of words and of their tags: lists of equal lengths, of which the tags have fewer different values."""
    lists = {name: found for name, found in values.items() if isinstance(found[0], list)}
    for words, texts in lists.items():
        if not all(isinstance(word, str) for text in texts for word in text):
            continue
        for tags, labels in lists.items():
            if tags == words or [*map(len, texts)] != [*map(len, labels)]:
                continue
            sizes = [len({value for row in column for value in row}) for column in (labels, texts)]
            if sizes[0] < sizes[1]:
                return words, tags
    return ()


def _translation(values: Values) -> tuple[str, str] | None:
    """The columns of texts and their translations, by their names; two languages among them are in the file's order."""
    lower = {name.lower(): name for name in values}
    for source, target in TARGETS:
        if source in lower and target in lower and all(map(_is_text, (values[lower[source]], values[lower[target]]))):
            return lower[source], lower[target]
    codes = [name for name in values if len(name) == 2 and name.isalpha() and _is_text(values[name])]
    return (codes[0], codes[1]) if len(codes) == 2 else None


def _label(values: Values, given: _Given) -> str | None:
    """The column of the label: one of a known name, or the only one whose values repeat like those of classes."""
    lower = {name.lower(): name for name in values if name not in given.text}
    known = [lower[name] for name in LABELS if name in lower]
    if known:
        return known[0]
    like = [name for name in lower.values() if _repeats(values[name])]
    if len(like) > 1:
        raise ValueError(f"Several columns could be the label: {', '.join(like)}. {REMEDY}")
    return like[0] if like else None


def _pair(values: Values, given: _Given) -> tuple[str, ...]:
    lower = {name.lower(): name for name in values if name != given.label}
    return next(((lower[one], lower[other]) for one, other in PAIRS if one in lower and other in lower), ())


def _text(values: Values, given: _Given) -> str:
    """The column of the text: one of a known name, or the only one with sentences."""
    left = {name.lower(): name for name, found in values.items() if name != given.label and _is_text(found, 0)}
    known = [left[name] for name in TEXTS if name in left]
    if known:
        return known[0]
    like = [name for name in left.values() if _is_text(values[name])]
    if len(like) != 1:
        told = f"Several columns could be the text: {', '.join(like)}." if like else "No column looks like a text."
        raise ValueError(f"{told} There are {_told(values)}. {REMEDY}")
    return like[0]


def _is_text(found: Sequence[Any], words: int = WORDS) -> bool:
    """Whether values are strings with several words, numbers aside."""
    if not all(isinstance(value, str) for value in found) or all(map(is_numeral, found)):
        return False
    return float(np.mean([len(value.split()) for value in found])) >= words


def _repeats(found: Sequence[Any]) -> bool:
    """Whether values repeat like those of classes."""
    if not all(isinstance(value, str | int | bool) for value in found):
        return False
    return 2 <= len(set(found)) <= min(CLASSES, len(found) // REPEATED)


def _kind_of_label(rows: datasets.Dataset, values: Values, label: str) -> dict[str, Any]:
    """Whether a label is a quantity, or several labels in one cell, and which values are none."""
    found = values[label]
    if isinstance(found[0], list) or isinstance(rows.features[label], datasets.ClassLabel):
        return {}
    spelled = [str(value).strip() for value in found]
    if all(map(is_numeral, spelled)):
        different = set(map(float, spelled)) - {float(NO_LABEL)}
        if not all(number.is_integer() for number in different) or len(different) > QUANTITY:
            return {"regression": True}
        unlabelled = NO_LABEL in spelled and min(different) == 0  # as in SNLI
        return {"missing": (NO_LABEL,)} if unlabelled else {}
    several = several_in_a_cell(sorted(set(spelled)))
    return {} if several is None else {"separator": several[1]}


def _told(values: Values) -> str:
    return ", ".join(f"{name} ({str(found[0])[:30]!r})" for name, found in values.items())
