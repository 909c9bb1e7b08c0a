"""`compare`: is the student worth its teacher? Quality with intervals, fidelity, size and speed, and honest
controls."""

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import torch
from datasets import Dataset
from torch import nn

from hf_distill import columns
from hf_distill.environment import environment
from hf_distill.evaluation import breakdown
from hf_distill.evaluation.bootstrap import RESAMPLES
from hf_distill.evaluation.controls import majority_class
from hf_distill.evaluation.cost import count_parameters, weights_bytes
from hf_distill.evaluation.predictions import Panel, Predictions
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
from hf_distill.evaluation.seeds import BASELINE, further_trainings
from hf_distill.evaluation.speed import Speed, by_length, faster, measure_cells, measure_speed, summary, with_intervals
from hf_distill.export.onnx_model import onnx_models
from hf_distill.metrics import TeacherAgreement, TeacherKL
from hf_distill.metrics import load as load_metric
from hf_distill.models import problem_type
from hf_distill.problems import TASKS, check_classes
from hf_distill.reports.report import Report, plain
from hf_distill.reports.warnings import leak, report_warnings
from hf_distill.teachers.ensemble import TeacherEnsemble

SINGLE_LABEL = "single_label_classification"


def compare(
    teacher_model: nn.Module | TeacherEnsemble,
    student_model: nn.Module,
    dataset: Dataset,
    *,
    task: str = "text-classification",
    baseline_model: nn.Module | None = None,
    more_students: Sequence[tuple[nn.Module, nn.Module | None]] = (),
    teacher_processing_class: Any = None,
    student_processing_class: Any = None,
    metrics: Sequence[str] = ("accuracy", "macro_f1"),
    controls: Mapping[str, Any] | None = None,
    controls_with_teacher: Mapping[str, Any] | None = None,
    fidelity_dataset: Dataset | None = None,
    test_sets: Mapping[str, Dataset] | None = None,
    groups: Mapping[str, Sequence[Any]] | None = None,
    texts: Sequence[Any] | None = None,
    training_texts: Iterable[Any] | None = None,
    onnx: str | Path | None = None,
    detailed_costs: bool = True,
    teacher_floor: float | None = None,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Report:
    """Measure a student beside its teacher, and beside what could be had without either.

    What is scored is an example or, in tagging, a word at its first piece. Intervals resample examples, never words,
    for the words of a sentence are not independent. All models are scored on the words that all of them read.

    Args:
        teacher_model: a model with logits, or an ensemble. One that answers in other classes than the student's is only
            timed and sized, and the report warns of it.
        student_model: likewise.
        dataset: the tokenised test set, with `labels` (-100 is not counted) and the student's columns; where the
            teacher has its own tokenizer also `teacher_input_ids` and its companions. For tagging, labels stand at the
            words' first pieces, which `word_starts` and, of the teacher's own tokens, `teacher_word_starts` mark with
            1. If `teacher_logits` were cached on it, the teacher's quality and fidelity are those of the cache; its
            speed is always measured live.
        task: "text-classification" (single-label, multi-label or regression by the student's config) or
            "token-classification".
        baseline_model: the same student, trained on labels alone. It counts as a control without a teacher.
        more_students: the student from further seeds, each with its baseline if there is one. Quality and all claims
            are then means over the seeds, and intervals cover examples and seeds; all else describes `student_model`.
        teacher_processing_class: the teacher's tokenizer, which pads. None: the config's pad token, on the right.
        student_processing_class: likewise the student's.
        metrics: names of `hf_distill.metrics`, or whatever `metrics.load` finds; the first one decides and grows with
            quality.
        controls: what other ways without a teacher predict on `dataset`: name to (examples,) class numbers or
            (examples, classes) logits; for tagging to a list for each sentence with the class numbers of its words.
            Where "majority_class" is missing, the commonest class of `dataset` is added.
        controls_with_teacher: likewise of other ways that did use the teacher.
        fidelity_dataset: held-out tokenised text, without labels. None: `dataset`.
        test_sets: further tokenised sets with labels, by name; quality is measured on them too.
        groups: a breakdown of the first metric, by name: a value for each example of `dataset` or, for tagging, a list
            for each with a value for each word.
        texts: the examples as a reader sees them, shown where student and teacher differ most. None: not shown.
        training_texts: what teacher or student learned from, as `texts` are; the report warns of test texts that stand
            among them. A recipe keeps them apart by itself.
        onnx: the folder to which `export_onnx` wrote the student's files, which are measured as well. None: they are
            not.
        detailed_costs: whether latency and throughput are also measured apart by batch size and length of the texts.
        teacher_floor: what the teacher should reach on the first metric; the report warns below.
        batch_size: of predictions, which do not depend on it.
        device: where to run everything. None: where the models are.
        resamples: of the test examples, for the intervals.
        seed: of resampled intervals and of the choice of texts to time.
    Raises:
        ValueError: an unknown task, a data set without labels, controls or groups that do not fit, NaN logits,
            `training_texts` without `texts`, or no exported file.

    The models come back as they were: mode and device.
    """
    if task not in ("text-classification", "token-classification"):
        raise ValueError(
            f"compare measures text-classification and token-classification, got task={task!r}. For models that write "
            "there are compare_translation and compare_generation in hf_distill.reports."
        )
    word_level = TASKS[task].word_level
    if training_texts is not None and texts is None:
        raise ValueError("training_texts are compared with the test texts: give those as texts, in the rows' order.")
    config: Any = student_model.config
    names = [str(config.id2label[number]) for number in sorted(config.id2label)]
    scores = _checked(metrics, names, {"the test set": dataset, **(test_sets or {})})
    again, trainings = further_trainings(more_students, baseline_model is not None)
    problem = SINGLE_LABEL
    if not word_level:
        problem = problem_type(config, torch.as_tensor(np.asarray(dataset.with_format(None)["labels"][:1])))

    models = {"teacher": teacher_model, "student": student_model}
    if baseline_model is not None:
        models[BASELINE] = baseline_model
    files = {f"onnx {kind}": model for kind, model in (onnx_models(onnx, config) if onnx else {}).items()}
    controls, taught = dict(controls or {}), dict(controls_with_teacher or {})
    _check_names(controls, taught, models.keys() | again.keys() | files.keys() | {BASELINE})

    tokenizers = {"teacher": teacher_processing_class}
    readers = {
        name: Predictor(
            model,
            dataset,
            tokenizers.get(name, student_processing_class),
            as_teacher=name == "teacher",
            word_level=word_level,
        )
        for name, model in {**models, **again, **files}.items()
    }
    sets = {"the test set": dataset, "fidelity_dataset": fidelity_dataset, **(test_sets or {})}
    strange = _other_classes(config, teacher_model.config, task, {name: one for name, one in sets.items() if one})
    panel = Panel(
        {name: readers[name] for name in (*models, *again) if not (strange and name == "teacher")},
        problem,
        names,
        word_level,
        batch_size,
    )
    two = replace(panel, readers={name: readers[name] for name in ("student", "teacher")})
    with ExitStack() as stack:
        for name, reader in readers.items():
            stack.enter_context(reader.ready(None if name in files else device))
        everybody = replace(panel, readers={**panel.readers, **{name: readers[name] for name in files}})
        predictions = everybody.ask(dataset, {**controls, **taught})
        pair = predictions if fidelity_dataset is None or strange else two.ask(fidelity_dataset)
        further = {name: panel.ask(rows) for name, rows in (test_sets or {}).items()}
        speeds = measure_speed({name: readers[name] for name in (*models, *files)}, dataset, seed=seed)
        # The baseline is the student's like.
        timed = [name for name in (*models, *files) if name != BASELINE]
        cells = measure_cells({name: readers[name] for name in timed}, dataset, seed=seed) if detailed_costs else []
        described = environment(readers["student"].device)

    for name, said in {"the test set": predictions, **further}.items():
        if not said.labelled.any():
            raise ValueError(
                f"None of the {len(said.labels)} {'words' if word_level else 'rows'} of {name} has a label: there is "
                "no quality to measure."
            )
    if problem == SINGLE_LABEL and MAJORITY not in controls:
        controls[MAJORITY] = majority_class(predictions.labels.tolist(), len(predictions.labels))
        predictions = replace(predictions, decisions=predictions.decisions | {MAJORITY: controls[MAJORITY]})
    scored = score(scores, predictions, trainings, resamples, seed)
    first = scores[0].name
    value = {name: estimates[first] for name, estimates in scored.items() if first in estimates}
    measured = {
        name: {
            "quality": summaries(scored.get(name, {})),
            "parameters": count_parameters(model),
            "bytes": weights_bytes(model),
            **summary(speeds[name]),
        }
        for name, model in models.items()
    }
    better = with_intervals(ratios(measured, value, speeds, seed))
    without_teacher = [name for name in (BASELINE, *controls) if name in value]
    differences = {"gain_over_best_control": gain(value, without_teacher)} if without_teacher else {}
    if BASELINE in without_teacher[:-1]:
        differences["baseline_over_best_other_control"] = gain(value, without_teacher[1:], BASELINE)
    shown = [
        name for name in dict.fromkeys([*models, *(one["control"] for one in differences.values())]) if name in value
    ]
    groups = {"length": breakdown.length_groups(readers["student"].lengths(dataset)), **(groups or {})}
    of_classes: dict[str, Any] = {}
    if problem == SINGLE_LABEL:
        of_classes = {
            "calibration": calibration(predictions, shown),
            "per_class": breakdown.per_class(predictions, shown),
        }
        if not strange:
            of_classes |= {"fidelity": fidelity(pair), "most_different": breakdown.most_different(predictions, texts)}
    report = Report(
        task=task,
        metrics=[metric.name for metric in scores],
        examples=predictions.scored_examples,
        models=measured,
        controls={name: summaries(scored[name]) for name in (*controls, *taught)},
        controls_with_teacher=list(taught),
        ratios=better["ratios"],
        ratio_intervals=better["ratio_intervals"],
        differences=differences,
        errors=errors(value) if first in SHARES and not strange else {},
        words=predictions.words,
        breakdown=breakdown.by_group(groups, predictions, scores[0], shown),
        test_sets={
            name: {
                "examples": said.scored_examples,
                **{
                    model: {"quality": summaries(estimates)}
                    for model, estimates in score(scores, said, trainings, resamples, seed).items()
                },
            }
            for name, said in further.items()
        },
        speed=by_length(cells, seed),
        onnx={
            name.removeprefix("onnx "): {
                "quality": summaries(scored[name]),
                **exported(model.file, name, predictions, speeds, measured["teacher"]["bytes"], seed),
            }
            for name, model in files.items()
        },
        seeds=1 + len(more_students),
        **of_classes,
        environment=described
        | {
            "texts_timed": speeds["student"].texts,
            "calls_timed": len(speeds["student"].latencies_ms),
            "batches_timed": len(speeds["student"].batches_ms),
            "timing": "tokenised texts at their real lengths, models in turns in one run, batches padded to their "
            "longest",
        },
    )
    leaked = leak(texts or [], training_texts or [])
    warnings = [*(said for said in (leaked, strange) if said), *report_warnings(report, teacher_floor)]
    return Report(**plain(asdict(report) | {"warnings": warnings}))


def _other_classes(student: Any, teacher: Any, task: str, sets: Mapping[str, Dataset]) -> str:
    """A warning where the teacher answers in other classes, so that only its speed and size can be measured.

    Cached logits are in the student's classes already.
    """
    try:
        check_classes(student, teacher, TASKS[task])
    except ValueError as error:
        live = [name for name, rows in sets.items() if columns.LOGITS not in rows.column_names]
        if not live:
            return ""
        if len(live) < len(sets):
            raise ValueError(
                f"{', '.join(live)} lacks the column {columns.LOGITS} that the other sets have, and the live teacher "
                f"answers in other classes: its numbers would not mean the same. Add the column. {error}"
            ) from error
        return f"The teacher's quality and the student's fidelity to it were not measured. {error}"
    return ""


def _checked(
    metrics: Sequence[str], names: Sequence[str], test_sets: Mapping[str, Dataset]
) -> list[evaluate.EvaluationModule]:
    """The metrics, if they and the test sets will do."""
    for name, rows in test_sets.items():
        if "labels" not in rows.column_names:
            raise ValueError(
                f"compare needs the column `labels` of {name} for quality, got {rows.column_names}. Rename or add it."
            )
    scores = [load_metric(name) for name in metrics]
    for metric in scores:
        if isinstance(metric, TeacherAgreement | TeacherKL):
            raise ValueError(
                f"{metric.name} compares with the teacher, not with labels: the report has it as fidelity. Leave it "
                "out."
            )
    if not getattr(scores[0], "larger_is_better", True):
        raise ValueError(
            f"The first metric decides, so it has to grow with quality; {metrics[0]} falls. Put another first."
        )
    if "f1" in metrics and len(names) > 2 and "labels" in next(iter(test_sets.values())).column_names:
        labels = next(iter(test_sets.values())).with_format(None)["labels"][:1]
        if np.asarray(labels).ndim == 1:
            raise ValueError(
                f"f1 is about one positive class of two, and there are {len(names)} classes. Use macro_f1."
            )
    if "seqeval" in metrics and list(names) == [f"LABEL_{number}" for number in range(len(names))]:
        raise ValueError(
            "seqeval reads entities off the names of the tags (B-PER, I-PER, O), but the student's config names its "
            f"{len(names)} classes {names[0]}, ... Set its id2label."
        )
    return scores


def _check_names(controls: Mapping[str, Any], taught: Mapping[str, Any], models: Set[str]) -> None:
    twice = models & (controls.keys() | taught.keys()) | controls.keys() & taught.keys()
    if twice:
        raise ValueError(f"Two results would be called {sorted(twice)}. Give each control a name of its own.")


def exported(
    file: Path, name: str, predictions: Predictions, speeds: Mapping[str, Speed], teacher_bytes: int, seed: int
) -> dict[str, Any]:
    """What is to be said of one ONNX file of the student beside its quality, see `Report.onnx`.

    Args:
        file: that was asked.
        name: under which it is among the others.
        predictions: of all.
        speeds: likewise.
        teacher_bytes: of the teacher's weights file.
        seed: see `ratio_of_medians`.
    """
    size = file.stat().st_size
    compared = {"lighter": {"value": teacher_bytes / size}, **faster(speeds["teacher"], speeds[name], seed)}
    said: dict[str, Any] = {"bytes": size, **summary(speeds[name]), **with_intervals(compared)}
    ours, theirs = predictions.decisions["student"], predictions.decisions[name]
    if ours.dtype.kind == "i":  # a quantity is never quite the same
        said["agreement"] = float((ours == theirs).reshape(len(ours), -1).all(axis=1).mean())
    return said
