"""Scripts that write no space between words."""

import re
from collections.abc import Iterable

# Thai and Lao, Tibetan, Myanmar, Khmer, Kana, Han.
SPACELESS = r"\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
SPACELESS += r"\uff66-\uff9f\U00020000-\U0003ffff"
LETTER = re.compile(r"[^\W\d_]")
LETTER_OF_SPACELESS = re.compile(rf"[{SPACELESS}]")
SHARE = 0.2


def is_spaceless(texts: Iterable[str]) -> bool:
    """Whether texts are written in a script without spaces between words, at least a fifth of their letters.

    >>> is_spaceless(["a nice day"]), is_spaceless(["\u4eca\u5929\u5929\u6c14\u5f88\u597d"])
    (False, True)
    """
    letters = spaceless = 0
    for text in texts:
        if text.isascii():
            letters += sum(map(str.isalpha, text))
        else:
            letters += len(LETTER.findall(text))
            spaceless += len(LETTER_OF_SPACELESS.findall(text))
    return spaceless > 0 and spaceless >= SHARE * letters
