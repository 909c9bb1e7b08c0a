"""Labels: names and numbers of the classes of a data set, several labels a text, tags, and quantities."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import datasets
import numpy as np

from hf_distill.data.class_names import (
    NO_LABEL,
    check_marks,
    check_names,
    check_one_label,
    check_values,
    folded,
    label_name,
    label_names,
    one_error_apart,
    sorted_names,
    split_labels,
    whole,
    whole_numbers,
)
from hf_distill.data.config import Data
from hf_distill.data.splits import Row, check_columns
from hf_distill.problems import IGNORE_INDEX
from hf_distill.tag_schemes import illegal_tags, odd_tags, tag_scheme

LARGEST = float(np.finfo(np.float32).max)  # as which quantities are read
FEW, NAMED = 3, 5  # rows of a class that are told, and how many such classes by name
TYPING = 0.1  # share of another class's rows up to which a name may be a typing error
MANY = 300  # classes beyond which none is looked for
ZERO_OR_ONE = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}


class Labels:
    """Reads the labels of a data set.

    Args:
        train: rows whose labels are the classes, where the recipe names none.
        data: of the recipe.
        word_level: whether each word has a label.
        counts: gains what there is to tell of the labels, by reason.
    Raises:
        ValueError: fewer than two classes, values that are no classes, or values that mean several things.
    """

    def __init__(self, train: datasets.Dataset, data: Data, word_level: bool, counts: dict[str, int]) -> None:
        self.data, self.word_level, self.counts = data, word_level, counts
        self.missing = data.missing_values
        self.columns = data.label_columns
        check_columns(train, self.columns, "data.label")
        lists = is_list(train.features[self.columns[0]])
        several = len(self.columns) > 1 or lists or data.label_separator is not None
        self.problem_type: str | None = "multi_label_classification" if several else "single_label_classification"
        self.problem_type = None if word_level else data.problem_type or self.problem_type
        self.scheme: str | None = None
        if data.label_separator is not None and (word_level or data.problem_type == "regression"):
            raise ValueError(
                "data.label_separator: is for texts with several labels each; leave it out where words have tags and "
                "where the label is a quantity."
            )
        if len(self.columns) > 1 and data.problem_type == "regression":
            raise ValueError(f"data.label: a regression has one column of quantities, got {self.columns}. Name one.")
        if word_level and not (lists or _is_json(train.features[self.columns[0]])):
            raise ValueError(
                f"data.label: expected a list of tags a sentence in the column {self.columns[0]!r}, got "
                f"{_first(train[self.columns[0]])!r:.80}. Write words and tags as lists (jsonl, parquet), or as CoNLL."
            )
        self.classes = [] if self.problem_type == "regression" else self._found_classes(train)
        if self.problem_type == "regression":
            self._check_quantities(train)
        if len(self.classes) < 2 and self.problem_type != "regression":
            advice = " Where columns of a CoNLL file stand apart by other signs than tabs or blanks, use one of these."
            raise ValueError(
                f"data.labels: expected at least two classes, got {self.classes} from the column {data.label!r}."
                + (advice if word_level and not self.classes else "")
            )
        self._numbers = {name: number for number, name in enumerate(self.classes)}
        self._whole = {whole(name): number for name, number in reversed(self._numbers.items())}
        self._plain = {name: number for name, number in self._numbers.items() if name not in self.missing}
        self._folded = {folded(name) for name in self.classes}
        if word_level:
            self._note_scheme(train)

    def _check_quantities(self, train: datasets.Dataset) -> None:
        """Raise where there is one quantity alone, which every model knows."""
        (column,) = self.columns[:1]
        numbered = label_names(train.features[column]) is not None
        found = {self._quantity(value, numbered) for value in train[column]} - {None}
        if len(found) == 1:
            raise ValueError(
                f"data.label: a regression needs different numbers in {column!r}, and all rows have {found.pop()}."
            )

    def check_named(self, train: datasets.Dataset) -> None:
        """Raise a ValueError where none of the classes that the recipe names stands in the column of some rows."""
        if not self.data.labels or len(self.columns) > 1 or not self.classes:
            return
        names = label_names(train.features[self.columns[0]])
        given = names or (part for value in train[self.columns[0]] for part in self._parts(value))
        found = sorted({name for name in map(self._name, given) if name is not None})
        if found and not any(name in self._numbers or whole(name) in self._whole for name in found):
            raise ValueError(
                f"data.labels: none of {self.classes!s:.200} stands in the column {self.columns[0]!r}, which has "
                f"{', '.join(map(repr, found[:8]))}{', ...' if len(found) > 8 else ''}. Name classes as it spells them."
            )

    def _found_classes(self, train: datasets.Dataset) -> list[str]:
        if self.data.labels:
            return [label_name(label).strip() for label in self.data.labels]
        if len(self.columns) > 1:
            return self.columns
        names = label_names(train.features[self.columns[0]])
        if names is not None:
            return names
        column = train[self.columns[0]][:]
        check_values(column, self.columns[0], self.word_level)
        if self.data.label_separator is not None:
            check_marks([self._parts(value) for value in column if value is not None] or [[]], self.columns[0])
        spelled = Counter(part for value in column for part in self._parts(value))
        counted: Counter[str] = Counter()
        for value, count in spelled.items():
            name = self._name(value)
            if name is not None:
                counted[name] += count
        made = sorted_names(whole_numbers(counted))
        single = self.problem_type == "single_label_classification"
        check_names(made, self.columns[0], sum(counted.values()), single=single)
        self._note_alike(made)
        if not self.word_level:
            self._note_rare(counted)
        return made

    def _note_alike(self, names: Sequence[str]) -> None:
        alike: dict[str, list[str]] = defaultdict(list)
        for name in names:
            alike[folded(name)].append(name)
        for group in alike.values():
            if len(group) > 1:
                self.counts[f"classes that differ only in case or space: {', '.join(map(repr, group))}"] = len(group)

    def _note_rare(self, counted: Mapping[str, int]) -> None:
        """Count what may be no class at all: names of one or two rows, and those one typing error from another."""
        few = {name: count for name, count in counted.items() if count < FEW}
        for name, count in sorted(few.items())[:NAMED]:
            self.counts[f"labelled rows of the class {name!r}, too few to learn or to measure it"] = count
        if len(few) > NAMED:
            self.counts[f"further classes of fewer than {FEW} labelled rows"] = len(few) - NAMED
        for name, count in sorted(counted.items()) if len(counted) <= MANY else ():
            near = (other for other, more in counted.items() if count < TYPING * more and one_error_apart(name, other))
            for other in near:
                self.counts[f"labelled rows of the class {name!r}, one typing error from {other!r}"] = count

    def _note_scheme(self, train: datasets.Dataset) -> None:
        self.scheme = tag_scheme(self.classes)
        odd = odd_tags(self.classes)
        if odd:
            some = ", ".join(map(repr, odd[:3])) + (", ..." if len(odd) > 3 else "")
            told = f"tags that are not B-NAME, I-NAME or O, so that words are scored, not entities: {some}"
            self.counts[told] = len(odd)
        if self.scheme is None:
            return
        names = label_names(train.features[self.columns[0]])
        rows = [[name or "" for name in self._tag_names(tags, names)] for tags in train[self.columns[0]] if tags]
        self.scheme, illegal = illegal_tags(rows, self.scheme)
        if self.scheme != "IOB2":
            self.counts[f"sentences with tags in the {self.scheme} scheme"] = len(rows)
        if illegal:
            self.counts[f"tags that the {self.scheme} scheme does not allow where they stand"] = illegal

    def reader(self, dataset: datasets.Dataset) -> Callable[[Row, dict[str, Any]], Any] | None:
        """What makes a row's label of the row and its text, None where it has none; None if there is no such column."""
        if not all(name in dataset.features for name in self.columns):
            return None
        if self.problem_type == "regression":
            numbered = label_names(dataset.features[self.columns[0]]) is not None
            return lambda row, text: self._quantity(row[self.columns[0]], numbered)
        if len(self.columns) > 1:
            return lambda row, text: self._marks(row)
        column, names = self.columns[0], label_names(dataset.features[self.columns[0]])
        if self.word_level:
            return lambda row, text: self._tags(row[column], text["words"], names)
        if self.problem_type == "multi_label_classification":
            return lambda row, text: self._several_numbers(row[column], names)
        return lambda row, text: self._number(row[column], names)

    def none_for(self, text: dict[str, Any]) -> Any:
        """How it is written that a text has no label."""
        if self.word_level:
            return [IGNORE_INDEX] * len(text["words"])
        if self.problem_type == "multi_label_classification":
            return [math.nan] * len(self.classes)
        return math.nan if self.problem_type == "regression" else IGNORE_INDEX

    @property
    def feature(self) -> Any:
        """The type of the column of labels."""
        if self.word_level:
            return datasets.Sequence(datasets.Value("int64"))
        if self.problem_type == "multi_label_classification":
            return datasets.Sequence(datasets.Value("float32"), length=len(self.classes))
        return datasets.Value("float32" if self.problem_type == "regression" else "int64")

    def count_unseen_classes(self, train: Sequence[Row]) -> None:
        """Count the classes that no labelled training row shows: they cannot be learned from labels."""
        if self.problem_type in (None, "single_label_classification"):
            shown = set(flattened(row["label"] for row in train))
            unseen = [name for number, name in enumerate(self.classes) if number not in shown]
            if unseen:
                self.counts["classes without a labelled training row"] = len(unseen)

    def _name(self, value: Any) -> str | None:
        """A label as it is spelled; None where there is none."""
        if value is None or value != value:  # the last is NaN
            return None
        if isinstance(value, list | dict):
            raise ValueError(
                f"data.label: expected one label a cell in the column {self.data.label!r}, got {value!s:.80}. Several "
                "labels a text are lists in every row; lists in only some cannot be read."
            )
        name = label_name(value).strip()
        if not name or name in self.missing or name == str(IGNORE_INDEX):
            return None
        return name

    def _number(self, value: Any, names: Sequence[str] | None) -> int | None:
        if names is not None and isinstance(value, int):
            return None if value < 0 else self._numbers.get(names[value])
        if isinstance(value, str) and value in self._plain:
            return self._plain[value]
        name = self._name(value)
        if name is None:
            return None
        if isinstance(value, str) and value != value.strip():
            self.counts["labels with white space around them, stripped"] += 1
        number = self._numbers.get(name)
        if number is None:
            number = self._whole.get(whole(name))
        if number is None and self.problem_type == "single_label_classification":
            check_one_label(name, self._numbers, self.columns[0])
        if number is None and folded(name) in self._folded:
            self.counts["labels that differ from a class only in case or space, unlabelled"] += 1
        return number

    def _tag_names(self, tags: Sequence[Any], names: Sequence[str] | None) -> list[str | None]:
        if names is None:
            return [self._name(tag) for tag in tags]
        return [names[tag] if isinstance(tag, int) and tag >= 0 else None for tag in tags]

    def _tags(self, given: Any, words: Sequence[str], names: Sequence[str] | None) -> list[int] | None:
        if given is None or all(tag in (None, "") for tag in given):
            return None
        if len(given) != len(words):
            raise ValueError(
                f"data.label: a sentence of {len(words)} words has {len(given)} tags: "
                f"{' '.join(words[:8])!r}... Every word needs one tag; leave all out for an unlabelled one."
            )
        found = [self._number(tag, names) for tag in given]
        missing = sum(number is None for number in found)
        if missing:
            self.counts["words whose tag is not among the classes, unlabelled"] += missing
        made = [IGNORE_INDEX if number is None else number for number in found]
        return made if missing < len(made) else None

    def _parts(self, value: Any) -> list[Any]:
        """The labels of a cell."""
        if isinstance(value, list):
            return value
        if self.data.label_separator is None or not isinstance(value, str):
            return [value]
        return split_labels(value, self.data.label_separator)

    def _several_numbers(self, value: Any, names: Sequence[str] | None) -> list[float] | None:
        if value is None or (not isinstance(value, list) and self._name(value) is None):
            return None
        numbers = {self._number(part, names) for part in self._parts(value)}
        if None in numbers:
            self.counts["rows with a label that is not among the classes, unlabelled"] += 1
            return None
        return [float(number in numbers) for number in range(len(self.classes))]

    def _marks(self, row: Row) -> list[float] | None:
        names = [self._name(row[column]) for column in self.columns]
        marks = []
        for column, name in zip(self.columns, names, strict=True):
            mark = ZERO_OR_ONE.get(whole(name).lower()) if name is not None else None
            if mark is None and name is not None and whole(name) != NO_LABEL:
                raise ValueError(
                    f"data.label: expected 0, 1 or nothing (-1: not labelled) in the column {column!r}, got "
                    f"{row[column]!r}. Make 0 or 1 of it first: of votes, for instance, whether they are at least half."
                )
            marks.append(mark)
        if any(name is not None and whole(name) == NO_LABEL for name in names):
            self.counts["rows with a label of -1, unlabelled"] += 1
        return None if None in marks else [mark for mark in marks if mark is not None]

    def _quantity(self, value: Any, numbered: bool = False) -> float | None:
        if value is None or (isinstance(value, str) and not value.strip()) or str(value).strip() in self.missing:
            return None
        if numbered and value < 0:  # so a ClassLabel writes that there is none
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"data.label: a regression needs numbers in {self.columns[0]!r}, got {value!r}. Leave problem_type out "
                "if the label is a class."
            ) from None
        if not abs(number) <= LARGEST:
            raise ValueError(
                f"data.label: a regression needs finite numbers in {self.columns[0]!r}, got {value!r}: the loss would "
                f"not be finite either. Leave the cell empty, or set data.missing: [{value}], if there is no quantity."
            )
        return number


def is_list(feature: Any) -> bool:
    """Whether the cells of a column are lists."""
    return isinstance(feature, datasets.Sequence | datasets.List | datasets.LargeList | list)


def _is_json(feature: Any) -> bool:
    return isinstance(feature, datasets.Json)


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def flattened(values: Iterable[Any]) -> Iterable[Any]:
    """The values of lists and those beside them."""
    for value in values:
        if isinstance(value, list):
            yield from value
        else:
            yield value
