"""Words keep their place, whatever a tokenizer makes of them."""

import datasets
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from hf_distill.data.tokenization import CutOff, cut_off, tokenize, words_cut_off

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##c", "##d"]


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    return BertTokenizerFast(str(tmp_path / "vocab.txt"), model_max_length=7)


def sentences(words, labels):
    return datasets.Dataset.from_dict({"words": words, "label": labels, "genre": ["news"] * len(words)})


def test_labels_stand_at_first_pieces(tokenizer):
    rows = tokenize(sentences([["acd", "b"], ["b"]], [[4, 5], [-100]]), tokenizer)
    assert rows.column_names == ["input_ids", "token_type_ids", "attention_mask", "word_starts", "labels"]
    assert rows["input_ids"][:] == [[2, 5, 7, 8, 6, 3], [2, 6, 3]]
    assert rows["word_starts"][:] == [[-100, 1, 0, 0, 1, -100], [-100, 1, -100]]
    assert rows["labels"][:] == [[-100, 4, -100, -100, 5, -100], [-100] * 3]


def test_a_word_that_a_tokenizer_swallows_keeps_its_place(tokenizer):
    rows = tokenize(sentences([["a", "\u200b", "b"]], [[1, 2, 3]]), tokenizer)
    assert rows["input_ids"][:] == [[2, 5, 1, 6, 3]]
    assert rows["labels"][:] == [[-100, 1, 2, 3, -100]]


def test_words_beyond_the_limit_are_counted(tokenizer):
    dataset = sentences([["a"] * 9, ["b"]], [[0] * 9, [1]])
    rows = tokenize(dataset, tokenizer, max_length=50, teacher_tokenizer=tokenizer, teacher_max_length=4)
    assert [len(ids) for ids in rows["input_ids"]] == [7, 3]
    assert words_cut_off(dataset, rows["word_starts"]) == 4
    assert words_cut_off(dataset, rows["teacher_word_starts"]) == 7


def test_tokenizers_that_cannot_read_words(tokenizer):
    rows = sentences([["\u200b"]], [[0]])
    backend = Tokenizer(BPE({"a": 0}, []))
    with pytest.raises(ValueError, match=r"makes no token of the words .* and has no unknown token"):
        tokenize(rows, PreTrainedTokenizerFast(tokenizer_object=backend))
    tokenizer.truncation_side = "left"
    with pytest.raises(ValueError, match="cuts sentences on the left"):
        tokenize(rows, tokenizer)


def test_words_and_entities_that_are_cut_off_are_counted_from_the_data(tokenizer):
    pytest.importorskip("seqeval")
    classes = ["O", "B-A", "I-A"]
    words, tags = [["a"] * 9, ["b", "b"]], [[1, 2, 0, 1, 2, 2, -100, 1, 0], [1, 0]]
    dataset = sentences(words, tags)
    # Both readings are as short: what is lost is more than the difference of the two.
    rows = tokenize(dataset, tokenizer, max_length=6, teacher_tokenizer=tokenizer, teacher_max_length=6)
    for name in ("word_starts", "teacher_word_starts"):
        lost = cut_off(dataset, rows[name], classes)
        assert lost == CutOff(words=11, words_lost=5, labelled_lost=4, entities=4, entities_lost=2)
    assert cut_off(dataset, rows["word_starts"]) == CutOff(11, 5, 4)
    assert cut_off(dataset.remove_columns("label"), rows["word_starts"], classes) == CutOff(11, 5)
    assert cut_off(dataset, tokenize(dataset, tokenizer)["word_starts"], ["X", "Y", "Z"]).words_lost == 4
