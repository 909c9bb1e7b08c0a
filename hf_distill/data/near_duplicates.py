"""Texts that are the same but for links, mentions, digits and case."""

import re
from collections.abc import Iterable
from typing import Any


def near_duplicates(texts: Iterable[Any], training_texts: Iterable[Any]) -> int:
    """How many texts stand among others, but for URLs, mentions, digits, punctuation and case.

    Args:
        texts: those that are counted; each a text, or the parts of one: a pair, or words.
        training_texts: likewise.

    >>> near_duplicates(["Nice, 3 stars!", "Never again."], ["nice 5 STARS", "so so"])
    1
    """
    known = {_likeness(text) for text in training_texts}
    return sum(_likeness(text) in known for text in texts)


def _likeness(text: Any) -> str:
    whole = text if isinstance(text, str) else " ".join(text)
    return near_duplicate_key(whole) or whole.lower()  # of digits alone nothing would be left


def near_duplicate_key(text: str) -> str:
    """What is left of a text without URLs, mentions, RT, digits, punctuation and case.

    >>> near_duplicate_key("RT @ann: See http://t.co/x, 3 times!") == near_duplicate_key("see 4 times")
    True
    """
    text = re.sub(r"https?:\S*|www\.\S+|@\w+|\brt\b|&\w+;", " ", text.lower())
    return " ".join(re.findall(r"[^\W\d_]+", text))
