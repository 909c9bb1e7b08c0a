"""The configuration of LSTM students: saved, loaded, and refused."""

import json

import pytest
from transformers import AutoConfig

from hf_distill import LSTMStudentConfig
from tests.students.lstm.cases import VOCAB, config


class TestConfig:
    def test_round_trip(self, tmp_path):
        before = config(pooling=("mean", "last"), num_labels=3, problem_type="single_label_classification")
        before.save_pretrained(tmp_path)
        after = AutoConfig.from_pretrained(tmp_path)
        assert isinstance(after, LSTMStudentConfig)
        assert {**after.to_dict(), "_name_or_path": ""} == before.to_dict()
        assert LSTMStudentConfig.from_dict(json.loads(before.to_json_string())).to_dict() == before.to_dict()
        assert json.loads(before.to_json_string(use_diff=False))["pooling"] == before.pooling
        assert after.num_hidden_layers == after.num_layers == 2

    @pytest.mark.parametrize(
        "wrong, message",
        [
            ({"vocab_size": 0}, "vocab_size must be a positive integer, got 0"),
            ({"embedding_size": -1}, "embedding_size must be"),
            ({"hidden_size": 12.5}, "hidden_size must be"),
            ({"num_layers": 0}, "num_layers must be"),
            ({"dropout": 1.0}, "would drop everything"),
            ({"dropout": -0.1}, "dropout is a probability"),
            ({"pooling": ("first",)}, r"pooling must list one or more of last, max, mean, got \('first',\)"),
            ({"pooling": "max"}, "pooling must list"),
            ({"pooling": ()}, "pooling must list"),
            ({"pad_token_id": VOCAB}, "Take both from the student's tokenizer"),
        ],
    )
    def test_errors(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            config(**wrong)
