"""Quality, ratios, errors, the gain over the controls, fidelity and calibration, from predictions and times."""

from collections.abc import Mapping, Sequence
from typing import Any

import evaluate

from hf_distill.evaluation.bootstrap import Estimate, estimate
from hf_distill.evaluation.predictions import Predictions
from hf_distill.evaluation.seeds import means_over_seeds
from hf_distill.evaluation.speed import Speed, faster
from hf_distill.metrics import CalibrationError, TeacherAgreement, TeacherKL

MAJORITY = "majority_class"
SMALLER = {"parameters": "smaller", "bytes": "lighter", "flops_per_text": "fewer_flops"}  # ratios by what they are of
SHARES = ("accuracy", "f1", "macro_f1", "seqeval")  # 1 is perfect, so what is missing is the error


def score(
    scores: Sequence[evaluate.EvaluationModule],
    predictions: Predictions,
    trainings: Mapping[str, Sequence[str]],
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Estimate]]:
    """Every metric of every model and control, on the items with a label.

    Args:
        scores: the metrics.
        predictions: of the models and controls.
        trainings: see `seeds.further_trainings`.
        resamples: of the examples.
        seed: of the draws, the same for all.
    Returns:
        name -> metric -> estimate; a metric of logits is missing where there are none.
    """
    known = predictions.where(predictions.labelled)
    found: dict[str, dict[str, Estimate]] = {name: {} for name in known.decisions}
    for name in found:
        for metric in scores:
            logits = getattr(metric, "reads_logits", False) and name in known.logits
            part = known.where(known.read_by(name)) if logits else known
            answers = part.answers(metric, name)
            if answers is not None:
                found[name][metric.name] = estimate(
                    metric, answers, part.labels, part.items, resamples=resamples, seed=seed
                )
    return means_over_seeds(found, trainings, seed)


def summaries(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    """Some estimates as plain data."""
    return {name: one.summary() for name, one in estimates.items()}


def ratios(
    models: Mapping[str, Any], value: Mapping[str, Estimate], speeds: Mapping[str, Speed], seed: int
) -> dict[str, dict[str, Any]]:
    """How much better the student is, more being better in each.

    Args:
        models: `parameters`, `bytes` and, where counted, `flops_per_text` of teacher and student; nothing of a teacher
            that is not here.
        value: of the first metric, by name; without the teacher's, no ratio of quality is found.
        speeds: of teacher and student.
        seed: of the draws of timed calls.
    Returns:
        name -> `value`, with `low` and `high` where it rests on samples; see `ratio` for what is missing.
    """
    found: dict[str, dict[str, Any]] = {
        name: {"value": models["teacher"][size] / models["student"][size]}
        for size, name in SMALLER.items()
        if all(size in models.get(who, {}) for who in ("teacher", "student"))
    }
    if "teacher" in speeds:
        found |= faster(speeds["teacher"], speeds["student"], seed)
    if "teacher" in value:
        found |= ratio("quality_kept", value["student"], value["teacher"])
    if {MAJORITY, "teacher"} <= value.keys():
        above = {name: value[name] - value[MAJORITY] for name in ("student", "teacher")}
        found |= ratio("quality_kept_above_chance", above["student"], above["teacher"])
    return found


def ratio(name: str, numerator: Estimate, denominator: Estimate) -> dict[str, dict[str, Any]]:
    """A ratio under its name; nothing where the denominator is not clearly above zero.

    Over a margin that may be nothing a ratio may be anything, so it is left out where the lower end of the
    denominator's interval is 0 or less.

    Args:
        name: of the ratio.
        numerator: on the same draws as the denominator.
        denominator: what is divided by.
    """
    summary = denominator.summary()
    if denominator.value <= 0 or summary.get("low", denominator.value) <= 0:
        return {}
    return {name: (numerator / denominator).summary()}


def errors(value: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    """What teacher and student miss of 1, and the ratio of the two where the teacher clearly misses something.

    Args:
        value: of a metric that is a share, by name.
    """
    missing = {name: value[name].missing for name in ("teacher", "student")}
    return summaries(missing) | ratio("error_ratio", missing["student"], missing["teacher"])


def gain(value: Mapping[str, Estimate], controls: Sequence[str], name: str = "student") -> dict[str, Any]:
    """The lead over the best of some controls, paired.

    Args:
        value: of the first metric, by name.
        controls: at least one.
        name: of the model that leads.
    Returns:
        `value`, `low`, `high`, and the best one as `control`.
    """
    best = max(controls, key=lambda control: value[control].value)
    return (value[name] - value[best]).summary() | {"control": best}


def fidelity(predictions: Predictions) -> dict[str, Any]:
    """How closely the student follows its teacher, labels or not.

    Args:
        predictions: with logits of both.
    Raises:
        ValueError: the two have other classes.
    """
    student, teacher = (predictions.logits[name] for name in ("student", "teacher"))
    if student.shape != teacher.shape:
        raise ValueError(
            f"Student and teacher logits have shapes {student.shape} and {teacher.shape}: the two need the same "
            "classes to be compared. Give the student the teacher's num_labels and id2label."
        )
    read = predictions.read_by("student", "teacher")
    student, teacher = student[read], teacher[read]
    found = {
        "agreement": TeacherAgreement().score(student, teacher),
        "kl": TeacherKL().score(student, teacher),
        "examples": predictions.items.examples,
    }
    return found | ({"words": len(student)} if predictions.words else {})


def calibration(predictions: Predictions, names: Sequence[str]) -> dict[str, float]:
    """Expected calibration error of the models and controls with logits, on the items with a label that they read.

    Args:
        predictions: single-label.
        names: of whom.
    """
    known = predictions.where(predictions.labelled)
    read = {name: known.where(known.read_by(name)) for name in names if name in known.logits}
    return {
        name: CalibrationError().score(part.logits[name], part.labels)
        for name, part in read.items()
        if len(part.labels)
    }
