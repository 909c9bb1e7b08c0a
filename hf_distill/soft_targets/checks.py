"""Checks of the options and columns of a cache before the teacher is called."""

from pathlib import Path
from typing import Any

import datasets

from hf_distill import columns
from hf_distill.problems import MARKS, TASKS, marks
from hf_distill.soft_targets.layout import BYTES, Layout
from hf_distill.teachers.live import LiveTeacher

ROW_HASH = "row_hash"


# Before the pass


def check_options(task: str, layout: Layout, batch_size: int, shard_size: int) -> None:
    """Raise a ValueError for options of a cache that do not fit."""
    if task not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}; got {task!r}.")
    language = task in ("translation", "text-generation")
    if layout.top_k is not None and not language:
        raise ValueError(
            f"top_k={layout.top_k}: classification keeps all classes, there is nothing to leave out. Use None."
        )
    if layout.top_k is not None and layout.top_k < 1:
        raise ValueError(f"top_k must be at least 1, or None for all; got {layout.top_k}.")
    if layout.top_k is None and layout.temperature != 1.0:
        raise ValueError(
            f"temperature={layout.temperature} only shapes the tail of a top-k cache; dense logits are tempered in "
            "training. Use 1."
        )
    if not 0 < layout.temperature < float("inf"):
        raise ValueError(f"temperature must be a finite number > 0, got {layout.temperature}.")
    if layout.dtype not in BYTES:
        raise ValueError(f"dtype must be one of {', '.join(BYTES)}; got {layout.dtype!r}")
    if any(layer < 0 for layer in layout.hidden_layers) or len(set(layout.hidden_layers)) < len(layout.hidden_layers):
        raise ValueError(
            f"hidden_layers must be different numbers from 0 (the embeddings), since their columns are called after "
            f"them; got {list(layout.hidden_layers)}."
        )
    if batch_size < 1 or shard_size < 1:
        raise ValueError(f"batch_size and shard_size must be at least 1, got {batch_size} and {shard_size}.")


def output_folder(output_dir: str | Path) -> Path:
    """Where a cache will be; a ValueError if a file is there."""
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir: expected a folder, and {folder} is a file. Choose another name.")
    return folder


def input_columns(dataset: Any) -> tuple[list[str], Any]:
    """The columns of rows or of a stream, which may not know them."""
    if isinstance(dataset, datasets.IterableDataset):
        dataset = dataset.with_format(None)
        first = next(iter(dataset), None)
        if first is not None:
            return list(first), dataset
    elif len(dataset) > 0:
        return dataset.column_names, dataset
    raise ValueError("The data set has no rows: the teacher has nothing to read.")


def check_columns(names: list[str], task: str, layout: Layout) -> None:
    """Raise a ValueError for columns that the cache would write, or that the task lacks."""
    # Another pass's logits would be used instead of these, or beside them.
    others = [name for name in names if columns.is_output(name) and not name.startswith(columns.HIDDEN)]
    there = list(dict.fromkeys([*others, *(name for name in [*layout.names, ROW_HASH] if name in names)]))
    if there:
        raise ValueError(f"The data set has a column {', '.join(there)} already: remove or rename it.")
    if "input_ids" not in names:
        raise ValueError(f"Expected tokenized rows with input_ids, got the columns {names}.")
    if marks(names, task) is None and task in ("token-classification", "translation"):
        what = "one row a word" if task == "token-classification" else "one row a target position"
        raise ValueError(
            f"A cache for {task} holds {what}, and no column says where they are: expected one of "
            f"{', '.join(MARKS[task])}; got {names}."
        )


def names_read(names: list[str], task: str) -> list[str]:
    """The columns that the teacher's outputs depend on."""
    own = [
        name
        for name in names
        if name.startswith(columns.PREFIX) and not columns.is_output(name) and name != columns.TEACHER_WORD_STARTS
    ]
    read = own or [name for name in names if name in ("input_ids", "token_type_ids", "attention_mask")]
    marked = marks(names, task)
    return sorted({*read, *([] if marked is None else [marked])})


def check_teacher(teacher: LiveTeacher, task: str, layout: Layout, tokenizer: Any) -> int:
    """The number of classes that are kept; `teacher.tokens` is set where rows of its table stand for no token.

    Args:
        teacher: of the cache.
        task: a name in `problems.TASKS`.
        layout: of the cache.
        tokenizer: the teacher's, if known.
    Raises:
        ValueError: more of the top k than classes; members of an ensemble with tables of several sizes and no
            tokenizer, or states of an ensemble.
    """
    sizes = [member.config.get_text_config().vocab_size for member in teacher.members]
    tokens = None if tokenizer is None else max(tokenizer.get_vocab().values()) + 1
    if len(set(sizes)) > 1 and (tokens is None or tokens > min(sizes)):
        raise ValueError(
            f"The members of the ensemble know {sizes} tokens, and all of them would read the same token ids. If one "
            "tokenizer made their vocabularies, pass it as teacher_processing_class; else cache each member by itself."
        )
    config = teacher.members[0].config.get_text_config()
    language = task in ("translation", "text-generation")
    classes: int = config.vocab_size if language else config.num_labels
    padded = tokens is not None and tokens < max(sizes)
    if language and padded and (layout.top_k is not None or len(set(sizes)) > 1):
        teacher.tokens = classes = tokens  # type: ignore[assignment]
    if layout.top_k is not None and layout.top_k > classes:
        raise ValueError(f"top_k={layout.top_k} is more than the teacher's {classes} tokens. Use at most {classes}.")
    if layout.hidden_layers and len(teacher.members) > 1:
        raise ValueError("hidden_layers: an ensemble has no states of its own. Cache each member by itself.")
    return classes
