"""Kills runs of a small recipe, and cuts their files; each must end with the student of an undisturbed run.

python benchmarks/faults.py --kills 60 --output benchmarks/results/faults.json

A recipe with a fine-tuned teacher, two stages, controls, a further seed and an ONNX export runs again and again in
processes that are forked from a warm parent. Kinds of faults:

- `moments`: SIGKILL at a random moment of the run;
- `interrupts`: Ctrl-C (SIGINT) at a random moment of the run;
- `checkpoints`: SIGKILL while a checkpoint is being written;
- `cuts`: a finished run, of which one file is cut to half or to nothing, is run again.

A fault is survived if the next run ends, its student's weights equal the undisturbed ones bit for bit, and so do the
qualities in its report. Minutes on two cores: about a quarter of an hour for 60 kills and all cuts.
"""

import argparse
import contextlib
import functools
import io
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import datasets
import numpy as np
import torch
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, set_seed
from transformers.utils import logging

from hf_distill import Recipe, run_recipe
from hf_distill.recipes.workspace import EDITABLE

GOOD, BAD, OTHER = (
    "fine great lovely nice".split(),
    "awful bad dull poor".split(),
    "a and food it place the very".split(),
)
IGNORED = ("report.png", "report.json", "recipe.yaml", "README.md")  # made again with new times

# Its own lock is shared with forked processes: one that is killed would hold it for ever. Before any bar is made.
tqdm.set_lock(threading.RLock())


def prepare(folder: Path) -> dict[str, Any]:
    """Write the data and the teacher; the recipe for them."""
    generator = np.random.default_rng(0)
    lines = ["text,label"]
    for _ in range(240):
        good = int(generator.integers(0, 4))
        words = [*generator.choice(GOOD, good), *generator.choice(BAD, 3 - good), *generator.choice(OTHER, 5)]
        lines.append(f"{' '.join(generator.permutation(words))},{'good' if good > 1 else 'bad'}")
    (folder / "reviews.csv").write_text("\n".join(lines))
    letters = sorted({letter for word in GOOD + BAD + OTHER for letter in word})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{each}" for each in letters)]
    vocabulary += GOOD + BAD + OTHER
    (folder / "teacher").mkdir()
    (folder / "teacher" / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)))
    tokenizer = BertTokenizerFast(str(folder / "teacher" / "vocab.txt"), model_max_length=32)
    tokenizer.save_pretrained(folder / "teacher")
    set_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, initializer_range=0.2, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder / "teacher")
    training = {"per_device_train_batch_size": 16, "disable_tqdm": True, "bf16": False}
    return {
        "task": "text-classification",
        "data": {"path": str(folder / "reviews.csv"), "test": 40, "validation": 30},
        "teacher": {
            "model": str(folder / "teacher"),
            "bf16": False,
            "fine_tune": {"num_train_epochs": 3, "learning_rate": 2e-3, **training},
        },
        "student": {"vocab_size": 90, "bf16": False, "config": {"embedding_size": 8, "hidden_size": 8}},
        "distill": [
            {"num_train_epochs": 2, "learning_rate": 1e-2, **training},
            {"num_train_epochs": 2, "learning_rate": 5e-3, **training},
        ],
        "compare": {"resamples": 50, "detailed_costs": False, "more_seeds": [1]},
        "export": {"onnx": True, "int8": False},
    }


def run(recipe: dict[str, Any], output: Path) -> None:
    """Run the recipe in this process, silently."""
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        run_recipe(Recipe.from_dict({**recipe, "output_dir": str(output)}))


def forked(
    work: Callable[[], None], until: Callable[[], bool] | None = None, by: signal.Signals = signal.SIGKILL
) -> int:
    """Do something in a child process, which gets a signal when `until` holds; its exit status, -9 if it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if until is not None and until():
            os.kill(child, by)
            until = None
        time.sleep(0.0005)


def outcome(folder: Path) -> dict[str, Any]:
    """What must be the same: the student's and the baseline's weights, and the qualities."""
    report = json.loads((folder / "report.json").read_text())
    weights = {
        name: {key: value.numpy().tobytes() for key, value in load_file(folder / name / "model.safetensors").items()}
        for name in ("student", "baseline", ".work/seeds/1/student")
    }
    return {
        "weights": weights,
        "models": {n: m["quality"] for n, m in report["models"].items()},
        "controls": report["controls"],
    }


def after(seconds: float) -> Callable[[], bool]:
    """Whether so much time is over."""
    due = time.perf_counter() + seconds
    return lambda: time.perf_counter() > due


def during_checkpoint(folder: Path, wanted: int, wait: float) -> Callable[[], bool]:
    """Whether the so-manieth checkpoint that appears without its record has been there for `wait` seconds."""
    seen: set[Path] = set()
    due: list[float] = []

    def now() -> bool:
        try:
            found = list(folder.glob(".work/*/checkpoint-*"))
        except FileNotFoundError:  # the run removed a folder meanwhile
            return False
        for path in found:
            if path.is_dir() and path not in seen and not path.with_name(path.name + ".files.json").exists():
                seen.add(path)
                if len(seen) == wanted:
                    due.append(time.perf_counter() + wait)
        return bool(due) and time.perf_counter() > due[0]

    return now


def main() -> None:
    """Run the faults and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60, help="a third of them while a checkpoint is being written")
    parser.add_argument("--cuts", type=int, help="at most so many files; by default each file once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    found: dict[str, dict[str, Any]] = {
        kind: {"tried": 0, "survived": 0, "lost": []} for kind in ("moments", "interrupts", "checkpoints", "cuts")
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = prepare(folder)
        start = time.perf_counter()
        if forked(lambda: run(recipe, folder / "undisturbed")):
            raise SystemExit("The undisturbed run failed.")
        took = time.perf_counter() - start
        want = outcome(folder / "undisturbed")

        def judged(kind: str, what: str, output: Path) -> None:
            status = forked(lambda: run(recipe, output))
            good = status == 0 and outcome(output) == want
            found[kind]["tried"] += 1
            found[kind]["survived"] += good
            if not good:
                found[kind]["lost"].append(f"{what}: exit {status}")
            print(kind, what, "survived" if good else f"LOST, exit {status}", flush=True)
            shutil.rmtree(output)

        for number in range(arguments.kills):
            output = folder / f"run-{number}"
            output.mkdir()
            if number % 3:
                moment = chance.uniform(0.05, 1.0) * took
                kind, by = ("moments", signal.SIGKILL) if number % 3 == 1 else ("interrupts", signal.SIGINT)
                forked(functools.partial(run, recipe, output), after(moment), by)
                judged(kind, f"after {moment:.2f} s", output)
            else:
                wanted, wait = chance.randrange(1, 15), chance.uniform(0, 0.03)
                forked(functools.partial(run, recipe, output), during_checkpoint(output, wanted, wait))
                judged("checkpoints", f"number {wanted}, {wait * 1000:.0f} ms after it appears", output)

        files = [
            path.relative_to(folder / "undisturbed").as_posix()
            for path in sorted((folder / "undisturbed").rglob("*"))
            if path.is_file()
            and path.name not in IGNORED
            and path.relative_to(folder / "undisturbed").as_posix() not in EDITABLE
        ]
        for name in files[: arguments.cuts]:
            for share in (0.5, 0.0):
                output = folder / "cut"
                shutil.copytree(folder / "undisturbed", output)
                path = output / name
                path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
                judged("cuts", f"{name} to {share:.0%}", output)
    print(json.dumps({kind: {"tried": each["tried"], "survived": each["survived"]} for kind, each in found.items()}))
    if arguments.output:
        arguments.output.write_text(
            json.dumps({"command": f"python benchmarks/faults.py --kills {arguments.kills}", **found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
