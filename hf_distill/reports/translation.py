"""Compares translators: BLEU and chrF, fidelity to the teacher, and speed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_distill.data.generation import SOURCE, TARGET
from hf_distill.evaluation.bootstrap import RESAMPLES, Estimate, estimate
from hf_distill.evaluation.generation_speed import Write, measure_writing
from hf_distill.evaluation.quality import gain, ratio, summaries
from hf_distill.evaluation.seeds import BASELINE, further_trainings, means_over_seeds
from hf_distill.evaluation.speed import with_intervals
from hf_distill.evaluation.stopwatch import Timed
from hf_distill.metrics import load
from hf_distill.reports.report import Report
from hf_distill.reports.texts import (
    finished_report,
    generation_ratios,
    most_different,
    quality_by_length,
    sizes_and_flops,
    speed_by_length,
    timed_writing,
    timing_conditions,
)
from hf_distill.reports.writer import Writer, count_words, onnx_files_of, onnx_writers, stripped, write_in_batches


def compare_translation(
    models: Mapping[str, Writer],
    dataset: Dataset,
    *,
    metrics: Sequence[str] = ("sacrebleu", "chrf"),
    num_beams: int = 4,
    max_new_tokens: int = 128,
    onnx: str | Path | None = None,
    controls: Mapping[str, Sequence[str]] | None = None,
    more_students: Sequence[tuple[Writer, Writer | None]] = (),
    quote: bool = False,
    detailed_costs: bool = True,
    teacher_floor: float | None = None,
    validation_rows: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Report:
    """Measure translators beside each other: greedy and by beam search, with paired bootstrap intervals over texts.

    Args:
        models: `teacher`, `student` and, if there is one, `baseline`: the same student without a teacher.
        dataset: the test set, with `source` and `target`.
        metrics: of texts, the first one decides. With `_beam` after the name they are of the beam search.
        num_beams: of the beam search.
        max_new_tokens: of the longest translation.
        onnx: folder that `export_onnx` wrote an LSTM student's files to. None: they are not measured.
        controls: what other ways without a teacher translate the texts into, by name.
        more_students: the student from further seeds, see `compare`.
        quote: see `most_different`.
        detailed_costs: whether operations, and times by batch size and length, are measured.
        teacher_floor, validation_rows: see `compare`.
        resamples: of the texts.
        seed: of the draws and of the texts that are timed.
    Returns:
        The report. `differences` also has `beam_gain_over_best_control` and `student_beam_over_greedy`; each model has
        `words_a_second.{batch_1,batch_32}`, written greedily. In `fidelity` the references are the teacher's greedy
        translations: `agreement` is the share that the student translates the same word for word.
    Raises:
        ValueError: a text longer than a model reads.
    """
    sources, targets = list(dataset[SOURCE]), np.array(list(dataset[TARGET]), dtype=object)
    again, trainings = further_trainings(more_students, BASELINE in models)
    files = onnx_writers(models["student"], onnx, max_new_tokens)
    written = translations({**models, **again}, files, controls or {}, sources, num_beams, max_new_tokens)
    draws = {"resamples": resamples, "seed": seed}
    found = means_over_seeds(
        {name: scores(metrics, by_decoding, targets, **draws) for name, by_decoding in written.items()}, trainings, seed
    )
    writers: dict[str, Write] = {name: writer.writes(max_new_tokens) for name, writer in models.items()} | files
    lengths = {name: models.get(name, models["student"]).reads(sources) for name in writers}
    speeds = measure_writing(writers, sources, seed=seed)
    timed = {name: timed_writing(speeds, name, "words", count_words, lengths[name]) for name in writers}
    sizes = sizes_and_flops(models, writers if detailed_costs else {}, sources, seed)
    first, teacher, student = metrics[0], written["teacher"][""], written["student"][""]
    alike = summaries(scores(metrics, {"": student}, teacher, **draws))
    kept = ratio("quality_kept", found["student"][first], found["teacher"][first])
    compared = generation_ratios(sizes["teacher"], sizes["student"], speeds, "student", seed)
    return finished_report(
        task="translation",
        metrics=[*metrics, *(f"{metric}_beam" for metric in metrics)],
        examples=len(sources),
        seeds=1 + len(more_students),
        models={name: {"quality": summaries(found[name]), **sizes[name], **timed[name]} for name in models},
        controls={name: summaries(found[name]) for name in controls or {}},
        **with_intervals(kept | compared),
        differences=translation_differences(found, first, list(controls or {})),
        fidelity={"agreement": float((student == teacher).mean()), "examples": len(sources), **alike},
        breakdown=quality_by_length(first, {name: written[name][""] for name in models}, targets, lengths["student"]),
        most_different=most_different(sources, teacher, student, targets, quote=quote),
        speed=speed_by_length(writers, files, sources, lengths, seed) if detailed_costs else [],
        onnx={
            name.removeprefix("onnx "): {**exported_translator(Path(str(onnx)), name, sizes["teacher"], speeds, seed)}
            | {"quality": summaries(found[name]), "agreement": float((written[name][""] == student).mean())}
            | timed[name]
            for name in files
        },
        environment=timing_conditions(models, speeds, len(sources), f"greedy, at most {max_new_tokens} tokens"),
        teacher_floor=teacher_floor,
        validation_rows=validation_rows,
    )


def translations(
    models: Mapping[str, Writer],
    files: Mapping[str, Write],
    controls: Mapping[str, Sequence[str]],
    sources: list[str],
    num_beams: int,
    max_new_tokens: int,
) -> dict[str, dict[str, np.ndarray]]:
    """The translations of some texts: name -> decoding ("" is greedy, "_beam" only of models) -> (texts,)."""
    written: dict[str, dict[str, np.ndarray]] = {}
    for name, writer in models.items():
        greedy, beam = (writer.writes(max_new_tokens, num_beams=beams)(sources) for beams in (1, num_beams))
        written[name] = {"": stripped(greedy), "_beam": stripped(beam)}
    written |= {name: {"": stripped(write_in_batches(write, sources))} for name, write in files.items()}
    return written | {name: {"": stripped(texts)} for name, texts in controls.items()}


def scores(
    metrics: Sequence[str], by_decoding: Mapping[str, np.ndarray], targets: np.ndarray, *, resamples: int, seed: int
) -> dict[str, Estimate]:
    """Each metric of each decoding, as `metric` and `metric_beam`.

    Args:
        metrics: names.
        by_decoding: see `translations`.
        targets: (texts,).
        validation_rows: see `compare`.
        resamples: of the texts.
        seed: of the draws.
    """
    return {
        metric + decoding: estimate(load(metric), texts, targets, resamples=resamples, seed=seed)
        for decoding, texts in by_decoding.items()
        for metric in metrics
    }


def translation_differences(
    found: Mapping[str, Mapping[str, Estimate]], metric: str, controls: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """See `Report.differences` and `compare_translation`.

    Args:
        found: name -> metric -> estimate.
        metric: the first one.
        controls: without a teacher, beside the baseline.
    """
    value = {name: of[metric] for name, of in found.items()}
    without_teacher = [name for name in (BASELINE, *controls) if name in found]
    differences = {}
    if without_teacher:
        differences["gain_over_best_control"] = gain(value, without_teacher)
        differences["teacher_over_best_control"] = gain(value, without_teacher, "teacher")
    if BASELINE in found:
        by_beam = {name: found[name][f"{metric}_beam"] for name in ("student", BASELINE)}
        differences["beam_gain_over_best_control"] = gain(by_beam, [BASELINE])
    student = found["student"]
    differences["student_beam_over_greedy"] = (student[f"{metric}_beam"] - student[metric]).summary()
    return differences


def exported_translator(
    folder: Path, name: str, teacher: Mapping[str, float], speeds: Mapping[int, Mapping[str, Timed]], seed: int
) -> dict[str, Any]:
    """The `bytes` and ratios of the student's files of one kind, see `Report.onnx`.

    Args:
        folder: that `export_onnx` wrote to.
        name: "onnx float32" or "onnx int8".
        teacher: its sizes.
        speeds: by batch and name.
        seed: of the draws of calls.
    """
    size = sum(file.stat().st_size for file in onnx_files_of(folder, "int8" in name))
    return {"bytes": size, **with_intervals(generation_ratios(teacher, {"bytes": size}, speeds, name, seed))}
