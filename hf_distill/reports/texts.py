"""Parts of the reports of generative models."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hf_distill.environment import environment
from hf_distill.evaluation.bootstrap import value_of
from hf_distill.evaluation.breakdown import MOST_EXAMPLES, length_groups
from hf_distill.evaluation.generation_speed import Count, Write, measure_writing_cells, writing_flops, writing_summary
from hf_distill.evaluation.quality import SMALLER
from hf_distill.evaluation.speed import BATCH, by_length, ratio_of_medians
from hf_distill.evaluation.stopwatch import Timed
from hf_distill.metrics import load
from hf_distill.reports.report import Report, finished
from hf_distill.reports.warnings import report_warnings
from hf_distill.reports.writer import Writer


def most_different(
    texts: Sequence[str],
    teacher_texts: np.ndarray,
    student_texts: np.ndarray,
    targets: np.ndarray | None = None,
    *,
    quote: bool = True,
) -> list[dict[str, Any]]:
    """The texts for which teacher and student write what has least in common, at most ten, the most different first.

    Args:
        texts: that both read.
        teacher_texts: (texts,) what the teacher writes.
        student_texts: (texts,) what the student writes.
        targets: (texts,) what the data has, if anything.
        quote: whether the texts are among what is returned.
    Returns:
        `{"example": its number among `texts`, "chrf": of the student's text against the teacher's}`, without texts for
        which both write the same; with `quote` also `text`, `teacher`, `student` and, of the data, `label`.
    """
    chrf = load("chrf")
    alike = {
        int(row): value_of(chrf, student_texts[[row]], teacher_texts[[row]])
        for row in np.flatnonzero(teacher_texts != student_texts)
    }
    found: list[dict[str, Any]] = []
    for example in sorted(alike, key=lambda row: alike[row])[:MOST_EXAMPLES]:
        found.append({"example": example, "chrf": alike[example]})
        if quote:
            found[-1] |= {"text": texts[example], "teacher": teacher_texts[example], "student": student_texts[example]}
            found[-1] |= {} if targets is None else {"label": targets[example]}
    return found


def quality_by_length(
    metric: str, texts: Mapping[str, np.ndarray], references: np.ndarray, lengths: np.ndarray
) -> dict[str, dict[str, dict[str, Any]]]:
    """A metric apart for each quarter of the examples by length.

    Args:
        metric: its name.
        texts: (examples,) what each model wrote, or its nats.
        references: (examples,).
        lengths: (examples,) tokens.
    """
    groups = np.array(length_groups(lengths), dtype=object)
    found: dict[str, dict[str, Any]] = {}
    for group in sorted(set(groups)):
        part = groups == group
        scores = {name: {metric: value_of(load(metric), each[part], references[part])} for name, each in texts.items()}
        found[group] = {"examples": int(part.sum()), **scores}
    return {"length": found}


def speed_by_length(
    writers: Mapping[str, Write],
    files: Mapping[str, Write],
    texts: Sequence[str],
    lengths: Mapping[str, np.ndarray],
    seed: int,
    counts: Mapping[str, Count] | None = None,
) -> list[dict[str, Any]]:
    """The times of teacher, student and the student's files by length, see `Report.speed`."""
    timed = {name: writers[name] for name in ("teacher", "student", *files)}
    return by_length(measure_writing_cells(timed, texts, lengths, counts=counts, seed=seed), seed)


def sizes_and_flops(
    models: Mapping[str, Writer], writers: Mapping[str, Write], texts: Sequence[str], seed: int
) -> dict[str, dict[str, float]]:
    """The `parameters` and `bytes`, and the operations in which writers handle some texts."""

    def handled(writer: Writer) -> Callable[[list[str], list[str]], int]:
        return lambda read, written: int(writer.reads(read).sum()) + writer.tokens(written)

    sizes: dict[str, dict[str, float]] = {name: {**writer.size} for name, writer in models.items()}
    for name in models.keys() & writers.keys():
        sizes[name] |= writing_flops(writers[name], texts, handled(models[name]), seed=seed)
    return sizes


def timed_writing(
    speeds: Mapping[int, Mapping[str, Timed]], name: str, unit: str, count: Count, lengths: np.ndarray
) -> dict[str, Any]:
    """A model's times and the mean of the tokens that it reads in a text.

    Args:
        speeds: by batch and name.
        name: of the model.
        unit: of what is written.
        count: how much of it there is in some texts.
        lengths: (texts,) tokens that it reads.
    """
    timed = writing_summary({batch: calls[name] for batch, calls in speeds.items()}, unit, count)
    whole = {"end_to_end_ms": timed["latency_ms"], "end_to_end_throughput": timed["throughput"]}  # texts are read too
    return timed | whole | {"tokens_per_text": float(lengths.mean())}


def generation_ratios(
    teacher: Mapping[str, float],
    other: Mapping[str, float],
    speeds: Mapping[int, Mapping[str, Timed]],
    name: str,
    seed: int,
    counts: Mapping[str, Count] | None = None,
) -> dict[str, Any]:
    """How much smaller and faster than the teacher another model is: more is better in each.

    Args:
        teacher: its `parameters`, `bytes` and `flops_per_text`.
        other: those of them that are known of the other.
        speeds: by batch and name.
        name: of the other.
        seed: of the draws of calls.
        counts: what counts the tokens of what each wrote, by which the times are compared. None: by the text.
    """
    found: dict[str, Any] = {
        ratio: {"value": teacher[size] / other[size]} for size, ratio in SMALLER.items() if size in other
    }
    for ratio, batch in (("faster", 1), ("throughput", BATCH)):
        two = {who: speeds[batch][who] for who in ("teacher", name)}
        slow, fast = (
            timed.milliseconds if counts is None else timed.milliseconds / timed.written(counts[who])
            for who, timed in two.items()
        )
        found[ratio] = ratio_of_medians(slow, fast, seed)
    return found


def timing_conditions(
    models: Mapping[str, Writer], speeds: Mapping[int, Mapping[str, Timed]], texts: int, how: str, more: str = ""
) -> dict[str, Any]:
    """The machine, and how many texts, calls and batches were timed."""
    return environment(models["student"].model.device) | {
        "texts_timed": min(len(speeds[1]["student"].milliseconds), texts),
        "calls_timed": len(speeds[1]["student"].milliseconds),
        "batches_timed": len(speeds[BATCH]["student"].milliseconds),
        "timing": f"whole texts, tokenised, written ({how}) and decoded, models in turns in one run{more}",
    }


def finished_report(teacher_floor: float | None, validation_rows: int | None, **fields: Any) -> Report:
    """A report in plain data, with its warnings.

    Args:
        teacher_floor: see `report_warnings`.
        validation_rows: likewise.
        fields: of the report.
    """
    report = Report(**fields)
    return finished(report, report_warnings(report, teacher_floor, validation_rows))
