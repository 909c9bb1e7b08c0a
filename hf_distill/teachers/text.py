"""Teachers that answer texts with texts."""

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any

from transformers.utils import logging

logger = logging.get_logger(__name__)

Answers = Generator[tuple[int, str], None, None]


class TextTeacher(ABC):
    """A teacher that gives its answers as they come, so that each can be kept at once."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Who answers and how: whatever changes an answer changes the name, and so what a ledger knows of it."""

    @abstractmethod
    def answers(self, texts: list[str]) -> Answers:
        """Pairs of a text's number and its answer, in any order: one a text, empty where there is no answer."""

    def __call__(self, texts: list[str]) -> list[str]:
        """One answer a text, in the order of the texts."""
        said = dict(checked_answers(self, texts))
        return [said[number] for number in range(len(texts))]


def checked_answers(teacher: TextTeacher, texts: list[str]) -> Answers:
    """A teacher's answers, each checked when it comes, and their number at the end."""
    missing = set(range(len(texts)))
    with contextlib.closing(teacher.answers(texts)) as pairs:
        for number, answer in pairs:
            if number not in range(len(texts)):
                raise ValueError(
                    f"{type(teacher).__name__} was given {len(texts)} texts and answered number {number!r}: its "
                    "answers must be pairs of a text's number, from 0 on, and a text."
                )
            if not isinstance(answer, str):
                raise TypeError(f"The teacher must answer with texts, got {type(answer).__name__}: {answer!r}.")
            missing.discard(number)
            yield number, answer
    if missing:
        first = min(missing)
        raise ValueError(
            f"{type(teacher).__name__} was given {len(texts)} texts and left {len(missing)} without an answer, number "
            f"{first} first: {quoted(texts[first])}. Its answers must be one pair a text, with an empty text where it "
            "has no answer. Those that it gave are in the ledger, if there is one."
        )


def check_options(options: dict[str, Any], refused: set[str]) -> None:
    if refused & options.keys():
        raise ValueError(f"A teacher gives one answer a text, leave out {', '.join(refused & options.keys())}.")
    try:
        json.dumps(options)
    except TypeError as error:
        raise ValueError(
            f"Options must be plain values, as JSON has them, since they name the teacher: {error}. Got {options}."
        ) from error


def chat_messages(text: str, system: str | None) -> list[dict[str, str]]:
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": text}]


def quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
