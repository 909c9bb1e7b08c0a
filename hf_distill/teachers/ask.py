"""Asks a teacher each text once."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm.auto import tqdm

from hf_distill.problems import IGNORE_INDEX
from hf_distill.teachers.ledger import answer_key, opened
from hf_distill.teachers.text import Answers, TextTeacher, checked_answers, logger, quoted


class _Function(TextTeacher):
    """Any function from texts to texts, asked a batch at a time."""

    def __init__(self, function: Callable[[list[str]], list[str]], batch_size: int) -> None:
        self.function, self.batch_size = function, batch_size

    @property
    def name(self) -> str:
        raise ValueError(
            "A ledger keeps answers under their teacher's name, and a function has none that would change with its "
            "answers. Pass name=..., and another one whenever the function answers differently."
        )

    def answers(self, texts: list[str]) -> Answers:
        for start in range(0, len(texts), self.batch_size):
            batch = texts[start : start + self.batch_size]
            said: Any = self.function(list(batch))
            if not isinstance(said, list | tuple) or len(said) != len(batch):
                got = f"{len(said)}" if isinstance(said, list | tuple) else f"a {type(said).__name__}"
                raise ValueError(
                    f"The teacher was given {len(batch)} texts, from {quoted(batch[0])} on, and returned {got}: "
                    "expected a list of one answer a text, in order (an empty one where it has none), or nobody knows "
                    "whose is whose. The answers to earlier texts are in the ledger, if there is one."
                )
            yield from enumerate(said, start)


def ask(
    teacher: TextTeacher | Callable[[list[str]], list[str]],
    texts: Iterable[str],
    *,
    ledger: str | Path | None = None,
    name: str | None = None,
    batch_size: int = 32,
) -> list[str]:
    """A teacher's answers to texts, each different text asked once.

    With a ledger every answer is written down when it comes, and no text is asked again that it has an answer to, by
    the same teacher with the same options: a run that was killed at any moment asks again only what was in flight then.
    Of several processes with one ledger, the first asks and the others wait for it.

    Args:
        teacher: a `TextTeacher`, or any function from a list of texts to a list of as many, in order.
        texts: none of them blank.
        ledger: file of one JSON object a line (`key`, `text`, `answer`), made if missing; several teachers may share
            it. `datasets.load_dataset("json", data_files=...)` reads it.
        name: what the ledger knows the teacher by. None: the teacher's own name; a function has none.
        batch_size: texts a call, of a function. A killed run loses at most one call's answers.
    Returns:
        (texts,) answers, stripped. Empty ones are counted and told.
    Raises:
        TypeError: texts or answers that are not texts.
        ValueError: blank texts; a teacher that returns fewer or more texts than it was given; a function that has a
            ledger and no name; a ledger that is none; and what the teachers raise.

    >>> ask(lambda texts: [text.upper() for text in texts], ["hola", "adiós"])
    ['HOLA', 'ADIÓS']
    """
    texts = _checked_texts(texts)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    if not isinstance(teacher, TextTeacher):
        teacher = _Function(teacher, batch_size)
    unique = list(dict.fromkeys(texts))
    keys: dict[str, str] = {}
    said: dict[str, str] = {}
    file: BinaryIO | None = None
    with contextlib.ExitStack() as stack:
        if ledger is not None:
            name = name or teacher.name
            keys = {text: answer_key(name, text) for text in unique}
            kept, file = stack.enter_context(opened(Path(ledger)))
            said = {text: kept[key] for text, key in keys.items() if key in kept}
        waiting = [text for text in unique if text not in said]
        progress = stack.enter_context(tqdm(total=len(unique), initial=len(said), desc="Teacher", unit=" texts"))
        for number, answer in stack.enter_context(contextlib.closing(checked_answers(teacher, waiting))):
            text = waiting[number]
            said[text] = answer.strip()
            if file is not None:
                file.write(json.dumps({"key": keys[text], "text": text, "answer": said[text]}).encode() + b"\n")
                file.flush()
            progress.update()
    empty = sum(not said[text] for text in texts)
    if empty:
        logger.warning(f"{empty} of {len(texts)} answers are empty. They teach nothing: leave them out.")
    return [said[text] for text in texts]


def teacher_labels(answers: Sequence[str], classes: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
    """Class numbers from a teacher's answers.

    An answer counts where it is the name of a class and nothing else, but for case, space, and punctuation around it: a
    name inside a sentence may be denied there.

    Args:
        answers: one a row.
        classes: names, in the order of their numbers.
    Returns:
        (answers,) int64, -100 where an answer names no class, and how many answers are `valid`, `invalid` and `empty`.
    Raises:
        ValueError: two classes of the same name, an unnamed one, or no answer that names a class.

    >>> labels, counts = teacher_labels(["Positive.", "negative", "", "not positive"], ["negative", "positive"])
    >>> labels.tolist(), counts
    ([1, 0, -100, -100], {'valid': 2, 'invalid': 1, 'empty': 1})
    """
    numbers = {_normalized(name): number for number, name in enumerate(classes)}
    if len(numbers) < len(classes) or "" in numbers:
        raise ValueError(f"Classes need names that differ in more than case and space, got {list(classes)}.")

    def number_of(answer: str) -> int:
        plain = _normalized(answer)
        around = {character for character in plain if not character.isalnum()}
        # What a class begins or ends with is no punctuation around it: -1 is not 1, and c++ is not c.
        bare = plain.lstrip("".join(around - {name[0] for name in numbers}))
        bare = bare.rstrip("".join(around - {name[-1] for name in numbers}))
        return numbers.get(plain, numbers.get(bare, IGNORE_INDEX))

    labels = np.fromiter((number_of(answer) for answer in answers), dtype=np.int64, count=len(answers))
    empty = sum(not answer.strip() for answer in answers)
    valid = int((labels != IGNORE_INDEX).sum())
    counts = {"valid": valid, "invalid": len(answers) - valid - empty, "empty": empty}
    if valid < len(answers):
        strange = Counter(
            answer for answer, label in zip(answers, labels, strict=True) if label == IGNORE_INDEX and answer.strip()
        )
        often = f", most often {', '.join(quoted(answer) for answer, _ in strange.most_common(3))}" if strange else ""
        message = (
            f"Of {len(answers)} answers {counts['invalid']} name none of the classes {list(classes)}{often}; {empty} "
            "are empty."
        )
        if not valid:
            raise ValueError(f"{message} That leaves no label: ask for the name of a class and nothing else.")
        logger.warning(f"{message} Their label is {IGNORE_INDEX}.")
    return labels, counts


def _checked_texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise TypeError(f"Expected a list of texts, got one text: {quoted(texts)}.")
    texts = list(texts)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"Expected texts, got {type(text).__name__} as number {number}: {text!r}.")
    blank = [number for number, text in enumerate(texts) if not text.strip()]
    if blank:
        raise ValueError(
            f"{len(blank)} of {len(texts)} texts are blank, number {blank[0]} first: there is nothing to ask. Leave "
            "them out."
        )
    return texts


def _normalized(text: str) -> str:
    return " ".join(text.casefold().split())
