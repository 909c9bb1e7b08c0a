"""A training that is resumed goes on as if it had not been interrupted, bit for bit.

`Trainer` restores the weights, the optimizer and the random states. What it leaves out is kept here, in a file beside
its random states: what the order of the epoch in progress was drawn from, the place in a stream that is read more than
once, and the sums that the next log averages over.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from hf_distill.training.publishing import PublishingTrainer
from hf_distill.training.sampler import RecordedOrder, resumable

logger = logging.get_logger(__name__)

NAME = "progress"


class ResumableTrainer(PublishingTrainer):
    """`transformers.Trainer` whose resumed trainings are undisturbed."""

    _sampler: Any = None
    _batches_in_epoch = 0
    _last_step = -1  # at which `_maybe_log_save_evaluate` was called last
    _epoch_ended = False
    _resumed: dict[str, Any] | None = None  # until the first epoch begins
    _before: tuple[Any, dict[str, Any]]
    _due: list[bool] | None = None  # whether to evaluate and to save, while an evaluation is made
    _of_last_step: list[Any]  # norm of the gradients and learning rate, which are logged
    _unwatched: int | None = None  # readings of batches until one is watched for random numbers

    # The order of the rows

    def _get_dataloader(self, dataset: Any, *arguments: Any, **kwargs: Any) -> Any:
        """`Trainer`'s; the sampler of the training rows is one whose order can be drawn again."""
        make = kwargs.get("sampler_fn")
        if kwargs.get("is_training") and make is not None:
            kwargs["sampler_fn"] = lambda rows: self._followed(make(rows))
        return super()._get_dataloader(dataset, *arguments, **kwargs)

    def _followed(self, sampler: Any) -> Any:
        self._sampler = resumable(sampler, self._order_seed, self.args.world_size)
        return self._sampler

    @property
    def _order_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _run_epoch(self, *arguments: Any, **kwargs: Any) -> None:
        """`Trainer`'s; the order, the random state and the sums of a resumed training are put back before it."""
        # Accelerate does not tell a sampler behind the batches that it skips.
        if hasattr(self._sampler, "set_epoch"):
            self._sampler.set_epoch(kwargs["epoch"])
        resumed, self._resumed = self._resumed, None
        self._unwatched = None
        if resumed is not None:
            self._load_progress(resumed)
            self._load_rng_state(kwargs["resume_from_checkpoint"])
            self._unwatched = 1 if kwargs["steps_trained_in_current_epoch"] else None
        if 0 < self.state.max_steps <= self.state.global_step:  # `Trainer` would train one step more
            self.control.should_training_stop = True
            if self._epoch_ended:
                return
            kwargs["steps_trained_in_current_epoch"] = kwargs["steps_in_epoch"]
        if resumed is not None and resumed["due"] is not None:  # an evaluation that failed
            self.control.should_evaluate, self.control.should_save = resumed["due"]
            names = ("model", "trial", "epoch", "ignore_keys_for_eval", "start_time")
            self._maybe_log_save_evaluate(self._tr_loss, None, **{name: kwargs[name] for name in names})
            self.control.should_evaluate = self.control.should_save = False
        self._remember()
        super()._run_epoch(*arguments, **kwargs)

    def get_batch_samples(self, *arguments: Any, **kwargs: Any) -> Any:
        """`Trainer`'s; where a training goes on in mid-epoch, a collator that draws random numbers is told of."""
        left, self._unwatched = self._unwatched, None if not self._unwatched else self._unwatched - 1
        if left != 0:
            return super().get_batch_samples(*arguments, **kwargs)
        before = _random_states()
        found = super().get_batch_samples(*arguments, **kwargs)
        if _random_states() != before:
            logger.warning(
                "The collator or the data set draws random numbers while batches are made, and the training goes on in "
                "the middle of an epoch: the rest of it draws others than in a training that is not interrupted. "
                "Derive what is drawn from the row and the epoch, or resume from the end of an epoch."
            )
        return found

    # The place in the training

    def set_initial_training_values(self, *arguments: Any, **kwargs: Any) -> Any:
        """`Trainer`'s numbers of steps."""
        found = super().set_initial_training_values(*arguments, **kwargs)
        self._batches_in_epoch = int(found[5] or 0)
        return found

    def _init_training_state(
        self, max_steps: int, steps: int, epochs: int, resume_from_checkpoint: str | None, trial: Any
    ) -> tuple[int, int]:
        """`Trainer`'s number of finished epochs and of batches in the next one, from the record of the checkpoint.

        `Trainer` divides the number of steps by those of an epoch: a stream that is read for the second time would
        begin anew, and what an epoch ends with would be left out.
        """
        place = super()._init_training_state(max_steps, steps, epochs, resume_from_checkpoint, trial)
        self._last_step, self._epoch_ended, self._resumed = self.state.global_step, False, None
        self._of_last_step = [None, None]
        if resume_from_checkpoint is None:
            return place
        path = self._progress_path(resume_from_checkpoint)
        if not path.is_file():
            if place[1] and isinstance(self._sampler, RecordedOrder):
                logger.warning(
                    f"{path.parent.name} has no {path.name}, which version 0.1.0 did not write: the rest of the epoch "
                    "in progress is drawn in another order than that of the training that was interrupted."
                )
            return place
        self._resumed = torch.load(path, map_location="cpu", weights_only=True)
        self._epoch_ended = self._resumed["epoch_ended"]
        if self._resumed["batches_in_epoch"] != self._batches_in_epoch:  # another batch size
            return place
        position = float(self.state.epoch or 0)
        epoch = int(position)
        batches = round((position - epoch) * self._batches_in_epoch)
        if self._epoch_ended and batches:
            epoch, batches = epoch + 1, 0
        elif not self._epoch_ended and not batches and epoch:
            epoch, batches = epoch - 1, self._batches_in_epoch
        return epoch, 0 if self.args.ignore_data_skip else batches

    def _maybe_log_save_evaluate(self, tr_loss: Any, grad_norm: Any, *arguments: Any, **kwargs: Any) -> None:
        """`Trainer`'s, which it calls after each step and again at the end of an epoch."""
        self._epoch_ended = self.state.global_step == self._last_step
        self._last_step = self.state.global_step
        if kwargs.get("learning_rate") is None:  # resumed at the end of an epoch
            grad_norm, kwargs["learning_rate"] = self._of_last_step
        self._of_last_step = [grad_norm, kwargs["learning_rate"]]
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *arguments, **kwargs)
        self._remember()

    def _evaluate(self, *arguments: Any, **kwargs: Any) -> Any:
        """`Trainer`'s in a training; should it fail, it is made again when the training is resumed."""
        self._due = [True, bool(self.control.should_save)]
        self._remember()
        found = super()._evaluate(*arguments, **kwargs)
        self._due = None
        return found

    # What a checkpoint keeps

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        torch.save(self._progress_record(), self._progress_path(output_dir))

    def _progress_path(self, checkpoint: str) -> Path:
        process = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        return Path(checkpoint) / f"{NAME}{process}.pth"

    def _progress_record(self) -> dict[str, Any]:
        """What this process knows of the training in progress beside `Trainer`'s own state."""
        return {
            "batches_in_epoch": self._batches_in_epoch,
            "epoch_ended": self._epoch_ended,
            "order": getattr(self._sampler, "drawn_from", None),
            "order_epoch": getattr(self._sampler, "epoch", 0),
            "loss": self._tr_loss.detach().clone(),
            "last_logged": self._globalstep_last_logged,
            "due": self._due,
            "of_last_step": self._of_last_step,
        }

    def _load_progress(self, record: dict[str, Any]) -> None:
        """Put back what `_progress_record` returned."""
        if isinstance(self._sampler, RecordedOrder) and record["order"] is not None:
            self._sampler.resumed = record["order_epoch"], record["order"]
        self._tr_loss = record["loss"].to(self.args.device, copy=True)
        self._globalstep_last_logged = record["last_logged"]
        self._of_last_step = record["of_last_step"]

    # The training as it was before the step in progress

    def _remember(self) -> None:
        """Note what moves in a step, so that a checkpoint can be written of the moment before it."""
        self._before = _torch_states(), self._progress_record()

    def _go_back(self) -> None:
        """Put back what `_remember` noted."""
        (cpu, *devices), record = self._before
        torch.set_rng_state(cpu)
        for number, state in enumerate(devices):
            torch.get_device_module().set_rng_state(state, number)
        self._load_progress(record)


def _torch_states() -> list[Any]:
    """The random states of the processor and, where there are some, of each accelerator."""
    if not torch.accelerator.is_available():
        return [torch.get_rng_state()]
    module = torch.get_device_module()
    return [torch.get_rng_state(), *map(module.get_rng_state, range(torch.accelerator.device_count()))]


def _random_states() -> tuple[Any, ...]:
    numpy: Any = np.random.get_state()
    return random.getstate(), numpy[1].tobytes(), numpy[2], torch.get_rng_state().numpy().tobytes()
