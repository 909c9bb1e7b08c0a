"""Where texts come from, and how rows are cut into splits without a near-duplicate on two sides."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import datasets
import numpy as np

from hf_distill.augment import Augment
from hf_distill.sources import read

NEAR_DUPLICATES = "near-duplicates of held-out rows, left out"
Row = dict[str, Any]


@dataclass
class Data:
    """Where the texts come from and what becomes of them.

    Attributes:
        path: a Hub id; a local csv, tsv, json, jsonl, parquet or CoNLL file, or a folder of them; or a file inside an
            installed package as `package:name/path/in/it`. A CoNLL file has the columns `words` and `tags`.
        name: configuration of a Hub data set.
        text: column of the text, or two columns for pairs; for tagging the column of the words.
        target: of a translation, column of the text to write. Rows where it is empty lend their text alone.
        messages: of a dialogue, column of each conversation's messages: a list of `role` and `content`. None: `text` is
            the column of plain texts to continue.
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
    target: str = "target"
    messages: str | None = None
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


class RowReader(Protocol):
    """Turns rows of a source into rows that know their text, whether they have a label, and what they are like.

    A row is a dict with `known`, whether it has a label or a target; `key`, equal for near-duplicates; `together`,
    equal for rows that stay on one side of every split; and what the reader itself wants back in `dataset`.
    """

    counts: dict[str, int]

    @property
    def known_by(self) -> str:
        """What a known row has, in words."""

    def rows(self, dataset: datasets.Dataset) -> Iterable[Row]:
        """The rows that are neither empty nor seen before."""

    def without_label(self, row: Row) -> Row:
        """The same text, alone."""

    def dataset(self, rows: Sequence[Row]) -> datasets.Dataset:
        """Some rows as a data set."""


def sources_of(data: Data) -> dict[str, datasets.Dataset]:
    """The splits of a source.

    Raises:
        ValueError: one that is named is not there.
    """
    source = read(data.path, data.name, data.train, **data.options)
    named = (data.train, data.unlabelled, data.test, data.validation)
    for key, part in zip(("train", "unlabelled", "test", "validation"), named, strict=True):
        if isinstance(part, str) and part not in source:
            advice = f" Name one of them, or give a number or share of rows to hold out of {data.train!r}."
            raise ValueError(
                f"data.{key}: {data.path} has no split {part!r}, it has {', '.join(source)}."
                + (advice if key in ("test", "validation") else "")
            )
    return source


def cut(source: dict[str, datasets.Dataset], data: Data, reader: RowReader, seed: int) -> dict[str, list[Row]]:
    """The rows of train, unlabelled, validation, test and fidelity.

    Args:
        source: see `sources_of`.
        data: what to hold out.
        reader: of the rows; its `counts` gain what became of them.
        seed: of the random splits, where the data has none.
    Raises:
        ValueError: a split that comes out empty.
    """
    seed = seed if data.seed is None else data.seed
    held: dict[str, list[Row]] = {}
    counts = reader.counts
    for part in ("test", "validation"):
        split = getattr(data, part)
        if isinstance(split, str):
            found = list(reader.rows(source[split]))
            held[part] = [row for row in found if row["known"]]
            if len(held[part]) < len(found):
                counts[f"rows of {part} without {reader.known_by}, left out"] = len(found) - len(held[part])
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
                f"data: no rows with {reader.known_by} are left for {part}. {data.path} has {groups.labelled} of them; "
                f"data.test={data.test!r} and data.validation={data.validation!r} are taken from them."
            )
    counts |= {part: len(rows) for part, rows in parts.items()}
    return parts


def near_duplicate_key(text: str) -> str:
    """What is left of a text without URLs, mentions, RT, digits, punctuation and case.

    >>> near_duplicate_key("RT @ann: See http://t.co/x, 3 times!") == near_duplicate_key("see 4 times")
    True
    """
    text = re.sub(r"https?:\S*|www\.\S+|@\w+|\brt\b|&\w+;", " ", text.lower())
    return " ".join(re.findall(r"[^\W\d_]+", text))


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


def _keep_labels(rows: list[Row], number: int, reader: RowReader, seed: int) -> list[Row]:
    known = [index for index, row in enumerate(rows) if row["known"]]
    if len(known) < number:
        raise ValueError(f"data.labelled: asked for {number} training rows with a label, there are {len(known)}.")
    kept = set(np.random.default_rng(seed).permutation(known)[:number].tolist())
    reader.counts["labels set aside by data.labelled"] += len(known) - number
    return [row if index in kept else reader.without_label(row) for index, row in enumerate(rows)]


def check_columns(dataset: datasets.Dataset, names: Iterable[str], key: str) -> None:
    """Raise a ValueError that names the recipe's `key` for the first of the names that is no column."""
    for name in names:
        if name not in dataset.column_names:
            raise ValueError(f"{key}: there is no column {name!r}, the data has {', '.join(dataset.column_names)}.")
