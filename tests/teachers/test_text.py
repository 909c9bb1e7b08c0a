"""A text teacher of one's own."""

import pytest

from hf_distill.teachers.ask import ask
from hf_distill.teachers.text import TextTeacher
from tests.teachers.cases import lines


class Own(TextTeacher):
    """A teacher of somebody's own."""

    name = "own"

    def __init__(self, pairs):
        self.pairs = pairs

    def answers(self, texts):
        yield from self.pairs


def test_a_teacher_of_ones_own_answers_every_text_once(tmp_path):
    assert ask(Own([(1, " TWO "), (0, "ONE")]), ["one", "two"]) == ["ONE", "TWO"]
    assert Own([(1, "TWO"), (0, "ONE")])(["one", "two"]) == ["ONE", "TWO"]
    few = Own([(1, "TWO")])
    message = "Own was given 3 texts and left 2 without an answer, number 0 first: 'one'"
    ledger = tmp_path / "ledger.jsonl"
    with pytest.raises(ValueError, match=message):
        ask(few, ["one", "two", "three"], ledger=ledger)
    assert [entry["answer"] for entry in lines(ledger)] == ["TWO"]
    with pytest.raises(ValueError, match=message):
        few(["one", "two", "three"])
    for pairs in ([(2, "THREE")], [(-1, "TWO")], [("one", "ONE")]):
        with pytest.raises(ValueError, match=f"Own was given 2 texts and answered number {pairs[0][0]!r}: its answers"):
            ask(Own(pairs), ["one", "two"])
    with pytest.raises(TypeError, match="must answer with texts, got NoneType: None"):
        ask(Own([(0, None)]), ["one"])
