"""Settings from plain values: every key known, every value of its field's type and within its field's limits.

The types are the annotations of a dataclass, the limits are in the metadata of its fields: see `limited`.
"""

import dataclasses
import difflib
import enum
import math
import reprlib
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

Section = TypeVar("Section")

LIMITS = "limits"  # in a field's metadata
LONGEST = 4096  # characters of a text
DEEPEST, MOST_VALUES = 40, 100_000  # levels and values; aliases of YAML may stand for far more
NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "null",
}


@dataclass(frozen=True)
class Limits:
    """Which numbers a setting takes. NaN and infinity are none of them.

    Attributes:
        low: the smallest.
        high: the greatest; of shares that of the whole numbers.
        above: whether `low` itself is too small.
        below: whether `high` itself is too great.
        share: whether a fraction is a share, above 0 and below 1, beside whole numbers from `low` on.
        also: a number outside the limits that has a meaning of its own.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    share: bool = False
    also: float | None = None

    def hold(self, number: float) -> bool:
        """Whether a number is within them."""
        if self.share and isinstance(number, float):
            return 0 < number < 1
        if number == self.also:
            return True
        return (self.low < number if self.above else self.low <= number) and (
            number < self.high if self.below else number <= self.high
        )

    def __str__(self) -> str:
        found = []
        if self.low > -math.inf:
            found.append(f"{'above' if self.above else 'at least'} {self.low:,}")
        if self.high < math.inf:
            found.append(f"{'below' if self.below else 'at most'} {self.high:,}")
        told = " and ".join(found)
        if self.also is not None:
            told += f", or {self.also}"
        return f"{told}, or a share above 0.0 and below 1.0" if self.share else told


SEED = Limits(0, 2**32 - 1)  # what numpy takes
POSITIVE = Limits(1)


def limited(limits: Limits, default: Any = MISSING) -> Any:
    """A field of a dataclass whose numbers have limits."""
    return dataclasses.field(default=default, metadata={LIMITS: limits})


def section_from(kind: type[Section], content: Any, key: str = "") -> Section:
    """A dataclass from keys and values.

    Args:
        kind: the dataclass; its fields that are dataclasses are made likewise.
        content: keys and values.
        key: what leads to it, for the messages.
    Raises:
        ValueError: an unknown key, with the nearest known one; a key that is missing; a value of another type, or
            beyond its limits.
    """
    fields = {each.name: each for each in dataclasses.fields(typing.cast(Any, kind)) if each.init}
    hints = typing.get_type_hints(kind)
    prefix = f"{key}." if key else ""
    if not isinstance(content, Mapping):
        raise ValueError(f"{key or 'The recipe'}: expected keys and values, got {shown(content)}.")
    for name in content:
        if name not in fields:
            raise ValueError(f"The recipe has an unknown key {f'{prefix}{name}'!r}.{nearest(str(name), fields)}")
    values = {}
    for name, part in fields.items():
        required = part.default is MISSING and part.default_factory is MISSING
        if name in content:
            default = "" if required else f" Leave the key out for its default{_default(part)}."
            limits = part.metadata.get(LIMITS)
            if content[name] == "":
                raise ValueError(f"{prefix}{name}: expected a text, got an empty one.{default}")
            values[name] = checked(content[name], hints[name], f"{prefix}{name}", limits, default)
        elif required:
            raise ValueError(f"The recipe lacks the key {f'{prefix}{name}'!r}.")
    return kind(**values)


def check_values(
    content: Mapping[str, Any],
    hints: Mapping[str, Any],
    key: str,
    limits: Mapping[str, Limits] | None = None,
) -> None:
    """Check keys and values that are kept as they are.

    Args:
        content: keys and values.
        hints: the type of each known key.
        key: what leads to them, for the messages.
        limits: of numbers, by key.
    Raises:
        ValueError: an unknown key, with the nearest known one; a value of another type, or beyond its limits.
    """
    for name, value in content.items():
        if name not in hints:
            raise ValueError(f"{key}: unknown key {name!r}.{nearest(str(name), hints)}")
        checked(value, hints[name], f"{key}.{name}", (limits or {}).get(name), " Leave the key out for its default.")


def checked(value: Any, hint: Any, key: str, limits: Limits | None = None, remedy: str = "") -> Any:
    """A value of a type; whole numbers become floats where only these fit.

    Args:
        value: plain, as YAML has it.
        hint: the type. `Any` and types that plain values cannot have fit nothing but themselves.
        key: what leads to it, for the message.
        limits: of its numbers.
        remedy: the end of the message.
    Raises:
        ValueError: it is of another type, or beyond the limits.
    """
    options = _options(hint)
    if Any in options:
        _check_plain(value, key)
        return value
    for option in options:
        found = _fitted(value, option, key, limits)
        if found is not _UNFIT:
            return _limited_number(found, key, limits, remedy)
    expected = " or ".join(dict.fromkeys(filter(None, (_named(option) for option in options)))) or "nothing here"
    raise ValueError(f"{key}: expected {expected}, got {shown(value)}.{_advice(value, options)}{remedy}")


_UNFIT = object()


def _options(hint: Any) -> list[Any]:
    """The members of a union, or the type itself; int before float, so that whole numbers stay whole."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return sorted(
            (each for part in typing.get_args(hint) for each in _options(part)), key=lambda each: each is float
        )
    return [hint]


def _fitted(value: Any, option: Any, key: str, limits: Limits | None) -> Any:
    """A value as one type has it, or `_UNFIT`; raises where it is of this type and its content is not."""
    origin, arguments = typing.get_origin(option) or option, typing.get_args(option)
    if origin is Literal:
        return value if any(value == each and type(value) is type(each) for each in arguments) else _UNFIT
    if isinstance(value, Mapping) and _is_a(origin, Mapping):
        names, values = arguments or (str, Any)
        return {checked(n, names, f"{key}, a key"): checked(v, values, f"{key}.{n}", limits) for n, v in value.items()}
    if isinstance(value, list | tuple) and _is_a(origin, Sequence) and origin is not str:
        (inner, *_) = arguments or (Any,)
        return [checked(each, inner, f"{key}[{number}]", limits) for number, each in enumerate(value)]
    if dataclasses.is_dataclass(origin):
        return section_from(typing.cast(type, origin), value, key) if isinstance(value, Mapping) else _UNFIT
    if origin is float and type(value) is int:
        return float(value) if abs(value) <= sys.maxsize else value  # a greater one is refused afterwards
    textual = origin is Path or _is_a(origin, enum.Enum)
    return value if type(value) is origin or (textual and isinstance(value, str)) else _UNFIT


def _is_a(kind: Any, other: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, other)


def _limited_number(value: Any, key: str, limits: Limits | None, remedy: str) -> Any:
    """A value that is a text or a number of reasonable size, and within the limits."""
    _check_plain(value, key)
    if limits is not None and isinstance(value, int | float) and not isinstance(value, bool) and not limits.hold(value):
        raise ValueError(f"{key}: expected {limits}, got {value}.{remedy}")
    return value


def _check_plain(value: Any, key: str) -> None:
    """Raise a ValueError for values that no setting can have: NaN, infinity, numbers and texts beyond all measure."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _check_plain(inner, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            _check_plain(inner, f"{key}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key}: expected a finite number, got {value}.")
    elif isinstance(value, int) and abs(value) > sys.maxsize:
        raise ValueError(f"{key}: expected a number of at most 64 bits, got one of {value.bit_length()}.")
    elif isinstance(value, str):
        if len(value) > LONGEST:
            raise ValueError(f"{key}: expected at most {LONGEST:,} characters, got {len(value):,}.")
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{key}: expected characters of Unicode without NUL, got {value!r}.")


def check_size(content: Any) -> None:
    """Check that plain values are few, and that none contains itself, before anything goes through all of them.

    Raises:
        ValueError: more than 100,000 values or 40 levels. A short file of YAML with aliases can stand for more.
    """
    found = 0
    waiting = [(content, 0)]
    while waiting:
        value, level = waiting.pop()
        found += 1
        if found > MOST_VALUES or level > DEEPEST:
            raise ValueError(
                f"The recipe: expected at most {MOST_VALUES:,} values in {DEEPEST} levels, got more. Its aliases "
                "(*name) may stand for one another. Write the values out."
            )
        if isinstance(value, Mapping):
            waiting += [(inner, level + 1) for pair in value.items() for inner in pair]
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += [(inner, level + 1) for inner in value]


def _named(option: Any) -> str | None:
    origin, arguments = typing.get_origin(option) or option, typing.get_args(option)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if _is_a(origin, enum.Enum):
        return f"one of {', '.join(str(each.value) for each in origin)}"
    if origin is not str and _is_a(origin, Sequence):
        inner = " or ".join(filter(None, (_named(each) for each in _options(arguments[0])))) if arguments else ""
        return f"a list of {inner}" if inner and arguments[0] is not Any else "a list"
    if _is_a(origin, Mapping) or dataclasses.is_dataclass(origin):
        return "keys and values"
    return NAMES.get(str if origin is Path else origin)


def _advice(value: Any, options: Sequence[Any]) -> str:
    if isinstance(value, str) and {int, float, bool} & set(options):
        return " Write it without quotation marks, in digits."
    if str in options and isinstance(value, int | float):
        return f' In quotation marks it is a text: "{str(value).lower() if isinstance(value, bool) else value}".'
    return ""


def _default(part: dataclasses.Field) -> str:
    return "" if part.default is MISSING else f", {'null' if part.default is None else part.default}"


def shown(value: Any) -> str:
    """A value for a message, cut short."""
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 60 else f"a text of {len(value):,} characters"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return reprlib.repr(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence with the nearest known name, or with all of them.

    >>> nearest("temprature", ["temperature", "seed"])
    ' Did you mean temperature?'
    """
    close = difflib.get_close_matches(name[:100], list(known), n=1)
    return f" Did you mean {close[0]}?" if close else f" Known are {', '.join(sorted(known))}."
