"""The tables of a model card: a report's figures and a training's settings in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from hf_distill.hub.markdown import code, table, text
from hf_distill.problems import TASKS
from hf_distill.reports.report import Report
from hf_distill.training.arguments import Objective

MODELS = ("teacher", "student", "baseline")
MOST_ROWS = 10
# What is shown of a training's settings. The rest of transformers' arguments says where it ran, how it was logged, and
# whose token it used.
METHOD = (
    "lora",
    "matching",
    "targets",
    "sequences",
    *(setting.name for setting in fields(Objective)),
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "label_smoothing_factor",
    "bf16",
    "fp16",
)


def results(report: Report) -> str:
    """The quality of all models and controls, with intervals; the controls in alphabetical order."""
    rows = {name: report.models[name]["quality"] for name in by_rank(report.models)}
    rows |= {name: report.controls[name] for name in sorted(report.controls)}
    used = {"teacher": "", "student": "yes", "baseline": "no"}
    used |= {"untuned_teacher": "the teacher before fine-tuning"} if "untuned_teacher" in report.models else {}
    used |= {name: "yes" if name in report.controls_with_teacher else "no" for name in report.controls}
    return table(
        ["", "learned from the teacher", *(words(metric) for metric in report.metrics)],
        [
            [
                f"**{name}**" if name == "student" else words(name),
                used[name],
                *(interval(quality[metric]) if metric in quality else "" for metric in report.metrics),
            ]
            for name, quality in rows.items()
        ],
    )


def further_test_sets(report: Report) -> str | None:
    """The first metric on the main test set and on the further ones; None without further ones."""
    if not report.test_sets:
        return None
    metric, names = report.metrics[0], by_rank(report.models)
    main = {"examples": report.examples, **report.models}
    rows = []
    for name, measured in [(None, main), *report.test_sets.items()]:
        qualities = [measured.get(model, {}).get("quality", {}) for model in names]
        cells = (interval(quality[metric]) if metric in quality else "" for quality in qualities)
        rows.append(["the main one" if name is None else code(name), f"{measured['examples']:,}", *cells])
    return table([f"test set, {words(metric)}", "examples", *map(words, names)], rows)


def breakdown(report: Report) -> str | None:
    """The first metric by group, of each group the commonest `MOST_ROWS` values; None without groups."""
    metric, names = report.metrics[0], _scored([part for parts in report.breakdown.values() for part in parts.values()])
    ratio = any("error_ratio" in part for parts in report.breakdown.values() for part in parts.values())
    rows = []
    for group, parts in report.breakdown.items():
        often = sorted(parts, key=lambda value: -_count(parts[value]))[:MOST_ROWS]
        for value in (value for value in parts if value in often):
            part = parts[value]
            values = (part.get(model, {}).get(metric) for model in names)
            rows.append(
                [
                    f"{words(group)}: {code(value)}",
                    f"{_count(part):,} {'words' if 'words' in part else 'examples'}",
                    *("" if value is None else f"{value:.4f}" for value in values),
                    *([f"{part['error_ratio']:.3g}" if "error_ratio" in part else ""] if ratio else []),
                ]
            )
    header = [words(metric), "", *map(words, names), *(["errors, student over teacher"] if ratio else [])]
    return table(header, rows) if rows else None


def per_class(report: Report) -> str | None:
    """F1 of the commonest `MOST_ROWS` classes; None where there are no classes."""
    if not report.per_class:
        return None
    names = _scored(list(report.per_class.values()))
    often = sorted(report.per_class.items(), key=lambda item: -item[1]["support"])[:MOST_ROWS]
    return table(
        ["class, F1", "support", *map(words, names)],
        [
            [
                code(name),
                f"{scores['support']:,}",
                *(f"{scores[model]['f1']:.4f}" if model in scores else "" for model in names),
            ]
            for name, scores in often
        ],
    )


def speed(report: Report) -> str:
    """Size, latency and throughput of the models, and of the student's ONNX files; what they compute, where counted."""
    rows = [(words(name), model) for name in by_rank(report.models) if "latency_ms" in (model := report.models[name])]
    rows += [(f"student, onnx {text(kind)}", measured) for kind, measured in report.onnx.items()]
    counted = any("flops_per_text" in model for _, model in rows)
    read, handled = (", read", ", read or written") if TASKS[report.task].writes else ("", "")
    header = [
        "",
        "parameters",
        "weights file, bytes",
        "ms a text, p50",
        "p95",
        "texts a second, batch 32",
        f"tokens a text{read}",
    ]
    return table(
        [*header, *(["million operations a text", f"a token{handled}"] if counted else [])],
        [
            [
                name,
                f"{model['parameters']:,}" if "parameters" in model else "",
                f"{model['bytes']:,}",
                _digits(model["latency_ms"]["batch_1"]["p50"]),
                _digits(model["latency_ms"]["batch_1"]["p95"]),
                _digits(model["throughput"]["batch_32"]),
                f"{model['tokens_per_text']:.4g}",
                *(_millions(model.get(f"flops_per_{what}")) for what in ("text", "token") if counted),
            ]
            for name, model in rows
        ],
    )


def end_to_end(report: Report) -> str | None:
    """The times from a text to its label, tokenization included; None where they were not measured."""
    rows = [(words(name), report.models[name]) for name in by_rank(report.models)]
    rows += [(f"student, onnx {text(kind)}", measured) for kind, measured in report.onnx.items()]
    read = {kind: each["runtime"] for kind, each in report.onnx.items() if "runtime" in each}
    rows += [(f"student, onnx {text(kind)} in runtime.py", measured) for kind, measured in read.items()]
    shown = [
        [
            name,
            _digits(model["end_to_end_ms"]["batch_1"]["p50"]),
            _digits(model["end_to_end_ms"]["batch_1"]["p95"]),
            _digits(model["end_to_end_throughput"]["batch_32"]),
        ]
        for name, model in rows
        if "end_to_end_ms" in model
    ]
    header = ["text to label, with tokenization", "ms a text, p50", "p95", "texts a second, batch 32"]
    return table(header, shown) if shown and not TASKS[report.task].writes else None


def by_length(report: Report) -> str | None:
    """Latency and throughput by batch size and length of the texts; None where they were not measured apart."""
    if not report.speed:
        return None
    header = [
        "texts",
        "texts a call",
        "",
        "tokens",
        "ms a call, p50",
        "p95",
        "texts a second",
        "faster than the teacher",
    ]
    return table(
        header,
        [
            [
                text(row["length"]),
                str(row["batch"]),
                words(row["model"]) + ("" if row["runtime"] == "torch" else f", {text(row['runtime'])}"),
                "{}-{}".format(*row["tokens"]),
                _digits(row["p50_ms"]),
                _digits(row["p95_ms"]),
                _digits(row["per_second"]),
                interval(row["faster"], ".3g") if "faster" in row else "",
            ]
            for row in report.speed
        ],
    )


def exported(report: Report) -> str | None:
    """What the ONNX files are worth beside the student in torch; None without any."""
    if not report.onnx:
        return None
    student = report.models["student"]
    itself = {
        metric: {"value": one["values"][0]} if "values" in one else one for metric, one in student["quality"].items()
    }
    rows = {"torch": {**student, "quality": itself}, **{f"onnx {kind}": of for kind, of in report.onnx.items()}}
    # The same against the teacher in torch, which for the student itself the report has at its top.
    compared = {"torch": (report.ratios, report.ratio_intervals)}
    compared |= {f"onnx {kind}": (of["ratios"], of["ratio_intervals"]) for kind, of in report.onnx.items()}
    names = (
        "lighter",
        "faster",
        "throughput",
        *(["faster_end_to_end"] if "faster_end_to_end" in report.ratios else []),
    )
    return table(
        ["the student in", "same answers as in torch", *map(words, report.metrics), *map(words, names)],
        [
            [
                text(name),
                f"{of['agreement']:.4f}" if "agreement" in of else "",
                *(interval(of["quality"][metric]) if metric in of["quality"] else "" for metric in report.metrics),
                *(_ratio(each, *compared[name]) for each in names),
            ]
            for name, of in rows.items()
        ],
    )


def ratios(report: Report) -> str | None:
    """The student against its teacher; None without any."""
    rows = [[words(name), _ratio(name, report.ratios, report.ratio_intervals)] for name in report.ratios]
    return table(["student against teacher", "ratio, larger is better"], rows) if rows else None


def method(trainings: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The settings that `METHOD` names, of several trainings side by side; None without any.

    >>> print(method({"student": {"temperature": 2.0, "hub_token": "hf_secret"}}))
    | setting | student |
    | --- | --- |
    | `temperature` | 2.0 |
    """
    shown = [name for name in METHOD if any(name in settings for settings in trainings.values())]
    if not shown:
        return None
    return table(
        ["setting", *map(text, trainings)],
        [
            [code(name), *(setting(settings[name]) if name in settings else "" for settings in trainings.values())]
            for name in shown
        ],
    )


def setting(value: Any) -> str:
    """A setting's value, of a matching its kind and its own settings.

    >>> setting([{"kind": "hidden_state", "layers": {-1: -1}, "weight": 0.3}])
    'hidden_state, layers {-1: -1}, weight 0.3'
    """
    if isinstance(value, list | tuple):
        return "; ".join(setting(each) for each in value)
    if isinstance(value, Mapping) and "kind" in value:
        rest = (f"{name} {each}" for name, each in value.items() if name != "kind")
        return text(", ".join([str(value["kind"]), *rest]))
    return text(value)


def carried(sources: Mapping[str, str]) -> str | None:
    """Which weights came from where; None without any."""
    if not sources:
        return None
    return table(["student", "from the teacher"], [[code(name), text(source)] for name, source in sources.items()])


def samples(rows: Sequence[tuple[str, str, str]]) -> str | None:
    """Texts with the answers of teacher and student; None without any. A teacher that was not asked has no column."""
    asked = any(teacher for _, teacher, _ in rows)
    cells = [[text(cell) for cell in (row if asked else (row[0], row[2]))] for row in rows]
    return table(["text", "teacher", "student"] if asked else ["text", "student"], cells) if rows else None


def rounded(count: int) -> str:
    """A number of parameters, in two digits or three.

    >>> rounded(1_139_906), rounded(22_713_986), rounded(81_920), rounded(900)
    ('1.1M', '23M', '82k', '900')
    """
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.{1 if count < 10 * size else 0}f}{unit}"
    return str(count)


def interval(quality: Mapping[str, float], form: str = ".4f") -> str:
    """A value and its interval, if it has one, in a format of Python's.

    >>> interval({"value": 0.5, "low": 0.25, "high": 0.75}), interval({"value": 0.5}, "+.2f")
    ('0.5000 [0.2500, 0.7500]', '+0.50')
    """
    inside = f" [{quality['low']:{form}}, {quality['high']:{form}}]" if "low" in quality else ""
    return f"{quality['value']:{form}}{inside}"


def words(name: str) -> str:
    """A name with spaces for underscores, in Markdown."""
    return text(name.replace("_", " "))


def by_rank(names: Iterable[str]) -> list[str]:
    """Names of models and controls in the order of reading; a saved report has them by the alphabet.

    >>> by_rank(["baseline", "crf_tagger", "student", "teacher"])
    ['teacher', 'student', 'baseline', 'crf_tagger']
    """
    names = list(names)
    return [*(name for name in MODELS if name in names), *(name for name in names if name not in MODELS)]


def _digits(value: float) -> str:
    """Four of them, or all of a large number's.

    >>> _digits(0.21244), _digits(1401.23), _digits(161234.5)
    ('0.2124', '1,401', '161,234')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _millions(count: float | None) -> str:
    return "" if count is None else f"{count / 1e6:.3g}"


def _ratio(name: str, values: Mapping[str, float], intervals: Mapping[str, Mapping[str, float]]) -> str:
    """A ratio with its interval, where there are any."""
    return interval({"value": values[name], **intervals.get(name, {})}, ".4g") if name in values else ""


def _scored(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The models and controls with figures in some parts of a report."""
    return by_rank(dict.fromkeys(name for part in parts for name, value in part.items() if isinstance(value, Mapping)))


def _count(part: Mapping[str, Any]) -> int:
    return int(part.get("words", part.get("examples", 0)))
