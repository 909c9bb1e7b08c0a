"""The terms of the objective on one batch, unreduced: the labels and the soft targets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hf_distill import columns
from hf_distill.arguments import Objective, Weights
from hf_distill.tasks import Task, hard_loss
from hf_distill.teacher import soft_loss


@dataclass(frozen=True)
class Term:
    """One term of the objective on one batch, unreduced.

    Attributes:
        values: (items,), the loss of each counted item.
        rows: (items,), the example each item belongs to.
        logged: more quantities of the items, averaged and logged like the loss.
    """

    values: Tensor
    rows: Tensor
    logged: Mapping[str, Tensor] = field(default_factory=dict)

    def per_example(self, examples: int) -> tuple[Tensor, Tensor]:
        """The sum and the number of the items of each example: two tensors of (examples,)."""
        zeros = self.values.new_zeros(examples)
        return zeros.index_add(0, self.rows, self.values), zeros.index_add(0, self.rows, torch.ones_like(self.values))


def hard_term(task: Task, logits: Tensor, inputs: Mapping[str, Any], problem: str, smoothing: float) -> Term | None:
    """The loss on the labels, or None where the batch has no column of them.

    Args:
        task: of the student.
        logits: the student's.
        inputs: the batch.
        problem: see `tasks.problem_type`.
        smoothing: of single-label problems, 0 to 1.
    """
    labels, labelled = task.labels(inputs), task.labelled(inputs)
    if labels is None or labelled is None:
        return None
    if problem != "single_label_classification":
        smoothing = 0.0
    return Term(hard_loss(task.aligned(logits)[labelled], labels[labelled], problem, smoothing), _rows(labelled))


def soft_term(
    task: Task,
    logits: Tensor,
    inputs: Mapping[str, Any],
    said: Mapping[str, Tensor],
    problem: str,
    settings: Objective,
    weights: Weights,
) -> Term:
    """The loss on what the teacher said.

    Args:
        task: of the student.
        logits: the student's.
        inputs: the batch.
        said: `teacher_logits` or the top-k columns.
        problem: see `tasks.problem_type`.
        settings: which loss.
        weights: the temperature at this step.
    Raises:
        ValueError: an output a position, and the teacher has other positions.
    """
    taught, labels = task.taught(inputs), task.labels(inputs)
    cached = any(name in inputs for name in columns.SOFT_TARGETS)
    if task.of_words and any(value.dim() < 3 for value in said.values()):  # a cached batch without a single word
        return Term(logits[taught].sum(dim=-1), _rows(taught))
    values = soft_loss(
        task.aligned(logits)[taught],
        {name: task.answers(value, inputs, cached) for name, value in said.items()},
        loss=settings.soft_target_loss,
        problem=problem,
        temperature=weights.temperature,
        beta=settings.soft_target_beta,
        labels=None if labels is None else labels[taught],
    )
    return Term(values, _rows(taught))


def _rows(counted: Tensor) -> Tensor:
    return counted.nonzero()[:, 0]
