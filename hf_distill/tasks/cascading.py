"""The cascade of a run: a threshold fitted on held-out rows, and what it is worth on the test rows."""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
from scipy.special import expit, softmax

from hf_distill.columns import LOGITS
from hf_distill.evaluation.answering import SEVERAL
from hf_distill.evaluation.bootstrap import estimate
from hf_distill.evaluation.cascade import TEMPERATURE, THRESHOLD, temperature_of
from hf_distill.evaluation.deferral import Fit, confidences, curve_of, fitted, row_of, too_few
from hf_distill.evaluation.predictions import decide
from hf_distill.evaluation.predictor import Predictor, predict_logits
from hf_distill.problems import IGNORE_INDEX
from hf_distill.reports.report import Report, plain
from hf_distill.tasks.base import Loaded
from hf_distill.tasks.labelling import LabellingTask
from hf_distill.tasks.settings import Settings


def check_settings(settings: Settings) -> None:
    """Raise a ValueError where a recipe's task has no cascade."""
    if settings.cascade is not None and (
        settings.task != "text-classification" or settings.data.problem_type == "regression"
    ):
        kind = "a regression" if settings.data.problem_type == "regression" else settings.task
        raise ValueError(f"cascade: is for classes of texts, and this is {kind}. Leave it out.")


def check_rows(task: LabellingTask) -> None:
    """Raise a ValueError where a threshold cannot be fitted on the rows, or the teacher has other classes."""
    wanted = task.settings.cascade
    if wanted is None:
        return
    if not task.same_classes and not task.settings.teacher.label_map:
        raise ValueError(
            f"cascade: the teacher's classes are {task.models.teacher_classes} and the student's {task.classes}: it "
            "cannot answer for the student. Say which is which with teacher.label_map, or leave cascade out."
        )
    rows, name = held_out(task)
    if len(rows) < wanted.target.texts:
        raise ValueError(
            f"cascade: {too_few(len(rows), wanted.target.texts, wanted.target)} They are the rows of {name}. Set "
            f"data.fidelity to {wanted.target.texts} or more where so many rows have no label, else data.validation."
        )


def held_out(task: LabellingTask) -> tuple[datasets.Dataset, str]:
    """The rows that a threshold is fitted on, and their name: those without labels where they are held out."""
    return (
        (task.splits.fidelity, "data.fidelity") if len(task.splits.fidelity) else (task.splits.validation, "validation")
    )


def fit(task: LabellingTask, student: Loaded) -> Fit:
    """Fit the threshold of a run, and set it in the student's config where there is one.

    Args:
        task: of the run, with a `cascade`.
        student: after its training; its config is changed.
    """
    rows, _ = held_out(task)
    compared = task.for_comparison(rows)
    probabilities = _probabilities(student, compared, task)
    target, several = _wanted(task).target, task.splits.problem_type == SEVERAL
    found = fitted(
        probabilities,
        decide(_logits(student, compared), task.splits.problem_type),
        decide(_teachers(compared), task.splits.problem_type),
        target,
        temperature_of(several),
        several=several,
        seed=task.settings.seed,
    )
    config: Any = student[0].config
    if found.threshold is not None:
        setattr(config, THRESHOLD, found.threshold)
        setattr(config, TEMPERATURE, found.temperature)
    told = (
        "none keeps the promise: every text would go to the teacher"
        if found.threshold is None
        else (f"{found.threshold:.4f}; of {found.tested_texts:,} texts {found.handed_over:,} would go to the teacher")
    )
    task.notes.append(f"cascade threshold: {told}")
    return found


def with_deferral(task: LabellingTask, student: Loaded, report: Report, fitted_as: Mapping[str, Any]) -> Report:
    """A report with `deferral`: the fit, and the curve on the test rows.

    Args:
        task: of the run, with a `cascade`.
        student: with the threshold in its config.
        report: of the run.
        fitted_as: `Fit.as_dict`.
    """
    problem = task.splits.problem_type
    compared = task.for_comparison(task.splits.test)
    probabilities = _probabilities(student, compared, task)
    confidence = confidences(probabilities, fitted_as["temperature"], problem == SEVERAL)
    own, theirs = (decide(logits, problem) for logits in (_logits(student, compared), _teachers(compared)))
    same = (own == theirs).reshape(len(own), -1).all(axis=1)
    labels = np.asarray(compared.with_format(None)["labels"][:])
    labelled = (labels.reshape(len(labels), -1) != IGNORE_INDEX).all(axis=1)
    metric, settings = task.metric(task.settings.metrics[0]), task.settings

    def quality(handed_over: np.ndarray) -> dict[str, float]:
        given = np.where(handed_over.reshape(-1, *[1] * (own.ndim - 1)), theirs, own)
        found = estimate(
            metric, given[labelled], labels[labelled], resamples=settings.compare.resamples, seed=settings.seed
        ).summary()
        return {name: found[name] for name in ("value", "low", "high") if name in found}

    scored = None if getattr(metric, "reads_logits", False) else quality
    paid = {name: report.models[name] for name in ("student", "teacher")}
    key = "end_to_end_ms" if all("end_to_end_ms" in each for each in paid.values()) else "latency_ms"
    times = paid["student"][key]["batch_1"]["p50"], paid["teacher"][key]["batch_1"]["p50"]
    deferral = {
        "fit": {**fitted_as, "rows": held_out(task)[1]},
        "texts": len(own),
        "metric": task.settings.metrics[0],
        "curve": curve_of(confidence, same, scored, times),
    }
    threshold = fitted_as["threshold"]
    if threshold is not None:
        at = row_of(confidence < threshold, same, scored, times)
        deferral["at_threshold"] = {"threshold": threshold, **at}
    fields = {**vars(report), "deferral": plain(deferral)}
    return Report(**fields)


def _wanted(task: LabellingTask) -> Any:
    return task.settings.cascade


def _logits(student: Loaded, rows: datasets.Dataset) -> np.ndarray:
    model, tokenizer = student
    predictor = Predictor(model, rows, tokenizer)
    with predictor.ready():
        return predict_logits(predictor, rows, name="student")


def _probabilities(student: Loaded, rows: datasets.Dataset, task: LabellingTask) -> np.ndarray:
    logits = _logits(student, rows).astype(np.float64)
    return expit(logits) if task.splits.problem_type == SEVERAL else softmax(logits, axis=-1)


def _teachers(rows: datasets.Dataset) -> np.ndarray:
    return np.asarray(rows.with_format(None)[LOGITS][:], dtype=np.float32)
