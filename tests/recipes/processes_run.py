"""A recipe of each task, run by one process or by several: `python -m tests.recipes.processes_run FOLDER`."""

import os
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.run import run_recipe
from tests.recipes.test_determinism import TASKS

NAMES = ("text classification", "tagging", "translation", "text generation")
EXACT = {"optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "max_grad_norm": 1.0}
BATCH = {"per_device_train_batch_size": 16, "per_device_eval_batch_size": 16}


def exact(name: str, folder: Path) -> dict[str, Any]:
    """A recipe whose student depends on nothing but the order of sums: SGD, float32, no dropout."""
    content = TASKS[name](folder)
    stages = content["distill"] if isinstance(content["distill"], list) else [content["distill"]]
    content["distill"] = [{**stage, **EXACT, **BATCH} for stage in stages]
    content["teacher"] |= {"model": str(folder / "teacher"), "bf16": False}
    content["teacher"]["fine_tune"] = {**content["teacher"]["fine_tune"], **EXACT, **BATCH}
    content["student"] |= {"bf16": False}
    content["student"]["config"] = {**content["student"]["config"], "dropout": 0.0}
    content["compare"] = {"resamples": 20, "detailed_costs": False}
    return content


def main(folder: Path) -> None:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        PartialState(cpu=True)  # one group for all runs
    for name in NAMES:
        recipe = Recipe.load(folder / name / "recipe.yaml", ["--output_dir", str(folder / name / f"of-{world}")])
        run_recipe(recipe)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
