"""NaN and infinity stop a training at the step where they appear, and what was learned before is kept."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from hf_distill import (
    AdversarialMatching,
    DistillationArguments,
    DistillationTrainer,
    HiddenStateMatching,
    TeacherEnsemble,
    cache_teacher_outputs,
    columns,
)
from hf_distill.training.divergence import row_numbers
from tests.cases import models, pad, position_labels
from tests.conftest import collate, tiny_bert, tiny_rows
from tests.training.test_resuming import assert_equal, classifier, outcome, scramble

NAN, INFINITY = float("nan"), float("inf")


def run(folder, rows=None, teacher=None, student=None, **changes):
    matching = changes.pop("matching", ())
    collator = changes.pop("data_collator", collate)
    trainer = DistillationTrainer(
        tiny_bert(num_labels=3, dropout=0.3) if student is None else student,
        DistillationArguments(
            str(folder),
            **{
                "per_device_train_batch_size": 4,
                "num_train_epochs": 2,
                "train_sampling_strategy": "sequential",
                "save_strategy": "no",
                "logging_steps": 3,
                "report_to": "none",
                "use_cpu": True,
                "disable_tqdm": True,
                **changes,
            },
        ),
        teacher_model=teacher,
        matching=matching,
        train_dataset=tiny_rows(20) if rows is None else rows,
        data_collator=collator,
    )
    trainer.train()
    return trainer


class Failing(torch.nn.Module):
    """A teacher that returns something else from its n-th call on, or at that call alone."""

    def __init__(self, call: int, value: float = NAN, once: bool = False) -> None:
        super().__init__()
        self.model, self.config = (model := tiny_bert(seed=1, num_labels=3)), model.config
        self.call, self.value, self.once, self.calls = call, value, once, 0

    def forward(self, input_ids, attention_mask=None, **kwargs):
        output = self.model(input_ids, attention_mask, **kwargs)
        self.calls += 1
        if self.calls == self.call or (self.calls > self.call and not self.once):
            output.logits[2] = self.value
        return output


@pytest.mark.parametrize("value", [NAN, INFINITY])
@pytest.mark.parametrize("filtered", [True, False])
def test_a_live_teacher(tmp_path, value, filtered):
    with pytest.raises(ValueError) as raised:
        run(tmp_path, teacher=Failing(4, value), logging_nan_inf_filter=filtered)
    message = str(raised.value)
    assert message.startswith("Step 4: the teacher Failing returned NaN or infinity for row ")
    assert "14" in message.partition("row ")[2].partition(" of train_dataset")[0].split(", ")
    assert f"after step 3 is in {tmp_path / 'checkpoint-3'}." in message
    assert "dtype=torch.float32" in message
    assert (tmp_path / "checkpoint-3" / "model.safetensors").is_file()


def test_the_student_before_a_failure_goes_on_to_that_of_an_undisturbed_run(tmp_path):
    """A teacher that failed once: with the sums, the order and the random states of the moment before the step."""
    build = classifier("lengths", 2, "adversarial", save_strategy="no", logging_steps=4)
    unbroken = build(tmp_path / "unbroken", ())
    unbroken.train()
    broken = build(tmp_path / "broken", ())
    teacher = broken.teacher.members[0]
    plain, calls = teacher.forward, []

    def failing(*arguments, **kwargs):
        output = plain(*arguments, **kwargs)
        calls.append(len(output.logits))
        if len(calls) == 2 + 12 + 1 + 2:  # the second micro-batch of step 7, after an evaluation
            output.logits[1] = NAN
        return output

    teacher.forward = failing
    with pytest.raises(ValueError, match="returned NaN or infinity, and other numbers when asked again"):
        broken.train()
    (checkpoint,) = (tmp_path / "broken").glob("checkpoint-*")
    scramble()
    resumed = build(tmp_path / "broken", ())
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_equal(outcome(unbroken), outcome(resumed))


def test_a_member_of_an_ensemble_is_named(tmp_path):
    good, bad = tiny_bert(seed=1, num_labels=3), tiny_bert(seed=2, num_labels=3)
    bad.config._name_or_path = "user/overflows"
    with torch.no_grad():
        bad.classifier.weight[0, 0] = NAN
    with pytest.raises(ValueError, match=r"Step 1: the teacher user/overflows returned NaN .* Nothing was learned"):
        run(tmp_path, teacher=TeacherEnsemble([good, bad]))


@pytest.mark.parametrize("value", [NAN, INFINITY])
@pytest.mark.parametrize(
    ("name", "options", "matching"),
    [
        ("teacher_logits", {}, None),
        ("teacher_hidden_2", {"hidden_layers": [2]}, HiddenStateMatching),
        ("teacher_hidden_2", {"hidden_layers": [2]}, AdversarialMatching),
    ],
)
def test_a_column(tmp_path, value, name, options, matching):
    rows = cache_teacher_outputs(
        tiny_rows(20), tiny_bert(seed=1, num_labels=3), task="text-classification", output_dir=tmp_path / "c", **options
    )
    values = [row.tolist() for row in columns.all_numbers(rows, name)]
    changed = np.array(values[9])
    changed.flat[0] = value
    values[9] = changed.tolist()
    rows = rows.remove_columns(name).add_column(name, values)
    weights = {} if matching is None else {"soft_target_weight": 0.0, "matching": [matching({-1: 2})]}
    with pytest.raises(ValueError, match=f"Step 3: the column {name} holds NaN or infinity for row 9 of train_dataset"):
        run(tmp_path / "out", rows=rows, **weights)
    assert (tmp_path / "out" / "checkpoint-2").is_dir()


def test_a_column_of_top_k_logits(tmp_path):
    student, teacher = (model.float() for model in models("causal", "single_label_classification"))
    rows = position_labels(tiny_rows(20), 50)
    rows = cache_teacher_outputs(
        rows, teacher, task="text-generation", output_dir=tmp_path / "c", top_k=4, temperature=2.0, dtype="float32"
    )
    name = "teacher_top_k_logits"
    values = rows.with_format(None)[name][:]
    values[9] = [[NAN, *each[1:]] for each in values[9]]
    rows = rows.remove_columns(name).add_column(name, values, feature=rows.features[name])
    with pytest.raises(ValueError, match=f"Step 3: the column {name} holds NaN or infinity for row 9 of train_dataset"):
        run(tmp_path / "out", rows=rows, student=student, data_collator=pad)


def test_a_class_that_the_teacher_rules_out_is_allowed(tmp_path):
    trainer = run(tmp_path, teacher=Failing(1, torch.tensor([0.0, -INFINITY, 1.0])))
    assert trainer.state.global_step == 10
    with pytest.raises(ValueError, match=r"soft_loss of row .* one of them rules out \(-inf\) what the other does not"):
        run(tmp_path, teacher=Failing(1, torch.tensor([0.0, -INFINITY, 1.0])), soft_target_loss="reverse_kl")


def test_labels(tmp_path):
    rows = tiny_rows(20)
    labels = [0.5] * 20
    labels[2], labels[6] = NAN, INFINITY  # no label, and a label that is wrong
    rows = rows.remove_columns("labels").add_column("labels", labels)
    student = tiny_bert(num_labels=1, problem_type="regression")
    with pytest.raises(ValueError, match="Step 2: the labels hold infinity for row 6 of train_dataset"):
        run(tmp_path, rows=rows, student=student, hard_label_weight=1.0, soft_target_weight=0.0)


@pytest.mark.parametrize("filtered", [True, False])
def test_a_student_that_diverges(tmp_path, filtered):
    with pytest.raises(
        ValueError, match=r"(?s)(is|are) (not finite|NaN or infinity).*checkpoint-2.*Lower the learning"
    ):
        run(
            tmp_path,
            teacher=tiny_bert(seed=1, num_labels=3),
            learning_rate=1e38,
            optim="sgd",
            max_grad_norm=0.0,
            warmup_steps=4,
            lr_scheduler_type="constant_with_warmup",
            logging_nan_inf_filter=filtered,
            save_strategy="steps",
            save_steps=1,
            hard_label_weight=1e-30,
            soft_target_weight=1e-30,
        )


def test_gradients_alone(tmp_path):
    student = tiny_bert(num_labels=3)
    calls = []

    def strange(gradient):
        calls.append(0)
        return gradient * NAN if len(calls) == 3 else gradient

    student.classifier.bias.register_hook(strange)
    with pytest.raises(ValueError, match="Step 3: the gradients are not finite, and the loss is"):
        run(tmp_path, student=student, teacher=tiny_bert(seed=1, num_labels=3))
    assert (tmp_path / "checkpoint-2").is_dir()


def test_weights_are_looked_at_before_they_are_kept(tmp_path):
    """The last step makes them infinite: no loss follows that would tell."""

    class Spoiling(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == state.max_steps:
                kwargs["model"].classifier.bias.data.fill_(INFINITY)

    for strategy in ("no", "steps"):
        trainer = DistillationTrainer(
            tiny_bert(num_labels=3),
            DistillationArguments(
                str(tmp_path / strategy),
                max_steps=4,
                save_strategy=strategy,
                save_steps=2,
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
            ),
            teacher_model=tiny_bert(seed=1, num_labels=3),
            train_dataset=tiny_rows(20),
            data_collator=collate,
            callbacks=[Spoiling()],
        )
        with pytest.raises(ValueError, match=r"After step 4: classifier\.bias of the student is not finite"):
            trainer.train()
        assert sorted(path.name for path in Path(tmp_path / strategy).glob("checkpoint-*")) == (
            ["checkpoint-2"] if strategy == "steps" else []
        )


def test_an_evaluation(tmp_path):
    """A model chosen by NaN would be chosen by chance. The evaluation is made again after a resume."""
    rows = tiny_rows(8, seed=3)
    build = classifier(save_steps=5, load_best_model_at_end=True, metric_for_best_model="loss")
    unbroken = build(tmp_path / "unbroken", ())
    unbroken.train()
    broken = build(tmp_path / "broken", ())
    broken.eval_dataset = rows.add_column("teacher_logits", [[0.0, NAN if row == 5 else 1.0, 2.0] for row in range(8)])
    with pytest.raises(ValueError, match=r"after step 5: the eval soft loss is NaN for row 5: .*checkpoint-5"):
        broken.train()
    scramble()
    resumed = build(tmp_path / "broken", ())
    resumed.train(resume_from_checkpoint=True)
    assert_equal(outcome(unbroken), outcome(resumed))


def test_rows_by_their_tokens():
    rows = tiny_rows(30)
    batch = collate([rows[number] for number in (7, 21, 4)])
    assert row_numbers(rows, batch, [0, 2]) == [4, 7]
    assert row_numbers(rows.remove_columns("input_ids"), batch, [0]) == []
    assert row_numbers(rows.to_iterable_dataset(), batch, [0]) == []
