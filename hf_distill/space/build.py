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
from huggingface_hub.utils import filter_repo_objects

from hf_distill.hub.push import NOT_PUSHED, publish, read_card
from hf_distill.metrics import display_name
from hf_distill.paths import is_hub_id, resolve
from hf_distill.problems import TASKS
from hf_distill.recipes.recipe import Recipe
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
    Returns:
        The app's folder.
    Raises:
        ValueError: no finished student, no such teacher, an unsupported model, a card or report that cannot be read, or
            an output folder with other content.
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
    if source is not None and Path(source).exists() and _task(Path(source)) != task:
        raise ValueError(f"The student's task is {task} and the teacher {source} is for {_task(Path(source))}.")

    card = student / "README.md"
    known = read_card(card.read_text(encoding="utf-8")).data if card.is_file() else None
    title = str(getattr(known, "model_name", None) or f"{task} student")
    summary = _summary(student if (student / "report.json").is_file() else run)

    output = run / "space" if output is None else Path(output)
    if output.exists() and not (output / "space.json").is_file() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} holds something else than a Space. Choose another --output, or empty that folder.")
    output.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}-"))
    models: list[dict[str, Any]] = []
    if source is not None:
        copied = Path(source).exists()
        if copied:
            _copy(Path(source), temporary / "teacher")
        models.append({"name": "Teacher", "path": "teacher" if copied else str(source), "trusted": copied})
    _copy(student, temporary / "student")
    models.append({"name": "Student", "path": "student", "trusted": True})

    shutil.copyfile(APP, temporary / "app.py")
    _write_json(
        temporary / "space.json",
        {
            "title": title,
            "summary": summary,
            "task": task,
            "inputs": texts,
            "models": models,
            "examples": [[example] for example in examples],
        },
    )
    torch_version = torch.__version__.split("+")[0]
    named = [model["path"] for model in models if not model["trusted"]]
    needed = [f"gradio=={GRADIO}", f"torch=={torch_version}", f"transformers=={transformers.__version__}"]
    # For Marian's tokenizer and others without tokenizer.json. The files of a translator on the Hub are not known here.
    if any(temporary.glob("*/*.spm")) or (named and task == "translation"):
        needed.append(f"sentencepiece=={SENTENCEPIECE}")
    (temporary / "requirements.txt").write_text("".join(f"{each}\n" for each in needed), encoding="utf-8")
    base = getattr(known, "base_model", None)
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
        license=getattr(known, "license", None),
        models=named or ([base] if isinstance(base, str) else None),
        tags=["knowledge-distillation", "hf_distill"],
    )
    SpaceCard.from_template(metadata, template_str=README, title=title, summary=summary).save(temporary / "README.md")
    for path in temporary.iterdir():  # other files of an existing Space are kept
        target = output / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    temporary.rmdir()
    return output


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
        ValueError: the folder is not a Space.
        OSError: the Hub refused the request or the connection broke; one line that says what to do.
    """
    folder = Path(folder)
    if not (folder / "space.json").is_file():
        raise ValueError(f"{folder} is not a Space: space.json is missing. Write it with hf-distill space.")
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
        given = fine_tuned if recipe.teacher.fine_tune is not None else resolve(recipe.teacher.model)
    if given is None or Path(given).is_dir() or is_hub_id(str(given)):
        return given
    raise ValueError(f"There is no teacher {given}. Give another folder or Hub id with --teacher.")


def _copy(source: Path, target: Path) -> None:
    """Copy the files that loading a model needs: those at the top level, without reports, cards and training state."""
    target.mkdir()
    names = [path.name for path in source.iterdir() if path.is_file()]
    for name in filter_repo_objects(names, ignore_patterns=[*NOT_PUSHED, "README.md", "report.*"]):
        shutil.copyfile(source / name, target / name)


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
    return (
        f"A student of {student['parameters']:,} parameters beside its teacher of {teacher['parameters']:,}. Measured "
        f"on {report.examples:,} test examples: {display_name(metric)} {quality} "
        f"(95 % intervals{seeds}), {report.ratios['faster']:.3g} times as fast."
    )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
