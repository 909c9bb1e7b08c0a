"""Which head a model has, and which items of a batch count."""

import pytest
import torch
from torch import nn
from transformers import M2M100Config, M2M100ForConditionalGeneration

from hf_distill import LSTMStudentConfig, LSTMStudentForCausalLM, LSTMStudentForTokenClassification
from hf_distill.models import decoder_inputs, problem_type
from hf_distill.problems import TASKS, task_of
from hf_distill.training.objective import hard_loss
from tests.cases import models
from tests.conftest import tiny_bert


def test_the_task_is_read_off_the_class():
    config = LSTMStudentConfig(vocab_size=9, hidden_size=4, embedding_size=4, pad_token_id=0)
    found = [task_of(models(task, "regression")[0]).name for task in ("sequence", "token", "seq2seq", "causal")]
    assert found == list(TASKS)
    assert task_of(LSTMStudentForTokenClassification(config)).name == "token-classification"
    assert task_of(LSTMStudentForCausalLM(config)).name == "text-generation"
    with pytest.raises(ValueError, match="Linear has no head that can be distilled: expected a class whose name ends"):
        task_of(nn.Linear(1, 1))


def test_labelled_items():
    nan = float("nan")
    classify, tag, generate = (
        TASKS[name] for name in ("text-classification", "token-classification", "text-generation")
    )
    assert classify.label_mask({"labels": torch.tensor([0, -100, 2])}).tolist() == [True, False, True]
    assert classify.label_mask({"labels": torch.tensor([0.5, nan, -100.0])}).tolist() == [True, False, False]
    several = torch.tensor([[1.0, 0.0], [nan, 1.0], [-100.0, -100.0]])
    assert classify.label_mask({"labels": several}).tolist() == [True, False, False]
    assert classify.label_mask({"input_ids": several}) is None
    assert tag.label_mask({"labels": torch.tensor([[1, -100]])}).tolist() == [[True, False]]
    assert generate.label_mask({"labels": torch.tensor([[1, -100, 2]])}).tolist() == [[False, True]]


def test_taught_items():
    tag = TASKS["token-classification"]
    ids = torch.ones(2, 3, dtype=torch.long)
    assert TASKS["text-classification"].soft_target_mask({"input_ids": ids}).tolist() == [True, True]
    starts = torch.tensor([[-100, 1, 0], [1, 1, -100]])
    assert tag.soft_target_mask({"input_ids": ids, "word_starts": starts}).tolist() == [
        [False, True, False],
        [True, True, False],
    ]
    with pytest.raises(ValueError, match="does not say which positions have a soft target"):
        tag.soft_target_mask({"input_ids": ids})


def test_targets_of_two_vocabularies():
    """The k-th meets the k-th, up to the shorter of the two; the first of a causal row is no target."""
    batch = {
        "labels": torch.tensor([[-100, 1, 2, -100, 3], [7, -100, 1, -100, -100]]),
        "teacher_labels": torch.tensor([[-100, 9, -100, 9], [9, 9, 9, -100]]),
    }
    generate, translate = TASKS["text-generation"], TASKS["translation"]
    assert generate.soft_target_mask(batch).tolist() == [[True, True, False, False], [False, True, False, False]]
    assert generate.unmatched(batch).tolist() == [1, 4, 1, 4]
    assert translate.unmatched(batch).tolist() == [1, 5, 1, 5]
    said = torch.arange(8.0).view(2, 4, 1)
    assert generate.soft_targets(said, batch, False, generate.soft_target_mask(batch)).flatten().tolist() == [0, 2, 4]
    assert translate.soft_targets(said, batch, True, translate.soft_target_mask(batch)).flatten().tolist() == [
        1,
        3,
        4,
        5,
    ]


def test_what_a_decoder_reads_is_its_models_own_rule():
    labels = torch.tensor([[5, 6, 7], [8, 2, -100]])
    bart = models("seq2seq", "regression")[0]
    assert decoder_inputs(bart, labels).tolist() == [[2, 5, 6], [2, 8, 2]]
    config = M2M100Config(vocab_size=9, d_model=4, encoder_layers=1, decoder_layers=1, decoder_start_token_id=3)
    config.update({"encoder_attention_heads": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 4, "dropout": 0.0})
    m2m = M2M100ForConditionalGeneration(config).eval()
    with torch.no_grad():
        said = [
            m2m(torch.tensor([[5, 6], [7, 8]]), **given).logits
            for given in ({"labels": labels}, {"decoder_input_ids": decoder_inputs(m2m, labels)})
        ]
    assert torch.equal(*said)
    with pytest.raises(ValueError, match=r"Linear does not say what its decoder reads.* Add the method to it"):
        decoder_inputs(nn.Linear(1, 1), labels)


def test_problem_types_follow_transformers():
    assert problem_type(tiny_bert(num_labels=1).config, None) == "regression"
    assert problem_type(tiny_bert(num_labels=3).config, torch.tensor([1])) == "single_label_classification"
    assert problem_type(tiny_bert(num_labels=3).config, torch.tensor([[1.0, 0, 0]])) == "multi_label_classification"
    assert problem_type(tiny_bert(num_labels=3, problem_type="regression").config, torch.tensor([1])) == "regression"


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification", "regression"])
def test_hard_loss_is_the_models_own(kind):
    """Its mean is what a model of transformers returns for the same labels."""
    model = tiny_bert(num_labels=3, problem_type=kind)
    ids = torch.randint(3, 50, (5, 4))
    labels = torch.randint(0, 3, (5,)) if kind.startswith("single") else torch.rand(5, 3).round()
    output = model(ids, labels=labels)
    assert torch.allclose(hard_loss(output.logits, labels, kind).mean(), output.loss, atol=1e-6)
