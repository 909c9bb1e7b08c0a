"""The last batch of an epoch under several processes; whole trainings of two: tests/recipes/test_processes.py."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import BatchSampler

from hf_distill.training.last_batch import Uncounted, without_repeated_rows


def trainer(process, *, rows=21, processes=3, size=4, at_end=True, drop_last=False, **settings):
    loader = SimpleNamespace(end_of_dataloader=at_end, remainder=rows % (size * processes), dataset=None)
    return SimpleNamespace(
        accelerator=SimpleNamespace(
            gradient_state=SimpleNamespace(active_dataloader=loader),
            dataloader_config=DataLoaderConfiguration(**settings),
        ),
        args=SimpleNamespace(
            world_size=processes, train_batch_size=size, process_index=process, dataloader_drop_last=drop_last
        ),
        train_dataset=None,
        _sampler=range(rows),
    )


@pytest.mark.parametrize("rows", range(1, 30))
def test_each_row_counts_once(rows):
    """Whatever accelerate repeats to fill up the batches of the last step."""
    counted = []
    for process in range(3):
        batches = list(BatchSamplerShard(BatchSampler(range(rows), 4, drop_last=False), 3, process))
        for number, batch in enumerate(batches):
            inputs = {"input_ids": torch.tensor(batch), "labels": torch.tensor(batch), "scale": torch.tensor(1.0)}
            at_end = number == len(batches) - 1
            found = without_repeated_rows(inputs, trainer(process, rows=rows, at_end=at_end))
            assert len(found["input_ids"]) == len(found["labels"]) > 0
            assert found["scale"] == 1
            counted += [] if isinstance(found, Uncounted) else found["input_ids"].tolist()
    assert sorted(counted) == list(range(rows))


@pytest.mark.parametrize(
    "settings",
    [{"processes": 1}, {"at_end": False}, {"drop_last": True}, {"split_batches": True}, {"even_batches": False}],
)
def test_batches_without_repetitions_stay(settings):
    inputs = {"input_ids": torch.arange(4)}
    assert without_repeated_rows(inputs, trainer(0, rows=1, **settings)) is inputs
