"""Counts of operations against closed forms."""

import pytest
import torch
from datasets import Dataset
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from transformers import BertConfig, BertForSequenceClassification

from hf_distill import LSTMStudentConfig, LSTMStudentForSequenceClassification
from hf_distill.evaluation.cost import count_flops
from hf_distill.evaluation.predictor import Predictor
from hf_distill.evaluation.speed import mean_flops
from hf_distill.teachers.ensemble import TeacherEnsemble


def called(model):
    return lambda inputs: model(**inputs)


def bert_flops(length, layers=2, size=16, inner=48, classes=3):
    a_layer = 4 * size * size * length + 2 * length * length * size + 2 * size * inner * length
    return 2 * (layers * a_layer + size * size + size * classes)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_transformer(attention):
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = BertForSequenceClassification(BertConfig(vocab_size=30, num_labels=3, **shape)).eval()
    model.set_attn_implementation(attention)
    for length in (1, 7, 12):
        ids = torch.ones(1, length, dtype=torch.long)
        assert count_flops(called(model), {"input_ids": ids, "attention_mask": ids}) == bert_flops(length)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_an_lstm_student(layers, bidirectional):
    config = LSTMStudentConfig(
        vocab_size=30,
        embedding_size=12,
        hidden_size=16,
        num_layers=layers,
        bidirectional=bidirectional,
        pooling=["last", "max"],
        num_labels=3,
        pad_token_id=0,
    )
    model = LSTMStudentForSequenceClassification(config).eval()
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
    directions = 1 + bidirectional
    inputs = [12] + [16 * directions] * (layers - 1)
    for length, padding in ((1, 0), (9, 0), (9, 4)):
        ids = torch.ones(1, length, dtype=torch.long)
        mask = ids.clone()
        mask[:, length - padding :] = 0
        recurrent = sum(directions * 4 * 16 * (size + 16) for size in inputs) * length
        expected = 2 * (recurrent + sum(head.weight.numel() for head in heads))
        assert count_flops(called(model), {"input_ids": ids, "attention_mask": mask}) == expected


def test_recurrent_layers_of_any_kind():
    padded = torch.randn(2, 3, 4)
    packed = pack_padded_sequence(padded, [3, 2], batch_first=True)
    two_ways = nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True)
    position = 2 * 2 * (20 * 4 + 20 * 5 + 20 * 10 + 20 * 5)
    assert count_flops(lambda _: two_ways(padded), {}) == 6 * position
    assert count_flops(lambda _: two_ways(packed), {}) == 5 * position
    assert count_flops(lambda _: nn.GRU(4, 5)(padded), {}) == 6 * 2 * (15 * 4 + 15 * 5)
    assert count_flops(lambda _: nn.RNN(4, 5)(padded), {}) == 6 * 2 * (5 * 4 + 5 * 5)


def test_attention_over_other_texts():
    query, key, value = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    attend = nn.functional.scaled_dot_product_attention
    assert count_flops(lambda _: attend(query, key, value), {}) == 2 * 2 * 3 * 5 * 7 * (8 + 8)


def test_means_go_by_texts_and_by_tokens():
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = BertForSequenceClassification(BertConfig(vocab_size=30, num_labels=3, **shape)).eval()
    rows = Dataset.from_dict({"input_ids": [[1] * 3, [2] * 3, [3] * 8]})
    total = 2 * bert_flops(3) + bert_flops(8)
    for members in (1, 2):
        reader = Predictor(TeacherEnsemble([model] * members), rows)
        found = mean_flops(reader, reader.batches(rows, [[0], [1], [2]]))
        assert found == (pytest.approx(members * total / 3), pytest.approx(members * total / 14))
