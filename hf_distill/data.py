"""Load, clean and split; all of it through `datasets`."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import datasets
import numpy as np

from hf_distill.augment import Augment
from hf_distill.sources import read
from hf_distill.tasks import IGNORE_INDEX

NEAR_DUPLICATES = "near-duplicates of held-out rows, left out"
TEXTS = ("text", "text_pair")
Row = dict[str, Any]


@dataclass
class Data:
    """Where the texts come from and what becomes of them.

    Attributes:
        path: a Hub id; a local csv, tsv, json, jsonl, parquet or CoNLL file, or a folder of them; or a file inside an
            installed package as `package:name/path/in/it`. A CoNLL file has the columns `words` and `tags`.
        name: configuration of a Hub data set.
        text: column of the text, or two columns for pairs; for tagging the column of the words.
        label: column of the label, numbers or names; for tagging one a word. A column of lists, or several columns of 0
            and 1, make a multi-label problem.
        labels: the classes, in order. None: all values of the column. Rows with another value have no label: they lend
            their text alone, which only the teacher labels.
        problem_type: `regression` where the label is a quantity; else it is found from the label.
        minimum: column → smallest value for a row's label to count; below it, or where it is empty, the row lends its
            text.
        together: column whose equal values stay on one side of every split: documents, speakers, conversations.
        train: split to train on.
        test: a split, or a number or share of labelled rows to hold out of `train`.
        validation: likewise.
        unlabelled: a split whose rows lend their text alone, beside those above.
        labelled: number of training rows that keep their label, drawn at random; the others lend their text. None: all.
        fidelity: number of rows without labels to hold out, to measure how faithful the student is.
        augment: how many new texts to make of the training texts, and how; only the teacher labels them.
        seed: of the splits; None: the recipe's, so that another seed tests on other rows.
        options: more arguments of `datasets.load_dataset`, `encoding` for instance.
    """

    path: str
    text: str | list[str] = "text"
    label: str | list[str] = "label"
    name: str | None = None
    labels: list[str | int] | None = None
    problem_type: Literal["regression"] | None = None
    minimum: dict[str, float] = field(default_factory=dict)
    together: str | None = None
    train: str = "train"
    test: str | int | float = "test"
    validation: str | int | float = 0.1
    unlabelled: str | None = None
    labelled: int | None = None
    fidelity: int = 0
    augment: Augment | None = None
    seed: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def text_columns(self) -> list[str]:
        """The text's columns, one or two."""
        return [self.text] if isinstance(self.text, str) else list(self.text)

    @property
    def label_columns(self) -> list[str]:
        """The label's columns, one or several."""
        return [self.label] if isinstance(self.label, str) else list(self.label)


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
    source = read(data.path, data.name, data.train, **data.options)
    for part in (data.train, *([data.unlabelled] if data.unlabelled else [])):
        if part not in source:
            raise ValueError(f"data: {data.path} has no split {part!r}, it has {', '.join(source)}.")
    reader = _Reader(source[data.train], data, task, keep)
    seed = seed if data.seed is None else data.seed
    held: dict[str, list[Row]] = {}
    for part in ("test", "validation"):
        split = getattr(data, part)
        if isinstance(split, str):
            if split not in source:
                raise ValueError(
                    f"data.{part}: {data.path} has no split {split!r}, it has {', '.join(source)}. "
                    f"Name one of them, or give a number or share of rows to hold out of {data.train!r}."
                )
            held[part] = [row for row in reader.rows(source[split]) if row["known"]]
    counts = reader.counts
    if {"test", "validation"} <= held.keys():
        tested = {row["key"] for row in held["test"]}
        apart = {row["together"] for row in held["test"]} if data.together else set()
        kept = [row for row in held["validation"] if row["key"] not in tested and row["together"] not in apart]
        counts[NEAR_DUPLICATES] += len(held["validation"]) - len(kept)
        held["validation"] = kept
    rows = list(reader.rows(source[data.train]))
    if data.unlabelled is not None:
        rows += [reader.without_label(row) for row in reader.rows(source[data.unlabelled])]

    if data.together:
        apart = {row["together"] for part in held.values() for row in part}
        whole, rows = rows, [row for row in rows if row["together"] not in apart]
        if len(rows) < len(whole):
            counts[f"rows that share a {data.together} with held-out ones, left out"] = len(whole) - len(rows)
    groups = _Groups(rows, [row["key"] for part in held.values() for row in part], counts, seed)
    for part in ("test", "validation"):
        size = getattr(data, part)
        if not isinstance(size, str):
            wanted = size if isinstance(size, int) else round(size * groups.labelled)
            held[part] = groups.hold_out(wanted, part)
    if data.labelled is not None:  # labels are in plenty, so any text can be held out without its own
        held["fidelity"] = [reader.without_label(row) for row in groups.hold_out(data.fidelity, "fidelity")]
    else:
        held["fidelity"] = groups.hold_out(data.fidelity, "fidelity", labelled=False)
    left = groups.left()
    if data.labelled is not None:
        left = _keep_labels(left, data.labelled, reader, seed)

    parts = {
        "train": [row for row in left if row["known"]],
        "unlabelled": [row for row in left if not row["known"]],
        **held,
    }
    for part in ("train", "validation", "test"):
        if not parts[part]:
            raise ValueError(
                f"data: no labelled rows are left for {part}. {data.path} has {groups.labelled} rows with a label"
                f"{f' among {reader.classes}' if reader.classes else ''}; data.test={data.test!r} and "
                f"data.validation={data.validation!r} are taken from them."
            )
    counts |= {part: len(rows) for part, rows in parts.items()}
    reader.count_unseen_classes(parts["train"])
    return Splits(
        **{part: reader.dataset(rows) for part, rows in parts.items()},
        classes=reader.classes,
        problem_type=reader.problem_type,
        counts=dict(counts),
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
    reader = _Reader(source[data.train], replace(data, labels=labels), task, keep=())
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


def near_duplicate_key(text: str) -> str:
    """What is left of a text without URLs, mentions, RT, digits, punctuation and case.

    >>> near_duplicate_key("RT @ann: See http://t.co/x, 3 times!") == near_duplicate_key("see 4 times")
    True
    """
    text = re.sub(r"https?:\S*|www\.\S+|@\w+|\brt\b|&\w+;", " ", text.lower())
    return " ".join(re.findall(r"[^\W\d_]+", text))


class _Reader:
    """Turns rows of a source into rows with a text, a label and what they are like."""

    def __init__(self, train: datasets.Dataset, data: Data, task: str, keep: Collection[str]) -> None:
        self.data = data
        self.keep = list(keep)
        self.of_words = task == "token-classification"
        self.counts: dict[str, int] = defaultdict(int)
        self._seen: set[tuple[str, ...]] = set()
        _check_columns(train, data.label_columns, "data.label")
        feature = train.features[data.label_columns[0]]
        several = len(data.label_columns) > 1 or isinstance(feature, datasets.Sequence | datasets.List | list)
        self.problem_type: str | None = "multi_label_classification" if several else "single_label_classification"
        self.problem_type = None if self.of_words else data.problem_type or self.problem_type
        self.classes = [] if self.problem_type == "regression" else self._classes(train)
        if len(self.classes) < 2 and self.problem_type != "regression":
            raise ValueError(
                f"data.labels: expected at least two classes, got {self.classes} from the column {data.label!r}."
            )
        self._numbers = {name: number for number, name in enumerate(self.classes)}

    def _classes(self, train: datasets.Dataset) -> list[str]:
        if self.data.labels:
            return [_label_name(label) for label in self.data.labels]
        if len(self.data.label_columns) > 1:
            return self.data.label_columns
        names = _names(train.features[self.data.label_columns[0]])
        if names is not None:
            return names
        values = _flat(train[self.data.label_columns[0]])
        return [_label_name(value) for value in sorted({value for value in values if value not in (None, "")})]

    def rows(self, dataset: datasets.Dataset) -> Iterable[Row]:
        """The rows that are neither empty nor seen before."""
        data = self.data
        _check_columns(dataset, data.text_columns, "data.text")
        _check_columns(dataset, list(data.minimum), "data.minimum")
        _check_columns(dataset, [data.together] if data.together else [], "data.together")
        _check_columns(dataset, self.keep, "compare.by")
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
        parts = [" ".join(text["words"])] if self.of_words else [text[name] for name in TEXTS if name in text]
        # A text with no letters at all is only like itself.
        return " | ".join(near_duplicate_key(part) or part.lower() for part in parts)

    def without_label(self, row: Row) -> Row:
        """The same text, alone."""
        return row | {"label": self._missing(row["text"]), "known": False}

    def dataset(self, rows: Sequence[Row]) -> datasets.Dataset:
        """Some rows as a data set."""
        text = datasets.Sequence(datasets.Value("string")) if self.of_words else datasets.Value("string")
        names = ["words"] if self.of_words else list(TEXTS[: len(self.data.text_columns)])
        label: Any = datasets.Value("int64")
        if self.of_words:
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
            shown = set(_flat(row["label"] for row in train))
            unseen = [name for number, name in enumerate(self.classes) if number not in shown]
            if unseen:
                self.counts["classes without a labelled training row"] = len(unseen)

    def _text(self, row: Row) -> dict[str, Any]:
        if self.of_words:
            return {"words": [str(word) for word in row[self.data.text_columns[0]] or []]}
        names = zip(TEXTS, self.data.text_columns, strict=False)
        return {name: str(row[column] or "").strip() for name, column in names}

    def _missing(self, text: dict[str, Any]) -> Any:
        if self.of_words:
            return [IGNORE_INDEX] * len(text["words"])
        if self.problem_type == "multi_label_classification":
            return [math.nan] * len(self.classes)
        return math.nan if self.problem_type == "regression" else IGNORE_INDEX

    def _number_of(self, dataset: datasets.Dataset, columns: list[str]) -> Callable[[Row, dict[str, Any]], Any]:
        """What makes a row's label of its columns, None where it has none."""
        names = _names(dataset.features[columns[0]])

        def one(value: Any) -> int | None:
            if value is None or value == "" or value != value:  # the last is NaN
                return None
            if names is not None:
                return None if value is None or value < 0 else self._numbers.get(names[value])
            return self._numbers.get(_label_name(value))

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

        if self.of_words:
            return tags
        if self.problem_type == "regression":
            return quantity
        if self.problem_type == "multi_label_classification":
            return several
        return lambda row, text: one(row[columns[0]])


class _Groups:
    """Training rows in groups that stay on one side of every split."""

    def __init__(self, rows: Sequence[Row], held_keys: Iterable[str], counts: dict[str, int], seed: int) -> None:
        self._groups: dict[str, list[Row]] = defaultdict(list)
        self._counts = counts
        for row in rows:
            self._groups[row["together"]].append(row)
        self._leave_out(held_keys)
        names = list(self._groups)
        self._order = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
        self.labelled = sum(row["known"] for row in self.left())

    def left(self) -> list[Row]:
        """The rows that are not held out."""
        return [row for group in self._groups.values() for row in group]

    def hold_out(self, wanted: int, part: str, labelled: bool = True) -> list[Row]:
        """Take whole groups until `wanted` rows are found, labelled ones or wholly unlabelled groups.

        Groups that would go past `wanted` wait, and the first of them is taken if there are not enough others.
        """
        taken: list[Row] = []
        waiting = []
        for name in self._order:
            useful = self._useful(name, labelled)
            if len(taken) >= wanted:
                break
            if useful and len(taken) + len(useful) <= wanted:
                taken += self._take(name, labelled)
            elif useful:
                waiting.append(name)
        if len(taken) < wanted and waiting:
            taken += self._take(waiting[0], labelled)
        if len(taken) < wanted:
            raise ValueError(
                f"data.{part}: asked for {wanted} rows {'with' if labelled else 'without'} a label, found "
                f"{len(taken)}. Ask for fewer."
            )
        self._leave_out(row["key"] for row in taken)
        return taken

    def _useful(self, name: str, labelled: bool) -> list[Row]:
        group = self._groups.get(name, [])
        with_label = [row for row in group if row["known"]]
        return with_label if labelled else ([] if with_label else group)

    def _take(self, name: str, labelled: bool) -> list[Row]:
        useful = self._useful(name, labelled)
        group = self._groups.pop(name)
        if len(group) > len(useful):
            self._counts[NEAR_DUPLICATES] += len(group) - len(useful)
        return useful

    def _leave_out(self, keys: Iterable[str]) -> None:
        """Drop the near-duplicates of rows that are held out."""
        held = set(keys)
        for name, group in list(self._groups.items()):
            kept = [row for row in group if row["key"] not in held]
            if len(kept) < len(group):
                self._counts[NEAR_DUPLICATES] += len(group) - len(kept)
                self._groups[name] = kept
            if not kept:
                del self._groups[name]


def _keep_labels(rows: list[Row], number: int, reader: _Reader, seed: int) -> list[Row]:
    known = [index for index, row in enumerate(rows) if row["known"]]
    if len(known) < number:
        raise ValueError(f"data.labelled: asked for {number} training rows with a label, there are {len(known)}.")
    kept = set(np.random.default_rng(seed).permutation(known)[:number].tolist())
    reader.counts["labels set aside by data.labelled"] += len(known) - number
    return [row if index in kept else reader.without_label(row) for index, row in enumerate(rows)]


def _names(feature: Any) -> list[str] | None:
    """The names of a column of classes, or of lists of them."""
    inner = getattr(feature, "feature", feature)
    return inner.names if isinstance(inner, datasets.ClassLabel) else None


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, list):
            yield from value
        else:
            yield value


def _label_name(value: Any) -> str:
    # One empty cell makes a whole csv column of whole numbers into floats.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _check_columns(dataset: datasets.Dataset, names: Iterable[str], key: str) -> None:
    for name in names:
        if name not in dataset.column_names:
            raise ValueError(f"{key}: there is no column {name!r}, the data has {', '.join(dataset.column_names)}.")
