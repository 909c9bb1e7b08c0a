"""Rows as tokens: those of the student, and of its teacher where that has a tokenizer of its own."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from hf_distill.columns import IGNORED, PREFIX, WORD_STARTS
from hf_distill.problems import IGNORE_INDEX
from hf_distill.tag_schemes import spans_of, tag_scheme

MOST = 2**31 - 1  # tokens of a row


def tokenize(
    dataset: datasets.Dataset,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    teacher_tokenizer: Any = None,
    teacher_max_length: int | None = None,
) -> datasets.Dataset:
    """Tokenise texts, pairs of texts, or sentences of words.

    Words are kept apart from each other: each starts with a piece of its own, where its label stands, and a word that a
    tokenizer would swallow (control characters, for instance) is read as its unknown token. So the k-th word that
    starts for the student is the k-th for its teacher.

    Args:
        dataset: with `text`, perhaps `text_pair`, or with `words`; and perhaps `label`, for words a list.
        tokenizer: the student's.
        max_length: tokens, longer texts are cut on the right; never more than the tokenizer's own limit, which is taken
            where this is None.
        teacher_tokenizer: makes `teacher_input_ids` and its companions; None: the teacher reads `input_ids`.
        teacher_max_length: likewise.
    Returns:
        `input_ids`, `attention_mask`, ..., `labels`, of words also `word_starts`, and the teacher's columns.
    Raises:
        ValueError: a tokenizer that cannot read words, or a limit with no room for a token; no column of texts or
            words, or something else in it; a sentence with more or fewer labels than words.
    """
    word_level = "words" in dataset.column_names
    texts = [name for name in ("text", "text_pair") if name in dataset.column_names]
    if not word_level and "text" not in texts:
        raise ValueError(
            f"Expected a column 'text' or 'words', got {', '.join(dataset.column_names) or 'no columns'}. Rename yours "
            "with dataset.rename_column."
        )
    max_length = token_limit(tokenizer, max_length, len(texts) > 1)
    if teacher_tokenizer is not None:
        teacher_max_length = token_limit(teacher_tokenizer, teacher_max_length, len(texts) > 1)

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        if word_level:
            _check_words(rows["words"], rows.get("label"))
            encoded = _read_words(rows["words"], tokenizer, max_length)
            if "label" in rows:
                marks = zip(encoded[WORD_STARTS], rows["label"], strict=True)
                encoded["labels"] = [_at_starts(starts, labels) for starts, labels in marks]
        else:
            for name in texts:
                check_strings(rows[name], name)
            encoded = dict(tokenizer(*(rows[name] for name in texts), truncation=True, max_length=max_length))
            if "label" in rows:
                encoded["labels"] = rows["label"]
        if teacher_tokenizer is None:
            return encoded
        if word_level:
            teachers: Mapping[str, Any] = _read_words(rows["words"], teacher_tokenizer, teacher_max_length)
        else:
            teachers = teacher_tokenizer(
                *(rows[name] for name in texts), truncation=True, max_length=teacher_max_length
            )
        return encoded | {PREFIX + name: value for name, value in teachers.items()}

    return dataset.map(encode, batched=True, remove_columns=dataset.column_names, desc="Tokenise", keep_in_memory=True)


def tokenize_pairs(
    dataset: datasets.Dataset,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    teacher_tokenizer: Any = None,
    teacher_max_length: int | None = None,
) -> tuple[datasets.Dataset, dict[str, int]]:
    """Tokenise texts and what to write for them; half a text is no translation of the whole, so none is cut.

    Args:
        dataset: with `source` and `target`.
        tokenizer: the student's.
        max_length: tokens of either side, longer pairs are left out; never more than the tokenizer's own limit, which
            is taken where this is None.
        teacher_tokenizer: makes `teacher_input_ids`, `teacher_attention_mask` and `teacher_labels`; None: the teacher
            reads `input_ids`.
        teacher_max_length: likewise.
    Returns:
        `input_ids`, `attention_mask`, `labels` and the teacher's columns; and how many pairs were left out, by reason.
    Raises:
        ValueError: no pair is left, something else than texts in the two columns, a limit with no room for a token, or
            a tokenizer that makes no attention mask.
    """
    missing = [name for name in ("source", "target") if name not in dataset.column_names]
    if missing or not len(dataset):
        raise ValueError(
            f"Expected pairs of texts in the columns 'source' and 'target', got {len(dataset)} rows with the columns "
            f"{', '.join(dataset.column_names) or 'none'}. Rename yours with dataset.rename_column."
        )
    readers = {"": (tokenizer, token_limit(tokenizer, max_length))}
    if teacher_tokenizer is not None:
        readers[PREFIX] = (teacher_tokenizer, token_limit(teacher_tokenizer, teacher_max_length))

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        encoded: dict[str, Any] = {}
        for name in ("source", "target"):
            check_strings(rows[name], name)
        for prefix, (reader, _) in readers.items():
            read = reader(rows["source"], text_target=rows["target"], verbose=False)
            lacking = [name for name in ("input_ids", "attention_mask", "labels") if name not in read]
            if lacking:
                raise ValueError(
                    f"{type(reader).__name__} makes no {' and no '.join(lacking)}, and {', '.join(read)} alone. Set "
                    'tokenizer.model_input_names = ["input_ids", "attention_mask"].'
                )
            encoded |= {prefix + name: read[name] for name in ("input_ids", "attention_mask", "labels")}
        return encoded

    def fits(row: dict[str, Any]) -> bool:
        return all(
            len(row[prefix + name]) <= (limit or len(row[prefix + name]))
            for prefix, (_, limit) in readers.items()
            for name in ("input_ids", "labels")
        )

    rows = dataset.map(encode, batched=True, remove_columns=dataset.column_names, desc="Tokenise", keep_in_memory=True)
    kept = rows.filter(fits, keep_in_memory=True, desc="Fit")
    left_out = len(rows) - len(kept)
    if not len(kept):
        limits = " and ".join(str(limit) for _, limit in readers.values())
        raise ValueError(
            f"All {len(rows)} pairs are longer than the limit of {limits} tokens. Raise max_length, as far as the "
            "models and their tokenizers go."
        )
    return kept, {"pairs longer than a model's limit, left out": left_out} if left_out else {}


@dataclass(frozen=True)
class CutOff:
    """What a tokenizer's limit cuts off of some tagged sentences, counted from the data.

    Attributes:
        words: of the sentences, all of them.
        words_lost: those of them beyond the limit.
        labelled_lost: those of `words_lost` that have a tag: a model misses all of them but O's, whatever it predicts.
        entities: of the sentences; 0 where the tags are not those of entities.
        entities_lost: those with a word beyond the limit: no model can find them whole.
    """

    words: int
    words_lost: int
    labelled_lost: int = 0
    entities: int = 0
    entities_lost: int = 0


def cut_off(dataset: datasets.Dataset, starts: Iterable[list[int]], classes: Sequence[str] = ()) -> CutOff:
    """Count the words and entities of some sentences that do not fit a tokenizer's limit.

    Args:
        dataset: with `words`, and perhaps with `label`, a list of class numbers a sentence.
        starts: its `word_starts` or `teacher_word_starts`, one list a sentence.
        classes: names of the tags, in order. None are needed to count words alone.
    Raises:
        ImportError: the tags are those of entities, and seqeval is not installed.
    """
    entity_tags = "label" in dataset.column_names and tag_scheme(classes) is not None
    spans = spans_of(classes) if entity_tags else None
    words = words_lost = labelled_lost = entities = entities_lost = 0
    for number, marks in enumerate(starts):
        row = dataset[number]
        length, read = len(row["words"]), sum(mark == 1 for mark in marks)
        words += length
        words_lost += length - read
        labels = row.get("label") or []
        labelled_lost += sum(label != IGNORE_INDEX for label in labels[read:])
        if spans is not None:
            found = spans(["O" if label == IGNORE_INDEX else classes[label] for label in labels])
            entities += len(found)
            entities_lost += sum(last >= read for _, _, last in found)
    return CutOff(words, words_lost, labelled_lost, entities, entities_lost)


def words_cut_off(dataset: datasets.Dataset, starts: Iterable[list[int]]) -> int:
    """How many words of some sentences did not fit a tokenizer's limit.

    Args:
        dataset: with `words`.
        starts: its `word_starts` or `teacher_word_starts`, one list a sentence.
    """
    return sum(
        len(words) - sum(mark == 1 for mark in marks) for words, marks in zip(dataset["words"], starts, strict=True)
    )


def token_limit(tokenizer: Any, asked: int | None, pair: bool = False) -> int | None:
    """The number of tokens of a row that is asked for, and never more than the tokenizer's own limit.

    Args:
        tokenizer: whose tokens.
        asked: None: none is.
        pair: whether a row is two texts.
    Raises:
        ValueError: no whole number, or no room for a token beside the special ones.
    """
    known = tokenizer.model_max_length  # astronomic where a tokenizer has none
    needed = tokenizer.num_special_tokens_to_add(pair) + 1 + pair
    for name, limit in (("max_length", asked), ("tokenizer.model_max_length", known)):
        whole = isinstance(limit, int | float) and not isinstance(limit, bool) and limit % 1 == 0
        if limit is not None and not (whole and limit >= needed):
            raise ValueError(
                f"{name} must be a whole number of at least {needed} tokens, so that one of a text has room beside the "
                f"special ones of {type(tokenizer).__name__}; got {limit!r}. Raise it, or leave it out."
            )
    return asked if asked is None else int(min(asked, known or MOST, MOST))


def check_strings(values: Sequence[Any], column: str) -> None:
    """Raise a ValueError for the first value of a column that is no text."""
    for number, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(
                f"Expected texts in the column {column!r}, got {value!r:.80} ({number} rows into a batch). Leave such "
                "rows out, or write an empty text."
            )


def _check_words(sentences: Sequence[Any], labels: Sequence[Any] | None) -> None:
    for number, words in enumerate(sentences):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(
                f"Expected a list of words in each row of the column 'words', got {words!s:.80} ({number} rows into a "
                "batch). Leave such rows out, or write an empty word."
            )
        given = words if labels is None else labels[number]
        if not isinstance(given, list) or len(given) != len(words):
            raise ValueError(
                f"A sentence of {len(words)} words has the labels {given!s:.80}: {' '.join(words)!r:.80}. Every word "
                f"needs one; {IGNORED} stands for none."
            )


def _read_words(sentences: list[list[str]], tokenizer: Any, max_length: int | None) -> dict[str, Any]:
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} does not say which word a token belongs to: tagging needs a tokenizer with a "
            "fast version (use_fast=True)."
        )
    if tokenizer.truncation_side != "right":
        raise ValueError("The tokenizer cuts sentences on the left, so words could not be counted. Set it to right.")
    distinct = sorted({word for words in sentences for word in words})
    try:
        alone = tokenizer([[word] for word in distinct], is_split_into_words=True, add_special_tokens=False)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"{type(tokenizer).__name__} cannot read words one by one: {error} "
            "Load it with add_prefix_space=True, so that a word reads the same wherever it stands."
        ) from error
    swallowed = {word for word, ids in zip(distinct, alone["input_ids"], strict=True) if not ids}
    if swallowed and tokenizer.unk_token is None:
        raise ValueError(
            f"{type(tokenizer).__name__} makes no token of the words {sorted(swallowed)[:5]}, and has no unknown token "
            "to stand for them. Remove them from the data."
        )
    read = [[tokenizer.unk_token if word in swallowed else word for word in words] for words in sentences]
    encoded = tokenizer(read, is_split_into_words=True, truncation=True, max_length=max_length)
    starts = [_starts(encoded.word_ids(number)) for number in range(len(sentences))]
    return {**encoded, WORD_STARTS: starts}


def _starts(word_ids: list[int | None]) -> list[int]:
    """1 a word's first piece, 0 its further ones, -100 what belongs to no word."""
    before = [None, *word_ids][: len(word_ids)]
    return [IGNORED if word is None else int(word != previous) for word, previous in zip(word_ids, before, strict=True)]


def _at_starts(starts: list[int], labels: list[int]) -> list[int]:
    remaining = iter(labels)
    return [next(remaining) if mark == 1 else IGNORED for mark in starts]
