"""Recipes in one process or in several: `python -m tests.recipes.processes_run tasks|killed|refused FOLDER`."""

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from transformers import TrainerCallback, trainer

from hf_distill.recipes import processes
from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.run import run_recipe
from tests.conftest import BRIEFLY
from tests.recipes.test_determinism import TASKS

NAMES = ("text classification", "tagging", "translation", "text generation")
EXACT = {"optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "max_grad_norm": 1.0}
BATCH = {"per_device_train_batch_size": 16, "per_device_eval_batch_size": 16, "save_steps": 4, "eval_steps": 4}
WORLD, NUMBER = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))


def exact(name: str, folder: Path) -> dict[str, Any]:
    """A recipe whose student depends on nothing but the order of sums: SGD, float32, no dropout."""
    content = TASKS[name](folder)
    stages = content["distill"] if isinstance(content["distill"], list) else [content["distill"]]
    content["distill"] = [{**stage, **EXACT, **BATCH} for stage in stages]
    if name == "translation":
        content["distill"][0]["targets"] = "word"
    content["teacher"] |= {"model": str(folder / "teacher"), "bf16": False}
    content["teacher"]["fine_tune"] = {**content["teacher"]["fine_tune"], **EXACT, **BATCH}
    content["student"] |= {"bf16": False}
    content["student"]["config"] = {**content["student"]["config"], "dropout": 0.0}
    if name == "text classification":
        content["cascade"] = {"defer": 0.5}
    if name == "tagging":  # by the cheapest of two
        lstm = {"name": "lstm", "kind": "lstm", "config": content["student"].pop("config")}
        static = {"name": "window", "kind": "static", "config": {"embedding_size": 8, "hidden_size": 8, "dropout": 0.0}}
        content["student"] |= {"ladder": [lstm, static], "floor": 0.01}
    content["compare"] = {"resamples": 20, "detailed_costs": False}
    config = folder / "teacher" / "config.json"
    values = json.loads(config.read_text())
    off = {key: 0.0 for key, value in values.items() if ("dropout" in key or "pdrop" in key) and value is not None}
    config.write_text(json.dumps(values | off))
    return content


def write(name: str, folder: Path) -> Path:
    """The recipe of a task and what it reads, in a folder of its name."""
    place = folder / name
    place.mkdir(parents=True)
    content = exact(name, place) | {"output_dir": "set by each run"}
    (place / "recipe.yaml").write_text(yaml.safe_dump(content))
    return place


def recipe(place: Path, output: Path, *words: str) -> Recipe:
    return Recipe.load(place / "recipe.yaml", ["--output_dir", str(output), *words])


def tasks(folder: Path) -> None:
    """Each task, from its recipe to its card."""
    for name in NAMES:
        run_recipe(recipe(folder / name, folder / name / f"of-{WORLD}"))
    # A teacher as it is, with a matching that calls it, sharded by two processes and offloaded by one.
    placement, place = "shard" if WORLD > 1 else "offload", folder / NAMES[0]
    teacher = ["--teacher.model", str(place / "of-1" / "teacher"), "--teacher.fine_tune", "null"]
    words = [*teacher, "--teacher.placement", placement]
    run_recipe(recipe(place, place / f"{placement}-of-{WORLD}", *words), only="distill")


class At(TrainerCallback):
    """Does something in process 1 after some optimizer step of the student's last stage."""

    def __init__(self, step: int, do: Any) -> None:
        self.step, self.do = step, do

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if NUMBER == 1 and Path(args.output_dir).name == "student-1" and state.global_step == self.step:
            self.do()


def killed(folder: Path) -> None:
    """A run whose second process is killed between two checkpoints."""
    place = folder / NAMES[0]
    trainer.DEFAULT_CALLBACKS.append(At(10, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    run_recipe(recipe(place, folder / "killed"))


def fail() -> None:
    raise ValueError("a fault of process 1 alone")


def refused(folder: Path) -> None:
    """What is refused by all processes alike, each into a file of this one; then a fault of one process."""
    processes.SHOWS_LATE = 0.0
    place, told = folder / NAMES[0], {}
    apart = folder / f"machine-{NUMBER}"
    apart.mkdir()
    for name, output, words in (
        ("batches", folder / "refused", ["--teacher.fine_tune.per_device_train_batch_size", "15"]),
        ("placement", folder / "refused", ["--teacher.placement", "shard"]),
        ("folders", Path("out"), []),
        ("data", folder / "refused", ["--data.test", str(40 + NUMBER)]),
        ("lock", folder / "locked", []),
    ):
        os.chdir(apart)
        try:
            run_recipe(recipe(place, output, *words), only="teacher")
        except ValueError as error:
            told[name] = str(error)
    (folder / f"told-{NUMBER}.json").write_text(json.dumps({"world": PartialState().num_processes, **told}))
    trainer.DEFAULT_CALLBACKS.append(At(2, fail))
    run_recipe(recipe(place, folder / "failed"), only="distill")


if __name__ == "__main__":
    for module, settings in BRIEFLY.items():  # models are timed briefly
        vars(importlib.import_module(f"hf_distill.evaluation.{module}")).update(settings)
    if WORLD > 1:
        PartialState(cpu=True)  # one group for all runs
    globals()[sys.argv[1]](Path(sys.argv[2]))
