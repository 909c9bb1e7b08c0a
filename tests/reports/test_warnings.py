"""Planted faults are told. (`test_classification.py` has those that need whole comparisons.)"""

import pytest

from hf_distill.data.near_duplicates import near_duplicates
from hf_distill.reports.report import Report
from hf_distill.reports.warnings import leak, report_warnings

TRAINING = ["RT @ann: See http://t.co/x, 3 times!", "A quiet evening.", "12345", ("One", "sentence", ".")]


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("see 4 times", True),
        ("a QUIET evening", True),
        ("a quiet morning", False),
        ("12345", True),
        ("67890", False),  # digits are left out of other texts, but not of one that has nothing else
        (["one", "sentence"], True),
        (["two", "sentences"], False),
        ("", False),
    ],
)
def test_texts_are_known_but_for_their_trimmings(text, known):
    assert near_duplicates([text], TRAINING) == known


def test_a_leak_is_counted():
    texts = ["see 4 times", "a quiet evening", *(f"text {letter}" for letter in "abcdef")]
    assert leak(texts, TRAINING).startswith("Of 8 test texts 2 (25.0%) stand in the training texts too")
    assert leak(texts[2:], TRAINING) is None
    assert leak([], TRAINING) is None


@pytest.mark.parametrize(
    ("metric", "value", "floor", "told"),
    [
        ("accuracy", 0.8, 0.9, "below its floor of 0.9"),
        ("accuracy", 0.9, 0.9, None),
        ("bits_per_byte", 1.2, 1.0, "above its floor of 1"),
        ("bits_per_byte", 0.8, 1.0, None),
        ("bits_per_byte", 1.2, None, None),
    ],
)
def test_a_teacher_that_misses_its_floor_is_told_whichever_way_is_better(metric, value, floor, told):
    models = {name: {"quality": {metric: {"value": value}}, "parameters": 1} for name in ("teacher", "student")}
    ratios = {"smaller": 2.0, "faster": 2.0}
    report = Report(task="text-generation", metrics=[metric], examples=500, models=models, ratios=ratios)
    found = [text for text in report_warnings(report, floor) if "floor" in text]
    assert len(found) == (told is not None) and all(told in text for text in found)


@pytest.mark.parametrize(
    ("teacher", "student", "told"), [(30, 0, True), (30, 10, True), (10, 30, False), (0, 0, False)]
)
def test_a_teacher_that_reads_less_than_its_student_is_told(teacher, student, told):
    """Its unread words are scored as wrong, which no warning said where the student read all."""
    quality = {"quality": {"accuracy": {"value": 0.8}}}
    words = {"words": 480, "cut_off_teacher": teacher, "cut_off_student": student, "scored": 480, "lost_words": student}
    report = Report(
        task="token-classification",
        metrics=["accuracy"],
        examples=200,
        models={"teacher": quality, "student": quality},
        words=words,
    )
    found = [text for text in report_warnings(report) if f"the teacher did not read {teacher}" in text]
    assert bool(found) == told
