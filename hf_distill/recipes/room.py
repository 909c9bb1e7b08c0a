"""How much room a run takes on its disk, before it takes it."""

import copy
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import torch

from hf_distill.problems import Task
from hf_distill.recipes.checks import Checks
from hf_distill.recipes.files import size_of
from hf_distill.recipes.recipe import Recipe
from hf_distill.tasks.base import RecipeTask

BYTES = 4  # of a weight: models are kept in float32
CHECKPOINTS = 3  # the newest, the best, and the one that is written
OPTIMIZER = 3  # a checkpoint is the weights and two moments of each
INT8 = 0.25  # of the weights
STAGED = 2  # an export is written beside its place


def needed_room(checks: Checks, folder: Path, steps: Container[str], rows: Mapping[str, int]) -> dict[str, int]:
    """An estimate of the bytes that some steps take, by what they are for.

    What is replaced stays until the new is whole, so it is not subtracted. Of a cache and of checkpoints that are there
    only the rest is needed.

    Args:
        checks: of the run.
        folder: of the run.
        steps: that will run.
        rows: number of rows of each split.
    """
    recipe, task = checks.recipe, checks.task
    found = dict.fromkeys(("teacher", "checkpoints", "cache", "students", "onnx"), 0)
    trained = [0]
    if "teacher" in steps and recipe.teacher.fine_tune is not None:
        weights = weights_of(checks.models.config(), task.kind)
        found["teacher"] = weights * (1 + (recipe.teacher.cross_fit or 0))
        trained.append(weights)
    if "cache" in steps and recipe.uses_soft_targets:
        found["cache"] = _cache(recipe, task, rows["train"] + rows["unlabelled"]) - size_of(folder / "cache")
    students = {"initialize": 1, "distill": 1, "controls": 1, "seeds": 2 * len(recipe.compare.more_seeds)}
    students["distill"] += len(recipe.student.ladder)
    copies = sum(number for step, number in students.items() if step in steps)
    if copies or "export" in steps:
        weights = weights_of(_sized(checks), task.kind)
        found["students"] = copies * weights
        trained += [weights] * any(step in steps for step in ("distill", "controls", "seeds"))
        if recipe.export.onnx and "export" in steps:
            found["onnx"] = int(STAGED * weights * (1 + INT8 * recipe.export.int8))
    there = sum(map(size_of, (folder / ".work").glob("*/checkpoint-*")))
    found["checkpoints"] = CHECKPOINTS * OPTIMIZER * max(trained) - there
    return {name: max(0, size) for name, size in found.items()}


def _cache(recipe: Recipe, task: RecipeTask, rows: int) -> int:
    per_row = BYTES * max(1, len(getattr(task, "classes", [])))
    if task.kind.per_position:  # ids and logits of the top k, or of each class
        top_k = recipe.teacher.top_k or 32_000
        per_row = recipe.student.max_length * (per_row if task.kind.word_level else 6 * top_k)
    return rows * per_row


def _sized(checks: Checks) -> Any:
    """The student's config with a vocabulary of the size that it will have at most."""
    config = copy.deepcopy(checks.student_config())
    own = checks.recipe.student.vocab_size
    config.vocab_size = own or checks.models.config().get_text_config().vocab_size
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
        setattr(config, name, 0)  # some are needed, and a smaller table may lack the teacher's
    return config


def weights_of(config: Any, kind: Task) -> int:
    """The bytes of a model's weights in float32, which are not made.

    Raises:
        ValueError: so many that no memory has addresses for them.
    """
    try:
        with torch.device("meta"):
            model = kind.auto_class.from_config(config)
    except RuntimeError as error:
        raise ValueError(
            f"A model of this size cannot be: {' '.join(str(error).split())}. Choose a smaller one."
        ) from error
    return BYTES * sum(parameter.numel() for parameter in model.parameters())
