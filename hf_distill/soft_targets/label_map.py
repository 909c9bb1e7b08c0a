"""A teacher of other classes, read in the student's: several of its classes may be one of the student's."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import logsumexp


def check_label_map(
    label_map: Mapping[str, str | None], teacher_classes: Sequence[str], student_classes: Sequence[str]
) -> None:
    """Raise unless every class of the teacher is mapped and every class of the student is mapped to.

    Args:
        label_map: teacher's class to the student's; None: left out, its probability shared by the others.
        teacher_classes: in order.
        student_classes: in order.
    Raises:
        ValueError: a class that one of the two does not have, or one that the map leaves out.
    """
    if not isinstance(label_map, Mapping) or not all(
        isinstance(name, str) and isinstance(goal, str | None) for name, goal in label_map.items()
    ):
        raise ValueError(
            f"teacher.label_map: expected the name of a class of the student, or null, for each class of the teacher; "
            f"got {label_map!r:.200}. Put names that are numbers in quotes."
        )
    if not teacher_classes or not student_classes:
        raise ValueError(
            f"teacher.label_map: expected classes on both sides, got {len(teacher_classes)} of the teacher's and "
            f"{len(student_classes)} of the student's. Set id2label of the model's config."
        )
    foreign = [name for name in label_map if name not in teacher_classes]
    unknown = [name for name in label_map.values() if name is not None and name not in student_classes]
    if foreign or unknown:
        raise ValueError(
            f"teacher.label_map: the teacher's classes are {list(teacher_classes)} and the student's "
            f"{list(student_classes)}; there is no {', '.join(map(repr, [*foreign, *unknown]))}."
        )
    unmapped = [name for name in teacher_classes if name not in label_map]
    if unmapped:
        raise ValueError(
            f"teacher.label_map: the teacher's {', '.join(map(repr, unmapped))} is not mapped. Map each to a "
            "class of the student, or to null to leave it out."
        )
    unreached = [name for name in student_classes if name not in label_map.values()]
    if unreached:
        raise ValueError(
            f"teacher.label_map: no class of the teacher is mapped to the student's {', '.join(map(repr, unreached))}: "
            "its soft targets would teach that they never occur. Learn from its inner states alone (a matching, with "
            "soft_target_weight: 0), or choose a teacher that knows them."
        )


def mapped_logits(
    logits: np.ndarray,
    label_map: Mapping[str, str | None],
    teacher_classes: Sequence[str],
    student_classes: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """A teacher's logits in the student's classes: the log of the summed probabilities, up to a constant.

    Args:
        logits: (..., teacher classes), of a single choice.
        label_map: see `check_label_map`.
        teacher_classes: in order.
        student_classes: in order.
    Returns:
        (..., student classes) float32, and (...,) the probability of the classes that were left out.
    Raises:
        ValueError: see `check_label_map`; logits of other classes, or that are no probabilities: with NaN, infinity, or
            minus infinity for all classes.

    >>> made, lost = mapped_logits(np.zeros(4), {"a": "x", "b": "x", "c": "y", "d": None}, "abcd", "xy")
    >>> np.exp(made).round(3).tolist(), round(float(lost), 3)
    ([2.0, 1.0], 0.25)
    """
    check_label_map(label_map, teacher_classes, student_classes)
    values = as_logits(logits, len(teacher_classes))
    goals = [label_map[name] for name in teacher_classes]
    members = [[number for number, goal in enumerate(goals) if goal == name] for name in student_classes]
    made = np.stack([logsumexp(values[..., each], axis=-1) for each in members], axis=-1)
    lost = 1 - np.exp(logsumexp(made, axis=-1) - logsumexp(values, axis=-1))
    return made.astype(np.float32), np.clip(lost, 0, 1)


def as_logits(logits: np.ndarray, classes: int) -> np.ndarray:
    """A teacher's logits as float64.

    Args:
        logits: (..., classes).
        classes: how many there are.
    Raises:
        ValueError: another shape, no numbers, or numbers that are no logits in float32.
    """
    values = np.asarray(logits)
    if values.shape == (0,):  # the words of a sentence without one
        values = values.reshape(0, classes).astype(np.float32)
    if values.dtype.kind not in "fui" or values.ndim == 0 or values.shape[-1] != classes:
        raise ValueError(
            f"teacher.label_map: expected logits of {classes} classes, got {values.dtype} of the shape {values.shape}. "
            "Were they made by another teacher? Delete its cache."
        )
    values = values.astype(np.float64)
    ruled_out = np.isneginf(values)
    if (~ruled_out & ~(np.abs(values) <= np.finfo(np.float32).max)).any() or ruled_out.all(axis=-1).any():
        raise ValueError(
            "teacher.label_map: the teacher's logits are NaN or infinite, or rule out every class of a row, so they "
            "are no probabilities. Check the teacher on these rows, or cache its outputs again."
        )
    return values
