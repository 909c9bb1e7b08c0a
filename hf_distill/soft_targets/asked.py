"""Caches of teachers that are asked about whole texts at once: their answers as a pass over rows."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from tqdm.auto import tqdm

from hf_distill import columns
from hf_distill.soft_targets import provenance
from hf_distill.soft_targets.cache import CachePass
from hf_distill.soft_targets.checks import input_columns
from hf_distill.soft_targets.layout import Layout, Values
from hf_distill.soft_targets.shards import Processes
from hf_distill.teachers.identity import short_hash
from hf_distill.teachers.text import logger

LEDGER = "answers.jsonl"
BATCH = 1024  # rows that are put into columns together; the teacher is asked for all texts at once

# The log-probabilities of some rows, how many items each has (None: one), and further columns.
Found = tuple[np.ndarray, np.ndarray | None, dict[str, np.ndarray]]


def check_rows(dataset: Any, column: str) -> None:
    """Raise for rows that cannot be asked about.

    Args:
        dataset: of the rows.
        column: of the texts.
    Raises:
        TypeError: a stream.
        ValueError: no such column, no rows, or teacher columns that are there already.
    """
    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(f"Expected a datasets.Dataset, got {type(dataset).__name__}: a stream has to be loaded first.")
    input_columns(dataset)
    if column not in dataset.column_names:
        raise ValueError(f"text: there is no column {column!r}, only {', '.join(dataset.column_names)}.")
    there = [name for name in dataset.column_names if columns.is_output(name)]
    if there:
        raise ValueError(f"The data set has a column {', '.join(there)} already: remove or rename it.")


@dataclass
class AskedPass:
    """The teacher's columns for some rows, which is asked about all rows at the first.

    Attributes:
        task: a name in `problems.TASKS`.
        layout: of the columns.
        ask: gives the targets of all rows.
        found: the columns of the rows of a slice, from these targets.
    """

    task: str
    layout: Layout
    ask: Callable[[], Any]
    found: Callable[[Any, slice], Found]
    batch_size: int = BATCH
    targets: Any = None

    def __post_init__(self) -> None:
        self.teacher = SimpleNamespace(limits=(math.inf, math.inf))

    def __call__(self, rows: datasets.Dataset, first: int, progress: tqdm) -> dict[str, Values]:
        if self.targets is None:
            self.targets = self.ask()
        logits, lengths, further = self.found(self.targets, slice(first, first + len(rows)))
        made = self.layout.logits(torch.from_numpy(logits))
        values = {name: self.layout.values(name, array, lengths) for name, array in made.items()}
        progress.update(len(rows))
        return values | {name: Values(array, None) for name, array in further.items()}


def cached_answers(
    read: dict[str, Any], work: AskedPass, folder: Path, origin: dict[str, Any], classes: int, told: Sequence[str]
) -> tuple[datasets.Dataset, dict[str, Any]]:
    """The teacher's columns of all rows, from a cache that is made where there is none, and what is known of them.

    Args:
        read: columns of what the teacher reads, `input_ids` among them, by which rows are matched.
        work: gives the columns.
        folder: of the cache.
        origin: see `origin_of`.
        classes: of the teacher.
        told: attributes of the targets that the cache's record keeps, as `answers`.
    """
    rows = datasets.Dataset.from_dict(read)
    passed = CachePass(folder, Processes.assembled("cpu"), work, ["input_ids"], len(rows), origin, classes)
    cached = passed.over_rows(rows)
    if work.targets is not None:
        record = json.loads((folder / provenance.FILE).read_text(encoding="utf-8"))
        provenance.write(folder, record | {"answers": {name: getattr(work.targets, name) for name in told}})
    passed.processes.wait()  # all read what one of them wrote
    return cached, json.loads((folder / provenance.FILE).read_text(encoding="utf-8")).get("answers", {})


def origin_of(
    name: str, identity: str, tokenizer: str | None, task: str, layout: Layout, options: dict[str, Any]
) -> dict[str, Any]:
    """All that such a cache depends on but its rows; see `provenance.provenance`.

    Args:
        name: of the teacher, for people.
        identity: what changes with its answers.
        tokenizer: its hash, where it is known.
        task: of the pass.
        layout: of the columns.
        options: further ones that the outputs depend on.
    """
    return {
        "teacher": {"name": name, "revision": None, "weights": short_hash(identity.encode()), "config": None},
        "tokenizer": {"hash": tokenizer},
        "options": {
            "task": task,
            "top_k": None,
            "temperature": layout.temperature,
            "dtype": layout.dtype,
            **options,
        },
        "columns": ["input_ids"],
        "versions": {"transformers": transformers.__version__, "datasets": datasets.__version__},
    }


def with_targets(
    dataset: datasets.Dataset, cached: datasets.Dataset, names: Sequence[str], has_target: np.ndarray, reason: str
) -> datasets.Dataset:
    """The rows with the teacher's columns, without those that have no target; a warning gives their number.

    Args:
        dataset: the rows.
        cached: the columns, in the same order.
        names: of the columns.
        has_target: (rows,) bool.
        reason: why others have none, for the warning.
    """
    made = datasets.concatenate_datasets([dataset, cached.select_columns(list(names))], axis=1)
    without = int((~has_target).sum())
    if not without:
        return made
    logger.warning(f"{without} of {len(made)} rows are left out: the teacher's answer {reason}.")
    return made.select(np.flatnonzero(has_target))
