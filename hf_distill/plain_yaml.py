"""YAML as settings are written in: plain values alone."""

import re
from collections import Counter
from typing import Any

import yaml


def parse_yaml(text: str, name: str, remedy: str) -> Any:
    """Plain Python values from YAML. Numbers like 5e-5 are numbers, as in YAML 1.2, and dates are texts.

    Args:
        text: of the YAML.
        name: where it is from, for the message.
        remedy: what to do about an error, for the message.
    Raises:
        ValueError: no YAML, a key twice, a tag (`!!name`), or aliases that stand for one another. The message is one
            line.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise ValueError(f"{name}: expected YAML of fewer levels. {remedy}.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: expected YAML. {yaml_fault(error)}. {remedy}.") from None
    except ValueError as error:
        raise ValueError(f"{name}: expected YAML. It has a number that cannot be read. {remedy}.") from error


def yaml_fault(error: yaml.YAMLError) -> str:
    """What is wrong with a text that is no YAML, and where; without the line itself, which may hold a token."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "it cannot be read"
    place = "" if mark is None else f"Line {mark.line + 1}, column {mark.column + 1}: "
    return f"{place}{' '.join(problem.split())}"


def to_yaml(content: Any) -> str:
    """Plain values as YAML that `parse_yaml` reads as the same ones."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """Refuses what a recipe has no use for: tags, keys that stand twice, and merges that grow without end."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "tag", None) not in (None, "!"):
            raise yaml.composer.ComposerError(None, None, f"found the tag {event.tag!r}", event.start_mark)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.MappingNode) and isinstance(event, yaml.MappingStartEvent):
            names = Counter(
                key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"
            )
            if names and names.most_common(1)[0][1] > 1:
                told = f"found the key {names.most_common(1)[0][0]!r} twice"
                raise yaml.composer.ComposerError(None, None, told, event.start_mark)
        return node

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST_MERGED:
            raise yaml.constructor.ConstructorError(None, None, "found merges (<<) without end", node.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `_Loader` would read as numbers."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


MOST_MERGED = 10_000
DATE = "tag:yaml.org,2002:timestamp"
EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != DATE]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))
