"""A recipe: one YAML file that says what to distil, checked before anything runs."""

import dataclasses
import functools
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_distill.checked import check_size, check_values, nearest, section_from
from hf_distill.data.config import Data
from hf_distill.paths import read_yaml
from hf_distill.plain_yaml import to_yaml
from hf_distill.problems import TASKS
from hf_distill.recipes.overrides import override
from hf_distill.redaction import redacted, secrets_in, without_secrets
from hf_distill.students.lstm.configuration_lstm import LSTMStudentConfig
from hf_distill.students.static.configuration_static import StaticStudentConfig
from hf_distill.students.transformer.config import TransformerStudentConfig
from hf_distill.tasks import RECIPE_TASKS, cascading, task_of
from hf_distill.tasks.prompt_checks import check_prompted
from hf_distill.tasks.prompt_settings import with_prompt_defaults
from hf_distill.tasks.rungs import check_ladder, rungs_of
from hf_distill.tasks.settings import (
    OF_THE_RUN,
    STAGE_HINTS,
    STUDENT_LIMITS,
    TRAINING_LIMITS,
    Cascade,
    Compare,
    Export,
    Push,
    Settings,
    Student,
    Teacher,
)

__all__ = ["Cascade", "Compare", "Data", "Export", "Push", "Recipe", "Student", "Teacher"]

STUDENTS: dict[str, Any] = {
    "lstm": LSTMStudentConfig,
    "static": StaticStudentConfig,
    "transformer": TransformerStudentConfig,
}
# Fields of a student's config that follow from the data, the tokenizer and the teacher.
DERIVED = (
    *("vocab_size", "num_labels", "id2label", "label2id", "problem_type"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"),
)


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
        cascade: see `Cascade`.
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
        try:
            there = Path(path).is_file()
        except (OSError, ValueError):  # a name that no file can have
            there = False
        if not there:
            raise ValueError(f"There is no recipe {path}.")
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise ValueError(f"{path}: expected keys and values, got {type(content).__name__}.")
        return cls.from_dict(override(content, overrides))

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Recipe":
        """A recipe from plain values.

        Raises:
            ValueError: an unknown key (with the nearest known one), or a value of another type or out of its range.
        """
        check_size(content)
        try:
            recipe = section_from(cls, with_prompt_defaults(content))
        except ValueError as error:
            raise ValueError(redacted(str(error), *secrets_in(content))) from None
        recipe.check()
        return recipe

    def check(self) -> None:
        """Raise a ValueError for what can be known to be wrong without reading any data."""
        if self.task not in RECIPE_TASKS:
            raise ValueError(f"task: unknown {self.task!r}.{nearest(self.task, RECIPE_TASKS)}")
        task = task_of(self)
        if not self.stages:
            raise ValueError("distill: expected training arguments or a list of them, got an empty list.")
        check_prompted(self)
        task.check_settings(self)
        cascading.check_settings(self)
        check_ladder(self)
        self._check_report()
        kind: Any = task.arguments_class
        hints = argument_types(kind)
        for key, stage in self.trainings:
            own = {name: STAGE_HINTS[name] for name in task.stage_keys} if key.startswith("distill") else {}
            self._check_training(key, stage, hints | own)
            if own:
                self.matchings(stage)
        self._check_student()
        for name, changes in rungs_of(self).items():
            try:
                dataclasses.replace(self, **changes).check()
            except ValueError as error:
                raise ValueError(f"student.ladder, {name}: {error}") from error

    def _check_report(self) -> None:
        if self.seed in self.compare.more_seeds or len(set(self.compare.more_seeds)) < len(self.compare.more_seeds):
            raise ValueError(
                f"compare.more_seeds: expected seeds other than {self.seed}, each once; got {self.compare.more_seeds}."
            )
        taken = {*self.data.label_columns, *self.data.text_columns, "label", "text", "text_pair", "words"}
        if taken & set(self.compare.by):
            raise ValueError(f"compare.by: {', '.join(sorted(taken & set(self.compare.by)))} is the text or its label.")
        others = {f"compare.test_sets.{name}": changes for name, changes in self.compare.test_sets.items()}
        others |= {} if self.data.labelled_test is None else {"data.labelled_test": self.data.labelled_test}
        for key, changes in others.items():
            fixed = {"minimum", "together", "augment"} & changes.keys()
            if fixed:
                raise ValueError(f"{key}: {fixed.pop()} is about what is trained on. Leave it out.")
            section_from(Data, {"path": self.data.path, **changes}, key)

        pair = len(self.data.text_columns) > 1
        for sample in self.push.samples:
            if pair != isinstance(sample, list) or (pair and len(sample) != 2) or not sample or not all(sample):
                expected = "lists of two texts, as data.text names two columns" if pair else "texts"
                raise ValueError(f"push.samples: expected {expected}; got {sample!r:.80}.")

    @property
    def trainings(self) -> list[tuple[str, dict[str, Any]]]:
        """The settings of each training by their key: the stages, and the teacher's where it is fine-tuned."""
        several = isinstance(self.distill, list)
        stages = [(f"distill[{number}]" if several else "distill", stage) for number, stage in enumerate(self.stages)]
        return [*stages, ("teacher.fine_tune", self.teacher.fine_tune or {})]

    def _check_training(self, key: str, settings: dict[str, Any], hints: dict[str, Any]) -> None:
        """Raise a ValueError for settings that are no training arguments, of another type or out of their range."""
        for name in settings:
            if name in OF_THE_RUN:
                raise ValueError(f"{key}: {name} cannot be set here; {OF_THE_RUN[name]}. Leave it out.")
        check_values(settings, hints, key, TRAINING_LIMITS)
        try:
            self.objective(settings)
        except ValueError as error:
            raise ValueError(f"{key}.{error}") from error

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
        kind = STUDENTS[self.student.kind]
        for name in self.student.config:
            if name in DERIVED:
                raise ValueError(
                    f"student.config: {name} follows from the data, the tokenizer and the teacher. Leave it out"
                    + ("; the size of the vocabulary is student.vocab_size." if name == "vocab_size" else ".")
                )
        known = {name: hint for name, hint in kind.__annotations__.items() if name not in DERIVED}
        check_values(self.student.config, known, "student.config", STUDENT_LIMITS)

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML, every default spelled out, without tokens and passwords."""
        Path(path).write_text(to_yaml(without_secrets(dataclasses.asdict(self))), encoding="utf-8")


@functools.cache
def argument_types(kind: Any) -> dict[str, Any]:
    """The type of each training argument."""
    hints = typing.get_type_hints(kind)
    return {argument.name: hints[argument.name] for argument in dataclasses.fields(kind) if argument.init}
