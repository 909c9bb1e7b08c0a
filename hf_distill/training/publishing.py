"""What a trainer publishes while it trains and at its end, mended where `Trainer` would publish something unusable."""

import copy
import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import torch
from huggingface_hub import HfApi
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from hf_distill.hub.markdown import code, text
from hf_distill.hub.push import NOT_PUSHED, PRIVATE, additions, read_card
from hf_distill.hub.usage import addressed
from hf_distill.paths import is_hub_id
from hf_distill.redaction import redacted, shareable

logger = logging.get_logger(__name__)

# How `Trainer`'s draft begins, and what it writes of unknown data.
ORIGIN = re.compile(
    r"^This model (?:was trained from scratch|is a fine-tuned version of \[(.*?)\]\(.*?\)) on (.*)\.$", re.MULTILINE
)
TITLE = re.compile(r"^# (.*)$", re.MULTILINE)
UNKNOWN_DATA = ("an unknown dataset", "the None dataset")


class Uploads(HfApi):
    """The Hub's client as `Trainer` uses it, whose uploads leave out what `hub.NOT_PUSHED` names."""

    def upload_folder(  # type: ignore[override]  # what Trainer passes
        self,
        *,
        repo_id: str,
        folder_path: str | Path,
        path_in_repo: str | None = None,
        ignore_patterns: list[str] | None = None,
        run_as_future: bool = False,
        **commit: Any,
    ) -> Any:
        """One commit of a student's folder, or of a checkpoint's with all that a training goes on from.

        Args:
            repo_id: "user/name".
            folder_path: of the student or the checkpoint.
            path_in_repo: of a checkpoint.
            ignore_patterns: `Trainer`'s own, which are among ours.
            run_as_future: whether to upload in the background, where one upload waits for the other.
            commit: more arguments of `create_commit`.
        Returns:
            The commit, or the future of one.
        """
        if run_as_future:
            settings = {"repo_id": repo_id, "folder_path": folder_path, "path_in_repo": path_in_repo, **commit}
            return self.run_as_future(self.upload_folder, **settings)
        state, card = Path(folder_path) / "trainer_state.json", Path(folder_path) / "README.md"
        made = {}
        if path_in_repo is None and card.is_file():
            made[card.name] = addressed(card.read_text(encoding="utf-8"), repo_id)
        if path_in_repo is not None and state.is_file():  # it knows where the best checkpoint lies
            made[state.name] = json.dumps(shareable(json.loads(state.read_text(encoding="utf-8"))), indent=2)
        left = NOT_PUSHED if path_in_repo is None else PRIVATE
        return self.create_commit(repo_id, additions(folder_path, made, to=path_in_repo or "", left=left), **commit)


class PrivateTorch:
    """torch as `Trainer` saves its arguments with it: `save` leaves out of them what is private."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def save(content: Any, path: Any) -> None:
        """Write training arguments without tokens and folders of this machine, anything else as it is."""
        torch.save(without_private(content) if isinstance(content, TrainingArguments) else content, path)


def without_private(arguments: TrainingArguments) -> TrainingArguments:
    """A copy of training arguments in which tokens are None and paths have their last name only.

    Args:
        arguments: stay as they are.
    """
    kept = copy.copy(arguments)
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}
    shown = shareable(values)
    for name, value in values.items():
        if isinstance(value, str | dict | list):
            object.__setattr__(kept, name, shown.get(name))
    return kept


def with_names(method: Any, **names: Any) -> Callable[..., Any]:
    """A method of `Trainer` that finds something of ours under some names of its module.

    `Trainer` (transformers 5.23) calls `hf_api()` and `torch.save` in the middle of its methods and has no hook for
    them. The copy made here looks these names up elsewhere; `Trainer` and its module stay as they are, also for other
    threads.

    Args:
        method: bound.
        names: what stands for each name in it.
    Raises:
        RuntimeError: the method does not use a name, so that what it uploads or saves could not be filtered.
    """
    function = method.__func__
    for name in names:
        if name not in function.__code__.co_names:
            raise RuntimeError(
                f"{function.__qualname__} does not use {name}, so hf_distill cannot keep the token and folders of "
                "this machine out of what it writes and uploads. Use transformers 5.23, or push the folder with "
                "`hf-distill push`."
            )
    found = {**function.__globals__, **names}
    copied = FunctionType(function.__code__, found, function.__name__, function.__defaults__, function.__closure__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return MethodType(copied, method.__self__)


class PublishingTrainer(Trainer):
    """`transformers.Trainer` whose pushes can be loaded at any time. (transformers 5.23 needs each of these.)"""

    def push_to_hub(self, *arguments: Any, **kwargs: Any) -> Any:
        """Publish as `Trainer` does, without `training_args.bin`, which holds the token, and without logs."""
        return with_names(super().push_to_hub, hf_api=lambda: self._uploads)(*arguments, **kwargs)

    @cached_property
    def _uploads(self) -> Uploads:
        return Uploads(library_name="transformers")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Publish a checkpoint as `Trainer` does, with the student's own code, and never over a running upload.

        `Trainer` copies only configuration and weights, which cannot be loaded. With `hub_always_push` it also
        overwrites files while they are uploaded: that commit is lost, or has the weights of a later step.
        """
        if self.is_world_process_zero() and self.args.hub_strategy != HubStrategy.END:
            if self.args.hub_always_push:
                self._finish_current_push()
            if self.push_in_progress is None or self.push_in_progress.is_done():
                for code in Path(checkpoint_folder).glob("*.py"):
                    place = Path(str(self.args.output_dir)) / code.name
                    place.unlink(missing_ok=True)  # a link would be followed
                    shutil.copy(code, place)
        push = with_names(super()._push_from_checkpoint, hf_api=lambda: self._uploads, torch=PrivateTorch())
        push(checkpoint_folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save as `Trainer` does, with `training_args.bin` that holds neither a token nor folders of this machine."""
        with_names(super()._save, torch=PrivateTorch())(output_dir, state_dict)

    def _finish_current_push(self) -> None:
        """Wait as `Trainer` does, and warn of a failed push: an expired token would only show after the training."""
        super()._finish_current_push()
        pushing = getattr(self, "push_in_progress", None)
        for job in pushing.jobs if pushing is not None else ():
            error = job.exception()
            if error is not None:
                if isinstance(error, RuntimeError):  # what huggingface_hub wraps a failed file's error in
                    error = error.__cause__ or error
                line = redacted(" ".join(str(error).split()), self.args.hub_token)
                logger.warning(f"A push during training failed: {line}")
        self.push_in_progress = None

    def settings_for_card(self) -> dict[str, Any]:
        """More lines of the card's list of hyperparameters, name to value."""
        return {}

    def teachers_for_card(self) -> list[str]:
        """Ids on the Hub of the models that it learns from."""
        return []

    def create_model_card(self, *arguments: Any, **kwargs: Any) -> None:
        """`Trainer`'s draft with more settings and the teacher; the card of a report stays as it is.

        Raises:
            ValueError: a name of several lines, which the card's metadata and its text could not hold apart.
        """
        for name in _texts([arguments, kwargs]):
            if not name.isprintable():
                raise ValueError(
                    f"create_model_card: expected names on one line, got {name!r}. Leave the line ends out."
                )
        path = Path(str(self.args.output_dir)) / "README.md"
        if path.is_file() and _is_of_report(path):
            return
        super().create_model_card(*arguments, **kwargs)
        if not self.is_world_process_zero():
            return
        settings, teachers = self.settings_for_card(), self.teachers_for_card()
        draft = path.read_text(encoding="utf-8")
        shown = TITLE.sub(lambda found: f"# {text(found[1])}", draft, count=1)
        shown = ORIGIN.sub(lambda found: _origin(found, teachers, bool(settings)), shown, count=1)
        if not settings:
            if shown != draft:
                path.write_text(shown, encoding="utf-8")
            return
        used = "The following hyperparameters were used during training:\n"
        lines = "".join(f"- {name}: {value}\n" for name, value in settings.items())
        card = read_card(shown.replace(used, used + lines))
        if teachers:
            start = card.data.get("base_model")
            card.data["base_model"] = [*([start] if start else []), *teachers]
            card.data["base_model_relation"] = "finetune"
        card.save(path)


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    inner = content.values() if isinstance(content, Mapping) else content if isinstance(content, Iterable) else ()
    return [found for each in inner for found in _texts(each)]


def _is_of_report(path: Path) -> bool:
    tags = read_card(path.read_text(encoding="utf-8")).data.get("tags") or []
    return "hf_distill" in tags and "generated_from_trainer" not in tags


def _origin(found: re.Match[str], teachers: Sequence[str], distils: bool) -> str:
    """The draft's first sentence; of a student without a start of its own `Trainer` makes up one, as of the data."""
    start, data = found[1], found[2]
    if not distils:
        return found[0].removesuffix(f"{data}.") + f"{text(data)}."
    origin = f"fine-tuned version of {_linked(start)}" if start else "student"
    if teachers:
        origin += f", distilled from {' and '.join(map(_linked, teachers))}"
    return f"This model is a {origin}{'' if data in UNKNOWN_DATA else f' on {text(data)}'}."


def _linked(name: str) -> str:
    return f"[{name}](https://huggingface.co/{name})" if is_hub_id(name) else code(Path(name).name)
