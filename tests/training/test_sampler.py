"""The order of the rows: drawn again after a resume, and with a share of labelled rows however a step is cut."""

import datasets
import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import SeedableRandomSampler, prepare_data_loader
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, WeightedRandomSampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_distill import DistillationTrainer
from hf_distill.problems import TASKS
from hf_distill.training.sampler import (
    LabelledFractionSampler,
    RandomOrder,
    RecordedOrder,
    labelled_rows,
    resumable,
)
from tests.conftest import collate, tiny_bert, tiny_rows
from tests.training.test_trainer import arguments, assert_same, trained, weights


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9, 1.0])
def test_any_window_has_the_share(fraction):
    labelled = np.arange(200) % 20 == 0
    rows = list(LabelledFractionSampler(labelled, fraction, seed=3))
    assert len(rows) == 200
    for size in (8, 16, 50):
        for start in range(0, 200 - size, 7):
            assert abs(labelled[rows[start : start + size]].sum() - fraction * size) <= 1


def test_every_row_before_any_again_and_another_order_each_epoch():
    labelled = np.arange(60) < 20
    sampler = LabelledFractionSampler(labelled, 0.5)
    first = list(sampler)
    assert sorted(row for row in first if row >= 20) != sorted(range(20, 60))  # 30 of 40
    assert len({row for row in first if row >= 20}) == 30
    assert sorted([row for row in first if row < 20][:20]) == list(range(20))
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_rows_with_a_label():
    rows = tiny_rows(12, unlabelled=5)
    assert labelled_rows(rows).tolist() == [label != -100 for label in rows["labels"]]
    tags = rows.remove_columns("labels").add_column("labels", [[-100, number % 3 - 100] for number in range(12)])
    assert labelled_rows(tags).tolist() == [number % 3 > 0 for number in range(12)]


def test_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="of 4 rows 0 have one"):
        LabelledFractionSampler(np.zeros(4, dtype=bool), 0.5)
    with pytest.raises(ValueError, match="needs a data set of known length with a column `labels`"):
        labelled_rows(tiny_rows(4).remove_columns("labels"))
    with pytest.raises(ValueError, match="decides on the order of the rows, and so does train_sampling_strategy"):
        trained(
            tmp_path,
            tiny_bert(num_labels=3),
            tiny_rows(16, unlabelled=8),
            labelled_fraction=0.5,
            train_sampling_strategy="group_by_length",
            trainer_arguments={"teacher_model": tiny_bert(num_labels=3)},
        )


def test_the_cut_changes_nothing_and_a_resume_goes_on(tmp_path):
    made = []
    for batch, accumulation in ((8, 1), (2, 4)):
        trainer = trained(
            tmp_path,
            tiny_bert(num_labels=3).double(),
            tiny_rows(32, unlabelled=28),
            batch=batch,
            accumulation=accumulation,
            labelled_fraction=0.25,
            save_strategy="steps",
            save_steps=6,
            trainer_arguments={"teacher_model": tiny_bert(seed=1, num_labels=3).double()},
        )
        made.append(weights(trainer))
    assert_same(*made, 1e-9)
    resumed = DistillationTrainer(
        tiny_bert(num_labels=3).double(),
        trainer.args,
        teacher_model=tiny_bert(seed=1, num_labels=3).double(),
        train_dataset=tiny_rows(32, unlabelled=28),
        data_collator=collate,
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert_same(made[1], weights(resumed))


@pytest.mark.parametrize(("unlabelled", "warned"), [(28, True), (8, False), (0, False)])
def test_few_labels_are_warned_of(tmp_path, monkeypatch, unlabelled, warned):
    warnings = []
    monkeypatch.setattr("hf_distill.training.trainer.logger.warning", warnings.append)
    trainer = DistillationTrainer(
        tiny_bert(num_labels=3),
        arguments(tmp_path),
        teacher_model=tiny_bert(num_labels=3),
        train_dataset=tiny_rows(32, unlabelled=unlabelled),
        data_collator=collate,
    )
    trainer.get_train_dataloader()
    assert any("carries the whole loss on the labels" in message for message in warnings) is warned


@pytest.mark.parametrize("process", [0, 1])
def test_a_resume_in_the_middle_of_an_epoch_of_two_processes_draws_the_same_rows(process):
    """Accelerate's skipped batches hide a sampler from their `set_epoch`, so that the trainer tells it."""
    for make in (lambda: LabelledFractionSampler(np.arange(24) % 3 > 0, 0.5), lambda: RandomOrder(24, seed=3)):

        def loader(epoch, make=make):
            sampler = make()
            made = prepare_data_loader(
                DataLoader(list(range(24)), batch_size=4, sampler=sampler), num_processes=2, process_index=process
            )
            sampler.set_epoch(epoch)
            return made

        def batches(of, epoch):
            of.set_epoch(epoch)
            return [batch.tolist() for batch in of]

        first, second = (batches(loader(epoch), epoch) for epoch in (0, 1))
        assert first != second
        torch.manual_seed(process)  # the processes' random states differ
        assert batches(skip_first_batches(loader(1), 1), 1) == second[1:]


def test_the_order_of_accelerate():
    """For the seed of the training, `RandomOrder` is accelerate's own order of each epoch."""
    torch.manual_seed(7)
    theirs = SeedableRandomSampler(range(50))
    ours = RandomOrder(50, seed=7)
    for epoch in range(3):
        theirs.set_epoch(epoch)
        ours.set_epoch(epoch)
        assert list(theirs) == list(ours)
    assert len(ours) == 50


def test_an_order_is_drawn_again_from_what_was_recorded():
    sampler = LengthGroupedSampler(4, lengths=[number % 7 for number in range(60)])
    torch.manual_seed(1)
    plain, state = list(sampler), torch.get_rng_state()
    torch.manual_seed(1)
    recorded = RecordedOrder(sampler, processes=1)
    assert (list(recorded), len(recorded)) == (plain, 60)
    assert torch.equal(torch.get_rng_state(), state)  # what follows is not moved
    resumed = RecordedOrder(sampler, processes=1)
    resumed.resumed = (2, recorded.drawn_from)
    resumed.set_epoch(2)
    assert list(resumed) == plain
    assert list(resumed) != plain  # once
    resumed.resumed = (2, recorded.drawn_from)
    resumed.set_epoch(3)
    assert list(resumed) != plain  # of another epoch


def test_which_samplers_are_replaced():
    rows = range(10)
    own = torch.Generator()
    assert type(resumable(RandomSampler(rows), 0, 1)) is RandomOrder
    assert type(resumable(WeightedRandomSampler([1.0] * 10, 10), 0, 1)) is RecordedOrder
    for stays in (
        None,
        SequentialSampler(rows),
        RandomSampler(rows, generator=own),
        LabelledFractionSampler(np.arange(9) < 3, 0.5),
    ):
        assert resumable(stays, 0, 1) is stays


def test_a_row_of_several_classes_is_labelled_as_the_loss_counts_it():
    """One class that was not scored leaves the row out of the loss; one token of a text does not."""
    labels = [[1.0, 0.0], [1.0, -100.0], [float("nan"), 0.0], [-100.0, -100.0]]
    rows = datasets.Dataset.from_dict({"labels": labels})
    assert labelled_rows(rows, per_position=False).tolist() == [True, False, False, False]
    counted = TASKS["text-classification"].label_mask({"labels": torch.tensor(labels)})
    assert counted.tolist() == labelled_rows(rows, per_position=False).tolist()
    assert labelled_rows(rows).tolist() == [True, True, True, False]
