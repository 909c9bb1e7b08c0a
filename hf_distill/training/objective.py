"""The terms of the objective on one batch, unreduced: the labels and the soft targets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import ModelOutput

from hf_distill import columns, losses
from hf_distill.training.arguments import Objective, Weights
from hf_distill.training.batch import Batch

TWO_VOCABULARIES = "universal_logit_distance"  # the one loss that compares two vocabularies


def hard_loss(logits: Tensor, labels: Tensor, problem: str, label_smoothing: float = 0.0) -> Tensor:
    """The loss of each item on its label, unreduced.

    Args:
        logits: (items, classes).
        labels: (items,) class numbers; (items, classes) 0/1 floats for multi-label; (items,) or (items, classes) floats
            for regression.
        problem: see `problem_type`.
        label_smoothing: share of the probability spread over all classes, 0 to 1; single-label only.
    Returns:
        (items,): cross-entropy in nats; binary cross-entropy in nats, averaged over the classes; squared error,
        averaged over the outputs.
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    if problem == "single_label_classification":
        return F.cross_entropy(logits, labels.long(), reduction="none", label_smoothing=label_smoothing)
    targets = labels.to(logits.dtype).view_as(logits)
    if problem == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=-1)
    return F.mse_loss(logits, targets, reduction="none").mean(dim=-1)


def soft_loss(
    student_logits: Tensor,
    soft_targets: Mapping[str, Tensor],
    *,
    loss: str,
    problem: str,
    temperature: float,
    beta: float | None,
    labels: Tensor | None,
) -> Tensor:
    """How far the student is from the teacher, unreduced.

    Args:
        student_logits: (items, classes).
        soft_targets: `teacher_logits` (items, classes), or the three top-k columns, one row an item.
        loss: a name in `losses.LOSSES`; `forward_kl` stands for the natural loss of each problem.
        problem: see `models.problem_type`.
        temperature: > 0.
        beta: of the losses that have one; None: their own default.
        labels: (items,) class numbers, -100 where there is none, for the losses that look at the label.
    Returns:
        (items,)
    Raises:
        ValueError: a loss that does not fit the problem or the columns.
    """
    if columns.TOP_K_LOGITS in soft_targets:
        if loss == "universal_logit_distance":
            return losses.top_k_universal_logit_distance(
                student_logits, soft_targets[columns.TOP_K_LOGITS], soft_targets[columns.TAIL], temperature
            )
        if loss != "forward_kl":
            raise ValueError(
                "The cache holds the teacher's top-k logits, which only forward_kl can use (and, for two vocabularies, "
                f"universal_logit_distance); soft_target_loss is {loss!r}. Cache without top_k, or choose forward_kl."
            )
        return losses.top_k_forward_kl(
            student_logits,
            soft_targets[columns.TOP_K_LOGITS],
            soft_targets[columns.TOP_K_IDS],
            soft_targets[columns.TAIL],
            temperature,
        )
    natural = {"multi_label_classification": "bernoulli_kl", "regression": "logit_mse"}.get(problem, "forward_kl")
    if loss == "forward_kl":
        loss = natural
    elif problem != "single_label_classification" and loss not in (natural, "logit_mse"):
        raise ValueError(
            f"soft_target_loss={loss!r} compares one choice among classes, but the student's problem is {problem}. "
            f"Choose {natural} or logit_mse, or leave the default."
        )
    extra: dict[str, Any] = {}
    if loss in ("jensen_shannon", "skewed_kl") and beta is not None:
        extra["beta"] = beta
    if loss == "decoupled_kd":
        none = torch.full(student_logits.shape[:-1], -100, device=student_logits.device)
        extra["labels"] = none if labels is None else labels
    return losses.LOSSES[loss](student_logits, soft_targets[columns.LOGITS], temperature, **extra)


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


def hard_term(batch: Batch, logits: Tensor, problem: str, smoothing: float) -> Term | None:
    """The loss on the labels, or None where the batch has no column of them.

    Args:
        batch: with the labels.
        logits: the student's.
        problem: see `models.problem_type`.
        smoothing: of single-label problems, 0 to 1.
    """
    labels, mask = batch.labels, batch.label_mask
    if labels is None or mask is None:
        return None
    if problem != "single_label_classification":
        smoothing = 0.0
    read, labels = batch.task.aligned(logits)[mask], labels[mask]
    check_labels_fit(labels, read, problem)
    return Term(hard_loss(read, labels, problem, smoothing), _rows(mask))


def check_labels_fit(labels: Tensor, logits: Tensor, problem: str) -> None:
    """Raise where labels are none of a model's classes: what reads them would fail far from here, or train on them.

    Args:
        labels: (items, ...), those that count.
        logits: (items, classes).
        problem: see `models.problem_type`.
    Raises:
        ValueError: numbers beyond the classes, other numbers than 0 to 1 in a multi-label problem, or another shape.
    """
    classes = logits.shape[-1]
    single = problem == "single_label_classification"
    shapes = [(len(labels),)] if single else [tuple(logits.shape)]
    shapes += [(len(labels),)] if problem == "regression" and classes == 1 else []
    if tuple(labels.shape) not in shapes:
        each = "one number" if single or classes == 1 else f"{classes} numbers"
        raise ValueError(
            f"labels: expected {each} for each item, as the student has {classes} classes and its problem_type is "
            f"{problem}; got {tuple(labels.shape[1:])}. Let the data_collator make them so, or set "
            "model.config.problem_type and num_labels to what the labels are."
        )
    if problem == "regression" or not labels.numel():
        return
    wrong = (labels < 0) | (labels > (classes - 1 if single else 1)) | (labels != labels.long() if single else False)
    if wrong.any():
        what = f"whole numbers from 0 to {classes - 1}" if single else "numbers from 0 to 1"
        raise ValueError(
            f"labels: expected {what}, as the student has {classes} classes and its problem_type is {problem}; got "
            f"{labels[wrong][0].item():g}. Number the classes from 0, and write -100 where there is no label"
            f"{'' if single else ' (or NaN)'}."
        )


def soft_term(
    batch: Batch,
    logits: Tensor,
    soft_targets: Mapping[str, Tensor],
    problem: str,
    settings: Objective,
    weights: Weights,
) -> Term:
    """The loss on the teacher's outputs.

    Args:
        batch: with the masks.
        logits: the student's.
        soft_targets: `teacher_logits` or the top-k columns.
        problem: see `models.problem_type`.
        settings: which loss.
        weights: the temperature at this step.
    Raises:
        ValueError: an output a position, and the teacher has other positions; or the targets of two sequences that are
            compared one by one are other tokens.
    """
    task, mask, labels = batch.task, batch.soft_target_mask, batch.labels
    if task.word_level and any(value.dim() < 3 for value in soft_targets.values()):
        return Term(logits[mask].sum(dim=-1), _rows(mask))  # a cached batch without a single word
    if task.writes and columns.TEACHER_LABELS in batch.inputs and settings.soft_target_loss != TWO_VOCABULARIES:
        task.check_same_targets(batch.inputs, mask)
    values = soft_loss(
        task.aligned(logits)[mask],
        {name: task.soft_targets(each, batch.inputs, bool(batch.cached), mask) for name, each in soft_targets.items()},
        loss=settings.soft_target_loss,
        problem=problem,
        temperature=weights.temperature,
        beta=settings.soft_target_beta,
        labels=None if labels is None else labels[mask],
    )
    return Term(values, _rows(mask))


def _rows(counted: Tensor) -> Tensor:
    return counted.nonzero()[:, 0]


@dataclass
class DistillationOutput(ModelOutput):
    """What `compute_loss` returns beside the loss where the student's own output has no place for it."""

    loss: Tensor | None = None
    logits: Tensor | None = None


def with_loss(outputs: Any, loss: Tensor) -> ModelOutput:
    """The student's output with the loss in it, as models return it that are given labels.

    Args:
        outputs: with `logits`.
        loss: of the objective.
    """
    kind: Any = type(outputs)
    return kind(**{**outputs, "loss": loss}) if hasattr(kind, "loss") else DistillationOutput(loss, outputs["logits"])
