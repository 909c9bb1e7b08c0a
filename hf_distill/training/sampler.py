"""Batches that keep a share of labelled rows."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from hf_distill.problems import IGNORE_INDEX


def labelled_rows(dataset: Any) -> np.ndarray:
    """Which rows carry a label, for language and tagging rows at least one: (rows,) bool.

    Args:
        dataset: with a column `labels` or `label`.
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
        return bool(((values != IGNORE_INDEX) & ~np.isnan(values)).any())

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
        epoch: gives the number of the epoch when its order is drawn. None: the one that `set_epoch` was told, which
            accelerate leaves out where a training is resumed in the middle of an epoch under several processes.
    Raises:
        ValueError: there are only labelled rows, or none.

    >>> sampler = LabelledFractionSampler(np.array([True, False, False, False, False, False]), 0.5)
    >>> [index == 0 for index in sampler]
    [False, True, False, True, False, True]
    """

    def __init__(
        self, labelled: np.ndarray, fraction: float, seed: int = 0, epoch: Callable[[], int] | None = None
    ) -> None:
        self.pools = {True: np.flatnonzero(labelled), False: np.flatnonzero(~labelled)}
        self.fraction, self.seed, self.epoch, self.rows = fraction, seed, 0, len(labelled)
        self._epoch_now = epoch
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
        if self._epoch_now is not None:
            self.epoch = max(self.epoch, self._epoch_now())
        streams = {kind: self._stream(pool, int(kind)) for kind, pool in self.pools.items() if len(pool)}
        for row in range(self.rows):
            yield next(streams[int((row + 1) * self.fraction) > int(row * self.fraction)])

    def _stream(self, pool: np.ndarray, kind: int) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 2_000_003 + self.epoch * 2 + kind)
        while True:
            for position in torch.randperm(len(pool), generator=generator).tolist():
                yield int(pool[position])
