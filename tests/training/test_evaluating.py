"""Evaluation keys, the best checkpoint by them, and what `compute_loss` returns."""

import inspect

import pytest
import torch
from transformers import (
    EarlyStoppingCallback,
    Seq2SeqTrainer,
    Trainer,
    TrainingArguments,
    default_data_collator,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_distill import DistillationTrainer, HiddenStateMatching, Seq2SeqDistillationTrainer
from tests.conftest import collate, tiny_bert, tiny_rows
from tests.training.test_trainer import arguments, assert_same, history, trained, weights


def best(tmp_path, metric="eval_soft_loss", rate=0.1, evaluation=None, callbacks=None, **changes):
    return DistillationTrainer(
        tiny_bert(num_labels=3),
        arguments(
            tmp_path,
            **{
                "num_train_epochs": 4,
                "eval_strategy": "epoch",
                "save_strategy": "epoch",
                "learning_rate": rate,
                "load_best_model_at_end": True,
                "metric_for_best_model": metric,
                "hard_label_weight": 0.0,
                "soft_target_weight": 1.0,
                **changes,
            },
        ),
        teacher_model=tiny_bert(seed=1, num_labels=3),
        train_dataset=tiny_rows(48),
        eval_dataset=tiny_rows(24, seed=5) if evaluation is None else evaluation,
        data_collator=collate,
        callbacks=callbacks,
    )


@pytest.mark.parametrize("metric", ["eval_soft_loss", "soft_loss", "eval_loss", "eval_a_soft_loss"])
@pytest.mark.parametrize("rate", [0.1, 5.0])
def test_the_best_checkpoint_has_the_least_loss(tmp_path, metric, rate):
    """Whether training makes the loss fall or rise."""
    rows = tiny_rows(24, seed=5)
    trainer = best(tmp_path, metric, rate, {"a": rows, "b": rows} if "_a_" in metric else rows, max_grad_norm=0)
    assert trainer.args.greater_is_better is False
    trainer.train()
    key = metric if metric.startswith("eval_") else f"eval_{metric}"
    losses = history(trainer, key)
    assert len(losses) == 4
    assert len(set(losses)) > 1
    assert trainer.state.best_metric == min(losses)
    assert trainer.evaluate()[key] == pytest.approx(min(losses), abs=1e-6)


def test_training_stops_early_at_the_least_soft_loss(tmp_path):
    """With a learning rate that makes the loss rise after the first epochs."""
    stop = EarlyStoppingCallback(early_stopping_patience=1)
    trainer = best(tmp_path, rate=5.0, callbacks=[stop], max_grad_norm=0, num_train_epochs=20)
    trainer.train()
    losses = history(trainer, "eval_soft_loss")
    assert len(losses) < 20
    assert losses[-1] >= min(losses[:-1]) == trainer.state.best_metric
    assert losses == [*sorted(losses[:-1], reverse=True), losses[-1]]


def test_what_compute_loss_returns_is_what_trainers_returns(tmp_path):
    """Of an override that reads the outputs: by name, by number, as a mapping."""
    model, rows = tiny_bert(num_labels=3), tiny_rows(8)
    ours = DistillationTrainer(
        model, arguments(tmp_path, hard_label_weight=1.0, soft_target_weight=0.0), data_collator=collate
    )
    stock = Trainer(model, arguments(tmp_path, cls=TrainingArguments), data_collator=collate)
    found = [each.compute_loss(model, collate(list(rows)), return_outputs=True) for each in (stock, ours)]
    for (loss, outputs), (other, same) in [found]:
        assert torch.allclose(loss, other)
        assert type(outputs) is type(same) is SequenceClassifierOutput
        assert list(outputs) == list(same) == ["loss", "logits"]
        for index in (0, 1, "logits"):
            assert torch.allclose(outputs[index], same[index])
        assert same.logits is same[1]
        assert same.loss is other


class Overridden(DistillationTrainer):
    """As many are written: the outputs are used, and the count is forgotten."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        assert outputs.logits.shape[-1] == 3
        assert outputs.loss is loss
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize("matching", [False, True])
def test_an_override_that_drops_the_count(tmp_path, caplog, matching):
    """Uneven micro-batches are weighted as without it, and it is told."""
    keywords = {"teacher_model": tiny_bert(seed=1, num_labels=3)}
    made = []
    for cls in (DistillationTrainer, Overridden):
        keywords["matching"] = [HiddenStateMatching({-1: -1})] if matching else []
        made.append(
            trained(
                tmp_path,
                tiny_bert(num_labels=3),
                tiny_rows(22, unlabelled=9),
                cls,
                batch=2,
                accumulation=4,
                trainer_arguments=keywords,
            )
        )
    assert_same(weights(made[0]), weights(made[1]))
    assert history(made[0], "loss") == history(made[1], "loss")
    told = [record.getMessage() for record in caplog.records if "num_items_in_batch" in record.getMessage()]
    assert len(told) == 1
    loss = made[1].compute_loss(made[1].model, collate(list(tiny_rows(4))))
    assert loss.requires_grad


def parameters(cls):
    return [
        (name, parameter.kind)
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if parameter.kind is not parameter.KEYWORD_ONLY
    ]


def test_positional_arguments_are_trainers(tmp_path):
    assert parameters(DistillationTrainer) == parameters(Trainer)
    assert parameters(Seq2SeqDistillationTrainer) == parameters(Seq2SeqTrainer)
    for cls in (DistillationTrainer, Seq2SeqDistillationTrainer):
        names = [name for name, each in inspect.signature(cls).parameters.items() if each.kind is each.KEYWORD_ONLY]
        assert names == ["teacher_model", "teacher_processing_class", "matching"]
    rows = tiny_rows(8)
    trainer = DistillationTrainer(
        tiny_bert(num_labels=3), arguments(tmp_path), collate, rows, rows, teacher_model=tiny_bert(seed=1, num_labels=3)
    )
    trainer.train()
    assert trainer.evaluate()["eval_soft_loss"] > 0
    plain = DistillationTrainer(tiny_bert(), arguments(tmp_path, cls=TrainingArguments), default_data_collator, rows)
    assert plain.data_collator is default_data_collator


def test_out_of_memory_once_leaves_the_first_log_right(tmp_path):
    """And a second training begins its logs anew."""
    made = []
    for fails in (False, True):
        trainer = DistillationTrainer(
            tiny_bert(num_labels=3),
            arguments(tmp_path, batch=4 if not fails else 8, auto_find_batch_size=fails, logging_steps=3),
            teacher_model=tiny_bert(seed=1, num_labels=3),
            train_dataset=tiny_rows(16),
            data_collator=collate,
        )
        if fails:
            step, failed = trainer.training_step, []

            def once(*given, step=step, failed=failed):
                if not failed:
                    failed.append(True)
                    raise RuntimeError("CUDA out of memory.")
                return step(*given)

            trainer.training_step = once
        trainer.train()
        made.append(trainer)
    for trainer in made:
        for entry in trainer.state.log_history[:2]:
            assert entry["loss"] == pytest.approx(0.5 * entry["hard_loss"] + 0.5 * entry["soft_loss"], abs=1e-5)
    again = made[0]
    again.train()  # 8 steps are logged at 3 and 6: two are left over
    first = again.state.log_history[0]
    assert first["loss"] == pytest.approx(0.5 * first["hard_loss"] + 0.5 * first["soft_loss"], abs=1e-5)
