"""Conversations, and plain texts, as rows for a causal language model: what it reads, and which tokens it learns."""

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import datasets

from hf_distill.columns import PREFIX
from hf_distill.data.assistant_tokens import (
    ASSISTANT,
    MESSAGES,
    NO_ROOM,
    TARGET_BYTES,
    TEXT,
    LeftOutError,
    MessageTokenizer,
)


def language_model_rows(
    dataset: datasets.Dataset,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    chat_template: str | None = None,
    teacher_tokenizer: Any = None,
    teacher_max_length: int | None = None,
    teacher_chat_template: str | None = None,
) -> tuple[datasets.Dataset, dict[str, int]]:
    """Tokenise conversations or texts, with the tokens to predict as labels.

    Of a conversation these are the tokens of the assistant's messages, each with its end of turn; a row ends with the
    last of them, as nothing that follows is learnt from. A template with `{% generation %}` marks these tokens
    itself; with any other they are what it adds for a message, once rendering the conversation up to there is seen to
    be the beginning of rendering the whole. White space around a message is no part of it.

    A text stands between the tokenizer's `bos_token` (if it has none, its `eos_token`) and its `eos_token`, and all of
    it is predicted.

    Bits per byte, which compare models with different tokenizers, are the nats of all targets / ln 2 / the sum of
    `target_bytes`, as long as both models are asked for the same replies: see `cut_to_fit`.

    Args:
        dataset: with `messages`, lists of {"role": "system", "user" or "assistant", "content": text}; else with `text`.
        tokenizer: the student's, a fast one.
        max_length: tokens, longer rows are cut on the right; never more than the tokenizer's own limit, which is taken
            where this is None.
        chat_template: renders conversations; None: the tokenizer's.
        teacher_tokenizer: makes `teacher_input_ids` and its companions; None: the teacher reads `input_ids`.
        teacher_max_length: likewise.
        teacher_chat_template: likewise.
    Returns:
        `input_ids`, `attention_mask`, `labels` (-100 where nothing is predicted), `target_bytes` (UTF-8 bytes of text
            that the row's targets spell, end of turn aside), and the teacher's `teacher_input_ids`,
            `teacher_attention_mask` and `teacher_labels`; and counts of rows, of replies, and of what was cut and left
            out, by reason.
    Raises:
        ValueError: no such column, a tokenizer that is not fast or has no chat template, messages that are not of
            text, or no row is left.
    """
    readers = {"": MessageTokenizer(dataset, tokenizer, max_length, chat_template)}
    if teacher_tokenizer is not None:
        readers[PREFIX] = MessageTokenizer(dataset, teacher_tokenizer, teacher_max_length, teacher_chat_template)
    kinds = {"input_ids": "int32", "attention_mask": "int8", "labels": "int64"}
    features = {
        prefix + name: datasets.Sequence(datasets.Value(kind)) for prefix in readers for name, kind in kinds.items()
    }
    features[TARGET_BYTES] = datasets.Value("int64")
    counts: Counter[str] = Counter()

    def rows(given: dict[str, Any]) -> dict[str, Any]:
        readings = {prefix: reader.read(given) for prefix, reader in readers.items()}
        made = {prefix: readings[prefix].row(reader.limit) for prefix, reader in readers.items()}
        kept = {prefix: row.pop(TARGET_BYTES) for prefix, row in made.items()}
        counts[readers[""].unit] += len(readings[""].replies) + readings[""].beyond
        for prefix, reader in readers.items():
            whose = "the teacher's" if prefix else "the"
            counts[reader.cut_off(whose)] += readings[prefix].cut_off(reader.limit)
        counts[f"rows whose teacher reads more or less of the {readers[''].unit}"] += len(set(kept.values())) > 1
        row = {prefix + name: value for prefix, columns in made.items() for name, value in columns.items()}
        return row | {TARGET_BYTES: kept[""]}

    made = _each(dataset, rows, counts, features=datasets.Features(features), keep=False)
    counts["rows"] = len(made)
    return made, _reported(counts, made)


def cut_to_fit(
    dataset: datasets.Dataset, tokenizer: Any, max_length: int | None = None, *, chat_template: str | None = None
) -> tuple[datasets.Dataset, dict[str, int]]:
    """Leave out the last messages of conversations, or the last words of texts, that a tokenizer's limit cuts off.

    Two tokenizers reach the same limit at different words. Called with one of them and then with the other, this leaves
    what both have room for, so that teacher and student read the same replies, and bits per byte are of the same text.
    It takes whole messages, where cutting tokens would leave replies without an end, cut at another letter for each
    model; the price is at most one reply a conversation.

    Args:
        dataset: as for `language_model_rows`.
        tokenizer: a fast one.
        max_length: tokens; never more than the tokenizer's own limit, which is taken where this is None.
        chat_template: renders conversations; None: the tokenizer's.
    Returns:
        The rows, with all their columns, a conversation up to its last reply that fits; and counts of what was cut and
            left out, by reason, which add up with those of further calls.
    Raises:
        ValueError: as `language_model_rows`.
    """
    reader = MessageTokenizer(dataset, tokenizer, max_length, chat_template)
    counts: Counter[str] = Counter()

    def rows(given: dict[str, Any]) -> dict[str, Any]:
        reading = reader.read(given)
        cut_off = reading.cut_off(reader.limit)
        counts[reader.cut_off("the")] += cut_off
        if reader.column == TEXT:
            return given | {TEXT: reading.beginning(reader.limit - 1)} if cut_off else given
        replies = [number for number, message in enumerate(given[MESSAGES]) if message["role"] == ASSISTANT]
        if cut_off == len(replies):
            raise LeftOutError(NO_ROOM)
        return given | {MESSAGES: given[MESSAGES][: replies[-cut_off - 1] + 1]}

    made = _each(dataset, rows, counts, features=dataset.features, keep=True)
    return made, _reported(counts, made)


def continuing(tokenizer: Any) -> Any:
    """A copy of a tokenizer by which a causal model goes on with a text, as `language_model_rows` begins one.

    Its chat template is the bare text of the messages behind the tokenizer's `bos_token` (if it has none, its
    `eos_token`).
    """
    start = tokenizer.bos_token or tokenizer.eos_token or ""
    copied = copy.deepcopy(tokenizer)
    copied.chat_template = (
        f"{{{{ {json.dumps(start)} }}}}" + "{% for message in messages %}{{ message.content }}{% endfor %}"
    )
    return copied


def _each(
    dataset: datasets.Dataset,
    make: Callable[[dict[str, Any]], dict[str, Any]],
    counts: Counter[str],
    features: datasets.Features,
    keep: bool,
) -> datasets.Dataset:
    """What becomes of each row; those that raise _LeftOutError are counted and left out."""
    what = "conversations" if MESSAGES in dataset.column_names else "texts"

    def made(batch: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
        for values in zip(*batch.values(), strict=True):
            try:
                yield make(dict(zip(batch, values, strict=True)))
            except LeftOutError as reason:
                counts[f"{what} {reason}, left out"] += 1

    def batched(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = list(made(batch))
        return {name: [row[name] for row in rows] for name in features}

    return dataset.with_format(None).map(
        batched,
        batched=True,
        features=features,
        remove_columns=None if keep else dataset.column_names,
        keep_in_memory=True,
        load_from_cache_file=False,  # a cached result would come without its counts
        desc="Cut" if keep else "Tokenise",
    )


def _reported(counts: Counter[str], made: datasets.Dataset) -> dict[str, int]:
    found = {name: number for name, number in counts.items() if number}
    if not len(made):
        raise ValueError(f"No row is left to learn from: {', '.join(f'{n} {name}' for name, n in found.items())}.")
    return found
