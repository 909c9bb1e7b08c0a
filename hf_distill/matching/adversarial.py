"""A discriminator between the states of teacher and student."""

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
    """A discriminator learns to tell the teacher's states from the student's, which learn to pass for them.

    Paired and relativistic: with d = D(h_t, c) - D(h_s, c) for the two states of one item and the teacher's logits c,
    the discriminator minimises softplus(-d) + γ/2 (‖∇D(h_t)‖² + ‖∇D(h_s)‖²), the student w(p) (softplus(d) + λ MSE),
    where w(p) = weight · (2 / (1 + e^(-10p)) - 1) lets the discriminator learn first. Neither part gives the other's
    parameters a gradient, so one backward and one optimizer serve both; plain gradient reversal would saturate, since a
    discriminator tells two networks apart at once. `d_accuracy`, the share of items with d > 0, is logged, and `mse`.

    Where the widths differ, the student's states pass a linear map (no bias) to the teacher's width, learnt along. The
    discriminators, one a pair of layers, are in `discriminators`.

    Args:
        layers: student layer to teacher layer; 0 is the embeddings, negative counts from the end.
        weight: of the student's part; the discriminators' own gradient does not depend on it, unless it is 0.
        granularity: "token", "word" or "sequence"; logits a position are averaged as the states are. With a vocabulary
            of logits the discriminators' first layer is large.
        name: what it is logged as, `<name>_loss`; None: "adversarial". The sum of both parts, in nats, weight apart.
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
                "mse_weight and gradient_penalty must not be negative, or they would drive the two apart; got "
                f"{mse_weight} and {gradient_penalty}."
            )
        self.hidden_size = hidden_size
        self.learning_rate = learning_rate
        self.mse_weight = mse_weight
        self.gradient_penalty = gradient_penalty

    def _create(self, widths: list[tuple[int, int]], student: States, teacher: States) -> None:
        self.classes = 0 if teacher.logits is None else teacher.logits.shape[-1]
        self.projections = projections(widths, student)
        self.discriminators = nn.ModuleList(
            _Discriminator(theirs, self.classes, self.hidden_size, student) for _, theirs in widths
        )
        self._said(self._meet(student, teacher, 0.0)[0], torch.float32)  # raises where they do not fit

    def paced_parameters(self) -> Iterator[nn.Parameter]:
        """The discriminators': the projections learn at the student's pace."""
        return self.discriminators.parameters()

    def _compare(self, number: int, student: Tensor, teacher: Tensor, meeting: Alignment) -> dict[str, Tensor]:
        ours = normalize(project(self.projections[number], student[meeting.keep]))
        theirs = normalize(teacher[meeting.keep])
        said = self._said(meeting, ours.dtype)
        discriminator: Any = self.discriminators[number]

        fixed = ours.detach()
        real = discriminator(theirs, said)
        difference = real - discriminator(fixed, said)
        penalty = discriminator.steepness(theirs, said) + discriminator.steepness(fixed, said)
        caught = F.softplus(-difference) + 0.5 * self.gradient_penalty * penalty
        # The trainer multiplies all of this by `weight`, which is the student's part's alone: divided by it here, in
        # the gradient and not in the value, the discriminator learns as fast at any weight.
        caught = caught.detach() + (caught - caught.detach()) / (self.weight or 1.0)

        frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
        fooled = F.softplus(real.detach() - functional_call(discriminator, frozen, (ours, said)))
        mse = (ours - theirs).square().mean(-1)
        ramp = 2 / (1 + math.exp(-10 * meeting.progress)) - 1
        return {
            "values": caught + ramp * (fooled + self.mse_weight * mse),
            "d_accuracy": (difference > 0).to(ours.dtype),
            "mse": mse,
        }

    def _said(self, meeting: Alignment, dtype: torch.dtype) -> Tensor:
        """(items, classes): the teacher's logits at each item; no classes where it has no logits."""
        logits = meeting.teacher.logits
        found = 0 if logits is None else logits.shape[-1]
        if found != self.classes:
            raise ValueError(
                f"{self.name}: the discriminators were built for {self.classes} logits of the teacher (0: none), and "
                f"now there are {found}. Pass its logits always or never."
            )
        batch, units = meeting.keep.shape
        if logits is None:
            return torch.zeros(int(meeting.keep.sum()), 0, dtype=dtype, device=meeting.keep.device)
        # A class ruled out by -inf is as far out at -100, where arithmetic still works.
        logits = logits.detach().to(dtype).clamp(-100.0, 100.0)
        if logits.dim() == 2:
            return logits.unsqueeze(1).expand(batch, units, -1)[meeting.keep]
        mask = meeting.teacher.mask.bool()
        if logits.shape[:2] != mask.shape:
            raise ValueError(
                f"{self.name}: the teacher's logits are {tuple(logits.shape)}, expected one row an example, or one at "
                f"each of the positions {tuple(mask.shape)} of its states. Match the states that the logits are of "
                "(in an encoder-decoder the decoder's)."
            )
        return average(logits.masked_fill(~mask.unsqueeze(-1), 0), meeting.teacher_members)[meeting.keep]


class _Discriminator(nn.Module):
    """A two-layer MLP over states and logits; smooth, for the sake of the penalty on its slope."""

    def __init__(self, width: int, classes: int, hidden_size: int, student: States) -> None:
        super().__init__()
        self.inner = nn.Linear(width + classes, hidden_size, **parameter_options(student))
        self.outer = nn.Linear(hidden_size, 1, **parameter_options(student))

    def forward(self, states: Tensor, said: Tensor) -> Tensor:
        """(items,), the score."""
        return linear(self.outer, F.silu(linear(self.inner, torch.cat([states, said], -1)))).squeeze(-1)

    def steepness(self, states: Tensor, said: Tensor) -> Tensor:
        """(items,), ‖∇D‖² with respect to the states.

        Written out, since two layers allow it: `autograd.grad` with `create_graph` would need a second backward, which
        `torch.compile` and evaluation without gradients do not have.
        """
        before = linear(self.inner, torch.cat([states, said], -1))
        gate = before.sigmoid()
        slope = gate * (1 + before * (1 - gate)) * self.outer.weight.to(before.dtype)  # (items, hidden)
        return (slope @ self.inner.weight[:, : states.shape[-1]].to(before.dtype)).square().sum(-1)
