"""A teacher's outputs depend on the tokens of a row alone: not on padding, packing, wrappers or caches."""

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertForSequenceClassification,
    DataCollatorWithFlattening,
    GPT2ForSequenceClassification,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForTokenClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
    set_seed,
)

from hf_distill import DistillationArguments, DistillationTrainer, cache_teacher_outputs
from hf_distill.teachers.identity import weights_hash
from hf_distill.teachers.live import LiveTeacher, load_teacher
from hf_distill.teachers.padding import expected_order
from tests.conftest import collate, tiny_bert, tiny_rows
from tests.teachers.models import tiny_gpt2, tiny_llama

CPU = torch.device("cpu")
IDS = [[5, 6, 7, 8, 9], [10, 11, 12], [13]]


def live(model):
    return LiveTeacher(model, CPU)


def padded(side="right", pad=0, extra=0, rows=IDS):
    longest = max(map(len, rows)) + extra
    fills = [[pad] * (longest - len(row)) for row in rows]
    marks = [[0] * len(fill) for fill in fills]
    ones = [[1] * len(row) for row in rows]
    joined = {
        "input_ids": [fill + row if side == "left" else row + fill for row, fill in zip(rows, fills, strict=True)],
        "attention_mask": [m + o if side == "left" else o + m for o, m in zip(ones, marks, strict=True)],
    }
    return {name: torch.tensor(values) for name, values in joined.items()}


def roberta():
    set_seed(0)
    config = RobertaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, pad_token_id=1
    )
    return RobertaForTokenClassification(config).eval()


def bart():
    set_seed(0)
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32)
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = BartConfig(vocab_size=50, d_model=16, max_position_embeddings=40, init_std=0.5, **sizes, **tokens)
    return BartForConditionalGeneration(config).eval()


def xlnet():
    set_seed(0)
    config = XLNetConfig(vocab_size=50, d_model=16, n_layer=2, n_head=2, d_inner=32, num_labels=3, pad_token_id=5)
    return XLNetForSequenceClassification(config).eval()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize("model", [tiny_gpt2, tiny_llama, roberta, bart])
def test_padding_changes_nothing_of_positions(model, side, pad):
    """Absolute, rotary and counted positions, the side and the id of padding."""
    batch = padded(side, pad, extra=2)
    labels = torch.tensor([[5, 6], [7, 8], [9, 4]])
    output = live(model())({**batch, "labels": labels}, output_hidden_states=True)
    for number, row in enumerate(IDS):
        alone = live(model())({**padded(rows=[row]), "labels": labels[number : number + 1]}, output_hidden_states=True)
        read = batch["attention_mask"][number] == 1
        if model is bart:
            assert torch.allclose(output["logits"][number], alone["logits"][0], atol=1e-5)
            states = [each["encoder_hidden_states"][-1] for each in (output, alone)]
        else:
            assert torch.allclose(output["logits"][number, read], alone["logits"][0], atol=1e-5)
            states = [each["hidden_states"][-1] for each in (output, alone)]
        assert torch.allclose(states[0][number, read], states[1][0], atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "model",
    [
        xlnet,
        lambda: tiny_llama(model_class=LlamaForSequenceClassification, num_labels=3, pad_token_id=7),
        lambda: tiny_gpt2(model_class=GPT2ForSequenceClassification, num_labels=3, pad_token_id=49),
    ],
)
def test_classifiers_that_read_one_position_read_the_right_one(model, side):
    """XLNet reads the last position, decoders the last token that is not their own padding."""
    rows = [[5, 6, 8, 8, 9], [10, 11, 12], [13]]
    together = live(model())(padded(side, pad=2, rows=rows))["logits"]
    for number, row in enumerate(rows):
        alone = live(model())(padded(rows=[row]))["logits"][0]
        assert torch.allclose(together[number], alone, atol=1e-5)


def test_attentions_are_moved_back_in_both_directions():
    teacher = live(tiny_gpt2(attn_implementation="eager"))
    left, right = (teacher(padded(side), output_attentions=True)["attentions"][0] for side in ("left", "right"))
    assert torch.allclose(left[1, :, 2:, 2:], right[1, :, :3, :3], atol=1e-6)


def test_rows_that_are_padded_as_expected_stay():
    assert expected_order(padded()["attention_mask"], "bert") is None
    assert expected_order(padded("left")["attention_mask"], "xlnet") is None
    assert expected_order(torch.zeros(2, 3), "xlnet") is None
    assert expected_order(torch.tensor([[0, 1, 1, 0]]), "bert").tolist() == [[1, 2, 3, 0]]
    assert expected_order(torch.tensor([[0, 1, 1, 0]]), "xlnet").tolist() == [[3, 0, 1, 2]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("model", [xlnet, lambda: tiny_bert(num_labels=3)])
def test_cached_and_live_agree_on_any_side(tmp_path, model, side):
    rows = tiny_rows(6).remove_columns("labels")
    cached = cache_teacher_outputs(
        rows, model(), task="text-classification", output_dir=tmp_path, dtype="float32", batch_size=4
    )
    output = live(model())(padded(side, rows=rows["input_ids"]))["logits"]
    assert torch.allclose(torch.tensor(cached["teacher_logits"]), output, atol=1e-5)


def test_a_classifier_that_cannot_tell_padding_is_refused():
    rows = padded(pad=3)["input_ids"]
    teacher = live(tiny_llama(model_class=LlamaForSequenceClassification, pad_token_id=None))
    with pytest.raises(ValueError, match=r"its config has no pad_token_id. Set teacher.config.pad_token_id"):
        teacher(padded())
    teacher = live(tiny_llama(model_class=LlamaForSequenceClassification, pad_token_id=7))
    with pytest.raises(ValueError, match="neither an attention_mask nor the teacher's pad_token_id 7"):
        teacher({"input_ids": rows.masked_fill(rows == 7, 9)})
    assert teacher({"input_ids": rows[:1]})["logits"].shape == (1, 2)


@pytest.mark.parametrize("model", [tiny_gpt2, tiny_llama, bart])
def test_no_cache_is_built(model):
    output = live(model())({**padded(), "labels": torch.full((3, 2), 5)})
    assert output.get("past_key_values") is None


@pytest.mark.parametrize("model", [tiny_gpt2, tiny_llama])
@pytest.mark.parametrize("options", [{}, {"return_flash_attn_kwargs": True}])
def test_packed_rows_are_read_one_by_one(model, options):
    batch = DataCollatorWithFlattening(**options)([{"input_ids": row} for row in IDS])
    output = live(model())(batch)["logits"][0].split([len(row) for row in IDS])
    for row, logits in zip(IDS, output, strict=True):
        assert torch.allclose(logits, live(model())({"input_ids": torch.tensor([row])})["logits"][0], atol=1e-5)


def test_a_packed_batch_may_be_longer_than_a_row_may_be():
    rows = [{"input_ids": [5 + number % 40] * 9} for number in range(6)]
    assert live(tiny_gpt2())(DataCollatorWithFlattening()(rows))["logits"].shape == (1, 54, 50)


def test_an_encoder_refuses_packed_rows_as_a_teacher():
    batch = DataCollatorWithFlattening()([{"input_ids": row} for row in IDS])
    with pytest.raises(ValueError, match="the teacher, a RobertaForTokenClassification, does not tell them apart"):
        live(roberta())(batch)


# Wrappers


class Named(nn.Module):
    """A module of a user's own around a model."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config = model, model.config

    def forward(self, input_ids, attention_mask=None):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask)


class Anything(Named):
    def forward(self, **inputs):
        return self.inner(**inputs)


@pytest.mark.parametrize(
    "wrap", [lambda model: torch.compile(model, backend="eager"), nn.DataParallel, Named, lambda model: model]
)
def test_a_wrapped_teacher_is_as_the_model_inside(wrap):
    model = tiny_bert(seed=1, num_labels=3, type_vocab_size=2)
    batch = padded("left", pad=3) | {"token_type_ids": torch.zeros(3, 5, dtype=torch.long)}
    teacher = live(wrap(model))
    assert torch.allclose(teacher(batch)["logits"], live(model)(batch)["logits"], atol=1e-6)
    if wrap is not Named:  # a cache goes on with the model inside
        assert weights_hash(teacher) == weights_hash(live(model))


@pytest.mark.parametrize("wrap", [nn.DataParallel, Named])
def test_a_wrapped_teacher_trains(tmp_path, wrap):
    model = tiny_bert(seed=1, num_labels=3)
    arguments = DistillationArguments(
        str(tmp_path), max_steps=1, report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True
    )
    trainer = DistillationTrainer(
        tiny_bert(num_labels=3), arguments, teacher_model=wrap(model), train_dataset=tiny_rows(), data_collator=collate
    )
    assert trainer.train().metrics["train_loss"] > 0


@pytest.mark.parametrize(
    ("teacher", "problem"),
    [
        (lambda: nn.Sequential(tiny_bert()), "The teacher is a Sequential without a config"),
        (lambda: Anything(tiny_bert()), "takes inputs, which does not say which columns it reads"),
        (lambda: "a model", "The teacher is a str without a config"),
    ],
)
def test_what_cannot_be_called_is_told_plainly(teacher, problem):
    with pytest.raises(TypeError, match=problem):
        live(teacher())


# Weights that are not there


def test_a_head_that_was_never_trained_is_refused(tmp_path):
    model = tiny_bert(num_labels=3)
    model.bert.save_pretrained(tmp_path / "without")
    model.save_pretrained(tmp_path / "with")
    with pytest.raises(ValueError, match=r"has no weights for classifier.bias, classifier.weight of Bert"):
        load_teacher(tmp_path / "without", BertForSequenceClassification)
    loaded = load_teacher(tmp_path / "with", BertForSequenceClassification)
    assert torch.equal(loaded.classifier.weight, model.classifier.weight)
    rows = tiny_rows(4).remove_columns("labels")
    with pytest.raises(ValueError, match="has no weights for classifier"):
        cache_teacher_outputs(rows, tmp_path / "without", task="text-classification", output_dir=tmp_path / "c")
    with pytest.raises(ValueError, match="has no weights for classifier"):
        DistillationTrainer(
            tiny_bert(num_labels=2),
            DistillationArguments(str(tmp_path / "t"), report_to="none", use_cpu=True),
            teacher_model=tmp_path / "without",
            train_dataset=rows,
        )


@pytest.mark.parametrize("name", ["outputs/nothing/teacher", "./teacher", "/nowhere", "~/teacher"])
def test_a_folder_that_is_not_there_is_no_id_of_the_hub(name):
    with pytest.raises(ValueError, match=f"teacher_model: there is no folder {name}, and no id"):
        load_teacher(name, BertForSequenceClassification)
