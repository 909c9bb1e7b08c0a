"""A recipe: one YAML file that says what to distil, checked before anything runs."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from hf_distill.data.config import Data
from hf_distill.paths import read_yaml
from hf_distill.problems import TASKS
from hf_distill.recipes.overrides import check_keys, override
from hf_distill.redaction import presentable, redacted, secrets_in, without_secrets
from hf_distill.students.lstm.configuration_lstm import LSTMStudentConfig
from hf_distill.students.static.configuration_static import StaticStudentConfig
from hf_distill.students.transformer.config import TransformerStudentConfig
from hf_distill.tasks import RECIPE_TASKS
from hf_distill.tasks.settings import Compare, Export, Push, Settings, Student, Teacher, nearest

__all__ = ["Compare", "Data", "Export", "Push", "Recipe", "Student", "Teacher"]

STUDENTS: dict[str, Any] = {
    "lstm": LSTMStudentConfig,
    "static": StaticStudentConfig,
    "transformer": TransformerStudentConfig,
}
# Fields of a student's config that follow from the data, the tokenizer and the teacher.
DERIVED = ("vocab_size", "num_labels", "id2label", "label2id", "problem_type")


@dataclass
class Recipe(Settings):
    """Everything that a run depends on.

    Attributes:
        task: `text-classification`, `token-classification`, `translation` or `text-generation`.
        data: see `Data`.
        teacher: see `Teacher`.
        student: see `Student`.
        distill: training arguments with the fields of `Objective`, or a list of stages: each starts from the student
            that the last one left. `temperature` is 1 for models that write unless it is given. Of a translation also
            `targets`: "word", the teacher's probabilities of each word of the data's targets; "sequence", what it
            writes itself; or "both", its probabilities of what it writes. And `sequences`: how many texts it writes,
            1 or more; all others keep the data's target (default: all).
        compare: see `Compare`.
        export: see `Export`.
        push: see `Push`.
        output_dir: where everything goes.
        seed: of the splits, the initialisation and the training.
    """

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> "Recipe":
        """Read a recipe file.

        Args:
            path: of a YAML file.
            overrides: command line words, `--distill.temperature 4` or `--distill.temperature=4`.
        Raises:
            ValueError: no such file, no YAML, an unknown key (with the nearest known one), or a value of another type.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"There is no recipe {path}.")
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise ValueError(f"{path}: expected keys and values, got {type(content).__name__}.")
        return cls.from_dict(override(content, overrides))

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Recipe":
        """A recipe from plain values.

        Raises:
            ValueError: an unknown key (with the nearest known one), or a value of another type.
        """
        check_keys(content, cls)
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(cls)
        try:
            recipe = parser.instantiate_classes(parser.parse_object(content))
        except ArgumentError as error:
            secrets = secrets_in(content)
            raise ValueError(f"The recipe does not fit: {redacted(str(error), *secrets)}") from presentable(
                error, *secrets
            )
        recipe = cls(**vars(recipe))
        recipe.check()
        return recipe

    def check(self) -> None:
        """Raise a ValueError for what can be known to be wrong without reading any data."""
        if self.task not in RECIPE_TASKS:
            raise ValueError(f"task: unknown {self.task!r}.{nearest(self.task, RECIPE_TASKS)}")
        task = RECIPE_TASKS[self.task]
        if not self.stages:
            raise ValueError("distill: expected training arguments or a list of them, got an empty list.")
        task.check_settings(self)
        self._check_report()
        defaults = {argument.name: argument.default for argument in dataclasses.fields(task.arguments_class)}
        for stage in self.stages:
            self._check_training("distill", stage, defaults, task.stage_keys)
            self.matchings(stage)
        self._check_training("teacher.fine_tune", self.teacher.fine_tune or {}, defaults, ())
        self._check_student()

    def _check_report(self) -> None:
        if self.seed in self.compare.more_seeds or len(set(self.compare.more_seeds)) < len(self.compare.more_seeds):
            raise ValueError(
                f"compare.more_seeds: expected seeds other than {self.seed}, each once; got {self.compare.more_seeds}."
            )
        taken = {*self.data.label_columns, *self.data.text_columns, "label", "text", "text_pair", "words"}
        if taken & set(self.compare.by):
            raise ValueError(f"compare.by: {', '.join(sorted(taken & set(self.compare.by)))} is the text or its label.")
        fields = {part.name for part in dataclasses.fields(Data)} - {"minimum", "together"}
        for changes in self.compare.test_sets.values():
            for name in changes:
                if name not in fields:
                    raise ValueError(f"compare.test_sets: unknown key {name!r}.{nearest(name, fields)}")

    @staticmethod
    def _check_training(key: str, settings: dict[str, Any], defaults: dict[str, Any], further: Sequence[str]) -> None:
        """Raise a ValueError for settings that are no training arguments, or of another type."""
        if "output_dir" in settings:
            raise ValueError(f"{key}: output_dir belongs at the recipe's top level.")
        for name, value in settings.items():
            if name not in defaults and name not in further:
                raise ValueError(f"{key}: unknown key {name!r}.{nearest(name, {*defaults, *further})}")
            if name in defaults and isinstance(value, str) and isinstance(defaults[name], int | float):
                raise ValueError(f"{key}.{name}: expected a number, got the text {value!r}.")

    def _check_student(self) -> None:
        if self.student.kind == "transformer" and not self.student.from_teacher:
            raise ValueError(
                "student.from_teacher: a transformer student is cut from its teacher, false makes no sense."
            )
        if self.student.kind == "static" and TASKS[self.task].writes:
            raise ValueError(
                f"student.kind: static students classify texts or tag words, and the task is {self.task}. Set "
                "student.kind: lstm or transformer."
            )
        names = {argument.name for argument in dataclasses.fields(STUDENTS[self.student.kind]) if argument.init}
        for name in self.student.config:
            if name not in names:
                raise ValueError(f"student.config: unknown key {name!r}.{nearest(name, names)}")
            if name in DERIVED:
                raise ValueError(
                    f"student.config: {name} follows from the data, the tokenizer and the teacher. Leave it out"
                    + ("; the size of the vocabulary is student.vocab_size." if name == "vocab_size" else ".")
                )

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML, every default spelled out, without tokens and passwords."""
        content = without_secrets(dataclasses.asdict(self))
        Path(path).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
