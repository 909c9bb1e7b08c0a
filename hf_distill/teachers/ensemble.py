"""Several teachers as one."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from hf_distill.models import callable_model, problem_type
from hf_distill.problems import TASKS, check_classes


class TeacherEnsemble:
    """Several teachers used as one: the mixture of their probabilities.

    Its logits are the log of the members' mean probability at temperature 1 (the logit of it for multi-label models,
    the mean for regressions), so they can be cached and tempered like any teacher's.

    Args:
        models: with the same classes in the same order, for the same kind of problem.
        weights: one number >= 0 a member, normalized to sum to one. None: equal.
    Raises:
        ValueError: no members, weights that do not fit, or members whose classes or problem types differ.
        TypeError: a member that is no model.
    """

    def __init__(self, models: Sequence[PreTrainedModel], weights: Sequence[float] | None = None) -> None:
        if not models:
            raise ValueError("TeacherEnsemble needs at least one model, got none.")
        weights = [1.0] * len(models) if weights is None else list(weights)
        if len(weights) != len(models) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"Expected {len(models)} weights >= 0 with a positive sum, got {weights}.")
        self.models = [callable_model(model) for model in models]
        for number, member in enumerate(self.models):
            for other, earlier in enumerate(self.models[:number]):
                names = (f"member {other} of the ensemble", f"member {number}")
                check_classes(earlier.config, member.config, TASKS["text-classification"], names)
        self.weights = [weight / sum(weights) for weight in weights]

    @property
    def config(self) -> Any:
        """The first member's config."""
        return self.models[0].config

    @property
    def problem_type(self) -> str | None:
        """What the members that have a `problem_type` agree on; None where none has one."""
        known = (model.config.problem_type for model in self.models)
        return next((problem for problem in known if problem is not None), None)

    def mixture(self, logits: Sequence[Tensor], problem: str | None = None) -> Tensor:
        """The ensemble's logits from its members'.

        Args:
            logits: one (..., classes) a member.
            problem: the kind of problem, see `models.problem_type`. None: by the members' configs.
        Raises:
            ValueError: logits of different sizes.
        """
        problem = problem or self.problem_type or problem_type(self.config, None)
        sizes = [member.shape[-1] for member in logits]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"The members of the ensemble have {sizes} outputs, and their probabilities are averaged one by one. "
                "If their tables are padded to different sizes for one tokenizer, call resize_token_embeddings on each "
                "with the same number."
            )
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
