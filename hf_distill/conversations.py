"""Conversations, and plain texts, as rows for a causal language model: what it reads, and which tokens it learns."""

import bisect
import copy
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets
import jinja2

from hf_distill.columns import PREFIX
from hf_distill.tasks import IGNORE_INDEX

MESSAGES, TEXT = "messages", "text"
TARGET_BYTES = "target_bytes"
ASSISTANT, SYSTEM = "assistant", "system"
ROLES = (SYSTEM, "user", ASSISTANT)

Messages = list[dict[str, str]]


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
    last of them, as nothing that follows is learnt from. A template with `{% generation %}` says itself which tokens
    they are; with any other they are what it adds for a message, once rendering the conversation up to there is seen to
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
    readers = {"": _Reader(dataset, tokenizer, max_length, chat_template)}
    if teacher_tokenizer is not None:
        readers[PREFIX] = _Reader(dataset, teacher_tokenizer, teacher_max_length, teacher_chat_template)
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
    It takes whole messages, where cutting tokens would leave a reply whose end nobody may learn, and each model at
    another letter; the price is at most one reply a conversation.

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
    reader = _Reader(dataset, tokenizer, max_length, chat_template)
    counts: Counter[str] = Counter()

    def rows(given: dict[str, Any]) -> dict[str, Any]:
        reading = reader.read(given)
        cut_off = reading.cut_off(reader.limit)
        counts[reader.cut_off("the")] += cut_off
        if reader.column == TEXT:
            return given | {TEXT: reading.beginning(reader.limit - 1)} if cut_off else given
        replies = [number for number, message in enumerate(given[MESSAGES]) if message["role"] == ASSISTANT]
        if cut_off == len(replies):
            raise _LeftOutError(_NO_ROOM)
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


_NO_ROOM = "of which no reply fits the limit"


class _LeftOutError(Exception):
    """Why a row cannot be used, as words that follow "conversations"."""


class _Reply(NamedTuple):
    """Where a reply is in a rendered conversation, in characters.

    Attributes:
        start: of its targets.
        text: first character of what is said.
        end: of what is said.
        stop: of its targets, the end of turn included.
    """

    start: int
    text: int
    end: int
    stop: int


@dataclass
class _Reading:
    """What a tokenizer makes of one row.

    Attributes:
        text: as rendered.
        ids: of its tokens.
        offsets: first character of each token, and the one after its last.
        replies: in order.
        beyond: how many more there are that begin beyond the limit.
    """

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]
    replies: list[_Reply]
    beyond: int = 0

    def __post_init__(self) -> None:
        # Tokens that begin in front of a reply and end in it belong to it; some have no width at all.
        starts = [reply.start for reply in self.replies]
        owners = [bisect.bisect_left(starts, max(end, begin + 1)) - 1 for begin, end in self.offsets]
        self.targets = [
            owner >= 0 and begin < self.replies[owner].stop
            for owner, (begin, _) in zip(owners, self.offsets, strict=True)
        ]
        if self.targets:
            self.targets[0] = False  # there are no logits before the first token
        # How many tokens hold each reply and all before it.
        self.ends = [0] * len(self.replies)
        for number, (owner, is_target) in enumerate(zip(owners, self.targets, strict=True)):
            if is_target:
                self.ends[owner] = number + 1

    def cut_off(self, limit: int) -> int:
        """How many replies do not fit, each with its end of turn and all that stands before it."""
        return self.beyond + sum(end > limit for end in self.ends)

    def row(self, limit: int) -> dict[str, Any]:
        """The columns of at most `limit` tokens, up to the last target."""
        length = next((n for n in range(min(limit, len(self.ids)), 0, -1) if self.targets[n - 1]), 0)
        if not length:
            raise _LeftOutError(_NO_ROOM)
        pairs = zip(self.ids[:length], self.targets[:length], strict=True)
        first, last = self.offsets[0][1], self._characters(length)
        spelled = [self.text[max(reply.text, first) : min(reply.end, last)] for reply in self.replies]
        return {
            "input_ids": self.ids[:length],
            "attention_mask": [1] * length,
            "labels": [index if is_target else IGNORE_INDEX for index, is_target in pairs],
            TARGET_BYTES: sum(len(text.encode()) for text in spelled),
        }

    def beginning(self, limit: int) -> str:
        """The text that `limit` tokens have room for, in whole words if there is any."""
        text = self.text[: self._characters(limit)]
        words = re.match(r".*\S(?=\s)", text, flags=re.DOTALL)
        return words[0] if words else text

    def _characters(self, length: int) -> int:
        """The characters that so many tokens spell to the end; the bytes of one may be spread over several tokens."""
        return self.offsets[length][0] if length < len(self.offsets) else len(self.text)


class _Reader:
    """Reads rows through one tokenizer, and says of each where the replies are.

    Args:
        dataset: tells which column to read.
        tokenizer: whose tokens.
        max_length: see `language_model_rows`.
        chat_template: likewise.
    """

    def __init__(
        self, dataset: datasets.Dataset, tokenizer: Any, max_length: int | None, chat_template: str | None
    ) -> None:
        names = dataset.column_names
        self.column = next((name for name in (MESSAGES, TEXT) if name in names), "")
        if not self.column:
            raise ValueError(
                f"Expected a column {MESSAGES!r} (lists of role and content) or {TEXT!r}, got {', '.join(names)}. "
                "Rename yours with dataset.rename_column."
            )
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"{type(tokenizer).__name__} does not say which characters a token stands for, so replies cannot be "
                "told from the rest. Use a tokenizer with a fast version."
            )
        self.tokenizer = tokenizer
        self.unit = "replies" if self.column == MESSAGES else "texts"
        known = tokenizer.model_max_length  # astronomic where a tokenizer has none
        self.limit = known if max_length is None else min(max_length, known)
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        self.special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")
        if self.column == MESSAGES:
            if chat_template is None and tokenizer.chat_template is None:
                raise ValueError(
                    f"{type(tokenizer).__name__} has no chat template, so nothing says how to write a conversation "
                    "down. Set tokenizer.chat_template = ... to the one its model was trained with (or pass "
                    "chat_template=...); a model that never saw one may take that of any chat model."
                )
            self.template = tokenizer.get_chat_template(chat_template)
            self.marks_replies = re.search(r"\{%-?\s*generation\s*-?%\}", self.template) is not None

    def cut_off(self, whose: str) -> str:
        """What is counted where the limit cuts."""
        return f"{self.unit} beyond {whose} limit of {self.limit} tokens, cut off"

    def read(self, row: dict[str, Any]) -> _Reading:
        """One row, or _LeftOutError."""
        if self.column == TEXT:
            return self._read_text(row[TEXT] or "")
        messages = _checked(row[MESSAGES])
        if any(self.special.search(message["content"]) for message in messages):
            raise _LeftOutError("that spell a special token")
        try:
            return self._read_marked(messages) if self.marks_replies else self._read_plain(messages)
        except jinja2.TemplateError as error:
            raise _LeftOutError(f"that the chat template refuses ({error})") from error

    def _read_text(self, text: str) -> _Reading:
        if not text.strip():
            raise _LeftOutError("without a word")
        if self.special.search(text):
            raise _LeftOutError("that spell a special token")
        encoded = self._encode(text)
        ids, offsets, length = encoded["input_ids"], encoded["offset_mapping"], len(text)
        end = self.tokenizer.eos_token_id
        start = end if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id
        before = [] if start is None else [start]
        after = [] if end is None else [end]
        return _Reading(
            text=text,
            ids=[*before, *ids, *after],
            offsets=[*[(0, 0)] * len(before), *offsets, *[(length, length)] * len(after)],
            replies=[_Reply(0, 0, length, length + 1)],
        )

    def _read_marked(self, messages: Messages) -> _Reading:
        """By the template's own marks."""
        encoded = self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.template,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"return_offsets_mapping": True, "verbose": False},
        )
        text, offsets = self._render(messages), encoded["offset_mapping"]
        marks = "".join(map(str, encoded["assistant_masks"]))
        runs = [(offsets[run.start()][0], offsets[run.end() - 1][1]) for run in re.finditer("1+", marks)]
        said = [message["content"] for message in messages if message["role"] == ASSISTANT]
        if len(runs) != len(said):
            raise _LeftOutError("of which the chat template marks other tokens than each reply")
        replies = [
            _found(text, content, start, stop, stop)._replace(start=start)
            for content, (start, stop) in zip(said, runs, strict=True)
        ]
        return _Reading(text, encoded["input_ids"], offsets, replies)

    def _read_plain(self, messages: Messages) -> _Reading:
        """By what the template adds for each reply."""
        text = self._render(messages)
        encoded = self._encode(text)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        within = offsets[self.limit][0] if self.limit < len(ids) else len(text)
        answers = [number for number, message in enumerate(messages) if message["role"] == ASSISTANT]
        replies: list[_Reply] = []
        for number in answers:
            if replies and replies[-1].stop >= within:
                break  # rendering every beginning of a long conversation takes long
            before = self._render(messages[:number], add_generation_prompt=True) if number else ""
            through = self._render(messages[: number + 1])
            if not text.startswith(before) or not text.startswith(through):
                raise _LeftOutError("of which the chat template writes earlier turns anew")
            # A line may end after the mark that ends the turn: a model that stops at the mark never writes it.
            stop = len(through.rstrip())
            reply = _found(text, messages[number]["content"], len(before), len(through), stop)
            replies.append(reply if reply.end < stop else reply._replace(stop=len(through)))
        return _Reading(text, ids, offsets, replies, beyond=len(answers) - len(replies))

    def _render(self, messages: Messages, **options: Any) -> str:
        return self.tokenizer.apply_chat_template(messages, chat_template=self.template, tokenize=False, **options)

    def _encode(self, text: str) -> Any:
        return self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)


def _checked(messages: list[dict[str, Any]] | None) -> Messages:
    """The messages as roles and stripped texts."""
    if not messages:
        raise _LeftOutError("without messages")
    for message in messages:
        if not isinstance(message.get("content"), str | None):
            raise ValueError(
                f"Expected messages whose content is text, got {type(message['content']).__name__}. Write each as "
                '{"role": ..., "content": text}.'
            )
        if message.get("role") not in ROLES:
            raise _LeftOutError(f"with the role {message.get('role')!r} (known are {', '.join(ROLES)})")
    said = [{"role": message["role"], "content": (message.get("content") or "").strip()} for message in messages]
    turns = [message for message in said if message["role"] != SYSTEM]
    replies = [message for message in turns if message["role"] == ASSISTANT]
    if len(turns) < 2 or not replies:
        raise _LeftOutError("without a reply")
    if not all(reply["content"] for reply in replies):
        raise _LeftOutError("with an empty reply")
    return said


def _found(text: str, content: str, start: int, end: int, stop: int) -> _Reply:
    """The reply that says `content` between two characters of the rendered text."""
    first = text.find(content, start, end)
    if first < 0:
        raise _LeftOutError("of which the chat template changes a reply")
    return _Reply(first, first, first + len(content), stop)


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
            except _LeftOutError as reason:
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
