"""A teacher that is called in training."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_distill import columns
from hf_distill.models import evaluating, forward_arguments, is_placed
from hf_distill.teachers.ensemble import TeacherEnsemble


class LiveTeacher:
    """Runs a teacher on batches, without gradients and without changing it.

    It is moved to `device` unless it is quantised or was placed by a device map: such a model stays where it is and its
    outputs are moved instead.

    Args:
        model: a model or an ensemble.
        device: the student's.
    """

    def __init__(self, model: PreTrainedModel | TeacherEnsemble, device: torch.device) -> None:
        self.model = model
        self.device = device
        self.members = model.models if isinstance(model, TeacherEnsemble) else [model]
        self.arguments = set.intersection(*(forward_arguments(member) for member in self.members))
        for member in self.members:
            if not is_placed(member):
                member.to(device)  # type: ignore[arg-type]

    def inputs_from(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What the teacher reads of a batch: its own inputs where it has some, else the student's, never labels."""
        own = columns.teacher_inputs(batch)
        inputs = own if "input_ids" in own else {**batch, **own}
        return {name: value for name, value in inputs.items() if name in self.arguments and name != "labels"}

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any], **kwargs: Any) -> Any:
        """The model's output, or for an ensemble a mapping with `logits` alone.

        Args:
            batch: collated, on the student's device.
            kwargs: more arguments of the forward, `output_hidden_states` for instance.
        """
        inputs = self.inputs_from(batch)
        outputs = []
        for member in self.members:
            there = member.device
            here = {name: value.to(there) if isinstance(value, Tensor) else value for name, value in inputs.items()}
            with evaluating(member):
                outputs.append(member(**here, **kwargs))
        if not isinstance(self.model, TeacherEnsemble):
            return outputs[0]
        return {"logits": self.model.mixture([output.logits.to(self.device) for output in outputs])}
