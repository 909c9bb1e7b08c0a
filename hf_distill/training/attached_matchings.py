"""The matchings as a part of the student while it trains, so that they are trained, saved and resumed with it."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import lr_scheduler
from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

from hf_distill import columns
from hf_distill.matching.attention import AttentionMatching
from hf_distill.matching.base import Matching, States
from hf_distill.models import evaluating
from hf_distill.problems import IGNORE_INDEX, Task
from hf_distill.training.batch import Batch

NAME = "kd_bridge"  # as in the checkpoints of version 0.1.0
# Trainer pushes no file whose name starts with an underscore, except within a whole checkpoint.
FILE = "_kd_bridge.safetensors"


def check_cached_states(matchings: Sequence[Matching], names: set[str]) -> None:
    """Raise where matchings compare with states of a teacher that are not among the columns.

    Args:
        matchings: that have no live teacher.
        names: of the columns.
    Raises:
        ValueError: a layer is missing, or a negative layer index into a cache of unknown depth.
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

    Their parameters are in the student under `kd_bridge` and are used by a hook of its forward. Parameters outside the
    student would be neither zeroed nor clipped nor averaged over processes, and parameters used outside its forward
    confuse data parallelism.

    Args:
        matchings: with names that differ.
        task: of the student.
    """

    def __init__(self, matchings: Sequence[Matching], task: Task) -> None:
        super().__init__()
        self.matchings: Any = nn.ModuleList(copy.deepcopy(matching) for matching in matchings)
        self.task = task
        self._target: tuple[Batch, States, float] | None = None

    @property
    def outputs_needed(self) -> dict[str, bool]:
        """What both models must return beside their logits."""
        return {"output_hidden_states": True} | (
            {"output_attentions": True}
            if any(isinstance(matching, AttentionMatching) for matching in self.matchings)
            else {}
        )

    def build(self, student: Any, batch: Batch) -> None:
        """Make the projections: a few rows show how wide the states of both models are.

        Args:
            student: on its device.
            batch: a small real one.
        """
        teacher = batch.teacher
        with evaluating(student), torch.no_grad():
            own = self.states(student(**batch.student_inputs, **self.outputs_needed), batch)
        output = self.cached_output(batch) if teacher is None else teacher(batch.inputs, **self.outputs_needed)
        other = self.states(output, batch, of_teacher=True)
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

    def set_target(self, batch: Batch, teacher_output: Any, progress: float) -> None:
        """Keep what the student's next forward is compared with.

        Args:
            batch: the student's.
            teacher_output: with its inner states.
            progress: of the training, 0 to 1.
        """
        self._target = (batch, self.states(teacher_output, batch, of_teacher=True), progress)

    def counts(self, batch: Batch) -> list[Tensor]:
        """How many items of a batch each matching counts."""
        student, teacher = (self._positions(batch, of_teacher) for of_teacher in (False, True))
        return [matching.counted(*student, *teacher).sum() for matching in self.matchings]

    def cached_output(self, batch: Batch) -> dict[str, Any]:
        """The part of the teacher's output that was cached: layers that were not cached are empty.

        Args:
            batch: with columns `teacher_hidden_<layer>`.
        """
        cached = {
            int(name.removeprefix(columns.HIDDEN)): state
            for name, state in batch.inputs.items()
            if name.startswith(columns.HIDDEN)
        }
        some = next(iter(cached.values()))
        hidden = tuple(cached.get(layer, some[..., :0]) for layer in range(max(cached) + 1))
        # In tagging the cached logits are of words, and the states of positions.
        logits = None if self.task.word_level else batch.inputs.get(columns.LOGITS)
        return {f"{self._prefix}hidden_states": hidden, "logits": logits}

    def states(self, output: Any, batch: Batch, of_teacher: bool = False) -> States:
        """A model's states on a batch, on the student's device.

        Args:
            output: with its inner states.
            batch: the whole one.
            of_teacher: whether the output is the teacher's.
        """
        mask, word_starts = self._positions(batch, of_teacher)
        device = mask.device
        attentions = output.get(f"{self._prefix}attentions")
        return States(
            hidden=tuple(state.to(device) for state in output[f"{self._prefix}hidden_states"]),
            mask=mask,
            attentions=None if attentions is None else tuple(state.to(device) for state in attentions),
            word_starts=word_starts,
            logits=None if output["logits"] is None else output["logits"].to(device),
        )

    @property
    def _prefix(self) -> str:
        return "decoder_" if self.task.in_decoder else ""

    def _positions(self, batch: Batch, of_teacher: bool) -> tuple[Tensor, Tensor | None]:
        """The positions that are not padding and where words start, on one side."""
        inputs = batch.inputs
        if self.task.in_decoder:
            own = of_teacher and columns.TEACHER_LABELS in inputs
            return inputs[columns.TEACHER_LABELS if own else "labels"] != IGNORE_INDEX, None
        own = of_teacher and bool(columns.teacher_inputs(inputs))
        word_starts = inputs.get(columns.TEACHER_WORD_STARTS if own else columns.WORD_STARTS)
        read = batch.teacher_inputs if of_teacher else inputs
        mask = read.get("attention_mask")
        return (torch.ones_like(read["input_ids"]) if mask is None else mask) != 0, word_starts

    @torch.compiler.disable  # the target changes at every step, and each would be compiled again
    def _compare(self, student: nn.Module, arguments: Any, output: Any) -> Any:
        if self._target is None:
            return None
        (batch, teacher, progress), self._target = self._target, None
        own = self.states(output, batch)
        # A plain dict: data parallelism rebuilds a ModelOutput and would refuse another key.
        return {
            "logits": output["logits"],
            NAME: {matching.name: vars(matching(own, teacher, progress)) for matching in self.matchings},
        }

    def join(self, optimizer: Any, scheduler: Any) -> None:
        """Have an optimizer train every parameter of the matchings; doing it again changes nothing.

        A matching with its own learning rate gets a parameter group of its own. An optimizer that was made without the
        matchings gets a group of their parameters at the learning rate of its first group.

        Args:
            optimizer: made with or without them, wrapped by accelerate or not.
            scheduler: the user's own, made for that optimizer; None where it is made later.
        Raises:
            ValueError: parameters cannot be added to this optimizer or this scheduler.
        """
        if isinstance(optimizer, LayerWiseDummyOptimizer):
            raise ValueError(
                "matching has parameters of its own, and a layer-wise optimizer steps in hooks that were made before "
                "them: they would never be trained. Choose an optimizer that is not layer-wise."
            )
        groups = optimizer.param_groups
        trained = {id(parameter) for group in groups for parameter in group["params"]}
        base = groups[0].get("initial_lr", groups[0]["lr"])  # a scheduler may have begun to warm it up
        paced = [each for each in self.matchings if each.learning_rate is not None]
        apart = {id(parameter) for each in paced for parameter in each.paced_parameters()}
        left_out = [p for p in self.parameters() if p.requires_grad and id(p) not in trained and id(p) not in apart]
        added: list[dict[str, Any]] = [{"params": left_out, "lr": base}] if left_out else []
        for matching in paced:
            parameters = list(matching.paced_parameters())
            own = {id(parameter) for parameter in parameters}
            if any({id(parameter) for parameter in group["params"]} == own for group in groups):
                continue
            if own & trained:  # in the order of the optimizer's groups
                parameters = [p for group in groups for p in group["params"] if id(p) in own]
                for group in groups:
                    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
            added.append({"params": parameters, "lr": matching.learning_rate})
        for group in added:
            optimizer.add_param_group(group)
        if added and scheduler is not None:
            _extend(scheduler, optimizer, len(added))

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


# Schedulers whose only lists with one entry a parameter group are these.
BASE_LRS = (
    lr_scheduler.LambdaLR,
    lr_scheduler.StepLR,
    lr_scheduler.MultiStepLR,
    lr_scheduler.ConstantLR,
    lr_scheduler.LinearLR,
    lr_scheduler.ExponentialLR,
    lr_scheduler.PolynomialLR,
    lr_scheduler.CosineAnnealingLR,
    lr_scheduler.CosineAnnealingWarmRestarts,
)


def _extend(scheduler: Any, optimizer: Any, number: int) -> None:
    """Make a scheduler of an optimizer move its last groups as it moves the first."""
    first, *_ = groups = optimizer.param_groups
    if type(scheduler) not in BASE_LRS or len({*map(id, getattr(scheduler, "lr_lambdas", ()))}) > 1:
        raise ValueError(
            f"optimizers=(..., {type(scheduler).__name__}): matching has parameters of its own, and it is unknown how "
            "this scheduler should move their learning rate. Pass optimizers=(optimizer, None) and choose "
            "lr_scheduler_type=... in the arguments, or a LambdaLR with one function."
        )
    share = first["lr"] / first["initial_lr"] if first["initial_lr"] else 1.0
    for group in groups[-number:]:
        group["initial_lr"] = group["lr"]
        group["lr"] = group["lr"] * share
        scheduler.base_lrs.append(group["initial_lr"])
        scheduler._last_lr.append(group["lr"])
        if hasattr(scheduler, "lr_lambdas"):
            scheduler.lr_lambdas.append(scheduler.lr_lambdas[0])
