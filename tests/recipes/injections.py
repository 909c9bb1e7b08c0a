"""Failures injected into a small run: at every rename, replace and sync, at every removal, and where a disk is full.

    python -m tests.recipes.injections --output injections.json

A run is made once. At each call that is counted its folder is copied as a kill would leave it; and a child of the run
is given the error of a full disk, of a quota and of a missing right in place of the call, and leaves its folder. From
each different folder the next run has to end with the student of the undisturbed run. All of it takes minutes; the
tests of `test_disks.py` try a sample.
"""

import argparse
import contextlib
import errno
import gc
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import datasets
import onnx  # noqa: F401  what a run imports when it needs it, so that its children have it
import onnxruntime.quantization  # noqa: F401
import sklearn.linear_model  # noqa: F401
import torch
import torch.onnx
from safetensors.torch import load_file

from hf_distill import Recipe, run_recipe
from hf_distill.evaluation import speed
from hf_distill.recipes.failures import OneLineError
from hf_distill.reports import plot
from tests.recipes.test_run import write_reviews, write_teacher

REFUSED = ("replace", "rename", "fsync")  # of os; where an error is raised in place of the call
COUNTED = (*REFUSED, "unlink", "rmdir", "mkdir")  # where a run is killed before the call
ERRORS = {"full": errno.ENOSPC, "quota": errno.EDQUOT, "denied": errno.EACCES}
SECONDS = 120  # that a child may take


def prepare(folder: Path) -> dict[str, Any]:
    """Write data and teacher; a recipe with every step for them."""
    write_reviews(folder / "reviews.csv", 150)
    write_teacher(folder / "teacher")
    training = {
        "max_steps": 6,
        "eval_steps": 3,
        "save_steps": 3,
        "per_device_train_batch_size": 16,
        "disable_tqdm": True,
    }
    return {
        "task": "text-classification",
        "output_dir": str(folder / "out"),
        "data": {
            "path": str(folder / "reviews.csv"),
            "labels": ["bad", "good"],
            "test": 20,
            "validation": 15,
            "augment": {"texts": 10},
        },
        "teacher": {
            "model": str(folder / "teacher"),
            "bf16": False,
            "fine_tune": {"learning_rate": 2e-3, **training},
        },
        "student": {"vocab_size": 110, "bf16": False, "config": {"embedding_size": 8, "hidden_size": 8}},
        "distill": {"learning_rate": 1e-2, **training},
        "compare": {"controls": False, "resamples": 20, "detailed_costs": False, "more_seeds": [1]},
        "export": {"onnx": True, "int8": False},
    }


def run(recipe: dict[str, Any]) -> None:
    """Run the recipe in this process, silently."""
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    speed.FEWEST_CALLS, speed.SECONDS, speed.CELL_SECONDS = 8, 0.0, 0.0
    plot.save = lambda path, **_: Path(path).write_bytes(b"a picture")  # matplotlib takes half of the time
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        run_recipe(Recipe.from_dict(recipe))


def forked(work: Callable[[], None]) -> int:
    """Do something in a child process; its exit status, and -9 where it hung."""
    gc.freeze()  # or each child would copy all that its collector looks at
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except OneLineError as error:
            status = 3 if "\n" not in str(error) and "Kept: " in str(error) else 4
        finally:
            os._exit(status)
    until = time.monotonic() + SECONDS
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            until += SECONDS
        time.sleep(0.002)


def outcome(out: Path) -> dict[str, Any]:
    """What must be the same: the weights of all students, and the qualities."""
    report = json.loads((out / "report.json").read_text())
    names = ("teacher", "student", "baseline", ".work/seeds/1/student", ".work/seeds/1/baseline")
    weights = {
        name: {key: value.numpy().tobytes() for key, value in load_file(out / name / "model.safetensors").items()}
        for name in names
    }
    qualities = {name: model["quality"] for name, model in report["models"].items()}
    return {
        "weights": weights,
        "qualities": qualities,
        "controls": report["controls"],
        "onnx": (out / "student" / "onnx" / "model.onnx").exists(),
        "card": (out / "student" / "README.md").exists() and (out / "recipe.yaml").exists(),
    }


def state_of(out: Path) -> str:
    """A hash of a folder, without times, by which equal ones are tried once."""
    found = hashlib.sha256()
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if name.startswith((".work/owner", ".work/lock")):
            continue
        content = path.read_bytes() if path.is_file() else b"a folder"
        if path.name.startswith("record.json") and path.is_file():
            with contextlib.suppress(ValueError, KeyError):
                record = json.loads(content)
                steps = {step: [each["inputs"], each["files"]] for step, each in record["steps"].items()}
                content = json.dumps([steps, record["made"]]).encode()
        found.update(f"{name}\0".encode() + hashlib.sha256(content).digest())
    return found.hexdigest()


class Injector:
    """Wraps functions of `os`, and leaves a folder for each failure at each call that concerns the run's folder.

    Args:
        out: the run's folder.
        left: where the folders go.
        wanted: chooses calls by their number; all of them where it is None.
    """

    def __init__(self, out: Path, left: Path, wanted: Callable[[int], bool] | None = None) -> None:
        self.out, self.left, self.wanted = out, left, wanted
        self.calls: list[str] = []
        self.said: Counter[str] = Counter()
        self.states: dict[str, list[str]] = {}
        self.originals = {name: getattr(os, name) for name in COUNTED}
        self.active = True

    def __enter__(self) -> "Injector":
        for name in COUNTED:
            setattr(os, name, self.wrapped(name))
        return self

    def __exit__(self, *_: Any) -> None:
        for name, original in self.originals.items():
            setattr(os, name, original)

    def wrapped(self, name: str) -> Callable[..., Any]:
        """A function of `os` that fails first, in copies."""
        original = self.originals[name]

        def call(*arguments: Any, **named: Any) -> Any:
            if self.active and self.concerns(arguments[0], named.get("dir_fd")):
                number = len(self.calls)
                self.calls.append(name)
                if self.wanted is None or self.wanted(number):
                    self.active = False
                    self.kill(number, name)
                    for kind in ERRORS if name in REFUSED else ():
                        self.refuse(number, name, kind, arguments)
                    self.active = True
            return original(*arguments, **named)

        return call

    def concerns(self, place: Any, folder: int | None) -> bool:
        """Whether a path, or what a descriptor stands for, is in the run's folder."""
        if isinstance(place, int) or folder is not None:
            place = os.readlink(f"/proc/self/fd/{place if folder is None else folder}")
        return Path(os.fsdecode(place)).absolute().is_relative_to(self.out)

    def keep(self, folder: Path, what: str) -> None:
        """Keep a folder that a failure left, unless another one left the same."""
        state = state_of(folder)
        if state in self.states:
            shutil.rmtree(folder)
        else:
            os.rename(folder, self.left / state)
        self.states.setdefault(state, []).append(what)

    def kill(self, number: int, name: str) -> None:
        """What a kill before this call leaves."""
        copy = self.left / "copy"
        if self.out.exists():
            shutil.copytree(self.out, copy)
        else:
            copy.mkdir()
        self.keep(copy, f"killed before call {number}, {name}")

    def refuse(self, number: int, name: str, kind: str, arguments: tuple[Any, ...]) -> None:
        """What a run leaves that gets an error in place of this call, in a child that goes on from here."""
        backup = self.left / "backup"
        shutil.copytree(self.out, backup)
        child = os.fork()
        if child == 0:
            path = os.fsdecode(arguments[0]) if not isinstance(arguments[0], int) else None
            raise OSError(ERRORS[kind], os.strerror(ERRORS[kind]), path)
        _, status = os.waitpid(child, 0)
        self.said[f"{kind}: exit {os.waitstatus_to_exitcode(status)}"] += 1
        os.rename(self.out, self.left / "copy")
        os.rename(backup, self.out)
        self.keep(self.left / "copy", f"{kind} at call {number}, {name}")


def inject(folder: Path, wanted: Callable[[int], bool] | None = None) -> dict[str, Any]:
    """Run once, fail at the calls that are wanted, and run again from what each failure left.

    Args:
        folder: to work in.
        wanted: see `Injector`.
    """
    recipe = prepare(folder)
    out, left = folder / "out", folder / "left"
    left.mkdir()
    assert forked(lambda: run(recipe)) == 0, "the undisturbed run failed"
    want = outcome(out)
    shutil.rmtree(out)
    told = folder / "told.json"

    def failing() -> None:
        with Injector(out, left, wanted) as injector:
            run(recipe)
        assert outcome(out) == want
        about = {"calls": Counter(injector.calls), "said": injector.said, "states": injector.states}
        told.write_text(json.dumps(about))

    assert forked(failing) == 0, "the run that was looked at failed"
    found = json.loads(told.read_text())
    lost = []
    for state, causes in found["states"].items():
        shutil.rmtree(out, ignore_errors=True)
        os.rename(left / state, out)
        status = forked(lambda: run(recipe))
        if status != 0 or outcome(out) != want:
            lost.append(f"{causes[0]} (and {len(causes) - 1} more): exit {status}")
    kinds = Counter(cause.split()[0] for causes in found["states"].values() for cause in causes)
    bad = Counter(line.split()[0] for line in lost)
    return {
        "calls": found["calls"],
        "tried": kinds,
        "states": len(found["states"]),
        "states_lost": sum(bad.values()),
        "lost": lost,
        "exits": found["said"],
    }


def main() -> None:
    """Inject all failures, or some at random, and write what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=float, default=1.0, help="share of the calls, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        found = inject(Path(name), lambda number: chance.random() < arguments.calls)
    found["seconds"] = round(time.perf_counter() - start)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
