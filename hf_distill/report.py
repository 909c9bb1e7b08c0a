"""`compare`: is the student worth its teacher? Quality with intervals, fidelity, size and speed, and honest
controls."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import torch
from datasets import Dataset
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import nn

from hf_distill import columns, plot
from hf_distill.bootstrap import RESAMPLES, draws, interval, resampled, value_of
from hf_distill.controls import majority_class
from hf_distill.measure import (
    Reader,
    Speed,
    check_finite,
    count_parameters,
    environment,
    measure_speed,
    predict_logits,
    weights_bytes,
)
from hf_distill.metrics import IGNORE_INDEX, TeacherAgreement, TeacherKL
from hf_distill.metrics import load as load_metric
from hf_distill.tasks import problem_type
from hf_distill.teacher import TeacherEnsemble

BASELINE = "baseline"
MAJORITY = "majority_class"
SINGLE_LABEL = "single_label_classification"
DIGITS = 6  # significant ones: far finer than any interval, and ratios recomputed from a saved report still agree


@dataclass(frozen=True)
class Report:
    """What was measured. Every field is plain data, and `report.json` holds the same.

    Attributes:
        task: name of the task.
        metrics: names of the metrics, the first one decides.
        examples: how many labelled examples the quality was measured on.
        models: `teacher`, `student` and, if there is one, `baseline`, each with `quality.<metric>.{value,low,high}` (95
            % interval), `parameters`, `bytes` of the weights file, `latency_ms.batch_1.{p50,p95}`,
            `throughput.batch_32` (examples a second) and `tokens_per_text`.
        controls: quality of what needs no student like this, by name.
        controls_with_teacher: which of the controls used the teacher.
        ratios: `quality_kept`, `quality_kept_above_chance`, `smaller`, `lighter`, `faster`; more is better in all of
            them.
        ratio_intervals: `{low, high}` of those ratios that have one.
        differences: `gain_over_best_control.{value,low,high,control}`, on the first metric, the best one without a
            teacher.
        fidelity: `agreement` and `kl` (nats) between student and teacher on `examples` texts that need no labels.
        environment: the machine, versions, and how speed was measured.
        warnings: what a reader should know before using the numbers, in plain words.
        run: what the run that made the student adds about itself: seconds, rows. Empty after `compare`.
    """

    task: str
    metrics: list[str]
    examples: int
    models: dict[str, dict[str, Any]]
    controls: dict[str, dict[str, Any]] = field(default_factory=dict)
    controls_with_teacher: list[str] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    ratio_intervals: dict[str, dict[str, float]] = field(default_factory=dict)
    differences: dict[str, dict[str, Any]] = field(default_factory=dict)
    fidelity: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> None:
        """Write `report.json` and `report.png`.

        Args:
            folder: made if it is missing.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        plot.save(self, folder / "report.png")

    @classmethod
    def load(cls, folder: str | Path) -> "Report":
        """Read the `report.json` that `save` wrote."""
        return cls(**json.loads((Path(folder) / "report.json").read_text(encoding="utf-8")))

    def table(self) -> Table:
        """The comparison for a terminal: `rich.print(report.table())`."""
        table = Table(
            title=f"{self.task}, {self.examples} test examples",
            caption="\n".join(self._closing_lines()) or None,
            caption_justify="left",
            box=SIMPLE_HEAD,
        )
        table.add_column("", min_width=18)
        for name in (*self.metrics, "parameters", "ms a text"):
            table.add_column(name, justify="right", no_wrap=True)
        for name, model in self.models.items():
            table.add_row(
                name,
                *(_shown(model["quality"].get(metric)) for metric in self.metrics),
                f"{model['parameters']:,}",
                f"{model['latency_ms']['batch_1']['p50']:.3g}",
            )
        for name, quality in self.controls.items():
            table.add_row(name.replace("_", " "), *(_shown(quality.get(metric)) for metric in self.metrics), "", "")
        return table

    def _closing_lines(self) -> list[str]:
        kept = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in self.ratios.items()]
        lines = ["student against teacher: " + ", ".join(kept)] if kept else []
        gain = self.differences.get("gain_over_best_control")
        if gain:
            lines.append(
                f"gain over the best control ({gain['control']}): {gain['value']:+.4f} "
                f"[{gain['low']:+.4f}, {gain['high']:+.4f}]"
            )
        return [*lines, *(f"! {warning}" for warning in self.warnings)]


def _shown(quality: Mapping[str, float] | None) -> str:
    return f"{quality['value']:.4f} ±{(quality['high'] - quality['low']) / 2:.3f}" if quality else ""


def compare(
    teacher_model: nn.Module | TeacherEnsemble,
    student_model: nn.Module,
    dataset: Dataset,
    *,
    task: str = "text-classification",
    baseline_model: nn.Module | None = None,
    teacher_processing_class: Any = None,
    student_processing_class: Any = None,
    metrics: Sequence[str] = ("accuracy", "macro_f1"),
    controls: Mapping[str, Any] | None = None,
    controls_with_teacher: Mapping[str, Any] | None = None,
    fidelity_dataset: Dataset | None = None,
    teacher_floor: float | None = None,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Report:
    """Measure a student beside its teacher, and beside what could be had without either.

    Args:
        teacher_model: a model with logits, or an ensemble.
        student_model: likewise.
        dataset: the tokenised test set, with `labels` (-100 is not counted) and the student's columns; where the
            teacher has its own tokenizer also `teacher_input_ids` and its companions. If `teacher_logits` were cached
            on it, the teacher's quality and fidelity are those of the cache; its speed is always measured live.
        task: only "text-classification" so far: single-label, multi-label or regression by the student's config.
        baseline_model: the same student, trained on labels alone. It counts as a control without a teacher.
        teacher_processing_class: the teacher's tokenizer, which pads. None: the config's pad token, on the right.
        student_processing_class: likewise the student's.
        metrics: names of `hf_distill.metrics`, or whatever `metrics.load` finds; the first one decides and grows with
            quality.
        controls: what other ways without a teacher predict on `dataset`: name to (examples,) class numbers or
            (examples, classes) logits. Where "majority_class" is missing, the commonest class of `dataset` is added.
        controls_with_teacher: likewise of other ways that did use the teacher.
        fidelity_dataset: held-out tokenised text, without labels. None: `dataset`.
        teacher_floor: what the teacher should reach on the first metric; the report warns below.
        batch_size: of predictions, which do not depend on it.
        device: where to run everything. None: where the models are.
        resamples: of the test examples, for the intervals.
        seed: of resampled intervals and of the choice of texts to time.
    Raises:
        ValueError: an unknown task, a data set without labels, controls that do not fit, or NaN logits.

    The models come back as they were: mode and device.
    """
    if task != "text-classification":
        raise ValueError(f"compare measures text-classification so far, got task={task!r}.")
    if "labels" not in dataset.column_names:
        raise ValueError(
            f"compare needs the column `labels` for quality, got {dataset.column_names}. Rename or add it."
        )
    scores = [_loaded(name) for name in metrics]
    if not getattr(scores[0], "larger_is_better", True):
        raise ValueError(
            f"The first metric decides, so it has to grow with quality; {metrics[0]} falls. Put another first."
        )
    labels = np.asarray(dataset.with_format(None)["labels"][:])
    counted = _labelled(labels)
    problem = problem_type(student_model.config, torch.as_tensor(labels))

    models = {"teacher": teacher_model, "student": student_model}
    if baseline_model is not None:
        models[BASELINE] = baseline_model
    controls, taught = dict(controls or {}), dict(controls_with_teacher or {})
    if problem == SINGLE_LABEL and MAJORITY not in controls:
        controls[MAJORITY] = majority_class(labels.tolist(), len(labels))
    others = _checked_controls(controls, taught, len(labels), problem)

    tokenizers = {"teacher": teacher_processing_class}
    readers = {
        name: Reader(model, dataset, tokenizers.get(name, student_processing_class), as_teacher=name == "teacher")
        for name, model in models.items()
    }
    with ExitStack() as stack:
        for reader in readers.values():
            stack.enter_context(reader.ready(device))
        logits = {name: _logits(name, reader, dataset, batch_size) for name, reader in readers.items()}
        if fidelity_dataset is None:
            pair = logits
        else:
            pair = {name: _logits(name, readers[name], fidelity_dataset, batch_size) for name in ("student", "teacher")}
        speeds = measure_speed(readers, dataset, seed=seed)
        described = environment(readers["student"].device)

    said = {name: (_decisions(values, problem), values) for name, values in logits.items()} | others
    quality, drawn = {}, {}
    for name, (decisions, values) in said.items():
        quality[name], drawn[name] = _quality(
            scores, decisions[counted], None if values is None else values[counted], labels[counted], resamples, seed
        )

    measured = {
        name: {
            "quality": quality[name],
            "parameters": count_parameters(model),
            "bytes": weights_bytes(model),
            **_speed(speeds[name]),
        }
        for name, model in models.items()
    }
    first = scores[0].name
    ratios, ratio_intervals = _ratios(measured, quality, drawn, first, speeds, seed)
    rivals = [name for name in (BASELINE, *controls) if name in quality]
    differences = _gain(quality, drawn, first, rivals)
    described |= {
        "texts_timed": speeds["student"].texts,
        "calls_timed": len(speeds["student"].latencies_ms),
        "timing": "tokenised texts at their real lengths, models in turns in one run, batches padded to their longest",
    }
    report = Report(
        task=task,
        metrics=[metric.name for metric in scores],
        examples=int(counted.sum()),
        models=measured,
        controls={name: quality[name] for name in others},
        controls_with_teacher=list(taught),
        ratios=ratios,
        ratio_intervals=ratio_intervals,
        differences=differences,
        fidelity=_fidelity(pair["student"], pair["teacher"]) if problem == SINGLE_LABEL else {},
        environment=described,
    )
    return Report(**_plain(asdict(report) | {"warnings": _warnings(report, teacher_floor)}))


def _loaded(name: str) -> evaluate.EvaluationModule:
    metric = load_metric(name)
    if isinstance(metric, TeacherAgreement | TeacherKL):
        raise ValueError(
            f"{name} compares with the teacher, not with labels: the report has it as fidelity. Leave it out."
        )
    return metric


def _labelled(labels: np.ndarray) -> np.ndarray:
    present = labels != IGNORE_INDEX
    if labels.dtype.kind == "f":
        present &= ~np.isnan(labels)
    present = present if present.ndim == 1 else present.all(axis=-1)
    if not present.any():
        raise ValueError(f"None of the {len(labels)} rows of the test set has a label: there is no quality to measure.")
    return present


def _decisions(logits: np.ndarray, problem: str) -> np.ndarray:
    if problem == "regression":
        return logits[:, 0] if logits.shape[1] == 1 else logits
    if problem == "multi_label_classification":
        return (logits > 0).astype(np.int64)
    return logits.argmax(axis=-1)


def _checked_controls(
    controls: Mapping[str, Any], taught: Mapping[str, Any], examples: int, problem: str
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Each control's decisions, and its logits where it has some."""
    twice = {"teacher", "student", BASELINE} & (controls.keys() | taught.keys()) | controls.keys() & taught.keys()
    if twice:
        raise ValueError(f"Two results would be called {sorted(twice)}. Give each control a name of its own.")
    checked: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    for name, said in {**controls, **taught}.items():
        values = np.asarray(said)
        if len(values) != examples:
            raise ValueError(
                f"The control {name!r} predicts {len(values)} examples, but the test set has {examples}. Expected one "
                "class number, or one row of logits, for every row, in the same order, unlabelled rows included."
            )
        if values.ndim == 2 and values.dtype.kind == "f":
            check_finite(values, name)
            checked[name] = _decisions(values, problem), values
        else:
            checked[name] = values, None
    return checked


def _logits(name: str, reader: Reader, dataset: Dataset, batch_size: int) -> np.ndarray:
    if name == "teacher" and columns.LOGITS in dataset.column_names:
        cached = np.asarray(dataset.with_format(None)[columns.LOGITS][:], dtype=np.float32)
        check_finite(cached, "teacher's cache")
        return cached
    return predict_logits(reader, dataset, name=name, batch_size=batch_size)


def _quality(
    scores: Sequence[evaluate.EvaluationModule],
    decisions: np.ndarray,
    logits: np.ndarray | None,
    labels: np.ndarray,
    resamples: int,
    seed: int,
) -> tuple[dict[str, dict[str, float]], np.ndarray]:
    """Every metric with its interval, and the resampled values of the first one."""
    quality: dict[str, dict[str, float]] = {}
    first = np.empty(0)
    for metric in scores:
        predictions = logits if getattr(metric, "reads_logits", False) else decisions
        if predictions is None:
            continue
        values = resampled(metric, predictions, labels, resamples=resamples, seed=seed)
        low, high = interval(values)
        quality[metric.name] = {"value": value_of(metric, predictions, labels), "low": low, "high": high}
        first = first if len(first) else values
    return quality, first


def _speed(speed: Speed) -> dict[str, Any]:
    p50, p95 = np.percentile(speed.latencies_ms, [50, 95])
    return {
        "latency_ms": {"batch_1": {"p50": p50, "p95": p95}},
        "throughput": {"batch_32": speed.throughput},
        "tokens_per_text": speed.tokens_per_text,
    }


def _ratios(
    measured: Mapping[str, Any],
    quality: Mapping[str, Any],
    drawn: Mapping[str, np.ndarray],
    metric: str,
    speeds: Mapping[str, Speed],
    seed: int,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The ratios, and the intervals of those that rest on samples."""
    teacher, student = measured["teacher"], measured["student"]
    ratios = {
        "smaller": teacher["parameters"] / student["parameters"],
        "lighter": teacher["bytes"] / student["bytes"],
        "faster": teacher["latency_ms"]["batch_1"]["p50"] / student["latency_ms"]["batch_1"]["p50"],
    }
    calls = len(speeds["student"].latencies_ms)
    slow, fast = speeds["teacher"].latencies_ms, speeds["student"].latencies_ms
    samples = {
        "faster": np.concatenate(
            [np.median(slow[rows], axis=1) / np.median(fast[rows], axis=1) for rows in draws(calls, RESAMPLES, seed)]
        )
    }
    zeros: dict[str, str | None] = {"quality_kept": None}
    if MAJORITY in quality:
        zeros["quality_kept_above_chance"] = MAJORITY
    for name, chance in zeros.items():
        zero = quality[chance][metric]["value"] if chance else 0.0
        above = quality["teacher"][metric]["value"] - zero
        apart = drawn["teacher"] - (drawn[chance] if chance else 0.0)
        # A share of nothing, or of less than nothing, makes no sense.
        if above > 0:
            ratios[name] = (quality["student"][metric]["value"] - zero) / above
        if above > 0 and (apart > 0).all():
            samples[name] = (drawn["student"] - (drawn[chance] if chance else 0.0)) / apart
    return ratios, {name: dict(zip(("low", "high"), interval(values), strict=True)) for name, values in samples.items()}


def _gain(
    quality: Mapping[str, Any], drawn: Mapping[str, np.ndarray], metric: str, rivals: Sequence[str]
) -> dict[str, dict[str, Any]]:
    if not rivals:
        return {}
    best = max(rivals, key=lambda name: quality[name][metric]["value"])
    low, high = interval(drawn["student"] - drawn[best])
    value = quality["student"][metric]["value"] - quality[best][metric]["value"]
    return {"gain_over_best_control": {"value": value, "low": low, "high": high, "control": best}}


def _fidelity(student_logits: np.ndarray, teacher_logits: np.ndarray) -> dict[str, Any]:
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"Student and teacher logits have shapes {student_logits.shape} and {teacher_logits.shape}: the two need "
            "the same classes to be compared. Give the student the teacher's num_labels and id2label."
        )
    return {
        "agreement": TeacherAgreement().score(student_logits, teacher_logits),
        "kl": TeacherKL().score(student_logits, teacher_logits),
        "examples": len(student_logits),
    }


def _warnings(report: Report, teacher_floor: float | None) -> list[str]:
    metric = report.metrics[0]
    value = {
        name: quality[metric]["value"]
        for name, quality in {**{n: m["quality"] for n, m in report.models.items()}, **report.controls}.items()
        if metric in quality
    }
    warnings = []
    if teacher_floor is not None and value["teacher"] < teacher_floor:
        warnings.append(
            f"The teacher's {metric} of {value['teacher']:.4f} is below its floor of {teacher_floor:g}: it is too weak "
            "to judge distillation by."
        )
    gain = report.differences.get("gain_over_best_control")
    if gain is None:
        warnings.append(
            "There is no control without a teacher, so this report cannot say whether the teacher was worth it."
        )
    elif gain["value"] <= 0:
        warnings.append(
            f"The student does not beat the best control without a teacher: {metric} {value['student']:.4f} against "
            f"{value[gain['control']]:.4f} of {gain['control']}. It is not worth its teacher."
        )
    elif gain["low"] <= 0:
        warnings.append(
            f"The student's gain over {gain['control']} is not certain on {report.examples} test examples: "
            f"{gain['value']:+.4f}, between {gain['low']:+.4f} and {gain['high']:+.4f}."
        )
    ahead = [name for name in report.controls_with_teacher if value[name] >= value["student"]]
    if ahead:
        warnings.append(f"With the same teacher, {' and '.join(ahead)} does at least as well as the student.")
    for ratio, fault in (("smaller", "has no fewer parameters than"), ("faster", "is no faster than")):
        if report.ratios[ratio] <= 1:
            warnings.append(f"The student {fault} the teacher.")
    return warnings


def _plain(tree: Any) -> Any:
    """The same in Python's own types, numbers rounded: strict JSON, equal before and after saving."""
    if isinstance(tree, Mapping):
        return {name: _plain(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_plain(value) for value in tree]
    if isinstance(tree, float | np.floating):
        if not np.isfinite(tree):
            raise ValueError(
                f"A measured value is {tree}, which a report cannot hold. Check the metric and its inputs."
            )
        return float(f"{tree:.{DIGITS}g}")
    return int(tree) if isinstance(tree, np.integer) else tree
