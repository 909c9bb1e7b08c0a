"""Sums of what is logged beside the loss."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Totals:
    """Detached sums since the last log, on the device: nothing waits for them before they are read.

    Args:
        device: of the training.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        """Begin anew: nothing of an earlier training, or of one that ran out of memory, is left."""
        self.steps = 0
        self.sums: dict[str, Tensor] = {}
        self.unmatched = torch.zeros(4, dtype=torch.long, device=self.device)  # of the whole training

    def add(self, name: str, value: Tensor) -> None:
        """Add to one of the sums."""
        self.sums[name] = self.sums.get(name, 0) + value.detach()

    def means(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means over the steps, which the sums begin anew after.

        Args:
            reduce: sums up over the processes.
        """
        found = {name: reduce(total).item() / self.steps for name, total in self.sums.items()} if self.steps else {}
        if self.steps:
            self.sums, self.steps = {}, 0
        return found

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps. No tensor of it is changed in place later."""
        return {"sums": dict(self.sums), "steps": self.steps, "unmatched": self.unmatched}

    def load(self, record: dict[str, Any]) -> None:
        """Put back what `record` returned."""
        self.sums = {name: total.to(self.device) for name, total in record["sums"].items()}
        self.steps, self.unmatched = record["steps"], record["unmatched"].to(self.device)
