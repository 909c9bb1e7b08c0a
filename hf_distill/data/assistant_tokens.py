"""Conversations as tokens, with the tokens of the assistant marked."""

import bisect
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets
import jinja2

from hf_distill.data.tokenization import MOST, check_strings, token_limit
from hf_distill.problems import IGNORE_INDEX

MESSAGES, TEXT = "messages", "text"
TARGET_BYTES = "target_bytes"
ASSISTANT, SYSTEM = "assistant", "system"
ROLES = (SYSTEM, "user", ASSISTANT)

Messages = list[dict[str, str]]


NO_ROOM = "of which no reply fits the limit"


class LeftOutError(Exception):
    """Why a row cannot be used, as words that follow "conversations"."""


class Reply(NamedTuple):
    """Where a reply is in a rendered conversation, in characters.

    Attributes:
        start: of its targets.
        text: first character of its content.
        end: of its content.
        stop: of its targets, the end of turn included.
    """

    start: int
    text: int
    end: int
    stop: int


@dataclass
class TokenizedMessages:
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
    replies: list[Reply]
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
            raise LeftOutError(NO_ROOM)
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


class MessageTokenizer:
    """Tokenizes rows with one tokenizer, and finds the replies in each.

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
        self.limit = token_limit(tokenizer, MOST if max_length is None else max_length) or MOST
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        self.special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")
        if self.column == MESSAGES:
            if chat_template is None and tokenizer.chat_template is None:
                raise ValueError(
                    f"{type(tokenizer).__name__} has no chat template, so there is no rule for how to write a "
                    "conversation. Set tokenizer.chat_template = ... to the one its model was trained with (or pass "
                    "chat_template=...); a model that never saw one may take that of any chat model."
                )
            self.template = tokenizer.get_chat_template(chat_template)
            self.marks_replies = re.search(r"\{%-?\s*generation\s*-?%\}", self.template) is not None

    def cut_off(self, whose: str) -> str:
        """What is counted where the limit cuts."""
        return f"{self.unit} beyond {whose} limit of {self.limit} tokens, cut off"

    def read(self, row: dict[str, Any]) -> TokenizedMessages:
        """One row, or _LeftOutError."""
        if self.column == TEXT:
            check_strings([row[TEXT] or ""], TEXT)
            return self._read_text(row[TEXT] or "")
        messages = _checked(row[MESSAGES])
        if any(self.special.search(message["content"]) for message in messages):
            raise LeftOutError("that spell a special token")
        try:
            return self._read_marked(messages) if self.marks_replies else self._read_plain(messages)
        except jinja2.TemplateError as error:
            raise LeftOutError(f"that the chat template refuses ({error})") from error

    def _read_text(self, text: str) -> TokenizedMessages:
        if not text.strip():
            raise LeftOutError("without a word")
        if self.special.search(text):
            raise LeftOutError("that spell a special token")
        encoded = self._encode(text)
        ids, offsets, length = encoded["input_ids"], encoded["offset_mapping"], len(text)
        end = self.tokenizer.eos_token_id
        start = end if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id
        before = [] if start is None else [start]
        after = [] if end is None else [end]
        return TokenizedMessages(
            text=text,
            ids=[*before, *ids, *after],
            offsets=[*[(0, 0)] * len(before), *offsets, *[(length, length)] * len(after)],
            replies=[Reply(0, 0, length, length + 1)],
        )

    def _read_marked(self, messages: Messages) -> TokenizedMessages:
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
        contents = [message["content"] for message in messages if message["role"] == ASSISTANT]
        if len(runs) != len(contents):
            raise LeftOutError("of which the chat template marks other tokens than each reply")
        replies = [
            _found(text, content, start, stop, stop)._replace(start=start)
            for content, (start, stop) in zip(contents, runs, strict=True)
        ]
        return TokenizedMessages(text, encoded["input_ids"], offsets, replies)

    def _read_plain(self, messages: Messages) -> TokenizedMessages:
        """By what the template adds for each reply."""
        text = self._render(messages)
        encoded = self._encode(text)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        within = offsets[self.limit][0] if self.limit < len(ids) else len(text)
        answers = [number for number, message in enumerate(messages) if message["role"] == ASSISTANT]
        replies: list[Reply] = []
        for number in answers:
            if replies and replies[-1].stop >= within:
                break  # rendering every beginning of a long conversation takes long
            before = self._render(messages[:number], add_generation_prompt=True) if number else ""
            through = self._render(messages[: number + 1])
            if not text.startswith(before) or not text.startswith(through):
                raise LeftOutError("of which the chat template writes earlier turns anew")
            # A line may end after the mark that ends the turn: a model that stops at the mark never writes it.
            stop = len(through.rstrip())
            reply = _found(text, messages[number]["content"], len(before), len(through), stop)
            replies.append(reply if reply.end < stop else reply._replace(stop=len(through)))
        return TokenizedMessages(text, ids, offsets, replies, beyond=len(answers) - len(replies))

    def _render(self, messages: Messages, **options: Any) -> str:
        return self.tokenizer.apply_chat_template(messages, chat_template=self.template, tokenize=False, **options)

    def _encode(self, text: str) -> Any:
        return self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)


def _checked(messages: list[dict[str, Any]] | None) -> Messages:
    """The messages as roles and stripped texts."""
    if not messages:
        raise LeftOutError("without messages")
    for message in messages if isinstance(messages, list) else [messages]:
        content = message.get("content") if isinstance(message, dict) else message
        if not isinstance(message, dict) or not isinstance(content, str | None):
            raise ValueError(
                f"Expected messages whose content is text, got {type(content).__name__}. Write each as "
                '{"role": ..., "content": text}.'
            )
        if message.get("role") not in ROLES:
            raise LeftOutError(f"with the role {message.get('role')!r} (known are {', '.join(ROLES)})")
    stripped = [{"role": message["role"], "content": (message.get("content") or "").strip()} for message in messages]
    turns = [message for message in stripped if message["role"] != SYSTEM]
    replies = [message for message in turns if message["role"] == ASSISTANT]
    if len(turns) < 2 or not replies:
        raise LeftOutError("without a reply")
    if not all(reply["content"] for reply in replies):
        raise LeftOutError("with an empty reply")
    return stripped


def _found(text: str, content: str, start: int, end: int, stop: int) -> Reply:
    """The reply with this content between two characters of the rendered text."""
    first = text.find(content, start, end)
    if first < 0:
        raise LeftOutError("of which the chat template changes a reply")
    return Reply(first, first, first + len(content), stop)
