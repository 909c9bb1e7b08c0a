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
    "name",
    [
        "ประวิทย์",
        "กิ๊ฟ_9",
        "สุข",
        "स्नेहा_92",
        "ខ្មែរ",
        "ສຸກສະຫວັນ",
        "தமிழ்",
        "നിഖിൽ",
        "নীল",
        "တင်မောင်",
        "བསྟན",
        "أَحْمَد",
        "דָּוִד",
        "Jose\u0301",
    ],
)
def test_marks_belong_to_the_names_of_users(name):
    for text in ("@{} hello สวัสดี", "@{}: hello สวัสดี", "RT @{} hello สวัสดี"):
        assert near_duplicate_key(text.format(name)) == "hello สวัสดี"


def test_a_name_ends_where_a_script_without_spaces_begins():
    assert near_duplicate_key("@annสวัสดี @annी") == "สวัสดี"
    assert near_duplicate_key("@ann太好了") == "太好了"
    assert near_duplicate_key("@ข้อความที่ยาวเกินกว่าจะเป็นชื่อของผู้ใช้คนใดคนหนึ่ง ดี") != "ดี"


def test_keys_of_ascii_are_what_they_were():
    text = "RT @Ann_9: See www.t.co/x, HTTP://t.co/y &amp; @bob's 3 Do_Not-s @ 2nd! rt_ a@b.c"
    assert near_duplicate_key(text) == "see s do not s nd rt a c"


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
