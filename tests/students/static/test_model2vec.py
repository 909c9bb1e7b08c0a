"""The table of a static student as a folder of model2vec."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from hf_distill import LSTMStudentConfig, LSTMStudentModel, StaticStudentForSequenceClassification, save_model2vec
from tests.students.lstm.test_modeling_lstm import tiny_tokenizer
from tests.students.static.cases import VOCAB, built

TEXTS = ["good film", "bad word3 film film", "unheard", "good unheard film word30 word7", ""]
PLAIN = {"ngram_buckets": 0, "unpooled_token_ids": [1, 5, 6]}


def tokenizer():
    """Adds word0 and word1 to every text, as others add [CLS] and [SEP]; pads and cuts texts as it was last used."""
    made = tiny_tokenizer()
    frame = [("word0", 5), ("word1", 6)]
    made.backend_tokenizer.post_processor = TemplateProcessing(single="word0 $A word1", special_tokens=frame)
    made(TEXTS, padding=True, truncation=True, max_length=4)
    return made


def vectors_of_the_student(student):
    encoded = tokenizer()(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        return student.base_model(**encoded).pooler_output.numpy()


def read_as_documented(folder):
    """Means of the rows of `embeddings`, without special and unknown tokens."""
    rows = load_file(folder / "model.safetensors")["embeddings"].numpy()
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    unknown = backend.token_to_id("[UNK]")
    found = []
    for encoding in backend.encode_batch(TEXTS, add_special_tokens=False):
        ids = [index for index in encoding.ids if index != unknown]
        found.append(rows[ids].mean(0) if ids else np.zeros(rows.shape[1]))
    return np.array(found)


def test_the_folder_has_equal_vectors(tmp_path):
    student = built(StaticStudentForSequenceClassification, **PLAIN, vocab_size=VOCAB + 8)  # rows without a token
    save_model2vec(student, tokenizer(), tmp_path / "folder")
    np.testing.assert_allclose(read_as_documented(tmp_path / "folder"), vectors_of_the_student(student), atol=1e-6)
    settings = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert settings["normalize"] is False and settings["max_length"] is None and settings["hidden_dim"] == 12


@pytest.mark.skipif(
    not importlib.util.find_spec("model2vec"), reason="model2vec is not installed: pip install model2vec"
)
def test_model2vec_reads_equal_vectors(tmp_path):
    from model2vec import StaticModel

    student = built(StaticStudentForSequenceClassification, **PLAIN)
    save_model2vec(student, tokenizer(), tmp_path)
    found = StaticModel.from_pretrained(tmp_path).encode(TEXTS)
    np.testing.assert_allclose(found, vectors_of_the_student(student), atol=1e-6)


def test_a_tokenizer_that_was_loaded_again(tmp_path):
    tokenizer().save_pretrained(tmp_path / "student")
    student = built(StaticStudentForSequenceClassification, **PLAIN)
    save_model2vec(student, AutoTokenizer.from_pretrained(tmp_path / "student"), tmp_path / "folder")
    np.testing.assert_allclose(read_as_documented(tmp_path / "folder"), vectors_of_the_student(student), atol=1e-6)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (lambda: LSTMStudentModel(LSTMStudentConfig(vocab_size=VOCAB)), "Expected a static student, got LSTMStudent"),
        (lambda: built(StaticStudentForSequenceClassification), "30 buckets of n-grams.*Train a student with ngram"),
        (
            lambda: built(StaticStudentForSequenceClassification, ngram_buckets=0),
            r"leaves the tokens \[1, 5, 6\] out.*student \[1, 2\].*unpooled_token_ids=\[1, 5, 6\]",
        ),
        (
            lambda: built(StaticStudentForSequenceClassification, **PLAIN, vocab_size=VOCAB - 1),
            f"ids 0 to at most {VOCAB - 2}, each once, got {VOCAB} tokens with ids up to {VOCAB - 1}",
        ),
    ],
)
def test_what_would_give_other_vectors_is_refused(student, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_model2vec(student(), tokenizer(), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
