"""Smaller tokenizers, which read as the teacher's does."""

import pytest
from transformers import AlbertTokenizer, AutoTokenizer, BertTokenizer, LlamaTokenizer

from hf_distill.students.token_map import teacher_pieces, words_of
from hf_distill.students.tokenizer import student_tokenizer
from tests.students.conftest import KINDS, TEXTS, WORDS, tokens_of


@pytest.mark.parametrize("kind", KINDS)
def test_student_tokenizer_is_smaller_and_otherwise_the_teachers(kind, teachers, tmp_path):
    teacher = teachers[kind]
    before = teacher.backend_tokenizer.to_str()
    student = student_tokenizer(teacher, TEXTS, 320)
    assert type(student) is type(teacher)
    assert len(student) <= 320
    assert set(student.get_vocab().values()) == set(range(len(student)))
    assert (student.model_max_length, student.padding_side, student.truncation_side) == (77, "left", "left")
    for role in student.SPECIAL_TOKENS_ATTRIBUTES:
        assert getattr(student, role) == getattr(teacher, role)
    text = "Nobody answers the phone!"
    assert words_of(student.backend_tokenizer, text) == words_of(teacher.backend_tokenizer, text)
    ids, teacher_ids = student("late", "plane").input_ids, teacher("late", "plane").input_ids
    special = [token for token in tokens_of(student, ids) if token in student.all_special_tokens]
    assert special == [token for token in tokens_of(teacher, teacher_ids) if token in teacher.all_special_tokens]
    student.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(text).input_ids == student(text).input_ids
    assert teacher.backend_tokenizer.to_str() == before


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_set_after_loading_stays_too(kind, tmp_path):
    teacher = kind().train_new_from_iterator([TEXTS], 600, show_progress=False)
    teacher.chat_template = "{% for message in messages %}{{ message['content'] + '<|end|>' }}{% endfor %}"
    teacher.add_special_tokens({"extra_special_tokens": ["<|end|>"]})
    settings = {"model_max_length": 77, "padding_side": "left", "truncation_side": "left"}
    for name, value in settings.items():
        setattr(teacher, name, value)
    student = student_tokenizer(teacher, TEXTS, 320)
    assert {name: getattr(student, name) for name in settings} == settings
    assert len(student) <= 320
    student.save_pretrained(tmp_path)
    for kept in (student, AutoTokenizer.from_pretrained(tmp_path)):
        said = kept.apply_chat_template([{"role": "user", "content": "late"}])["input_ids"]
        assert tokens_of(kept, said)[-1] == "<|end|>"


@pytest.mark.parametrize("kind", KINDS)
def test_student_tokenizer_is_the_same_every_time(kind, teachers):
    first, second = (student_tokenizer(teachers[kind], TEXTS, 330) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_frequent_words_are_one_token(teachers):
    student = student_tokenizer(teachers[BertTokenizer], TEXTS, 400)
    assert student.tokenize("never flying again") == ["never", "flying", "again"]
    assert student.tokenize("customerphone")[1].startswith("##")


def test_wordpiece_is_as_short_as_the_librarys(teachers):
    # Pairs inside one word are equally frequent, and the library breaks ties at random: tokens differ a little.
    texts = [f"{word} " * (100 + 7 * index) for index, word in enumerate(dict.fromkeys(WORDS))]
    ours = student_tokenizer(teachers[BertTokenizer], texts, 150)
    theirs = teachers[BertTokenizer].train_new_from_iterator([texts], 150, show_progress=False)
    lengths = [sum(len(tokenizer.tokenize(text)) for text in texts) for tokenizer in (ours, theirs)]
    assert lengths[0] < 1.02 * lengths[1]


@pytest.mark.parametrize("kind", [BertTokenizer, AlbertTokenizer, LlamaTokenizer])
def test_rare_characters_take_no_rows(kind, teachers):
    few = student_tokenizer(teachers[kind], [*TEXTS * 10, "\u4e00 \U000fb329 \U0001f600"], 300)
    assert not [token for token in few.get_vocab() if token[-1] >= "\u4e00"]
    assert {"a", "t"} <= {token.strip("▁#") for token in few.get_vocab()}
    many = student_tokenizer(teachers[kind], TEXTS + [chr(0x4E00 + index) for index in range(300)], 300)
    assert 0 < len([token for token in many.get_vocab() if token[-1] >= "\u4e00"]) < 100


def test_words_are_not_merged_where_the_teacher_only_marks_spaces(teachers):
    student = student_tokenizer(teachers[LlamaTokenizer], TEXTS, 300)
    assert not [token for token in student.get_vocab() if "▁" in token[1:]]


def test_texts_may_be_any_iterable(teachers):
    assert len(student_tokenizer(teachers[BertTokenizer], iter(TEXTS), 150)) == 150


@pytest.mark.parametrize("kind", KINDS)
def test_too_small_a_vocabulary_is_refused(kind, teachers):
    with pytest.raises(ValueError, match=r"Expected vocab_size above \d+ .* got 20"):
        student_tokenizer(teachers[kind], TEXTS, 20)


def test_texts_without_words_are_refused(teachers):
    for texts in ([], ["", "  "]):
        with pytest.raises(ValueError, match="Expected texts to learn a vocabulary from"):
            student_tokenizer(teachers[BertTokenizer], texts, 300)
    with pytest.raises(ValueError, match="got one string"):
        student_tokenizer(teachers[BertTokenizer], "a text", 300)


def test_slow_tokenizers_are_refused(teachers):
    from transformers import CanineTokenizer

    with pytest.raises(ValueError, match=r"Expected a fast tokenizer .* got CanineTokenizer"):
        student_tokenizer(CanineTokenizer(), TEXTS, 300)
    with pytest.raises(ValueError, match="got CanineTokenizer for the teacher"):
        teacher_pieces(teachers[BertTokenizer], CanineTokenizer())


def test_other_kinds_are_refused():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")))
    with pytest.raises(ValueError, match="WordPiece, BPE or Unigram tokenizer, got WordLevel"):
        student_tokenizer(words, TEXTS, 300)
