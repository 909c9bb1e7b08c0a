"""Tasks whose student generates text."""

import dataclasses
import sys
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import datasets
from transformers import GenerationConfig, PreTrainedModel, set_seed

from hf_distill.checked import nearest
from hf_distill.columns import teacher_input_columns
from hf_distill.data.generation import WritingSplits, load_writing
from hf_distill.environment import optional
from hf_distill.soft_targets.cache import cache_teacher_outputs
from hf_distill.students.tokenizer import student_tokenizer
from hf_distill.tasks.base import Keep, Loaded, RecipeTask
from hf_distill.tasks.models import Models
from hf_distill.tasks.settings import Settings, refuse_unused
from hf_distill.teachers.identity import tokenizer_hash

UNIVERSAL = "universal_logit_distance"
# The teacher gives one answer a text, and nothing of its file is an option.
REFUSED_OPTIONS = {"num_return_sequences", "return_dict_in_generate", "transformers_version", "_from_model_config"}


class GenerativeTask(RecipeTask):
    """What translation and text generation share."""

    splits: WritingSplits
    lora_task: ClassVar[str]  # as peft calls it
    cache_batch: ClassVar[int]  # rows that the teacher reads at a time
    fitting_metrics: ClassVar[tuple[str, ...]]

    def __init__(self, settings: Settings, models: Models, keep: Keep) -> None:
        super().__init__(settings, models, keep)
        self._read: dict[tuple[str, ...], tuple[datasets.Dataset, dict[str, int]]] = {}

    @classmethod
    def check_settings(cls, settings: Settings) -> None:
        """Raise a ValueError for what can be known to be wrong without reading any data."""
        compare, teacher, data = settings.compare, settings.teacher, settings.data
        unused = {
            "compare.controls": compare.asked,
            "compare.test_sets": compare.test_sets,
            "compare.by": compare.by,
            "teacher.label_map": teacher.label_map,
            "teacher.cross_fit": teacher.cross_fit,
            "teacher.calibrate": teacher.calibrate,
            "data.labelled": data.labelled,
            "data.fidelity": data.fidelity,
            "data.augment": data.augment,
        }
        refuse_unused(unused, settings.task, "classification and tagging")
        strange = [name for name in settings.metrics if name not in cls.fitting_metrics]
        if strange:
            raise ValueError(
                f"compare.metrics: {', '.join(strange)} does not judge a {settings.task}; there are "
                f"{', '.join(cls.fitting_metrics)}."
            )
        if teacher.lora is not None and teacher.fine_tune is None:
            raise ValueError("teacher.lora: adapters are trained by teacher.fine_tune, which is missing.")

    def load_splits(self) -> WritingSplits:
        """Read, clean and split the data."""
        return load_writing(self.settings.data, self.settings.seed, task=self.settings.task)

    # Before anything expensive

    @property
    def checks(self) -> Sequence[Callable[[], None]]:
        """What raises a ValueError for whatever would fail later."""
        return self.check_lora, self.check_generation, self.check_student, self.check_probabilities, self.check_export

    def check_lora(self) -> None:
        """Raise a ValueError for adapters that peft does not know."""
        if self.settings.teacher.lora is not None:
            adapter = optional("peft", "generation").LoraConfig
            check_names(self.settings.teacher.lora, {each.name for each in dataclasses.fields(adapter)}, "teacher.lora")
            adapter(**self.settings.teacher.lora)

    def check_generation(self) -> None:
        """Raise a ValueError where the teacher could not generate as it is told to."""
        options = self.settings.teacher.generation
        known = GenerationConfig().to_dict().keys() - REFUSED_OPTIONS
        check_names(options, {*known, "batch_size", "seed"}, "teacher.generation")
        room = min(self.positions, self.teacher_tokenizer.model_max_length)
        if not 0 < options.get("max_new_tokens", 1) < room:
            raise ValueError(
                f"teacher.generation: max_new_tokens must be at least 1 and below the {room} tokens that the teacher "
                f"has room for; got {options['max_new_tokens']}."
            )

    def check_student(self) -> None:
        """Raise a ValueError for a student that cannot be built."""
        self.student_config(self.student_tokenizer())

    def check_probabilities(self) -> None:
        """Raise a ValueError where the student could not learn from the teacher's probabilities as they are kept."""
        stages = [stage for stage in self.settings.stages if self.settings.uses_soft_targets]
        temperatures = {stage["temperature"] for stage in stages}
        scheduled = any(stage.get("temperature_end") is not None for stage in stages)
        if self.settings.teacher.top_k is not None and (len(temperatures) > 1 or scheduled):
            raise ValueError(
                f"distill.temperature: the teacher's top {self.settings.teacher.top_k} tokens are kept at one "
                "temperature, since the mass of all others cannot be tempered again. Give all stages the same, or set "
                "teacher.top_k: null."
            )
        own = self.settings.student.vocab_size is not None
        if own and any(stage.get("soft_target_loss") != UNIVERSAL for stage in stages):
            raise ValueError(
                "student.vocab_size: with a vocabulary of its own the student's probabilities are about other tokens "
                f"than its teacher's. Set distill.soft_target_loss: {UNIVERSAL}, or vocab_size: null"
                f"{self.other_remedy}."
            )

    other_remedy: ClassVar[str] = ""

    def check_export(self) -> None:
        """Raise a ValueError where the student has no ONNX export."""
        if self.settings.export.onnx:
            raise ValueError("export.onnx: of generative students, LSTM translators are exported. Set it false.")

    # Limits

    @cached_property
    def teacher_tokenizer(self) -> Any:
        """The tokenizer of the teacher before its fine-tuning."""
        return self.models.tokenizer(self.models.source)

    @cached_property
    def positions(self) -> int:
        """Tokens that the teacher has positions for; more than any text has where they have no end."""
        return getattr(self.models.config().get_text_config(), "max_position_embeddings", None) or sys.maxsize

    @property
    def teacher_limit(self) -> int:
        """Tokens that the teacher reads at most."""
        return min(self.settings.teacher.max_length, self.positions)

    @property
    def student_limit(self) -> int:
        """Tokens that the student reads at most: no more than its teacher has positions for."""
        return min(self.settings.student.max_length, self.positions)

    @property
    def limits(self) -> list[tuple[Any, int]]:
        """Both tokenizers, each with the tokens that its model reads at most."""
        return [(self.student_tokenizer(), self.student_limit), (self.teacher_tokenizer, self.teacher_limit)]

    # What results depend on

    def inputs(self, step: str) -> dict[str, Any]:
        """The options of the teacher's texts, where a step generates or scores some."""
        return {"teacher.generation": self.settings.teacher.generation} if step in ("cache", "compare") else {}

    @property
    def cached_temperature(self) -> float:
        """The temperature of the cache's tail; all logits are tempered in training."""
        return 1.0 if self.settings.teacher.top_k is None else self.settings.stages[0]["temperature"]

    # Teacher and student

    def untrained_teacher(self) -> Loaded:
        """The teacher before its fine-tuning, with low-rank adapters where the recipe asks for them."""
        model: Any
        model, tokenizer = self.models.load(self.models.source)
        lora = self.settings.teacher.lora
        if lora is not None:
            set_seed(self.settings.seed)
            peft = optional("peft", "generation")
            model = peft.get_peft_model(model, peft.LoraConfig(**{"task_type": self.lora_task, **lora}))
        return model, tokenizer

    def trained_teacher(self, model: Any) -> PreTrainedModel:
        """The teacher with its adapters merged."""
        return model if self.settings.teacher.lora is None else model.merge_and_unload()

    def new_student_tokenizer(self) -> Any:
        """A smaller tokenizer trained on the texts, or the teacher's."""
        teacher_tokenizer = self.models.tokenizer(self.models.source)
        if self.settings.student.vocab_size is None:
            return self.limited(teacher_tokenizer, teacher_tokenizer)
        made = student_tokenizer(teacher_tokenizer, self.texts(self.splits.train), self.settings.student.vocab_size)
        return self.limited(made, teacher_tokenizer)

    @abstractmethod
    def limited(self, tokenizer: Any, teacher_tokenizer: Any) -> Any:
        """The student's tokenizer with the task's limit and template."""

    @abstractmethod
    def texts(self, rows: datasets.Dataset) -> list[str]:
        """All that is read or written in some rows, for a tokenizer to be trained on."""

    def finished_student(
        self, student: PreTrainedModel, carried: dict[str, str], teacher: Loaded, tokenizer: Any
    ) -> tuple[PreTrainedModel, dict[str, str]]:
        """The student with the generation settings of the task, ending where its teacher does."""
        generation: Any = student.generation_config
        generation.num_beams = 1  # greedy unless it is told otherwise
        if self.longest_generation is not None:
            generation.max_length = self.longest_generation
        set_ends(student, tokenizer, *teacher)
        return student, carried

    @property
    def longest_generation(self) -> int | None:
        """Tokens that the student generates at most; None: its own limit."""
        return None

    # Rows

    @abstractmethod
    def tokenized(
        self, rows: datasets.Dataset, tokenizer: Any, **teacher: Any
    ) -> tuple[datasets.Dataset, dict[str, int]]:
        """Rows in the tokens of a model, and what became of them."""

    def shared_texts(self, rows: datasets.Dataset, what: str) -> datasets.Dataset:
        """The rows, cut to what both tokenizers have room for."""
        return rows

    def read(
        self, rows: datasets.Dataset, what: str, tokenizer: Any, teacher_tokenizer: Any = None
    ) -> datasets.Dataset:
        """Rows as models read them; what does not fit is left out or cut, and counted."""
        readers = [tokenizer_hash(each) for each in (tokenizer, teacher_tokenizer) if each is not None]
        key = (rows._fingerprint, *readers)
        if key not in self._read:  # several steps read the same rows
            self._read[key] = self.tokenized(
                rows,
                tokenizer,
                max_length=self.student_limit,
                teacher_tokenizer=teacher_tokenizer,
                teacher_max_length=self.teacher_limit,
            )
        found, counts = self._read[key]
        self.count(what, counts)
        return found

    def count(self, what: str, counts: Mapping[str, int]) -> None:
        """Note what became of the rows of a split."""
        kept = {name: number for name, number in counts.items() if name not in ("rows", "replies") and number}
        self.counts |= {f"{what}: {name}": number for name, number in kept.items()}

    def rows_of(self, split: datasets.Dataset, what: str) -> datasets.Dataset:
        """A split in the student's tokens and, where it learns from other ones, in the teacher's beside them."""
        if self.settings.student.vocab_size is None or not self.settings.uses_soft_targets:
            return self.read(split, what, self.student_tokenizer())
        return self.read(self.shared_texts(split, what), what, self.student_tokenizer(), self.teacher_tokenizer)

    def teacher_rows(self, rows: datasets.Dataset, what: str) -> datasets.Dataset:
        """Rows in the teacher's tokens."""
        return self.read(rows, f"the teacher's {what}", self.teacher_tokenizer)

    def labelled_rows(self) -> datasets.Dataset:
        """The data's own targets."""
        return self.rows_of(self.splits.train, "training")

    def validation_rows(self) -> datasets.Dataset:
        """The validation rows, in the student's tokens alone."""
        rows = self.rows_of(self.splits.validation, "validation")
        return rows.remove_columns(teacher_input_columns(rows.column_names))

    def with_soft_targets(self, rows: datasets.Dataset, folder: Path, bf16: bool) -> datasets.Dataset:
        """The rows with the teacher's probabilities of each target."""
        teacher, tokenizer, placement = self.models.live_teacher()
        return cache_teacher_outputs(
            rows,
            teacher,
            task=self.settings.task,
            output_dir=folder,
            top_k=self.settings.teacher.top_k,
            temperature=self.cached_temperature,
            teacher_processing_class=tokenizer,
            batch_size=self.cache_batch,
            bf16=bf16,
            teacher_placement=placement,
        )


def check_names(options: Mapping[str, Any], known: Collection[str], key: str) -> None:
    """Raise a ValueError for the first option of a recipe's key that is not known, with the nearest that is."""
    for name in options:
        if name not in known:
            raise ValueError(f"{key}: unknown key {name!r}.{nearest(name, known)}")


def set_ends(student: Any, tokenizer: Any, teacher: Any, teacher_tokenizer: Any) -> None:
    """Let a student end where its teacher does: the end of a turn is often not the tokenizer's end."""
    ends = teacher.generation_config.eos_token_id
    names = teacher_tokenizer.convert_ids_to_tokens(ends if isinstance(ends, list) else [] if ends is None else [ends])
    known = tokenizer.get_vocab()
    found = [known[name] for name in names if name in known]
    if found:
        student.generation_config.eos_token_id = found if len(found) > 1 else found[0]
