"""Better soft targets: teachers that did not train on the rows they label, and a temperature that fits their doubt."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from transformers import PreTrainedModel

from hf_distill.cache import cache_teacher_outputs
from hf_distill.columns import LOGITS
from hf_distill.data import near_duplicate_key
from hf_distill.label_map import mapped_logits
from hf_distill.tasks import IGNORE_INDEX
from hf_distill.teacher import TeacherEnsemble

TEMPERATURES = (0.05, 20.0)
NOBODYS = -1  # the fold of rows that no teacher learnt from


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
        key: see `data.near_duplicate_key`.
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
        (texts with a label + others,) and `NOBODYS` where no teacher learnt from the text or one like it.

    >>> one, other, like_one = folds_of(["See this!", "And that"], ["see 4 this", "Something else"], 100)[[0, 1, 2]]
    >>> bool(one == like_one), bool(one == other)
    (True, False)
    """
    keys = [near_duplicate_key(text) for text in labelled]
    known = {key: fold_of(key, folds) for key in keys}
    further = [known.get(near_duplicate_key(text), NOBODYS) for text in others]
    return np.array([known[key] for key in keys] + further, dtype=np.int64)


def inherited_folds(folds: Sequence[int], rows: int, sources: Sequence[int]) -> np.ndarray:
    """The folds of all rows, where a text that was made from another one is in that one's fold: a teacher that learnt
    from the old text knows the new one.

    Args:
        folds: of the first rows; from those after them nobody learnt.
        rows: the number of old ones, with and without a label.
        sources: for each new text, which come last, the number of the old row it was made from: see `augmented`.
    Returns:
        (rows + new texts,) and `NOBODYS` where no teacher learnt from the row or its source.

    >>> inherited_folds([0, 1], 3, [1, 2, 0]).tolist()
    [0, 1, -1, 1, -1, 0]
    """
    old = np.full(rows, NOBODYS)
    old[: len(folds)] = folds
    return np.concatenate([old, old[np.asarray(sources, dtype=np.int64)]])


def cross_fit_shares(folds: Sequence[int], teachers: int, rows: int) -> list[Share]:
    """Which teachers label which rows, if each teacher learnt from all folds but its own.

    Args:
        folds: of the first rows, or of all, see `inherited_folds`. `NOBODYS`: no teacher learnt from the row.
        teachers: how many there are, one a fold.
        rows: in all; from those after the folds nobody learnt either. What nobody learnt from, all teachers label
            together.
    Raises:
        ValueError: a fold without rows.
    """
    fold = np.full(rows, NOBODYS)
    fold[: len(folds)] = folds
    shares = [Share(f"fold-{number}", np.flatnonzero(fold == number), (number,)) for number in range(teachers)]
    empty = [share.name for share in shares if not len(share.rows)]
    if empty:
        raise ValueError(
            f"teacher.cross_fit: {', '.join(empty)} got none of {(fold != NOBODYS).sum()} labelled rows. Ask for fewer."
        )
    others = Share("others", np.flatnonzero(fold == NOBODYS), tuple(range(teachers)))
    return [*shares, others] if len(others.rows) else shares


def calibration_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature at which a model's doubt fits its mistakes: the one with the least cross-entropy.

    Args:
        logits: (items, classes), of rows that the model did not learn from.
        labels: (items,) class numbers; -100 is not counted.
    Returns:
        Above 1 for a model that is too sure of itself; between 0.05 and 20.
    Raises:
        ValueError: no label.
    Source:
        Guo et al. 2017, arXiv:1706.04599, section 4.2.

    >>> sure = np.array([[4.0, 0.0]] * 4)  # 98 % sure, and right three times of four
    >>> round(calibration_temperature(sure, np.array([0, 0, 0, 1])), 2)
    3.64
    """
    counted = labels != IGNORE_INDEX
    if not counted.any():
        raise ValueError("A temperature is fitted to labels, and there is none (all are -100).")
    logits, labels = logits[counted].astype(np.float64), labels[counted]

    def cross_entropy(log_temperature: float) -> float:
        said = log_softmax(logits / np.exp(log_temperature), axis=-1)
        return float(-said[np.arange(len(labels)), labels].mean())

    found = minimize_scalar(cross_entropy, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    return float(np.exp(found.x))


def ask_teachers(
    rows: datasets.Dataset, teachers: Sequence[PreTrainedModel], folds: Sequence[int], folder: Path, **options: Any
) -> datasets.Dataset:
    """The rows with the logits of a teacher, or of teachers that learnt from all folds but their own.

    Args:
        rows: tokenised.
        teachers: one, or one a fold.
        folds: of the first rows or of all, see `cross_fit_shares`; not read with one teacher.
        folder: of the cache.
        options: of `cache_teacher_outputs`.
    """
    if len(teachers) == 1:
        return cache_teacher_outputs(rows, teachers[0], output_dir=folder, **options)
    shares = cross_fit_shares(folds, len(teachers), len(rows))
    parts = []
    for share in shares:
        asked = speaker([teachers[number] for number in share.teachers])
        parts.append(cache_teacher_outputs(rows.select(share.rows), asked, output_dir=folder / share.name, **options))
    return datasets.concatenate_datasets(parts).select(np.argsort(np.concatenate([share.rows for share in shares])))


def speaker(teachers: Sequence[PreTrainedModel]) -> PreTrainedModel | TeacherEnsemble:
    """One teacher itself, several as one."""
    return teachers[0] if len(teachers) == 1 else TeacherEnsemble(teachers)


def adjusted(
    rows: datasets.Dataset,
    temperature: float | np.ndarray = 1.0,
    label_map: Mapping[str, str | None] | None = None,
    teacher_classes: Sequence[str] = (),
    student_classes: Sequence[str] = (),
) -> tuple[datasets.Dataset, float]:
    """The rows with their `teacher_logits` through a label map, and then divided by a temperature.

    Args:
        rows: a row of logits each, or one a word.
        temperature: > 0, of all rows, or (rows,) of each.
        label_map: see `label_map.mapped_logits`. None or empty: the classes stay.
        teacher_classes: in order, for the map.
        student_classes: likewise.
    Returns:
        The rows, and the share of items for which the teacher would have chosen a class that the map leaves out.
    """
    lost: list[bool] = []
    temperatures = np.broadcast_to(np.float32(temperature), len(rows))

    def change(batch: dict[str, Any], numbers: list[int]) -> dict[str, Any]:
        made = []
        for number, row in zip(numbers, batch[LOGITS], strict=True):
            logits = np.asarray(row, dtype=np.float32)
            if label_map:
                logits, missing = mapped_logits(logits, label_map, teacher_classes, student_classes)
                lost.extend(np.atleast_1d(missing > 0.5).tolist())
            made.append((logits / temperatures[number]).tolist())
        return {LOGITS: made}

    others = rows.remove_columns(LOGITS)
    column = rows.select_columns([LOGITS]).map(
        change,
        batched=True,
        with_indices=True,
        remove_columns=[LOGITS],
        keep_in_memory=True,
        load_from_cache_file=False,
        desc="Adjust",
    )
    return datasets.concatenate_datasets([others, column], axis=1), float(np.mean(lost)) if lost else 0.0
