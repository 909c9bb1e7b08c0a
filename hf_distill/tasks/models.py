"""The models and tokenizers of a run: where they are, and how they are loaded."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
)

from hf_distill.data.tokenization import tokenize
from hf_distill.environment import optional
from hf_distill.models import input_limits
from hf_distill.paths import naming, resolve
from hf_distill.problems import TASKS
from hf_distill.remote_code import how_to_allow, refused_with, suggest_revision
from hf_distill.soft_targets.shards import Processes
from hf_distill.students.tokenizer import empty_tokenizer
from hf_distill.tasks.settings import Settings
from hf_distill.teachers.live import load_teacher
from hf_distill.teachers.placement import load_sharded, settled

GGUF = ".gguf"
NOTHING = ""  # where the student starts from no model


class Models:
    """The teacher before and after its fine-tuning, and the student before its training.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: Settings) -> None:
        self.kind = TASKS[settings.task]
        self.folder = Path(settings.output_dir)
        self.work = self.folder / ".work"
        self.initial = self.work / "initial"
        prompted = settings.teacher.prompt is not None
        # Of a teacher behind a prompt the model that is asked, where it is here; the student starts from another.
        self.language_model = resolve(settings.teacher.model) if prompted and settings.teacher.model else None
        self.source = resolve((settings.student.base or NOTHING) if prompted else settings.teacher.source)
        self.asked = self.source if not prompted else self.language_model
        self.trusted = settings.teacher.trust_remote_code
        self.revision = settings.teacher.revision
        self.teacher_path: str | Path = self.source if settings.teacher.fine_tune is None else self.folder / "teacher"
        # A head that was never trained is no teacher of logits; for matchings alone it is not used.
        learned_from = settings.uses_soft_targets or settings.targets == "sequence"
        self.needs_trained_source = settings.teacher.fine_tune is None and learned_from and not prompted
        self.needs_whole = needing_whole(settings)
        asked = settings.teacher.placement
        self.placement = "replicate" if asked == "auto" and self.needs_whole else asked
        self.suggested = False  # to pin the revision of its code
        self.initialized = False  # whether `initial` holds the student of this recipe
        self._teacher: tuple[PreTrainedModel, Any] | None = None

    def loading(self, path: str | Path) -> tuple[str | Path, dict[str, Any]]:
        """What `from_pretrained` takes for a model: its place, its revision, and whether its own code may run.

        Args:
            path: a folder, a Hub id, or one GGUF file.
        """
        tuned = self.teacher_path if self.asked == self.source else None
        is_teacher = path in (self.asked, tuned) or self.work / "folds" in Path(path).parents
        options: dict[str, Any] = {"trust_remote_code": self.trusted and is_teacher}
        if path == self.asked and self.revision is not None:
            options["revision"] = self.revision
        if str(path).endswith(GGUF):
            return Path(path).parent, options | {"gguf_file": Path(path).name}
        return path, options

    def config(self, path: str | None = None) -> Any:
        """The config of the teacher before its fine-tuning.

        Args:
            path: of another model of the run.
        Raises:
            ValueError: it brings code of its own, which the recipe does not allow.
        """
        path = self.source if path is None else path
        place, options = self.loading(path)
        with self.by_consent(path):
            config = AutoConfig.from_pretrained(place, **options)
        if options["trust_remote_code"] and self.revision is None and not self.suggested:
            suggest_revision("teacher.revision", path, getattr(config, "_commit_hash", None))
            self.suggested = True
        return config

    @property
    def commit(self) -> str | None:
        """The commit of a teacher from the Hub; None of one on a server or in a folder."""
        return None if self.asked is None else getattr(self.config(self.asked), "_commit_hash", None)

    @contextmanager
    def by_consent(self, path: str | Path) -> Iterator[None]:
        """Names a model where it cannot be loaded, and the key that allows its own code where it has some.

        Args:
            path: a folder, a Hub id, or one GGUF file.
        """
        base = "teacher.model" if self.asked == self.source else "student.base"
        key = "teacher.model" if path == self.asked else base if path == self.source else "a model of this run"
        asked = self.asked or self.source
        with naming(key, str(path)), refused_with(how_to_allow("teacher.trust_remote_code", asked), asked):
            yield

    @cached_property
    def teacher_classes(self) -> list[str]:
        """Names of the teacher's classes before its fine-tuning, in their order."""
        names = self.config().id2label
        return [names[number] for number in sorted(names)]

    @cached_property
    def places(self) -> float:
        """How many tokens the teacher has positions for; infinite where they have no end. No weights are loaded."""
        with torch.device("meta"):
            return input_limits(self.kind.auto_class.from_config(self.config(), trust_remote_code=self.trusted))[0]

    def teacher(self) -> tuple[PreTrainedModel, Any]:
        """The teacher and its tokenizer, kept until `release`.

        Where the teacher is behind a prompt, what the student starts from: None without such a model.
        """
        if self.source == NOTHING:
            nothing: Any = None
            return nothing, self.tokenizer(NOTHING)
        if self._teacher is None:
            self._teacher = self.load(self.teacher_path)
        return self._teacher

    def live_teacher(self) -> tuple[PreTrainedModel, Any, str]:
        """The teacher for forwards alone, its tokenizer, and the placement that it gets."""
        device, (place, options) = Processes.assembled(None).device, self.loading(self.teacher_path)
        placement = settled(self.placement, str(place), device)
        if placement == "replicate":
            return *self.teacher(), placement
        if placement == "offload":  # a teacher of its own, since others compute with the weights themselves
            return *self.load(self.teacher_path), placement
        with self.by_consent(self.teacher_path):
            model = load_sharded(place, self.kind.auto_class, device, dtype=torch.float32, **options)
        tokenizer = self.tokenizer(self.teacher_path)
        if self.kind.writes and model.config.get_text_config().vocab_size > max(tokenizer.get_vocab().values()) + 1:
            raise ValueError(
                "teacher.placement: shard, and the teacher's table has more rows than its tokenizer has tokens, which "
                "are cut off. Cut them once: model.resize_token_embeddings(len(tokenizer)), save_pretrained."
            )
        return model, tokenizer, placement

    def check_placement(self) -> None:
        """Raise a ValueError where the teacher cannot be placed as the recipe asks."""
        if self.placement == "replicate":
            return
        if self.needs_whole:
            raise ValueError(
                f"teacher.placement: {self.placement}, and {self.needs_whole[0]} needs the whole teacher on every "
                "process. Leave one of them out."
            )
        place, options = self.loading(self.teacher_path)
        if "gguf_file" in options:
            raise ValueError("teacher.placement: GGUF files are read whole. Set it to replicate.")
        try:
            settled(self.placement, str(place), Processes.assembled(None).device)
        except ValueError as error:
            raise ValueError(f"teacher.placement: {error}") from error

    def release(self) -> None:
        """Forget the loaded teacher, whose memory the next step may need."""
        self._teacher = None

    def load(self, path: str | Path) -> tuple[PreTrainedModel, Any]:
        """A model with its head, in float32, and its tokenizer.

        Args:
            path: a folder, a Hub id, or one GGUF file.
        """
        place, options = self.loading(path)
        if "gguf_file" in options:
            optional("gguf", "generation")
        options["dtype"] = torch.float32
        with self.by_consent(path):
            if path == self.source and self.needs_trained_source:
                model = load_teacher(place, self.kind.auto_class, **options)
            else:
                model = self.kind.auto_class.from_pretrained(place, **options)
        if getattr(model, "hf_quantizer", None) is not None and "gguf_file" in options:
            # Its weights are dequantized by now, and can be trained.
            model.hf_quantizer.remove_quantization_config(model)
        tokenizer = self.tokenizer(path)
        if self.kind.writes:
            without_padding_rows(model, tokenizer)
        return model, tokenizer

    def load_language_model(self, dtype: torch.dtype) -> tuple[PreTrainedModel, Any]:
        """The model that is asked by a prompt, and its tokenizer.

        Args:
            dtype: that it computes in.
        """
        source: Any = self.language_model
        place, options = self.loading(source)
        if "gguf_file" in options:
            optional("gguf", "generation")
            dtype = torch.float32  # its weights are read packed, and their kernels compute in it
        kind: Any = AutoModelForSeq2SeqLM if self.config(source).is_encoder_decoder else AutoModelForCausalLM
        with self.by_consent(source):
            model: Any = load_teacher(place, kind, **options, dtype=dtype)
        model.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
        return model.eval(), self.tokenizer(source)

    def with_untrained_head(self, **head: Any) -> PreTrainedModel:
        """The teacher before its fine-tuning, with a new head where its own is for other classes.

        Args:
            head: fields of its config that the head depends on.
        """
        place, options = self.loading(self.source)
        with self.by_consent(self.source):
            return self.kind.auto_class.from_pretrained(
                place, **options, **head, dtype=torch.float32, ignore_mismatched_sizes=True
            )

    def tokenizer(self, path: str | Path) -> Any:
        """A tokenizer that can read the task's texts.

        Args:
            path: a folder, a Hub id, or one GGUF file.
        """
        if path == NOTHING:
            return empty_tokenizer()
        place, options = self.loading(path)
        with self.by_consent(path):
            tokenizer = AutoTokenizer.from_pretrained(place, **options)
            if self.kind.word_level and getattr(tokenizer, "add_prefix_space", True) is False:
                # A byte-level one splits a word in the same pieces everywhere only when it is told to.
                return AutoTokenizer.from_pretrained(place, add_prefix_space=True, **options)
        return tokenizer


def needing_whole(settings: Settings) -> list[str]:
    """The keys of a recipe that need all of the teacher's weights on every process."""
    teacher = settings.teacher
    found = {
        "teacher.fine_tune": teacher.fine_tune is not None,
        "teacher.prompt": teacher.prompt is not None,
        "teacher.cross_fit": teacher.cross_fit is not None,
        "teacher.calibrate": teacher.calibrate,
        "distill.targets": settings.targets != "word",
    }
    return [key for key, needed in found.items() if needed]


def without_padding_rows(model: PreTrainedModel, tokenizer: Any) -> None:
    """Cut off the last rows of a model's vocabulary tables that stand for no token.

    They only fill a table up to a round number, are never trained, and a student with the same tokens has none.
    """
    tokens = max(tokenizer.get_vocab().values()) + 1
    if model.config.get_text_config().vocab_size > tokens:
        model.resize_token_embeddings(tokens)


def check_lengths(parts: Mapping[str, datasets.Dataset], tokenizer: Any, limit: int, places: float, key: str) -> None:
    """Raise where a text has more tokens than a model has positions for.

    Args:
        parts: texts or words, by the name of their split.
        tokenizer: of the model.
        limit: tokens that are read, longer texts are cut.
        places: see `Models.places`.
        key: of the recipe, that sets the limit.
    Raises:
        ValueError: with the split, the number of tokens, and the number of positions.
    """
    if min(limit, tokenizer.model_max_length) <= places:
        return  # no text needs to be read
    for name, part in ((name, part) for name, part in parts.items() if len(part)):
        longest = max(map(len, tokenize(part, tokenizer, max_length=limit)["input_ids"]))
        if longest > places:
            raise ValueError(
                f"{key}: {limit}, a text of {name} has {longest} tokens, and the teacher has positions for "
                f"{places:g}. Set {key}: {places:g}, where longer texts are cut; or take a teacher that reads longer "
                "texts."
            )


def with_new_head(
    student: PreTrainedModel, carried: Mapping[str, str], auto_class: Any, heads: Sequence[Mapping[str, Any]]
) -> tuple[PreTrainedModel, dict[str, str]]:
    """A student with a new head, and where those of its weights came from that stay.

    Args:
        student: before its training.
        carried: where its weights came from.
        auto_class: loads it.
        heads: config fields of the heads that it gets in turn, the last one for good.
    """
    shapes = {name: parameter.shape for name, parameter in student.named_parameters()}
    kept = set(shapes)
    for head in heads:
        with tempfile.TemporaryDirectory() as folder:
            student.save_pretrained(folder)
            student = auto_class.from_pretrained(folder, **head, dtype=torch.float32, ignore_mismatched_sizes=True)
        kept &= {name for name, parameter in student.named_parameters() if parameter.shape == shapes[name]}
    return student, {name: source for name, source in carried.items() if name in kept}
