"""Streamed data sets under several processes."""

from collections.abc import Iterable, Iterator, Mapping
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


class CountedStream(IterableDataset):
    """A stream that knows how many rows it had, once it was read.

    Processes that read a stream themselves fill the last batch up with rows of the first one. Accelerate drops those
    from an evaluation only where it knows the number of rows.

    Args:
        rows: the stream.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows
        self.number: int | None = None

    def __iter__(self) -> Iterator[Any]:
        number = 0
        for row in self.rows:
            number += 1
            yield row
        self.number = number

    def set_epoch(self, epoch: int) -> None:
        """Another order for each epoch, where the stream has one."""
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)


def counted(dataset: Any, accelerator: Accelerator, workers: int) -> Any:
    """A stream as several processes read it: batches of the same rows as in one process, each row counted once.

    Accelerate would give each process files of its own, and those with more rows would wait for the others for ever.

    Args:
        dataset: any; all but streams that several processes read stay as they are.
        accelerator: of the trainer.
        workers: `dataloader_num_workers` of an evaluation.
    Raises:
        ValueError: worker processes read the stream, so that its length stays unknown.
    """
    by_processes = accelerator.num_processes > 1 and accelerator.dispatch_batches is False
    if not by_processes or not isinstance(dataset, IterableDataset):
        return dataset
    if workers:
        raise ValueError(
            f"A stream is evaluated by {accelerator.num_processes} processes with dataloader_num_workers={workers}: "
            "the rows that fill its last batch up would count twice. Set dataloader_num_workers=0, or evaluate on a "
            "data set of known length."
        )
    return CountedStream(dataset)


def note_rows_of_last_batch(accelerator: Accelerator) -> None:
    """Tell accelerate how many rows of the last batch of a `CountedStream` are no repetitions.

    Args:
        accelerator: that is about to gather a batch of an evaluation.
    """
    loader: Any = accelerator.gradient_state.active_dataloader
    shard: Any = getattr(loader, "dataset", None)
    stream = getattr(shard, "dataset", None)
    if isinstance(stream, CountedStream) and stream.number is not None and loader.end_of_dataloader:
        loader.remainder = stream.number % (shard.batch_size * shard.num_processes)
