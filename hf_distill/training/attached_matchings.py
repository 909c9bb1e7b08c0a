"""The matchings inside the student while it trains, so that they live, train and resume with it."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hf_distill import columns
from hf_distill.matching.attention import AttentionMatching
from hf_distill.matching.base import Matching, States
from hf_distill.models import evaluating
from hf_distill.problems import IGNORE_INDEX, Task
from hf_distill.teachers.live import LiveTeacher

NAME = "kd_bridge"
# Trainer pushes no file whose name starts with an underscore, except within a whole checkpoint.
FILE = "_kd_bridge.safetensors"


def check_cached_states(matchings: Sequence[Matching], names: set[str]) -> None:
    """Raise where matchings compare with states of a teacher that are not among the columns.

    Args:
        matchings: that have no live teacher.
        names: of the columns.
    Raises:
        ValueError: a layer is missing, or is counted from the end of layers that nobody knows the number of.
    """
    layers = sorted({layer for matching in matchings for layer in matching.layers.values()})
    missing = [layer for layer in layers if f"{columns.HIDDEN}{layer}" not in names]
    if missing:
        there = sorted(
            int(name.removeprefix(columns.HIDDEN))
            for name in names
            if name.startswith(columns.HIDDEN) and name.removeprefix(columns.HIDDEN).isdigit()
        )
        raise ValueError(
            f"matching compares with the teacher's layers {missing}, and the cache holds {there}. Name cached layers "
            "by their number from 0 (the embeddings), cache them by hidden_layers=..., or pass teacher_model=..."
        )


class AttachedMatchings(nn.Module):
    """Matchings as a part of the student that is never saved with it.

    Their parameters sit in the student under `kd_bridge` and are used by a hook of its forward. Elsewhere they would
    miss
    something: parameters outside the student are neither zeroed nor clipped nor averaged over processes, and used
        outside
    its forward they confuse data parallelism.

    Args:
        matchings: with names that differ.
        task: of the student.
    """

    def __init__(self, matchings: Sequence[Matching], task: Task) -> None:
        super().__init__()
        self.matchings: Any = nn.ModuleList(copy.deepcopy(matching) for matching in matchings)
        self.task = task
        self._lesson: tuple[Mapping[str, Any], States, float] | None = None

    @property
    def needs(self) -> dict[str, bool]:
        """What both models must return beside their logits."""
        return {"output_hidden_states": True} | (
            {"output_attentions": True}
            if any(isinstance(matching, AttentionMatching) for matching in self.matchings)
            else {}
        )

    def build(
        self, student: Any, teacher: LiveTeacher | None, inputs: Mapping[str, Any], student_inputs: dict[str, Any]
    ) -> None:
        """Make the projections: a few rows show how wide the states of both models are.

        Args:
            student: on its device.
            teacher: ready to be asked; None: its states are columns of the batch.
            inputs: a small real batch.
            student_inputs: the part of it that the student reads.
        """
        with evaluating(student), torch.no_grad():
            own = self.states(student(**student_inputs, **self.needs), inputs, inputs)
        if teacher is None:
            other = self.states(self.remembered(inputs), inputs, columns.teacher_inputs(inputs) or inputs)
        else:
            other = self.states(teacher(inputs, **self.needs), inputs, teacher.inputs_from(inputs))
        own_widths, other_widths = ([state.shape[-1] for state in states.hidden] for states in (own, other))
        for matching in self.matchings:
            matching.build(own_widths, other_widths, student=own, teacher=other)
        self.to(own.mask.device)

    def attach(self, student: nn.Module) -> None:
        """Become a part of a student, one that `save_pretrained` leaves out."""
        setattr(student, NAME, self)
        self._hook = student.register_forward_hook(self._compare)
        self._kept = getattr(student, "_keys_to_ignore_on_save", None)
        own = {f"{NAME}.{name}" for name in self.state_dict()}
        student._keys_to_ignore_on_save = {*(self._kept or ()), *own}  # type: ignore[assignment]

    def detach(self, student: nn.Module) -> None:
        """Leave the student as it was before `attach`."""
        self._hook.remove()
        delattr(student, NAME)
        student._keys_to_ignore_on_save = self._kept  # type: ignore[assignment]

    def teach(self, inputs: Mapping[str, Any], said: Any, teacher_inputs: Mapping[str, Any], progress: float) -> None:
        """What the student's next forward is compared with.

        Args:
            inputs: the student's batch.
            said: the teacher's output with its inner states.
            teacher_inputs: what the teacher read.
            progress: of the training, 0 to 1.
        """
        self._lesson = (inputs, self.states(said, inputs, teacher_inputs), progress)

    def counts(self, inputs: Mapping[str, Any], teacher_inputs: Mapping[str, Any]) -> list[Tensor]:
        """How many items of a batch each matching counts."""
        student, teacher = (self._places(inputs, read) for read in (inputs, teacher_inputs))
        return [matching.counted(*student, *teacher).sum() for matching in self.matchings]

    def remembered(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What a batch holds of the teacher's output: layers that were not cached are empty.

        Args:
            inputs: the whole batch, with columns `teacher_hidden_<layer>`.
        """
        cached = {
            int(name.removeprefix(columns.HIDDEN)): state
            for name, state in inputs.items()
            if name.startswith(columns.HIDDEN)
        }
        some = next(iter(cached.values()))
        of = "decoder_" if self.task.name == "translation" else ""
        hidden = tuple(cached.get(layer, some[..., :0]) for layer in range(max(cached) + 1))
        # In tagging the cached logits are of words, and the states of positions.
        return {f"{of}hidden_states": hidden, "logits": None if self.task.word_level else inputs.get(columns.LOGITS)}

    def states(self, output: Any, inputs: Mapping[str, Any], read: Mapping[str, Any]) -> States:
        """What a model did on a batch, on the student's device.

        Args:
            output: with its inner states.
            inputs: the whole batch.
            read: the part of it that this model read, or all of it for the student.
        """
        mask, word_starts = self._places(inputs, read)
        of = "decoder_" if self.task.name == "translation" else ""
        device = mask.device
        attentions = output.get(f"{of}attentions")
        return States(
            hidden=tuple(state.to(device) for state in output[f"{of}hidden_states"]),
            mask=mask,
            attentions=None if attentions is None else tuple(state.to(device) for state in attentions),
            word_starts=word_starts,
            logits=None if output["logits"] is None else output["logits"].to(device),
        )

    def _places(self, inputs: Mapping[str, Any], read: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """The positions that are not padding and where words start, on one side."""
        if self.task.name == "translation":
            theirs = read is not inputs and columns.TEACHER_LABELS in inputs
            return inputs[columns.TEACHER_LABELS if theirs else "labels"] != IGNORE_INDEX, None
        own = read is not inputs and columns.teacher_inputs(inputs)
        word_starts = inputs.get(columns.TEACHER_WORD_STARTS if own else columns.WORD_STARTS)
        mask = read.get("attention_mask")
        return (torch.ones_like(read["input_ids"]) if mask is None else mask) != 0, word_starts

    @torch.compiler.disable  # the lesson changes at every step, and each would be compiled again
    def _compare(self, student: nn.Module, arguments: Any, output: Any) -> Any:
        if self._lesson is None:
            return None
        (inputs, teacher, progress), self._lesson = self._lesson, None
        own = self.states(output, inputs, inputs)
        # A plain dict: data parallelism rebuilds a ModelOutput and would refuse another key.
        return {
            "logits": output["logits"],
            NAME: {matching.name: vars(matching(own, teacher, progress)) for matching in self.matchings},
        }

    def regroup(self, optimizer: torch.optim.Optimizer) -> None:
        """Give every matching that has its own learning rate a parameter group of its own."""
        for matching in self.matchings:
            if matching.learning_rate is not None:
                own = {id(parameter) for parameter in matching.paced_parameters()}
                moved = [p for group in optimizer.param_groups for p in group["params"] if id(p) in own]
                for group in optimizer.param_groups:
                    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
                optimizer.add_param_group({"params": moved, "lr": matching.learning_rate})

    def save(self, folder: str | Path) -> None:
        """Write the matchings' parameters beside a checkpoint."""
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(state, Path(folder) / FILE)

    def load(self, folder: str | Path) -> None:
        """Read what `save` wrote.

        Raises:
            ValueError: the checkpoint was made without these matchings.
        """
        path = Path(folder) / FILE
        saved = load_file(path) if path.exists() else {}
        missing = self.state_dict().keys() ^ saved.keys()
        if missing:
            raise ValueError(
                f"{folder} was saved with other matchings than this trainer has: {', '.join(sorted(missing))} are not "
                "on both sides. Resume with the matching of that run, or start anew."
            )
        self.load_state_dict(saved)
