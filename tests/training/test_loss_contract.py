"""Results do not depend on how a step was cut: micro-batches, processes, padding; for every task, loss, matching."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cases import CASES, GRID, build, outcome, pad


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Each case in one process without accumulation, made when first asked for."""
    folder, made = tmp_path_factory.mktemp("whole"), {}

    def of(name):
        if name not in made:
            made[name] = outcome(build(name, folder))
        return made[name]

    return of


def assert_same(left, right):
    assert left["weights"].keys() == right["weights"].keys()
    for name, value in left["weights"].items():
        assert torch.allclose(value, right["weights"][name], rtol=0, atol=1e-8), name
    assert len(left["logs"]) == len(right["logs"]) > 0
    for before, after in zip(left["logs"], right["logs"], strict=True):
        assert before.keys() == after.keys()
        assert np.allclose(list(before.values()), [after[key] for key in before], atol=1e-6), (before, after)
    assert left["evaluation"].keys() == right["evaluation"].keys()
    for key, value in left["evaluation"].items():
        assert right["evaluation"][key] == pytest.approx(value, abs=1e-6), key


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulation(tmp_path, whole, name, accumulation):
    trainer = build(
        name, tmp_path, batch=8 // accumulation, accumulation=accumulation, per_device_eval_batch_size=accumulation + 1
    )
    assert_same(whole(name), outcome(trainer))


@pytest.mark.parametrize("name", GRID)
def test_accumulation_for_every_task_and_loss(tmp_path, whole, name):
    assert_same(whole(name), outcome(build(name, tmp_path, batch=2, accumulation=4)))


@pytest.mark.parametrize("name", CASES)
def test_padding(tmp_path, whole, name):
    trainer = build(name, tmp_path)
    trainer.data_collator.collator = lambda rows: pad(rows, extra=5)
    assert_same(whole(name), outcome(trainer))


def launched(folder):
    # Its --cpu would start processes by MPI alone; --multi_gpu starts them by torchrun, and the arguments say use_cpu.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "tests.cases", str(folder)]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=800
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def of_two_processes(made_once):
    """Every case under `accelerate launch` with two processes, all in one launch, whichever workers test them."""
    folder = made_once("cases-of-two-processes", launched)
    return {accumulation: torch.load(folder / f"outcomes-{accumulation}.pt") for accumulation in (1, 2)}


@pytest.mark.processes
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes(whole, of_two_processes, name, accumulation):
    assert_same(whole(name), of_two_processes[accumulation][name])
