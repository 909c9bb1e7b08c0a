"""Names of tokens: those of servers are compared with a tokenizer's, whatever way they are written."""

import pytest

from hf_distill.teachers.token_texts import TokenTexts
from tests.teachers.serving import characters


@pytest.fixture(scope="module")
def texts():
    return TokenTexts(characters())


def test_tokens_are_found_by_their_texts_and_ids(texts):
    (token,) = texts.ids("x")
    assert texts.text(token) == "x" and texts.ids(f"token_id:{token}") == [token]
    assert len(texts.ids("\ufffd")) == 128 and texts.ids("xy") == texts.ids("token_id:9999") == []


def test_spaces_and_parts_of_characters_make_no_difference(texts):
    space, x, part = texts.ids(" ")[0], texts.ids("x")[0], texts.ids("\ufffd")[0]
    same = [(space, " "), (space, "Ġ"), (space, "▁"), (x, "x"), (x, "▁x"), (x, None), (x, "token_id:5"), (part, "é")]
    assert all(texts.difference(*each) is None for each in same)
    assert "is 'y', and the tokenizer's is 'x'" in texts.difference(x, "y")
    assert "the token 9999, and the tokenizer has 258" in texts.difference(9999, None)
