"""Overrides of a recipe's keys from the command line, and the nearest known key."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import yaml

from hf_distill.tasks.settings import nearest


def override(content: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """A recipe's values with some replaced from the command line.

    >>> override({"distill": {"temperature": 2}}, ["--distill.temperature", "4", "--seed=1"])
    {'distill': {'temperature': 4}, 'seed': 1}
    """
    content = yaml.safe_load(yaml.safe_dump(content))  # a deep copy of plain values
    pending = list(words)
    while pending:
        word = pending.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            raise ValueError(f"Expected --key.of.the.recipe VALUE, got {word!r}.")
        if not equals:
            if not pending:
                raise ValueError(f"{name} needs a value.")
            value = pending.pop(0)
        *parents, last = name.removeprefix("--").split(".")
        section = content
        for parent in parents:
            if isinstance(section, list):
                raise ValueError(f"{name}: distill is a list of stages; change it in the file.")
            section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ValueError(f"{name}: {'.'.join(parents)} holds no keys.")
        section[last] = yaml.safe_load(value)
    return content


def check_keys(content: dict[str, Any], section: type, prefix: str = "") -> None:
    """Raise a ValueError for the first key that a section does not know, with the nearest that it does."""
    fields = {part.name: part for part in dataclasses.fields(section)}
    for name, value in content.items():
        if name not in fields:
            raise ValueError(f"The recipe has an unknown key {prefix + str(name)!r}.{nearest(str(name), fields)}")
        inner = fields[name].type
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            if not isinstance(value, dict):
                raise ValueError(f"{prefix}{name}: expected keys and values, got {value!r}.")
            check_keys(value, inner, f"{prefix}{name}.")
    for part in fields.values():
        required = part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING
        if required and part.name not in content:
            raise ValueError(f"The recipe lacks the key {prefix + part.name!r}.")
