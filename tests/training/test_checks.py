"""What would train on something else than was meant is refused, with what was found and what to do."""

import datasets
import pytest
import torch
from torch.utils.data import Dataset
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from hf_distill import (
    DistillationArguments,
    DistillationTrainer,
    HiddenStateMatching,
    Seq2SeqDistillationArguments,
    Seq2SeqDistillationTrainer,
    cache_teacher_outputs,
)
from tests.cases import models, position_labels
from tests.cases import pad as pad_all
from tests.conftest import collate, tiny_bert, tiny_rows
from tests.training.test_trainer import arguments, history, weights


class Rows(Dataset):
    """A torch data set, whose columns are unknown before its rows are read."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def distil(tmp_path, rows, student=None, teacher=None, collator=collate, **changes):
    keywords = {name: changes.pop(name) for name in ("eval_dataset", "matching") if name in changes}
    return DistillationTrainer(
        student or tiny_bert(num_labels=3),
        arguments(tmp_path, num_train_epochs=1, **changes),
        teacher_model=teacher,
        train_dataset=rows,
        data_collator=collator,
        **keywords,
    )


# Labels


@pytest.mark.parametrize(
    ("label", "changes", "message"),
    [
        (-1, {}, r"labels: expected whole numbers from 0 to 2, .* got -1\. Number the classes from 0, and write -100"),
        (3, {}, "whole numbers from 0 to 2, .* got 3"),
        (0.5, {"problem_type": "single_label_classification"}, "whole numbers from 0 to 2, .* got 0.5"),
        ([0, 1, 0], {}, r"expected one number for each item, .* got \(3,\)"),
        ([0.0, 1.0], {}, r"expected 3 numbers for each item, .* got \(2,\)"),
        ([0.0, 1.0, -1.0], {}, r"numbers from 0 to 1, .* got -1\. .*\(or NaN\)"),
        ([0.0, 5.0, 1.0], {}, "numbers from 0 to 1, .* got 5"),
        ([0.0, 5.0, 1.0], {"num_labels": 1}, r"expected one number for each item, .* got \(3,\)"),
    ],
)
def test_labels_that_are_no_class_are_refused(tmp_path, label, changes, message):
    rows = tiny_rows(8).map(lambda row: {"labels": label})
    student = tiny_bert(**{"num_labels": 3, **changes})
    trainer = distil(tmp_path, rows, student, soft_target_weight=0.0, hard_label_weight=1.0)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    with pytest.raises(ValueError, match=message):
        trainer.evaluate(rows)


def test_a_step_without_any_target_is_told(tmp_path, caplog):
    rows = position_labels(tiny_rows(8), 50).map(lambda row: {"labels": [-100] * len(row["labels"])})
    student, teacher = models("causal", "single_label_classification")
    distil(tmp_path, rows, student, teacher, pad_all).train()
    assert "The first step has nothing to learn from: every label of its rows is -100" in caplog.text


def test_an_evaluation_without_labels_says_what_its_loss_is(tmp_path, caplog):
    sets = {"a": tiny_rows(8), "b": tiny_rows(8).rename_column("labels", "sentiment")}
    trainer = distil(tmp_path, tiny_rows(8), teacher=tiny_bert(seed=1, num_labels=3), eval_dataset=sets)
    found = trainer.evaluate()
    assert found["eval_b_loss"] == found["eval_b_soft_loss"]
    assert "no labels, so eval_b_loss is the loss on the soft targets" in caplog.text
    assert "eval_a_loss is" not in caplog.text


@pytest.mark.parametrize("teacher", [False, True])
@pytest.mark.parametrize("kind", ["dataset", "stream", "torch"])
def test_labels_under_another_name_are_refused(tmp_path, kind, teacher):
    rows = tiny_rows(8).rename_column("labels", "sentiment")
    given = {"dataset": rows, "stream": rows.to_iterable_dataset(), "torch": Rows(rows)}[kind]
    trainer = distil(
        tmp_path,
        given,
        teacher=tiny_bert(seed=1, num_labels=3) if teacher else None,
        soft_target_weight=0.5 * teacher,
        max_steps=1,
    )
    before = weights(trainer)
    with pytest.raises(
        ValueError, match=r"no `labels`.*'attention_mask', 'input_ids'.*[Rr]ename.*hard_label_weight=0"
    ) as told:
        trainer.train()
    assert ("sentiment" in str(told.value)) == (kind != "torch")
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())


def test_a_collator_that_keeps_label_is_refused(tmp_path):
    def keeps(rows):
        batch = collate([{name: value for name, value in row.items() if name != "label"} for row in rows])
        return batch | {"label": torch.tensor([row["label"] for row in rows])}

    rows = tiny_rows(8).rename_column("labels", "label")
    with pytest.raises(ValueError, match=r"no `labels`: it has \['attention_mask', 'input_ids', 'label'\]"):
        distil(tmp_path, rows, teacher=tiny_bert(seed=1, num_labels=3), collator=keeps).train()


@pytest.mark.parametrize("changes", [{}, {"hard_label_weight": 0.0, "hard_label_weight_end": 1.0}])
def test_rows_without_any_label_are_written_as_ignored(tmp_path, changes):
    teacher = tiny_bert(seed=1, num_labels=3)
    trainer = distil(tmp_path, tiny_rows(8, unlabelled=8), teacher=teacher, **changes)
    trainer.train()
    assert history(trainer, "hard_loss") == [0]
    with pytest.raises(ValueError, match="no `labels`"):
        distil(tmp_path, tiny_rows(8).remove_columns("labels"), teacher=teacher, **changes).train()
    alone = distil(tmp_path, tiny_rows(8).remove_columns("labels"), teacher=teacher, hard_label_weight=0.0)
    alone.train()
    assert history(alone, "soft_loss")[0] > 0


# Whose tokens the teacher reads


def teachers_own(row):
    return {
        "teacher_input_ids": [token % 30 + 3 for token in row["input_ids"]],
        "teacher_attention_mask": row["attention_mask"],
    }


def other_vocabulary(seed=1):
    model = tiny_bert(seed=seed, num_labels=3)
    model.resize_token_embeddings(60, mean_resizing=False)
    return model


REFUSED = "knows 50 tokens and the teacher 60, and the rows hold only the student's input_ids"


def test_every_data_set_has_the_teachers_tokens_or_is_refused(tmp_path):
    with_tokens, without = tiny_rows(8).map(teachers_own), tiny_rows(8, seed=7)
    pairs = [
        (without, with_tokens),
        (with_tokens, without),
        (with_tokens, {"a": with_tokens, "b": without}),
        (without, None),
    ]
    for train, evaluation in pairs:
        with pytest.raises(ValueError, match=REFUSED):
            distil(tmp_path, train, teacher=other_vocabulary(), eval_dataset=evaluation)
    trainer = distil(tmp_path, with_tokens, teacher=other_vocabulary(), eval_dataset={"a": with_tokens})
    trainer.train()
    assert trainer.evaluate()["eval_a_soft_loss"] > 0
    for rows in (without, Rows(without), {"c": without}):
        with pytest.raises(ValueError, match=REFUSED):
            trainer.evaluate(rows)
    with pytest.raises(ValueError, match=REFUSED):
        trainer.predict(without)
    # Without soft targets there is nothing to compare, and the student's loss on the labels remains.
    quiet = distil(
        tmp_path,
        with_tokens,
        teacher=other_vocabulary(),
        soft_target_weight=0.0,
        matching=[HiddenStateMatching({-1: -1}, granularity="sequence")],
    )
    found = quiet.evaluate(without)
    assert found["eval_loss"] > 0
    assert "eval_soft_loss" not in found
    without_tokens = distil(
        tmp_path,
        without,
        teacher=other_vocabulary(),
        soft_target_weight=0.0,
        matching=[HiddenStateMatching({-1: -1}, granularity="sequence")],
    )
    with pytest.raises(ValueError, match=REFUSED):
        without_tokens.train()


@pytest.mark.parametrize("kind", ["stream", "torch"])
def test_columns_that_are_unknown_beforehand_are_judged_by_their_batches(tmp_path, kind):
    def given(rows):
        return rows.to_iterable_dataset().map(lambda row: row) if kind == "stream" else Rows(rows)

    with_tokens, without = tiny_rows(16).map(teachers_own), tiny_rows(16)
    trainer = distil(tmp_path, given(with_tokens), teacher=other_vocabulary(), max_steps=2)
    trainer.train()
    known = distil(tmp_path, with_tokens, teacher=other_vocabulary(), max_steps=2, train_sampling_strategy="sequential")
    known.train()
    if kind == "stream":
        assert history(trainer, "soft_loss") == history(known, "soft_loss")
    with pytest.raises(ValueError, match=REFUSED):
        trainer.evaluate(given(without))
    with pytest.raises(ValueError, match=REFUSED):
        distil(tmp_path, given(without), teacher=other_vocabulary(), max_steps=2).train()


@pytest.mark.parametrize("task", ["token", "causal"])
def test_evaluation_rows_of_positions_that_do_not_line_up(tmp_path, task):
    """Tagging and language models: aligned training rows, and evaluation rows with the teacher's tokens alone."""
    student, teacher = models(task, "")
    rows = position_labels(tiny_rows(8), 4)
    aligned = rows.map(lambda row: {"word_starts": [1] * len(row["input_ids"])}) if task == "token" else rows
    aligned = aligned.map(
        lambda row: (
            {"teacher_input_ids": row["input_ids"], "teacher_attention_mask": row["attention_mask"]}
            | ({"teacher_word_starts": row["word_starts"]} if task == "token" else {"teacher_labels": row["labels"]})
        )
    )
    unaligned = aligned.remove_columns("teacher_word_starts" if task == "token" else "teacher_labels")
    trainer = distil(tmp_path, aligned, student, teacher, pad_all)
    assert trainer.evaluate(aligned)["eval_soft_loss"] > 0
    with pytest.raises(ValueError, match="do not line up"):
        distil(tmp_path, aligned, student, teacher, pad_all, eval_dataset={"a": aligned, "b": unaligned})
    with pytest.raises(ValueError, match="do not line up"):
        trainer.evaluate(unaligned)
    with pytest.raises(ValueError, match="do not line up"):
        trainer.evaluate(Rows(unaligned))


@pytest.mark.parametrize("kind", ["stream", "torch"])
def test_cached_columns_that_trainer_would_drop(tmp_path, kind):
    """Without a teacher and with plain arguments the class is Trainer, and these rows could not be known before."""
    rows = tiny_rows(8).add_column("teacher_logits", [[0.0, 1.0, 2.0]] * 8)

    def build(rows, cls):
        given = rows.to_iterable_dataset().map(lambda row: row) if kind == "stream" else Rows(rows)
        return DistillationTrainer(tiny_bert(num_labels=3), arguments(tmp_path, cls=cls, max_steps=1), collate, given)

    with pytest.raises(ValueError, match=r"The rows have teacher_logits.*Pass DistillationArguments"):
        build(rows, TrainingArguments).train()
    build(rows.remove_columns("teacher_logits"), TrainingArguments).train()
    distilled = build(rows, DistillationArguments)
    distilled.train()
    assert history(distilled, "soft_loss")[0] > 0


# Longer rows than the teacher's


def llama_classifier():
    set_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=50, intermediate_size=32, num_labels=3, pad_token_id=0, **small)
    return LlamaForSequenceClassification(config)


def test_rows_longer_than_the_teacher_reads(tmp_path):
    """40 positions: refused before the first step; what the collator cuts, or the teacher's own short rows, pass."""
    rows = tiny_rows(8).to_list()
    rows[5] |= {"input_ids": [7] * 41, "attention_mask": [1] * 41}
    long, student = datasets.Dataset.from_list(rows), llama_classifier()
    steps = []
    refused = pytest.raises(
        ValueError, match=r"A row of 41 tokens is longer than the 40 positions that the teacher has"
    )
    for train, evaluation in ((long, None), (tiny_rows(8), long), (tiny_rows(8), {"a": long})):
        trainer = distil(tmp_path, train, student, tiny_bert(seed=1, num_labels=3), eval_dataset=evaluation)
        trainer.training_step = lambda *arguments: steps.append(1)
        with refused:
            trainer.train()
    assert not steps
    with refused:
        distil(tmp_path, Rows(long), student, tiny_bert(seed=1, num_labels=3)).train()
    with refused:
        distil(tmp_path, tiny_rows(8), student, tiny_bert(seed=1, num_labels=3)).evaluate(long)

    def cuts(rows):
        return collate([{name: v[:40] if isinstance(v, list) else v for name, v in row.items()} for row in rows])

    distil(tmp_path, long, student, tiny_bert(seed=1, num_labels=3), cuts).train()
    short = long.map(lambda row: {"teacher_input_ids": [7, 8], "teacher_attention_mask": [1, 1]})
    distil(tmp_path, short, student, tiny_bert(seed=1, num_labels=3)).train()
    shuffled = long.select([number for number in range(8) if number != 5])
    distil(tmp_path, shuffled, student, tiny_bert(seed=1, num_labels=3)).train()


# A cache at another temperature


def test_an_evaluation_cache_at_another_temperature(tmp_path):
    """Evaluations use the settings of the last step; refused before the first."""
    student, teacher = models("causal", "")
    rows = position_labels(tiny_rows(8), 50)
    cached = {
        at: cache_teacher_outputs(
            rows, teacher, task="text-generation", output_dir=tmp_path / f"{at}", top_k=8, temperature=at
        )
        for at in (2.0, 3.0)
    }

    def build(train, evaluation, **changes):
        return distil(tmp_path, train, student.double(), None, pad_all, eval_dataset=evaluation, **changes)

    for evaluation in (cached[3.0], {"a": cached[2.0], "b": cached[3.0]}):
        with pytest.raises(ValueError, match=r"top-k cache was made at temperature 3 \(eval_dataset.*training is at 2"):
            build(cached[2.0], evaluation, temperature=2.0)
    assert build(cached[2.0], cached[2.0], temperature=2.0).evaluate()["eval_soft_loss"] > 0
    live = distil(
        tmp_path, rows, student, teacher, pad_all, eval_dataset=cached[3.0], temperature=2.0, temperature_end=3.0
    )
    assert live.evaluate()["eval_soft_loss"] > 0
    with pytest.raises(ValueError, match=r"temperature 2 \(the batch\)"):
        live.evaluate(cached[2.0])


# Names


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("eval_loss_soft", "eval_soft_loss"),
        ("loss_soft", "soft_loss"),
        ("eval_a_loss_soft", "eval_a_soft_loss"),
        ("loss_hard", "loss"),
    ],
)
def test_old_names_of_the_best_metric_are_refused(tmp_path, old, new):
    with pytest.raises(ValueError, match=f"metric_for_best_model='{old}' is called '{new}' now"):
        DistillationArguments(str(tmp_path), metric_for_best_model=old, use_cpu=True)
    with pytest.raises(ValueError, match=f"'{old}' is called '{new}' now"):
        DistillationTrainer(
            tiny_bert(num_labels=3),
            TrainingArguments(str(tmp_path), metric_for_best_model=old, use_cpu=True, report_to="none"),
            teacher_model=tiny_bert(seed=1, num_labels=3),
        )


@pytest.mark.parametrize("name", ["hard", "soft", "train", "eval", ""])
def test_matchings_whose_loss_is_logged_as_something_else(tmp_path, name):
    with pytest.raises(ValueError, match=rf"name='{name}' gives {name}_loss, which stands for something else"):
        distil(
            tmp_path,
            tiny_rows(8),
            teacher=tiny_bert(seed=1, num_labels=3),
            matching=[HiddenStateMatching({-1: -1}, name=name)],
        )


def test_label_is_no_other_name(tmp_path):
    """Collators of transformers rename it."""
    rows = (
        tiny_rows(8).map(lambda row: {"input_ids": [5, 6], "attention_mask": [1, 1]}).rename_column("labels", "label")
    )
    made = distil(tmp_path, rows, collator=default_data_collator, hard_label_weight=1.0, soft_target_weight=0.0)
    made.train()
    assert history(made, "hard_loss")[0] > 0


@pytest.mark.parametrize("name", ["mse", "eval_perplexity", "eval_a_rmse", "eval_teacher_kl", "wer"])
@pytest.mark.parametrize("cls", [DistillationArguments, Seq2SeqDistillationArguments])
def test_a_metric_that_falls_needs_its_direction(tmp_path, cls, name):
    with pytest.raises(ValueError, match=f"metric_for_best_model='{name}': less of it is better.*=False"):
        cls(str(tmp_path), metric_for_best_model=name, use_cpu=True)
    for given in (False, True):
        told = cls(str(tmp_path), metric_for_best_model=name, greater_is_better=given, use_cpu=True)
        assert told.greater_is_better is given
    assert cls(str(tmp_path), metric_for_best_model="eval_accuracy", use_cpu=True).greater_is_better is True


def test_arguments_without_generation_are_refused(tmp_path):
    student, teacher = models("seq2seq", "")
    with pytest.raises(
        TypeError, match=r"which DistillationArguments does not have\. Pass Seq2SeqDistillationArguments"
    ):
        Seq2SeqDistillationTrainer(student, arguments(tmp_path), pad_all, tiny_rows(8), teacher_model=teacher)
