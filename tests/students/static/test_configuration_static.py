"""The configuration of static students: saved, loaded, and refused."""

import json

import pytest
from transformers import AutoConfig

from hf_distill import StaticStudentConfig
from tests.students.static.cases import VOCAB, config


def test_round_trip(tmp_path):
    before = config(unpooled_token_ids=(3, 1, 3), num_labels=3, problem_type="single_label_classification")
    assert before.unpooled_token_ids == [1, 3]
    before.save_pretrained(tmp_path)
    after = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(after, StaticStudentConfig)
    assert {**after.to_dict(), "_name_or_path": ""} == before.to_dict()
    assert StaticStudentConfig.from_dict(json.loads(before.to_json_string())).to_dict() == before.to_dict()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be an integer of at least 1, got 0"),
        ({"embedding_size": 2.0}, "embedding_size must be"),
        ({"hidden_size": True}, "hidden_size must be an integer of at least 1, got True"),
        ({"ngram_buckets": -1}, "ngram_buckets must be an integer of at least 0"),
        ({"ngram_buckets": 2**31}, "ngram_buckets must be below 2"),
        ({"ngram_size": 1}, "ngram_size must be an integer of at least 2"),
        ({"window": -1}, "window must be"),
        ({"dropout": 1.0}, "would drop everything"),
        ({"teacher_embeddings": "layer"}, "teacher_embeddings must be one of table, layers, got 'layer'"),
        ({"pad_token_id": VOCAB}, f"pad_token_id: {VOCAB} is not a row.*from the student's tokenizer"),
        ({"unpooled_token_ids": [1, -1]}, "unpooled_token_ids: -1 is not a row"),
    ],
)
def test_errors(wrong, message):
    with pytest.raises(ValueError, match=message):
        config(**wrong)
