"""The ordinary cache of a teacher behind a prompt: `teacher_logits` that are log-probabilities of the classes."""

import dataclasses
import json
import math
from collections.abc import Sequence
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
from hf_distill.soft_targets.checks import check_options, input_columns, output_folder
from hf_distill.soft_targets.layout import Layout, Values
from hf_distill.soft_targets.shards import Processes
from hf_distill.teachers.ask import checked_texts
from hf_distill.teachers.class_targets import ClassTargets
from hf_distill.teachers.identity import short_hash
from hf_distill.teachers.prompted import PromptedTeacher
from hf_distill.teachers.text import logger

TASK = "text-classification"
LEDGER = "answers.jsonl"
OUTSIDE, UNRETURNED = "outside", "unreturned"
BATCH = 1024  # rows that are put into columns together; the teacher is asked for all texts at once


def cache_prompted_outputs(
    dataset: datasets.Dataset,
    teacher: PromptedTeacher,
    *,
    output_dir: str | Path,
    text: str = "text",
    ledger: str | Path | None = None,
    prior: Sequence[str] = (),
    dtype: str = "float32",
) -> tuple[datasets.Dataset, ClassTargets]:
    """Ask a teacher for the classes of every row's text, and keep their log-probabilities beside the rows.

    `DistillationTrainer` takes the result as any cache: `teacher_logits` are log-probabilities conditional on naming a
    class. They are those at temperature 1, where training should stay: at another one a class that a server did not
    return would be tempered from a bound.

    Args:
        dataset: rows with a column of texts, tokenized for the student or not.
        teacher: answers each distinct text once.
        output_dir: of the cache, and of the ledger where none is given. A complete cache of the same texts, prompt and
            model is read, and nothing is asked.
        text: the column.
        ledger: file of answers, which several caches may share; None: one in `output_dir`.
        prior: see `PromptedTeacher`.
        dtype: on disk, see `cache_teacher_outputs`.
    Returns:
        The rows with `teacher_logits`, without those whose answer names no class (a warning gives their number), and
        what is known of all rows.
    Raises:
        TypeError: a stream, or a column that holds something else than texts.
        ValueError: no such column, blank texts, teacher columns that are there already, another teacher or other texts
            in `output_dir`, and the errors of `PromptedTeacher`.
        ConnectionError: a server that fails at every attempt.

    >>> rows, targets = cache_prompted_outputs(rows, teacher, output_dir="outputs/cache")  # doctest: +SKIP
    >>> targets.counts["asked"], targets.method  # doctest: +SKIP
    (5000, 'letters')
    """
    check_rows(dataset, text)
    layout = Layout(None, 1.0, dtype, ())
    check_options(TASK, layout, BATCH, len(dataset))
    folder = output_folder(output_dir)
    texts = checked_texts(dataset[text])
    work = _PromptedPass(teacher, texts, ledger or folder / LEDGER, list(prior), layout)
    origin = _provenance(teacher, layout, list(prior))
    shard_size = max(1, len(dataset))
    # Row hashes are of whole numbers: the bytes of a text stand for it.
    read = datasets.Dataset.from_dict({"input_ids": [list(each.encode()) for each in texts]})
    passed = CachePass(
        folder, Processes.assembled("cpu"), work, ["input_ids"], shard_size, origin, len(teacher.prompt.names)
    )
    cached = passed.over_rows(read)
    if (found := work.targets) is not None:
        told = {"method": found.method, "counts": found.counts, "seconds": found.seconds, "notes": found.notes}
        remember(folder, told)
    passed.processes.wait()  # all read what one of them wrote
    targets = _targets(teacher, cached, folder)
    columns_kept = [name for name in layout.names if name in cached.column_names]
    made = datasets.concatenate_datasets([dataset, cached.select_columns(columns_kept)], axis=1)
    without = int((~targets.has_target).sum())
    if without:
        logger.warning(f"{without} of {len(made)} rows are left out: the teacher's answer names no class.")
        made = made.select(np.flatnonzero(targets.has_target))
    return made, targets


def check_rows(dataset: Any, column: str, key: str = "text") -> None:
    """Raise for rows that cannot be asked about.

    Args:
        dataset: of the rows.
        column: of what is asked about.
        key: the argument that names the column.
    Raises:
        TypeError: a stream.
        ValueError: no such column, no rows, or teacher columns that are there already.
    """
    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(f"Expected a datasets.Dataset, got {type(dataset).__name__}: a stream has to be loaded first.")
    input_columns(dataset)
    if column not in dataset.column_names:
        raise ValueError(f"{key}: there is no column {column!r}, only {', '.join(dataset.column_names)}.")
    there = [name for name in dataset.column_names if columns.is_output(name)]
    if there:
        raise ValueError(f"The data set has a column {', '.join(there)} already: remove or rename it.")


@dataclasses.dataclass
class _PromptedPass:
    """The teacher's columns for some rows; all texts are asked for at the first."""

    prompted: PromptedTeacher
    texts: list[str]
    ledger: str | Path
    prior: list[str]
    layout: Layout
    task: str = TASK
    batch_size: int = BATCH
    targets: ClassTargets | None = None

    def __post_init__(self) -> None:
        self.teacher = SimpleNamespace(limits=(math.inf, math.inf))
        self.numbers: dict[str, int] = {}

    def __call__(self, rows: datasets.Dataset, first: int, progress: tqdm) -> dict[str, Values]:
        if self.targets is None:
            self.numbers = {text: number for number, text in enumerate(self.texts)}
            self.targets = self.prompted(self.texts, ledger=self.ledger, prior=self.prior)
        numbers = [self.numbers[bytes(row).decode()] for row in rows["input_ids"]]
        made = self.layout.logits(torch.from_numpy(self.targets.log_probabilities[numbers]))
        found = {name: self.layout.values(name, array, None) for name, array in made.items()}
        found[OUTSIDE] = Values(self.targets.outside[numbers], None)
        found[UNRETURNED] = Values(self.targets.unreturned[numbers].astype(np.uint8), None)
        progress.update(len(rows))
        return found


def _provenance(teacher: PromptedTeacher, layout: Layout, prior: list[str]) -> dict[str, Any]:
    record = {**teacher.record(), "method": teacher.method, "samples": teacher.samples, "prior": prior}
    return {
        "teacher": {
            "name": teacher.model.model if teacher.is_served else type(teacher.model).__name__,
            "revision": None,
            "weights": short_hash(json.dumps(record["teacher"], sort_keys=True).encode()),
            "config": None,
        },
        "tokenizer": {"hash": record["tokenizer"][0] if record["tokenizer"] else None},
        "options": {
            "task": TASK,
            "top_k": None,
            "temperature": layout.temperature,
            "dtype": layout.dtype,
            "prompt": {name: record[name] for name in ("prompt", "method", "samples", "prior")},
        },
        "columns": ["input_ids"],
        "versions": {"transformers": transformers.__version__, "datasets": datasets.__version__},
    }


def remember(folder: Path, answers: dict[str, Any]) -> None:
    """Keep in the cache's record how the answers came."""
    record = json.loads((folder / provenance.FILE).read_text(encoding="utf-8"))
    provenance.write(folder, record | {"answers": answers})


def _targets(teacher: PromptedTeacher, cached: datasets.Dataset, folder: Path) -> ClassTargets:
    record = json.loads((folder / provenance.FILE).read_text(encoding="utf-8")).get("answers", {})
    numpy = cached.with_format("numpy")
    shape = (len(cached), len(teacher.prompt.names))
    return ClassTargets(
        teacher.prompt.names,
        np.array(columns.all_numbers(cached, columns.LOGITS), dtype=np.float32).reshape(shape),
        np.array(numpy[OUTSIDE], dtype=np.float32),
        np.array(numpy[UNRETURNED]).reshape(shape).astype(bool),
        record.get("method", "letters"),
        record.get("counts", {}),
        record.get("seconds", 0.0),
        record.get("notes", []),
    )
