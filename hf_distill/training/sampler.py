"""The order of the training rows: one that a resumed training draws again, with a share of labelled rows or without."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.utils.data import RandomSampler, Sampler, SequentialSampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_distill.problems import IGNORE_INDEX


class RandomOrder(Sampler[int]):
    """All rows in random order, which depends on the seed and the number of the epoch alone.

    The order is that of accelerate's `SeedableRandomSampler`, whose seed is torch's at the moment when the loader is
    made, and which is not told the epoch where several processes resume in the middle of one.

    Args:
        rows: their number.
        seed: of the order.

    >>> list(RandomOrder(4, seed=1))
    [1, 3, 2, 0]
    """

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.seed, self.epoch = rows, seed, 0

    def __len__(self) -> int:
        return self.rows

    def set_epoch(self, epoch: int) -> None:
        """Another order for each epoch, and the same one after a resume."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from torch.randperm(self.rows, generator=generator, device="cpu").tolist()


class RecordedOrder(Sampler[Any]):
    """The order of a sampler that draws from torch's global generator, and the state that it was drawn from.

    A checkpoint keeps that state, so that a training resumed in the middle of an epoch draws the same order. Several
    processes have states of their own, which dropout moves apart: all of them take the order that the main one draws,
    so that no row is read twice and none is left out.

    Args:
        sampler: draws when an epoch begins: `Trainer`'s of lengths, for instance.
        processes: how many train.
    """

    def __init__(self, sampler: Any, processes: int) -> None:
        self.sampler, self.processes, self.epoch = sampler, processes, 0
        self.drawn_from: Tensor | None = None  # of the epoch in progress
        self.resumed: tuple[int, Tensor] | None = None  # the number of an epoch, and what its order was drawn from

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Another order for each epoch, and the same one after a resume."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        if self.resumed is not None and self.resumed[0] == self.epoch:
            torch.set_rng_state(self.resumed[1])  # the trainer loads the state of the checkpoint afterwards
        self.resumed = None
        self.drawn_from = torch.get_rng_state()
        order = list(self.sampler)
        return iter(broadcast_object_list([order])[0] if self.processes > 1 else order)


def resumable(sampler: Any, seed: int, processes: int) -> Any:
    """A sampler whose order a resumed training draws again.

    Args:
        sampler: of the training rows; those that are told the epoch, or that have a generator of their own, stay.
        seed: of the order.
        processes: how many train.
    """
    if type(sampler) is RandomSampler and not sampler.replacement and sampler.generator is None:
        return RandomOrder(len(sampler), seed) if len(sampler) == len(sampler.data_source) else sampler
    stays = sampler is None or isinstance(sampler, SequentialSampler) or hasattr(sampler, "set_epoch")
    if stays or getattr(sampler, "generator", None) is not None:
        return sampler
    if isinstance(sampler, LengthGroupedSampler):
        sampler.batch_size *= processes  # rows of like lengths are those of a whole step, as in one process
    return RecordedOrder(sampler, processes)


def labelled_rows(dataset: Any, per_position: bool = True) -> np.ndarray:
    """Which rows carry a label: (rows,) bool.

    Args:
        dataset: with a column `labels` or `label`.
        per_position: whether one label of several is enough, as in rows of tokens; else all of them are needed, as the
            loss of a row with several classes counts it.
    Raises:
        ValueError: it has neither, or its rows cannot be counted.
    """
    name = next((name for name in ("labels", "label") if name in (getattr(dataset, "column_names", None) or ())), None)
    if name is None or not hasattr(dataset, "__len__"):
        raise ValueError(
            "labelled_fraction needs a data set of known length with a column `labels` to tell labelled rows from the "
            f"others, got {type(dataset).__name__} with the columns {getattr(dataset, 'column_names', None)}."
        )

    def has_label(label: Any) -> bool:
        values = np.atleast_1d(np.asarray(label, dtype=np.float64))
        present = (values != IGNORE_INDEX) & ~np.isnan(values)
        return bool(present.any() if per_position else present.all() and present.size)

    return np.fromiter((has_label(label) for label in dataset.with_format(None)[name]), dtype=bool, count=len(dataset))


class LabelledFractionSampler(Sampler[int]):
    """Rows in random order, labelled ones evenly spaced among them.

    Of any n consecutive ones `fraction * n` are labelled, to within one, however they are cut into batches. An epoch
    has as many rows as the data set; the labelled ones are gone through again and again, or not to the end, and so are
    the others.

    Args:
        labelled: (rows,) bool.
        fraction: above 0, at most 1.
        seed: of the order.
    Raises:
        ValueError: there are only labelled rows, or none.

    >>> sampler = LabelledFractionSampler(np.array([True, False, False, False, False, False]), 0.5)
    >>> [index == 0 for index in sampler]
    [False, True, False, True, False, True]
    """

    def __init__(self, labelled: np.ndarray, fraction: float, seed: int = 0) -> None:
        self.pools = {True: np.flatnonzero(labelled), False: np.flatnonzero(~labelled)}
        self.fraction, self.seed, self.epoch, self.rows = fraction, seed, 0, len(labelled)
        missing = [bool(kind) for kind, pool in self.pools.items() if not len(pool) and (kind or fraction < 1)]
        if missing:
            raise ValueError(
                f"labelled_fraction={fraction} mixes rows with and without labels, but of {self.rows} rows "
                f"{len(self.pools[True])} have one. Leave labelled_fraction out."
            )

    def __len__(self) -> int:
        return self.rows

    def set_epoch(self, epoch: int) -> None:
        """Another order for each epoch, and the same one after a resume."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        streams = {kind: self._stream(pool, int(kind)) for kind, pool in self.pools.items() if len(pool)}
        for row in range(self.rows):
            yield next(streams[int((row + 1) * self.fraction) > int(row * self.fraction)])

    def _stream(self, pool: np.ndarray, kind: int) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 2_000_003 + self.epoch * 2 + kind)
        while True:
            for position in torch.randperm(len(pool), generator=generator).tolist():
                yield int(pool[position])
