"""Models that write, compared: BLEU and chrF of translations, bits per byte of language models, variety and speed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from hf_distill.bootstrap import RESAMPLES, Estimate, estimate, value_of
from hf_distill.breakdown import MOST_EXAMPLES, length_groups
from hf_distill.caveats import BASELINE, caveats
from hf_distill.export import FOLDER, QUANTIZED, GreedyTranslator
from hf_distill.measure import count_parameters, environment, weights_bytes
from hf_distill.metrics import DistinctN, load, optional
from hf_distill.quality import SMALLER, gain
from hf_distill.report import Report, plain
from hf_distill.seeds import further_trainings, means_over_seeds
from hf_distill.speed import BATCH
from hf_distill.tasks import IGNORE_INDEX
from hf_distill.teacher import evaluating
from hf_distill.text_teacher import GeneratingTeacher, as_prompt
from hf_distill.timings import by_length, ratio_of_medians, with_intervals
from hf_distill.writing_data import SOURCE, TARGET
from hf_distill.writing_speed import (
    Count,
    Timed,
    Write,
    measure_writing,
    measure_writing_cells,
    writing_flops,
    writing_summary,
)

REPLY = 48  # tokens of a reply at most
BY_TOKEN = "; they are compared by the token that is written, since replies differ in length"


@dataclass(frozen=True)
class Writer:
    """A model with the tokenizer that it writes with.

    Attributes:
        model: with `generate`.
        tokenizer: its own.
    """

    model: PreTrainedModel
    tokenizer: Any

    def writes(self, max_new_tokens: int, batch_size: int = BATCH, num_beams: int = 1) -> GeneratingTeacher:
        """What answers texts, without sampling."""
        return GeneratingTeacher(
            self.model,
            self.tokenizer,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            num_beams=num_beams,
            do_sample=False,
        )

    def reads(self, texts: Sequence[str]) -> np.ndarray:
        """(texts,) tokens that it reads before it writes: of a chat, with all that its template adds."""
        if self.model.config.is_encoder_decoder:
            return np.array([len(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]])
        return np.array([len(as_prompt(text, self.tokenizer)) for text in texts])

    def tokens(self, said: Sequence[str]) -> int:
        """How many of its tokens some texts are that it wrote, with one for the end of each."""
        read = self.tokenizer(text_target=list(said), add_special_tokens=False, verbose=False)
        return sum(map(len, read["input_ids"])) + len(said)

    @property
    def size(self) -> dict[str, int]:
        """Its `parameters` and the `bytes` of its weights."""
        return {"parameters": count_parameters(self.model), "bytes": weights_bytes(self.model)}


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
        said[name] = {"": _texts(greedy), "_beam": _texts(beam)}
    files = _onnx_files(models["student"], onnx, max_new_tokens)
    said |= {name: {"": _texts(_in_batches(write, sources))} for name, write in files.items()}
    said |= {name: {"": _texts(texts)} for name, texts in (controls or {}).items()}
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
        name: writing_summary({batch: of[name] for batch, of in speeds.items()}, "words", _words)
        | {"tokens_per_text": float(lengths[name].mean())}
        for name in writers
    }
    first = metrics[0]
    value = {name: of[first] for name, of in found.items()}
    rivals = [name for name in (BASELINE, *(controls or {})) if name in found]
    differences = {}
    if rivals:
        differences["gain_over_best_control"] = gain(value, rivals)
    if BASELINE in models:
        by_beam = {name: found[name][f"{first}_beam"] for name in models}
        differences["beam_gain_over_best_control"] = gain(by_beam, [BASELINE])
    student = found["student"]
    differences["student_beam_over_greedy"] = (student[f"{first}_beam"] - student[first]).summary()
    sizes = _sizes(models, writers if detailed_costs else {}, sources, seed)
    files_bytes = {name: sum(f.stat().st_size for f in _files_of(Path(str(onnx)), "int8" in name)) for name in files}
    kept = {"quality_kept": (value["student"] / value["teacher"]).summary()} if value["teacher"].value > 0 else {}
    return _report(
        task="translation",
        metrics=[*metrics, *(f"{metric}_beam" for metric in metrics)],
        examples=len(sources),
        seeds=1 + len(more_students),
        models={name: {"quality": _summaries(found[name]), **sizes[name], **timed[name]} for name in models},
        controls={name: _summaries(found[name]) for name in controls or {}},
        **with_intervals(kept | _ratios(sizes["teacher"], sizes["student"], speeds, "student", seed)),
        differences=differences,
        fidelity={
            "agreement": float((said["student"][""] == said["teacher"][""]).mean()),
            "examples": len(sources),
            **_summaries(
                {
                    metric: estimate(
                        load(metric), said["student"][""], said["teacher"][""], resamples=resamples, seed=seed
                    )
                    for metric in metrics
                }
            ),
        },
        breakdown=_by_length(first, {name: said[name][""] for name in models}, targets, lengths["student"]),
        most_different=most_different(sources, said["teacher"][""], said["student"][""], targets, quote=quote),
        speed=_cells(writers, files, sources, lengths, seed) if detailed_costs else [],
        onnx={
            name.removeprefix("onnx "): {
                "bytes": files_bytes[name],
                **with_intervals(_ratios(sizes["teacher"], {"bytes": files_bytes[name]}, speeds, name, seed)),
                "quality": _summaries(found[name]),
                **timed[name],
                "agreement": float((said[name][""] == said["student"][""]).mean()),
            }
            for name in files
        },
        environment=_conditions(models, speeds, len(sources), f"greedy, at most {max_new_tokens} tokens"),
        teacher_floor=teacher_floor,
    )


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
        teacher_floor: not used by a metric that falls, see `Report`; kept for a metric that grows.
        batch_size: of the forward passes.
        resamples: of the test rows.
        seed: of the draws.
    Returns:
        The report. `gain_over_best_control` is in bits a byte saved. Replies differ in length, so all that is called
        faster, and `throughput`, is by the token that is written. `fidelity` counts the target tokens at which
        teacher and student choose the same next token, where both have one vocabulary; each model has
        `replies.{distinct_1,distinct_2,prompts}` and `tokens_a_second.{batch_1,batch_32}`. `breakdown.length` is by the
        student's tokens of the test rows, `most_different` and `speed` are about the replies.
    Raises:
        ImportError: sacrebleu is missing.
        ValueError: the rows of two models spell other numbers of bytes.
    """
    optional("sacrebleu.metrics", "generation")  # what replies have in common is said in chrF
    sizes = {name: np.array(rows[:]["target_bytes"], dtype=np.float64) for name, rows in datasets.items()}
    for name, each in sizes.items():
        if not np.array_equal(each, sizes["student"]):
            raise ValueError(
                f"The rows of {name} spell {int(each.sum())} bytes and those of the student "
                f"{int(sizes['student'].sum())}: bits a byte of other texts do not compare. Cut both to the same "
                "messages, see conversations.cut_to_fit."
            )
    again, trainings = further_trainings(more_students, BASELINE in models)
    nats = {name: reply_nats(models[name], rows, batch_size) for name, rows in datasets.items()}
    nats |= {name: reply_nats(writer, datasets["student"], batch_size) for name, writer in again.items()}
    bits = {
        name: {"bits_per_byte": estimate(load("bits_per_byte"), each, sizes["student"], resamples=resamples, seed=seed)}
        for name, each in nats.items()
    }
    found = {name: of["bits_per_byte"] for name, of in means_over_seeds(bits, trainings, seed).items()}
    writers: dict[str, Write] = {name: writer.writes(max_new_tokens) for name, writer in models.items()}
    replies = {name: write(list(prompts)) for name, write in writers.items()}
    read = {name: writer.reads(prompts) for name, writer in models.items()}
    speeds = measure_writing(writers, prompts, seed=seed)
    counts = {name: writer.tokens for name, writer in models.items()}
    computed = _sizes(models, writers if detailed_costs else {}, prompts, seed)
    differences = {}
    if BASELINE in models:
        saved = (found[BASELINE] - found["student"]).summary()
        differences["gain_over_best_control"] = saved | {"control": BASELINE}
    if "untuned_teacher" in models:
        differences["teacher_gain_over_untuned"] = (found["untuned_teacher"] - found["teacher"]).summary()
        if BASELINE in models:
            saved = (found[BASELINE] - found["untuned_teacher"]).summary()
            differences["untuned_teacher_gain_over_baseline"] = saved
    shared = models["teacher"].tokenizer.get_vocab() == models["student"].tokenizer.get_vocab()
    return _report(
        task="text-generation",
        metrics=["bits_per_byte"],
        examples=len(sizes["student"]),
        seeds=1 + len(more_students),
        models={
            name: {
                "quality": {"bits_per_byte": found[name].summary()},
                **computed[name],
                **writing_summary({batch: of[name] for batch, of in speeds.items()}, "tokens", writer.tokens),
                "tokens_per_text": float(read[name].mean()),
                "replies": {
                    "distinct_1": variety(replies[name], 1),
                    "distinct_2": variety(replies[name], 2),
                    "prompts": len(prompts),
                },
            }
            for name, writer in models.items()
        },
        **with_intervals(
            {"quality_kept": (found["teacher"] / found["student"]).summary()}
            | _ratios(computed["teacher"], computed["student"], speeds, "student", seed, counts)
        ),
        differences=differences,
        fidelity=agreement(models, datasets["student"], batch_size) if shared else {},
        breakdown=_by_length(
            "bits_per_byte",
            {name: nats[name] for name in models},
            sizes["student"],
            np.array([len(ids) for ids in datasets["student"][:]["input_ids"]]),
        ),
        most_different=most_different(prompts, _texts(replies["teacher"]), _texts(replies["student"]), quote=quote),
        speed=_cells(writers, {}, prompts, read, seed, counts) if detailed_costs else [],
        environment=_conditions(models, speeds, len(prompts), f"greedy, at most {max_new_tokens} tokens", BY_TOKEN),
        teacher_floor=teacher_floor,
    )


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
    """Where teacher and student have one vocabulary: the share of targets at which they choose the same token, and KL.

    Rows that only pad the longer of two tables stand for no token and are left out.

    Args:
        models: `teacher` and `student`.
        rows: with `input_ids` and `labels`.
        batch_size: rows a forward.
    """
    same, divergence, counted = 0, 0.0, 0
    both = (_passes(models[name].model, rows, batch_size) for name in ("teacher", "student"))
    for (_, taught, targets), (_, learnt, _) in zip(*both, strict=True):
        read = targets != IGNORE_INDEX
        tokens = min(taught.shape[-1], learnt.shape[-1])
        teacher, student = (logits[read][:, :tokens].log_softmax(dim=-1) for logits in (taught, learnt))
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


def variety(texts: Sequence[str], n: int) -> float:
    """The share of different n-grams in some texts, see `metrics.DistinctN`."""
    return float(next(iter((DistinctN().compute(predictions=list(texts), n=n) or {}).values())))


def most_different(
    texts: Sequence[str],
    taught: np.ndarray,
    learnt: np.ndarray,
    targets: np.ndarray | None = None,
    *,
    quote: bool = True,
) -> list[dict[str, Any]]:
    """The texts for which teacher and student write what has least in common, at most ten, the most different first.

    Args:
        texts: that both read.
        taught: (texts,) what the teacher writes.
        learnt: (texts,) what the student writes.
        targets: (texts,) what the data has, if anything.
        quote: whether the texts are among what is returned.
    Returns:
        `{"example": its number among `texts`, "chrf": of the student's text against the teacher's}`, without texts for
        which both write the same; with `quote` also `text`, `teacher`, `student` and, of the data, `label`.
    """
    chrf = load("chrf")
    alike = {int(row): value_of(chrf, learnt[[row]], taught[[row]]) for row in np.flatnonzero(taught != learnt)}
    found: list[dict[str, Any]] = []
    for example in sorted(alike, key=lambda row: alike[row])[:MOST_EXAMPLES]:
        found.append({"example": example, "chrf": alike[example]})
        if quote:
            found[-1] |= {"text": texts[example], "teacher": taught[example], "student": learnt[example]}
            found[-1] |= {} if targets is None else {"label": targets[example]}
    return found


def _by_length(
    metric: str, said: Mapping[str, np.ndarray], references: np.ndarray, lengths: np.ndarray
) -> dict[str, dict[str, dict[str, Any]]]:
    """A metric apart for each quarter of the examples by length.

    Args:
        metric: its name.
        said: (examples,) by model.
        references: (examples,).
        lengths: (examples,) tokens.
    """
    groups = np.array(length_groups(lengths), dtype=object)
    found: dict[str, dict[str, Any]] = {}
    for group in sorted(set(groups)):
        part = groups == group
        scores = {name: {metric: value_of(load(metric), each[part], references[part])} for name, each in said.items()}
        found[group] = {"examples": int(part.sum()), **scores}
    return {"length": found}


def _cells(
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


def _sizes(
    models: Mapping[str, Writer], writers: Mapping[str, Write], texts: Sequence[str], seed: int
) -> dict[str, dict[str, float]]:
    """Everybody's `parameters` and `bytes`, and the operations in which writers handle some texts."""

    def handled(writer: Writer) -> Callable[[list[str], list[str]], int]:
        return lambda read, said: int(writer.reads(read).sum()) + writer.tokens(said)

    sizes: dict[str, dict[str, float]] = {name: {**writer.size} for name, writer in models.items()}
    for name in models.keys() & writers.keys():
        sizes[name] |= writing_flops(writers[name], texts, handled(models[name]), seed=seed)
    return sizes


def _words(said: Sequence[str]) -> int:
    return sum(len(text.split()) for text in said)


def _texts(said: Sequence[str]) -> np.ndarray:
    return np.array([text.strip() for text in said], dtype=object)


def _summaries(found: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: each.summary() for name, each in found.items()}


def _in_batches(write: Write, texts: list[str]) -> list[str]:
    """Translations, the longest texts first, so that a batch is padded little."""
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
    said: dict[int, str] = {}
    for start in range(0, len(order), BATCH):
        numbers = order[start : start + BATCH]
        said |= dict(zip(numbers, write([texts[number] for number in numbers]), strict=True))
    return [said[number] for number in range(len(texts))]


def _files_of(folder: Path, quantized: bool) -> list[Path]:
    return [folder / FOLDER / f"{part}{QUANTIZED * quantized}.onnx" for part in ("encoder_model", "decoder_model")]


def _onnx_files(student: Writer, folder: str | Path | None, max_new_tokens: int) -> dict[str, Write]:
    """What the student's exported files write, by `onnx float32` and `onnx int8`."""
    if folder is None:
        return {}
    made: dict[str, Write] = {}
    for name, quantized in (("onnx float32", False), ("onnx int8", True)):
        if not all(file.exists() for file in _files_of(Path(folder), quantized)):
            continue
        run = GreedyTranslator(folder, quantized=quantized, threads=torch.get_num_threads())

        def write(texts: list[str], run: GreedyTranslator = run) -> list[str]:
            read = student.tokenizer(list(texts), padding=True, return_tensors="np")
            ids = run(read["input_ids"].astype(np.int64), read["attention_mask"].astype(np.int64), max_new_tokens)
            return student.tokenizer.batch_decode(ids[:, 1:], skip_special_tokens=True)

        made[name] = write
    return made


def _ratios(
    teacher: Mapping[str, float],
    other: Mapping[str, float],
    speeds: Mapping[int, Mapping[str, Timed]],
    name: str,
    seed: int,
    counts: Mapping[str, Count] | None = None,
) -> dict[str, Any]:
    """How much smaller and faster than the teacher somebody is: more is better in each.

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


def _conditions(
    models: Mapping[str, Writer], speeds: Mapping[int, Mapping[str, Timed]], texts: int, how: str, more: str = ""
) -> dict[str, Any]:
    return environment(models["student"].model.device) | {
        "texts_timed": min(len(speeds[1]["student"].milliseconds), texts),
        "calls_timed": len(speeds[1]["student"].milliseconds),
        "batches_timed": len(speeds[BATCH]["student"].milliseconds),
        "timing": f"whole texts, tokenised, written ({how}) and decoded, models in turns in one run{more}",
    }


def _report(teacher_floor: float | None, **fields: Any) -> Report:
    report = Report(**fields)
    return Report(**plain(asdict(report) | {"warnings": caveats(report, teacher_floor)}))
