"""Tensor functions that the matchings share."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_distill.matching.base import States

# As in `losses`: exp of it is exactly 0, and differences stay finite, where -inf - -inf would be NaN.
RULED_OUT = -1e28


def parameter_options(states: States) -> dict[str, Any]:
    """Device and dtype of new parameters: at least float32, since lower precision would lose small updates."""
    hidden = states.hidden[0]
    return {"device": hidden.device, "dtype": torch.promote_types(hidden.dtype, torch.float32)}


def projections(widths: list[tuple[int, int]], student: States) -> nn.ModuleList:
    """A linear map without bias for each (student, teacher) pair of different widths, the identity for equal ones."""
    return nn.ModuleList(
        nn.Identity()
        if student_width == teacher_width
        else nn.Linear(student_width, teacher_width, bias=False, **parameter_options(student))
        for student_width, teacher_width in widths
    )


def project(projection: nn.Module, states: Tensor) -> Tensor:
    """(..., teacher width): the states after one of the `projections`."""
    return linear(projection, states) if isinstance(projection, nn.Linear) else states


def linear(layer: Any, inputs: Tensor) -> Tensor:
    """Apply a linear layer in the dtype of its inputs, even if its parameters were cast (`bf16_full_eval`)."""
    bias = layer.bias
    return F.linear(inputs, layer.weight.to(inputs.dtype), None if bias is None else bias.to(inputs.dtype))


def normalize(states: Tensor) -> Tensor:
    """LayerNorm over the last dimension, without parameters."""
    return F.layer_norm(states, states.shape[-1:])


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) in nats over the last dimension; the caller detaches p."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)
