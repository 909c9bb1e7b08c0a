"""`compare`: is the student worth its teacher? Quality with intervals, fidelity, size and speed, and honest
controls."""

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import torch
from datasets import Dataset
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import nn

from hf_distill import breakdown, columns, plot
from hf_distill.bootstrap import RESAMPLES
from hf_distill.caveats import BASELINE, caveats, leak
from hf_distill.controls import majority_class
from hf_distill.measure import Reader, count_parameters, environment, weights_bytes
from hf_distill.metrics import TeacherAgreement, TeacherKL, falls
from hf_distill.metrics import load as load_metric
from hf_distill.onnx_model import onnx_models
from hf_distill.quality import MAJORITY, SHARES, calibration, errors, fidelity, gain, ratios, score, summaries
from hf_distill.seeds import further_trainings
from hf_distill.speed import measure_cells, measure_speed
from hf_distill.tasks import TASKS, problem_type
from hf_distill.teacher import TeacherEnsemble, check_classes
from hf_distill.timings import by_length, exported, summary, with_intervals
from hf_distill.verdicts import Panel

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
            `throughput.batch_32` (examples a second), and of the texts that were timed `tokens_per_text`,
            `flops_per_text` and `flops_per_token` (see `flops.count_flops`), means in the model's own tokens. Of models
            that write `tokens_per_text` are those that they read of any test text; operations are of reading a text and
            writing another, and `flops_per_token` of each token that is read or written.
        controls: quality of what needs no student like this, by name.
        controls_with_teacher: which of the controls used the teacher.
        ratios: `quality_kept`, `quality_kept_above_chance`, `smaller` (parameters), `lighter` (bytes), `fewer_flops`
            (a text), `faster` (p50 at batch 1), `throughput` (batches of 32), of language models both by the token that
            is written; more is better in all of them.
        ratio_intervals: `{low, high}` of those ratios that have one.
        differences: `gain_over_best_control.{value,low,high,control}`, on the first metric, the best one without a
            teacher; `baseline_over_best_other_control` likewise, which shows whether the baseline is a fair one.
        fidelity: `agreement` and `kl` (nats) between student and teacher on `examples` texts that need no labels. Of
            translators in place of `kl` each metric of the student against the teacher's translations.
        errors: where the first metric is a share: `teacher` and `student`, what they miss of 1, and `error_ratio`, the
            student's over the teacher's, each with `{value,low,high}`. Less is better.
        words: of a tagged test set how many there are: `words`, `cut_off_teacher`, `cut_off_student`, `read_by_all`,
            `scored`.
        breakdown: `<group>.<value>.{examples or words, <model>.<metric>, error_ratio}`, on the first metric.
        per_class: `<class>.{support, <model>.{precision,recall,f1}}`, of many classes the commonest 20.
        calibration: expected calibration error by model, 0 is best.
        most_different: the examples on which student and teacher differ most, see `breakdown.most_different`, and of
            models that write `writing_report.most_different`.
        test_sets: further ones, `<name>.{examples, <model>.quality.<metric>.{value,low,high}}`.
        speed: a row for each model, batch size and third of the texts by length: `{model, runtime, batch, length,
            tokens: [fewest, most], calls, p50_ms, p95_ms, per_second}`, and `faster.{value,low,high}` than the teacher
            in torch at the same texts. `runtime` is "torch", "onnx float32" or "onnx int8".
        onnx: of the student's exported files, `float32` and `int8`: `bytes`, `quality`, `latency_ms`, `throughput` and
            `tokens_per_text` as of a model; `agreement`, the share of the test items to which it gives the class that
            the student in torch gives; `ratios` (`lighter`, `faster`, `throughput`) to the teacher in torch, and
            `ratio_intervals`.
        seeds: how many trainings of the student `quality`, `ratios`, `errors`, `differences` and `test_sets` are means
            of; then `quality` lists their `values`, first that of the student which all other fields describe.
        environment: the machine, versions, and how speed was measured.
        warnings: what a reader should know before using the numbers, in plain words.
        run: what the run that made the student adds about itself: seconds, rows, and `curves`, the first metric on
            validation by step: `{"student": [[step, value], ...], "baseline": ...}`, or whatever `curves_of` says in
            its place. Empty after `compare`.
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
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)
    breakdown: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    per_class: dict[str, dict[str, Any]] = field(default_factory=dict)
    calibration: dict[str, float] = field(default_factory=dict)
    most_different: list[dict[str, Any]] = field(default_factory=list)
    test_sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    speed: list[dict[str, Any]] = field(default_factory=list)
    onnx: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: int = 1
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
        """Read the `report.json` that `save` wrote.

        Args:
            folder: that it is in.
        Raises:
            ValueError: something else wrote it.
        """
        path = Path(folder) / "report.json"
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except TypeError as error:
            raise ValueError(
                f"{path}: expected a report that hf_distill wrote, got something else ({error}). Move it away, or "
                "write it again with hf-distill run."
            ) from error

    def table(self) -> Table:
        """The comparison for a terminal: `rich.print(report.table())`."""
        table = Table(
            title=f"{self.task}, {self.examples} test examples"
            + (f", {self.words['scored']} words" if self.words else "")
            + (f", means of {self.seeds} seeds" if self.seeds > 1 else ""),
            caption="\n".join(self._closing_lines()) or None,
            caption_justify="left",
            box=SIMPLE_HEAD,
        )
        metrics = self.metrics[:3]  # the others would push the names out of a terminal of 80 columns
        table.add_column("", min_width=min(18, max(len(name) for name in (*self.models, *self.controls))))
        for name in (*metrics, "parameters", "ms a text"):
            table.add_column(name, justify="right", no_wrap=True)
        for name, model in self.models.items():
            table.add_row(
                name,
                *(_shown(model["quality"].get(metric)) for metric in metrics),
                f"{model['parameters']:,}",
                plot.three_digits(model["latency_ms"]["batch_1"]["p50"]),
            )
        for name, quality in self.controls.items():
            table.add_row(name.replace("_", " "), *(_shown(quality.get(metric)) for metric in metrics), "", "")
        return table

    def _closing_lines(self) -> list[str]:
        kept = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in self.ratios.items()]
        lines = ["student against teacher: " + ", ".join(kept)] if kept else []
        if "error_ratio" in self.errors:
            lines.append(f"errors, student over teacher: {self.errors['error_ratio']['value']:.3g}")
        gain = self.differences.get("gain_over_best_control")
        if gain:
            lead = "saved against" if falls(self.metrics[0]) else "gain over"
            lines.append(
                f"{lead} the best control ({gain['control']}): {gain['value']:+.4f} "
                f"[{gain['low']:+.4f}, {gain['high']:+.4f}]"
            )
        return [*lines, *(f"! {warning}" for warning in self.warnings)]


def _shown(quality: Mapping[str, float] | None) -> str:
    if not quality:
        return ""
    digits = 4 if abs(quality["value"]) < 10 else 2  # BLEU and chrF are percentages
    return f"{quality['value']:.{digits}f} ±{(quality['high'] - quality['low']) / 2:.{digits - 1}f}"


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
            "there are compare_translation and compare_generation in hf_distill.writing_report."
        )
    of_words = TASKS[task].of_words
    if training_texts is not None and texts is None:
        raise ValueError("training_texts are compared with the test texts: give those as texts, in the rows' order.")
    config: Any = student_model.config
    names = [str(config.id2label[number]) for number in sorted(config.id2label)]
    scores = _checked(metrics, names, {"the test set": dataset, **(test_sets or {})})
    again, trainings = further_trainings(more_students, baseline_model is not None)
    problem = SINGLE_LABEL
    if not of_words:
        problem = problem_type(config, torch.as_tensor(np.asarray(dataset.with_format(None)["labels"][:1])))

    models = {"teacher": teacher_model, "student": student_model}
    if baseline_model is not None:
        models[BASELINE] = baseline_model
    files = {f"onnx {kind}": model for kind, model in (onnx_models(onnx, config) if onnx else {}).items()}
    controls, taught = dict(controls or {}), dict(controls_with_teacher or {})
    _check_names(controls, taught, models.keys() | again.keys() | files.keys() | {BASELINE})

    tokenizers = {"teacher": teacher_processing_class}
    readers = {
        name: Reader(
            model,
            dataset,
            tokenizers.get(name, student_processing_class),
            as_teacher=name == "teacher",
            of_words=of_words,
        )
        for name, model in {**models, **again, **files}.items()
    }
    sets = {"the test set": dataset, "fidelity_dataset": fidelity_dataset, **(test_sets or {})}
    strange = _other_classes(config, teacher_model.config, task, {name: one for name, one in sets.items() if one})
    panel = Panel(
        {name: readers[name] for name in (*models, *again) if not (strange and name == "teacher")},
        problem,
        names,
        of_words,
        batch_size,
    )
    two = replace(panel, readers={name: readers[name] for name in ("student", "teacher")})
    with ExitStack() as stack:
        for name, reader in readers.items():
            stack.enter_context(reader.ready(None if name in files else device))
        everybody = replace(panel, readers={**panel.readers, **{name: readers[name] for name in files}})
        verdicts = everybody.ask(dataset, {**controls, **taught})
        pair = verdicts if fidelity_dataset is None or strange else two.ask(fidelity_dataset)
        further = {name: panel.ask(rows) for name, rows in (test_sets or {}).items()}
        speeds = measure_speed({name: readers[name] for name in (*models, *files)}, dataset, seed=seed)
        # The baseline is the student's like.
        timed = [name for name in (*models, *files) if name != BASELINE]
        cells = measure_cells({name: readers[name] for name in timed}, dataset, seed=seed) if detailed_costs else []
        described = environment(readers["student"].device)

    for name, said in {"the test set": verdicts, **further}.items():
        if not said.labelled.any():
            raise ValueError(
                f"None of the {len(said.labels)} {'words' if of_words else 'rows'} of {name} has a label: there is no "
                "quality to measure."
            )
    if problem == SINGLE_LABEL and MAJORITY not in controls:
        controls[MAJORITY] = majority_class(verdicts.labels.tolist(), len(verdicts.labels))
        verdicts = replace(verdicts, decisions=verdicts.decisions | {MAJORITY: controls[MAJORITY]})
    scored = score(scores, verdicts, trainings, resamples, seed)
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
    rivals = [name for name in (BASELINE, *controls) if name in value]
    differences = {"gain_over_best_control": gain(value, rivals)} if rivals else {}
    if BASELINE in rivals[:-1]:
        differences["baseline_over_best_other_control"] = gain(value, rivals[1:], BASELINE)
    shown = [
        name for name in dict.fromkeys([*models, *(one["control"] for one in differences.values())]) if name in value
    ]
    groups = {"length": breakdown.length_groups(readers["student"].lengths(dataset)), **(groups or {})}
    of_classes: dict[str, Any] = {}
    if problem == SINGLE_LABEL:
        of_classes = {
            "calibration": calibration(verdicts, shown),
            "per_class": breakdown.per_class(verdicts, shown),
        }
        if not strange:
            of_classes |= {"fidelity": fidelity(pair), "most_different": breakdown.most_different(verdicts, texts)}
    report = Report(
        task=task,
        metrics=[metric.name for metric in scores],
        examples=verdicts.scored_examples,
        models=measured,
        controls={name: summaries(scored[name]) for name in (*controls, *taught)},
        controls_with_teacher=list(taught),
        ratios=better["ratios"],
        ratio_intervals=better["ratio_intervals"],
        differences=differences,
        errors=errors(value) if first in SHARES and not strange else {},
        words=verdicts.words,
        breakdown=breakdown.by_group(groups, verdicts, scores[0], shown),
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
                **exported(model.file, name, verdicts, speeds, measured["teacher"]["bytes"], seed),
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
    warnings = [*(said for said in (leaked, strange) if said), *caveats(report, teacher_floor)]
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


def plain(tree: Any) -> Any:
    """The same in Python's own types, numbers rounded: strict JSON, equal before and after saving."""
    if isinstance(tree, Mapping):
        return {name: plain(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [plain(value) for value in tree]
    if isinstance(tree, float | np.floating):
        if not np.isfinite(tree):
            raise ValueError(
                f"A measured value is {tree}, which a report cannot hold. Check the metric and its inputs."
            )
        return float(f"{tree:.{DIGITS}g}")
    return int(tree) if isinstance(tree, np.integer) else tree
