"""One stopwatch for models that label and for models that write: several models, called in turns on the same inputs."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LENGTHS = ("short", "medium", "long")  # thirds of the texts
FEWEST = 4  # calls below which an interval of their times means nothing


@dataclass(frozen=True)
class Limits:
    """How often each model is called.

    Attributes:
        block: calls of one model before the next model's turn.
        most: calls of each model.
        fewest: calls of each model that are made however long they take.
        seconds: after which `fewest` calls are enough; of all models together.
        warm: whether an untimed call precedes each block. The block before was another model's, and this call brings
            the weights back into the processor's caches.
    """

    block: int
    most: int
    fewest: int
    seconds: float
    warm: bool = False


@dataclass(frozen=True)
class Timed:
    """The calls of one model.

    Attributes:
        milliseconds: (calls,), call i on the same inputs for all models of a run.
        outputs: what each call returned.
    """

    milliseconds: np.ndarray
    outputs: list[Any]

    def written(self, count: Callable[[list[str]], int]) -> np.ndarray:
        """(calls,) the length of what each call wrote, for models whose calls return texts.

        Args:
            count: the length of some texts, in tokens or words.
        """
        return np.array([count(texts) for texts in self.outputs])


def in_turns(calls: Mapping[str, Callable[[int], Any]], limits: Limits) -> dict[str, Timed]:
    """Time several models, a block of calls of each in turn, so that other load of the machine falls on all alike.

    Args:
        calls: by name, what makes call number i of a model and waits for its result.
        limits: how often.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    outputs: dict[str, list[Any]] = {name: [] for name in calls}
    began, start = time.perf_counter(), 0
    while start < limits.fewest or (start < limits.most and time.perf_counter() - began < limits.seconds):
        for name, call in calls.items():
            if limits.warm:
                call(start)
            for number in range(start, start + limits.block):
                before = time.perf_counter()
                output = call(number)
                times[name].append((time.perf_counter() - before) * 1000)
                outputs[name].append(output)
        start += limits.block
    return {name: Timed(np.array(times[name]), outputs[name]) for name in calls}


def thirds(rows: np.ndarray, lengths: Mapping[str, np.ndarray], seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """The rows of each third of the texts by length, shuffled; a third without a row is left out.

    Args:
        rows: numbers of rows.
        lengths: (texts,) tokens of each text, by model; the thirds are by their mean over the models.
        seed: of the shuffling.
    """
    order = np.argsort(np.mean([tokens[rows] for tokens in lengths.values()], axis=0), kind="stable")
    for length, third in zip(LENGTHS, np.array_split(rows[order], len(LENGTHS)), strict=True):
        if len(third):
            yield length, np.random.default_rng(seed).permutation(third)


def per_second(batch: int, milliseconds: np.ndarray) -> float:
    """Examples a second, from the median time of the calls."""
    return batch * 1000 / float(np.median(milliseconds))
