"""The students of a ladder, as a recipe lists them."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from hf_distill.checked import nearest, section_from
from hf_distill.tasks.settings import Settings, Student

SHORT = re.compile(r"(static)|(lstm|transformer)-([1-9][0-9]{0,5})")
EXAMPLES = ("static", "lstm-32", "lstm-64", "lstm-128", "transformer-3")
OF_LADDER = ("ladder", "floor")
# Where neither the recipe nor a rung says so. An LSTM has the default of all recipes.
LEARNING_RATES = {"static": 1e-2, "transformer": 1e-4}


def rungs_of(settings: Settings) -> dict[str, dict[str, Any]]:
    """The rungs of a recipe by name: the fields in which each differs from the recipe, `student` and `distill`.

    Args:
        settings: of the run.
    Returns:
        Nothing where the recipe has no ladder.
    Raises:
        ValueError: an unknown rung, a section that is none of a student, or the same rung twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for number, given in enumerate(settings.student.ladder):
        key = f"student.ladder[{number}]"
        content = _spelled_out(given, key) if isinstance(given, str) else dict(given)
        own = content.pop("distill", {})
        name = content.pop("name", None) or (
            given if isinstance(given, str) else f"{content.get('kind', 'lstm')} {number + 1}"
        )
        if not isinstance(own, Mapping) or not isinstance(name, str) or {"ladder", "floor"} & content.keys():
            raise ValueError(
                f"{key}: expected the fields of a student, a `name` and what differs in `distill`; got {given!r:.80}."
            )
        if name in found or not name.strip() or not name.isprintable() or "/" in name:
            raise ValueError(f"{key}: expected a name of its own for each rung, without a slash; got {name!r}.")
        shared = {each.name: getattr(settings.student, each.name) for each in dataclasses.fields(Student)}
        shared = {each: value for each, value in shared.items() if each not in (*OF_LADDER, "kind", "config")}
        student = section_from(Student, {**shared, **content}, key)
        rate = {"learning_rate": LEARNING_RATES[student.kind]} if student.kind in LEARNING_RATES else {}
        stages = settings.distill if isinstance(settings.distill, list) else [settings.distill]
        made = [{**rate, **stage, **own} for stage in stages]
        found[name] = {"student": student, "distill": made if isinstance(settings.distill, list) else made[0]}
    return found


def _spelled_out(name: str, key: str) -> dict[str, Any]:
    """The section that a short name stands for.

    >>> _spelled_out("lstm-64", "student.ladder[0]")
    {'kind': 'lstm', 'config': {'embedding_size': 64, 'hidden_size': 64}}
    """
    short = SHORT.fullmatch(name)
    if short is None:
        raise ValueError(
            f"{key}: unknown rung {name!r}.{nearest(name, EXAMPLES)} Expected static, lstm-<hidden size>, "
            "transformer-<layers>, or the fields of a student."
        )
    if short[1]:
        return {"kind": "static"}
    size = int(short[3])
    if short[2] == "lstm":
        return {"kind": "lstm", "config": {"embedding_size": size, "hidden_size": size}}
    # Cut from its teacher, it reads with its teacher's tokens.
    return {"kind": "transformer", "vocab_size": None, "config": {"num_hidden_layers": size}}


def check_ladder(settings: Settings) -> None:
    """Raise a ValueError for a ladder that makes no sense, or settings that only a ladder has."""
    student = settings.student
    if not student.ladder:
        if student.floor is not None:
            raise ValueError("student.floor: is of a ladder. List its rungs in student.ladder, or leave it out.")
        return
    if settings.task not in ("text-classification", "token-classification"):
        raise ValueError(f"student.ladder: is for text and token classification, and the task is {settings.task}.")
    if settings.teacher.prompt is not None:
        raise ValueError(
            "student.ladder: needs a classifier as teacher, and this one is behind a prompt. Leave it out."
        )
    if student.config or student.kind != Student().kind:
        raise ValueError("student.ladder: kind and config belong to its rungs. Move them there, or leave them out.")
    if len(student.ladder) < 2:
        raise ValueError(f"student.ladder: expected two rungs or more, got {len(student.ladder)}.")
