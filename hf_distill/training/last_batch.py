"""The last batch of an epoch under several processes, which accelerate fills up with rows that were read already."""

from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset
from transformers.trainer_utils import has_length

from hf_distill.problems import batch_size
from hf_distill.training.streams import note_rows_of_last_batch


class Uncounted(dict[str, Any]):
    """A batch of rows that were read already: its process takes part in the step, and nothing of it counts."""


def without_repeated_rows(inputs: Any, trainer: Any) -> Any:
    """The rows of a batch that are no repetitions: all of them, except in the last batch of an epoch.

    Args:
        inputs: the newest batch of this process, collated.
        trainer: that has just read it.
    Returns:
        The batch itself; or its first rows; or one row, `Uncounted`, where none is new.
    """
    accelerator, processes = trainer.accelerator, trainer.args.world_size
    loader: Any = accelerator.gradient_state.active_dataloader
    if processes == 1 or loader is None or not loader.end_of_dataloader or trainer.args.dataloader_drop_last:
        return inputs
    if _is_sliced(accelerator, trainer):
        return inputs
    size = trainer.args.train_batch_size
    note_rows_of_last_batch(accelerator)
    sampler = trainer._sampler
    rows = loader.remainder if sampler is None or not has_length(sampler) else len(sampler) % (size * processes)
    own = min(size, max(0, rows - size * trainer.args.process_index))
    if rows <= 0 or own == size:
        return inputs
    return _cut(inputs, own) if own else Uncounted(_cut(inputs, 1))


def _is_sliced(accelerator: Any, trainer: Any) -> bool:
    """Whether one process reads and hands out slices, or batches are cut: there nothing is known of repetitions."""
    settings = accelerator.dataloader_config
    streamed = isinstance(trainer.train_dataset, IterableDataset) and settings.dispatch_batches is not False
    return streamed or bool(settings.split_batches) or bool(settings.dispatch_batches) or not settings.even_batches


def _cut(inputs: Any, rows: int) -> dict[str, Any]:
    whole = batch_size(inputs)
    return {
        name: value[:rows] if isinstance(value, Tensor) and value.dim() and len(value) == whole else value
        for name, value in inputs.items()
    }
