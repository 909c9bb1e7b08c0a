"""Padding without an attention mask is refused wherever a model would read it as tokens."""

import pytest
import torch
from transformers import (
    BertTokenizerFast,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    default_data_collator,
    set_seed,
)

from hf_distill import (
    DistillationTrainer,
    HiddenStateMatching,
    LSTMStudentConfig,
    LSTMStudentForSequenceClassification,
    cache_teacher_outputs,
)
from hf_distill.evaluation.predictor import Predictor, predict_logits
from hf_distill.models import padded
from hf_distill.training.collator import TeacherColumnsCollator
from hf_distill.unmasked_padding import UnmaskedPaddingCheck, is_token
from tests.conftest import tiny_bert, tiny_rows
from tests.training.test_trainer import arguments, history

REFUSED = "positions of padding .* and there is no attention_mask: the {}"
EOS = 2  # stands in the texts, too


def gpt2(kind=GPT2LMHeadModel, seed=0, **config):
    set_seed(seed)
    dropout = dict.fromkeys(("attn_pdrop", "resid_pdrop", "embd_pdrop"), 0.0)
    size = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "initializer_range": 0.3}
    return kind(GPT2Config(**size, **dropout, **{"bos_token_id": 1, "eos_token_id": EOS, **config})).eval()


def lstm(kind=LSTMStudentForSequenceClassification, seed=1, **config):
    set_seed(seed)
    sizes = {"vocab_size": 50, "embedding_size": 8, "hidden_size": 8, "dropout": 0.0, "num_labels": 3}
    return kind(LSTMStudentConfig(**sizes, **config))


class Collator:
    """A collator of one's own that pads and makes no mask."""

    def __init__(self, pad_id, side="left", masks=False):
        self.pad_id, self.side, self.masks = pad_id, side, masks

    def __call__(self, rows):
        made = {"input_ids": self.pad_id, "labels": -100} | ({"attention_mask": 0} if self.masks else {})
        batch = {}
        for name, fill in made.items():
            values = [torch.as_tensor(row[name]) for row in rows]
            batch[name] = padded(values, fill, self.side) if values[0].dim() else torch.stack(values)
        return batch


def language_rows():
    return tiny_rows(8).map(lambda row: {"labels": row["input_ids"]}).remove_columns("attention_mask")


def one_length(rows, pad_id, side):
    """The rows, padded beforehand, without a mask."""
    longest = max(map(len, rows["input_ids"]))

    def pad(row):
        missing = longest - len(row["input_ids"])
        made = {"input_ids": pad_id, "labels": -100}
        for name in made if isinstance(row["labels"], list) else ["input_ids"]:
            fill = [made[name]] * missing
            row[name] = fill + row[name] if side == "left" else row[name] + fill
        return row

    return rows.map(pad).remove_columns([name for name in rows.column_names if name == "attention_mask"])


def trainer(tmp_path, student, rows, collator, **more):
    return DistillationTrainer(student, arguments(tmp_path, num_train_epochs=1), collator, rows, **more)


@pytest.mark.parametrize("pad_id", [0, EOS, 7])
def test_a_collator_of_ones_own_that_pads_on_the_left(tmp_path, pad_id):
    """Whatever it pads with: a token that stands in the texts, or one that no config names."""
    own = trainer(tmp_path, gpt2(seed=1), language_rows(), Collator(pad_id), teacher_model=gpt2())
    with pytest.raises(ValueError, match=REFUSED.format("student, a GPT2LMHeadModel")):
        own.train()


def test_a_teacher_alone_may_read_the_padding(tmp_path):
    """A student without attention_mask in its forward is not asked, its teacher is."""

    class Unmasked(LSTMStudentForSequenceClassification):
        def forward(self, input_ids=None, labels=None):
            return super().forward(input_ids, labels=labels)

    rows = tiny_rows(8)
    own = trainer(tmp_path, lstm(Unmasked), rows, Collator(0, "right"), teacher_model=tiny_bert(num_labels=3))
    with pytest.raises(ValueError, match=REFUSED.format("teacher, a BertForSequenceClassification")):
        own.train()


@pytest.mark.parametrize("side", ["left", "right"])
def test_cached_outputs_and_rows_padded_on_either_side(tmp_path, side):
    rows = tiny_rows(8)
    cached = cache_teacher_outputs(
        rows, tiny_bert(num_labels=3), task="text-classification", output_dir=tmp_path / "cache"
    )
    own = trainer(tmp_path, lstm(), cached, Collator(0, side))
    with pytest.raises(ValueError, match=REFUSED.format("student")):
        own.train()
    kept = trainer(tmp_path, lstm(), cached, Collator(0, side, masks=True))
    kept.train()


def test_an_evaluation_alone(tmp_path):
    own = DistillationTrainer(
        lstm(), arguments(tmp_path), Collator(0), None, tiny_rows(8), teacher_model=tiny_bert(num_labels=3)
    )
    with pytest.raises(ValueError, match=REFUSED.format("student")):
        own.evaluate()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad_id", [0, EOS])
def test_rows_that_are_padded_already(tmp_path, side, pad_id):
    student = lstm(pad_token_id=pad_id, eos_token_id=EOS)
    rows = one_length(tiny_rows(8), pad_id, side)
    with pytest.raises(ValueError, match=REFUSED.format("student")):
        trainer(tmp_path, student, rows, default_data_collator, teacher_model=tiny_bert(num_labels=3)).train()


def test_padding_on_the_right_is_nothing_to_a_decoder(tmp_path):
    """Its outputs at the tokens are the same to the last bit, and so is what it learns."""
    losses = []
    for masks in (False, True):
        rows = language_rows().map(lambda row: {"attention_mask": [1] * len(row["input_ids"])})
        own = trainer(tmp_path, gpt2(seed=1), rows, Collator(EOS, "right", masks), teacher_model=gpt2())
        own.train()
        losses.append(history(own, "loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_states_at_padding_are_not_compared(tmp_path):
    """A matching counts positions, and those of padding are told by the mask alone."""
    own = trainer(
        tmp_path,
        gpt2(seed=1),
        language_rows(),
        Collator(EOS, "right"),
        teacher_model=gpt2(),
        matching=[HiddenStateMatching({1: 1})],
    )
    with pytest.raises(ValueError, match=REFUSED.format("student")):
        own.train()


def test_a_left_padded_batch_is_looked_at_before_states_are_compared(tmp_path):
    """The check calls the student; a target that waited for its next forward was compared with the row alone."""
    rows = language_rows().map(lambda row: {"attention_mask": [1] * len(row["input_ids"])})
    own = trainer(
        tmp_path,
        gpt2(seed=1),
        rows,
        Collator(EOS, "left", masks=True),
        teacher_model=gpt2(),
        matching=[HiddenStateMatching({1: 1})],
    )
    own.train()
    assert own.state.global_step == 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_classifying_decoder_finds_its_last_token(side):
    """By its own padding token on the right; on the left it reads other positions."""
    model = gpt2(GPT2ForSequenceClassification, pad_token_id=0, num_labels=3)
    ids = padded([torch.arange(3, 9), torch.arange(3, 6)], 0, side)
    check = UnmaskedPaddingCheck(model, "student")
    if side == "right":
        check({"input_ids": ids})
    else:
        with pytest.raises(ValueError, match=r"Row 1 .* 3 positions of padding .token 0. on the left"):
            check({"input_ids": ids})


def test_an_encoder_of_a_translation():
    set_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, initializer_factor=2.0)
    )
    ids = padded([torch.arange(3, 9), torch.arange(3, 6)], 0, "right")
    with pytest.raises(ValueError, match=r"Row 1 .* on the right"):
        UnmaskedPaddingCheck(model, "student")({"input_ids": ids, "decoder_input_ids": torch.ones(2, 6).long()})


@pytest.mark.parametrize(
    ("ids", "config"),
    [
        ([[3, 4, 5, EOS], [6, 7, 8, EOS]], {}),  # each text ends so
        ([[1, 4, 5, 3], [1, 7, 8, 9]], {"pad_token_id": 1}),  # each text starts so
        ([[3, 4, 5, 9], [6, 7, 8, 0]], {"pad_token_id": 0}),  # a config alone does not know what 0 means at an end
        ([[3, 0, 0, 9], [6, 7, 0, 8]], {"pad_token_id": 0}),  # within a text
        ([[0, 0, 5, 9], [6, 7, 5, 8]], {}),  # nothing names the token of padding
        ([[EOS, EOS, EOS], [EOS, EOS, EOS]], {}),  # nothing but padding
        ([[], []], {}),
    ],
)
def test_nothing_is_known_of_other_rows(ids, config):
    UnmaskedPaddingCheck(gpt2(**config), "student")({"input_ids": torch.tensor(ids).long()})
    UnmaskedPaddingCheck(lstm(eos_token_id=EOS, **config), "student")({"input_ids": torch.tensor(ids).long()})


def tokenizer(tmp_path):
    words = tmp_path / "vocab.txt"
    words.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(45))]))
    return BertTokenizerFast(str(words))


def test_a_tokenizer_knows_a_single_padding(tmp_path):
    check = UnmaskedPaddingCheck(lstm(), "student", [tokenizer(tmp_path)])
    with pytest.raises(ValueError, match=r"Row 1 .* has 1 positions"):
        check({"input_ids": torch.tensor([[2, 9, 3], [2, 3, 0]])})


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_cache_pass_masks_no_padding_by_itself(tmp_path, side):
    rows = one_length(tiny_rows(8), 0, side)
    with pytest.raises(ValueError, match=REFUSED.format("teacher")):
        cache_teacher_outputs(
            rows, tiny_bert(num_labels=3), task="text-classification", output_dir=tmp_path / "padded before"
        )
    with pytest.raises(ValueError, match=REFUSED.format("teacher")):
        cache_teacher_outputs(
            tiny_rows(8).remove_columns("attention_mask"),
            tiny_bert(num_labels=3),
            task="text-classification",
            output_dir=tmp_path / "padded by a collator",
            data_collator=lambda rows: {"input_ids": padded([torch.tensor(r["input_ids"]) for r in rows], 7, side)},
        )


def test_rows_of_uneven_lengths_without_a_mask_are_cached_as_with_one(tmp_path):
    rows = tiny_rows(8)
    found = [
        cache_teacher_outputs(
            each, tiny_bert(num_labels=3), task="text-classification", output_dir=tmp_path / str(number)
        )["teacher_logits"]
        for number, each in enumerate([rows, rows.remove_columns("attention_mask")])
    ]
    assert list(found[0]) == list(found[1])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_comparison(side):
    rows = one_length(tiny_rows(8), 0, side)
    predictor = Predictor(tiny_bert(num_labels=3), rows)
    with predictor.ready(), pytest.raises(ValueError, match=REFUSED.format("model")):
        predict_logits(predictor, rows, name="student")


def test_the_teachers_own_tokens_are_masked_where_they_are_padded_here():
    """Without its tokenizer they were padded, and no mask told so."""
    rows = [{"input_ids": [5], "teacher_input_ids": [3] * n} for n in (2, 4)]
    batch = TeacherColumnsCollator(default_data_collator)(rows)
    assert batch["teacher_attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_where_a_collator_put_the_tokens():
    rows = [[3, 4], [EOS, 5, 6, 7]]
    for side, expected in (("left", [0, 0, 1, 1]), ("right", [1, 1, 0, 0])):
        ids = padded([torch.tensor(row) for row in rows], EOS, side)
        assert is_token(rows, {"input_ids": ids}).int().tolist() == [expected, [1] * 4]
        assert is_token(rows, {"input_ids": ids, "attention_mask": ids}) is None
    assert is_token(rows, {"input_ids": torch.zeros(2, 4).long()}) is None
    assert is_token(rows, {"input_ids": torch.zeros(1, 6).long()}) is None
