"""What a run refuses before anything expensive."""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.integrations import get_available_reporting_integrations

from hf_distill.matching.base import States
from hf_distill.models import embedding_width
from hf_distill.paths import exists, resolve
from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.training import Training
from hf_distill.recipes.workspace import WORK
from hf_distill.soft_targets.cross_fit import cross_fit_shares
from hf_distill.students.lstm.configuration_lstm import LSTMStudentConfig
from hf_distill.students.transformer.config import TransformerStudentConfig, check_within
from hf_distill.students.transformer.families import FAMILIES
from hf_distill.students.transformer.from_teacher import chosen_layers, shrunk_config
from hf_distill.tasks.base import RecipeTask
from hf_distill.tasks.cascading import check_rows
from hf_distill.tasks.labelling import LabellingTask
from hf_distill.tasks.models import Models

# What each step replaces, relative to the run's folder.
REPLACES = {
    "teacher": ("teacher",),
    "cache": ("cache",),
    "distill": ("student",),
    "controls": ("baseline",),
    "compare": ("report.json", "report.png", "deferral.png", "ladder.png"),
    "card": ("recipe.yaml",),
}
SMALL_VOCABULARY = 1000  # tokens; from there on special tokens and an alphabet always leave room for words


def replaced_by(recipe: Recipe, steps: Iterable[str] = tuple(REPLACES)) -> list[str]:
    """Names of the files and folders that some steps of a recipe replace, relative to the run's folder."""
    idle = [] if recipe.uses_soft_targets else ["cache"]
    idle += [] if recipe.teacher.fine_tune is not None else ["teacher"]
    idle += [] if recipe.cascade is not None else ["deferral.png"]
    idle += [] if recipe.student.ladder else ["ladder.png"]
    return [name for step in steps if step not in idle for name in REPLACES.get(step, ()) if name not in idle]


def check_sources(recipe: Recipe) -> None:
    """Raise a ValueError where a recipe reads what its own run replaces."""
    folder = Path(recipe.output_dir).resolve()
    augment = recipe.data.augment
    filler = augment.masked_language_model if augment is not None else None
    read = {
        "teacher.model": recipe.teacher.model,
        "data.path": recipe.data.path,
        "data.augment": filler,
        "student.base": recipe.student.base,
    }
    for key, path in read.items():
        place = None if path is None else Path(resolve(path))
        if place is None or not exists(place) or not place.resolve().is_relative_to(folder):
            continue
        inside = place.resolve().relative_to(folder).parts[:1]
        if inside and inside[0] in (*replaced_by(recipe), WORK):
            raise ValueError(
                f"{key}: {path} is in output_dir, where this run would replace it. Choose another output_dir, or move "
                "it away."
            )


class Checks:
    """What raises a ValueError for whatever would fail later.

    Args:
        recipe: of the run.
        task: of the run.
        models: of the run.
        training: of the run.
    """

    def __init__(self, recipe: Recipe, task: RecipeTask, models: Models, training: Training) -> None:
        self.recipe, self.task, self.models, self.training = recipe, task, models, training

    @property
    def all(self) -> Sequence[Callable[[], None]]:
        """The checks in their order: those of the trainings first, then those of the task."""
        own = (self.check_rows, self.check_stages, self.check_trackers, self.check_lengths, self.models.check_placement)
        # The students of a ladder are checked one by one, see `Ladder.checks`.
        student = () if self.recipe.student.ladder else (self.check_student, self.check_matchings)
        return *own, *self.task.checks, *student, self.check_export, self.check_cascade

    def check_rows(self) -> None:
        """Raise a ValueError where the work cannot be shared by the processes, or one would have no row."""
        size = self.training.processes.size
        if size > 1 and self.recipe.teacher.prompt is not None:
            raise ValueError(f"teacher.prompt: needs one process, and there are {size}. Start the run alone.")
        for name in ("train", "validation"):
            rows = len(self.task.parts[name])
            if size > 1 and rows < size:
                raise ValueError(
                    f"data: {rows} {name} rows for {size} processes, so that some would have none. Launch at most "
                    f"{max(1, rows)}."
                )

    def check_stages(self) -> None:
        """Raise a ValueError for trainings that cannot be, or where nothing is learned from the teacher."""
        for key, settings in self.recipe.trainings:
            if key.startswith("teacher") and self.recipe.teacher.fine_tune is None:
                continue
            arguments = self.training.checked_arguments(settings, key, rows=len(self.task.splits.train))
            learns = arguments.wants_soft_targets or settings.get("matching") or self.recipe.targets != "word"
            if key.startswith("distill") and not learns:
                raise ValueError(
                    "distill: soft_target_weight is 0 and there is no matching, so the student would learn nothing "
                    "from its teacher. The student without a teacher is trained anyway, as a control."
                )

    def check_lengths(self) -> None:
        """Raise a ValueError for lengths or a vocabulary without room for a word, and for folds without rows."""
        recipe = self.recipe
        tokenizer = self.models.tokenizer(self.models.source)
        special = tokenizer.num_special_tokens_to_add(pair=len(recipe.data.text_columns) > 1)
        for key, length in (("teacher", recipe.teacher.max_length), ("student", recipe.student.max_length)):
            if length <= special:
                raise ValueError(
                    f"{key}.max_length: expected more than the {special} special tokens of a text, got {length}."
                )
        if recipe.writes and recipe.student.vocab_size is not None and recipe.student.vocab_size < SMALL_VOCABULARY:
            try:
                self.task.student_tokenizer()
            except ValueError as error:
                raise ValueError(f"student.vocab_size: {error}") from error
        if recipe.teacher.cross_fit is not None:
            folds = getattr(self.task, "folds", [])
            cross_fit_shares(folds, recipe.teacher.cross_fit, len(folds))

    def check_student(self) -> None:
        """Raise a ValueError for a student that cannot be built."""
        config = self.student_config()
        if self.recipe.student.from_teacher and self.recipe.student.kind != "transformer":
            width = embedding_width(self.models.config(), getattr(config, "teacher_embeddings", "table") == "layers")
            check_within("embedding_size", config.embedding_size, width)

    def student_config(self) -> Any:
        """The config of the student, of its teacher's family where it is a transformer."""
        config = self.task.student_config(self.models.tokenizer(self.models.source))
        if not isinstance(config, TransformerStudentConfig):
            return config
        teacher = self.models.config()
        if teacher.model_type not in FAMILIES:
            raise ValueError(
                f"student.kind: a transformer student is cut from a teacher of the families {', '.join(FAMILIES)}; "
                f"this one is {teacher.model_type}. Set student.kind: lstm."
            )
        family = FAMILIES[teacher.model_type]
        return shrunk_config(teacher, config, family, chosen_layers(teacher, config, family))

    def _check_layers(self) -> None:
        """Raise a ValueError for a matching of layers that the teacher does not have."""
        config = self.models.config().get_text_config()
        count = max(getattr(config, name, None) or 0 for name in ("num_hidden_layers", "decoder_layers"))
        for stage in self.recipe.stages:
            for matching in self.recipe.matchings(stage):
                beyond = [layer for layer in matching.layers.values() if not -count - 1 <= layer <= count]
                if beyond and count:
                    raise ValueError(
                        f"distill.matching, {matching.kind}: the teacher has {count} layers, numbered 0 (the "
                        f"embeddings) to {count}, or from the end; got {', '.join(map(str, beyond))}."
                    )

    def check_matchings(self) -> None:
        """Raise a ValueError for a matching of states that student or teacher does not have, or of other sizes."""
        if not any(self.recipe.matchings(stage) for stage in self.recipe.stages):
            return
        self._check_layers()
        if self.recipe.writes:
            return  # the states of a model that writes depend on which of its halves are compared
        student, teacher = (_states_like(config) for config in (self.student_config(), self.models.config()))
        if student is None or teacher is None:
            return
        for matching in [matching for stage in self.recipe.stages for matching in self.recipe.matchings(stage)]:
            widths = ([hidden.shape[-1] for hidden in states.hidden] for states in (student, teacher))
            try:
                with torch.random.fork_rng(devices=[]):
                    matching.build(*widths, teacher=teacher, student=student)
            except ValueError as error:
                raise ValueError(f"distill.matching: {error}") from error

    def check_trackers(self) -> None:
        """Raise a ValueError for a tracker of `report_to` that is not installed."""
        available = get_available_reporting_integrations()
        for key, settings in self.recipe.trainings:
            wanted = settings.get("report_to") or []
            names = [wanted] if isinstance(wanted, str) else wanted
            missing = [name for name in names if name not in (*available, "none", "all")]
            if missing:
                raise ValueError(
                    f"{key}.report_to: {', '.join(missing)} is not installed here; there are "
                    f"{', '.join(available) or 'none'}. Install it, or leave it out."
                )

    def check_cascade(self) -> None:
        """Raise a ValueError where a cascade's threshold could not be fitted."""
        if isinstance(self.task, LabellingTask):
            check_rows(self.task)

    def check_export(self) -> None:
        """Raise a ValueError where the export is asked for and what it needs is missing."""
        missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
        if self.recipe.export.onnx and missing:
            raise ValueError(
                f"export.onnx: {' and '.join(missing)} not installed. Install hf-distill[onnx], or set it false."
            )


def _states_like(config: Any) -> States | None:
    """States of the shapes that a model returns for one text of two tokens; None where its config does not tell."""
    config = config.get_text_config()
    layers, width, heads = (
        getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    if not isinstance(layers, int) or not isinstance(width, int):
        return None
    if isinstance(config, LSTMStudentConfig):
        widths, heads = [config.embedding_size, *[config.encoder_size] * layers], None
    else:
        widths = [width] * (layers + 1)
    hidden = tuple(torch.linspace(-1, 1, 2 * width).view(1, 2, width) for width in widths)
    attentions = None if heads is None else tuple(torch.full((1, heads, 2, 2), 0.5) for _ in range(layers))
    mask = torch.ones(1, 2, dtype=torch.bool)
    return States(hidden, mask, attentions, mask.long(), torch.zeros(1, config.num_labels))
