"""The ordinary cache of a teacher that marks spans: `teacher_logits` that are log-probabilities of each word's tag."""

import json
import math
from collections.abc import Sequence
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
from hf_distill.data.class_names import label_names
from hf_distill.data.scripts import is_spaceless
from hf_distill.problems import IGNORE_INDEX
from hf_distill.soft_targets import provenance
from hf_distill.soft_targets.cache import CachePass
from hf_distill.soft_targets.checks import check_options, output_folder
from hf_distill.soft_targets.layout import Layout, Values
from hf_distill.soft_targets.prompted import BATCH, LEDGER, check_rows, remember
from hf_distill.soft_targets.shards import Processes
from hf_distill.teachers.ask import checked_texts
from hf_distill.teachers.identity import short_hash
from hf_distill.teachers.span_targets import Sentence, SpanTargets
from hf_distill.teachers.spans import SpanTeacher
from hf_distill.teachers.text import logger

TASK = "token-classification"
WORDS = "words"
HAS_TARGET = "has_target"


def cache_span_outputs(
    dataset: datasets.Dataset,
    teacher: SpanTeacher,
    *,
    output_dir: str | Path,
    text: str = WORDS,
    tags: Sequence[str] | None = None,
    ledger: str | Path | None = None,
    dtype: str = "float32",
) -> tuple[datasets.Dataset, SpanTargets]:
    """Ask a teacher for the spans of every row, and keep the log-probabilities of each word's tag beside the rows.

    `DistillationTrainer` takes `teacher_logits` as any cache of tags, one row a word, with the `word_starts` of
    `hf_distill.data.tokenize`. Each distinct text is asked about once; a second call goes on from the ledger.

    Args:
        dataset: rows with a column of words or of texts.
        teacher: marks spans.
        output_dir: of the cache, and of the ledger where none is given. A complete cache of the same rows, teacher and
            tags is read, and nothing is asked.
        text: the column. Lists of words are joined by spaces; a text is split at spaces and punctuation, and its words
            become the column `words`.
        tags: names of the student's classes in the order of their numbers, the IOB2 tags of the teacher's classes.
            None: those of the data's `label` or `labels`, if it names them, else the teacher's.
        ledger: file of answers, which several caches may share; None: one in `output_dir`.
        dtype: on disk, see `cache_teacher_outputs`.
    Returns:
        The rows with `teacher_logits`, without those whose answer cannot be read (a warning gives their number), and
        what is known of all rows, `counts` among it.
    Raises:
        TypeError: a stream, or a column that holds something else than texts or lists of words.
        ValueError: tags that are not the teacher's or the data's, before anything is asked; texts in a script without
            spaces; no such column, blank texts, teacher columns that are there already, another teacher or other rows
            in `output_dir`; a function without a name, and the errors of `SpanTeacher.targets`.
        ConnectionError: a server that fails at every attempt.

    >>> rows, targets = cache_span_outputs(rows, teacher, output_dir="outputs/cache")  # doctest: +SKIP
    >>> targets.counts["asked"], targets.counts["spans"], targets.counts["widened"]  # doctest: +SKIP
    (5000, 8214, 37)
    """
    check_rows(dataset, text)
    tags = _tags(dataset, teacher, tags)
    layout = Layout(None, 1.0, dtype, ())
    check_options(TASK, layout, BATCH, len(dataset))
    folder = output_folder(output_dir)
    sentences, dataset = _sentences(dataset, text)
    work = _SpanPass(teacher, sentences, tags, ledger or folder / LEDGER, layout)
    # Row hashes are of whole numbers: the bytes of a text, and where its words stand.
    read = {
        "input_ids": [list(json.dumps([each.text, each.places]).encode()) for each in sentences],
        columns.WORD_STARTS: [[1] * len(each.places) for each in sentences],
    }
    origin = _provenance(teacher, layout, tags)
    passed = CachePass(folder, Processes.assembled("cpu"), work, ["input_ids"], len(dataset), origin, len(tags))
    cached = passed.over_rows(datasets.Dataset.from_dict(read))
    if (found := work.targets) is not None:
        remember(folder, {"counts": found.counts, "seconds": found.seconds})
    passed.processes.wait()  # all read what one of them wrote
    targets = _targets(cached, tags, folder)
    kept = [name for name in layout.names if name in cached.column_names]
    made = datasets.concatenate_datasets([dataset, cached.select_columns(kept)], axis=1)
    without = int((~targets.has_target).sum())
    if without:
        logger.warning(f"{without} of {len(made)} rows are left out: the teacher's answer holds no list of spans.")
        made = made.select(np.flatnonzero(targets.has_target))
    return made, targets


def _tags(dataset: datasets.Dataset, teacher: SpanTeacher, tags: Sequence[str] | None) -> list[str]:
    """The student's tags, which are those of the data too."""
    for column in (name for name in ("label", "labels") if name in dataset.column_names):
        names = label_names(dataset.features[column])
        if names is not None and list(tags or names) != names:
            raise ValueError(f"tags: the column {column!r} has {names}, in this order; got {list(tags or ())}.")
        tags = teacher.checked_tags(tags or names, f"tags of the column {column!r}" if names else "tags")
        given = set().union(*(row if isinstance(row, list) else [row] for row in dataset[column])) - {*tags, None}
        foreign = [each for each in given if not isinstance(each, int) or not IGNORE_INDEX <= each < len(tags)]
        if foreign:
            raise ValueError(
                f"tags: the column {column!r} has {sorted(map(str, foreign))[:10]}, and the tags are {tags}. Give the "
                "teacher the classes of the data, or the data the tags of the teacher's classes."
            )
    return teacher.checked_tags(tags)


def _sentences(dataset: datasets.Dataset, column: str) -> tuple[list[Sentence], datasets.Dataset]:
    """What the teacher reads of each row, and the rows with their words."""
    values = dataset.with_format(None)[column][:]
    if all(isinstance(value, str) for value in values):
        checked_texts(values)
        if WORDS in dataset.column_names:
            raise ValueError(
                f"text: the words of the texts in {column!r} would become the column {WORDS!r}, which is there. "
                f"Rename or remove it, or give text={WORDS!r} if it has the words."
            )
        if is_spaceless(values):
            raise ValueError(
                f"text: the texts in {column!r} are of a script without spaces between words. Split them into words, "
                "and give the column of lists."
            )
        sentences = [Sentence.of_text(value) for value in values]
        return sentences, dataset.add_column(WORDS, [sentence.words for sentence in sentences])
    for number, value in enumerate(values):
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise TypeError(
                f"text: expected a list of words, or a text, in each row of the column {column!r}; got {value!s:.80} "
                f"in row {number}."
            )
    return [Sentence.of_words(value) for value in values], dataset


@dataclass
class _SpanPass:
    """The teacher's columns for some rows; all texts are asked for at the first."""

    spans: SpanTeacher
    sentences: list[Sentence]
    tags: list[str]
    ledger: str | Path
    layout: Layout
    task: str = TASK
    batch_size: int = BATCH
    targets: SpanTargets | None = None

    def __post_init__(self) -> None:
        self.teacher = SimpleNamespace(limits=(math.inf, math.inf))

    def __call__(self, rows: datasets.Dataset, first: int, progress: tqdm) -> dict[str, Values]:
        if self.targets is None:
            self.targets = self.spans.targets(self.sentences, tags=self.tags, ledger=self.ledger)
        own = slice(first, first + len(rows))
        logits = self.targets.log_probabilities[own]
        lengths = np.array([len(each) for each in logits])
        made = self.layout.logits(torch.from_numpy(np.nan_to_num(np.concatenate(logits))))  # int8 has no NaN
        found = {name: self.layout.values(name, array, lengths) for name, array in made.items()}
        found[HAS_TARGET] = Values(self.targets.has_target[own].astype(np.uint8), None)
        progress.update(len(rows))
        return found


def _provenance(teacher: SpanTeacher, layout: Layout, tags: list[str]) -> dict[str, Any]:
    name = teacher.name
    return {
        "teacher": {"name": teacher.shown, "revision": None, "weights": short_hash(name.encode()), "config": None},
        "tokenizer": {"hash": None},
        "options": {
            "task": TASK,
            "top_k": None,
            "temperature": layout.temperature,
            "dtype": layout.dtype,
            "tags": tags,
            "question": teacher.question("{text}") if teacher.is_asked else None,
        },
        "columns": ["input_ids"],
        "versions": {"transformers": transformers.__version__, "datasets": datasets.__version__},
    }


def _targets(cached: datasets.Dataset, tags: list[str], folder: Path) -> SpanTargets:
    record = json.loads((folder / provenance.FILE).read_text(encoding="utf-8")).get("answers", {})
    known = np.array(cached.with_format("numpy")[HAS_TARGET]).astype(bool)
    logits = [
        np.array(each, dtype=np.float32).reshape(-1, len(tags)) if has else np.full((len(each), len(tags)), np.nan)
        for each, has in zip(columns.all_numbers(cached, columns.LOGITS), known, strict=True)
    ]
    return SpanTargets(tags, logits, record.get("counts", {}), record.get("seconds", 0.0))
