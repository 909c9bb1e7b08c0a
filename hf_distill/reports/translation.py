"""Models that write, compared: BLEU and chrF of translations, bits per byte of language models, variety and speed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset

from hf_distill.data.generation import SOURCE, TARGET
from hf_distill.evaluation.bootstrap import RESAMPLES, estimate
from hf_distill.evaluation.generation_speed import Write, measure_writing, writing_summary
from hf_distill.evaluation.quality import gain
from hf_distill.evaluation.seeds import BASELINE, further_trainings, means_over_seeds
from hf_distill.evaluation.speed import with_intervals
from hf_distill.metrics import load
from hf_distill.reports.report import Report
from hf_distill.reports.texts import (
    finished_report,
    generation_ratios,
    most_different,
    quality_by_length,
    sizes_and_flops,
    speed_by_length,
    summaries,
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
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Report:
    """Measure translators beside each other: greedy and by beam search, with paired bootstrap intervals over texts.

    Args:
        models: `teacher`, `student` and, if there is one, `baseline`: the same student without a teacher.
        dataset: the test set, with `source` and `target`.
        metrics: of texts, the first one decides; greedy. With `_beam` behind the name they stand for beam search.
        num_beams: of the beam search.
        max_new_tokens: the longest translation.
        onnx: folder that `export_onnx` wrote an LSTM student's files to. None: they are not measured.
        controls: what other ways without a teacher translate the texts into, by name.
        more_students: the student from further seeds, see `compare`.
        quote: see `most_different`.
        detailed_costs: whether operations, and times by batch size and length, are measured.
        teacher_floor: what the teacher should reach on the first metric.
        resamples: of the texts.
        seed: of the draws and of the texts that are timed.
    Returns:
        The report; `differences` also has `beam_gain_over_best_control` and `student_beam_over_greedy`, and each model
        `words_a_second.{batch_1,batch_32}`, the words that it writes, greedily. `fidelity` takes the teacher's greedy
        translations for right: `agreement`, the share of the student's that are the same word for word, and the metrics
        of the student against them. `breakdown.length` is by the student's tokens of the sources.
    Raises:
        ValueError: a text longer than a model reads.
    """
    sources, targets = list(dataset[SOURCE]), np.array(list(dataset[TARGET]), dtype=object)
    said: dict[str, dict[str, np.ndarray]] = {}
    again, trainings = further_trainings(more_students, BASELINE in models)
    for name, writer in {**models, **again}.items():
        greedy, beam = (writer.writes(max_new_tokens, num_beams=beams)(sources) for beams in (1, num_beams))
        said[name] = {"": stripped(greedy), "_beam": stripped(beam)}
    files = onnx_writers(models["student"], onnx, max_new_tokens)
    said |= {name: {"": stripped(write_in_batches(write, sources))} for name, write in files.items()}
    said |= {name: {"": stripped(texts)} for name, texts in (controls or {}).items()}
    found = {
        name: {
            metric + decoding: estimate(load(metric), texts, targets, resamples=resamples, seed=seed)
            for decoding, texts in each.items()
            for metric in metrics
        }
        for name, each in said.items()
    }
    found = means_over_seeds(found, trainings, seed)
    writers: dict[str, Write] = {name: writer.writes(max_new_tokens) for name, writer in models.items()} | files
    lengths = {name: models.get(name, models["student"]).reads(sources) for name in writers}
    speeds = measure_writing(writers, sources, seed=seed)
    timed = {
        name: writing_summary({batch: of[name] for batch, of in speeds.items()}, "words", count_words)
        | {"tokens_per_text": float(lengths[name].mean())}
        for name in writers
    }
    first = metrics[0]
    value = {name: of[first] for name, of in found.items()}
    without_teacher = [name for name in (BASELINE, *(controls or {})) if name in found]
    differences = {}
    if without_teacher:
        differences["gain_over_best_control"] = gain(value, without_teacher)
    if BASELINE in models:
        by_beam = {name: found[name][f"{first}_beam"] for name in models}
        differences["beam_gain_over_best_control"] = gain(by_beam, [BASELINE])
    student = found["student"]
    differences["student_beam_over_greedy"] = (student[f"{first}_beam"] - student[first]).summary()
    sizes = sizes_and_flops(models, writers if detailed_costs else {}, sources, seed)
    files_bytes = {
        name: sum(f.stat().st_size for f in onnx_files_of(Path(str(onnx)), "int8" in name)) for name in files
    }
    kept = {"quality_kept": (value["student"] / value["teacher"]).summary()} if value["teacher"].value > 0 else {}
    return finished_report(
        task="translation",
        metrics=[*metrics, *(f"{metric}_beam" for metric in metrics)],
        examples=len(sources),
        seeds=1 + len(more_students),
        models={name: {"quality": summaries(found[name]), **sizes[name], **timed[name]} for name in models},
        controls={name: summaries(found[name]) for name in controls or {}},
        **with_intervals(kept | generation_ratios(sizes["teacher"], sizes["student"], speeds, "student", seed)),
        differences=differences,
        fidelity={
            "agreement": float((said["student"][""] == said["teacher"][""]).mean()),
            "examples": len(sources),
            **summaries(
                {
                    metric: estimate(
                        load(metric), said["student"][""], said["teacher"][""], resamples=resamples, seed=seed
                    )
                    for metric in metrics
                }
            ),
        },
        breakdown=quality_by_length(first, {name: said[name][""] for name in models}, targets, lengths["student"]),
        most_different=most_different(sources, said["teacher"][""], said["student"][""], targets, quote=quote),
        speed=speed_by_length(writers, files, sources, lengths, seed) if detailed_costs else [],
        onnx={
            name.removeprefix("onnx "): {
                "bytes": files_bytes[name],
                **with_intervals(generation_ratios(sizes["teacher"], {"bytes": files_bytes[name]}, speeds, name, seed)),
                "quality": summaries(found[name]),
                **timed[name],
                "agreement": float((said[name][""] == said["student"][""]).mean()),
            }
            for name in files
        },
        environment=timing_conditions(models, speeds, len(sources), f"greedy, at most {max_new_tokens} tokens"),
        teacher_floor=teacher_floor,
    )
