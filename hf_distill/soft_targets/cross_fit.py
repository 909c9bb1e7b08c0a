"""Cross-fitting: each row gets its soft targets from teachers that were not trained on it."""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedModel

from hf_distill.data.near_duplicates import near_duplicate_key
from hf_distill.soft_targets.cache import cache_teacher_outputs
from hf_distill.teachers.ensemble import TeacherEnsemble

NO_FOLD = -1  # of rows that no teacher was trained on


@dataclass(frozen=True)
class Share:
    """Rows that one teacher, or a mean of several, labels.

    Attributes:
        name: of its part of the cache.
        rows: (rows,) their numbers.
        teachers: numbers of the teachers.
    """

    name: str
    rows: np.ndarray
    teachers: tuple[int, ...]


def fold_of(key: str, folds: int) -> int:
    """The fold of a text: near-duplicates, which share a key, share a fold.

    Args:
        key: see `near_duplicate_key`.
        folds: how many.
    """
    return zlib.crc32(key.encode()) % folds


def folds_of(labelled: Iterable[str], others: Iterable[str], folds: int) -> np.ndarray:
    """The folds of texts with and without a label: one without that is a near-duplicate of one with is in its fold.

    Args:
        labelled: texts.
        others: texts.
        folds: how many.
    Returns:
        (texts with a label + others,) and `NO_FOLD` where no teacher was trained on the text or a near-duplicate.

    >>> one, other, like_one = folds_of(["See this!", "And that"], ["see 4 this", "Something else"], 100)[[0, 1, 2]]
    >>> bool(one == like_one), bool(one == other)
    (True, False)
    """
    keys = [near_duplicate_key(text) for text in labelled]
    known = {key: fold_of(key, folds) for key in keys}
    further = [known.get(near_duplicate_key(text), NO_FOLD) for text in others]
    return np.array([known[key] for key in keys] + further, dtype=np.int64)


def inherited_folds(folds: Sequence[int], rows: int, sources: Sequence[int]) -> np.ndarray:
    """The folds of all rows, where a text that was made from another one is in that one's fold.

    A teacher that was trained on the old text has in effect seen the new one.

    Args:
        folds: of the first rows; no teacher was trained on those after them.
        rows: the number of old ones, with and without a label.
        sources: for each new text, which come last, the number of the old row it was made from: see `augmented`.
    Returns:
        (rows + new texts,) and `NO_FOLD` where no teacher was trained on the row or its source.

    >>> inherited_folds([0, 1], 3, [1, 2, 0]).tolist()
    [0, 1, -1, 1, -1, 0]
    """
    old = np.full(rows, NO_FOLD)
    old[: len(folds)] = folds
    return np.concatenate([old, old[np.asarray(sources, dtype=np.int64)]])


def cross_fit_shares(folds: Sequence[int], teachers: int, rows: int) -> list[Share]:
    """Which teachers label which rows, if each teacher was trained on all folds but its own.

    Args:
        folds: of the first rows, or of all, see `inherited_folds`. `NO_FOLD`: no teacher was trained on the row.
        teachers: how many there are, one a fold.
        rows: in all; no teacher was trained on those after the folds. Rows that no teacher was trained on are labelled
            by all teachers together.
    Raises:
        ValueError: a fold without rows.
    """
    fold = np.full(rows, NO_FOLD)
    fold[: len(folds)] = folds
    shares = [Share(f"fold-{number}", np.flatnonzero(fold == number), (number,)) for number in range(teachers)]
    empty = [share.name for share in shares if not len(share.rows)]
    if empty:
        raise ValueError(
            f"teacher.cross_fit: {', '.join(empty)} got none of {(fold != NO_FOLD).sum()} labelled rows. Ask for fewer."
        )
    others = Share("others", np.flatnonzero(fold == NO_FOLD), tuple(range(teachers)))
    return [*shares, others] if len(others.rows) else shares


def ask_teachers(
    rows: datasets.Dataset, teachers: Sequence[PreTrainedModel], shares: Sequence[Share], folder: Path, **options: Any
) -> datasets.Dataset:
    """The rows with the logits of teachers that were trained on all folds but their own.

    Args:
        rows: tokenized.
        teachers: one a fold.
        shares: which of them label which rows, see `cross_fit_shares`.
        folder: of the caches.
        options: of `cache_teacher_outputs`.
    """
    parts = []
    for share in shares:
        asked = as_one_teacher([teachers[number] for number in share.teachers])
        parts.append(cache_teacher_outputs(rows.select(share.rows), asked, output_dir=folder / share.name, **options))
    return datasets.concatenate_datasets(parts).select(np.argsort(np.concatenate([share.rows for share in shares])))


def as_one_teacher(teachers: Sequence[PreTrainedModel]) -> PreTrainedModel | TeacherEnsemble:
    """One teacher itself, several as one."""
    return teachers[0] if len(teachers) == 1 else TeacherEnsemble(teachers)
