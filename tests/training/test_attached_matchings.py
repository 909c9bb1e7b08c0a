"""Projections and discriminators are trained by whatever optimizer there is."""

import shutil
from functools import partial

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback, set_seed
from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

from hf_distill import AdversarialMatching, DistillationTrainer, HiddenStateMatching
from hf_distill.training.attached_matchings import NAME
from tests.conftest import collate, tiny_bert, tiny_rows
from tests.training.test_trainer import arguments, assert_same, history, weights


def wide_bert():
    """A teacher of another width than the student, so that states are projected."""
    set_seed(1)
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 40}
    return BertForSequenceClassification(
        BertConfig(vocab_size=50, hidden_size=32, num_labels=3, initializer_range=0.2, **small)
    ).eval()


class Watch(TrainerCallback):
    """The matchings' parameters at the start and after the last step, and their learning rates."""

    def __init__(self):
        self.seen, self.rates = [], []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.seen.append({name: value.detach().clone() for name, value in getattr(model, NAME).named_parameters()})

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.rates.append([group["lr"] for group in optimizer.param_groups])

    @property
    def moved(self):
        """How far each weight came; a bias after the last layer of a relativistic discriminator has no gradient."""
        first, last = self.seen[0], self.seen[-1]
        return {name: (last[name] - first[name]).abs().max().item() for name in first if name.endswith("weight")}


def matched(tmp_path, matching=None, rows=None, **changes):
    watch = Watch()
    keywords = {name: changes.pop(name) for name in ("optimizers", "optimizer_cls_and_kwargs") if name in changes}
    if "optimizers" in keywords:
        keywords["optimizers"] = keywords["optimizers"](student := tiny_bert(num_labels=3))
    else:
        student = tiny_bert(num_labels=3)
    trainer = DistillationTrainer(
        student,
        arguments(tmp_path, **changes),
        teacher_model=wide_bert(),
        matching=matching or [HiddenStateMatching({-1: -1})],
        train_dataset=tiny_rows(16) if rows is None else rows,
        data_collator=collate,
        callbacks=[watch],
        **keywords,
    )
    return trainer, watch


def test_an_optimizer_of_ones_own_trains_the_projections(tmp_path):
    """As Trainer's does: with the same settings the losses are the same."""
    usual, watch = matched(tmp_path)
    usual.train()
    own, other = matched(tmp_path, optimizers=lambda model: (torch.optim.SGD(model.parameters(), lr=0.05), None))
    own.train()
    assert min(watch.moved.values()) > 0
    assert other.moved == pytest.approx(watch.moved)
    assert history(own, "hidden_state_loss") == pytest.approx(history(usual, "hidden_state_loss"))


@pytest.mark.parametrize(
    "schedule",
    [
        partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.5**step),
        partial(lr_scheduler.ExponentialLR, gamma=0.5),
        partial(lr_scheduler.StepLR, step_size=1, gamma=0.5),
        partial(lr_scheduler.CosineAnnealingLR, T_max=10),
        partial(lr_scheduler.LinearLR, start_factor=0.1, total_iters=3),
    ],
)
def test_a_scheduler_of_ones_own_moves_the_projections_too(tmp_path, schedule):
    """In step with the rest, from the discriminators' own learning rate where they have one."""

    def optimizers(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        return optimizer, schedule(optimizer)

    trainer, watch = matched(
        tmp_path, [AdversarialMatching({-1: -1}, learning_rate=0.01)], optimizers=optimizers, lr_scheduler_type="linear"
    )
    trainer.train()
    rates = np.array(watch.rates)
    assert rates.shape == (4, 3)
    assert len(set(rates[:, 0])) == 4
    assert np.allclose(rates / rates[:, :1], [[1, 1, 0.2]])
    assert min(watch.moved.values()) > 0


def test_a_scheduler_that_cannot_be_extended_is_refused(tmp_path):
    def optimizers(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        return optimizer, lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=8)

    with pytest.raises(ValueError, match=r"OneCycleLR\): matching has parameters of its own.*\(optimizer, None\)"):
        matched(tmp_path, optimizers=optimizers)[0].train()
    layerwise = lambda model: (LayerWiseDummyOptimizer(lr=0.1), None)  # noqa: E731
    with pytest.raises(ValueError, match="Choose an optimizer that is not layer-wise"):
        matched(tmp_path, optimizers=layerwise)[0].train()


def test_an_optimizer_made_of_given_parameters(tmp_path):
    """As those of GaLore are, in `optimizer_cls_and_kwargs`."""
    trainer, watch = matched(tmp_path, optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.05}))
    trainer.train()
    assert min(watch.moved.values()) > 0
    student = [torch.nn.Parameter(torch.zeros(1))]
    given, watch = matched(tmp_path, optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.05, "params": student}))
    given.train()
    assert min(watch.moved.values()) > 0


@pytest.mark.parametrize("matching", [HiddenStateMatching({-1: -1}), AdversarialMatching({-1: -1}, learning_rate=0.01)])
def test_a_second_training_goes_on_with_the_projections(tmp_path, matching):
    """They stay in the optimizer that Trainer keeps, so that they move and can be resumed."""
    trainer, watch = matched(tmp_path, [matching], save_strategy="epoch")
    trainer.train()
    groups = [len(group["params"]) for group in trainer.optimizer.param_groups]
    last = watch.seen[-1]
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "kept")
    watch.seen.clear()
    trainer.train()
    assert min(watch.moved.values()) > 0
    assert any(not torch.equal(watch.seen[0][name], value) for name, value in last.items())  # of one more step
    assert [len(group["params"]) for group in trainer.optimizer.param_groups] == groups
    assert not hasattr(trainer.model, NAME)
    whole, _ = matched(tmp_path / "whole", [matching])
    whole.train()
    trainer.train(resume_from_checkpoint=str(tmp_path / "kept"))
    assert_same(weights(trainer), weights(whole))


def test_running_out_of_memory_once_keeps_the_groups(tmp_path):
    """Trainer prepares a second time within one training."""
    trainer, watch = matched(
        tmp_path, [AdversarialMatching({-1: -1}, learning_rate=0.01)], auto_find_batch_size=True, num_train_epochs=1
    )
    step, failed = trainer.training_step, []

    def once(*arguments, **kwargs):
        if not failed:
            failed.append(True)
            raise RuntimeError("CUDA out of memory.")
        return step(*arguments, **kwargs)

    trainer.training_step = once
    trainer.train()
    assert [len(group["params"]) > 0 for group in trainer.optimizer.param_groups] == [True] * 3
    assert {tuple(rates) for rates in watch.rates} == {(0.05, 0.05, 0.01)}
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(
        0.5 * first["hard_loss"] + 0.5 * first["soft_loss"] + first["adversarial_loss"], rel=1e-5
    )
