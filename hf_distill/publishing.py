"""What a trainer publishes while it trains and at its end, mended where `Trainer` would publish something unusable."""

import shutil
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

logger = logging.get_logger(__name__)


class PublishingTrainer(Trainer):
    """`transformers.Trainer` whose pushes can be loaded at any time. (transformers 5.23 needs each of these.)"""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Publish a checkpoint as `Trainer` does, with the student's own code, and never over a running upload.

        `Trainer` copies only configuration and weights, and nobody could load that. With `hub_always_push` it also
        overwrites files while they are uploaded: that commit is lost, or has the weights of a later step.
        """
        if self.is_world_process_zero() and self.args.hub_strategy != HubStrategy.END:
            if self.args.hub_always_push:
                self._finish_current_push()
            if self.push_in_progress is None or self.push_in_progress.is_done():
                for code in Path(checkpoint_folder).glob("*.py"):
                    shutil.copy(code, str(self.args.output_dir))
        super()._push_from_checkpoint(checkpoint_folder)

    def _finish_current_push(self) -> None:
        """Wait as `Trainer` does, and say what went wrong: an expired token would only show after the training."""
        super()._finish_current_push()
        pushing = getattr(self, "push_in_progress", None)
        for job in pushing.jobs if pushing is not None else ():
            error = job.exception()
            if error is not None:
                if isinstance(error, RuntimeError):  # what huggingface_hub wraps a failed file's error in
                    error = error.__cause__ or error
                logger.warning(f"A push during training failed: {' '.join(str(error).split())}")
        self.push_in_progress = None

    def settings_for_card(self) -> dict[str, Any]:
        """More lines of the card's list of hyperparameters, name to value."""
        return {}

    def create_model_card(self, *arguments: Any, **kwargs: Any) -> None:
        """`Trainer`'s draft with more settings; it calls a student from scratch a "fine-tuned version of []"."""
        super().create_model_card(*arguments, **kwargs)
        settings = self.settings_for_card()
        if not settings or not self.is_world_process_zero():
            return
        path = Path(str(self.args.output_dir)) / "README.md"
        used = "The following hyperparameters were used during training:\n"
        lines = "".join(f"- {name}: {value}\n" for name, value in settings.items())
        text = path.read_text(encoding="utf-8").replace(used, used + lines)
        text = text.replace("a fine-tuned version of [](https://huggingface.co/)", "a student trained from scratch")
        path.write_text(text, encoding="utf-8")
