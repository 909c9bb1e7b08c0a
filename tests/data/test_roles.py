"""Which column is what: known by names and values, or refused."""

import re

import datasets
import pytest

from hf_distill.data.roles import Roles, find_roles

SENTENCES = [f"a {one} and {other} day" for one in ("fine", "bad", "long") for other in ("dry", "wet", "hot", "mild")]
NAMES = [f"key-{number}" for number in range(12)]


def roles(columns, **given):
    return find_roles(datasets.Dataset.from_dict(columns), **given)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"text": SENTENCES, "label": ["a", "b"] * 6}, {"text": ("text",), "label": "label"}),
        ({"id": NAMES, "Review": SENTENCES, "Stars": list("123123123123")}, {"text": ("Review",), "label": "Stars"}),
        ({"said": SENTENCES, "kind": ["a", "b"] * 6}, {"text": ("said",), "label": "kind"}),
        ({"said": SENTENCES, "kind": ["a", None, "b", ""] * 3}, {"text": ("said",), "label": "kind"}),
        ({"text": SENTENCES, "score": [f"{0.1 * number:.2f}" for number in range(12)]}, {"regression": True}),
        ({"text": SENTENCES * 3, "score": list(range(36))}, {"regression": True}),
        ({"text": SENTENCES, "score": list(range(12))}, {"regression": False}),
        ({"text": SENTENCES, "label": [0, 1, -1] * 4}, {"missing": ("-1",)}),
        ({"text": SENTENCES, "label": [1, 1, -1] * 4}, {"missing": ()}),
        ({"text": SENTENCES, "label": ["a", "b", "a|b"] * 4}, {"separator": "|"}),
        ({"text": SENTENCES, "label": [["a"], ["a", "b"]] * 6}, {"separator": None, "text": ("text",)}),
        (
            {"label": ["a", "b"] * 6, "premise": SENTENCES, "hypothesis": SENTENCES},
            {"text": ("premise", "hypothesis"), "label": "label"},
        ),
    ],
)
def test_texts_with_labels(columns, found):
    made = roles(columns)
    assert made.task == "text-classification"
    assert {name: getattr(made, name) for name in found} == found


def test_other_tasks():
    words = [text.split() for text in SENTENCES]
    tags = [["O"] * 5] * 11 + [["B"] * 5]
    assert roles({"id": NAMES, "ner": tags, "tokens": words}) == Roles("token-classification", ("tokens",), "ner")
    numbers = [[0, 1, 0, 0, 2]] * 12
    assert roles({"tokens": words, "ner_tags": numbers}) == Roles("token-classification", ("tokens",), "ner_tags")
    assert roles({"en": SENTENCES, "es": SENTENCES}) == Roles("translation", ("en",), "es")
    assert roles({"target": SENTENCES, "source": SENTENCES}) == Roles("translation", ("source",), "target")
    talk = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]] * 3
    assert roles({"id": NAMES[:3], "talk": talk}) == Roles("text-generation", ("talk",), None)
    assert roles({"line": SENTENCES}) == Roles("text-generation", ("line",), None)


def test_what_is_given_wins():
    columns = {"text": SENTENCES, "title": SENTENCES, "label": ["a", "b"] * 6, "topic": ["c", "d"] * 6}
    assert roles(columns, label="topic", text=["title"]) == Roles("text-classification", ("title",), "topic")
    assert roles(columns, text=["text", "title"]) == Roles("text-classification", ("text", "title"), "label")
    given = roles({"a": SENTENCES, "b": SENTENCES}, task="translation", text=["b"], label="a")
    assert given == Roles("translation", ("b",), "a")


@pytest.mark.parametrize(
    ("columns", "given", "told"),
    [
        ({"a": list("123456"), "b": list("abcdef")}, {}, "No column looks like a label. There are a ('1'), b ('a')"),
        (
            {"text": SENTENCES, "kind": ["a", "b"] * 6, "way": ["c", "d"] * 6},
            {},
            "Several columns could be the label: kind, way. Name them: --text COLUMN",
        ),
        (
            {"one": SENTENCES, "two": SENTENCES, "label": ["a", "b"] * 6},
            {},
            "Several columns could be the text: one, two",
        ),
        ({"id": NAMES, "label": ["a", "b"] * 6}, {}, "No column looks like a text"),
        ({"text": SENTENCES}, {"label": "stars"}, "There is no column 'stars', the data has text."),
        ({"one": SENTENCES, "two": SENTENCES}, {"task": "translation"}, "Which columns are the text and its translat"),
    ],
)
def test_what_could_be_several_things_is_refused(columns, given, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        roles(columns, **given)
