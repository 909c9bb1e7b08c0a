"""The way to the Hub: a model card whose numbers are the report's, and one commit with everything a user needs."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import filter_repo_objects, validate_repo_id

from hf_distill.report import Report

TEMPLATE = Path(__file__).with_name("model_card_template.md")
NEEDED = ("config.json", "model.safetensors", "README.md")
# Training state, caches and logs; training_args.bin and the logs would also give away paths and the machine's name.
NOT_PUSHED = (
    "_*",
    "*/_*",
    ".*",
    "*/.*",
    "checkpoint-*",
    "last-checkpoint/*",
    "cache/*",
    "runs/*",
    "logs/*",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "trainer_state.json",
    "rng_state*.pth",
    "*.arrow",
    "*.tmp",
    "*.lock",
)


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
    method: Mapping[str, Any] | None = None,
    carried: Mapping[str, str] | None = None,
    splits: Mapping[str, int] | None = None,
    reproduce: str | None = None,
    example: str = "Some text",
) -> ModelCard:
    """Write the `README.md` of a student.

    Args:
        report: where every number comes from.
        folder: of the saved student; its config tells the classes and whether it brings its own code. A `report.png` in
            it is shown.
        student_name: title.
        teacher: id on the Hub, or a local folder, of which only the last name is shown.
        teacher_revision: of a teacher on the Hub.
        repo_id: where the student will be. None: users load it from the folder.
        license: as the Hub spells it, "apache-2.0" for instance.
        language: ISO 639 codes.
        datasets: ids on the Hub, or names.
        method: what the training was, name to value.
        carried: each student parameter that was initialised from the teacher, to where it came from.
        splits: how many rows each split had.
        reproduce: the command that makes the student again.
        example: a text for the usage line.
    """
    folder = Path(folder)
    config = (
        json.loads((folder / "config.json").read_text(encoding="utf-8")) if (folder / "config.json").exists() else {}
    )
    on_hub = is_hub_id(teacher)
    shown_teacher = f"[{teacher}](https://huggingface.co/{teacher})" if on_hub else f"`{Path(teacher).name}`"
    labels = config.get("id2label") or {}
    card = ModelCard.from_template(
        _metadata(report, student_name, teacher if on_hub else None, license, language, datasets),
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        student_name=student_name,
        task=report.task,
        summary=_summary(report, shown_teacher),
        load_from=json.dumps(repo_id or folder.name),
        remote_code="auto_map" in config,
        example=json.dumps(" ".join(example.split()), ensure_ascii=False),
        labels=[labels[number] for number in sorted(labels, key=int)],
        examples=f"{report.examples:,}",
        results=_results(report),
        gain=_gain(report),
        fidelity=_fidelity(report),
        picture="report.png" if (folder / "report.png").exists() else None,
        speed=_speed(report),
        conditions=_conditions(report),
        ratios=_ratios(report),
        warnings=report.warnings,
        origin=_origin(report, shown_teacher, teacher_revision if on_hub else None, datasets),
        method=_two_columns("setting", "value", method or {}),
        carried=_two_columns("student", "from the teacher", carried or {}),
        splits=", ".join(f"{rows:,} {name}" for name, rows in (splits or {}).items()),
        reproduce=without_folders(reproduce) if reproduce else None,
        limits=_limits(report),
    )
    card.save(folder / "README.md")
    return card


def push(folder: str | Path, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Publish a student in one commit; training state and names that start with "_" or "." stay behind.

    Files that are there already are not sent again: pushing what is published makes no commit.

    Args:
        folder: with `config.json`, `model.safetensors` and `README.md`.
        repo_id: "user/name"; made if it is missing.
        private: only where the repository is made.
        token: None: the one that `hf auth login` stored.
    Returns:
        The address of the commit, or of the last one where nothing is new.
    Raises:
        ValueError: a needed file is missing.
        OSError: the Hub refused or broke off; one line that says what to do.
    """
    folder = Path(folder)
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is not a finished student: {', '.join(missing)} is missing. Save the model there with "
            "save_pretrained, and write its card with hf_distill.hub.model_card."
        )
    return publish(
        folder, repo_id, message="Add the distilled student, its report and its card", private=private, token=token
    )


def publish(
    folder: str | Path, repo_id: str, *, message: str, private: bool = False, token: str | None = None, **kind: Any
) -> str:
    """Make a repository if it is missing, and send a folder to it in one commit, without what `NOT_PUSHED` names.

    Args:
        folder: with all that should be there.
        repo_id: "user/name".
        message: title of the commit.
        private: only where the repository is made.
        token: None: the one that `hf auth login` stored.
        kind: `repo_type` of anything but a model, and for a Space its `space_sdk`.
    Returns:
        The address of the commit, or of the last one where nothing is new.
    Raises:
        OSError: the Hub refused or broke off; one line that says what to do.
    """
    folder = Path(folder)
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    # Not upload_folder: since huggingface_hub 2.4 it may cut a folder into several commits, and between two of them the
    # Hub would offer a student without its code or its card.
    additions = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name)
        for name in filter_repo_objects(files, ignore_patterns=list(NOT_PUSHED))
    ]
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True, **kind)
        commit = api.create_commit(repo_id, additions, commit_message=message, repo_type=kind.get("repo_type"))
    except (HTTPError, RuntimeError) as error:  # RuntimeError: what huggingface_hub wraps a failed file's error in
        raise OSError(f"{repo_id}: {_why_refused(error)}") from error
    return commit.commit_url


def is_hub_id(name: str) -> bool:
    """Whether a name can only mean a repository on the Hub: "user/name" or "name", and no folder here is called that.

    >>> is_hub_id("google-bert/bert-base-uncased"), is_hub_id("/data/teacher"), is_hub_id("./teacher")
    (True, False, False)
    """
    if Path(name).exists() or name.startswith((".", "~", "/")):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def without_folders(text: str) -> str:
    """A text in which absolute paths are cut to their last name: a card is no place for somebody's home folder.

    >>> without_folders("hf-distill run /home/me/project/recipe.yaml --from https://example.org/a/b")
    'hf-distill run recipe.yaml --from https://example.org/a/b'
    """
    return re.sub(r"(?<![\w:/.~\\])(?:~|[A-Za-z]:)?[/\\](?=\S)(?:[^\s'\"/\\|]+[/\\])*([^\s'\"/\\|]*)", r"\1", text)


def _why_refused(error: BaseException) -> str:
    """One line for what huggingface_hub says in five, with what to do."""
    reason = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
    if not isinstance(reason, HfHubHTTPError):
        said = " ".join(str(reason).split()) or type(reason).__name__
        return f"the connection to the Hub failed ({said}). Push again: files that arrived are not sent twice."
    status = reason.response.status_code
    # Of a 401 huggingface_hub says that the repository is missing, although the token usually is what is wrong.
    advice = {
        401: "the token is missing, wrong or expired. Log in with `hf auth login`, or set HF_TOKEN",
        403: "the token may not write there. Log in with one that has the role write and covers this repository",
        404: "there is no such user, organisation or repository, or the token may not see it",
        409: "the repository is being changed by something else. Push again",
        412: "the repository was changed meanwhile. Push again",
        429: "too many requests. Wait some minutes, then push again",
    }.get(status, "an error of the Hub, see https://status.huggingface.co. Push again later" if status >= 500 else "")
    said = " ".join((reason.response.headers.get("X-Error-Message") or reason.server_message or "").split())
    return f"the Hub answered {status}{f' ({said})' if said else ''}{f': {advice}' if advice else ''}."


def _metadata(
    report: Report,
    student_name: str,
    base_model: str | None,
    license: str | None,
    language: str | Sequence[str] | None,
    datasets: Sequence[str],
) -> ModelCardData:
    named = [without_folders(name) for name in datasets]
    dataset = named[0] if named else "the test set of the recipe"
    on_hub = [name for name in datasets if "/" in name and is_hub_id(name)]
    results = [
        EvalResult(
            task_type=report.task,
            dataset_type=dataset if dataset in on_hub else re.sub(r"\W+", "-", dataset.lower()).strip("-"),
            dataset_name=dataset,
            dataset_split="test",
            metric_type=metric,
            metric_name=f"{metric} (95 % interval {quality['low']} to {quality['high']})",
            metric_value=quality["value"],
        )
        for metric, quality in report.models["student"]["quality"].items()
    ]
    return ModelCardData(
        base_model=base_model,
        datasets=on_hub or None,
        eval_results=results,
        language=language if language is None or isinstance(language, str) else list(language),
        library_name="transformers",
        license=license,
        metrics=list(report.metrics),
        model_name=student_name,
        pipeline_tag=report.task,
        tags=["knowledge-distillation", "hf_distill"],
    )


def _summary(report: Report, teacher: str) -> str:
    metric, student = report.metrics[0], report.models["student"]
    ratios = report.ratios
    above = report.models["teacher"]["quality"].get(metric)  # none of a teacher of other classes
    beside = "" if above is None else f" against the teacher's {above['value']:.4f}"
    return (
        f"A student of {student['parameters']:,} parameters for {report.task}, distilled from {teacher}: "
        f"{_words(metric)} {student['quality'][metric]['value']:.4f}{beside}, "
        f"with {_times(ratios['smaller'])} fewer parameters and {_times(ratios['faster'])} less time a text."
    )


def _results(report: Report) -> str:
    rows = {**{name: model["quality"] for name, model in report.models.items()}, **report.controls}
    used = {"teacher": "", "student": "yes", "baseline": "no"}
    used |= {name: "yes" if name in report.controls_with_teacher else "no" for name in report.controls}
    return _table(
        ["", "learned from the teacher", *(_words(metric) for metric in report.metrics)],
        [
            [
                f"**{name}**" if name == "student" else _words(name),
                used[name],
                *(_interval(quality[metric]) if metric in quality else "" for metric in report.metrics),
            ]
            for name, quality in rows.items()
        ],
    )


def _gain(report: Report) -> str | None:
    gain = report.differences.get("gain_over_best_control")
    if gain is None:
        return None
    return (
        f"Gain over the best control without a teacher ({_words(gain['control'])}), paired: {gain['value']:+.4f} "
        f"[{gain['low']:+.4f}, {gain['high']:+.4f}] {_words(report.metrics[0])}."
    )


def _fidelity(report: Report) -> str | None:
    if not report.fidelity:
        return None
    return (
        f"Student and teacher choose the same class on {report.fidelity['agreement']:.4f} of "
        f"{report.fidelity['examples']:,} texts; KL(teacher ‖ student) is {report.fidelity['kl']:.4g} nats a text."
    )


def _speed(report: Report) -> str:
    return _table(
        ["", "parameters", "weights file, bytes", "ms a text, p50", "p95", "texts a second, batch 32", "tokens a text"],
        [
            [
                name,
                f"{model['parameters']:,}",
                f"{model['bytes']:,}",
                f"{model['latency_ms']['batch_1']['p50']:.4g}",
                f"{model['latency_ms']['batch_1']['p95']:.4g}",
                f"{model['throughput']['batch_32']:,.0f}",
                f"{model['tokens_per_text']:.4g}",
            ]
            for name, model in report.models.items()
        ],
    )


def _conditions(report: Report) -> str:
    env = report.environment
    where = env["processor"] if env["device"] == "cpu" else env.get("accelerator", env["device"])
    threads = "1 thread" if env["threads"] == 1 else f"{env['threads']} threads"
    return (
        f"On {where}, {threads}, torch {env['torch']}, transformers {env['transformers']}; {env['calls_timed']} calls "
        f"on {env['texts_timed']} test texts, tokenisation excluded: {env['timing']}."
    )


def _ratios(report: Report) -> str:
    rows = []
    for name, value in report.ratios.items():
        inside = report.ratio_intervals.get(name)
        rows.append(
            [_words(name), f"{value:.4g}" + (f" [{inside['low']:.4g}, {inside['high']:.4g}]" if inside else "")]
        )
    return _table(["student against teacher", "ratio, larger is better"], rows)


def _origin(report: Report, teacher: str, revision: str | None, datasets: Sequence[str]) -> str:
    at = f" (revision `{revision}`)" if revision else ""
    data = f" on {', '.join(without_folders(name) for name in datasets)}" if datasets else ""
    return f"Distilled from {teacher}{at}{data}, by learning from the teacher's outputs."


def _limits(report: Report) -> list[str]:
    limits = [
        "It was measured on one test set; on other domains, languages or lengths it may be worse: nobody has looked.",
        "It learned from its teacher, and so it repeats the teacher's errors and biases as well as its skill.",
        "Intervals cover the choice of test examples, neither another training run nor another split.",
        "Speed depends on the machine; ratios travel better than milliseconds.",
    ]
    if "baseline" not in report.models:
        limits.append("There is no baseline: the same student without a teacher was not trained.")
    return limits


def _two_columns(left: str, right: str, rows: Mapping[str, Any]) -> str | None:
    if not rows:
        return None
    return _table([left, right], [[f"`{name}`", without_folders(str(value))] for name, value in rows.items()])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _interval(quality: Mapping[str, float]) -> str:
    return f"{quality['value']:.4f} [{quality['low']:.4f}, {quality['high']:.4f}]"


def _times(ratio: float) -> str:
    return f"{ratio:.3g}×"


def _words(name: str) -> str:
    return name.replace("_", " ")
