"""What models answer to the sentences of a card."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForTokenClassification

from hf_distill.reports.samples import answers
from tests.recipes.test_run import SPECIAL, write_teacher


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("samples") / "teacher"
    write_teacher(folder)
    return AutoTokenizer.from_pretrained(folder)


def classifier(bias, **config):
    config = BertConfig(
        vocab_size=200, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, **config
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor(bias))
    return model


NAMES = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}


def test_classes_quantities_and_several_labels(tokenizer):
    texts = ["a fine place", "a dull place"]
    assert answers(classifier([0.0, 3.0], **NAMES), tokenizer, "text-classification", texts) == ["good (0.95)"] * 2
    several = classifier([2.0, -3.0], problem_type="multi_label_classification", **NAMES)
    assert answers(several, tokenizer, "text-classification", texts[:1]) == ["bad (0.88)"]
    none = classifier([-2.0, -3.0], problem_type="multi_label_classification", **NAMES)
    assert answers(none, tokenizer, "text-classification", texts[:1]) == ["none"]
    quantity = classifier([0.25], num_labels=1)
    assert answers(quantity, tokenizer, "text-classification", [["a fine place", "a dull place"]]) == ["0.250"]
    assert answers(quantity, tokenizer, "text-classification", []) == []


def test_tags_stand_behind_their_words(tokenizer):
    config = BertConfig(
        vocab_size=len(SPECIAL) + 100,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        **NAMES,
    )
    model = BertForTokenClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 1.0]))
    assert answers(model, tokenizer, "token-classification", ["a fine staff"]) == ["a/good fine/good staff/good"]
