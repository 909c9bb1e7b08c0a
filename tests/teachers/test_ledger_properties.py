"""Ledgers of any bytes: answers, or an error that names the line."""

import json
import tempfile
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from hf_distill.teachers.ledger import answer_key, open_ledger
from tests.properties import REFUSED, answer, examples

LINES = [
    json.dumps({"key": answer_key("teacher", word), "text": word, "answer": word.upper()}) for word in ("a", "ñ", "")
]
VALID = "".join(line + "\n" for line in LINES).encode()
values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.text(max_size=2))
objects = st.dictionaries(st.sampled_from(["key", "answer", "text"]), values).map(
    lambda each: json.dumps(each).encode()
)
lines = objects | st.sampled_from(
    [
        b"",
        b"\x00",
        b"[" * 3000,
        b'{"key": "a", "answer": "\\ud83d"}',
        b'{"key": ["a"], "answer": "b"}',
        b"9" * 5000,
        b"\xff",
    ]
)


@st.composite
def contents(draw):
    if draw(st.booleans()):
        return b"\n".join(draw(st.lists(lines | st.binary(max_size=9), max_size=4)))
    made = bytearray(VALID)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, max(0, len(made) - 1)))
        if draw(st.booleans()):
            del made[place:]
        elif made:
            made[place] ^= 1 << draw(st.integers(0, 7))
    return bytes(made)


def read(path):
    with open_ledger(path) as (answers, file):
        file.write(b"")
        return answers


@examples(60)
@given(content=contents())
@example(content=b'{"key": "a", "answer": null}\n')
def test_any_bytes_are_answers_or_a_line_that_is_told(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        path.write_bytes(content)
        answers = answer(read, path)
        if answers is REFUSED:
            assert path.read_bytes() == content, "a file that is no ledger was changed"
            return
        assert all(isinstance(key, str) and isinstance(text, str) for key, text in answers.items())
        assert answer(read, path) == answers


def test_a_folder_is_no_ledger(tmp_path):
    assert answer(read, tmp_path) is REFUSED
