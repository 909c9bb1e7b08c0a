"""Texts, pairs of texts and sentences of words with their labels: loaded, cleaned and split."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets

from hf_distill.data.config import Data
from hf_distill.data.files import read
from hf_distill.data.labels import flattened, label_name, label_names
from hf_distill.data.near_duplicates import near_duplicate_key
from hf_distill.data.splits import Row, check_columns, cut, sources_of
from hf_distill.problems import IGNORE_INDEX

TEXTS = ("text", "text_pair")


@dataclass
class Splits:
    """A data set cut for a distillation.

    Each part has `text`, for pairs `text_pair`, or for tagging `words`; `label`, whose missing value is -100 (for
    multi-label rows and quantities NaN); and the columns that `load` was asked to keep.

    Attributes:
        train: with labels.
        unlabelled: text that only the teacher labels.
        validation: selects the model; with labels.
        test: is read once, at the end; with labels.
        fidelity: text held out without labels.
        classes: names of the labels, by their number; none of a regression.
        problem_type: as a model's config has it; None for tagging.
        counts: rows read, kept and left out, each with its reason.
    """

    train: datasets.Dataset
    unlabelled: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    fidelity: datasets.Dataset
    classes: list[str]
    problem_type: str | None
    counts: dict[str, int]


def load(data: Data, seed: int = 0, *, task: str = "text-classification", keep: Collection[str] = ()) -> Splits:
    """Read, clean and split.

    Texts are stripped; empty texts and exact duplicates (case aside) are left out, the first one stays.
    Near-duplicates, texts equal but for URLs, mentions, RT, digits, punctuation and case, never stand on two sides of a
    split: where one is held out, the others are held out too or left out. Everything left out is counted in
    `Splits.counts`.

    Args:
        data: what to read.
        seed: of the random splits, where the data has none.
        task: `text-classification` or `token-classification`.
        keep: more columns to carry along.
    Raises:
        ValueError: a missing file, split or column; a split that comes out empty; fewer than two classes; a sentence
            with more or fewer tags than words.
    """
    source = sources_of(data)
    reader = _LabelledRows(source[data.train], data, task, keep)
    parts = cut(source, data, reader, seed)
    reader.count_unseen_classes(parts["train"])
    return Splits(
        **{part: reader.dataset(rows) for part, rows in parts.items()},
        classes=reader.classes,
        problem_type=reader.problem_type,
        counts=dict(reader.counts),
    )


def load_further(data: Data, splits: Splits, *, task: str = "text-classification") -> datasets.Dataset:
    """The labelled rows of a further test set, without those whose near-duplicates were trained on.

    Args:
        data: its split `train` is read.
        splits: of the data that was trained on; the classes are theirs.
        task: as `load` got it.
    Raises:
        ValueError: a missing file, split or column, or no labelled row.
    """
    source = read(data.path, data.name, data.train, **data.options)
    if data.train not in source:
        raise ValueError(f"compare.test_sets: {data.path} has no split {data.train!r}, it has {', '.join(source)}.")
    labels: Any = splits.classes if isinstance(data.label, str) and splits.classes else None
    reader = _LabelledRows(source[data.train], replace(data, labels=labels), task, keep=())
    trained = {reader.key(row) for part in (splits.train, splits.unlabelled) for row in part}
    rows = [row for row in reader.rows(source[data.train]) if row["known"] and row["key"] not in trained]
    if not rows:
        raise ValueError(f"compare.test_sets: {data.path} has no row labelled with one of {splits.classes}.")
    return reader.dataset(rows)


def unlabelled(texts: Sequence[str], like: datasets.Dataset) -> datasets.Dataset:
    """Texts as rows without a label.

    Args:
        texts: single ones.
        like: rows with `text` and `label`, which tell how a missing label is written.
    """
    feature = like.features["label"]
    missing: Any = IGNORE_INDEX
    if isinstance(feature, datasets.Sequence | datasets.List):
        missing = [math.nan] * feature.length
    elif feature.dtype == "float32":
        missing = math.nan
    features = like.select_columns(["text", "label"]).features
    return datasets.Dataset.from_dict({"text": list(texts), "label": [missing] * len(texts)}, features=features)


class _LabelledRows:
    """Turns rows of a source into rows with a text, a label and what they are like."""

    def __init__(self, train: datasets.Dataset, data: Data, task: str, keep: Collection[str]) -> None:
        self.data = data
        self.keep = list(keep)
        self.word_level = task == "token-classification"
        self.counts: dict[str, int] = defaultdict(int)
        self._seen: set[tuple[str, ...]] = set()
        check_columns(train, data.label_columns, "data.label")
        feature = train.features[data.label_columns[0]]
        several = len(data.label_columns) > 1 or isinstance(feature, datasets.Sequence | datasets.List | list)
        self.problem_type: str | None = "multi_label_classification" if several else "single_label_classification"
        self.problem_type = None if self.word_level else data.problem_type or self.problem_type
        self.classes = [] if self.problem_type == "regression" else self._classes(train)
        if len(self.classes) < 2 and self.problem_type != "regression":
            raise ValueError(
                f"data.labels: expected at least two classes, got {self.classes} from the column {data.label!r}."
            )
        self._numbers = {name: number for number, name in enumerate(self.classes)}

    def _classes(self, train: datasets.Dataset) -> list[str]:
        if self.data.labels:
            return [label_name(label) for label in self.data.labels]
        if len(self.data.label_columns) > 1:
            return self.data.label_columns
        names = label_names(train.features[self.data.label_columns[0]])
        if names is not None:
            return names
        values = list(flattened(train[self.data.label_columns[0]]))
        parts = [
            value for value in values if isinstance(value, float) and not (math.isnan(value) or value.is_integer())
        ]
        if parts:
            raise ValueError(
                f"data.label: the column {self.data.label!r} has quantities, {parts[0]} for instance; each would be "
                "a class of its own. Set data.problem_type=regression, or name the classes with data.labels."
            )
        return [label_name(value) for value in sorted({value for value in values if value not in (None, "")})]

    @property
    def known_by(self) -> str:
        """What a known row has, in words."""
        return f"a label among {self.classes}" if self.classes else "a label"

    def rows(self, dataset: datasets.Dataset) -> Iterable[Row]:
        """The rows that are neither empty nor seen before."""
        data = self.data
        check_columns(dataset, data.text_columns, "data.text")
        check_columns(dataset, list(data.minimum), "data.minimum")
        check_columns(dataset, [data.together] if data.together else [], "data.together")
        check_columns(dataset, self.keep, "compare.by")
        labels = [name for name in data.label_columns if name in dataset.features]
        columns = dict.fromkeys(
            [*data.text_columns, *data.minimum, *labels, *self.keep, *([data.together] if data.together else [])]
        )
        number = self._number_of(dataset, labels) if len(labels) == len(data.label_columns) else None
        for row in dataset.select_columns(list(columns)):
            self.counts["rows read"] += 1
            text = self._text(row)
            key = tuple(part.lower() for part in text.get("words", text.values()))
            if not key or not all(key):
                self.counts["empty texts, left out"] += 1
            elif key in self._seen:
                self.counts["duplicates, left out"] += 1
            else:
                self._seen.add(key)
                sure = all(row[column] is not None and row[column] >= least for column, least in data.minimum.items())
                value = number(row, text) if number is not None and sure else None
                made = {
                    "text": text,
                    "label": self._missing(text) if value is None else value,
                    "known": value is not None,
                    "kept": {name: row[name] for name in self.keep},
                    "key": self.key(text),
                }
                yield made | {"together": made["key"] if data.together is None else str(row[data.together])}

    def key(self, text: Row) -> str:
        """What near-duplicates of a text share."""
        parts = [" ".join(text["words"])] if self.word_level else [text[name] for name in TEXTS if name in text]
        # A text with no letters at all is only like itself.
        return " | ".join(near_duplicate_key(part) or part.lower() for part in parts)

    def without_label(self, row: Row) -> Row:
        """The same text, alone."""
        return row | {"label": self._missing(row["text"]), "known": False}

    def dataset(self, rows: Sequence[Row]) -> datasets.Dataset:
        """Some rows as a data set."""
        text = datasets.Sequence(datasets.Value("string")) if self.word_level else datasets.Value("string")
        names = ["words"] if self.word_level else list(TEXTS[: len(self.data.text_columns)])
        label: Any = datasets.Value("int64")
        if self.word_level:
            label = datasets.Sequence(label)
        elif self.problem_type == "regression":
            label = datasets.Value("float32")
        elif self.problem_type == "multi_label_classification":
            label = datasets.Sequence(datasets.Value("float32"), length=len(self.classes))
        made = {name: [row["text"][name] for row in rows] for name in names}
        made["label"] = [row["label"] for row in rows]
        features = datasets.Features({**dict.fromkeys(names, text), "label": label})
        dataset = datasets.Dataset.from_dict(made, features=features)
        for name in self.keep:
            dataset = dataset.add_column(name, [row["kept"][name] for row in rows])
        return dataset

    def count_unseen_classes(self, train: Sequence[Row]) -> None:
        """Count the classes that no labelled training row shows: nobody can learn them from labels."""
        if self.problem_type in (None, "single_label_classification"):
            shown = set(flattened(row["label"] for row in train))
            unseen = [name for number, name in enumerate(self.classes) if number not in shown]
            if unseen:
                self.counts["classes without a labelled training row"] = len(unseen)

    def _text(self, row: Row) -> dict[str, Any]:
        if self.word_level:
            return {"words": [str(word) for word in row[self.data.text_columns[0]] or []]}
        names = zip(TEXTS, self.data.text_columns, strict=False)
        return {name: str(row[column] or "").strip() for name, column in names}

    def _missing(self, text: dict[str, Any]) -> Any:
        if self.word_level:
            return [IGNORE_INDEX] * len(text["words"])
        if self.problem_type == "multi_label_classification":
            return [math.nan] * len(self.classes)
        return math.nan if self.problem_type == "regression" else IGNORE_INDEX

    def _number_of(self, dataset: datasets.Dataset, columns: list[str]) -> Callable[[Row, dict[str, Any]], Any]:
        """What makes a row's label of its columns, None where it has none."""
        names = label_names(dataset.features[columns[0]])

        def one(value: Any) -> int | None:
            if value is None or value == "" or value != value:  # the last is NaN
                return None
            if names is not None:
                return None if value is None or value < 0 else self._numbers.get(names[value])
            return self._numbers.get(label_name(value))

        def tags(row: Row, text: dict[str, Any]) -> list[int] | None:
            given = row[columns[0]]
            if given is None or all(tag in (None, "") for tag in given):
                return None
            if len(given) != len(text["words"]):
                raise ValueError(
                    f"data.label: a sentence of {len(text['words'])} words has {len(given)} tags: "
                    f"{' '.join(text['words'][:8])!r}... Every word needs one tag; leave all out for an unlabelled one."
                )
            found = [one(tag) for tag in given]
            missing = sum(number is None for number in found)
            if missing:
                self.counts["words whose tag is not among the classes, unlabelled"] += missing
            made = [IGNORE_INDEX if number is None else number for number in found]
            return made if missing < len(made) else None

        def several(row: Row, text: dict[str, Any]) -> list[float] | None:
            if len(columns) > 1:
                values = [row[column] for column in columns]
                return None if None in values else [float(value) for value in values]
            if row[columns[0]] is None:
                return None
            numbers = {one(value) for value in row[columns[0]]}
            if None in numbers:
                self.counts["rows with a label that is not among the classes, unlabelled"] += 1
                return None
            return [float(number in numbers) for number in range(len(self.classes))]

        def quantity(row: Row, text: dict[str, Any]) -> float | None:
            value = row[columns[0]]
            try:
                return None if value is None or math.isnan(float(value)) else float(value)
            except ValueError:
                raise ValueError(
                    f"data.label: a regression needs numbers in {columns[0]!r}, got {value!r}. Leave problem_type out "
                    "if the label is a class."
                ) from None

        if self.word_level:
            return tags
        if self.problem_type == "regression":
            return quantity
        if self.problem_type == "multi_label_classification":
            return several
        return lambda row, text: one(row[columns[0]])


def texts_of(split: datasets.Dataset) -> Iterator[str]:
    """A split's texts: the two of a pair joined, the words of a sentence likewise."""
    for row in split:
        yield " ".join(row["words"] if "words" in row else (row[name] for name in ("text", "text_pair") if name in row))
