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
# Vowel signs and other marks that combine with a letter belong to the word or name that it stands in.
WORD = r"[^\W\d_](?:[^\W\d_]|{marks})*"
SPACED = rf"[^\W{SPACELESS}]"  # a letter, digit or _ of a script with spaces
NAME = rf"{SPACED}(?:{SPACED}|(?![{SPACELESS}]){{marks}})*|(?:\w|{{marks}}){{{{1,30}}}}(?=[\s:\uff1a])"
LEFT_OUT = rf"https?:{LINK}*|www\.{LINK}+|@(?:{{name}})|\brt\b|&\w+;"


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
    left_out, word = _patterns(text.isascii())
    return " ".join(word.findall(left_out.sub(" ", text.lower())))


@cache
def _patterns(is_ascii: bool) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What is left out, and a word; texts of ASCII alone have no mark, and are read faster without."""
    if is_ascii:
        marks = r"[^\s\S]"  # no character
    else:
        points = [point for point in range(0x300, 0x20000) if unicodedata.category(chr(point)).startswith("M")]
        runs = [[point for _, point in run] for _, run in groupby(enumerate(points), lambda pair: pair[1] - pair[0])]
        marks = f"[{''.join(f'{chr(run[0])}-{chr(run[-1])}' for run in runs)}]"
    name = NAME.format(marks=marks)
    return re.compile(LEFT_OUT.format(name=name)), re.compile(WORD.format(marks=marks))
