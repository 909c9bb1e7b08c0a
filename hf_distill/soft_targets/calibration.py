"""The calibration temperature of a teacher, and its logits after a label map and a temperature."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from hf_distill.columns import LOGITS
from hf_distill.problems import IGNORE_INDEX
from hf_distill.soft_targets.label_map import mapped_logits

TEMPERATURES = (0.05, 20.0)


def calibration_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the least cross-entropy on labels: confidence then matches accuracy.

    Args:
        logits: (items, classes), of rows that the model did not learn from.
        labels: (items,) class numbers; -100 is not counted.
    Returns:
        Above 1 for an overconfident model; between 0.05 and 20.
    Raises:
        ValueError: no label.
    Source:
        Guo et al. 2017, arXiv:1706.04599, section 4.2.

    >>> confident = np.array([[4.0, 0.0]] * 4)  # 98 % confident, 75 % correct
    >>> round(calibration_temperature(confident, np.array([0, 0, 0, 1])), 2)
    3.64
    """
    counted = labels != IGNORE_INDEX
    if not counted.any():
        raise ValueError("A temperature is fitted to labels, and there is none (all are -100).")
    logits, labels = logits[counted].astype(np.float64), labels[counted]

    def cross_entropy(log_temperature: float) -> float:
        log_probabilities = log_softmax(logits / np.exp(log_temperature), axis=-1)
        return float(-log_probabilities[np.arange(len(labels)), labels].mean())

    found = minimize_scalar(cross_entropy, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    return float(np.exp(found.x))


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
