"""Compares language models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from hf_distill.environment import optional
from hf_distill.evaluation.bootstrap import RESAMPLES, Estimate, estimate
from hf_distill.evaluation.generation_speed import Write, measure_writing
from hf_distill.evaluation.quality import ratio
from hf_distill.evaluation.seeds import BASELINE, further_trainings, means_over_seeds
from hf_distill.evaluation.speed import with_intervals
from hf_distill.metrics import DistinctN, load
from hf_distill.models import evaluating
from hf_distill.problems import IGNORE_INDEX
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
from hf_distill.reports.writer import REPLY, Writer, stripped

BY_TOKEN = "; they are compared by the token that is written, since replies differ in length"


def compare_generation(
    models: Mapping[str, Writer],
    datasets: Mapping[str, Dataset],
    prompts: Sequence[str],
    *,
    max_new_tokens: int = REPLY,
    more_students: Sequence[tuple[Writer, Writer | None]] = (),
    quote: bool = False,
    detailed_costs: bool = True,
    teacher_floor: float | None = None,
    validation_rows: int | None = None,
    batch_size: int = 8,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Report:
    """Measure language models beside each other: bits a byte of held-out replies, how varied and how fast they write.

    Args:
        models: `teacher`, `student`, and others such as `baseline` and `untuned_teacher`.
        datasets: by the same names the test set as each reads it: `input_ids`, `labels` (-100 is not counted) and
            `target_bytes`, the UTF-8 bytes that the labels spell. Row for row they are of the same text.
        prompts: what the models reply to, each through its chat template, greedily.
        max_new_tokens: the longest reply.
        more_students: the student from further seeds, see `compare`; they read the student's rows.
        quote: see `most_different`.
        detailed_costs: whether operations, and times by batch size and length, are measured.
        teacher_floor: bits a byte that the teacher should not exceed, see `Report`.
        batch_size: of the forward passes.
        validation_rows: see `compare`.
        resamples: of the test rows.
        seed: of the draws.
    Returns:
        The report. `gain_over_best_control` is in bits a byte saved; `faster` and `throughput` are by the token that is
        written, because replies differ in length. `fidelity` counts the target tokens at which teacher and student
        choose the same next token, where both have one vocabulary; each model has
        `replies.{distinct_1,distinct_2,prompts}` and `tokens_a_second.{batch_1,batch_32}`.
    Raises:
        ImportError: sacrebleu is missing.
        ValueError: the rows of two models spell other numbers of bytes.
    """
    optional("sacrebleu.metrics", "generation")  # what replies have in common is measured in chrF
    sizes = target_sizes(datasets)
    again, trainings = further_trainings(more_students, BASELINE in models)
    nats = {name: reply_nats(models[name], rows, batch_size) for name, rows in datasets.items()}
    nats |= {name: reply_nats(writer, datasets["student"], batch_size) for name, writer in again.items()}
    bits = {
        name: {"bits_per_byte": estimate(load("bits_per_byte"), each, sizes, resamples=resamples, seed=seed)}
        for name, each in nats.items()
    }
    found = {name: of["bits_per_byte"] for name, of in means_over_seeds(bits, trainings, seed).items()}
    writers: dict[str, Write] = {name: writer.writes(max_new_tokens) for name, writer in models.items()}
    replies = {name: write(list(prompts)) for name, write in writers.items()}
    read = {name: writer.reads(prompts) for name, writer in models.items()}
    speeds = measure_writing(writers, prompts, seed=seed)
    counts = {name: writer.tokens for name, writer in models.items()}
    computed = sizes_and_flops(models, writers if detailed_costs else {}, prompts, seed)
    greedy = f"greedy, at most {max_new_tokens} tokens"
    tokens = np.array([len(ids) for ids in datasets["student"][:]["input_ids"]])
    compared = generation_ratios(computed["teacher"], computed["student"], speeds, "student", seed, counts)
    return finished_report(
        task="text-generation",
        metrics=["bits_per_byte"],
        examples=len(sizes),
        seeds=1 + len(more_students),
        models={
            name: {"quality": {"bits_per_byte": found[name].summary()}, **computed[name]}
            | timed_writing(speeds, name, "tokens", writer.tokens, read[name])
            | {"replies": varieties(replies[name])}
            for name, writer in models.items()
        },
        **with_intervals(ratio("quality_kept", found["teacher"], found["student"]) | compared),
        differences=bits_saved(found),
        fidelity=agreement(models, datasets["student"], batch_size),
        breakdown=quality_by_length("bits_per_byte", {name: nats[name] for name in models}, sizes, tokens),
        most_different=most_different(prompts, stripped(replies["teacher"]), stripped(replies["student"]), quote=quote),
        speed=speed_by_length(writers, {}, prompts, read, seed, counts) if detailed_costs else [],
        environment=timing_conditions(models, speeds, len(prompts), greedy, BY_TOKEN),
        teacher_floor=teacher_floor,
        validation_rows=validation_rows,
    )


def target_sizes(datasets: Mapping[str, Dataset]) -> np.ndarray:
    """(rows,) the UTF-8 bytes of each row's targets, the same for all models.

    Args:
        datasets: by model, with `target_bytes`.
    Raises:
        ValueError: two models read other texts.
    """
    sizes = {name: np.array(rows[:]["target_bytes"], dtype=np.float64) for name, rows in datasets.items()}
    for name, each in sizes.items():
        if not np.array_equal(each, sizes["student"]):
            raise ValueError(
                f"The rows of {name} spell {int(each.sum())} bytes and those of the student "
                f"{int(sizes['student'].sum())}: bits a byte of other texts do not compare. Cut both to the same "
                "messages, see hf_distill.data.language_modeling.cut_to_fit."
            )
    return sizes["student"]


def bits_saved(found: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    """See `Report.differences`; fewer bits a byte are better, so what is saved is positive.

    Args:
        found: bits a byte, by name.
    """
    differences: dict[str, dict[str, Any]] = {}
    if BASELINE in found:
        saved = (found[BASELINE] - found["student"]).summary()
        differences["gain_over_best_control"] = saved | {"control": BASELINE}
        lead = (found[BASELINE] - found["teacher"]).summary()
        differences["teacher_over_best_control"] = lead | {"control": BASELINE}
    if "untuned_teacher" in found:
        untuned = found["untuned_teacher"]
        differences["teacher_gain_over_untuned"] = (untuned - found["teacher"]).summary()
        if BASELINE in found:
            differences["untuned_teacher_gain_over_baseline"] = (found[BASELINE] - untuned).summary()
    return differences


def reply_nats(writer: Writer, rows: Dataset, batch_size: int = 8) -> np.ndarray:
    """(rows,) negative log-likelihood of each row's targets, in nats.

    Args:
        writer: a causal model.
        rows: with `input_ids` and `labels`.
        batch_size: rows a forward, sorted by length.
    """
    found = np.zeros(len(rows))
    for numbers, logits, targets in _passes(writer.model, rows, batch_size):
        losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORE_INDEX)
        found[numbers] = losses.sum(dim=1).double().cpu().numpy()
    return found


def agreement(models: Mapping[str, Writer], rows: Dataset, batch_size: int = 8) -> dict[str, Any]:
    """The share of targets at which teacher and student choose the same token, and KL; empty for two vocabularies.

    Rows that only pad the longer of two tables stand for no token and are left out.

    Args:
        models: `teacher` and `student`.
        rows: with `input_ids` and `labels`.
        batch_size: rows a forward.
    """
    if models["teacher"].tokenizer.get_vocab() != models["student"].tokenizer.get_vocab():
        return {}
    same, divergence, counted = 0, 0.0, 0
    both = (_passes(models[name].model, rows, batch_size) for name in ("teacher", "student"))
    for (_, of_teacher, targets), (_, of_student, _) in zip(*both, strict=True):
        read = targets != IGNORE_INDEX
        tokens = min(of_teacher.shape[-1], of_student.shape[-1])
        teacher, student = (logits[read][:, :tokens].log_softmax(dim=-1) for logits in (of_teacher, of_student))
        same += int((teacher.argmax(dim=-1) == student.argmax(dim=-1)).sum())
        divergence += float(F.kl_div(student, teacher, reduction="sum", log_target=True))
        counted += int(read.sum())
    return {"agreement": same / counted, "kl": divergence / counted, "examples": len(rows), "tokens": counted}


def _passes(model: PreTrainedModel, rows: Dataset, batch_size: int) -> Any:
    """Row numbers, (batch, length - 1, words) float32 logits and (batch, length - 1) targets, by falling length."""
    ids, labels = rows[:]["input_ids"], rows[:]["labels"]
    order = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        read, targets = (
            pad_sequence([torch.tensor(side[number]) for number in numbers], batch_first=True, padding_value=fill)
            for side, fill in ((ids, 0), (labels, IGNORE_INDEX))
        )
        mask = pad_sequence([torch.ones(len(ids[number]), dtype=torch.long) for number in numbers], batch_first=True)
        with torch.no_grad(), evaluating(model):
            logits = model(input_ids=read.to(model.device), attention_mask=mask.to(model.device)).logits
        yield numbers, logits[:, :-1].float(), targets[:, 1:].to(logits.device)


def varieties(replies: Sequence[str]) -> dict[str, float]:
    """How varied some replies are, see `variety`, and how many `prompts` they answer."""
    return {f"distinct_{n}": variety(replies, n) for n in (1, 2)} | {"prompts": len(replies)}


def variety(texts: Sequence[str], n: int) -> float:
    """The share of different n-grams in some texts, see `metrics.DistinctN`."""
    return float(next(iter((DistinctN().compute(predictions=list(texts), n=n) or {}).values())))
