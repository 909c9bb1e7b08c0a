"""Keys of near-duplicates in many scripts."""

import pytest

from hf_distill.data.near_duplicates import near_duplicate_key
from hf_distill.data.scripts import is_spaceless


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("转发http://t.cn/a0太烂了", "转发 太烂了"),
        ("www.t.cn/a0太烂了, 3次", "太烂了 次"),
        ("https://t.co/ab?c=d#e。好", "好"),
        ("http://de.wikipedia.org/wiki/Käse gut", "gut"),
        ("@ann太好了 @Käthe gut", "太好了 gut"),
        ("@小明 太好了", "太好了"),
        ("RT @ann: See http://t.co/x, 3 times!", "see times"),
        ("see http://t.co/xÕ¢_\x8aÎ\x81ë here", "see here"),
        ("مرحباhttp://t.co/xمرحبا", "مرحبا مرحبا"),
        ("ราคาhttp://t.co/x1ถูก", "ราคา ถูก"),
    ],
)
def test_links_and_mentions_end_where_their_characters_end(text, key):
    assert near_duplicate_key(text) == key


@pytest.mark.parametrize(
    ("one", "other"), [("कि", "का"), ("की ओर", "के ओर"), ("มา", "มี"), ("কি", "কা"), ("பொ", "பா"), ("cafe", "cafe\u0301")]
)
def test_vowel_signs_tell_words_apart(one, other):
    assert near_duplicate_key(one) != near_duplicate_key(other)


def test_marks_belong_to_their_word_and_to_no_symbol():
    assert near_duplicate_key("हिन्दी में लिखो!") == "हिन्दी में लिखो"
    assert near_duplicate_key("great \u2764\ufe0f") == near_duplicate_key("great")


@pytest.mark.parametrize(
    ("texts", "spaceless"),
    [
        (["a nice day", "日"], False),
        (["今天天气很好 ok"], True),
        (["とても良い"], True),
        (["สวัสดี"], True),
        (["좋은 날"], False),
        (["हिन्दी में"], False),
        (["добрый день"], False),
        (["123"], False),
        ([], False),
    ],
)
def test_scripts_without_spaces(texts, spaceless):
    assert is_spaceless(texts) == spaceless
