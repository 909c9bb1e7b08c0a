"""How fast models write whole texts and what it computes: alone and in batches, at the lengths of real texts."""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from hf_distill.evaluation.cost import count_flops
from hf_distill.evaluation.speed import BATCH, Cell
from hf_distill.evaluation.stopwatch import FEWEST, Limits, Timed, in_turns, per_second, thirds
from hf_distill.teachers.generating import GeneratingTeacher

CALLS = {1: 24, BATCH: 6}  # of each model, by texts a call
CELL_CALLS = {1: 12, 8: 6, BATCH: 4}  # likewise, at one length
SECONDS = 60.0  # after which slow models may stop at a third of the calls, four at least; all models together
CELL_SECONDS = 20.0
COUNTED = 4  # texts whose operations are counted
Write = Callable[[list[str]], list[str]]
Count = Callable[[list[str]], int]


@contextmanager
def _told_once() -> Iterator[None]:
    """Silence the warning of cut answers: it was given before, when the same texts were written to be scored."""
    logger = logging.getLogger(GeneratingTeacher.__module__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def measure_writing(
    writers: Mapping[str, Write], texts: Sequence[str], *, seed: int = 0
) -> dict[int, dict[str, Timed]]:
    """Time several models in one run, in turns: call i of all is on the same texts, tokenised, written and decoded.

    Args:
        writers: by name.
        texts: to choose from.
        seed: of the choice.
    Returns:
        By texts a call and name.
    """
    rows = np.random.default_rng(seed).permutation(len(texts))
    return {batch: _timed(writers, texts, _groups(rows, batch, calls), SECONDS) for batch, calls in CALLS.items()}


def measure_writing_cells(
    writers: Mapping[str, Write],
    texts: Sequence[str],
    lengths: Mapping[str, np.ndarray],
    *,
    counts: Mapping[str, Count] | None = None,
    seed: int = 0,
) -> list[Cell]:
    """Time several models as `measure_writing` does, for each third of the texts by length, 1, 8 and 32 a call.

    Args:
        writers: by name.
        texts: to choose from.
        lengths: (texts,) tokens of each, by writer; the thirds are by their mean.
        counts: by writer what counts the tokens that it wrote, by which the cells are then compared. None: by the text.
        seed: of the choice.
    """
    cells = []
    for length, rows in thirds(np.arange(len(texts)), {name: lengths[name] for name in writers}, seed):
        for batch, calls in CELL_CALLS.items():
            groups = _groups(rows, batch, calls)
            timed = _timed(writers, texts, groups, CELL_SECONDS)
            read = groups[: min(len(each.milliseconds) for each in timed.values())]
            cells += [
                Cell(
                    name,
                    batch,
                    length,
                    (int(lengths[name][read].min()), int(lengths[name][read].max())),
                    each.milliseconds,
                    written=None if counts is None else each.written(counts[name]),
                )
                for name, each in timed.items()
            ]
    return cells


def writing_summary(timed: Mapping[int, Timed], unit: str, count: Count) -> dict[str, Any]:
    """A model's `latency_ms`, `throughput` and what it writes a second.

    Args:
        timed: its calls, by texts a call.
        unit: of what is written.
        count: how much of it there is in some texts.
    """
    one, many = timed[1], timed[BATCH]
    p50, p95 = np.percentile(one.milliseconds, [50, 95])
    return {
        "latency_ms": {"batch_1": {"p50": p50, "p95": p95}},
        "throughput": {f"batch_{BATCH}": per_second(BATCH, many.milliseconds)},
        f"{unit}_a_second": {
            f"batch_{batch}": float(each.written(count).sum()) * 1000 / float(each.milliseconds.sum())
            for batch, each in timed.items()
        },
    }


@_told_once()
def writing_flops(
    write: Write, texts: Sequence[str], tokens: Callable[[list[str], list[str]], int], *, seed: int = 0
) -> dict[str, float]:
    """The operations in which a model reads a text and writes its own, see `count_flops`, as it does when it is timed.

    Args:
        write: the model.
        texts: to choose a few from.
        tokens: how many it reads in some texts and writes in others.
        seed: of the choice: the texts are the first of those that `measure_writing` takes.
    Returns:
        Means `flops_per_text` and `flops_per_token`, read or written.
    """
    chosen = [texts[row] for row in np.random.default_rng(seed).permutation(len(texts))[:COUNTED]]
    replies: list[str] = []
    total = sum(count_flops(lambda text: replies.extend(write([text])), text) for text in chosen)
    return {"flops_per_text": total / len(chosen), "flops_per_token": total / tokens(chosen, replies)}


def _groups(rows: np.ndarray, batch: int, calls: int) -> np.ndarray:
    """(calls, batch) rows, going round and round them."""
    return np.stack([np.resize(np.roll(rows, -number * batch), batch) for number in range(calls)])


@_told_once()
def _timed(writers: Mapping[str, Write], texts: Sequence[str], groups: np.ndarray, seconds: float) -> dict[str, Timed]:
    """Time models in turns on the same texts.

    Args:
        writers: by name.
        texts: all of them.
        groups: (calls, batch) numbers of texts.
        seconds: after which a third of the calls, four at least, are enough.
    """
    for write in writers.values():
        write([texts[row] for row in groups[0][:2]])
    given = [[texts[row] for row in group] for group in groups]
    calls = {name: functools.partial(_written, write, given) for name, write in writers.items()}
    fewest = min(len(groups), max(FEWEST, len(groups) // 3))
    return in_turns(calls, Limits(1, len(groups), fewest, seconds))


def _written(write: Write, given: Sequence[list[str]], number: int) -> list[str]:
    return write(given[number])
