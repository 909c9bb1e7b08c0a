"""What is asked of any model: its problem, its limits, and what its decoder reads."""

import math

import pytest
import torch
from torch import nn
from transformers import BertConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, RobertaConfig, RobertaModel

from hf_distill.models import decoder_inputs, evaluating, forward_arguments, input_limits, problem_type, shared_tokens
from tests import cases
from tests.conftest import tiny_bert


def test_a_problem_is_read_off_the_config_and_else_off_the_labels():
    config = BertConfig(num_labels=3)
    assert problem_type(config, None) == problem_type(config, torch.tensor([1])) == "single_label_classification"
    assert problem_type(config, torch.tensor([[1.0, 0.0, 1.0]])) == "multi_label_classification"
    assert problem_type(BertConfig(num_labels=1), torch.tensor([1])) == "regression"
    assert problem_type(BertConfig(num_labels=3, problem_type="regression"), torch.tensor([1])) == "regression"


def test_every_module_goes_back_to_its_own_mode():
    model = tiny_bert().train()
    model.bert.pooler.eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == before


def test_what_a_forward_takes_is_asked_of_the_class():
    model = tiny_bert()
    model.forward = lambda *args, **kwargs: None  # as accelerate leaves it
    assert {"input_ids", "token_type_ids", "labels"} <= forward_arguments(model)
    assert "self" not in forward_arguments(model)


def test_places_and_tokens_of_models():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    assert input_limits(tiny_bert()) == (40, 50)
    roberta = RobertaModel(RobertaConfig(vocab_size=30, max_position_embeddings=20, **sizes))
    assert input_limits(roberta) == (18, 30)  # two rows come before the first token's
    assert input_limits(GPT2LMHeadModel(GPT2Config(vocab_size=30, n_positions=20, n_embd=8, n_layer=1, n_head=1))) == (
        20,
        30,
    )
    assert input_limits(cases.models("causal", "")[1])[0] == math.inf  # rotary positions


def test_a_decoder_reads_labels_by_the_models_own_rule():
    model = cases.models("seq2seq", "")[1]
    start, pad = model.config.decoder_start_token_id, model.config.pad_token_id
    assert decoder_inputs(model, torch.tensor([[5, 6, -100]])).tolist() == [[start, 5, 6]]
    assert decoder_inputs(model, torch.tensor([[5, -100, -100]])).tolist() == [[start, 5, pad]]
    with pytest.raises(ValueError, match="Linear does not say what its decoder reads"):
        decoder_inputs(nn.Linear(2, 2), torch.tensor([[5]]))


def test_the_same_ids_must_mean_the_same_tokens():
    small, large = LlamaConfig(vocab_size=30), LlamaConfig(vocab_size=32)

    class Words:
        def __init__(self, *words):
            self.words = words

        def get_vocab(self):
            return {word: number for number, word in enumerate(self.words)}

    assert shared_tokens(small, small, None, None) is None
    assert shared_tokens(small, large, Words(*"abc"), Words(*"abc")) == 3
    with pytest.raises(ValueError, match="The student knows 30 tokens and the teacher 32"):
        shared_tokens(small, large, None, None)
    with pytest.raises(ValueError, match="differ in 2 tokens"):
        shared_tokens(small, small, Words(*"abc"), Words(*"abd"))
