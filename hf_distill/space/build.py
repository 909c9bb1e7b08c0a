"""Write and publish a Space: a folder with an app that shows teacher and student side by side."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import SpaceCard, SpaceCardData

from hf_distill.hub.markdown import one_line, text
from hf_distill.hub.outgoing import check_whole, files_in
from hf_distill.hub.push import NOT_PUSHED, publish, read_card
from hf_distill.metrics import display_name
from hf_distill.paths import exists, is_hub_id, resolve
from hf_distill.problems import TASKS
from hf_distill.recipes.recipe import Recipe
from hf_distill.redaction import shareable_config
from hf_distill.reports.report import Report

APP = Path(__file__).with_name("app.py")
# The versions that the app was tested with. A Space is rebuilt when it restarts and must get the same versions again.
GRADIO = "6.31.0"
SENTENCEPIECE = "0.2.3"
PYTHON = "3.11"
README = """---
{{ card_data }}
---

# {{ title }}

{{ summary }}

Run it locally: `pip install -r requirements.txt`, then `python app.py`.
"""


def write_space(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    teacher: str | Path | None = None,
    examples: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> Path:
    """Write the folder of a Gradio app: `app.py`, `space.json`, `requirements.txt`, `README.md` and the models.

    The app runs locally with `python app.py`, and on the Hub as a Space (`push_space`). The folder contains no data but
    the given examples.

    Args:
        folder: the folder of a run (with `student/`), or of a student.
        output: the app's folder, created or replaced. None: `space`, beside the student's folder.
        teacher: a folder, or a Hub id, from which the app then downloads it. None: the run's teacher; a student outside
            of a run is shown alone.
        examples: texts to click on; not for models that read pairs.
        trust_remote_code: whether code in the models' folders may run that this version of hf_distill did not write.
    Returns:
        The app's folder.
    Raises:
        ValueError: no finished student, no such teacher, an unsupported model, code that may not run, a link that leads
            out of a model's folder, a card or report that cannot be read, or an output folder with other content.
    """
    folder = Path(folder)
    student = folder / "student" if (folder / "student" / "config.json").is_file() else folder
    task = _task(student)
    run = student.parent
    recipe = Recipe.load(run / "recipe.yaml") if student.name == "student" and (run / "recipe.yaml").is_file() else None
    texts = ["Text"] if recipe is None else [name.capitalize() for name in recipe.data.text_columns]
    if examples and len(texts) > 1:
        raise ValueError(f"Examples are single texts, but this student reads {len(texts)} texts at once. Omit them.")
    source = _teacher(teacher, run, recipe)
    copied = source is not None and exists(source)
    if source is not None and copied and _task(Path(source)) != task:
        raise ValueError(f"The student's task is {task} and the teacher {source} is for {_task(Path(source))}.")

    card = student / "README.md"
    known = read_card(card.read_text(encoding="utf-8")).data if card.is_file() else None
    title = one_line(getattr(known, "model_name", None) or f"{task} student")
    summary = _summary(student if (student / "report.json").is_file() else run)

    output = run / "space" if output is None else Path(output)
    if output.exists() and not (output / "space.json").is_file() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} holds something else than a Space. Choose another --output, or empty that folder.")
    folders = {"teacher": Path(source)} if source is not None and copied else {}
    folders["student"] = student
    asked = {"teacher": recipe is not None and teacher is None and recipe.teacher.trust_remote_code}
    trusted = {name: _brings_code(path, trust_remote_code or asked.get(name, False)) for name, path in folders.items()}
    output.mkdir(parents=True, exist_ok=True)
    models = [] if source is None else [{"name": "Teacher", "path": "teacher" if copied else str(source)}]
    models.append({"name": "Student", "path": "student"})
    settings = {
        "title": title,
        "summary": summary,
        "task": task,
        "inputs": texts,
        "models": [{**model, "trusted": trusted.get(model["path"], False)} for model in models],
        "examples": [[example] for example in examples],
    }
    named = [str(source)] if source is not None and not copied else []
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name[:40]}-") as name:
        temporary = Path(name)
        for part, path in folders.items():
            _copy(path, temporary / part)
        shutil.copyfile(APP, temporary / "app.py")
        _write_json(temporary / "space.json", settings)
        _write_requirements(temporary, named, task)
        _write_readme(temporary, known, title, summary, named)
        for path in temporary.iterdir():  # other files of an existing Space are kept
            target = output / path.name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            elif target.is_symlink():
                target.unlink()
            os.replace(path, target)
    return output


def _brings_code(folder: Path, trust_remote_code: bool) -> bool:
    """Whether the app has to run code of a model's folder: a Space has no hf_distill, so a student brings its own.

    Args:
        folder: of the model.
        trust_remote_code: whether other code than that of hf_distill may run.
    Raises:
        ValueError: there is other code, and it may not.
    """
    configs = [folder / name for name in ("config.json", "tokenizer_config.json")]
    read = [json.loads(path.read_text(encoding="utf-8")) for path in configs if path.is_file()]
    if not any("auto_map" in config for config in read):
        return False
    package = Path(__file__).parents[1]
    own = {(path.name, path.read_bytes()) for path in [*package.glob("students/*/*.py"), package / "runtime.py"]}
    other = [path.name for path in sorted(folder.glob("*.py")) if (path.name, path.read_bytes()) not in own]
    elsewhere = [each for config in read for each in _texts(config.get("auto_map")) if "--" in each]
    if (other or elsewhere) and not trust_remote_code:
        raise ValueError(
            f"{folder} brings code of its own that this version of hf_distill did not write "
            f"({', '.join([*other, *elsewhere])}), and the app would run it. Read it; then, if you trust it, add "
            "--trust-remote-code."
        )
    return True


def _texts(content: Any) -> list[str]:
    if isinstance(content, dict | list):
        inner = content.values() if isinstance(content, dict) else content
        return [found for each in inner for found in _texts(each)]
    return [content] if isinstance(content, str) else []


def _write_requirements(folder: Path, named: Sequence[str], task: str) -> None:
    """Pin what the app was written with.

    Args:
        folder: of the app.
        named: teachers that the app downloads.
        task: of the models.
    """
    torch_version = torch.__version__.split("+")[0]
    needed = [f"gradio=={GRADIO}", f"torch=={torch_version}", f"transformers=={transformers.__version__}"]
    # For Marian's tokenizer and others without tokenizer.json. The files of a translator on the Hub are not known here.
    if any(folder.glob("*/*.spm")) or (named and task == "translation"):
        needed.append(f"sentencepiece=={SENTENCEPIECE}")
    (folder / "requirements.txt").write_text("".join(f"{each}\n" for each in needed), encoding="utf-8")


def _write_readme(folder: Path, card: Any, title: str, summary: str, named: Sequence[str]) -> None:
    """Write the Space's card.

    Args:
        folder: of the app.
        card: metadata of the student's card. None: it has none.
        title: of the Space.
        summary: of the student.
        named: teachers that the app downloads.
    """
    base = getattr(card, "base_model", None)
    metadata = SpaceCardData(
        title=title,
        emoji="🎓",
        colorFrom="indigo",
        colorTo="green",
        sdk="gradio",
        sdk_version=GRADIO,
        python_version=PYTHON,
        app_file="app.py",
        pinned=False,
        license=getattr(card, "license", None),
        models=list(named) or ([base] if isinstance(base, str) else None),
        tags=["knowledge-distillation", "hf_distill"],
    )
    card = SpaceCard.from_template(metadata, template_str=README, title=text(title), summary=summary)
    (folder / "README.md").write_text(f"{card}\n", encoding="utf-8")


def push_space(folder: str | Path, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Publish a folder that `write_space` wrote as a Space, in one commit.

    Args:
        folder: with `app.py` and `space.json`.
        repo_id: "user/name"; created if it does not exist.
        private: only used when the Space is created.
        token: None: the one that `hf auth login` stored.
    Returns:
        The URL of the commit, or of the last one if nothing has changed.
    Raises:
        ValueError: the folder is not a Space, a file of it was cut, or a link leads out of it.
        OSError: the Hub refused the request or the connection broke; one line that says what to do.
    """
    folder = Path(folder)
    if not (folder / "space.json").is_file():
        raise ValueError(f"{folder} is not a Space: space.json is missing. Write it with hf-distill space.")
    files = files_in(folder, NOT_PUSHED)
    check_whole(files)
    missing = {"app.py", "requirements.txt", "README.md"} - files.keys()
    if missing:
        raise ValueError(f"{folder} is not a whole Space: {', '.join(sorted(missing))} is missing. Write it again.")
    if not files["README.md"].read_text(encoding="utf-8").endswith("\n"):
        raise ValueError("Nothing was sent: README.md was cut: its last line has no end. Write the Space again.")
    return publish(
        folder,
        repo_id,
        message="Show teacher and student side by side",
        private=private,
        token=token,
        repo_type="space",
        space_sdk="gradio",
    )


def _task(folder: Path) -> str:
    """The task of the model in a folder, from the class name in its config."""
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors*")):
        raise ValueError(
            f"{folder} is not a finished model: expected config.json and model.safetensors, or a run's folder with "
            "student/ in it."
        )
    classes = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or ["nothing"]
    for task in TASKS.values():
        if classes[0].endswith(task.class_name_ends):
            return task.name
    raise ValueError(f"{folder} holds a {classes[0]}; a Space shows models for {', '.join(TASKS)}.")


def _teacher(given: str | Path | None, run: Path, recipe: Recipe | None) -> str | Path | None:
    """A folder or a Hub id; None if the student is shown alone."""
    if given is None and recipe is not None:
        fine_tuned = run / "teacher"
        if recipe.teacher.prompt is not None:
            return None  # it is no classifier that an app could load
        given = fine_tuned if recipe.teacher.fine_tune is not None else resolve(recipe.teacher.source)
    if given is None or Path(given).is_dir() or is_hub_id(str(given)):
        return given
    raise ValueError(f"There is no teacher {given}. Give another folder or Hub id with --teacher.")


def _copy(source: Path, target: Path) -> None:
    """Copy the files that loading a model needs: those at the top level, without reports, cards and training state."""
    target.mkdir()
    for name, path in files_in(source, [*NOT_PUSHED, "README.md", "report.*", "*/*"]).items():
        if name.endswith("config.json"):
            _write_json(target / name, shareable_config(json.loads(path.read_text(encoding="utf-8"))))
        else:
            shutil.copyfile(path, target / name)


def _summary(folder: Path) -> str:
    """The main results of a report, in one or two sentences."""
    if not (folder / "report.json").is_file():
        return "A small student beside the teacher that it was distilled from."
    report = Report.load(folder)
    metric, student, teacher = report.metrics[0], report.models["student"], report.models["teacher"]
    # A teacher with other classes has no quality on this data.
    known = [model["quality"][metric] for model in (student, teacher) if metric in model["quality"]]
    quality = " against the teacher's ".join(
        f"{each['value']:.4f} [{each['low']:.4f}, {each['high']:.4f}]" for each in known
    )
    seeds = f", means of {report.seeds} seeds" if report.seeds > 1 else ""
    if "parameters" not in teacher:
        return f"A student of {student['parameters']:,} parameters: {text(display_name(metric))} {quality}{seeds}."
    return (
        f"A student of {student['parameters']:,} parameters beside its teacher of {teacher['parameters']:,}. Measured "
        f"on {report.examples:,} test examples: {text(display_name(metric))} {quality} "
        f"(95 % intervals{seeds}), {report.ratios['faster']:.3g} times as fast."
    )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
