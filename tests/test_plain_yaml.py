"""YAML as recipes are written in."""

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.plain_yaml import parse_yaml, to_yaml


def parsed(text):
    return parse_yaml(text, "recipe.yaml", "Mend it")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5),
        ("-1E3", -1000.0),
        ("5.0e-5", 5e-5),
        ("2024-01-01", "2024-01-01"),
        ("'5e-5'", "5e-5"),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("", None),
    ],
)
def test_plain_values(text, value):
    assert parsed(text) == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1", "expected YAML. Line 1, column 6"),
        ("@x", "Line 1, column 1: found character '@' that cannot start any token"),
        ("a: 1\nb: 2\na: 3", "found the key 'a' twice"),
        ("!!python/object/apply:os.system [ls]", "found the tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("!!int abc", "found the tag"),
        ("!x y", "found the tag '!x'"),
        ("{1: {2: &a {b: 1}}, c: *d}", "found undefined alias"),
        ("[" * 500, "fewer levels"),
        ("9" * 5000, "a number that cannot be read"),
        ("a: \x00", "it cannot be read"),
        ("? [a]\n: b", "unhashable"),
    ],
)
def test_anything_else_is_refused_in_one_line(text, told):
    with pytest.raises(ValueError, match=r"^recipe\.yaml: expected YAML") as raised:
        parsed(text)
    assert told in str(raised.value) and str(raised.value).endswith("Mend it.") and "\n" not in str(raised.value)


def test_merges_do_not_grow_without_end():
    lines = ["a0: &a0 {k: 1}"]
    for number in range(1, 12):
        merged = ", ".join([f"*a{number - 1}"] * 9)
        lines.append(f"a{number}: &a{number} {{<<: [{merged}]}}")
    with pytest.raises(ValueError, match="merges"):
        parsed("\n".join(lines))


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=10)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(value=VALUES | st.from_regex(r"[-+]?[0-9]{1,3}[eE][-+]?[0-9]{1,2}", fullmatch=True))
def test_what_is_written_is_read_again(value):
    assert parsed(to_yaml(value)) == value


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40) | st.text("{}[]:,&*!|>'\"%@`-?<= \n#0e1", max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        value = parsed(text)
    except ValueError as error:
        assert "Mend it" in str(error)
    else:
        assert value is None or isinstance(value, str | int | float | bool | list | dict)


def test_infinity_is_yaml():
    assert parsed(".inf") == math.inf and yaml.safe_load(to_yaml({"a": math.inf})) == {"a": math.inf}
