"""The model card of a student: what it is, how to use it, and what its report found, in Markdown with the Hub's
metadata."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_distill.hub.markdown import code, command, text
from hf_distill.hub.usage import CARD_END, Usage
from hf_distill.metrics import display_name, lower_is_better
from hf_distill.paths import is_hub_id
from hf_distill.problems import TASKS
from hf_distill.redaction import redacted, without_folders
from hf_distill.reports import card_tables as tables
from hf_distill.reports import deferral, ladder
from hf_distill.reports.card_tables import interval, words
from hf_distill.reports.costs import answers_told, costs_told, first_line
from hf_distill.reports.report import Report

OPERATIONS = "Operations are those of the matrix products, a multiplication and an addition being two"
WRITTEN = ", of reading a text and writing another"
# Types and names of metrics as the Hub's list has them; what it does not list is left out of a card's `metrics`.
HUB_METRICS = {
    "accuracy": ("accuracy", "Accuracy"),
    "f1": ("f1", "F1"),
    "macro_f1": ("f1", "Macro F1"),
    "seqeval": ("seqeval", "F1 of entities (seqeval)"),
    "matthews_correlation": ("matthews_correlation", "Matthews correlation"),
    "pearson": ("pearsonr", "Pearson correlation"),
    "spearman": ("spearmanr", "Spearman correlation"),
    "sacrebleu": ("sacrebleu", "SacreBLEU"),
    "sacrebleu_beam": ("sacrebleu", "SacreBLEU, beam search"),
    "chrf": ("chrf", "chrF"),
    "chrf_beam": ("chrf", "chrF, beam search"),
}
FEW = 0.5  # of the teacher's share of distinct pairs of words, below which a student answers many prompts alike
TEMPLATE = Path(__file__).with_name("model_card_template.md")


def model_card(
    report: Report,
    folder: str | Path,
    *,
    student_name: str,
    teacher: str,
    teacher_revision: str | None = None,
    repo_id: str | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
    datasets: Sequence[str] = (),
    fine_tuning: Mapping[str, Any] | None = None,
    stages: Sequence[Mapping[str, Any]] = (),
    carried: Mapping[str, str] | None = None,
    splits: Mapping[str, int] | None = None,
    reproduce: str | None = None,
    example: str | Sequence[str] = "Some text",
    samples: Sequence[tuple[str, str, str]] = (),
) -> ModelCard:
    """Write the `README.md` of a student.

    Args:
        report: where every number comes from.
        folder: of the saved student; its config tells the classes and whether it brings its own code. A `report.png` in
            it is shown, and how to run the files in `onnx/`.
        student_name: title.
        teacher: id on the Hub, or a local folder, of which only the last name is shown.
        teacher_revision: of a teacher on the Hub.
        repo_id: where the student will be, "user/name". None, or without an owner: users load it from the folder.
        license: as the Hub spells it, "apache-2.0" for instance.
        language: ISO 639 codes.
        datasets: ids on the Hub, or names.
        fine_tuning: settings of the training in which the teacher learned the task. None: it was used as it is.
        stages: those of each stage of the student's training. `card_tables.METHOD` says which are shown.
        carried: each student parameter that was initialised from the teacher, to where it came from.
        splits: how many rows each split had, and what else there is to count.
        reproduce: the command that makes the student again.
        example: what the usage reads: a text, the two of a pair, or for tagging the words of a sentence.
        samples: texts, each with the answers of teacher and student.
    Raises:
        ValueError: a licence or a language that is no identifier, or a README.md that is a link.
    """
    folder = Path(folder)
    check_identifiers("license", license)
    check_identifiers("language", language)
    if (folder / "README.md").is_symlink():
        raise ValueError(f"{folder / 'README.md'} is a link, and the card would be written where it leads. Remove it.")
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    on_hub = is_hub_id(teacher)
    shown_teacher = f"[{teacher}](https://huggingface.co/{teacher})" if on_hub else code(Path(teacher).name)
    revision = teacher_revision if on_hub else None
    card = ModelCard.from_template(
        _metadata(report, student_name, teacher if on_hub else None, license, language, datasets),
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        student_name=text(student_name),
        summary=_summary(report, shown_teacher),
        origin=_origin(shown_teacher, revision, datasets, fine_tuning is not None),
        method=tables.method(_trainings(fine_tuning, stages)),
        samples=tables.samples(samples),
        several_stages=len(stages) > 1,
        carried=tables.carried(carried or {}),
        folded=len(carried or {}) > tables.MOST_ROWS,
        splits="; ".join(f"{rows:,} {text(name)}" for name, rows in (splits or {}).items()),
        reproduce=command(reproduce) if reproduce else None,
        license=text(license) if license else None,
        end=CARD_END,
        **_usage(report, folder, config, repo_id, example),
        **_findings(report, folder),
    )
    card.save(folder / "README.md")
    return card


def title(report: Report, subject: str, kind: str, teacher: str) -> str:
    """The title of a student in a gallery: what it does, its size and kind, and its teacher.

    Args:
        report: of the student.
        subject: what it does, or the name of its data.
        kind: of the student, `lstm` for instance.
        teacher: id on the Hub, or a local folder.
    """
    shown = {"lstm": "LSTM", "static": "static model", "transformer": "Transformer"}.get(kind, kind)
    known = report.models["teacher"].get("parameters")  # none of one on a server
    source = Path(teacher).name
    if not is_hub_id(teacher) and known:
        source = f"a {tables.rounded(known)}-parameter teacher"
    size = tables.rounded(report.models["student"]["parameters"])
    return f"{subject}: {size}-parameter {shown} distilled from {source}"


def _usage(
    report: Report, folder: Path, config: Mapping[str, Any], repo_id: str | None, example: str | Sequence[str]
) -> dict[str, Any]:
    """What the template says of loading the student and of its classes."""
    task = TASKS[report.task]
    # transformers names two classes for every model, also for one that writes.
    labels = {} if task.writes else config.get("id2label") or {}
    given = [example] if isinstance(example, str) else list(example)
    address = repo_id if repo_id is not None and "/" in repo_id else None  # only a push knows whose a name alone is
    usage = Usage(
        task=report.task,
        load_from=address or folder.name,
        on_hub=address is not None,
        example=" ".join(given).split() if isinstance(example, str) and task.word_level else given,
        trust="auto_map" in config,
        several="multi_label" in (config.get("problem_type") or ""),
        onnx=[(file.name, file.stat().st_size) for file in sorted((folder / "onnx").glob("*model*.onnx"))],
    )
    return {
        "usage": usage.block,
        "onnx": bool(usage.onnx),
        "word_level": task.word_level,
        "trust": usage.trust,
        "labels": [code(labels[number]) for number in sorted(labels, key=int)],
    }


def _findings(report: Report, folder: Path) -> dict[str, Any]:
    """What the template says of the report."""
    remarks = (_alike(report), _gain(report), _errors(report), _fidelity(report), _calibration(report))
    return {
        "measured_on": _measured_on(report),
        "own": _own(report),
        "results": tables.results(report),
        "remarks": [remark for remark in remarks if remark],
        "test_sets": tables.further_test_sets(report),
        "deferral": deferral.section(report.deferral),
        "deferral_picture": deferral.PICTURE if (folder / deferral.PICTURE).exists() else None,
        "ladder": ladder.section(report.ladder),
        "ladder_picture": ladder.PICTURE if (folder / ladder.PICTURE).exists() else None,
        "breakdown": tables.breakdown(report),
        "per_class": tables.per_class(report),
        "most": tables.MOST_ROWS,
        "picture": "report.png" if (folder / "report.png").exists() else None,
        "speed": tables.speed(report),
        "end_to_end": tables.end_to_end(report),
        "by_length": tables.by_length(report),
        "exported": tables.exported(report),
        "conditions": _conditions(report),
        "ratios": tables.ratios(report),
        "answers": answers_told(report),
        "costs": costs_told(report),
        "warnings": [text(warning) for warning in report.warnings],
        "limits": _limits(report),
    }


def _metadata(
    report: Report,
    student_name: str,
    base_model: str | None,
    license: str | None,
    language: str | Sequence[str] | None,
    datasets: Sequence[str],
) -> ModelCardData:
    named = [without_folders(redacted(name)) for name in datasets]
    dataset = named[0] if named else "the test set of the recipe"
    on_hub = [name for name in datasets if "/" in name and is_hub_id(name)]
    kind = dataset if dataset in on_hub else _slug(dataset)
    further = {name: (_slug(name), measured) for name, measured in report.test_sets.items()}
    results = [
        EvalResult(
            task_type=report.task,
            dataset_type=kind,
            dataset_name=name,
            dataset_split="test",
            metric_type=HUB_METRICS.get(metric, (metric, ""))[0],
            metric_name=HUB_METRICS.get(metric, ("", display_name(metric)))[1],
            metric_value=quality.get("values", [quality["value"]])[0],
        )
        for name, (kind, measured) in {dataset: (kind, report.models), **further}.items()
        for metric, quality in measured["student"]["quality"].items()
    ]
    return ModelCardData(
        base_model=base_model,
        # Left to itself, the Hub may take a student with 8-bit ONNX files for its teacher, quantised. Of the relations
        # that it knows (adapter, finetune, merge, quantized), a model that learned from another is its finetune.
        base_model_relation="finetune" if base_model else None,
        datasets=on_hub or None,
        eval_results=results,
        language=language if language is None or isinstance(language, str) else list(language),
        library_name="transformers",
        license=license,
        metrics=list(dict.fromkeys(HUB_METRICS[name][0] for name in report.metrics if name in HUB_METRICS)) or None,
        model_name=student_name,
        pipeline_tag=report.task,
        tags=["knowledge-distillation", "hf_distill"],
    )


def check_identifiers(key: str, value: str | Sequence[str] | None) -> None:
    """Raise a ValueError where a licence or a language is no word of the Hub's metadata.

    Args:
        key: which of them it is, for the error.
        value: one, several or none.

    >>> check_identifiers("license", "apache-2.0")
    """
    for each in [value] if isinstance(value, str) else value or ():
        if not isinstance(each, str) or not each.isprintable() or not each.strip():
            raise ValueError(
                f"{key}: expected an identifier as the Hub spells it, on one line (apache-2.0, en), got {each!r}. For "
                "a licence of your own set other, and put its text into a file LICENSE."
            )


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower()).strip("-")


def _summary(report: Report, teacher: str) -> str:
    metric, student = report.metrics[0], report.models["student"]
    quality, above = student["quality"][metric], report.models["teacher"]["quality"].get(metric)
    unit = "token" if report.task == "text-generation" else "text"
    reached = f"{text(display_name(metric))} {quality['value']:.4f}"
    reached += f" (mean of {report.seeds} seeds)" if report.seeds > 1 else ""
    # A teacher of other classes has no quality here.
    reached += "" if above is None else f" against the teacher's {above['value']:.4f}"
    if "smaller" not in report.ratios:  # a teacher that is not here
        made = f"A student of {student['parameters']:,} parameters for {text(report.task)}, distilled from {teacher}"
        return f"{first_line(report)}{made}, which was asked by a prompt: {reached}."
    return (
        f"A student of {student['parameters']:,} parameters for {text(report.task)}, distilled from {teacher} "
        f"({report.models['teacher']['parameters']:,} parameters): {reached}, with "
        f"{_compared(report.ratios['smaller'], 'fewer', 'more')} parameters and "
        f"{_compared(report.ratios['faster'], 'less', 'more')} time a {unit}."
    )


def _compared(ratio: float, fewer: str, more: str) -> str:
    return f"{ratio:.3g}× {fewer}" if ratio >= 1 else f"{1 / ratio:.3g}× {more}"


def _measured_on(report: Report) -> str:
    found = f"{report.examples:,} test examples"
    if report.words:
        cut = (f"{report.words[f'cut_off_{name}']:,} for the {name}" for name in ("teacher", "student"))
        found += (
            f" with {report.words['words']:,} words, of which {report.words['scored']:,} are scored; cut off at the "
            f"longest that a model reads were {' and '.join(cut)}"
        )
        if "lost_words" in report.words:
            found += "; words that were cut off are scored as wrong"
        if "entities" in report.words:
            found += f", {report.words['lost_entities']:,} of {report.words['entities']:,} entities as missed"
    return found


def _own(report: Report) -> str | None:
    """What the published student itself reached, where the rest is about several."""
    if report.seeds == 1:
        return None
    quality = report.models["student"]["quality"]
    reached = ", ".join(f"{words(metric)} {quality[metric]['values'][0]:.4f}" for metric in report.metrics)
    return (
        f"Figures of the student and of the baseline are means of {report.seeds} seeds, and their intervals cover the "
        f"seeds too. The one published here is the first, which reached {reached}; fidelity, calibration, the "
        "breakdown, the ONNX files and the speed are its own."
    )


def _alike(report: Report) -> str | None:
    """What the replies of a student in a dialogue are like, where they are few phrases."""
    student, teacher = (report.models.get(name, {}).get("replies") for name in ("student", "teacher"))
    if not student or not teacher or student["distinct_2"] >= FEW * teacher["distinct_2"]:
        return None
    return (
        f"**It answers most prompts alike.** In its greedy replies to {student['prompts']} prompts "
        f"{student['distinct_2']:.1%} of the pairs of neighbouring words are different ones, in its teacher's "
        f"{teacher['distinct_2']:.1%}: the student repeats a few safe phrases, and is no partner for a conversation."
    )


def _gain(report: Report) -> str | None:
    gain = report.differences.get("gain_over_best_control")
    if gain is None:
        return None
    lead = "Saved against" if lower_is_better(report.metrics[0]) else "Gain over"
    return (
        f"{lead} the best control without a teacher ({words(gain['control'])}), paired: {interval(gain, '+.4f')} "
        f"{words(report.metrics[0])}."
    )


def _errors(report: Report) -> str | None:
    if not report.errors:
        return None
    text = (
        f"Errors (1 − {words(report.metrics[0])}): student {interval(report.errors['student'])}, teacher "
        f"{interval(report.errors['teacher'])}"
    )
    ratio = report.errors.get("error_ratio")
    if ratio is None:
        return f"{text}."
    return f"{text}; the student makes {interval(ratio, '.3g')} times as many."


def _fidelity(report: Report) -> str | None:
    fidelity = report.fidelity
    if not fidelity:
        return None
    where, unit, chosen = f"{fidelity['examples']:,} texts", "text", "class"
    if "kl" not in fidelity:
        scores = (f"{words(name)} {interval(fidelity[name], '.1f')}" for name in report.metrics if name in fidelity)
        return (
            f"Student and teacher translate {fidelity['agreement']:.4f} of {where} the same, word for word; against "
            f"its teacher's translations the student reaches {', '.join(scores)}."
        )
    if "words" in fidelity:
        where, unit = f"{fidelity['words']:,} words of {where}", "word"
    if "tokens" in fidelity:
        where, unit, chosen = f"{fidelity['tokens']:,} tokens of {where}", "token", "next token"
    return (
        f"Student and teacher choose the same {chosen} on {fidelity['agreement']:.4f} of {where}; "
        f"KL(teacher ‖ student) is {fidelity['kl']:.4g} nats a {unit}."
    )


def _calibration(report: Report) -> str | None:
    if not report.calibration:
        return None
    found = (f"{words(name)} {report.calibration[name]:.4f}" for name in tables.by_rank(report.calibration))
    return f"Expected calibration error, best at 0: {', '.join(found)}."


def _conditions(report: Report) -> str:
    env = report.environment
    writes = TASKS[report.task].writes
    where = text(env["processor"] if env["device"] == "cpu" else env.get("accelerator", env["device"]))
    threads = "1 thread" if env["threads"] == 1 else f"{env['threads']} threads"
    return (
        f"On {where}, {threads}, torch {text(env['torch'])}, transformers {text(env['transformers'])}; "
        f"{env['calls_timed']} calls on {env['texts_timed']} test texts"
        f"{'' if writes else ', tokenisation excluded'}: {text(env['timing'])}."
        + (f" {OPERATIONS}{WRITTEN * writes}." if "flops_per_text" in report.models["student"] else "")
    )


def _origin(teacher: str, revision: str | None, datasets: Sequence[str], fine_tuned: bool) -> str:
    at = f" (revision {code(revision)})" if revision else ""
    data = f" on {', '.join(map(text, datasets))}" if datasets else ""
    return f"Distilled from {teacher}{at}{data}{', once the teacher had been fine-tuned there' if fine_tuned else ''}."


def _trainings(
    fine_tuning: Mapping[str, Any] | None, stages: Sequence[Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """The settings of each training, by what was trained."""
    of_student = {
        f"student, stage {number}" if len(stages) > 1 else "student": stage for number, stage in enumerate(stages, 1)
    }
    return of_student if fine_tuning is None else {"teacher": fine_tuning, **of_student}


def _limits(report: Report) -> list[str]:
    sets = len(report.test_sets) + 1
    covered = "the choice of test examples"
    covered += f" and {report.seeds} trainings of the student" if report.seeds > 1 else ""
    left = "another teacher nor another split" if report.seeds > 1 else "another training run nor another split"
    limits = [
        f"It was measured on {'one test set' if sets == 1 else f'{sets} test sets'}; other domains, languages and "
        "lengths are untested.",
        "It learned from its teacher, and so it repeats the teacher's errors and biases as well as its skill.",
        f"Intervals cover {covered}, neither {left}.",
        "Speed depends on the machine; ratios travel better than milliseconds.",
    ]
    if "baseline" not in report.models:
        limits.append("There is no baseline: the same student without a teacher was not trained.")
    return limits
