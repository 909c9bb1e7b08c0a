"""Overrides of a recipe's keys from the command line."""

import copy
from collections.abc import Sequence
from typing import Any

from hf_distill.checked import check_size, shown
from hf_distill.plain_yaml import parse_yaml


def override(content: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """A recipe's values with some replaced from the command line.

    Args:
        content: keys and values of the recipe; it is not changed.
        words: `--key.of.the.recipe VALUE` or `--key.of.the.recipe=VALUE`, each value in YAML.
    Raises:
        ValueError: a word that is no key, a value that is missing or no YAML, or a key of something without keys.

    >>> override({"distill": {"temperature": 2}}, ["--distill.temperature", "4", "--seed=1"])
    {'distill': {'temperature': 4}, 'seed': 1}
    """
    check_size(content)
    content = copy.deepcopy(content)
    pending = list(words)
    while pending:
        word = pending.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name == "--":
            raise ValueError(f"Expected --key.of.the.recipe VALUE, got {word!r}.")
        if not equals:
            if not pending:
                raise ValueError(f"{name} needs a value.")
            value = pending.pop(0)
        *parents, last = name.removeprefix("--").split(".")
        section: Any = content
        for number, parent in enumerate(parents):
            keys = _keys(section, parents[:number], name)
            if keys.get(parent) is None:
                keys[parent] = {}
            section = keys[parent]
        remedy = "Quote it, once for the shell and once for YAML: '\"...\"'"
        _keys(section, parents, name)[last] = parse_yaml(value, name, remedy)
    return content


def _keys(section: Any, path: Sequence[str], name: str) -> dict[str, Any]:
    if isinstance(section, dict):
        return section
    stages = "; change a stage in the file" if isinstance(section, list) else ""
    raise ValueError(f"{name}: {'.'.join(path)} holds no keys, it is {shown(section)}{stages}.")
