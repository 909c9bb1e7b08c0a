"""Training is resumed from the last checkpoint whose files are whole."""

import json
import shutil

import pytest
import torch

from hf_distill import DistillationTrainer
from hf_distill.training.checkpoints import fault_of, last_whole_checkpoint
from tests.conftest import collate, tiny_bert, tiny_rows
from tests.training.test_trainer import arguments, assert_same, weights


def build(folder, **changes):
    return DistillationTrainer(
        tiny_bert(num_labels=3, dropout=0.3),
        arguments(folder, save_strategy="epoch", optim="adamw_torch", num_train_epochs=3, **changes),
        teacher_model=tiny_bert(seed=1, num_labels=3),
        train_dataset=tiny_rows(16, unlabelled=4),
        data_collator=collate,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished training of three checkpoints, and its weights."""
    folder = tmp_path_factory.mktemp("run")
    trainer = build(folder)
    trainer.train()
    return folder, weights(trainer)


NEEDED = ["trainer_state.json", "config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"]


@pytest.mark.parametrize("kept", [None, 0, 0.5])
@pytest.mark.parametrize("name", NEEDED)
def test_a_file_that_is_cut_or_missing_is_a_fault(run, tmp_path, name, kept):
    whole = run[0] / "checkpoint-6"
    assert fault_of(whole) is None
    broken = shutil.copytree(whole, tmp_path / "checkpoint-6")
    content = (whole / name).read_bytes()
    (broken / name).unlink()
    if kept is not None:
        (broken / name).write_bytes(content[: int(len(content) * kept)])
    if kept is None and name == "config.json":
        assert fault_of(broken) is None  # Trainer resumes without
    else:
        assert name in fault_of(broken)


def test_resuming_skips_damaged_checkpoints(run, tmp_path, caplog):
    """The same weights as without the damage, and a warning that names what was skipped."""
    shutil.copytree(run[0], tmp_path / "run")
    for number, name in ((6, "model.safetensors"), (4, "optimizer.pt")):
        path = tmp_path / "run" / f"checkpoint-{number}" / name
        path.write_bytes(path.read_bytes()[:-50])
    resumed = build(tmp_path / "run")
    resumed.train(resume_from_checkpoint=True)
    assert_same(weights(resumed), run[1])
    found = [record.getMessage() for record in caplog.records if "is not resumed from" in record.getMessage()]
    assert found == [
        "checkpoint-6 is not resumed from: model.safetensors was cut. The training goes on from checkpoint-2.",
        "checkpoint-4 is not resumed from: optimizer.pt was cut. The training goes on from checkpoint-2.",
    ]


def test_without_a_whole_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="No valid checkpoint found in output directory"):
        build(tmp_path).train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(
        ValueError, match=r"is whole \(checkpoint-2: trainer_state.json is missing\). Delete the damaged"
    ):
        build(tmp_path).train(resume_from_checkpoint=True)


def test_weights_alone_and_in_shards(tmp_path):
    """`save_only_model` and sharded weights are whole too, unless a shard is missing."""
    folder = tmp_path / "checkpoint-3"
    tiny_bert(num_labels=3).save_pretrained(folder, max_shard_size="3kB")
    (folder / "trainer_state.json").write_text("{}")
    assert fault_of(folder) == "optimizer.pt is missing"
    assert last_whole_checkpoint(tmp_path, resumable=False) == str(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    missing = sorted(set(index["weight_map"].values()))[1]
    (folder / missing).unlink()
    assert fault_of(folder, resumable=False) == f"{missing} is missing"


def test_the_matchings_of_a_checkpoint_are_among_its_files(tmp_path):
    (tmp_path / "trainer_state.json").write_text("{}")
    torch.save({}, tmp_path / "pytorch_model.bin")
    (tmp_path / "_kd_bridge.safetensors").write_bytes(b"cut")
    assert fault_of(tmp_path, resumable=False) == "_kd_bridge.safetensors was cut"
