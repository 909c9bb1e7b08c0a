"""Shards of a cache, the processes that write them, and windows of a stream."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import datasets
import numpy as np
import torch
from filelock import FileLock

from hf_distill.environment import accelerator
from hf_distill.soft_targets.checks import ROW_HASH

LOCK = ".lock"
ALONE: ContextVar[bool] = ContextVar("alone", default=False)  # whether this process shares no pass with others for now

# Several processes


@dataclass(frozen=True)
class Processes:
    """The processes that share a pass: this one's number, how many they are, and its device."""

    number: int
    size: int
    device: torch.device

    @classmethod
    def assembled(cls, device: str | torch.device | None) -> "Processes":
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not ALONE.get():
            # Without an accelerator it would take each process for the only one.
            state = accelerate.PartialState(cpu=accelerator() is None)
            return cls(state.process_index, state.num_processes, torch.device(device or state.device))
        return cls(0, 1, torch.device(device or accelerator() or "cpu"))

    def wait(self) -> None:
        if self.size > 1:
            accelerate.PartialState().wait_for_everyone()

    @contextmanager
    def first_alone(self) -> Iterator[bool]:
        """Process 0 goes before all others."""
        if self.number > 0:
            self.wait()
        yield self.number == 0
        if self.number == 0:
            self.wait()

    @contextmanager
    def only_pass(self, folder: Path) -> Iterator[None]:
        """Other passes over a folder wait for this one: those of other runs that share a cache."""
        with FileLock(folder / LOCK) if self.number == 0 else nullcontext():
            self.wait()
            yield


def stored_hashes(shard: datasets.Dataset) -> np.ndarray:
    """(rows,) int64, the hash of each row of a shard."""
    return np.asarray(shard.data.column(ROW_HASH), dtype=np.int64)


def numbered(found: list[np.ndarray], part: datasets.Dataset, hashes: np.ndarray) -> tuple[int, datasets.Dataset]:
    """Some rows of a stream after the number of the first, with their hashes put to those of the rows before."""
    first = sum(map(len, found))
    found.append(hashes)
    return first, part


class Windows:
    """A stream's rows, some at a time."""

    def __init__(self, dataset: datasets.IterableDataset, size: int) -> None:
        self._rows = iter(dataset)
        self._features = dataset.features
        self._size = size
        self._next: list[dict[str, Any]] = list(itertools.islice(self._rows, 1))

    def is_empty(self) -> bool:
        return not self._next

    def take(self, number: int) -> Iterator[datasets.Dataset]:
        """The next `number` rows, or what is left."""
        while number > 0 and self._next:
            rows = self._next + list(itertools.islice(self._rows, min(self._size, number) - 1))
            self._next = list(itertools.islice(self._rows, 1))
            number -= len(rows)
            part = datasets.Dataset.from_list(rows, features=self._features)
            self._features = part.features  # the first rows decide on the types of all
            yield part
