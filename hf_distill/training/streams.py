"""Streamed data sets under several processes."""

from collections.abc import Iterable, Mapping
from typing import Any

from accelerate import Accelerator
from torch.utils.data import IterableDataset


def read_in_processes(accelerator: Accelerator, datasets: Iterable[Any]) -> None:
    """Let every process read a stream itself, and keep its own share of each batch.

    By default one process reads and sends slices of one tensor to the others: batches that were padded to two lengths
    do not fit into one, and training ends in accelerate's error.

    Args:
        accelerator: whose settings are changed, unless its user has chosen (`accelerator_config`).
        datasets: of training and evaluation; dictionaries of several are looked into.
    """
    several = [
        each for dataset in datasets for each in (dataset.values() if isinstance(dataset, Mapping) else [dataset])
    ]
    settings = accelerator.dataloader_config
    if settings.dispatch_batches is None and any(isinstance(dataset, IterableDataset) for dataset in several):
        settings.dispatch_batches = False
