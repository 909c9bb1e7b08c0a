"""Texts and their translations, conversations, plain texts: loaded, cleaned and split for models that write."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from hf_distill.data.cells import as_number, check_texts, numeric_columns, text_of
from hf_distill.data.config import Data
from hf_distill.data.near_duplicates import near_duplicate_key
from hf_distill.data.splits import Row, RowReader, check_columns, cut, sources_of

SOURCE, TARGET, MESSAGES, TEXT = "source", "target", "messages", "text"


@dataclass
class WritingSplits:
    """A data set cut for the distillation of a model that writes.

    Each part has `source` and `target` (translation), `messages` or `text` (text generation), and the columns that
    `load_writing` was asked to keep.

    Attributes:
        train: with targets.
        unlabelled: of a translation, sources whose `target` is empty: only the teacher translates them.
        validation: selects the model.
        test: is read once, at the end.
        counts: rows read, kept and left out, each with its reason.
    """

    train: datasets.Dataset
    unlabelled: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    counts: dict[str, int]


def load_writing(data: Data, seed: int = 0, *, task: str, keep: Collection[str] = ()) -> WritingSplits:
    """Read, clean and split pairs of texts, conversations or plain texts.

    Texts are stripped; empty ones and exact duplicates are left out. Near-duplicates, equal but for digits, punctuation
    and case, never stand on two sides of a split: translations are compared by their sources, conversations by all
    their messages. Everything left out is counted.

    Args:
        data: what to read: `text` and `target`, `messages`, or `text`.
        seed: of the random splits, where the data has none.
        task: `translation` or `text-generation`.
        keep: more columns to carry along.
    Raises:
        ValueError: a missing file, split or column; messages without roles and texts; a split that comes out empty.
    """
    source, counts = sources_of(data)
    kind = _Pairs if task == "translation" else _Conversations if data.messages is not None else _Texts
    reader: RowReader = kind(data, keep, numeric_columns(source.values(), keep), counts)
    parts = cut(source, data, reader, seed)
    parts.pop("fidelity")  # whatever they read, these models can be compared on it
    return WritingSplits(
        **{part: reader.dataset(rows) for part, rows in parts.items()},
        counts={name: number for name, number in reader.counts.items() if number},
    )


class _Rows:
    """What the three kinds share: every different row once, with its key and what belongs together."""

    features: datasets.Features

    def __init__(
        self,
        data: Data,
        keep: Collection[str],
        numeric: Mapping[str, type[int] | type[float]],
        counts: Mapping[str, int],
    ) -> None:
        self.data, self.keep, self.numeric = data, list(keep), numeric
        self.counts: dict[str, int] = defaultdict(int, counts)
        self._seen: set[str] = set()

    def columns(self, *names: str) -> list[str]:
        """The columns to read."""
        together = [self.data.together] if self.data.together else []
        return list(dict.fromkeys([*names, *self.keep, *together]))

    def read(self, dataset: datasets.Dataset, *names: str) -> Iterable[Row]:
        """Rows of a source, counted."""
        for name, key in ((self.data.together, "data.together"), *((name, "compare.by") for name in self.keep)):
            check_columns(dataset, [name] if name else [], key)
        for row in dataset.select_columns(self.columns(*names)):
            self.counts["rows read"] += 1
            yield row

    def is_new(self, text: str) -> bool:
        """Whether a text was not seen before; else it is counted."""
        if text in self._seen:
            self.counts["duplicates, left out"] += 1
            return False
        self._seen.add(text)
        return True

    def made(self, row: Row, content: dict[str, Any], key: str, known: bool) -> Row:
        """A row as `cut` wants it."""
        kept = {name: as_number(row[name], self.numeric.get(name)) for name in self.keep}
        together = key if self.data.together is None else str(row[self.data.together])
        return {"content": content, "kept": kept, "key": key, "together": together, "known": known}

    def dataset(self, rows: Sequence[Row]) -> datasets.Dataset:
        """Some rows as a data set."""
        made = {name: [row["content"][name] for row in rows] for name in self.features}
        dataset = datasets.Dataset.from_dict(made, features=self.features)
        for name in self.keep:
            dataset = dataset.add_column(name, [row["kept"][name] for row in rows])
        return dataset


class _Pairs(_Rows):
    """Texts and what to write for them."""

    features = datasets.Features({SOURCE: datasets.Value("string"), TARGET: datasets.Value("string")})
    known_by = "a target"

    def rows(self, dataset: datasets.Dataset) -> Iterable[Row]:
        """Pairs; where the target is empty, unlabelled sources."""
        (name,) = self.data.text_columns
        check_columns(dataset, [name], "data.text")
        if not self.counts["rows read"]:  # only the split of unlabelled texts, which is read last, may lack them
            check_columns(dataset, [self.data.target], "data.target")
        targets = [self.data.target] if self.data.target in dataset.column_names else []
        check_texts(dataset, [name])
        check_texts(dataset, targets, "data.target")
        missing = self.data.missing_values
        for row in self.read(dataset, name, *targets):
            source = " ".join(text_of(row[name], name, missing).split())
            target = "".join(text_of(row[column], column, missing, key="data.target") for column in targets)
            target = " ".join(target.split())
            if not source:
                self.counts["empty texts, left out"] += 1
                continue
            if not target:
                self.counts["rows without a target"] += 1
            if self.is_new(f"{source}\n{target}"):
                key = near_duplicate_key(source) or source.lower()
                yield self.made(row, {SOURCE: source, TARGET: target}, key, known=bool(target))

    def without_label(self, row: Row) -> Row:
        """The same source without its target."""
        return row | {"content": row["content"] | {TARGET: ""}, "known": False}


class _Conversations(_Rows):
    """Messages of a system, a user and an assistant."""

    features = datasets.Features({MESSAGES: [{"role": datasets.Value("string"), "content": datasets.Value("string")}]})
    known_by = "a conversation"

    def rows(self, dataset: datasets.Dataset) -> Iterable[Row]:
        """Conversations; whether they have replies to learn is seen when they are tokenised."""
        name = str(self.data.messages)
        check_columns(dataset, [name], "data.messages")
        for number, row in enumerate(self.read(dataset, name)):
            messages = _messages(row[name], name, number)
            if not messages:
                self.counts["conversations without messages, left out"] += 1
                continue
            contents = "\n".join(message["content"] for message in messages)
            if self.is_new(contents):
                key = near_duplicate_key(contents) or contents.lower()
                yield self.made(row, {MESSAGES: messages}, key, known=True)

    def without_label(self, row: Row) -> Row:
        """The same: a conversation holds its own targets."""
        return row


class _Texts(_Rows):
    """Plain texts to continue."""

    features = datasets.Features({TEXT: datasets.Value("string")})
    known_by = "a text"

    def rows(self, dataset: datasets.Dataset) -> Iterable[Row]:
        """Texts."""
        (name,) = self.data.text_columns
        check_columns(dataset, [name], "data.text")
        check_texts(dataset, [name])
        for row in self.read(dataset, name):
            text = text_of(row[name], name, self.data.missing_values)
            if not text:
                self.counts["empty texts, left out"] += 1
            elif self.is_new(text):
                yield self.made(row, {TEXT: text}, near_duplicate_key(text) or text.lower(), known=True)

    def without_label(self, row: Row) -> Row:
        """The same."""
        return row


def _messages(value: Any, column: str, number: int) -> list[dict[str, str]]:
    """The messages of a row, none where there are none."""
    messages = [] if value is None else value
    plain = isinstance(messages, list) and all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content", 0), str | None)
        for message in messages
    )
    if not plain:
        raise ValueError(
            f'data.messages: expected conversations as lists of {{"role": "user", "content": "text"}}, got '
            f"{value!s:.120} in row {number} of the column {column!r}. Write them that way first: rename other keys "
            "(from, value), join the texts of a content in parts, and read lists that are kept as JSON text with "
            "json.loads."
        )
    return [{"role": message["role"], "content": message["content"] or ""} for message in messages]
