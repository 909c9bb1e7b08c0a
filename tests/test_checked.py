"""Settings from plain values: types, limits and what is told of others."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.checked import Limits, check_size, checked, limited, nearest, section_from


@dataclass
class Inner:
    path: str
    share: float = limited(Limits(0.0, 1.0), 0.5)


@dataclass
class Outer:
    inner: Inner
    kind: Literal["lstm", "static"] = "lstm"
    rows: str | int | float = limited(Limits(1, share=True), "test")
    steps: int = limited(Limits(1, 100, also=-1), -1)
    names: list[str | int] | None = None
    free: dict[str, Any] = field(default_factory=dict)
    on: bool = False


def test_values_of_their_types_become_a_dataclass():
    made = section_from(Outer, {"inner": {"path": "a", "share": 1}, "names": ["x", 2], "rows": 0.25, "steps": 5})
    assert made == Outer(Inner("a", 1.0), "lstm", 0.25, 5, ["x", 2])
    assert type(made.inner.share) is float and type(made.steps) is int


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"inner": None}, "inner: expected keys and values, got null"),
        ({"inner": {"path": 3}}, r'inner\.path: expected a text, got 3\. In quotation marks it is a text: "3"'),
        ({"inner": {"path": ""}}, r"inner\.path: expected a text, got an empty one"),
        ({"inner": {"path": "a\0"}}, r"inner\.path: expected characters of Unicode without NUL"),
        ({"inner": {"path": "\ud800"}}, r"inner\.path: expected characters of Unicode"),
        ({"inner": {"path": "a" * 5000}}, r"inner\.path: expected at most 4,096 characters, got 5,000"),
        ({"inner": {}}, r"lacks the key 'inner\.path'"),
        ({"inner": {"path": "a", "pth": "b"}}, r"unknown key 'inner\.pth'\. Did you mean path\?"),
        ({"inner": {"path": "a", 3: "b"}}, r"unknown key 'inner\.3'"),
        ({"kind": "gru"}, "kind: expected one of lstm, static, got the text 'gru'. Leave the key out for its default"),
        ({"rows": 0}, "rows: expected at least 1, or a share above 0.0 and below 1.0, got 0"),
        ({"rows": 1.5}, "rows: expected at least 1, or a share .* got 1.5"),
        ({"rows": True}, "rows: expected a text or a whole number or a number, got true"),
        ({"rows": math.nan}, "rows: expected a finite number, got nan"),
        ({"steps": 0}, "steps: expected at least 1 and at most 100, or -1, got 0"),
        ({"steps": None}, "steps: expected a whole number, got null. Leave the key out for its default, -1"),
        ({"steps": "5"}, "steps: expected a whole number, got the text '5'. Write it without quotation marks"),
        ({"steps": 2**70}, "steps: expected a number of at most 64 bits, got one of 71"),
        ({"names": "x"}, "names: expected a list of a text or a whole number or null, got the text 'x'"),
        ({"names": ["x", None]}, r"names\[1\]: expected a text or a whole number, got null"),
        ({"free": {"a": [1, {"b": math.inf}]}}, r"free\.a\[1\]\.b: expected a finite number, got inf"),
        ({"free": {1: 2}}, "free, a key: expected a text, got 1"),
        ({"on": 1}, "on: expected true or false, got 1"),
    ],
)
def test_other_values_are_refused_with_their_key(changes, told):
    with pytest.raises(ValueError, match=told):
        section_from(Outer, {"inner": {"path": "a"}, **changes})


def test_values_that_contain_themselves_are_refused():
    endless: list[Any] = []
    endless.append(endless)
    wide: Any = 1
    for _ in range(9):
        wide = [wide] * 9
    for content in (endless, {"a": endless}, wide):
        with pytest.raises(ValueError, match="aliases"):
            check_size(content)
    check_size({"a": [1] * 1000})


def test_the_nearest_known_name():
    assert nearest("x" * 100_000, ["seed"]) == " Known are seed."


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "hint",
    [int, float, str, bool, list[int], dict[str, float], int | None, Literal["a", 1], Inner, Inner | None, Any],
)
@settings(max_examples=30, deadline=None)
@given(value=PLAIN)
def test_a_value_fits_or_is_refused(hint, value):
    try:
        found = checked(value, hint, "key", Limits(0, 10))
    except ValueError as error:
        assert str(error).startswith(("key", "The recipe"))
    else:
        assert found == value or isinstance(found, Inner)
