"""Training, validation and test rows, with near-duplicates kept together."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import datasets
import numpy as np

from hf_distill.data.config import NEAR_DUPLICATES, Data
from hf_distill.data.files import read

Row = dict[str, Any]


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


def read_data(data: Data) -> tuple[dict[str, datasets.Dataset], Counter[str]]:
    """The splits of a source as they are in its files, and what there is to tell of the files."""
    counts: Counter[str] = Counter()
    source = read(data.path, data.name, data.train, conll_columns=data.conll_columns, counts=counts, **data.options)
    return source, counts


def sources_of(data: Data) -> tuple[dict[str, datasets.Dataset], Counter[str]]:
    """The splits of a source that a recipe names, and what there is to tell of its files.

    Raises:
        ValueError: one that is named is not there.
    """
    source, counts = read_data(data)
    named = (data.train, data.unlabelled, data.test, data.validation)
    for key, part in zip(("train", "unlabelled", "test", "validation"), named, strict=True):
        if isinstance(part, str) and part not in source:
            advice = f" Name one of them, or give a number or share of rows to hold out of {data.train!r}."
            raise ValueError(
                f"data.{key}: {data.path} has no split {part!r}, it has {', '.join(source)}."
                + (advice if key in ("test", "validation") else "")
            )
    return source, counts


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
    if not any(row["known"] for row in rows):
        raise ValueError(f"data: none of the {len(rows)} rows of {data.path} has {reader.known_by}.")
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
    """Raise for the first of the names that is no column, or one that cannot be read as it is.

    Args:
        dataset: with the columns.
        names: that are looked for.
        key: of the recipe, that names them.
    Raises:
        ValueError: no such column, two of this name in the header of a csv file, or one of bytes.
    """
    there = dataset.column_names
    for name in names:
        if name not in there:
            spelled = map(repr, there) if any(each != each.strip() for each in there) else there
            raise ValueError(f"{key}: there is no column {name!r}, the data has {', '.join(spelled)}.")
        if f"{name}.1" in there:  # so pandas calls the second one
            raise ValueError(
                f"{key}: the column {name!r} stands twice in the data, as {name!r} and {name + '.1'!r}. Give the one "
                "that is meant a name of its own."
            )
        feature = dataset.features[name]
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, datasets.Value) and "binary" in inner.dtype:
            raise ValueError(
                f"{key}: the column {name!r} holds bytes, not text. Write it as strings first: "
                f'dataset.cast_column({name!r}, datasets.Value("string")) reads UTF-8.'
            )
