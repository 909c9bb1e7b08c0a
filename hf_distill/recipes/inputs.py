"""What each step's result depends on, as named values."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from hf_distill.environment import has_fast_bf16
from hf_distill.paths import local, name_of, resolve
from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.workspace import digest, named, rows_digest
from hf_distill.redaction import without_secrets
from hf_distill.tasks.base import RecipeTask
from hf_distill.tasks.models import Models

# Of a recipe's section `teacher`, what its fine-tuning does not depend on.
AFTER_FINE_TUNING = (
    *("label_map", "calibrate", "floor", "generation", "ledger", "top_k", "cross_fit", "bf16", "placement"),
    *("model", "revision", "trust_remote_code"),  # the commit stands for them
)


class Inputs:
    """Named values by step, computed when they are asked for.

    Values of earlier steps stand for their results: a step has `after.<earlier>`, a hash of the inputs of that one.

    Args:
        recipe: of the run.
        task: of the run.
        models: of the run.
        hash_of: gives a hash of a file's content.
    """

    def __init__(self, recipe: Recipe, task: RecipeTask, models: Models, hash_of: Callable[[Path], str]) -> None:
        self.recipe, self.task, self.models, self.hash_of = recipe, task, models, hash_of
        self._found: dict[str, dict[str, Any]] = {}

    def __getitem__(self, step: str) -> dict[str, Any]:
        if step not in self._found:
            found = getattr(self, f"_{step.replace(' ', '_').replace('-', '_')}")()
            self._found[step] = without_secrets(found)  # they are kept, and shown where they change
        return self._found[step]

    def digests(self, steps: Iterable[str]) -> dict[str, str]:
        """A hash of each value of some steps, by the step and the name of the value."""
        return {f"{step}: {name}": digest(value) for step in steps for name, value in self[step].items()}

    def _after(self, *steps: str) -> dict[str, Any]:
        return {f"after.{step}": digest(self[step]) for step in steps}

    @property
    def _after_training(self) -> dict[str, Any]:
        """What depends on the student but not on the threshold of its cascade."""
        return {"after.distill": digest(self["chosen student"])}

    @property
    def _student_section(self) -> dict[str, Any]:
        """What the first weights depend on."""
        section = dataclasses.asdict(self.recipe.student)
        unused = ["floor"] if self.recipe.student.ladder else ["floor", "ladder"]
        return {name: value for name, value in section.items() if name not in unused}

    @cached_property
    def _rows(self) -> dict[str, str]:
        return {f"rows.{name}": rows_digest(part) for name, part in self.task.parts.items()}

    def _of(self, *parts: str) -> dict[str, str]:
        return {f"rows.{part}": self._rows[f"rows.{part}"] for part in parts if f"rows.{part}" in self._rows}

    @cached_property
    def _given_teacher(self) -> dict[str, Any]:
        """The teacher as it is given, or what the student starts from in place of one behind a prompt."""
        if self.recipe.teacher.prompt is None:
            return self._model("teacher", self.models.source)
        return self._model("student.base", self.models.source)

    def _model(self, key: str, source: str | None) -> dict[str, Any]:
        """A model as it is given: its files by content, or the commit of a Hub id; nothing of none."""
        if not source:
            return {}
        name = "teacher.model" if key == "teacher" else key
        if not Path(source).exists():
            return {name: source, f"{key}.commit": self.models.config(source)._commit_hash}
        return self._files(name, Path(source))

    def _files(self, key: str, path: Path) -> dict[str, Any]:
        """The files of a folder, or one file, by content."""
        files = [path] if path.is_file() else sorted(path.glob("*"))
        return {f"{key}/{file.name}": self.hash_of(file) for file in files if file.is_file()}

    def _fine_tuned_teacher(self) -> dict[str, Any]:
        teacher, recipe = self.recipe.teacher, self.recipe
        found = {"task": recipe.task, **self._given_teacher}
        if teacher.fine_tune is None:
            return found
        section = {name: value for name, value in dataclasses.asdict(teacher).items() if name not in AFTER_FINE_TUNING}
        return {
            **found,
            **named("teacher", section),
            "teacher.bf16": teacher.bf16 and has_fast_bf16(),
            "seed": recipe.seed,
            "compare.metrics": list(recipe.metrics),
            **self.task.inputs("teacher"),
            **self._of("train", "validation"),
        }

    def _teacher(self) -> dict[str, Any]:
        return self["fine-tuned teacher"] | {"teacher.cross_fit": self.recipe.teacher.cross_fit}

    def _augmented(self) -> dict[str, Any]:
        augment = self.recipe.data.augment
        filler = None if augment is None else augment.masked_language_model
        files = {} if filler is None else self._files("masked_language_model", Path(resolve(filler)))
        return {
            **named("data.augment", None if augment is None else dataclasses.asdict(augment)),
            **files,
            **self._given_teacher,  # its tokenizer has the mask token
            **self._rows,
            "seed": self.recipe.seed,
        }

    def _cache(self) -> dict[str, Any]:
        teacher, student = self.recipe.teacher, self.recipe.student
        return {
            **self._after("teacher"),
            **self._model("language model", self.models.language_model),
            "uses_soft_targets": self.recipe.uses_soft_targets,
            "teacher.bf16": teacher.bf16 and has_fast_bf16(),
            "teacher.max_length": teacher.max_length,
            "teacher.top_k": teacher.top_k if self.task.kind.writes else None,
            "distill.targets": self.recipe.targets,
            "distill.sequences": [stage.get("sequences") for stage in self.recipe.stages],
            "distill.temperature": getattr(self.task, "cached_temperature", None),
            "student.vocab_size": student.vocab_size,
            "student.max_length": student.max_length,
            **(self._after("augmented") if self.recipe.data.augment is not None else {}),
            **self.task.inputs("cache"),
            **self._of("train", "unlabelled"),
            "seed": self.recipe.seed,
        }

    def _initialize(self) -> dict[str, Any]:
        return {
            **self._after("fine-tuned teacher"),
            **named("student", self._student_section),
            **self.task.inputs("initialize"),
            **self._of("train", "unlabelled"),
            "seed": self.recipe.seed,
        }

    def _distill(self) -> dict[str, Any]:
        cascade, student = self.recipe.cascade, self.recipe.student
        fitted = {} if cascade is None else {**named("cascade", dataclasses.asdict(cascade)), **self._of("fidelity")}
        return self["trained student"] | fitted | ({"student.floor": student.floor} if student.ladder else {})

    def _chosen_student(self) -> dict[str, Any]:
        """What the student depends on, without the threshold of its cascade; of a ladder with what is chosen."""
        return self["distill"] if self.recipe.student.ladder else self["trained student"]

    def _trained_student(self) -> dict[str, Any]:
        teacher = self.recipe.teacher
        return {
            **self._after("cache", "initialize"),
            **named("distill", self.recipe.stages),
            **named("teacher.label_map", teacher.label_map),
            "teacher.calibrate": teacher.calibrate,
            "student.bf16": self.recipe.student.bf16 and has_fast_bf16(),
            "compare.metrics": list(self.recipe.metrics),
            **self.task.inputs("distill"),
            **self._of("train", "unlabelled", "validation"),
            "seed": self.recipe.seed,
        }

    def _controls(self) -> dict[str, Any]:
        return {**self._after_training, "compare.controls": self.recipe.compare.controls, **self._of("test")}

    def _seeds(self) -> dict[str, Any]:
        return {**self._after_training, "compare.more_seeds": self.recipe.compare.more_seeds}

    def _export(self) -> dict[str, Any]:
        return {**self._after("distill"), **named("export", dataclasses.asdict(self.recipe.export))}

    def _compare(self) -> dict[str, Any]:
        return {
            **self._after("controls", "seeds", "export"),
            **named("compare", dataclasses.asdict(self.recipe.compare)),
            "teacher.floor": self.recipe.teacher.floor,
            **self.task.inputs("compare"),
            **self._of("test", "fidelity"),
        }

    def _card(self) -> dict[str, Any]:
        recipe = self.recipe
        return {
            **self._after("compare"),
            **named("push", dataclasses.asdict(recipe.push)),
            "teacher.name": local(recipe.teacher.source),
            "data.name": name_of(recipe.data.path),
            "recipe": digest(without_secrets(dataclasses.asdict(recipe))),
        }
