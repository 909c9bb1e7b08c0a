"""Tensor helpers that the matchings share."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_distill.matching.base import States

# As in `losses`: exp of it is exactly 0, and the difference of two is finite, where -inf would make NaN.
RULED_OUT = -1e28


def parameter_options(states: States) -> dict[str, Any]:
    """Device and dtype of parameters for these states: never below float32, where small updates would be lost."""
    hidden = states.hidden[0]
    return {"device": hidden.device, "dtype": torch.promote_types(hidden.dtype, torch.float32)}


def projections(widths: list[tuple[int, int]], student: States) -> nn.ModuleList:
    """A linear map for each pair whose widths differ, nothing for the others."""
    return nn.ModuleList(
        nn.Identity() if ours == theirs else nn.Linear(ours, theirs, bias=False, **parameter_options(student))
        for ours, theirs in widths
    )


def project(projection: nn.Module, states: Tensor) -> Tensor:
    return linear(projection, states) if isinstance(projection, nn.Linear) else states


def linear(layer: Any, inputs: Tensor) -> Tensor:
    """A linear layer in the dtype of its inputs, also where the parameters were cast (`bf16_full_eval`)."""
    bias = layer.bias
    return F.linear(inputs, layer.weight.to(inputs.dtype), None if bias is None else bias.to(inputs.dtype))


def normalize(states: Tensor) -> Tensor:
    return F.layer_norm(states, states.shape[-1:])


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) in nats over the last dimension, p without gradient."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)
