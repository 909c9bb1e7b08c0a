"""Texts, pairs of texts and sentences of words with their labels: loaded, cleaned and split."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets

from hf_distill.data.cells import as_number, check_texts, number_of, numeric_columns, text_of, words_of
from hf_distill.data.config import NEAR_DUPLICATES, Data
from hf_distill.data.labels import Labels, is_list
from hf_distill.data.near_duplicates import near_duplicate_key
from hf_distill.data.no_labels import NoLabels
from hf_distill.data.splits import Row, check_columns, cut, read_data, sources_of
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
        tag_scheme: IOB1, IOB2, IOBES or BILOU, of tags of entities.
    """

    train: datasets.Dataset
    unlabelled: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    fidelity: datasets.Dataset
    classes: list[str]
    problem_type: str | None
    counts: dict[str, int]
    tag_scheme: str | None = None


def load(data: Data, seed: int = 0, *, task: str = "text-classification", keep: Collection[str] = ()) -> Splits:
    """Read, clean and split.

    Texts are stripped; empty texts and exact duplicates (case aside) are left out: of equal texts the first one stays,
    with the label of the first that has one.
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
    source, counts = sources_of(data)
    numeric = numeric_columns(source.values(), keep)
    reader = _LabelledRows(source[data.train], data, task, keep, numeric=numeric, counts=counts)
    if isinstance(reader.labels, Labels):
        reader.labels.check_named(source[data.train])
    tested = [] if data.labelled_test is None else _labelled_test(data, reader, task)
    reader.apart = {row["key"] for row in tested} | {row["together"] for row in tested if data.together}
    parts = cut(source, data, reader, seed)
    if tested:
        parts |= {"fidelity": parts["test"], "test": tested}
        reader.counts |= {part: len(rows) for part, rows in parts.items()}
    reader.labels.count_unseen_classes(parts["train"])
    return Splits(
        **{part: reader.dataset(rows) for part, rows in parts.items()},
        classes=reader.classes,
        problem_type=reader.labels.problem_type,
        counts=dict(reader.counts),
        tag_scheme=reader.labels.scheme,
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
    source, _ = read_data(data)
    if data.train not in source:
        raise ValueError(f"compare.test_sets: {data.path} has no split {data.train!r}, it has {', '.join(source)}.")
    labels: Any = splits.classes if len(data.label_columns) == 1 and splits.classes else None
    reader = _LabelledRows(source[data.train], replace(data, labels=labels), task)
    trained = {reader.key(row) for part in (splits.train, splits.unlabelled) for row in part}
    rows = [row for row in reader.rows(source[data.train]) if row["known"] and row["key"] not in trained]
    if not rows:
        raise ValueError(f"compare.test_sets: {data.path} has no row labelled with one of {splits.classes}.")
    return reader.dataset(rows)


def _labelled_test(data: Data, reader: "_LabelledRows", task: str) -> list[Row]:
    """The rows of a small labelled set that is for the test alone.

    Raises:
        ValueError: no such file, split or column, or no row with a label.
    """
    changes = {"label": "label", **(data.labelled_test or {})}
    own = replace(data, **changes | {"labelled_test": None, "labels": list(reader.classes)})
    source, _ = read_data(own)
    if own.train not in source:
        raise ValueError(f"data.labelled_test: {own.path} has no split {own.train!r}, it has {', '.join(source)}.")
    rows = _LabelledRows(source[own.train], own, task, reader.keep, numeric=reader.numeric)
    tested = [row for row in rows.rows(source[own.train]) if row["known"]]
    if not tested:
        raise ValueError(f"data.labelled_test: {own.path} has no row labelled with one of {reader.classes}.")
    return tested


def unlabelled(texts: Sequence[str], like: datasets.Dataset) -> datasets.Dataset:
    """Texts as rows without a label.

    Args:
        texts: single ones.
        like: rows with `text` and `label`, which tell how a missing label is written.
    """
    feature = like.features["label"]
    missing: Any = IGNORE_INDEX
    if is_list(feature):
        missing = [math.nan] * feature.length
    elif feature.dtype == "float32":
        missing = math.nan
    features = like.select_columns(["text", "label"]).features
    return datasets.Dataset.from_dict({"text": list(texts), "label": [missing] * len(texts)}, features=features)


class _LabelledRows:
    """Turns rows of a source into rows with a text, a label and what they are like."""

    def __init__(
        self,
        train: datasets.Dataset,
        data: Data,
        task: str,
        keep: Collection[str] = (),
        *,
        numeric: Mapping[str, type[int] | type[float]] | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        self.data = data
        self.keep = list(keep)
        self.numeric = numeric or {}
        self.word_level = task == "token-classification"
        self.counts: dict[str, int] = defaultdict(int, counts or {})
        self.labels: Labels | NoLabels = (
            Labels(train, data, self.word_level, self.counts) if data.label is not None else NoLabels(data.labels or [])
        )
        self.classes = self.labels.classes
        self._seen: dict[tuple[str, ...], bool] = {}  # text → whether it had a label
        self.apart: set[str] = set()  # what rows are like, or belong together with, that are left out

    @property
    def known_by(self) -> str:
        """What a known row has, in words."""
        if self.data.label is None:
            return "a text"
        return f"a label among {self.classes}" if self.classes else "a label"

    def rows(self, dataset: datasets.Dataset) -> Iterable[Row]:
        """The rows that are neither empty nor seen before; of equal texts the first with a label."""
        data = self.data
        check_columns(dataset, data.text_columns, "data.text")
        check_columns(dataset, list(data.minimum), "data.minimum")
        check_columns(dataset, [data.together] if data.together else [], "data.together")
        check_columns(dataset, self.keep, "compare.by")
        check_texts(dataset, data.text_columns)
        read_label = self.labels.reader(dataset)
        labels = data.label_columns if read_label is not None else []
        columns = dict.fromkeys(
            [*data.text_columns, *data.minimum, *labels, *self.keep, *([data.together] if data.together else [])]
        )
        found: dict[tuple[str, ...], Row] = {}
        for row in dataset.select_columns(list(columns)):
            self.counts["rows read"] += 1
            text = self._text(row)
            key = tuple(part.lower() for part in text.get("words", text.values()))
            if self._is_empty(key):
                self.counts["empty texts, left out"] += 1
                continue
            seen = key in self._seen
            may_count = read_label is not None and not self._seen.get(key, False) and self._counts_label(row)
            label = read_label(row, text) if read_label is not None and may_count else None
            if key in found or (seen and label is None):
                self.counts["duplicates, left out"] += 1
            if not seen or label is not None:
                found[key] = self._made(row, text, label)
                self._seen[key] = label is not None
        kept = [row for row in found.values() if not {row["key"], row["together"]} & self.apart]
        if len(kept) < len(found):
            self.counts[NEAR_DUPLICATES] += len(found) - len(kept)
        return kept

    def key(self, text: Row) -> str:
        """What near-duplicates of a text share."""
        parts = [" ".join(text["words"])] if self.word_level else [text[name] for name in TEXTS if name in text]
        # A text with no letters at all is only like itself.
        return " | ".join(near_duplicate_key(part) or part.lower() for part in parts)

    def without_label(self, row: Row) -> Row:
        """The same row as unlabelled text."""
        return row | {"label": self.labels.none_for(row["text"]), "known": False}

    def dataset(self, rows: Sequence[Row]) -> datasets.Dataset:
        """Some rows as a data set."""
        text = datasets.Sequence(datasets.Value("string")) if self.word_level else datasets.Value("string")
        names = ["words"] if self.word_level else list(TEXTS[: len(self.data.text_columns)])
        made = {name: [row["text"][name] for row in rows] for name in names}
        made["label"] = [row["label"] for row in rows]
        features = datasets.Features({**dict.fromkeys(names, text), "label": self.labels.feature})
        dataset = datasets.Dataset.from_dict(made, features=features)
        for name in self.keep:
            dataset = dataset.add_column(name, [row["kept"][name] for row in rows])
        return dataset

    def _made(self, row: Row, text: dict[str, Any], label: Any) -> Row:
        made = {
            "text": text,
            "label": self.labels.none_for(text) if label is None else label,
            "known": label is not None,
            "kept": {name: as_number(row[name], self.numeric.get(name)) for name in self.keep},
            "key": self.key(text),
        }
        return made | {"together": made["key"] if self.data.together is None else str(row[self.data.together])}

    def _counts_label(self, row: Row) -> bool:
        """Whether a row's label counts, by `data.minimum`."""
        missing = self.data.missing_values
        for column, least in self.data.minimum.items():
            number = number_of(row[column], column, missing, key="data.minimum")
            if number is None or not number >= least:
                return False
        return True

    def _is_empty(self, key: tuple[str, ...]) -> bool:
        # Among words there may be one of white space alone; both texts of a pair have to be there.
        return not any(part.strip() for part in key) if self.word_level else not key or not all(key)

    def _text(self, row: Row) -> dict[str, Any]:
        if self.word_level:
            (column,) = self.data.text_columns
            return {"words": words_of(row[column], column)}
        names = zip(TEXTS, self.data.text_columns, strict=False)
        return {name: text_of(row[column], column, self.data.missing_values) for name, column in names}


def texts_of(split: datasets.Dataset) -> Iterator[str]:
    """A split's texts: the two of a pair joined, the words of a sentence likewise."""
    for row in split:
        yield " ".join(row["words"] if "words" in row else (row[name] for name in ("text", "text_pair") if name in row))
