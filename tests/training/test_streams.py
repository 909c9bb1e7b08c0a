"""Streams under several processes: each row once, rows of any length."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import IterableDatasetShard
from accelerate.utils import DataLoaderConfiguration

from hf_distill.training.streams import CountedStream, counted, note_rows_of_last_batch, read_in_processes
from tests.conftest import tiny_rows


def test_processes_read_streams_themselves_unless_the_user_chose():
    stream, rows = tiny_rows().to_iterable_dataset(), tiny_rows()
    for datasets, chosen, then in (
        ((stream, None), None, False),
        ((rows, {"a": rows, "b": stream}), None, False),
        ((rows, rows), None, None),
        ((stream, stream), True, True),
    ):
        accelerator = SimpleNamespace(dataloader_config=DataLoaderConfiguration(dispatch_batches=chosen))
        read_in_processes(accelerator, datasets)
        assert accelerator.dataloader_config.dispatch_batches is then


def test_the_last_batch_has_the_rows_that_are_left():
    stream = counted(tiny_rows(21).to_iterable_dataset(), SimpleNamespace(num_processes=2, dispatch_batches=False), 0)
    shard = IterableDatasetShard(stream, batch_size=4, num_processes=2, process_index=1)
    loader = SimpleNamespace(dataset=shard, end_of_dataloader=False, remainder=-1)
    accelerator = SimpleNamespace(gradient_state=SimpleNamespace(active_dataloader=loader))
    assert len(list(shard)) == 12
    note_rows_of_last_batch(accelerator)
    assert loader.remainder == -1
    loader.end_of_dataloader = True
    note_rows_of_last_batch(accelerator)
    assert loader.remainder == 5


def test_what_is_no_stream_of_several_processes_stays(tmp_path):
    stream, two = tiny_rows().to_iterable_dataset(), SimpleNamespace(num_processes=2, dispatch_batches=False)
    assert counted(stream, Accelerator(cpu=True), 0) is stream
    assert counted(tiny_rows(), two, 3) is not None
    assert not isinstance(counted(tiny_rows(), two, 3), CountedStream)
    with pytest.raises(ValueError, match="Set dataloader_num_workers=0"):
        counted(stream, two, 1)


@pytest.mark.processes
def test_two_processes_train_and_evaluate_as_one_does(tmp_path):
    """Rows of uneven lengths: the same weights and evaluation as one process, a row counted once."""
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    for number, command in enumerate(
        (
            "tests.training.stream_run",
            f"{launch} --main_process_port 0 --dynamo_backend no -m tests.training.stream_run",
        )
    ):
        made = subprocess.run(
            [sys.executable, "-m", *command.split(), str(tmp_path / f"{number}.pt")],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=800,
        )
        assert made.returncode == 0, made.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"{number}.pt") for number in (0, 1))
    assert (one["world"], two["world"]) == (1, 2)
    for name, value in one["weights"].items():
        assert torch.allclose(value, two["weights"][name], atol=1e-6), name
    assert two["evaluation"] == pytest.approx(one["evaluation"], abs=1e-6)
    assert (one["samples"], two["samples"]) == (21, 21)
    assert (one["steps"], two["steps"]) == (5, 5)
    assert one["resumed"] == two["resumed"] == [True] * len(one["resumed"])
