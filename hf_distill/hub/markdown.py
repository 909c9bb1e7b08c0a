"""Markdown of what others wrote: names of classes, columns, data sets and files, and texts, shown as they are."""

import html
import json
import re
import unicodedata
from collections.abc import Sequence

from hf_distill.redaction import redacted, without_folders

# What begins a tag, a link, emphasis, code, a table cell, an entity or a formula, wherever it stands in a line.
MARKS = re.compile(r"[\\`*\[\]<>&|~$]|(?<![^\W_])_|_(?![^\W_])")
TAG = re.compile(r"<(?=[A-Za-z/!?])")  # what may begin a tag, within code
LINE_START = re.compile(r"^(?:[#=+-]+(?=\s|$)|\d+(?=[.)](?:\s|$)))")
# Characters that change the direction of what follows, or separate lines where no reader sees it.
HIDDEN = ("Cc", "Cs", "Zl", "Zp")  # categories of Unicode
DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def one_line(name: object) -> str:
    r"""A name on one line, private parts left out, and control and direction characters written as escapes.

    >>> one_line("two\nlines"), one_line("\u202etxt.exe")
    ('two lines', '\\u202etxt.exe')
    """
    return visible(" ".join(without_folders(redacted(str(name))).split()))


def visible(text: str) -> str:
    """A text with escapes for signs that are not seen, and for halves of signs, which no file can hold."""
    if text.isascii() and text.isprintable():
        return text
    hidden = {sign for sign in set(text) if sign in DIRECTIONS or unicodedata.category(sign) in HIDDEN}
    return "".join(f"\\u{ord(sign):04x}" if sign in hidden else sign for sign in text) if hidden else text


def text(name: object) -> str:
    r"""A name within a sentence, a heading or a table.

    >>> print(text("<b>*a* | b</b>"), text("macro_f1"), text("# 1"))
    &lt;b&gt;\*a\* \| b&lt;/b&gt; macro_f1 \# 1
    """
    escaped = MARKS.sub(_mark, one_line(name))
    return LINE_START.sub(lambda found: f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}", escaped)


def _mark(found: re.Match[str]) -> str:
    return html.escape(found[0]) if found[0] in "<>&" else f"\\{found[0]}"


def code(name: object) -> str:
    """A name as it is in a font of its own, whatever Markdown would make of it.

    >>> print(code("*"), code("``"), code("<b>"))
    `*` ``` `` ``` <code>&#60;b&#62;</code>
    """
    line = one_line(name) or "(empty)"
    if TAG.search(line) or "&" in line or "\\|" in line:
        return f"<code>{''.join(sign if sign.isalnum() or sign == ' ' else f'&#{ord(sign)};' for sign in line)}</code>"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A table in Markdown, a row a line; its cells are Markdown already.

    >>> print(table(["tag", "word"], [["NN", "a|b"]]))
    | tag | word |
    | --- | --- |
    | NN | a\|b |
    """
    lines = [[*map(_cell, header)], ["---"] * len(header), *(map(_cell, row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(content: str) -> str:
    return re.sub(r"(?<!\\)((?:\\\\)*)\|", r"\1\\|", " ".join(content.split()))


def command(words: str) -> str:
    """A command of a shell on one line of a block of code, with nothing in it that could end the block or begin a tag.

    >>> print(command("hf-distill run <a>"))
    hf-distill run "<"a>
    """
    return TAG.sub('"<"', one_line(words)).lstrip("`~ ")


def literal(content: str) -> str:
    r"""A text in JSON, which is also one of Python, with nothing in it that could be taken for a tag.

    >>> print(literal('<b>"it"'))
    "\u003cb>\"it\""
    """
    return TAG.sub(r"\\u003c", visible(json.dumps(content, ensure_ascii=False)))
