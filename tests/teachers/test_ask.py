"""Texts are asked once, in order, and what comes back is checked; labels from answers."""

import logging

import datasets
import pytest

from hf_distill.teachers.ask import ask, teacher_labels
from tests.teachers.cases import Shouting, lines


def test_order_is_kept_and_equal_texts_are_asked_once():
    teacher = Shouting()
    texts = [f"text {number % 7}" for number in range(20)]
    assert ask(teacher, texts, batch_size=3) == [text.upper() for text in texts]
    assert teacher.asked == texts[:7] and teacher.calls == 3
    assert ask(teacher, datasets.Dataset.from_dict({"text": ["a", "b"]})["text"]) == ["A", "B"]
    assert ask(teacher, []) == []


def test_a_teacher_that_returns_fewer_texts_loses_nothing_answered(tmp_path):
    ledger, texts = tmp_path / "ledger.jsonl", [f"text {number}" for number in range(10)]
    with pytest.raises(
        ValueError, match=r"given 3 texts, from 'text 6' on, and returned 2: expected a list of one answer"
    ):
        ask(Shouting(missing={"text 7"}), texts, ledger=ledger, name="loud", batch_size=3)
    assert [entry["text"] for entry in lines(ledger)] == texts[:6]
    mended = Shouting()
    assert ask(mended, texts, ledger=ledger, name="loud") == [text.upper() for text in texts]
    assert mended.asked == texts[6:]


def test_empty_answers_are_counted(caplog):
    assert ask(lambda texts: ["" if text == "b" else " \n" for text in texts], ["a", "b", "a"]) == ["", "", ""]
    assert "3 of 3 answers are empty" in caplog.text


def test_what_cannot_be_asked(tmp_path):
    teacher = Shouting()
    with pytest.raises(ValueError, match="2 of 3 texts are blank, number 1 first"):
        ask(teacher, ["a", " ", ""])
    with pytest.raises(TypeError, match="a list of texts, got one text: 'abc'"):
        ask(teacher, "abc")
    with pytest.raises(TypeError, match="got NoneType as number 1"):
        ask(teacher, ["a", None])
    with pytest.raises(ValueError, match="Pass name="):
        ask(teacher, ["a"], ledger=tmp_path / "ledger.jsonl")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        ask(teacher, ["a"], batch_size=0)
    assert not teacher.asked
    with pytest.raises(ValueError, match="given 1 texts, from 'a' on, and returned a str"):
        ask(lambda texts: "A", ["a"])
    with pytest.raises(TypeError, match="must answer with texts, got NoneType"):
        ask(lambda texts: [None], ["a"])


def test_labels_from_answers(caplog):
    classes = ["negative", "very positive", "+"]
    answers = ["Negative", ' "Very  positive."\n', "**negative**", "+", "", "positive", "not negative", " ", "negativ"]
    labels, counts = teacher_labels(answers, classes)
    assert labels.tolist() == [0, 1, 0, 2, -100, -100, -100, -100, -100] and labels.dtype == "int64"
    assert counts == {"valid": 4, "invalid": 3, "empty": 2}
    assert "Of 9 answers 3 name none of the classes" in caplog.text and "'not negative'" in caplog.text
    caplog.clear()
    rows = datasets.Dataset.from_dict({"text": answers}).add_column("label", labels)
    assert rows["label"][:4] == [0, 1, 0, 2]
    caplog.set_level(logging.WARNING)
    assert teacher_labels(["+"], classes)[1] == {"valid": 1, "invalid": 0, "empty": 0} and not caplog.text
    assert teacher_labels([], classes)[0].tolist() == []


def test_labels_that_are_none():
    with pytest.raises(ValueError, match="names that differ in more than case and space"):
        teacher_labels(["a"], ["A", "a "])
    with pytest.raises(
        ValueError, match=r"Of 2 answers 1 name none of the classes .*; 1 are empty. That leaves no label"
    ):
        teacher_labels(["maybe", ""], ["yes", "no"])


def test_what_a_class_begins_or_ends_with_is_no_punctuation():
    labels, counts = teacher_labels(["-1.", "'-1'", "**-1**", "1", "- 1 -", "x"], ["-1", "0", "1"])
    assert labels.tolist() == [0, 0, 0, 2, -100, -100]
    labels, _ = teacher_labels(["c++.", "C.", "(c++)"], ["c", "c++"])
    assert labels.tolist() == [1, 0, 1]
    assert counts["invalid"] == 2
