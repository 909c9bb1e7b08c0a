"""A training that was cut and resumed ends as one that was not: the same weights, logs and evaluations, bit for bit."""

import itertools
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertTokenizer, Trainer, TrainerCallback, TrainingArguments

from hf_distill import (
    AdversarialMatching,
    AttentionMatching,
    DistillationArguments,
    DistillationTrainer,
    HiddenStateMatching,
    RelationMatching,
    VariationalMatching,
    cache_teacher_outputs,
)
from hf_distill.data import Augment, FreshTexts
from hf_distill.training.resuming import NAME
from tests.cases import build as build_case
from tests.conftest import collate, tiny_bert, tiny_rows

LAYERS = {1: 1, -1: -1}
MATCHINGS = {
    "none": tuple,
    "hidden states": lambda: [HiddenStateMatching(LAYERS, weight=0.3)],
    "attention": lambda: [AttentionMatching({-1: -1}, weight=0.3)],
    "relations": lambda: [RelationMatching(LAYERS, weight=0.3)],
    "variational": lambda: [VariationalMatching(LAYERS, weight=0.3, latent_size=4)],
    "adversarial": lambda: [AdversarialMatching({-1: -1}, weight=0.3)],
}
SAMPLINGS: dict[str, dict[str, Any]] = {
    "random": {},
    "lengths": {"train_sampling_strategy": "group_by_length"},
    "rebalanced": {"train_sampling_strategy": "batch_rebalance"},
    "sequential": {"train_sampling_strategy": "sequential"},
    "labelled": {"labelled_fraction": 0.5},
}
STEPS = 15  # three epochs of five, and one batch more or less at a half of accumulation


class Cut(TrainerCallback):
    """Ends a training as Ctrl-C does, after its checkpoint at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def scramble() -> None:
    """Another random state than any training has."""
    random.seed(99)
    np.random.seed(98)
    torch.manual_seed(97)


def outcome(trainer: Any) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """The weights, and what was logged but for times and for the mean over this call's own steps."""
    timed = ("runtime", "per_second", "train_loss", "total_flos", "preparation_time")
    logs = [{k: v for k, v in entry.items() if not any(t in k for t in timed)} for entry in trainer.state.log_history]
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}, logs


def assert_equal(one: Any, other: Any) -> None:
    for name, value in one[0].items():
        assert torch.equal(value, other[0][name]), name
    assert one[1] == other[1]


def undisturbed(folder: Any, build: Any, step: int) -> tuple[Any, Any]:
    """The outcomes of an unbroken training, and of one that is cut after a step and resumed with a new trainer."""
    unbroken = build(folder / "unbroken", ())
    unbroken.train()
    scramble()
    broken = build(folder / "broken", (Cut(step),))
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    broken.accelerator.wait_for_everyone()  # another process may still be writing the checkpoint
    scramble()
    resumed = build(folder / "broken", ())
    scramble()
    resumed.train(resume_from_checkpoint=str(folder / "broken" / f"checkpoint-{step}"))
    return outcome(unbroken), outcome(resumed)


def rows_of(rows: Any, kind: type) -> Any:
    if rows is None:
        return tiny_rows(19, unlabelled=6 if kind is DistillationArguments else 0)
    return rows() if callable(rows) else rows


def classifier(sampling="random", accumulation=1, matching="none", rows=None, kind=DistillationArguments, **changes):
    """Builds a trainer of a tiny classifier with dropout, from its folder and its callbacks."""

    def build(folder, callbacks):
        trainer = DistillationTrainer(
            tiny_bert(num_labels=3, dropout=0.3, attn_implementation="eager"),
            kind(
                str(folder),
                **{
                    "per_device_train_batch_size": 4 // accumulation,
                    "gradient_accumulation_steps": accumulation,
                    "max_steps": STEPS,
                    "learning_rate": 5e-3,
                    "logging_steps": 4,
                    "eval_strategy": "steps",
                    "eval_steps": 5,
                    "save_strategy": "steps",
                    "save_steps": 7,
                    "report_to": "none",
                    "use_cpu": True,
                    "disable_tqdm": True,
                    **SAMPLINGS[sampling],
                    **changes,
                },
            ),
            teacher_model=tiny_bert(seed=1, num_labels=3, attn_implementation="eager")
            if kind is DistillationArguments
            else None,
            matching=MATCHINGS[matching](),
            train_dataset=rows_of(rows, kind),
            eval_dataset=tiny_rows(8, seed=3),
            data_collator=collate,
            callbacks=list(callbacks),
        )
        return trainer

    return build


@pytest.mark.parametrize(
    ("sampling", "accumulation", "matching", "step"),
    [
        ("random", 2, "none", 7),
        ("lengths", 1, "adversarial", 7),
        ("labelled", 1, "none", 10),
    ],
)
def test_a_resumed_training_is_undisturbed(tmp_path, sampling, accumulation, matching, step):
    assert_equal(*undisturbed(tmp_path, classifier(sampling, accumulation, matching, save_steps=step), step))


# Each sampling, accumulation and matching with each other, these two without accumulation; the places of the cut take
# turns.
ALONE = ("attention", "relations")
GRID = [each for each in itertools.product(SAMPLINGS, (1, 4), MATCHINGS) if each[1] == 1 or each[2] not in ALONE]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("sampling", "accumulation", "matching", "step"),
    [(*each, (6, 8, 10, 15, 9)[number % 5]) for number, each in enumerate(GRID)],
)
def test_every_sampling_accumulation_and_matching(tmp_path, sampling, accumulation, matching, step):
    build = classifier(sampling, accumulation, matching, save_steps=step)
    assert_equal(*undisturbed(tmp_path, build, step))


@pytest.mark.faults
@pytest.mark.parametrize("sampling", ["random", "lengths"])
@pytest.mark.parametrize(
    "changes",
    [
        {"kind": TrainingArguments},
        {"dataloader_num_workers": 2},
        {"lr_scheduler_type": "constant", "weight_decay": 0.1},
        {"eval_strategy": "epoch", "logging_strategy": "epoch"},
        {"save_strategy": "epoch", "eval_strategy": "epoch"},
        {"temperature_end": 1.0, "soft_target_weight_end": 0.0, "hard_label_weight_end": 1.0},
        {"load_best_model_at_end": True, "eval_steps": 5, "save_steps": 5},
        {"accelerator_config": {"use_seedable_sampler": False}},
        {"data_seed": 11},
        {"max_steps": 8, "lr_scheduler_type": "constant"},  # cut after the last step, in the middle of an epoch
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_settings(tmp_path, sampling, changes):
    step = {"max_steps": 8, "eval_strategy": 10, "save_strategy": 10, "load_best_model_at_end": 10}.get(
        next(iter(changes)), 7
    )
    assert_equal(*undisturbed(tmp_path, classifier(sampling, **{"save_steps": step, **changes}), step))


@pytest.mark.parametrize("step", [8, *(pytest.param(step, marks=pytest.mark.faults) for step in (10, 12))])
def test_a_stream_goes_on_in_its_second_pass(tmp_path, step):
    """Ten batches a pass: two accumulated, five steps a pass; read by workers or not."""
    rows = tiny_rows(40, unlabelled=9).to_iterable_dataset(num_shards=2).shuffle(seed=5, buffer_size=16)
    build = classifier(accumulation=2, rows=rows, per_device_train_batch_size=4, save_steps=step, max_steps=14)
    assert_equal(*undisturbed(tmp_path, build, step))


@pytest.mark.faults
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("matching", ["none", "hidden states"])
def test_streams(tmp_path, workers, matching):
    rows = tiny_rows(40, unlabelled=9).to_iterable_dataset(num_shards=2)
    build = classifier(rows=rows, matching=matching, dataloader_num_workers=workers, save_steps=12)
    assert_equal(*undisturbed(tmp_path, build, 12))


@pytest.mark.faults
@pytest.mark.parametrize("workers", [0, 2])
def test_fresh_texts(tmp_path, workers):
    """Other texts in each epoch, and those of the epoch in progress after a resume."""
    words = [*"abcdefghij", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"), model_max_length=32)
    texts = [" ".join(np.random.default_rng(number).choice(words[:10], 6)) for number in range(12)]
    build = classifier(
        rows=lambda: FreshTexts(texts, Augment(texts=20, replace=0.3), tokenizer),
        dataloader_num_workers=workers,
        hard_label_weight=0.0,
        soft_target_weight=1.0,
        eval_strategy="no",
    )
    assert_equal(*undisturbed(tmp_path, build, 7))


@pytest.mark.faults
@pytest.mark.parametrize("task", ["token", "seq2seq", "causal"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_models_of_tokens(tmp_path, task, accumulation):
    name = {"token": "tagging", "seq2seq": "seq2seq", "causal": "hidden states of a causal model"}[task]

    def build(folder, callbacks):
        trainer = build_case(
            name,
            folder,
            batch=4 // accumulation,
            accumulation=accumulation,
            train_sampling_strategy="group_by_length",
            optim="adamw_torch",
            learning_rate=1e-3,
            num_train_epochs=3,
            logging_steps=4,
            save_strategy="steps",
            save_steps=8,
            eval_strategy="epoch",
        )
        for callback in callbacks:
            trainer.add_callback(callback)
        return trainer

    assert_equal(*undisturbed(tmp_path, build, 8))


@pytest.mark.faults
def test_a_cache_of_logits_and_states(tmp_path):
    rows = cache_teacher_outputs(
        tiny_rows(19, unlabelled=6),
        tiny_bert(seed=1, num_labels=3),
        task="text-classification",
        output_dir=tmp_path / "cache",
        hidden_layers=[2],
    )

    def build(folder, callbacks):
        trainer = classifier("lengths", rows=rows)(folder, callbacks)
        return DistillationTrainer(
            tiny_bert(num_labels=3, dropout=0.3),
            trainer.args,
            matching=[HiddenStateMatching({-1: 2})],
            train_dataset=rows,
            eval_dataset=rows,
            data_collator=collate,
            callbacks=list(callbacks),
        )

    assert_equal(*undisturbed(tmp_path, build, 7))


@pytest.mark.faults
def test_what_is_skipped_on_demand_is_skipped_the_same_way_each_time(tmp_path):
    """`ignore_data_skip` begins the epoch anew, as Trainer documents it: in one way, whatever the random state."""
    build = classifier("lengths", save_steps=7, ignore_data_skip=True)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, (Cut(7),)).train()
    found = []
    for seed in (1, 2):
        trainer = build(tmp_path, ())
        torch.manual_seed(seed)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
        found.append(outcome(trainer))
    assert_equal(*found)


def test_a_checkpoint_of_an_older_version_is_told(tmp_path, caplog):
    build = classifier("lengths")
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, (Cut(7),)).train()
    (tmp_path / "checkpoint-7" / f"{NAME}.pth").unlink()
    build(tmp_path, ()).train(resume_from_checkpoint=True)
    assert "the epoch in progress is drawn in another order" in caplog.text


@pytest.mark.parametrize("draws", [True, False])
def test_a_collator_that_draws_is_told_of(tmp_path, caplog, draws):
    def collating(rows):
        return collate(rows, extra=int(torch.rand(()) * 3) if draws else 1)

    build = classifier(save_steps=7, eval_strategy="no", max_steps=9)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, (Cut(7),)).train()
    trainer = build(tmp_path, ())
    trainer.data_collator.collator = collating
    trainer.train(resume_from_checkpoint=True)
    assert ("draws random numbers while batches are made" in caplog.text) is draws


def test_the_order_is_that_of_plain_trainer(tmp_path):
    """What was published before stays: the same rows in the same order as without any of this."""
    for sampling in ("random", "lengths"):
        orders = []
        for cls in (Trainer, DistillationTrainer):
            seen: list[list[list[int]]] = []

            def reading(rows, seen=seen):
                seen.append([list(row["input_ids"]) for row in rows])
                return collate(rows)

            trainer = cls(
                tiny_bert(num_labels=3, dropout=0.3),
                TrainingArguments(
                    str(tmp_path),
                    per_device_train_batch_size=4,
                    num_train_epochs=2,
                    use_cpu=True,
                    report_to="none",
                    save_strategy="no",
                    **SAMPLINGS[sampling],
                ),
                train_dataset=tiny_rows(19),
                data_collator=reading,
            )
            trainer.train()
            orders.append(seen)
        assert orders[0] == orders[1]


@pytest.mark.processes
def test_two_processes(tmp_path):
    """Each with dropout of its own: all rows once an epoch, in one order, and the same ones after a resume."""
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    command = [
        sys.executable,
        "-m",
        *launch.split(),
        "--main_process_port",
        "0",
        "--dynamo_backend",
        "no",
        "-m",
        "tests.training.test_resuming",
    ]
    ended = subprocess.run(
        [*command, str(tmp_path)], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=800
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


def main() -> None:
    """Under two processes: a training cut in the middle of its second epoch."""
    folder = Path(sys.argv[1])
    for sampling in SAMPLINGS:
        build = classifier(sampling, per_device_train_batch_size=2, ddp_backend="gloo")
        assert_equal(*undisturbed(folder / sampling, build, 7))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
