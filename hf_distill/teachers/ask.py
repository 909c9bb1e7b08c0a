"""Collect a teacher's answers to texts, each text once."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm.auto import tqdm

from hf_distill.problems import IGNORE_INDEX
from hf_distill.teachers.ledger import answer_key, open_ledger
from hf_distill.teachers.text import Answers, TextTeacher, checked_answers, logger, quoted


class FunctionTeacher(TextTeacher):
    """A function from texts to texts, called with one batch at a time.

    Args:
        function: gives as many answers as it is given texts, in order.
        batch_size: texts of a call.
    """

    def __init__(self, function: Callable[[list[str]], list[str]], batch_size: int) -> None:
        self.function, self.batch_size = function, batch_size

    @property
    def name(self) -> str:
        """A function has none.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "A ledger stores answers under the name of their teacher, and a function has no name that changes with its "
            "answers. Pass name=..., and another name whenever the function answers differently."
        )

    def answers(self, texts: list[str]) -> Answers:
        """The answers of one call after the other."""
        for start in range(0, len(texts), self.batch_size):
            batch = texts[start : start + self.batch_size]
            answers: Any = self.function(list(batch))
            if not isinstance(answers, list | tuple) or len(answers) != len(batch):
                got = f"{len(answers)}" if isinstance(answers, list | tuple) else f"a {type(answers).__name__}"
                raise ValueError(
                    f"The teacher was given {len(batch)} texts, from {quoted(batch[0])} on, and returned {got}: "
                    "expected a list of one answer per text, in order (an empty text if it has none), since answers "
                    "cannot be matched to texts otherwise. Answers to earlier texts are in the ledger, if there is one."
                )
            yield from enumerate(answers, start)


def ask(
    teacher: TextTeacher | Callable[[list[str]], list[str]],
    texts: Iterable[str],
    *,
    ledger: str | Path | None = None,
    name: str | None = None,
    batch_size: int = 32,
) -> list[str]:
    """A teacher's answers to texts. Each distinct text is sent to the teacher once.

    With a ledger, every answer is saved as soon as it arrives. Texts with a saved answer of the same teacher and the
    same options are not sent again. After a run that was killed at any moment, only the texts in flight at that moment
    are sent again. If several processes use one ledger, the first collects the answers and the others wait for it.

    Args:
        teacher: a `TextTeacher`, or any function from a list of texts to a list of as many texts, in order.
        texts: the texts; none may be blank.
        ledger: file with one JSON object per line (`key`, `text`, `answer`), created if it does not exist; several
            teachers may share it. `datasets.load_dataset("json", data_files=...)` reads it.
        name: the teacher's name in the ledger. None: the teacher's `name`; a function has none.
        batch_size: texts per call of a function. A killed run loses at most the answers of one call.
    Returns:
        (texts,) answers, stripped. A warning gives the number of empty ones.
    Raises:
        TypeError: texts or answers that are not strings.
        ValueError: blank texts; a teacher that returns fewer or more texts than it was given; a function with a ledger
            and no name; a file that is not a ledger; and the errors of the teachers.

    >>> ask(lambda texts: [text.upper() for text in texts], ["hola", "adiós"])
    ['HOLA', 'ADIÓS']
    """
    texts = checked_texts(texts)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    if not isinstance(teacher, TextTeacher):
        teacher = FunctionTeacher(teacher, batch_size)
    unique = list(dict.fromkeys(texts))
    keys: dict[str, str] = {}
    answers: dict[str, str] = {}
    file: BinaryIO | None = None
    with contextlib.ExitStack() as stack:
        if ledger is not None:
            name = name or teacher.name
            keys = {text: answer_key(name, text) for text in unique}
            saved, file = stack.enter_context(open_ledger(Path(ledger)))
            answers = {text: saved[key] for text, key in keys.items() if key in saved}
        missing = [text for text in unique if text not in answers]
        progress = stack.enter_context(tqdm(total=len(unique), initial=len(answers), desc="Teacher", unit=" texts"))
        for number, answer in stack.enter_context(contextlib.closing(checked_answers(teacher, missing))):
            text = missing[number]
            answers[text] = answer.strip()
            if file is not None:
                file.write(json.dumps({"key": keys[text], "text": text, "answer": answers[text]}).encode() + b"\n")
                file.flush()
            progress.update()
    empty = sum(not answers[text] for text in texts)
    if empty:
        logger.warning(f"{empty} of {len(texts)} answers are empty. A student cannot learn from them: leave them out.")
    return [answers[text] for text in texts]


def teacher_labels(answers: Sequence[str], classes: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
    """Labels from a teacher's answers.

    An answer is valid if it is the name of a class and nothing else, apart from case, space, and punctuation around it.
    A name inside a sentence is not accepted, since the sentence may negate it.

    Args:
        answers: one per row.
        classes: names, in the order of their numbers.
    Returns:
        (answers,) int64, -100 for an answer that names no class; and the numbers of `valid`, `invalid` and `empty`
        answers.
    Raises:
        ValueError: two classes with the same name, an empty name, or no valid answer.

    >>> labels, counts = teacher_labels(["Positive.", "negative", "", "not positive"], ["negative", "positive"])
    >>> labels.tolist(), counts
    ([1, 0, -100, -100], {'valid': 2, 'invalid': 1, 'empty': 1})
    """
    number_of = class_finder(classes)
    labels = np.fromiter((number_of(answer) for answer in answers), dtype=np.int64, count=len(answers))
    empty = sum(not answer.strip() for answer in answers)
    valid = int((labels != IGNORE_INDEX).sum())
    counts = {"valid": valid, "invalid": len(answers) - valid - empty, "empty": empty}
    if valid < len(answers):
        invalid = Counter(
            answer for answer, label in zip(answers, labels, strict=True) if label == IGNORE_INDEX and answer.strip()
        )
        often = f", most often {', '.join(quoted(answer) for answer, _ in invalid.most_common(3))}" if invalid else ""
        message = (
            f"Of {len(answers)} answers {counts['invalid']} name none of the classes {list(classes)}{often}; {empty} "
            "are empty."
        )
        if not valid:
            raise ValueError(f"{message} That leaves no label: instruct the teacher to answer with a class name only.")
        logger.warning(f"{message} Their label is {IGNORE_INDEX}.")
    return labels, counts


def class_finder(classes: Sequence[str]) -> Callable[[str], int]:
    """A function from an answer to the number of the class that it names, or -100; see `teacher_labels`.

    Args:
        classes: names, in the order of their numbers.
    Raises:
        ValueError: two classes with the same name, or an empty name.
    """
    numbers = {_normalized(name): number for number, name in enumerate(classes)}
    if len(numbers) < len(classes) or "" in numbers:
        raise ValueError(f"Classes need names that differ in more than case and space, got {list(classes)}.")

    def number_of(answer: str) -> int:
        plain = _normalized(answer)
        punctuation = {character for character in plain if not character.isalnum()}
        # Characters that a class begins or ends with are not removed: -1 is not 1, and c++ is not c.
        bare = plain.lstrip("".join(punctuation - {name[0] for name in numbers}))
        bare = bare.rstrip("".join(punctuation - {name[-1] for name in numbers}))
        return numbers.get(plain, numbers.get(bare, IGNORE_INDEX))

    return number_of


def checked_texts(texts: Iterable[str]) -> list[str]:
    """The texts themselves.

    Args:
        texts: to ask.
    Raises:
        TypeError: something else than texts.
        ValueError: blank texts.
    """
    if isinstance(texts, str):
        raise TypeError(f"Expected a list of texts, got one text: {quoted(texts)}.")
    texts = list(texts)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"Expected texts, got {type(text).__name__} as number {number}: {text!r}.")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(
                f"Text number {number} holds half of a surrogate pair, which no file can take: {quoted(text)}. "
                'Repair it, with text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for instance.'
            )
    blank = [number for number, text in enumerate(texts) if not text.strip()]
    if blank:
        raise ValueError(
            f"{len(blank)} of {len(texts)} texts are blank, number {blank[0]} first. A teacher cannot answer them: "
            "leave them out."
        )
    return texts


def _normalized(text: str) -> str:
    return " ".join(text.casefold().split())
