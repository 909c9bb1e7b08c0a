"""Language models whose student has a vocabulary of its own, and teachers that only their forward can shift labels
for."""

import numpy as np
import pytest
import torch
from transformers import BertTokenizerFast, GenerationConfig, M2M100Config, M2M100ForConditionalGeneration, set_seed

from hf_distill import (
    HiddenStateMatching,
    LSTMStudentConfig,
    LSTMStudentForSeq2SeqLM,
    Seq2SeqDistillationArguments,
    Seq2SeqDistillationTrainer,
    cache_teacher_outputs,
)
from hf_distill.losses import forward_kl, universal_logit_distance
from hf_distill.training.collator import TeacherColumnsCollator
from tests.cases import models, pad, position_labels, two_vocabularies
from tests.conftest import tiny_rows
from tests.training.test_trainer import arguments, assert_same, history, weights

NAMES = {"causal": "text-generation", "seq2seq": "translation"}
VOCABULARY = 70  # the teacher's; the student's is 50
ULD = {"soft_target_loss": "universal_logit_distance"}


def written_twice(task, number=12):
    return two_vocabularies(position_labels(tiny_rows(number), 50), task, VOCABULARY)


def taught(tmp_path, task, rows, teacher=None, student=None, **changes):
    """A trainer of one of two vocabularies, not trained yet."""
    keywords = {name: changes.pop(name) for name in ("matching", "teacher_processing_class") if name in changes}
    return Seq2SeqDistillationTrainer(
        student or models(task, "")[0],
        arguments(tmp_path, Seq2SeqDistillationArguments, **{"batch": 4, **ULD, **changes}),
        teacher_model=teacher,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=pad,
        **keywords,
    )


def targets_of(model, task, ids, labels):
    """The model's logits at the targets of one row, without any padding."""
    ids, labels = torch.tensor([ids], device=model.device), torch.tensor([labels], device=model.device)
    with torch.no_grad():
        if task == "seq2seq":
            return model(input_ids=ids, labels=labels).logits[0, labels[0] != -100].cpu()
        return model(input_ids=ids).logits[0, :-1][labels[0, 1:] != -100].cpu()


def meetings(student, teacher, task, rows):
    """The logits of the k-th target of each row on both sides, and how many targets both have: (3, rows)."""
    pairs, numbers = [], []
    for row in rows:
        ours = targets_of(student, task, row["input_ids"], row["labels"])
        theirs = targets_of(teacher, task, row["teacher_input_ids"], row["teacher_labels"])
        pairs += list(zip(ours, theirs, strict=False))
        numbers.append((len(ours), len(theirs)))
    return pairs, numbers


@pytest.mark.parametrize("task", NAMES)
def test_the_kth_target_meets_the_kth(tmp_path, task, caplog):
    """Against a loop over rows of their own; and what lies beyond the shorter side is said once."""
    student, teacher = models(task, "", VOCABULARY)
    rows = written_twice(task)
    trainer = taught(tmp_path, task, rows, teacher, student, num_train_epochs=1)
    pairs, numbers = meetings(student, teacher, task, rows)
    expected = [universal_logit_distance(ours, theirs, 2.0).item() for ours, theirs in pairs]
    assert trainer.evaluate()["eval_soft_loss"] == pytest.approx(np.mean(expected), abs=1e-8)
    trainer.train()
    ours, theirs = np.array(numbers).T
    share, other = (np.maximum(a - b, 0).sum() / a.sum() for a, b in ((ours, theirs), (theirs, ours)))
    assert share > 0 < other
    said = [record.getMessage() for record in caplog.records if "universal_logit_distance" in record.getMessage()]
    assert len(said) == 1
    assert (
        said[0].startswith(f"{share:.1%} of the student's targets") and f"and {other:.1%} of the teacher's" in said[0]
    )


@pytest.mark.parametrize("task", NAMES)
def test_a_cache_says_what_the_live_teacher_says(tmp_path, task):
    """All logits, all tokens as the top k, and fewer of them, which miss at most twice what they leave out."""
    rows = written_twice(task).add_column("note", ["x"] * 12)
    _, teacher = models(task, "", VOCABULARY)
    live = taught(tmp_path, task, rows, teacher)
    live.train()
    soft = {}
    for top_k in (None, VOCABULARY, 16):
        cached = cache_teacher_outputs(
            rows,
            teacher.float(),
            task=NAMES[task],
            output_dir=tmp_path / f"cache-{top_k}",
            dtype="float32",
            top_k=top_k,
            temperature=2.0 if top_k else 1.0,
        )
        cuts = ((4, 1), (1, 4)) if top_k == 16 else ((4, 1),)
        made = [taught(tmp_path, task, cached, batch=batch, accumulation=times) for batch, times in cuts]
        for each in made:
            each.train()
        soft[top_k] = np.array(history(made[0], "soft_loss"))
        if top_k == 16:
            assert_same(*(weights(each) for each in made), 1e-8)
            assert np.allclose(history(made[1], "soft_loss"), soft[top_k], atol=1e-6)
        else:
            assert_same(weights(live), weights(made[0]), 1e-5)
    whole = np.array(history(live, "soft_loss"))
    assert np.allclose(soft[VOCABULARY], whole, atol=1e-5)
    kept = [torch.tensor(each) for row in cached for each in row["teacher_top_k_logits"]]
    tails = torch.tensor([tail for row in cached for tail in row["teacher_tail"]])
    rest = torch.sigmoid(tails - torch.stack(kept).div(2).logsumexp(-1)).max().item()
    assert 1e-4 < whole[0] - soft[16][0] < 2 * 2.0 * rest


@pytest.mark.parametrize("task", NAMES)
def test_a_stream_keeps_the_teachers_labels(tmp_path, task):
    rows = written_twice(task)
    _, teacher = models(task, "", VOCABULARY)
    cached = cache_teacher_outputs(
        rows, teacher, task=NAMES[task], output_dir=tmp_path / "cache", dtype="float32"
    ).add_column("note", ["x"] * 12)
    made = []
    for given in (cached, cached.to_iterable_dataset()):
        made.append(taught(tmp_path, task, given, max_steps=3, train_sampling_strategy="sequential"))
        made[-1].train()
    assert_same(weights(made[0]), weights(made[1]), 1e-9)


def test_a_teacher_that_pads_on_the_left(tmp_path):
    """Its labels and its cached columns go to the side that its tokens go to."""
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    tokenizer = BertTokenizerFast(str(path), padding_side="left")
    rows = written_twice("causal")
    _, teacher = models("causal", "", VOCABULARY)
    cached = cache_teacher_outputs(rows, teacher, task="text-generation", output_dir=tmp_path / "c", dtype="float32")
    found = []
    for given, live, side in ((rows, teacher, None), (rows, teacher, tokenizer), (cached, None, tokenizer)):
        trainer = taught(tmp_path, "causal", given, live, teacher_processing_class=side)
        found.append(trainer.evaluate()["eval_soft_loss"])
    assert found[1:] == pytest.approx(found[:1] * 2, abs=1e-6)
    batch = TeacherColumnsCollator(pad, tokenizer)([cached[0], cached[1]])
    longer, shorter = sorted((0, 1), key=lambda number: -len(cached[number]["teacher_labels"]))
    missing = len(cached[longer]["teacher_labels"]) - len(cached[shorter]["teacher_labels"])
    assert missing > 0
    assert batch["teacher_labels"][shorter, :missing].tolist() == [-100] * missing
    assert not batch["teacher_logits"][shorter, :missing].any()
    assert batch["teacher_labels"].shape == batch["teacher_input_ids"].shape == batch["teacher_logits"].shape[:2]


@pytest.mark.parametrize("task", NAMES)
def test_two_vocabularies_need_their_loss_and_their_targets(tmp_path, task):
    rows = written_twice(task)
    _, teacher = models(task, "", VOCABULARY)
    said = rows.add_column("teacher_logits", [[[0.0] * VOCABULARY] * len(row["teacher_labels"]) for row in rows])
    refused = pytest.raises(
        ValueError,
        match=rf"of {NAMES[task]} do not line up.*teacher_labels .* set soft_target_loss=\"universal_logit_distance\"",
    )
    with refused:
        taught(tmp_path, task, rows, teacher, soft_target_loss="forward_kl")
    with refused:
        taught(tmp_path, task, said, soft_target_loss="reverse_kl")
    with refused:
        taught(tmp_path, task, rows.remove_columns("teacher_labels"), teacher)
    with refused:
        taught(tmp_path, task, said.to_iterable_dataset(), soft_target_loss="forward_kl", max_steps=1).train()
    # Read at use: a search may change it.
    later = taught(tmp_path, task, said)
    later.args.soft_target_loss = "forward_kl"
    with refused:
        later.train()
    quiet = taught(tmp_path, task, rows, teacher, soft_target_loss="forward_kl", soft_target_weight=0.0)
    assert "eval_soft_loss" not in quiet.evaluate()


def test_a_cache_of_another_reading(tmp_path):
    rows = written_twice("causal")
    said = rows.add_column("teacher_logits", [[[0.0] * VOCABULARY] * (len(row["teacher_labels"]) + 1) for row in rows])
    with pytest.raises(ValueError, match=r"teacher_logits has \d+ entries for \d+ of teacher_labels"):
        taught(tmp_path, "causal", said).train()
    with pytest.raises(ValueError, match="do not line up"):  # one row a token, of which nothing says whose target it is
        taught(tmp_path, "causal", said.remove_columns("teacher_labels"))
    _, teacher = models("causal", "", VOCABULARY)
    short = rows.map(lambda row: {"teacher_labels": row["teacher_labels"][1:]})
    with pytest.raises(ValueError, match="teacher_labels must have one entry a token of teacher_input_ids"):
        taught(tmp_path, "causal", short, teacher).train()


@pytest.mark.parametrize("task", NAMES)
def test_inner_states_of_two_vocabularies_meet_as_sequences(tmp_path, task):
    trainer = taught(
        tmp_path,
        task,
        written_twice(task),
        models(task, "", VOCABULARY)[1],
        matching=[HiddenStateMatching({-1: -1}, granularity="sequence")],
    )
    trainer.train()
    states = history(trainer, "hidden_state_loss")
    assert 0 < states[-1] < states[0]


# Decoders that no method shifts labels for


def tiny_m2m(seed, vocabulary=50, start=2):
    set_seed(seed)
    return M2M100ForConditionalGeneration(
        M2M100Config(
            vocab_size=vocabulary,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_position_embeddings=40,
            dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            encoder_layerdrop=0.0,
            decoder_layerdrop=0.0,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
            decoder_start_token_id=start,
        )
    ).double()


def tiny_lstm(vocabulary=50):
    set_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}
    config = LSTMStudentConfig(vocab_size=vocabulary, embedding_size=8, hidden_size=8, dropout=0.0, **ids)
    return LSTMStudentForSeq2SeqLM(config).double()


@pytest.mark.parametrize("student", [lambda: tiny_m2m(0), tiny_lstm])
def test_an_m2m100_teaches_from_its_own_start(tmp_path, student):
    """Live and cached, under a student of its own family and one whose decoder starts with another token."""
    teacher = tiny_m2m(1, start=3)
    rows = tiny_rows(8).map(lambda row: {"labels": row["input_ids"][::-1]})
    live = taught(tmp_path, "seq2seq", rows, teacher, student(), soft_target_loss="forward_kl")
    said = [targets_of(model, "seq2seq", row["input_ids"], row["labels"]) for row in rows for model in (teacher,)]
    own = [targets_of(live.model, "seq2seq", row["input_ids"], row["labels"]) for row in rows]
    expected = forward_kl(torch.cat(own), torch.cat(said), 2.0).mean().item()
    assert live.evaluate()["eval_soft_loss"] == pytest.approx(expected, abs=1e-8)
    cached = cache_teacher_outputs(
        rows, teacher.float(), task="translation", output_dir=tmp_path / "cache", dtype="float32", batch_size=3
    )
    kept = taught(tmp_path, "seq2seq", cached, student=student(), soft_target_loss="forward_kl")
    teacher.double()
    live.train()
    kept.train()
    assert_same(weights(live), weights(kept), 1e-5)


def test_an_m2m100_of_another_vocabulary(tmp_path):
    teacher, rows = tiny_m2m(1, VOCABULARY), written_twice("seq2seq")
    trainer = taught(tmp_path, "seq2seq", rows, teacher, tiny_lstm(), predict_with_generate=True)
    trainer.model.generation_config = GenerationConfig(
        max_length=5, decoder_start_token_id=0, eos_token_id=2, pad_token_id=0
    )
    pairs, _ = meetings(trainer.model, teacher, "seq2seq", rows)
    expected = np.mean([universal_logit_distance(ours, theirs, 2.0).item() for ours, theirs in pairs])
    assert trainer.evaluate()["eval_soft_loss"] == pytest.approx(expected, abs=1e-8)
    trainer.train()
    assert history(trainer, "soft_loss")[-1] < history(trainer, "soft_loss")[0]
