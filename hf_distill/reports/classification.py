"""`compare`: is the student worth its teacher? Quality with intervals, fidelity, size and speed, and honest
controls."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import torch
from datasets import Dataset
from torch import nn

from hf_distill.environment import environment
from hf_distill.evaluation import breakdown
from hf_distill.evaluation.bootstrap import RESAMPLES, Estimate
from hf_distill.evaluation.controls import majority_class
from hf_distill.evaluation.cost import count_parameters, weights_bytes
from hf_distill.evaluation.end_to_end import (
    RUNTIME,
    EndToEnd,
    FromText,
    check_texts,
    end_to_end_ratios,
    in_runtime,
    measure_end_to_end,
)
from hf_distill.evaluation.predictions import UNREAD, Predictions, Predictors
from hf_distill.evaluation.predictor import Predictor
from hf_distill.evaluation.quality import (
    MAJORITY,
    SHARES,
    calibration,
    errors,
    fidelity,
    gain,
    ratios,
    score,
    summaries,
)
from hf_distill.evaluation.seeds import BASELINE
from hf_distill.evaluation.speed import (
    Cell,
    Speed,
    by_length,
    faster,
    measure_cells,
    measure_speed,
    summary,
    with_intervals,
)
from hf_distill.reports.comparison import SINGLE_LABEL, TEST_SET, Comparison
from hf_distill.reports.report import Report, finished
from hf_distill.reports.warnings import leak, report_warnings
from hf_distill.teachers.ensemble import TeacherEnsemble


def compare(
    teacher_model: nn.Module | TeacherEnsemble | None,
    student_model: nn.Module,
    dataset: Dataset,
    *,
    task: str = "text-classification",
    baseline_model: nn.Module | None = None,
    more_students: Sequence[tuple[nn.Module, nn.Module | None]] = (),
    teacher_processing_class: Any = None,
    student_processing_class: Any = None,
    metrics: Sequence[str] = ("accuracy", "macro_f1"),
    trust_remote_code: bool = False,
    revision: str | None = None,
    controls: Mapping[str, Any] | None = None,
    controls_with_teacher: Mapping[str, Any] | None = None,
    fidelity_dataset: Dataset | None = None,
    test_sets: Mapping[str, Dataset] | None = None,
    groups: Mapping[str, Sequence[Any]] | None = None,
    texts: Sequence[Any] | None = None,
    raw_texts: Sequence[Any] | None = None,
    training_texts: Iterable[Any] | None = None,
    training_labels: Sequence[Any] | None = None,
    validation_rows: int | None = None,
    onnx: str | Path | None = None,
    detailed_costs: bool = True,
    teacher_floor: float | None = None,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Report:
    """Measure a student beside its teacher, and beside what could be had without either.

    An item that is scored is an example or, in tagging, a word at its first piece. Intervals resample examples, never
    words, because the words of a sentence are not independent. The models come back in the mode and on the device in
    which they came. `Comparison` documents each argument at length.

    Args:
        teacher_model: a model with logits, or an ensemble. None: one that is not here, with a column `teacher_logits`.
        student_model: a model with logits.
        dataset: the tokenised test set with `labels`.
        task: "text-classification" or "token-classification".
        baseline_model: the same student, trained on labels alone.
        more_students: the student from further seeds, each with its baseline if there is one.
        teacher_processing_class: the teacher's tokenizer.
        student_processing_class: the student's tokenizer.
        metrics: names for `hf_distill.metrics.load`; the first one decides and grows with quality.
        trust_remote_code: whether metrics that are scripts may run.
        revision: the commit of a metric of the Hub.
        controls: predictions of other ways without a teacher, by name.
        controls_with_teacher: predictions of other ways that used the teacher, by name.
        fidelity_dataset: held-out tokenised texts without labels. None: `dataset`.
        test_sets: further tokenised sets with labels, by name.
        groups: a breakdown of the first metric, by name.
        texts: the examples as a reader sees them, shown where student and teacher differ most.
        raw_texts: what the rows were tokenised from, to time the way from text to label.
        training_texts: what the teacher or the student learned from.
        training_labels: what the student was trained on; the majority class is theirs.
        validation_rows: how many labelled rows chose the models.
        onnx: the folder to which `export_onnx` wrote the student's files.
        detailed_costs: whether speed is also measured by batch size and length.
        teacher_floor: the least value of the first metric that makes the teacher worth distilling.
        batch_size: of predictions, which do not depend on it.
        device: where everything runs. None: where the models are.
        resamples: of the test examples, for the intervals.
        seed: of the resampling and of the choice of texts to time.
    Raises:
        ValueError: an unknown task, a data set without labels, controls or groups that do not fit, NaN logits,
            `training_texts` without `texts`, or no exported file.
    """
    given = Comparison(**locals())  # its fields are these arguments
    metric_modules = given.check()
    measured = measure(given)
    scores = score_all(given, measured, metric_modules)
    return assemble(given, measured, scores)


@dataclass(frozen=True)
class Measured:
    """What the models answered, and how fast.

    Attributes:
        predictions: on the test set, of all models, files and controls.
        pair: what fidelity is measured on.
        further: on the further test sets.
        lengths: (examples,) tokens of the test set, in the student's tokens.
        speeds: by model and file.
        cells: times by batch size and length.
        end_to_end: times from text to label, by model and file; empty where the texts were not given.
        environment: the machine and its software.
    """

    predictions: Predictions
    pair: Predictions
    further: dict[str, Predictions]
    lengths: np.ndarray
    speeds: dict[str, Speed]
    cells: list[Cell]
    end_to_end: dict[str, EndToEnd]
    environment: dict[str, Any]


def measure(given: Comparison) -> Measured:
    """Ask and time all models.

    Raises:
        ValueError: a set without a label, or predictions that do not fit.
    """
    models, files, dataset = given.models, given.files, given.dataset
    predictors = {
        name: Predictor(
            model,
            dataset,
            given.tokenizer_of(name),
            as_teacher=name == "teacher",
            word_level=given.word_level,
            problem=given.problem,
        )
        for name, model in {**models, **given.further_models, **files}.items()
    }

    readers = from_text(given, {name: predictors[name] for name in (*models, *files)})

    def asked(*names: str) -> Predictors:
        scored = {name: predictors[name] for name in names if name in predictors}
        if given.other_classes:
            scored.pop("teacher", None)
        return Predictors(scored, given.problem, given.names, given.word_level, given.batch_size)

    trained = (*models, *given.further_models)
    with ExitStack() as stack:
        for name, predictor in predictors.items():
            stack.enter_context(predictor.ready(None if name in files else given.device))
        controls = {**(given.controls or {}), **(given.controls_with_teacher or {})}
        predictions = asked(*trained, *files).predict(dataset, controls)
        own = given.fidelity_dataset is None or given.other_classes
        pair = predictions if own else asked("student", "teacher").predict(given.fidelity_dataset)
        further = {name: asked(*trained).predict(rows) for name, rows in (given.test_sets or {}).items()}
        timed = {name: predictors[name] for name in (*models, *files)}
        speeds = measure_speed(timed, dataset, seed=given.seed)
        end_to_end = measure_end_to_end(readers, given.raw_texts or [], dataset, seed=given.seed) if readers else {}
        timed.pop(BASELINE, None)  # it is as fast as the student
        cells = measure_cells(timed, dataset, seed=given.seed) if given.detailed_costs else []
        described = environment(predictors["student"].device)
    for name, found in {TEST_SET: predictions, **further}.items():
        if not found.labelled.any():
            raise ValueError(
                f"None of the {len(found.labels)} {'words' if given.word_level else 'rows'} of {name} has a label: "
                "there is no quality to measure."
            )
    return Measured(
        predictions, pair, further, predictors["student"].lengths(dataset), speeds, cells, end_to_end, described
    )


def from_text(given: Comparison, predictors: Mapping[str, Predictor]) -> dict[str, FromText]:
    """What is timed from text to label, by name; nothing without texts.

    Raises:
        ValueError: texts that are not those of the test set.
    """
    if given.raw_texts is None:
        return {}
    readers = {
        # Rows are cut at their limit, so the longest is as long as that, or nothing was cut.
        name: FromText(predictor, given.tokenizer_of(name), int(predictor.lengths(given.dataset).max()), given.problem)
        for name, predictor in predictors.items()
    }
    check_texts(readers, given.raw_texts, given.dataset)
    files = {name: reader for name, reader in readers.items() if name in given.files}
    return readers | (in_runtime(files, Path(given.onnx)) if given.onnx else {})


@dataclass(frozen=True)
class Scores:
    """What the answers are worth.

    Attributes:
        predictions: those that were measured, with the majority class where it is a control.
        metrics: the first one decides.
        scored: name -> metric -> estimate, on the test set.
        further: likewise on each further test set.
        controls: names of the controls without a teacher, beside the baseline.
    """

    predictions: Predictions
    metrics: list[evaluate.EvaluationModule]
    scored: dict[str, dict[str, Estimate]]
    further: dict[str, dict[str, dict[str, Estimate]]]
    controls: list[str]

    @property
    def value(self) -> dict[str, Estimate]:
        """The first metric, by name."""
        first = self.metrics[0].name
        return {name: estimates[first] for name, estimates in self.scored.items() if first in estimates}

    @property
    def without_teacher(self) -> list[str]:
        """The models and controls that did not use the teacher, the baseline first."""
        return [name for name in (BASELINE, *self.controls) if name in self.value]


def score_all(given: Comparison, measured: Measured, metrics: list[evaluate.EvaluationModule]) -> Scores:
    """Every metric of all, on the test set and the further ones."""
    predictions, controls = measured.predictions, dict(given.controls or {})
    if given.problem == SINGLE_LABEL and MAJORITY not in {**controls, **(given.controls_with_teacher or {})}:
        labels = predictions.labels if given.known_labels is None else given.known_labels
        controls[MAJORITY] = majority_class(labels.tolist(), len(predictions.labels))
        predictions = replace(predictions, decisions=predictions.decisions | {MAJORITY: controls[MAJORITY]})
    drawn = (given.trainings, given.resamples, given.seed)
    scored = score(metrics, predictions, *drawn)
    if given.judged_by_teacher:
        scored.pop("teacher", None)  # it agrees with itself
    return Scores(
        predictions,
        metrics,
        scored,
        {name: score(metrics, found, *drawn) for name, found in measured.further.items()},
        list(controls),
    )


def assemble(given: Comparison, measured: Measured, scores: Scores) -> Report:
    """The report of what was measured and scored."""
    predictions, value, speeds = scores.predictions, scores.value, measured.speeds
    models = {
        name: {
            "quality": summaries(scores.scored.get(name, {})),
            "parameters": count_parameters(model),
            "bytes": weights_bytes(model),
            **summary(speeds[name]),
            **(measured.end_to_end[name].summary() if measured.end_to_end else {}),
        }
        for name, model in given.models.items()
    }
    if given.teacher_model is None:
        models = {"teacher": {"quality": summaries(scores.scored.get("teacher", {}))}, **models}
    without_teacher = scores.without_teacher
    differences = {"gain_over_best_control": gain(value, without_teacher)} if without_teacher else {}
    if without_teacher and "teacher" in value:
        differences["teacher_over_best_control"] = gain(value, without_teacher, "teacher")
    if BASELINE in without_teacher[:-1]:
        differences["baseline_over_best_other_control"] = gain(value, without_teacher[1:], BASELINE)
    compared = with_intervals(
        ratios(models, value, speeds, given.seed) | ratios_from_text(measured, "student", given.seed)
    )
    controls = [*scores.controls, *(given.controls_with_teacher or {})]
    report = Report(
        task=given.task,
        metrics=[metric.name for metric in scores.metrics],
        examples=predictions.scored_examples,
        models=models,
        controls={name: summaries(scores.scored[name]) for name in controls},
        controls_with_teacher=list(given.controls_with_teacher or {}),
        ratios=compared["ratios"],
        ratio_intervals=compared["ratio_intervals"],
        differences=differences,
        errors=errors(value) if scores.metrics[0].name in SHARES and not given.other_classes else {},
        words=predictions.words,
        test_sets={
            name: {
                "examples": measured.further[name].scored_examples,
                **{model: {"quality": summaries(estimates)} for model, estimates in found.items()},
            }
            for name, found in scores.further.items()
        },
        speed=by_length(measured.cells, given.seed),
        onnx={
            name.removeprefix("onnx "): {
                "quality": summaries(scores.scored[name]),
                **exported(model.file, name, measured, predictions, models["teacher"].get("bytes"), given.seed),
            }
            for name, model in given.files.items()
        },
        seeds=1 + len(given.more_students),
        **where_quality_lies(given, measured, scores, differences),
        environment=measured.environment | timing(speeds["student"]),
    )
    first = [
        warning for warning in (leak(given.texts or [], given.training_texts or []), given.other_classes) if warning
    ]
    return finished(report, [*first, *report_warnings(report, given.teacher_floor, given.validation_rows)])


def where_quality_lies(
    given: Comparison, measured: Measured, scores: Scores, differences: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The fields of a report about parts of the test set: by group, class and example."""
    predictions, value = scores.predictions, scores.value
    compared = dict.fromkeys(["teacher", *given.models, *(each["control"] for each in differences.values())])
    shown = [name for name in compared if name in value]
    groups = {"length": breakdown.length_groups(measured.lengths), **(given.groups or {})}
    found: dict[str, Any] = {"breakdown": breakdown.by_group(groups, predictions, scores.metrics[0], shown)}
    if given.problem == SINGLE_LABEL:
        if not given.other_classes:
            found["fidelity"] = fidelity(measured.pair)
        if given.judged_by_teacher:  # what follows is about labels
            return found
        found["calibration"] = calibration(predictions, shown)
        found["per_class"] = breakdown.per_class(predictions, shown)
        if not given.other_classes:
            found["most_different"] = breakdown.most_different(predictions, given.texts)
    return found


def timing(student: Speed) -> dict[str, Any]:
    """How speed was measured."""
    return {
        "texts_timed": student.texts,
        "calls_timed": len(student.latencies_ms),
        "batches_timed": len(student.batches_ms),
        "timing": "tokenised texts at their real lengths, models in turns in one run, batches padded to their longest",
    }


def ratios_from_text(measured: Measured, name: str, seed: int) -> dict[str, dict[str, Any]]:
    """How many times as fast as the teacher a model or a file is from text to label; empty where that was not timed."""
    return (
        end_to_end_ratios(measured.end_to_end["teacher"], measured.end_to_end[name], seed)
        if "teacher" in measured.end_to_end
        else {}
    )


def exported(
    file: Path, name: str, measured: Measured, predictions: Predictions, teacher_bytes: int | None, seed: int
) -> dict[str, Any]:
    """One ONNX file of the student, without its quality, see `Report.onnx`.

    Args:
        file: that was asked.
        name: under which it is among the others.
        measured: the times.
        predictions: of all.
        teacher_bytes: of the teacher's weights file. None: it is not here.
        seed: see `ratio_of_medians`.
    """
    size, speeds = file.stat().st_size, measured.speeds
    compared: dict[str, Any] = {}
    if teacher_bytes is not None:
        compared = {"lighter": {"value": teacher_bytes / size}, **faster(speeds["teacher"], speeds[name], seed)}
    found: dict[str, Any] = {
        "bytes": size,
        **summary(speeds[name]),
        **(measured.end_to_end[name].summary() if measured.end_to_end else {}),
        **with_intervals(compared | ratios_from_text(measured, name, seed)),
    }
    if f"{name} {RUNTIME}" in measured.end_to_end:
        found[RUNTIME] = measured.end_to_end[f"{name} {RUNTIME}"].summary()
    ours, theirs = predictions.decisions["student"], predictions.decisions[name]
    if ours.dtype.kind == "i":  # a quantity is never quite the same
        read = (ours != UNREAD).reshape(len(ours), -1).all(axis=1)
        ours, theirs = ours[read], theirs[read]
        found["agreement"] = float((ours == theirs).reshape(len(ours), -1).all(axis=1).mean())
    return found
