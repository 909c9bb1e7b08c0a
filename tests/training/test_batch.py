"""What the student reads of a batch, and which items count: the side of padding changes nothing."""

import datasets
import numpy as np
import pytest
import torch
from transformers import (
    BertTokenizerFast,
    GPT2Config,
    GPT2LMHeadModel,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    OPTConfig,
    OPTForCausalLM,
    set_seed,
)

from hf_distill import (
    DistillationTrainer,
    LSTMStudentConfig,
    LSTMStudentForCausalLM,
    LSTMStudentForSequenceClassification,
    cache_teacher_outputs,
)
from hf_distill.losses import forward_kl
from hf_distill.models import position_ids
from tests.cases import models, pad
from tests.conftest import tiny_bert, tiny_rows
from tests.training.test_trainer import arguments, assert_same, history, weights

SMALL = {"vocab_size": 50, "num_attention_heads": 2, "hidden_size": 16, "num_hidden_layers": 2}
OPENAI = {
    "vocab_size": 50,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 40,
    "bos_token_id": 1,
} | dict.fromkeys(("attn_pdrop", "resid_pdrop", "embd_pdrop"), 0.0)
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**OPENAI, eos_token_id=2, initializer_range=0.5)),
    "gpt_bigcode": lambda: GPTBigCodeForCausalLM(GPTBigCodeConfig(**OPENAI, eos_token_id=2, initializer_range=0.5)),
    "gpt_neo": lambda: GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=50,
            hidden_size=16,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global"], 2]],
            max_position_embeddings=40,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.5,
            resid_dropout=0.0,
            embed_dropout=0.0,
            attention_dropout=0.0,
        )
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=40, init_std=0.5, dropout=0.0)
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**SMALL, intermediate_size=32, num_key_value_heads=2, initializer_range=0.5)
    ),
    "lstm": lambda: LSTMStudentForCausalLM(
        LSTMStudentConfig(vocab_size=50, embedding_size=8, hidden_size=8, dropout=0.0, pad_token_id=0)
    ),
}


def model(name, seed):
    set_seed(seed)
    return MODELS[name]().double().eval()


class Padding:
    """A collator of a tokenizer with this padding side."""

    def __init__(self, side):
        self.tokenizer = type("Tokenizer", (), {"padding_side": side})

    def __call__(self, rows):
        longest = max(len(row["input_ids"]) for row in rows)
        fill = {"labels": -100}
        batch = {}
        for name in ("input_ids", "attention_mask", "labels"):
            padding = [[fill.get(name, 0)] * (longest - len(row[name])) for row in rows]
            sides = [
                (p, row[name]) if self.tokenizer.padding_side == "left" else (row[name], p)
                for p, row in zip(padding, rows, strict=True)
            ]
            batch[name] = torch.tensor([[*first, *second] for first, second in sides])
        return batch


def language_rows(number=8):
    """Labels are the tokens themselves, the first one included."""
    return tiny_rows(number).map(lambda row: {"labels": row["input_ids"]}, remove_columns="labels")


def trainer_of(tmp_path, rows, student, teacher, side, batch=8, accumulation=1, **changes):
    return DistillationTrainer(
        student,
        arguments(
            tmp_path,
            batch=batch,
            accumulation=accumulation,
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            **changes,
        ),
        Padding(side),
        rows,
        teacher_model=teacher,
    )


@pytest.mark.parametrize("student", MODELS)
def test_the_side_of_padding_changes_nothing(tmp_path, student):
    """Student and teacher, one step cut in 1, 2 and 8, live and cached: one count, one loss, the same weights."""
    teacher = "gpt2" if student != "gpt2" else "gpt_neo"
    rows = language_rows()
    cached = cache_teacher_outputs(
        rows, model(teacher, 1).float(), task="text-generation", output_dir=tmp_path / "cache", dtype="float32"
    )
    counts, made = set(), []
    for side in ("right", "left"):
        for batch, accumulation, given in ((8, 1, rows), (4, 2, rows), (1, 8, rows), (8, 1, cached)):
            trainer = trainer_of(
                tmp_path,
                given,
                model(student, 0),
                model(teacher, 1) if given is rows else None,
                side,
                batch,
                accumulation,
            )
            step_counts = trainer._step_counts
            trainer._step_counts = lambda *a, f=step_counts: counts.add(tuple((n := f(*a)).tolist())) or n
            trainer.train()
            made.append((given is cached, weights(trainer), trainer.state.log_history[0]))
    items = sum(len(row["input_ids"]) - 1 for row in rows)
    assert counts == {(items, items)}
    for from_cache, state, logs in made[1:]:
        tolerance = 1e-4 if from_cache else 1e-6
        assert_same(made[0][1], state, tolerance)
        for name in ("hard_loss", "soft_loss", "grad_norm"):
            assert logs[name] == pytest.approx(made[0][2][name], abs=1e-4 if from_cache else 1e-6)


def test_evaluation_of_rows_padded_on_the_left(tmp_path):
    found = [
        trainer_of(
            tmp_path, None, model("gpt2", 0), model("gpt_neo", 1), side, per_device_eval_batch_size=size
        ).evaluate(language_rows())
        for side in ("left", "right")
        for size in (1, 3, 8)
    ]
    for name in ("eval_loss", "eval_soft_loss"):
        assert [each[name] for each in found] == pytest.approx([found[0][name]] * 6, abs=1e-6)


def test_given_positions_are_kept(tmp_path):
    """A collator's own position_ids are not replaced."""
    trainer = trainer_of(tmp_path, language_rows(), model("gpt2", 0), model("gpt2", 1), "left")
    inputs = Padding("left")(language_rows(3))
    own = torch.zeros_like(inputs["input_ids"])
    assert trainer._batch({**inputs, "position_ids": own}).student_inputs["position_ids"] is own
    assert (
        trainer._batch(inputs).student_inputs["position_ids"].tolist()
        == position_ids(trainer.model, inputs["attention_mask"]).tolist()
    )
    assert "position_ids" not in trainer._batch(Padding("right")(language_rows(3))).student_inputs


def test_a_student_that_reads_the_start_of_a_padded_row(tmp_path):
    """BERT reads its classes there; a decoder, or an LSTM, reads them at the last token."""
    rows = tiny_rows(8)

    def left(batch):
        padded = Padding("left")([row | {"labels": [0]} for row in batch])
        return padded | {"labels": torch.tensor([row["labels"] for row in batch])}

    def trainer(student):
        return DistillationTrainer(
            student, arguments(tmp_path, num_train_epochs=1), left, rows, teacher_model=tiny_bert(seed=1, num_labels=3)
        )

    with pytest.raises(ValueError, match="BertForSequenceClassification, depend on how much padding a row has"):
        trainer(tiny_bert(num_labels=3)).train()
    set_seed(0)
    small = LlamaConfig(**SMALL, intermediate_size=32, num_key_value_heads=2, num_labels=3, pad_token_id=0)
    for student in (
        LlamaForSequenceClassification(small),
        LSTMStudentForSequenceClassification(LSTMStudentConfig(vocab_size=50, num_labels=3, pad_token_id=0)),
    ):
        trainer(student).train()


def test_models_that_cannot_be_padded_on_the_left():
    """BART numbers positions from the start of the padded row, and takes none."""
    student, _ = models("seq2seq", "")
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    with pytest.raises(ValueError, match="BartForConditionalGeneration numbers positions from the start"):
        position_ids(student, mask)
    assert position_ids(student, mask.flip(1)) is None
    assert position_ids(student, None) is None


# A longer prompt for the teacher


def contexts(rows, number=5):
    """The teacher reads `number` more tokens before the same reply."""

    def read(row, index):
        prompt, reply = row["input_ids"][:2], [*row["input_ids"][2:], 4, 5]
        context = np.random.default_rng(index).integers(3, 50, number).tolist()
        return {
            "input_ids": prompt + reply,
            "attention_mask": [1] * len(prompt + reply),
            "labels": [-100] * len(prompt) + reply,
            "teacher_input_ids": context + prompt + reply,
            "teacher_attention_mask": [1] * (number + len(prompt + reply)),
            "teacher_labels": [-100] * (number + len(prompt)) + reply,
        }

    return rows.map(read, with_indices=True)


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(45))]))
    return BertTokenizerFast(str(path))


LOSSES = ("forward_kl", "reverse_kl", "jensen_shannon", "skewed_kl", "total_variation", "logit_mse", "decoupled_kd")


def in_context(tmp_path, rows, teacher, **changes):
    tokenizers = changes.pop("tokenizers", (None, None))
    return DistillationTrainer(
        model("llama", 0),
        arguments(tmp_path, num_train_epochs=1, batch=4, **changes),
        Padding("right"),
        rows,
        processing_class=tokenizers[0],
        teacher_model=teacher,
        teacher_processing_class=tokenizers[1],
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_context_distillation_takes_every_divergence(tmp_path, loss):
    rows = contexts(language_rows())
    trainer = in_context(tmp_path, rows, model("gpt2", 1), soft_target_loss=loss)
    trainer.train()
    assert history(trainer, "soft_loss")[0] > 0


def test_context_distillation_compares_reply_with_reply(tmp_path, tokenizer):
    """Against a loop over rows of their own, live and cached."""
    rows, teacher = contexts(language_rows()), model("gpt2", 1)
    trainer = in_context(tmp_path, rows, teacher)
    expected = []
    for row in rows:
        with torch.no_grad():
            own = trainer.model(torch.tensor([row["input_ids"]])).logits[0, :-1]
            theirs = teacher(torch.tensor([row["teacher_input_ids"]])).logits[0, :-1]
        own = own[torch.tensor(row["labels"][1:]) != -100]
        expected += forward_kl(own, theirs[torch.tensor(row["teacher_labels"][1:]) != -100], 2.0).tolist()
    assert trainer.evaluate(rows)["eval_soft_loss"] == pytest.approx(np.mean(expected), abs=1e-8)
    cached = cache_teacher_outputs(
        rows, teacher.float(), task="text-generation", output_dir=tmp_path / "cache", dtype="float32"
    )
    kept = in_context(tmp_path, cached, None, tokenizers=(tokenizer, tokenizer))
    assert kept.evaluate(cached)["eval_soft_loss"] == pytest.approx(np.mean(expected), abs=1e-5)
    with pytest.raises(ValueError, match="do not line up"):  # whose vocabulary is not known
        in_context(tmp_path, cached, None)


def test_targets_that_are_other_tokens_are_no_context(tmp_path):
    """Of two vocabularies of one size, or where a prompt is missing before the first target."""
    rows = contexts(language_rows())
    others = rows.map(lambda row: {"teacher_labels": [t if t < 0 else (t + 1) % 50 for t in row["teacher_labels"]]})
    with pytest.raises(ValueError, match="labels and teacher_labels hold other tokens"):
        in_context(tmp_path, others, model("gpt2", 1)).train()
    bare = rows.map(
        lambda row: {
            name: row[name][2:] if name in ("input_ids", "attention_mask", "labels") else row[name] for name in row
        }
    )
    with pytest.raises(ValueError, match="a causal model's first token is never a target"):
        in_context(tmp_path, bare, model("gpt2", 1)).train()
    in_context(tmp_path, others, model("gpt2", 1), soft_target_loss="universal_logit_distance").train()
    cut = rows.map(lambda row: {name: row[name][:-1] if name.startswith("teacher") else row[name] for name in row})
    in_context(tmp_path, cut, model("gpt2", 1)).train()


def test_translation_with_a_longer_source_for_the_teacher(tmp_path):
    student, teacher = models("seq2seq", "")
    rows = datasets.Dataset.from_list(
        [
            {
                "input_ids": [*row["input_ids"], 3],
                "attention_mask": [*row["attention_mask"], 1],
                "labels": [*row["input_ids"], 2],
                "teacher_input_ids": [9, 8, *row["input_ids"], 3],
                "teacher_attention_mask": [1, 1, 1, *row["attention_mask"]],
                "teacher_labels": [*row["input_ids"], 2],
            }
            for row in tiny_rows(8)
        ]
    )
    expected = []
    for row in rows:
        with torch.no_grad():
            own, theirs = (
                each(input_ids=torch.tensor([row[name]]), labels=torch.tensor([row["labels"]])).logits[0]
                for each, name in ((student, "input_ids"), (teacher, "teacher_input_ids"))
            )
        expected += forward_kl(own, theirs, 2.0).tolist()
    trainer = DistillationTrainer(student, arguments(tmp_path), pad, rows, teacher_model=teacher)
    assert trainer.evaluate(rows)["eval_soft_loss"] == pytest.approx(np.mean(expected), abs=1e-8)


@pytest.mark.parametrize("pad_id", [7, None])
def test_a_decoder_that_classifies_knows_the_padding_of_its_rows(tmp_path, pad_id):
    set_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
        pad_token_id=0,
    )
    student = LlamaForSequenceClassification(config)
    keywords = {"teacher_model": tiny_bert(num_labels=3)}
    assert DistillationTrainer(student, arguments(tmp_path), pad, tiny_rows(8), **keywords).train().training_loss > 0
    student.config.pad_token_id = pad_id
    trainer = DistillationTrainer(student, arguments(tmp_path), pad, tiny_rows(8), **keywords)
    with pytest.raises(ValueError, match=f"padded with the token 0, .* pad_token_id, {pad_id}: .* model.config.pad_to"):
        trainer.train()
