"""A discriminator that separates the states of teacher and student."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hf_distill.matching.base import Alignment, Matching, States, average
from hf_distill.matching.tensors import linear, normalize, parameter_options, project, projections


class AdversarialMatching(Matching):
    """Adversarial loss: a discriminator learns to separate the two models' states, and the student learns to fool it.

    Paired and relativistic: d = D(h_t, c) - D(h_s, c), for the two states of one item and the teacher's logits c. The
    discriminator minimises softplus(-d) + γ/2 (‖∇D(h_t)‖² + ‖∇D(h_s)‖²). The student minimises w(p) (softplus(d) + λ
    MSE), where w(p) = weight · (2 / (1 + e^(-10p)) - 1) gives the discriminator a head start; p is the progress of
    training. Neither part has a gradient on the other's parameters, so one backward and one optimizer serve both. Plain
    gradient reversal would saturate, since a discriminator separates two networks within a few steps. `d_accuracy`, the
    share of items with d > 0, is logged, and `mse`.

    Where the widths differ, a linear map without bias, trained with the student, projects its states to the teacher's
    width. `discriminators` holds one discriminator for each pair of layers.

    Args:
        layers: student layer to teacher layer; 0 is the embeddings, negative counts from the end.
        weight: of the student's part. The discriminators' gradient does not depend on it, unless it is 0.
        granularity: "token", "word" or "sequence"; logits per position are averaged like the states. With logits over a
            vocabulary the discriminators' first layer is large.
        name: logged as `<name>_loss`; None: "adversarial". The sum of both parts, in nats, without the weight.
        hidden_size: of the two-layer discriminators.
        learning_rate: of the discriminators; None: the trainer's.
        mse_weight: λ, >= 0.
        gradient_penalty: γ, >= 0.
    Raises:
        ValueError: as `Matching`, settings out of range, or logits that do not fit the states.
    Source:
        Jolicoeur-Martineau 2018 (relativistic), arXiv:1807.00734; the penalty on both sides as in Huang et al. 2024
        (R3GAN), arXiv:2501.05441, after Mescheder et al. 2018 (R1), arXiv:1801.04406; w(p) from Ganin et al. 2016,
        arXiv:1505.07818.
    """

    kind = "adversarial"

    def __init__(
        self,
        layers: Mapping[int, int],
        weight: float = 1.0,
        granularity: str = "token",
        name: str | None = None,
        *,
        hidden_size: int = 256,
        learning_rate: float | None = 2e-4,
        mse_weight: float = 1.0,
        gradient_penalty: float = 1.0,
    ) -> None:
        super().__init__(layers, weight, granularity, name)
        if hidden_size < 1 or (learning_rate is not None and learning_rate <= 0):
            raise ValueError(
                "hidden_size must be at least 1 and learning_rate above 0 (None: the trainer's); got "
                f"{hidden_size} and {learning_rate}."
            )
        if mse_weight < 0 or gradient_penalty < 0:
            raise ValueError(
                "mse_weight and gradient_penalty must not be negative, or the student would be pushed away from the "
                f"teacher; got {mse_weight} and {gradient_penalty}."
            )
        self.hidden_size = hidden_size
        self.learning_rate = learning_rate
        self.mse_weight = mse_weight
        self.gradient_penalty = gradient_penalty

    def _create(self, widths: list[tuple[int, int]], student: States, teacher: States) -> None:
        self.classes = 0 if teacher.logits is None else teacher.logits.shape[-1]
        self.projections = projections(widths, student)
        self.discriminators = nn.ModuleList(
            _Discriminator(teacher_width, self.classes, self.hidden_size, student) for _, teacher_width in widths
        )
        self._item_logits(self._align(student, teacher, 0.0)[0], torch.float32)  # raises if the logits do not fit

    def paced_parameters(self) -> Iterator[nn.Parameter]:
        """The discriminators' parameters; the projections have the student's learning rate."""
        return self.discriminators.parameters()

    def _compare(self, number: int, student: Tensor, teacher: Tensor, alignment: Alignment) -> dict[str, Tensor]:
        student_items = normalize(project(self.projections[number], student[alignment.keep]))
        teacher_items = normalize(teacher[alignment.keep])
        logits = self._item_logits(alignment, student_items.dtype)
        discriminator: Any = self.discriminators[number]

        detached = student_items.detach()
        teacher_score = discriminator(teacher_items, logits)
        difference = teacher_score - discriminator(detached, logits)
        penalty = discriminator.squared_gradient_norm(teacher_items, logits)
        penalty = penalty + discriminator.squared_gradient_norm(detached, logits)
        discriminator_loss = F.softplus(-difference) + 0.5 * self.gradient_penalty * penalty
        # The trainer multiplies the sum by `weight`, which is meant for the student's part alone. The gradient, not the
        # value, is divided by it here, so that the discriminator learns equally fast at any weight.
        fixed = discriminator_loss.detach()
        discriminator_loss = fixed + (discriminator_loss - fixed) / (self.weight or 1.0)

        frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
        student_score = functional_call(discriminator, frozen, (student_items, logits))
        student_loss = F.softplus(teacher_score.detach() - student_score)
        mse = (student_items - teacher_items).square().mean(-1)
        ramp = 2 / (1 + math.exp(-10 * alignment.progress)) - 1
        return {
            "values": discriminator_loss + ramp * (student_loss + self.mse_weight * mse),
            "d_accuracy": (difference > 0).to(student_items.dtype),
            "mse": mse,
        }

    def _item_logits(self, alignment: Alignment, dtype: torch.dtype) -> Tensor:
        """(items, classes): the teacher's logits at each item; classes is 0 if the teacher returned none."""
        logits = alignment.teacher.logits
        found = 0 if logits is None else logits.shape[-1]
        if found != self.classes:
            raise ValueError(
                f"{self.name}: the discriminators were built for {self.classes} logits of the teacher (0: none), and "
                f"now there are {found}. Pass the teacher's logits in every call or in none."
            )
        batch, units = alignment.keep.shape
        if logits is None:
            return torch.zeros(int(alignment.keep.sum()), 0, dtype=dtype, device=alignment.keep.device)
        # A class that is ruled out by -inf becomes -100: the probability is as good as 0, and arithmetic still works.
        logits = logits.detach().to(dtype).clamp(-100.0, 100.0)
        if logits.dim() == 2:
            return logits.unsqueeze(1).expand(batch, units, -1)[alignment.keep]
        mask = alignment.teacher.mask.bool()
        if logits.shape[:2] != mask.shape:
            raise ValueError(
                f"{self.name}: the teacher's logits are {tuple(logits.shape)}, expected one row an example, or one at "
                f"each of the positions {tuple(mask.shape)} of its states. Match the states that the logits are "
                "computed from (in an encoder-decoder the decoder's)."
            )
        return average(logits.masked_fill(~mask.unsqueeze(-1), 0), alignment.teacher_members)[alignment.keep]


class _Discriminator(nn.Module):
    """A two-layer MLP over states and logits; smooth, since the penalty needs its gradient."""

    def __init__(self, width: int, classes: int, hidden_size: int, student: States) -> None:
        super().__init__()
        self.inner = nn.Linear(width + classes, hidden_size, **parameter_options(student))
        self.outer = nn.Linear(hidden_size, 1, **parameter_options(student))

    def forward(self, states: Tensor, logits: Tensor) -> Tensor:
        """(items,), the score."""
        return linear(self.outer, F.silu(linear(self.inner, torch.cat([states, logits], -1)))).squeeze(-1)

    def squared_gradient_norm(self, states: Tensor, logits: Tensor) -> Tensor:
        """(items,), ‖∇D‖² with respect to the states.

        Computed in closed form: `autograd.grad` with `create_graph` would need a second backward, which
        `torch.compile` and evaluation without gradients do not support.
        """
        pre_activation = linear(self.inner, torch.cat([states, logits], -1))
        gate = pre_activation.sigmoid()
        weight = self.outer.weight.to(pre_activation.dtype)
        slope = gate * (1 + pre_activation * (1 - gate)) * weight  # (items, hidden)
        return (slope @ self.inner.weight[:, : states.shape[-1]].to(pre_activation.dtype)).square().sum(-1)
