"""A recipe: one YAML file that says what to distil, checked before anything runs."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from hf_distill.data.config import Data
from hf_distill.matching import MATCHINGS
from hf_distill.matching.base import Matching
from hf_distill.paths import read_yaml
from hf_distill.problems import TASKS
from hf_distill.recipes.overrides import check_keys, nearest, override
from hf_distill.students.lstm.configuration_lstm import LSTMStudentConfig
from hf_distill.students.transformer.config import TransformerStudentConfig
from hf_distill.training.arguments import DistillationArguments, Seq2SeqDistillationArguments

OF_TEXTS = ("sacrebleu", "chrf")
TARGETS = ("word", "sequence", "both")
WRITING_TEMPERATURE = 1.0  # above it most of the probability is in the tail of a top-k cache, which is one number
STUDENTS: dict[str, Any] = {"lstm": LSTMStudentConfig, "transformer": TransformerStudentConfig}


@dataclass
class Teacher:
    """Which model teaches, and how it learns first.

    Attributes:
        model: a Hub id, a folder, or `package:name/path` inside an installed package.
        fine_tune: training arguments. None: the model has a head for the task already and is used as it is.
        max_length: tokens, longer texts are cut.
        label_map: where it is used as it is and has other classes: each of them to one of the data's, or to null to
            leave it out.
        cross_fit: number of further teachers, each fine-tuned without one part of the labelled rows; every row is then
            labelled by those that did not learn from it. None: the teacher labels what it learnt from.
        calibrate: whether to divide its logits by the temperature at which they fit the validation labels best.
        floor: the first metric that its test result should reach; below it the report says that the teacher is too weak
            for its ratios to mean much.
        bf16: whether it computes in bfloat16 where the hardware is fast at it.
        lora: where a model that writes is fine-tuned by low-rank adapters, which are merged at its end: fields of
            `peft.LoraConfig`. None: all of its weights are.
        generation: options of `generate` for the texts that it writes to learn from, `num_beams` for instance.
        ledger: file that keeps what it writes, for other recipes with the same teacher to read. None: one of the run's
            own.
        top_k: of a model that writes, how many of its most likely tokens are kept at a position, with the mass of all
            others. None: all.
    """

    model: str
    fine_tune: dict[str, Any] | None = None
    max_length: int = 128
    label_map: dict[str, str | None] = field(default_factory=dict)
    cross_fit: int | None = None
    calibrate: bool = False
    floor: float | None = None
    bf16: bool = True
    lora: dict[str, Any] | None = None
    generation: dict[str, Any] = field(default_factory=dict)
    ledger: str | None = None
    top_k: int | None = 64


@dataclass
class Student:
    """What learns.

    Attributes:
        kind: `lstm`, or `transformer` for a smaller model of the teacher's own family.
        vocab_size: size of its own vocabulary, trained on the texts. None: it reads with the teacher's tokenizer.
        max_length: tokens, longer texts are cut.
        config: fields of its `LSTMStudentConfig` or `TransformerStudentConfig`.
        from_teacher: whether it starts from the teacher's weights or from random ones.
        bf16: whether it trains in bfloat16 where the hardware is fast at it.
    """

    kind: Literal["lstm", "transformer"] = "lstm"
    vocab_size: int | None = 8000
    max_length: int = 128
    config: dict[str, Any] = field(default_factory=dict)
    from_teacher: bool = True
    bf16: bool = True


@dataclass
class Compare:
    """What the report measures.

    Attributes:
        metrics: names of `hf_distill.metrics`; the first selects the models. None: the task's own.
        controls: whether to train the controls, or their names: the student on its own labels, on the teacher's hard
            labels, and models without a network. The student without a teacher is trained in any case.
        more_seeds: further seeds of the student's first weights and training: the student and its baseline are trained
            again from each, and the report's intervals cover them. The splits and the teacher stay.
        by: columns of the data to break quality down by.
        test_sets: further test sets by name, each with the fields of `data` in which it differs; its split `train` is
            read. Rows that stand in the training data are left out.
        quote: whether `report.json`, which is published with the student, quotes the test texts on which teacher and
            student differ most, beside their numbers; and whether the card's usage reads a test text.
        detailed_costs: whether latency and throughput are also measured apart by batch size and length, and of models
            that write the operations. With a slow teacher that writes this takes minutes.
        resamples: of the bootstrap.
    """

    metrics: list[str] | None = None
    controls: bool | list[str] = True
    more_seeds: list[int] = field(default_factory=list)
    by: list[str] = field(default_factory=list)
    test_sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    quote: bool = False
    detailed_costs: bool = True
    resamples: int = 2000

    @property
    def asked(self) -> list[str]:
        """The controls that are asked for by name."""
        return self.controls if isinstance(self.controls, list) else []

    def wants(self, control: str) -> bool:
        """Whether to train a control."""
        return control in self.asked or self.controls is True


@dataclass
class Export:
    """What else than torch can run the student.

    Attributes:
        onnx: whether to write `student/onnx/`; needs the extra `onnx`.
        int8: whether to write a file with 8-bit weights too.
    """

    onnx: bool = False
    int8: bool = True


@dataclass
class Push:
    """What the student's card says, and where `hf-distill push` takes it.

    Attributes:
        repo_id: `user/name`. None: `hf-distill push --repo-id` says it.
        base_model: Hub id of the teacher, where `teacher.model` is a copy of it.
        license: of the student, an identifier of the Hub's list.
        language: of the texts, ISO codes.
        datasets: Hub ids of the data.
    """

    repo_id: str | None = None
    base_model: str | None = None
    license: str | None = None
    language: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)


@dataclass
class Recipe:
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

    task: str
    data: Data
    teacher: Teacher
    output_dir: str
    student: Student = field(default_factory=Student)
    distill: dict[str, Any] | list[dict[str, Any]] = field(default_factory=dict)
    compare: Compare = field(default_factory=Compare)
    export: Export = field(default_factory=Export)
    push: Push = field(default_factory=Push)
    seed: int = 0

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
            raise ValueError(f"The recipe does not fit: {error}") from error
        recipe = cls(**vars(recipe))
        recipe.check()
        return recipe

    @property
    def writes(self) -> bool:
        """Whether the models write texts, rather than choose among classes."""
        return self.task in ("translation", "text-generation")

    @property
    def targets(self) -> str:
        """What a translation is learnt from, see `distill`."""
        return self.stages[0].get("targets", "word") if self.task == "translation" else "word"

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The stages of the distillation, one or more; of models that write, each with its temperature."""
        stages = self.distill if isinstance(self.distill, list) else [self.distill]
        return [{"temperature": WRITING_TEMPERATURE, **stage} for stage in stages] if self.writes else stages

    def matchings(self, stage: dict[str, Any]) -> list[Matching]:
        """The matchings of a stage, new ones.

        Raises:
            ValueError: an unknown kind, or arguments that do not fit it.
        """
        made = []
        for settings in stage.get("matching", []):
            kind, rest = settings.get("kind"), {name: value for name, value in settings.items() if name != "kind"}
            if kind not in MATCHINGS:
                raise ValueError(f"distill.matching: unknown kind {kind!r}.{nearest(str(kind), MATCHINGS)}")
            try:
                made.append(MATCHINGS[kind](**rest))
            except TypeError as error:
                raise ValueError(f"distill.matching, {kind}: {error}") from error
            meeting = ("word", "sequence") if TASKS[self.task].word_level else ("sequence",)
            if self.student.vocab_size is not None and made[-1].granularity not in meeting:
                raise ValueError(
                    f'distill.matching, {kind}: granularity="{made[-1].granularity}" needs one tokenizer for both, and '
                    f"the student has its own. Set granularity: {meeting[0]}, or student.vocab_size: null."
                )
        return made

    @property
    def metrics(self) -> Sequence[str]:
        """The report's metrics, the one that selects the models first."""
        if self.compare.metrics is None and self.data.problem_type == "regression":
            return ("pearson", "spearman")
        return self.compare.metrics or TASKS[self.task].metrics

    @property
    def further_data(self) -> dict[str, Data]:
        """The further test sets: the data, but for what each changes."""
        return {
            name: dataclasses.replace(self.data, minimum={}, together=None, **changes)
            for name, changes in self.compare.test_sets.items()
        }

    def check(self) -> None:
        """Raise a ValueError for what can be known to be wrong without reading any data."""
        if self.task not in TASKS:
            raise ValueError(f"task: unknown {self.task!r}.{nearest(self.task, TASKS)}")
        if self.writes:
            self._check_writing()
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
        if self.teacher.cross_fit is not None and (self.teacher.fine_tune is None or self.teacher.cross_fit < 2):
            raise ValueError(
                "teacher.cross_fit: expected two or more teachers that are fine-tuned here, got "
                f"cross_fit={self.teacher.cross_fit} with fine_tune={self.teacher.fine_tune}."
            )
        if self.data.augment is not None and (TASKS[self.task].word_level or len(self.data.text_columns) > 1):
            raise ValueError("data.augment: new texts are made of single texts, not of pairs or tagged sentences.")
        if self.teacher.fine_tune is not None and self.teacher.label_map:
            raise ValueError(
                "teacher.label_map: a teacher that learns this task with teacher.fine_tune has its classes already. "
                "Leave one of them out."
            )
        if not self.stages:
            raise ValueError("distill: expected training arguments or a list of them, got an empty list.")
        kind = Seq2SeqDistillationArguments if self.task == "translation" else DistillationArguments
        defaults = {argument.name: argument.default for argument in dataclasses.fields(kind)}
        arguments = set(defaults)
        further = ("matching", *(("targets", "sequences") if self.task == "translation" else ()))
        for stage in self.stages:
            self.matchings(stage)
        tuned = [("teacher.fine_tune", self.teacher.fine_tune or {})]
        for key, settings in [*(("distill", stage) for stage in self.stages), *tuned]:
            if "output_dir" in settings:
                raise ValueError(f"{key}: output_dir belongs at the recipe's top level.")
            for name, value in settings.items():
                if name not in arguments and not (name in further and key == "distill"):
                    raise ValueError(f"{key}: unknown key {name!r}.{nearest(name, arguments)}")
                if name in arguments and isinstance(value, str) and isinstance(defaults[name], int | float):
                    raise ValueError(
                        f"{key}.{name}: expected a number, got the text {value!r}. (YAML takes 5e-5 for text, and "
                        "5.0e-5 for a number.)"
                    )
        if self.student.kind == "transformer" and not self.student.from_teacher:
            raise ValueError(
                "student.from_teacher: a transformer student is cut from its teacher, false makes no sense."
            )
        names = {argument.name for argument in dataclasses.fields(STUDENTS[self.student.kind]) if argument.init}
        for name in self.student.config:
            if name not in names:
                raise ValueError(f"student.config: unknown key {name!r}.{nearest(name, names)}")

    def _check_writing(self) -> None:
        """What does not go together with models that write."""
        compare, teacher = self.compare, self.teacher
        refused = {
            "compare.controls": compare.asked,
            "compare.test_sets": compare.test_sets,
            "compare.by": compare.by,
            "teacher.label_map": teacher.label_map,
            "teacher.cross_fit": teacher.cross_fit,
            "teacher.calibrate": teacher.calibrate,
            "data.labelled": self.data.labelled,
            "data.fidelity": self.data.fidelity,
            "data.augment": self.data.augment,
        }
        for name, value in refused.items():
            if value:
                raise ValueError(f"{name}: is for classification and tagging; leave it out of a {self.task} recipe.")
        fitting = OF_TEXTS if self.task == "translation" else TASKS[self.task].metrics
        strange = [name for name in self.metrics if name not in fitting]
        if strange:
            raise ValueError(
                f"compare.metrics: {', '.join(strange)} does not judge a {self.task}; there are {', '.join(fitting)}."
            )
        if teacher.lora is not None and teacher.fine_tune is None:
            raise ValueError("teacher.lora: adapters are trained by teacher.fine_tune, which is missing.")
        if self.task == "translation":
            asked = {stage.get("targets", self.targets) for stage in self.stages}
            if len(asked) > 1 or self.targets not in TARGETS:
                raise ValueError(
                    f"distill.targets: expected one of {', '.join(TARGETS)} for all stages, got "
                    f"{', '.join(map(str, sorted(asked)))}."
                )
            if self.targets == "word" and any("sequences" in stage for stage in self.stages):
                raise ValueError(
                    'distill.sequences: the teacher writes nothing for targets: word. Set targets to "sequence" or '
                    '"both".'
                )
            numbers = [stage["sequences"] for stage in self.stages if stage.get("sequences") is not None]
            if len(set(numbers)) > 1 or not all(isinstance(number, int) and number > 0 for number in numbers):
                raise ValueError(
                    "distill.sequences: expected one number of texts, 1 or more, for all stages, got "
                    f"{', '.join(map(str, numbers))}. Leave it out for all texts."
                )
            if isinstance(self.data.text, list):
                raise ValueError(f"data.text: a translation has one text to read, got {self.data.text}.")

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML, every default spelled out."""
        Path(path).write_text(yaml.safe_dump(dataclasses.asdict(self), sort_keys=False), encoding="utf-8")
