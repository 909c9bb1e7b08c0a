"""What a training shows while it goes on: a progress bar, and the logs of trackers."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

RUNS = "runs"  # within a run's folder
# Where trackers write, by the variable that says so. trackio reads its own once, so that it has one folder a run.
FOLDERS = {"TENSORBOARD_LOGGING_DIR": None, "WANDB_DIR": None, "TRACKIO_DIR": "trackio"}
TO_A_FILE = 30.0  # seconds between two states of a bar that no terminal shows


class TrainingBar(TrainerCallback):
    """One bar for a training, with the time that is left, its last loss and its last validation.

    Args:
        name: of what is trained.
        metric: the entry of the log that selects the model, `eval_accuracy` for instance.
    """

    def __init__(self, name: str, metric: str) -> None:
        self.name, self.metric = name, metric
        self._bar: tqdm | None = None
        self._shown: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar, at the step of the checkpoint that the training goes on from."""
        if state.is_world_process_zero:
            every = 0.5 if sys.stderr.isatty() else TO_A_FILE
            total, start = state.max_steps, state.global_step
            self._bar = tqdm(total=total, initial=start, desc=self.name, unit=" steps", mininterval=every)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar on."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the loss and the validation metric."""
        if self._bar is None:
            return
        for name, key in (("loss", "loss"), (self.metric.removeprefix("eval_"), self.metric)):
            if key in (logs or {}):
                self._shown[name] = f"{logs[key]:.4g}"
        self._bar.set_postfix(self._shown, refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Leave the bar as it is, also where the training failed."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextmanager
def shown(trainer: Trainer, name: str, metric: str) -> Iterator[None]:
    """Show the progress of a trainer within a `with` block, unless its arguments have `disable_tqdm`.

    Args:
        trainer: whose own way of showing it is taken away.
        name: of what is trained.
        metric: see `TrainingBar`.
    """
    for own in (PrinterCallback, ProgressCallback, DEFAULT_PROGRESS_CALLBACK):
        trainer.remove_callback(own)
    bar = TrainingBar(name, metric)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(bar)
    try:
        yield
    finally:
        bar.close()


def title(training: str, stages: int) -> str:
    """What is trained, in words.

    Args:
        training: name of its checkpoints' folder, which may end with a number: of a stage, or of a teacher's fold.
        stages: how many a student has.

    >>> title("student-1", 3), title("baseline-0", 1), title("teacher", 1), title("teacher-1", 1)
    ('student, stage 2 of 3', 'baseline', 'teacher', 'teacher of fold 2')
    """
    match = re.fullmatch(r"(.+)-(\d+)", training)
    if match is None:
        return training.replace("_", " ")
    name, number = match[1].replace("_", " ").replace("-", " "), int(match[2]) + 1
    if name == "teacher":
        return f"{name} of fold {number}"
    return name if stages == 1 else f"{name}, stage {number} of {stages}"


@contextmanager
def trackers_in(folder: Path, training: str) -> Iterator[None]:
    """Have TensorBoard, W&B and trackio write to a run's folder within a `with` block.

    By themselves they write beside the checkpoints, which are deleted in the end, to the working directory, or to the
    user's cache. A variable that the user has set stays.

    Args:
        folder: of the logs of a run.
        training: subfolder of one training.
    """
    new = {name: str(folder / (shared or training)) for name, shared in FOLDERS.items() if not os.environ.get(name)}
    if new:
        (folder / training).mkdir(parents=True, exist_ok=True)
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)
