"""A report: plain data, its table, and its files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from hf_distill.metrics import lower_is_better, three_digits

DIGITS = 6  # significant ones: far finer than any interval, and ratios recomputed from a saved report still agree


@dataclass(frozen=True)
class Report:
    """What was measured. Every field is plain data, and `report.json` holds the same.

    Attributes:
        task: name of the task.
        metrics: names of the metrics, the first one decides.
        examples: how many labelled examples the quality was measured on.
        models: `teacher`, `student` and, if there is one, `baseline`, each with (of a teacher that is not here its
            quality alone) `quality.<metric>.{value,low,high}` (95 % interval), `parameters`, `bytes` of the weights
            file, `latency_ms.batch_1.{p50,p95}`, `throughput.batch_32` (examples a second), from texts to labels
            `end_to_end_ms.batch_1.{p50,p95}` and `end_to_end_throughput.batch_32`, tokenization included, and of the
            texts that were timed `tokens_per_text`,
            `flops_per_text` and `flops_per_token` (see `cost.count_flops`), means in the model's own tokens. Of models
            that write `tokens_per_text` are those that they read of any test text; operations are of reading a text and
            writing another, and `flops_per_token` of each token that is read or written.
        controls: quality of what needs no student like this, by name.
        controls_with_teacher: which of the controls used the teacher.
        ratios: `quality_kept`, `quality_kept_above_chance`, `smaller` (parameters), `lighter` (bytes), `fewer_flops`
            (a text), `faster` (p50 at batch 1), `throughput` (batches of 32), of language models both by the token that
            is written; `faster_end_to_end` and `throughput_end_to_end` from text to label, tokenization included; more
            is better in all of them.
        ratio_intervals: `{low, high}` of those ratios that have one.
        differences: `gain_over_best_control.{value,low,high,control}`, on the first metric, the best one without a
            teacher; `teacher_over_best_control` likewise; `baseline_over_best_other_control`, which shows whether the
            baseline is a fair one.
        fidelity: `agreement` and `kl` (nats) between student and teacher on `examples` texts that need no labels. Of
            translators in place of `kl` each metric of the student against the teacher's translations.
        errors: where the first metric is a share: `teacher` and `student`, what they miss of 1, and `error_ratio`, the
            student's over the teacher's, each with `{value,low,high}`. Less is better.
        words: of a tagged test set how many there are: `words`, `cut_off_teacher`, `cut_off_student`, `read_by_all`,
            `scored`. Where the labels of all words are known (the column `word_labels`), also `lost_words`, labelled
            ones that the student did not read, and of entities `entities` and `lost_entities`: a word that a model did
            not read is scored as wrong, an entity with such a word as missed.
        breakdown: `<group>.<value>.{examples or words, <model>.<metric>, error_ratio}`, on the first metric.
        per_class: `<class>.{support, <model>.{precision,recall,f1}}`, of many classes the commonest 20.
        calibration: expected calibration error by model, 0 is best.
        most_different: the examples on which student and teacher differ most, see `breakdown.most_different`, and of
            models that write `texts.most_different`.
        test_sets: further ones, `<name>.{examples, <model>.quality.<metric>.{value,low,high}}`.
        speed: a row for each model, batch size and third of the texts by length: `{model, runtime, batch, length,
            tokens: [fewest, most], calls, p50_ms, p95_ms, per_second}`, and `faster.{value,low,high}` than the teacher
            in torch at the same texts. `runtime` is "torch", "onnx float32" or "onnx int8".
        onnx: of the student's exported files, `float32` and `int8`: `bytes`, `quality`, `latency_ms`, `throughput` and
            `tokens_per_text` as of a model; `agreement`, the share of the test items to which it gives the class that
            the student in torch gives; `runtime`, the end-to-end times in `hf_distill.runtime`; `ratios` (`lighter`,
            `faster`, `throughput`) to the teacher in torch, and `ratio_intervals`.
        seeds: how many trainings of the student `quality`, `ratios`, `errors`, `differences` and `test_sets` are means
            of; then `quality` lists their `values`, first that of the student which all other fields describe.
        environment: the machine, versions, and how speed was measured.
        answers: of a teacher behind a prompt, how it answered: its `model`, `method`, `told` (the method in words),
            `notes`, of the texts asked `texts`, `distinct`, `without_target`, `unreturned`, and `outside`, the mean
            probability of answers that name no class.
        cost: of such a teacher, see `reports.costs.costs`.
        warnings: what a reader should know before using the numbers, in plain words.
        deferral: of a cascade on the test examples: `curve`, a row for each share that is handed over: `threshold`;
            `handed_over`, `agreement` (with the teacher, texts that are handed over included) and `quality` (the
            `metric`), each `{value,low,high}`; and `cost`, the time of student and teacher in shares of the teacher's
            for all texts. `at_threshold`, such a row for the threshold of the student's config; `texts`; and `fit`, on
            which rows and how many texts threshold and temperature were fitted, and for which `agreement` (with which
            `confidence`) or share to `defer`.
        ladder: of a ladder, `chosen` (a name), whether it `held`, the `floor`, the `metric`, and `rungs` from the
            cheapest on: `name`, `kind`, `parameters`, `bytes`, `flops_per_text`; on the validation rows `validation`
            (`quality_kept` as `{value,low,high}`), `tested`, `holds`, and `rows_needed` to decide if the value stays;
            on the test rows `quality`, `quality_kept`, `end_to_end_ms`, `end_to_end_throughput`; and `onnx` with these
            of its files. `teacher`, with times and quality beside them.
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
    answers: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    deferral: dict[str, Any] = field(default_factory=dict)
    ladder: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> None:
        """Write `report.json` and `report.png`.

        Args:
            folder: made if it is missing.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self), indent=2, allow_nan=False, ensure_ascii=False)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        from hf_distill.reports import deferral, ladder, plot  # matplotlib, for those who draw

        if self.deferral:
            deferral.save(folder / deferral.PICTURE, self.deferral)
        if self.ladder:
            ladder.save(folder / ladder.PICTURE, self.ladder, self.controls)

        plot.save(
            folder / "report.png",
            task=self.task,
            metrics=self.metrics,
            examples=self.examples,
            models=self.models,
            controls=self.controls,
            controls_with_teacher=self.controls_with_teacher,
            scored_words=self.words.get("scored"),
            seeds=self.seeds,
            curves=self.run.get("curves"),
            curves_of=self.run.get("curves_of"),
        )

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
        """The comparison for a terminal, the warnings first: `rich.print(report.table())`."""
        title = f"{self.task}, {self.examples} test examples"
        title += f", {self.words['scored']} words" if self.words else ""
        title += f", means of {self.seeds} seeds" if self.seeds > 1 else ""
        table = Table(
            title=Text("\n").join(
                [*(Text(f"! {warning}", style="bold yellow") for warning in self.warnings), Text(title)]
            ),
            title_justify="left",
            title_style="",
            caption="\n".join(self._closing_lines()) or None,
            caption_justify="left",
            caption_style="",
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
                f"{model['parameters']:,}" if "parameters" in model else "",
                three_digits(model["latency_ms"]["batch_1"]["p50"]) if "latency_ms" in model else "",
            )
        for name, quality in self.controls.items():
            table.add_row(name.replace("_", " "), *(_shown(quality.get(metric)) for metric in metrics), "", "")
        return table

    def _closing_lines(self) -> list[str]:
        kept = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in self.ratios.items()]
        lines = ["student against teacher: " + ", ".join(kept)] if kept else []
        if "error_ratio" in self.errors:
            lines.append(f"errors, student over teacher: {self.errors['error_ratio']['value']:.3g}")
        paid = {name: model["end_to_end_ms"] for name, model in self.models.items() if "end_to_end_ms" in model}
        if paid:
            times = ", ".join(f"{name} {three_digits(ms['batch_1']['p50'])}" for name, ms in paid.items())
            lines.append(f"ms a text with tokenization: {times}")
        gain = self.differences.get("gain_over_best_control")
        if gain:
            lead = "saved against" if lower_is_better(self.metrics[0]) else "gain over"
            lines.append(
                f"{lead} the best control ({gain['control']}): {gain['value']:+.4f} "
                f"[{gain['low']:+.4f}, {gain['high']:+.4f}]"
            )
        return lines


def finished(report: Report, warnings: Sequence[str]) -> Report:
    """A report in plain data, with its warnings.

    Args:
        report: as it was measured.
        warnings: the most important ones first.
    Raises:
        ValueError: a value that is not finite.
    """
    return Report(**plain(asdict(report) | {"warnings": list(warnings)}))


def _shown(quality: Mapping[str, float] | None) -> str:
    if not quality:
        return ""
    digits = 4 if abs(quality["value"]) < 10 else 2  # BLEU and chrF are percentages
    value, low, high = quality["value"], quality["low"], quality["high"]
    if value in (low, high) and low < high:  # at an end nothing lies beyond
        sign, bound = ("≥", low) if value == high else ("≤", high)
        return f"{value:.{digits}f} {sign}{bound:.{digits - 1}f}"
    return f"{value:.{digits}f} ±{(high - low) / 2:.{digits - 1}f}"


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
