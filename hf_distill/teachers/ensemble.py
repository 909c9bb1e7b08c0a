"""Several teachers as one."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from hf_distill.models import problem_type


class TeacherEnsemble:
    """Several teachers that speak as one: the mixture of their probabilities.

    Its logits are the log of the members' mean probability at temperature 1 (the logit of it for multi-label models,
    the mean for regressions), so they can be cached and tempered like any teacher's.

    Args:
        models: with the same classes in the same order.
        weights: one number >= 0 a member, normalised to sum to one. None: equal.
    Raises:
        ValueError: no members, weights that do not fit, or members whose classes differ.
    """

    def __init__(self, models: Sequence[PreTrainedModel], weights: Sequence[float] | None = None) -> None:
        if not models:
            raise ValueError("TeacherEnsemble needs at least one model, got none.")
        weights = [1.0] * len(models) if weights is None else list(weights)
        if len(weights) != len(models) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"Expected {len(models)} weights >= 0 with a positive sum, got {weights}.")
        classes = [model.config.num_labels for model in models]
        if len(set(classes)) > 1:
            raise ValueError(f"The members of an ensemble need the same classes, got {classes} of them.")
        self.models = list(models)
        self.weights = [weight / sum(weights) for weight in weights]

    @property
    def config(self) -> Any:
        """The first member's config: the classes are everybody's."""
        return self.models[0].config

    def mixture(self, logits: Sequence[Tensor]) -> Tensor:
        """The ensemble's logits from its members'.

        Args:
            logits: one (..., classes) a member.
        """
        problem = problem_type(self.config, None)
        weights = torch.tensor(self.weights, device=logits[0].device)
        stacked = torch.stack([member.float() for member in logits])
        shaped = weights.view(-1, *[1] * (stacked.dim() - 1))
        if problem == "regression":
            return (shaped * stacked).sum(dim=0)
        if problem == "multi_label_classification":
            on = torch.logsumexp(F.logsigmoid(stacked) + shaped.log(), dim=0)
            off = torch.logsumexp(F.logsigmoid(-stacked) + shaped.log(), dim=0)
            return on - off
        return torch.logsumexp(F.log_softmax(stacked, dim=-1) + shaped.log(), dim=0)
