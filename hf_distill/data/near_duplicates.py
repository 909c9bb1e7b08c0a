"""Texts that are the same but for links, mentions, digits and case."""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from itertools import groupby
from typing import Any

from hf_distill.data.scripts import SPACELESS

# A link ends at a space, and at a letter of the scripts from Hebrew and Arabic on to Han and Hangul, and at emoji.
LINK = r"[^\s\u0590-\u1dff\u2c00-\U0010ffff]"
MENTION = rf"@(?:[^\W{SPACELESS}]+|\w{{1,30}}(?=[\s:\uff1a]))"
LEFT_OUT = re.compile(rf"https?:{LINK}*|www\.{LINK}+|{MENTION}|\brt\b|&\w+;")
WORD = re.compile(r"[^\W\d_]+")


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

    A link ends at its last character that may stand in one: text in a script without spaces may follow directly. Vowel
    signs and other marks that combine with a letter belong to its word.

    >>> near_duplicate_key("RT @ann: See http://t.co/x, 3 times!") == near_duplicate_key("see 4 times")
    True
    >>> near_duplicate_key("http://t.cn/a0\u592a\u70c2\u4e86")
    '\u592a\u70c2\u4e86'
    """
    text = re.sub(LEFT_OUT, " ", text.lower())
    return " ".join((WORD if text.isascii() else _word_with_marks()).findall(text))


@cache
def _word_with_marks() -> re.Pattern[str]:
    """A letter with what follows of letters and combining marks."""
    points = [point for point in range(0x300, 0x20000) if unicodedata.category(chr(point)).startswith("M")]
    runs = [[point for _, point in run] for _, run in groupby(enumerate(points), lambda pair: pair[1] - pair[0])]
    marks = "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in runs)
    return re.compile(rf"[^\W\d_](?:[^\W\d_]|[{marks}])*")
