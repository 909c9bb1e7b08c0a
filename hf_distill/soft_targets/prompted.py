"""The ordinary cache of a teacher behind a prompt: `teacher_logits` that are log-probabilities of the classes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_distill import columns
from hf_distill.soft_targets.asked import (
    BATCH,
    LEDGER,
    AskedPass,
    Found,
    cached_answers,
    check_rows,
    origin_of,
    with_targets,
)
from hf_distill.soft_targets.checks import check_options, output_folder
from hf_distill.soft_targets.layout import Layout
from hf_distill.teachers.ask import checked_texts
from hf_distill.teachers.class_targets import ClassTargets
from hf_distill.teachers.prompted import PromptedTeacher

TASK = "text-classification"
OUTSIDE, UNRETURNED = "outside", "unreturned"
TOLD = ("method", "counts", "seconds", "notes")


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

    def ask() -> ClassTargets:
        return teacher(texts, ledger=ledger or folder / LEDGER, prior=list(prior))

    def found(made: ClassTargets, rows: slice) -> Found:
        unreturned = made.unreturned[rows].astype(np.uint8)
        return made.log_probabilities[rows], None, {OUTSIDE: made.outside[rows], UNRETURNED: unreturned}

    # Row hashes are of whole numbers: the bytes of a text stand for it.
    read = {"input_ids": [list(each.encode()) for each in texts]}
    work = AskedPass(TASK, layout, ask, found)
    classes = len(teacher.prompt.names)
    cached, answers = cached_answers(read, work, folder, _origin(teacher, layout, list(prior)), classes, TOLD)
    targets = _targets(teacher, cached, answers)
    return with_targets(dataset, cached, layout.names, targets.has_target, "names no class"), targets


def _origin(teacher: PromptedTeacher, layout: Layout, prior: list[str]) -> dict[str, Any]:
    record = {**teacher.record(), "method": teacher.method, "samples": teacher.samples, "prior": prior}
    return origin_of(
        teacher.model.model if teacher.is_served else type(teacher.model).__name__,
        json.dumps(record["teacher"], sort_keys=True),
        record["tokenizer"][0] if record["tokenizer"] else None,
        TASK,
        layout,
        {"prompt": {name: record[name] for name in ("prompt", "method", "samples", "prior")}},
    )


def _targets(teacher: PromptedTeacher, cached: datasets.Dataset, record: dict[str, Any]) -> ClassTargets:
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
