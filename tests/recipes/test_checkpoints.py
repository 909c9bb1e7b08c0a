"""A checkpoint counts only with a record of its files, which is written before older ones are removed."""

import json
from types import SimpleNamespace

import pytest

from hf_distill.recipes.checkpoints import RecordedCheckpoints, checkpoints, is_whole, last_whole, record_of
from hf_distill.recipes.processes import Processes


def write(folder, step, best=None):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights" * step)
    best_path = None if best is None else f"elsewhere/checkpoint-{best}"
    (checkpoint / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": best_path}))
    return checkpoint


def saved(folder, step, best=None, limit=1):
    """What the trainer calls after it wrote a checkpoint."""
    checkpoint = write(folder, step, best)
    best_path = None if best is None else str(folder / f"checkpoint-{best}")
    state = SimpleNamespace(global_step=step, best_model_checkpoint=best_path)
    RecordedCheckpoints(folder, limit, Processes()).on_save(None, state, None)
    return checkpoint


def test_the_newest_and_the_best_stay(tmp_path):
    for step, best in ((2, 2), (4, 2), (10, 2)):
        saved(tmp_path, step, best)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-10"]
    assert not record_of(tmp_path / "checkpoint-4").exists()
    assert last_whole(tmp_path).name == "checkpoint-10"


def test_a_checkpoint_without_a_record_does_not_count(tmp_path):
    saved(tmp_path, 2)
    write(tmp_path, 4)  # killed before its record
    assert last_whole(tmp_path).name == "checkpoint-2"


@pytest.mark.parametrize("name", ["model.safetensors", "trainer_state.json"])
@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_a_damaged_checkpoint_does_not_count(tmp_path, name, content):
    saved(tmp_path, 2)
    path = saved(tmp_path, 4, limit=2) / name
    path.unlink() if content is None else path.write_bytes(content)
    assert not is_whole(tmp_path / "checkpoint-4")
    assert last_whole(tmp_path).name == "checkpoint-2"


def test_a_checkpoint_whose_best_is_damaged_does_not_count(tmp_path):
    saved(tmp_path, 2, best=2)
    saved(tmp_path, 4, best=2)
    (tmp_path / "checkpoint-2" / "model.safetensors").write_bytes(b"cut")
    assert is_whole(tmp_path / "checkpoint-4") and last_whole(tmp_path) is None


def test_a_record_that_was_cut_does_not_count(tmp_path):
    record = record_of(saved(tmp_path, 2))
    record.write_text(record.read_text()[:20])
    assert last_whole(tmp_path) is None
