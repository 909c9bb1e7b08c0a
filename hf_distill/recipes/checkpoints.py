"""Checkpoints of a recipe's trainings, each with a record of its files."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from hf_distill.recipes.files import content_hash, sync_folder, write_text
from hf_distill.recipes.processes import Processes

RECORD_ENDING = ".files.json"


class RecordedCheckpoints(TrainerCallback):
    """Writes a record beside each checkpoint, and only then removes older ones.

    `Trainer` with `save_total_limit=1` removes the old checkpoint while the new one may still be incomplete on the
    disk, so a kill at that moment leaves none.

    Args:
        folder: of the checkpoints.
        limit: how many recent checkpoints are kept, beside the best one.
        processes: that write the checkpoints.
    """

    def __init__(self, folder: Path, limit: int, processes: Processes) -> None:
        self.folder, self.limit, self.processes = folder, max(1, limit), processes

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the checkpoint that was just written, and remove those that are not needed any more."""
        self.processes.wait()  # each process writes a part of it
        self.processes.on_main(lambda: self.record(state))

    def record(self, state: Any) -> None:
        """See `on_save`.

        Args:
            state: of the trainer.
        """
        newest = self.folder / f"checkpoint-{state.global_step}"
        sync_folder(newest)
        files = {
            path.relative_to(newest).as_posix(): [path.stat().st_size, content_hash(path)]
            for path in sorted(newest.rglob("*"))
            if path.is_file()
        }
        write_text(record_of(newest), json.dumps(files))
        recent = checkpoints(self.folder)[-self.limit :]
        best = None if state.best_model_checkpoint is None else Path(state.best_model_checkpoint).name
        for checkpoint in checkpoints(self.folder):
            if checkpoint not in recent and checkpoint.name != best:
                record_of(checkpoint).unlink(missing_ok=True)  # first, so that what is half removed does not count
                shutil.rmtree(checkpoint)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, by their step."""
    return sorted(folder.glob("checkpoint-*[0-9]"), key=lambda path: int(path.name.rpartition("-")[2]))


def record_of(checkpoint: Path) -> Path:
    """Where the record of a checkpoint is."""
    return checkpoint.with_name(checkpoint.name + RECORD_ENDING)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has a record, and all files that it names with their content."""
    try:
        files = json.loads(record_of(checkpoint).read_text(encoding="utf-8"))
        return all(
            (checkpoint / name).stat().st_size == size and content_hash(checkpoint / name) == content
            for name, (size, content) in files.items()
        )
    except (OSError, ValueError):  # no record, one that was cut, or a file that is missing
        return False


def last_whole(folder: Path) -> Path | None:
    """The newest checkpoint that training can go on from: it and the best one before it are whole."""
    for checkpoint in reversed(checkpoints(folder)):
        if not is_whole(checkpoint):
            continue
        best = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["best_model_checkpoint"]
        if best is None or is_whole(folder / Path(best).name):
            return checkpoint
    return None


def train(trainer: Trainer, folder: Path, processes: Processes) -> None:
    """Train in place, from the last whole checkpoint of the folder if there is one.

    Args:
        trainer: whose checkpoints go to the folder.
        folder: of the checkpoints; those that are not whole are removed.
        processes: that train.
    """
    limit = trainer.args.save_total_limit
    trainer.args.save_total_limit = None  # `RecordedCheckpoints` removes them
    trainer.add_callback(RecordedCheckpoints(folder, 1 if limit is None else limit, processes))
    start = processes.on_main(lambda: _start(folder))
    trainer.train(resume_from_checkpoint=False if start is None else str(start))


def _start(folder: Path) -> Path | None:
    """The checkpoint to go on from; those that are not whole are removed."""
    start = last_whole(folder)
    for checkpoint in checkpoints(folder):
        if not is_whole(checkpoint):
            shutil.rmtree(checkpoint)
    return start
