"""Planted faults are told. (`test_classification.py` has those that need whole comparisons.)"""

import pytest

from hf_distill.data.near_duplicates import near_duplicates
from hf_distill.reports.warnings import leak

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
