"""The interface of teachers that answer texts with texts."""

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any

from transformers.utils import logging

logger = logging.get_logger(__name__)

Answers = Generator[tuple[int, str], None, None]


class TextTeacher(ABC):
    """A teacher whose answers are texts. It yields them one by one, so that each can be saved at once."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Identifies the teacher in a ledger. It must change with anything that changes an answer."""

    @abstractmethod
    def answers(self, texts: list[str]) -> Answers:
        """Pairs of a text's number and its answer, in any order; one per text, an empty text for no answer."""

    def __call__(self, texts: list[str]) -> list[str]:
        """One answer per text, in the order of the texts."""
        answers = dict(checked_answers(self, texts))
        return [answers[number] for number in range(len(texts))]


def checked_answers(teacher: TextTeacher, texts: list[str]) -> Answers:
    """A teacher's answers, with checks of each answer and of their number.

    Args:
        teacher: the teacher.
        texts: the texts to answer.
    Raises:
        TypeError: an answer that is not a string.
        ValueError: an answer to a text that does not exist, or a text without an answer.
    """
    missing = set(range(len(texts)))
    with contextlib.closing(teacher.answers(texts)) as pairs:
        for number, answer in pairs:
            if number not in range(len(texts)):
                raise ValueError(
                    f"{type(teacher).__name__} was given {len(texts)} texts and answered number {number!r}: its "
                    "answers must be pairs of a text's number, starting at 0, and a text."
                )
            if not isinstance(answer, str):
                raise TypeError(f"The teacher must answer with texts, got {type(answer).__name__}: {answer!r}.")
            missing.discard(number)
            yield number, answer
    if missing:
        first = min(missing)
        raise ValueError(
            f"{type(teacher).__name__} was given {len(texts)} texts and left {len(missing)} without an answer, number "
            f"{first} first: {quoted(texts[first])}. It must yield one pair per text, with an empty text for no "
            "answer. The other answers are in the ledger, if there is one."
        )


def check_options(options: dict[str, Any], refused: set[str]) -> None:
    """Raise a ValueError for options that are refused, or that are not plain JSON values."""
    if refused & options.keys():
        raise ValueError(f"A teacher gives one answer per text: leave out {', '.join(refused & options.keys())}.")
    try:
        json.dumps(options)
    except TypeError as error:
        raise ValueError(
            f"Options must be plain JSON values, since they are part of the teacher's name: {error}. Got {options}."
        ) from error


def chat_messages(text: str, system: str | None) -> list[dict[str, str]]:
    """The messages of a chat with one user message, after the system message if there is one."""
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": text}]


def quoted(text: str) -> str:
    """A text in quotes, shortened to 80 characters, for messages."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
