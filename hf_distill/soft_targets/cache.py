"""A teacher's outputs as a data set on disk: computed once, shard by shard, and checked before they are used."""

import errno
import functools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_distill import checksums, columns
from hf_distill.data.augmentation import FreshTexts
from hf_distill.problems import TASKS, marks
from hf_distill.soft_targets.checks import (
    ROW_HASH,
    check_columns,
    check_options,
    check_teacher,
    input_columns,
    names_read,
    output_folder,
)
from hf_distill.soft_targets.inference import TeacherPass, pad
from hf_distill.soft_targets.layout import Layout, Values, table
from hf_distill.soft_targets.provenance import (
    check,
    provenance,
    row_hashes,
    rows_record,
    unchecked,
    with_checksums,
    write,
)
from hf_distill.soft_targets.shards import Processes, Windows, numbered, stored_hashes
from hf_distill.teachers.ensemble import TeacherEnsemble
from hf_distill.teachers.live import LiveTeacher, load_teacher
from hf_distill.teachers.placement import load_sharded, settled

logger = logging.get_logger(__name__)
# What is sorted by length together, and held in memory together: so many batches, or fewer if their answers are larger.
WINDOW = 64
WINDOW_BYTES = 2**27


def cache_teacher_outputs(
    dataset: datasets.Dataset | datasets.IterableDataset | FreshTexts,
    teacher_model: PreTrainedModel | TeacherEnsemble | str | Path,
    *,
    task: str,
    output_dir: str | Path,
    top_k: int | None = None,
    temperature: float = 1.0,
    dtype: str = "float16",
    hidden_layers: Sequence[int] = (),
    data_collator: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
    teacher_processing_class: Any = None,
    batch_size: int = 64,
    shard_size: int = 16_384,
    bf16: bool = False,
    device: str | torch.device | None = None,
    teacher_placement: str = "replicate",
) -> datasets.Dataset:
    """Compute a teacher's outputs once for every row, and keep them beside the rows.

    Rows are sorted by length, up to 64 batches at a time and 128 MB of outputs, so that little padding is computed. A
    shard is written under another name and renamed when it is whole: a killed pass loses at most the shard it was
    writing, and the next call goes on from there. A shard ends with a checksum, which is compared whenever a cache is
    opened: one that changed on the disk since is told by its name and computed again. Under `accelerate launch` the
    processes share the shards; each gets the whole result. Calls of other runs on one folder wait for each other, and
    find the shards of the first.

    `teacher_logits` (or the top-k columns) hold one row an example for classification; one a word for tagging (where
    `teacher_word_starts` is 1, else `word_starts`, else at the labelled positions); one a target position for
    translation (of `teacher_labels`, else `labels`); one a token for text generation (position t is about t + 1).

    Args:
        dataset: tokenised rows. A teacher with its own tokenizer reads `teacher_input_ids` and its companions. A stream
            (`IterableDataset`) is read once; its shards keep the rows too. So are `FreshTexts`, of the epoch now set.
        teacher_model: a model, an ensemble, or a Hub id or folder.
        task: a name in `problems.TASKS`.
        output_dir: where the shards are, or will be; the same for all processes.
        top_k: tokens to keep a position, for translation and text generation, with their ids in the narrowest type and
            the log-sum-exp of all others. None: all logits.
        temperature: of that tail, which cannot be tempered later: training must use the same. Dense logits can.
        dtype: on disk: `float32`, `float16`, `bfloat16` (kept as bytes) or `int8` (with a scale an item). Training from
            a float32 cache equals training live.
        hidden_layers: whose states are kept at every position, as `teacher_hidden_<layer>`; 0 is the embeddings. A
            translation's are those of the decoder.
        data_collator: makes the teacher's batches; it may pad and nothing else. None: padded on the right with the
            teacher's pad id, or 0 if it has none, and masked. Models that expect padding on the left get it there.
        teacher_processing_class: the teacher's tokenizer, whose hash is kept and compared, and whose token ids are the
            rows of its table that stand for tokens.
        batch_size: rows a forward.
        shard_size: rows a file.
        bf16: whether the teacher computes in bfloat16; for hardware that is fast at it.
        device: where the teacher runs; None: an accelerator if there is one.
        teacher_placement: where its weights are, as of `DistillationArguments`. The outputs are the same.
    Returns:
        The same rows in the same order with the teacher's columns, memory-mapped.
    Raises:
        ValueError: another teacher, other rows or other options made what is in `output_dir` (rows in another order
            are matched); the teacher returns NaN; rows without tokens, or that the teacher cannot read; columns of
            these names are there already; options that do not fit.
        OSError: the disk is full. What was finished is kept.
    """
    layout = Layout(top_k, temperature, dtype, tuple(hidden_layers))
    check_options(task, layout, batch_size, shard_size)
    if isinstance(dataset, FreshTexts):
        dataset = dataset.stream()
    names, dataset = input_columns(dataset)
    check_columns(names, task, layout)
    processes = Processes.assembled(device)
    teacher = _live(teacher_model, task, teacher_placement, processes.device, teacher_processing_class)
    teacher.in_step = teacher.is_sharded  # each process has shards of its own
    classes = check_teacher(teacher, task, layout, teacher_processing_class)
    output_dir = output_folder(output_dir)
    read = names_read(names, task)
    options = _options(task, layout, shard_size, bf16, isinstance(dataset, datasets.IterableDataset), teacher)
    origin = provenance(teacher, teacher_processing_class, options, read)
    pad_id = getattr(teacher.model.config, "pad_token_id", None) or 0
    collate = data_collator or functools.partial(pad, pad_id=pad_id)
    teacher_pass = TeacherPass(teacher, task, layout, collate, batch_size, bf16)
    work = CachePass(output_dir, processes, teacher_pass, read, shard_size, origin, classes)
    return work.over_stream(dataset) if isinstance(dataset, datasets.IterableDataset) else work.over_rows(dataset)


def _live(teacher: Any, task: str, placement: str, device: torch.device, tokenizer: Any) -> LiveTeacher:
    """A teacher as it was given, loaded where it has only a name, with its weights where they belong."""
    placement = settled(placement, teacher, device)
    if isinstance(teacher, str | Path):
        auto_class = TASKS[task].auto_class
        by_parts = placement == "shard"
        teacher = load_sharded(teacher, auto_class, device) if by_parts else load_teacher(teacher, auto_class)
    return LiveTeacher(teacher, device, placement, tokenizer)


def _options(
    task: str, layout: Layout, shard_size: int, bf16: bool, keeps_rows: bool, teacher: LiveTeacher
) -> dict[str, Any]:
    """The options of a pass that its outputs depend on, for the record of the cache."""
    options = {
        "task": task,
        "top_k": layout.top_k,
        "temperature": layout.temperature,
        "dtype": layout.dtype,
        "hidden_layers": list(layout.hidden_layers),
        "bf16": bf16,
        "shard_size": shard_size,
        "keeps_rows": keeps_rows,
    }
    return options if teacher.tokens is None else options | {"tokens": teacher.tokens}


# The pass


@dataclass
class CachePass:
    """One pass over the rows: which shards are there, and the others written.

    Attributes:
        folder: of the shards.
        processes: that share them.
        teacher_pass: gives the columns of some rows; a `TeacherPass`, or another with its `teacher.limits`, `task`,
            `layout` and `batch_size`.
        read: the columns that row hashes are of.
        shard_size: rows a file.
        origin: all that the cache depends on but its rows; see `provenance`.
        classes: that are kept of an item.
    """

    folder: Path
    processes: Processes
    teacher_pass: Any
    read: list[str]
    shard_size: int
    origin: dict[str, Any]
    classes: int

    def __post_init__(self) -> None:
        self.places, self.words = self.teacher_pass.teacher.limits
        self.unchecked: list[str] = []  # shards of older versions, which have no checksum

    def over_rows(self, dataset: datasets.Dataset) -> datasets.Dataset:
        hashes = row_hashes(dataset, self.read)
        rows = rows_record(hashes)
        sizes = self._sizes(dataset)
        before = self._enter({**self.origin, "rows": rows})
        with self.processes.only_pass(self.folder):
            return self._over_rows(dataset, hashes, sizes, before.get("rows", rows).get("order") == rows["order"])

    def _over_rows(
        self, dataset: datasets.Dataset, hashes: np.ndarray, sizes: np.ndarray, in_order: bool
    ) -> datasets.Dataset:
        starts = range(0, len(dataset), self.shard_size)
        ends = [min(start + self.shard_size, len(dataset)) for start in starts]
        paths = [self._path(number) for number in range(len(starts))]
        if not in_order:
            return self._reordered(dataset, hashes, paths)
        lacking = [n for n, path in enumerate(paths) if not self._is_whole(path, hashes[starts[n] : ends[n]])]
        self._check_room(sum(int(sizes[starts[n] : ends[n]].sum()) for n in lacking))  # all processes share the disk
        self.processes.wait()  # all have looked before any of them writes, so that all share out the same list
        missing = lacking[self.processes.number :: self.processes.size]
        own = [
            *missing,
            *(n for n in range(self.processes.number, len(starts), self.processes.size) if n not in lacking),
        ]
        mine = sum(ends[n] - starts[n] for n in own)
        todo = sum(ends[n] - starts[n] for n in missing)
        with self._progress(mine, mine - todo) as progress:
            for number in missing:
                window = self.teacher_pass.batch_size * WINDOW
                parts = (
                    (start, dataset.select(range(start, min(start + window, ends[number]))))
                    for start in range(starts[number], ends[number], window)
                )
                tables = (
                    table
                    for start, part in parts
                    for table in self._tables(start, part, sizes[start : start + len(part)], progress, keep_rows=False)
                )
                self._write_shard(number, tables)
        self._wait()
        cached = self._load(paths)
        if not np.array_equal(stored_hashes(cached), hashes):
            raise ValueError(f"{self.folder} holds outputs for other rows than its record names. Delete it.")
        return datasets.concatenate_datasets([dataset, cached.remove_columns(ROW_HASH)], axis=1)

    def _wait(self) -> None:
        """Wait until all have written their shards; a sharded teacher computes with all processes until the last.

        Any other teacher goes back to where it was, so that it takes no room on the device while a student trains.
        """
        if isinstance(self.teacher_pass.teacher, LiveTeacher):
            self.teacher_pass.teacher.finish()
            self.teacher_pass.teacher.put_back()
        self.processes.wait()

    def over_stream(self, dataset: datasets.IterableDataset) -> datasets.Dataset:
        self._enter(self.origin)
        with self.processes.only_pass(self.folder):
            return self._over_stream(dataset)

    def _over_stream(self, dataset: datasets.IterableDataset) -> datasets.Dataset:
        window = min(self.teacher_pass.batch_size * WINDOW, self.shard_size)
        source = Windows(dataset, window)
        found: list[np.ndarray] = []
        with self._progress(None, 0) as progress:
            number = 0
            while not source.is_empty():
                path = self._path(number)
                parts = source.take(self.shard_size)
                hashed = (numbered(found, part, row_hashes(part, self.read)) for part in parts)
                if number % self.processes.size != self.processes.number:
                    for _ in hashed:
                        pass
                elif self._is_whole(path, None):
                    self._compare(path, hashed, progress)
                else:
                    tables = (
                        table
                        for start, part in hashed
                        for table in self._tables(start, part, self._sizes(part, start), progress, keep_rows=True)
                    )
                    self._write_shard(number, tables)
                number += 1
        self._wait()
        self._enter({**self.origin, "rows": rows_record(np.concatenate(found))}, finished=True)
        return self._load([self._path(n) for n in range(number)]).remove_columns(ROW_HASH)

    def _sizes(self, dataset: datasets.Dataset, first: int = 0) -> np.ndarray:
        """The bytes that the answers to each row take: (rows,). `first` is the number of the first row."""
        marked = marks(dataset.column_names, self.teacher_pass.task)
        ids = columns.PREFIX + "input_ids" if columns.PREFIX + "input_ids" in dataset.column_names else "input_ids"
        items, positions = np.ones((2, len(dataset)), dtype=np.int64)
        start = 0
        wanted = [name for name in {ids, marked} if name is not None]
        for part in dataset.select_columns(wanted).with_format("arrow").iter(1000):
            lengths = np.asarray(pa.compute.list_value_length(part.column(ids)))
            of = lengths if marked is None else np.asarray(pa.compute.list_value_length(part.column(marked)))
            written = of if self.teacher_pass.task == "translation" else lengths
            self._check_readable(first + start, lengths, np.maximum(lengths, written), part.column(ids))
            if TASKS[self.teacher_pass.task].per_position:
                items[start : start + len(part)] = of
            positions[start : start + len(part)] = written
            start += len(part)
        layout = self.teacher_pass.layout
        config = self.teacher_pass.teacher.model.config.get_text_config() if layout.hidden_layers else None
        width = 0 if config is None else config.hidden_size
        return items * layout.bytes_per_item(self.classes) + positions * layout.bytes_per_position(width)

    def _check_readable(self, first: int, lengths: np.ndarray, longest: np.ndarray, ids: pa.ChunkedArray) -> None:
        """Raise a ValueError for rows that the teacher cannot read: their tokens, and the longest of all they hold."""
        if (lengths == 0).any():
            empty = first + int((lengths == 0).nonzero()[0][0])
            raise ValueError(f"Row {empty} has no tokens: the teacher has nothing to read. Remove such rows.")
        if (longest > self.places).any():
            raise ValueError(
                f"Row {first + int(longest.argmax())} has {longest.max()} tokens, and the teacher has places for "
                f"{self.places}. Cut the rows when they are tokenised (max_length={self.places}), or leave them out."
            )
        greatest = pa.compute.max(pa.compute.list_flatten(ids)).as_py()
        if greatest >= self.words:
            raise ValueError(
                f"The rows have the token {greatest}, and the teacher knows {self.words}: they were tokenised for "
                f"another model. Tokenise them with the teacher's own tokenizer, as {columns.PREFIX}input_ids where "
                "the student has another one."
            )

    def _enter(self, now: dict[str, Any], finished: bool = False) -> dict[str, Any]:
        """The record of the folder, which is written where there is none."""
        with self.processes.first_alone() as first:
            before = check(self.folder, now)
            is_new = before is None or (finished and "rows" not in before)
            record = with_checksums({**(before or {}), **now} if is_new else before or now, self.folder)
            if first and record != before:
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    write(self.folder, record)
                except OSError as error:
                    if is_new:
                        raise
                    logger.warning(f"{self.folder} is of an older version and cannot be written to: {error}.")
        self.unchecked = unchecked(record)
        return record

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.arrow"

    def _is_whole(self, path: Path, hashes: np.ndarray | None) -> bool:
        """Whether a shard is there with all its rows, as they were written; one that was cut or changed is logged."""
        if not path.exists():
            return False
        fault = checksums.damage(path, unsealed=path.name in self.unchecked)
        if fault is None:
            try:
                shard = datasets.Dataset.from_file(str(path))
                fault = None if ROW_HASH in shard.column_names else "was cut short"
            except (pa.ArrowException, OSError):
                fault = "was cut short"
        if fault is None and hashes is not None and not np.array_equal(stored_hashes(shard), hashes):
            if len(shard) == len(hashes):
                raise ValueError(f"{path} holds outputs for other rows than its folder's record names. Delete it.")
            fault = "was cut short"
        if fault is not None:
            logger.warning(f"{path} {fault} and has to be written again. Other shards are kept.")
        return fault is None

    def _reordered(self, dataset: datasets.Dataset, hashes: np.ndarray, paths: list[Path]) -> datasets.Dataset:
        """The rows with their outputs, from a finished cache that holds them in another order."""
        whole = [self._is_whole(path, None) for path in paths]
        if not all(whole):
            raise ValueError(
                f"{self.folder} is unfinished and holds these rows in another order: {sum(whole)} of {len(paths)} "
                "shards are whole. Finish it with the rows in their first order, or delete it."
            )
        cached = self._load(paths)
        if not np.array_equal(np.sort(stored_hashes(cached)), np.sort(hashes)):
            raise ValueError(f"{self.folder} holds outputs for other rows than its record names. Delete it.")
        there = np.argsort(stored_hashes(cached), kind="stable")
        here = np.argsort(hashes, kind="stable")
        row_of_answer, answer_of_row = np.empty_like(here), np.empty_like(here)
        row_of_answer[there], answer_of_row[here] = here, there
        # The rows are put into the order of the cache, since they are the smaller part, and both are read as asked.
        both = [dataset.select(row_of_answer), cached.remove_columns(ROW_HASH)]
        return datasets.concatenate_datasets(both, axis=1).select(answer_of_row)

    def _compare(self, path: Path, parts: Iterator[tuple[int, datasets.Dataset]], progress: tqdm) -> None:
        shard = stored_hashes(datasets.Dataset.from_file(str(path)))
        start = 0
        for _, part in parts:
            now = row_hashes(part, self.read)
            before = shard[start : start + len(now)]
            if not np.array_equal(now, before):
                row = start + (int((now != before).nonzero()[0][0]) if len(now) == len(before) else len(before))
                raise ValueError(
                    f"Row {row} of {path} was another one when it was written: the stream has other rows, or another "
                    "order. Choose another output_dir, or stream the same rows."
                )
            start += len(now)
            progress.update(len(now))
        if start != len(shard):
            raise ValueError(f"{path} holds {len(shard)} rows and the stream ends after {start} of them. Delete it.")

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"{self.folder} has {free / 1e9:.2f} GB left and the cache needs {needed / 1e9:.2f} GB more. Make "
                "room, or choose a smaller dtype or top_k.",
            )

    @contextmanager
    def _progress(self, total: int | None, done: int) -> Iterator[tqdm]:
        with tqdm(
            total=total, initial=done, desc="Teacher", unit=" rows", disable=self.processes.number > 0
        ) as progress:
            yield progress

    def _tables(
        self, first: int, rows: datasets.Dataset, sizes: np.ndarray, progress: tqdm, keep_rows: bool
    ) -> Iterator[pa.Table]:
        """The answers to some rows that follow each other, as many at a time as may be held in memory; see `_sizes`."""
        a_batch = self.teacher_pass.batch_size * int(sizes.max())
        size = max(1, WINDOW_BYTES // max(1, a_batch)) * self.teacher_pass.batch_size
        for start in range(0, len(rows), size):
            part = rows.select(range(start, min(start + size, len(rows))))
            yield self._table(first + start, part, progress, keep_rows)

    def _table(self, first: int, rows: datasets.Dataset, progress: tqdm, keep_rows: bool) -> pa.Table:
        found = self.teacher_pass(rows, first, progress)
        found[ROW_HASH] = Values(row_hashes(rows, self.read), None)
        return table(found, rows.data.table if keep_rows else None, rows.features if keep_rows else {})

    def _write_shard(self, number: int, tables: Iterator[pa.Table]) -> None:
        path = self._path(number)
        for stale in self.folder.glob(f"{path.stem}.*.part"):  # of a killed pass
            stale.unlink()
        temporary = path.with_suffix(f".{os.getpid()}.part")
        writer: Any = None
        try:
            with pa.OSFile(str(temporary), "wb") as file:
                for each in tables:
                    with self._saying_what_is_kept(path):
                        writer = writer or pa.ipc.new_stream(file, each.schema)
                        writer.write_table(each)
                    del each  # before the next one is made
                with self._saying_what_is_kept(path):
                    writer.close()
            with self._saying_what_is_kept(path):
                checksums.seal(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _saying_what_is_kept(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kept = len(list(self.folder.glob("shard-*.arrow")))
            raise OSError(
                error.errno,
                f"{path} could not be written: {error}. {kept} finished shards are kept: the same call goes on from "
                "there once there is room.",
            ) from error

    def _load(self, paths: list[Path]) -> datasets.Dataset:
        return datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in paths])
