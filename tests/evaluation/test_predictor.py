"""Reading and sizes of models whose answers are known in advance."""

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from hf_distill.environment import environment
from hf_distill.evaluation import predictor
from hf_distill.evaluation.cost import count_parameters, weights_bytes
from hf_distill.teachers.ensemble import TeacherEnsemble


class Plain(BertForSequenceClassification):
    """Takes no segments."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        return super().forward(input_ids=input_ids, attention_mask=attention_mask)


def plain():
    return Plain(
        BertConfig(
            vocab_size=20,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            max_position_embeddings=16,
        )
    )


@pytest.fixture
def dataset():
    return Dataset.from_dict(
        {"input_ids": [[1, 2, 3], [4], [5, 6]], "token_type_ids": [[0] * 3, [0], [0] * 2], "labels": [0, 1, 0]}
    )


def test_only_what_the_forward_takes_is_read(dataset):
    reader = predictor.Predictor(plain(), dataset)
    assert set(reader.inputs(dataset, [0, 1])) == {"input_ids", "attention_mask"}
    whole = predictor.Predictor(BertForSequenceClassification(plain().config), dataset)
    assert set(whole.inputs(dataset, [0, 1])) == {"input_ids", "attention_mask", "token_type_ids"}


def test_rows_are_padded_by_the_processing_class_or_the_config(dataset):
    read = predictor.Predictor(plain(), dataset).inputs(dataset, [0, 1])
    assert read["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert read["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    words = Tokenizer(models.WordLevel({"a": 0, "[PAD]": 9}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", padding_side="left")
    padded = predictor.Predictor(plain(), dataset, tokenizer).inputs(dataset, [0, 1])
    assert padded["input_ids"].tolist() == [[1, 2, 3], [9, 9, 4]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


def test_an_ensemble_mixes_by_the_problem_of_the_data(dataset):
    """Its members' configs may not tell that several labels can hold at once."""
    logits = torch.tensor([[[2.0, -1.0]], [[-2.0, 3.0]]])
    ensemble = TeacherEnsemble([plain(), plain()])
    several = predictor.Predictor(ensemble, dataset, problem="multi_label_classification")
    ensemble.models = several.members = [lambda logits=each, **inputs: {"logits": logits} for each in logits]
    assert several({}).sigmoid() == pytest.approx(logits.sigmoid().mean(dim=0))


def test_several_groups_are_read_at_once(dataset):
    reader = predictor.Predictor(plain(), dataset)
    groups = [[2, 0], [1], [0, 1]]
    for found, rows in zip(reader.batches(dataset, groups), groups, strict=True):
        alone = reader.inputs(dataset, rows)
        assert all(torch.equal(found[name], alone[name]) for name in ("input_ids", "attention_mask"))


def test_formatted_data_sets_are_read_alike(dataset):
    reader = predictor.Predictor(plain(), dataset)
    formatted = dataset.with_format("torch")
    assert torch.equal(reader.inputs(dataset, [0, 1])["input_ids"], reader.inputs(formatted, [0, 1])["input_ids"])
    assert reader.lengths(formatted).tolist() == [3, 1, 2]


def test_the_environment_names_no_machine(tmp_path):
    import platform

    described = environment(torch.device("cpu"))
    assert described["threads"] == torch.get_num_threads()
    assert described["peak_memory_bytes"] > 10_000_000
    assert platform.node() not in str(described)


def test_a_model_without_save_pretrained_is_counted_by_its_tensors():
    module = torch.nn.Linear(3, 2)
    assert count_parameters(module) == 8
    assert weights_bytes(module) == 32
