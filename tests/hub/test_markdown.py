"""Names of the data are shown as they are, and are nothing but names to Markdown."""

import html
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hf_distill.hub.markdown import code, literal, one_line, table, text
from tests.properties import examples

MARKDOWN = MarkdownIt("commonmark").enable("table").enable("strikethrough")
HOSTILE = (
    "<script>alert(1)</script>",
    "</td><img src=x onerror=alert(1)>",
    "<!-- ",
    "a|b||c\\|d\\",
    "`code` ``",
    "two\nlines\r\n---\n# title",
    "---",
    "[a](javascript:alert(1)) ![b](http://x/y.png) <http://x>",
    "*bold* __bold__ ~~gone~~ $x$ &lt; &#60;",
    "\u202etxt.exe\u2066 \u200e",
    "👩‍👩‍👧 שלום \U0001f600",
    "1. one",
    "- item",
    "a\x00b\x1b[31m",
    "\ud800",
    "{{ 7 * 7 }}{% raw %}",
)
NAMES = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(max_size=40),
    st.text("<>|`*_[]()!&#;\\/-~$ \n\rabc\u202e{}%", max_size=30),
    st.lists(st.sampled_from(HOSTILE), min_size=2, max_size=3).map("".join),
)


def tokens(markdown):
    """The block and inline tokens of a text."""
    return [inner for token in MARKDOWN.parse(markdown) for inner in (token, *(token.children or ()))]


def shown(markdown):
    """The text of one paragraph as a reader sees it; raises where there is anything but text and code."""
    kinds = {"paragraph_open", "paragraph_close", "inline", "text", "code_inline", "html_inline", "text_special"}
    found = tokens(markdown)
    assert {token.type for token in found} <= kinds, markdown
    tags = [token.content for token in found if token.type == "html_inline"]
    assert tags in ([], ["<code>", "</code>"]), markdown
    return "".join(token.content for token in found if token.type in ("text", "code_inline", "text_special"))


@examples(60)
@given(NAMES)
@example("\\|")
@example("a`|`b")
def test_a_name_is_text(name):
    line = one_line(name)
    assert shown(f"on {text(name)} here") == f"on {line} here"
    assert "<" not in text(name) and "\n" not in text(name)


@examples(60)
@given(NAMES)
def test_a_name_in_code_is_itself(name):
    assert shown(f"on {code(name)} here") == f"on {one_line(name) or '(empty)'} here"
    assert not re.search(r"<(?!/?code>)[A-Za-z/!?]", code(name))


@examples(60)
@given(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from([text, code]))
def test_a_table_keeps_its_cells(names, show):
    made = table([show(name) for name in names], [[show(name) for name in names] for _ in range(2)])
    assert len(made.splitlines()) == 4
    found = [token.type for token in tokens(f"before\n\n{made}\n\nafter")]
    assert found.count("th_open") == len(names) and found.count("td_open") == 2 * len(names)
    assert found.count("table_open") == 1 and found.count("paragraph_open") == 2
    # By the rule of GitHub too, for which an escaped backslash escapes no bar.
    for row in made.splitlines():
        assert sum(bool(bar) for bar in re.findall(r"\\.|(\|)", row)) == len(names) + 1


@examples(60)
@given(NAMES)
def test_a_heading_stays_one(name):
    found = [token.type for token in tokens(f"# {text(name)}\n\nbelow\n") if token.type.endswith("_open")]
    assert found == ["heading_open", "paragraph_open"]


@examples(60)
@given(NAMES)
def test_a_literal_is_the_text_in_python(name):
    made = literal(name)
    assert eval(made) == name
    assert "\n" not in made and "<script" not in made and "\u202e" not in made


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_hidden_is_left(name):
    for made in (text(name), code(name)):
        plain = html.unescape(made)
        assert not set("\u202e\u2066\u200e\x00\x1b\ud800") & set(plain)


def test_emoji_and_words_stay_as_they_are():
    assert text("👩‍👩‍👧 שלום macro_f1 C++") == "👩‍👩‍👧 שלום macro_f1 C++"
    assert code("B-PER") == "`B-PER`"
