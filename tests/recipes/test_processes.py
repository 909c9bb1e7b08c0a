"""Recipes in two processes: over gloo, started by accelerate and by torchrun."""

import json
import os
import shutil
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import load_file
from torch.distributed import TCPStore

from hf_distill.recipes.checks import Checks
from hf_distill.recipes.processes import Failures, Processes, ReadWorkspace
from hf_distill.recipes.training import Training, share_of
from hf_distill.recipes.workspace import Workspace
from tests.recipes.processes_run import NAMES, write

ROOT = Path(__file__).parents[2]
ACCELERATE = "accelerate.commands.launch --config_file examples/accelerate/cpu.yaml"
TORCHRUN = "torch.distributed.run --standalone --nproc_per_node 2"


def run(launch: str, *words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, *(("-m", *launch.split()) if launch else ()), "-m", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=800)


def weights_differ(one: Path, other: Path) -> float:
    left, right = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.fixture(scope="module")
def of_one_and_two(made_once):
    """A folder for each task, with its run by one process in `of-1` and by two in `of-2`."""

    def make(folder):
        for name in NAMES:
            write(name, folder)
        for launch in ("", ACCELERATE):
            done = run(launch, "tests.recipes.processes_run", "tasks", folder)
            assert done.returncode == 0, done.stderr[-4000:]

    return made_once("recipes-of-one-and-two-processes", make)


def logits(folder: Path) -> tuple[str, np.ndarray]:
    """The type and the values of the teacher's outputs of a cache, in order."""
    rows = datasets.Dataset.from_file(str(folder / "cache" / "shard-00000.arrow"))
    name = next(name for name in rows.column_names if name.endswith("logits"))
    values = [np.array(row, dtype=np.float32).reshape(-1) for row in rows[name]]
    return str(rows.features[name]), np.concatenate(values)


def fields(value: object, path: str = "") -> set[str]:
    """The names of all fields of a report."""
    inner = value.items() if isinstance(value, dict) else ()
    return {path}.union(*(fields(each, f"{path}.{name}") for name, each in inner))


@pytest.mark.processes
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_make_the_student_of_one(of_one_and_two, name):
    one, two = (of_one_and_two / name / f"of-{number}" for number in (1, 2))
    reports = [json.loads((folder / "report.json").read_text()) for folder in (one, two)]
    assert [report["run"]["processes"] for report in reports] == [1, 2]
    left, right = map(fields, reports)
    assert {each for each in left ^ right if not each.startswith(".environment")} == set()
    assert reports[0]["run"]["rows"] == reports[1]["run"]["rows"]
    records = [json.loads((folder / ".work" / "record.json").read_text())["steps"] for folder in (one, two)]
    assert records[0].keys() == records[1].keys()
    for step in records[0].keys() - {"card"}:  # which depends on output_dir
        assert records[0][step]["inputs"] == records[1][step]["inputs"], step  # the splits by their hashes
    assert (one / "student/tokenizer.json").read_bytes() == (two / "student/tokenizer.json").read_bytes()
    (kind, left), (_, right) = logits(one), logits(two)
    assert np.allclose(
        left, right, **({"rtol": 2**-10} if "float16" in kind else {"atol": 1e-5})
    )  # one step of float16
    for model in ("teacher", "student", "baseline"):
        assert weights_differ(one / model, two / model) <= 1e-6, model


@pytest.mark.processes
def test_recipes_shard_and_offload_teachers(of_one_and_two):
    place = of_one_and_two / NAMES[0]
    assert np.array_equal(logits(place / "offload-of-1")[1], logits(place / "shard-of-2")[1])
    assert weights_differ(place / "offload-of-1" / "student", place / "shard-of-2" / "student") <= 1e-6


@pytest.mark.processes
def test_a_killed_process_and_a_run_to_the_end(of_one_and_two, tmp_path):
    shutil.copytree(of_one_and_two / NAMES[0], tmp_path / NAMES[0], ignore=shutil.ignore_patterns("of-*"))
    undisturbed = of_one_and_two / NAMES[0] / "of-2"
    place, killed = tmp_path / NAMES[0] / "recipe.yaml", tmp_path / "killed"
    # The data has the same content in another place; the teacher too.
    text = place.read_text().replace(str(of_one_and_two), str(tmp_path))
    place.write_text(text)
    done = run(TORCHRUN, "tests.recipes.processes_run", "killed", tmp_path)
    assert done.returncode != 0 and "Signal 9" in done.stderr, done.stderr[-3000:]
    assert not (killed / "student").exists()
    assert list((killed / ".work" / "student-1").glob("checkpoint-*"))
    done = run(TORCHRUN, "hf_distill", "run", place, "--output_dir", killed)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "teacher: done before" in done.stderr
    assert weights_differ(undisturbed / "student", killed / "student") <= 1e-6
    assert json.loads((killed / "report.json").read_text())["run"]["processes"] == 2


@pytest.mark.processes
def test_refusals_are_those_of_all_processes_and_a_fault_of_one_ends_them(of_one_and_two, tmp_path):
    write(NAMES[0], tmp_path)
    (tmp_path / "locked").mkdir()
    workspace = Workspace(tmp_path / "locked")
    with workspace.locked():
        done = run(TORCHRUN, "tests.recipes.processes_run", "refused", tmp_path)
    told = [json.loads((tmp_path / f"told-{number}.json").read_text()) for number in (0, 1)]
    assert told[0] == told[1]
    assert told[0]["world"] == 2
    assert "15 rows cannot be divided evenly among 2 processes" in told[0]["batches"]
    assert "teacher.fine_tune needs the whole teacher on every process" in told[0]["placement"]
    assert "1 of 2 processes do not see it" in told[0]["folders"]
    assert "machine-1" in told[0]["folders"] and "no such file" in told[0]["folders"]
    assert "process 1 has another" in told[0]["data"]
    assert "another run is at work" in told[0]["lock"]
    assert done.returncode != 0
    assert "distill, process 1 of 2" in done.stderr
    assert not (tmp_path / "failed" / "student").exists()


def test_one_process_is_alone():
    alone = Processes()
    assert alone.is_main
    assert alone.on_main(lambda: 3) == alone.together(lambda: 3) == 3
    assert alone.gathered("here") == ["here"]
    with pytest.raises(KeyError), alone.step("distill"):
        raise KeyError("a fault")


@pytest.mark.parametrize(
    ("key", "engine"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")]
)
def test_engines_that_cut_models_are_refused(monkeypatch, key, engine):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(key, "true")
    with pytest.raises(ValueError, match=rf"asks for {engine}.*teacher.placement: shard"):
        Processes.assembled()


def test_batches_are_global():
    assert share_of("per_device_train_batch_size", 32, 4) == 8
    with pytest.raises(ValueError, match=r"30 rows cannot be divided evenly among 4 .* Set .*: 32"):
        share_of("per_device_train_batch_size", 30, 4)


def test_an_unfinished_training_of_another_number_of_processes_starts_anew(tmp_path, capsys):
    console = Console(width=200)

    def training(size):
        return Training(*[None] * 4, SimpleNamespace(size=size), console)  # type: ignore[arg-type]

    folder = tmp_path / "student-0"
    for number, size in enumerate((2, 2, 1, 1, 3)):
        training(size).open_checkpoints(folder, "a-hash")
        told = capsys.readouterr().out
        expected = {2: "begun by 2 processes; with 1 it starts anew", 4: "begun by 1 processes; with 3 it starts anew"}
        assert expected.get(number, "") in told and (number in expected) == bool(told)
        assert (folder / "checkpoint").exists() == (number in (1, 3))
        (folder / "checkpoint").touch()
    training(3).open_checkpoints(folder, "another")
    assert not (folder / "checkpoint").exists() and not capsys.readouterr().out


def test_other_processes_write_nothing(tmp_path):
    with Workspace(tmp_path).locked():
        pass
    before = sorted(tmp_path.rglob("*"))
    workspace = ReadWorkspace(tmp_path)
    workspace.write_json("curves.json", {})
    workspace.claim(["a"])
    workspace.finish("teacher", {}, 1, ["*"], seconds=1)
    workspace.forget("teacher")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failure_is_told_to_the_others():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    seen, line = threading.Event(), []

    def end(text):
        line.append(text)
        seen.set()

    one = Failures(0, "127.0.0.1", store.port, end, run=7)
    other = Failures(1, "127.0.0.1", store.port, end, run=7)
    other.tell("distill, process 1 of 2: a fault")
    assert seen.wait(60)
    assert line == ["distill, process 1 of 2: a fault"]
    one.stop()


def test_each_process_has_a_row_and_some_recipes_run_in_one_alone():
    parts = {"train": range(3), "validation": range(9)}
    training = SimpleNamespace(processes=SimpleNamespace(size=4))
    recipe = SimpleNamespace(teacher=SimpleNamespace(prompt=None))
    checks = Checks(recipe, SimpleNamespace(parts=parts), None, training)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 train rows for 4 processes, so that some would have none"):
        checks.check_rows()
    training.processes.size = 3
    checks.check_rows()
    recipe.teacher.prompt = "How does the writer feel?"
    with pytest.raises(ValueError, match=r"teacher\.prompt: needs one process, and there are 3"):
        checks.check_rows()
    training.processes.size = 1
    checks.check_rows()
