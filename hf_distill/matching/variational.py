"""A Gaussian of the teacher's states given the student's, with or without a latent variable."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_distill.matching.base import Alignment, Matching, States
from hf_distill.matching.tensors import linear, normalize, parameter_options

_LEAST_VARIANCE = 1e-3
_WARM_UP = 0.2  # of training, until the latent's KL counts in full
_FREE_NATS = 0.05  # per latent dimension


class VariationalMatching(Matching):
    """How badly the student's states predict the teacher's: a bound on their mutual information.

    By default the teacher's state h_t is Gaussian around a linear map μ of the student's h_s, with a variance a
    dimension that is learnt along (σ² = softplus(a) + 1e-3), so dimensions that the student cannot predict are given up
    instead of dominating: ½ [log σ² + (h_t - μ(h_s))² / σ²], averaged over dimensions.

    With `latent_size` it is a conditional VAE: h_t is encoded into q(z | h_t) = N(m, s²), decoded linearly from z, and
    the student has to predict the code, p(z | h_s): [‖h_t - W m - b‖² + tr(W diag(s²) Wᵀ)] / 2σ² + ½ D log σ² +
    β KL(q ‖ p), all ÷ D, the teacher's width, so that a weight means the same in both forms. This is the expectation in
    closed form; nothing is sampled. β rises from 0 to 1 over the first fifth of training, and each latent dimension's
    KL counts as at least 0.05 nats, since codes collapse otherwise. `kl` is logged, in nats, summed over the latent.

    σ² starts at the teacher's variance, and the means at its mean, on the first batch.

    Args:
        layers: student layer to teacher layer; 0 is the embeddings, negative counts from the end.
        weight: in the objective, >= 0.
        granularity: "token", "word" or "sequence".
        name: what it is logged as, `<name>_loss`; None: "variational". In nats a dimension of the teacher, without the
            constant ½ log 2π; may be negative.
        latent_size: dimensions of z; None: no latent.
    Raises:
        ValueError: as `Matching`, or a `latent_size` below 1.
    Source:
        Ahn et al. 2019, arXiv:1904.05835; with a latent Sohn et al. 2015 (conditional VAE), free nats after Kingma et
        al. 2016, arXiv:1606.04934, there a batch's mean, here an item's own.
    """

    kind = "variational"

    def __init__(
        self,
        layers: Mapping[int, int],
        weight: float = 1.0,
        granularity: str = "token",
        name: str | None = None,
        *,
        latent_size: int | None = None,
    ) -> None:
        super().__init__(layers, weight, granularity, name)
        if latent_size is not None and latent_size < 1:
            raise ValueError(f"latent_size must be at least 1, or None for no latent; got {latent_size}.")
        self.latent_size = latent_size

    def _create(self, widths: list[tuple[int, int]], student: States, teacher: States) -> None:
        where = parameter_options(student)
        outputs = nn.ModuleList()
        spreads = nn.ParameterList()
        meeting, views = self._meet(student, teacher, 0.0)
        for (student_width, teacher_width), (_, theirs) in zip(widths, views, strict=True):
            states = normalize(theirs[meeting.keep])
            # One state has no variance; the LayerNorm makes 1 the mean over dimensions.
            variance = states.var(0, correction=0) if len(states) > 1 else torch.ones_like(theirs[0, 0])
            output = nn.Linear(self.latent_size or student_width, teacher_width, **where)
            if len(states):
                output.bias.copy_(states.mean(0))
            outputs.append(output)
            spreads.append(nn.Parameter(_inverse_variance(variance if self.latent_size is None else variance.mean())))
        # μ, or the decoder W, b
        self.outputs, self.spreads = outputs, spreads
        if self.latent_size is not None:
            self.encoders = nn.ModuleList(nn.Linear(theirs, 2 * self.latent_size, **where) for _, theirs in widths)
            self.priors = nn.ModuleList(nn.Linear(ours, 2 * self.latent_size, **where) for ours, _ in widths)

    def _compare(self, number: int, student: Tensor, teacher: Tensor, meeting: Alignment) -> dict[str, Tensor]:
        ours, theirs = normalize(student[meeting.keep]), normalize(teacher[meeting.keep])
        variance = _variance(self.spreads[number].to(ours.dtype))
        output: Any = self.outputs[number]
        if self.latent_size is None:
            return {"values": 0.5 * (variance.log() + (theirs - linear(output, ours)).square() / variance).mean(-1)}

        mean, spread = linear(self.encoders[number], theirs).chunk(2, -1)
        prior_mean, prior_spread = linear(self.priors[number], ours).chunk(2, -1)
        code_variance, prior_variance = _variance(spread), _variance(prior_spread)
        lost = (theirs - linear(output, mean)).square().sum(-1)
        blurred = code_variance @ output.weight.to(ours.dtype).square().sum(0)  # tr(W diag(s²) Wᵀ)
        kl = _gaussian_kl(mean, code_variance, prior_mean, prior_variance)
        width = theirs.shape[-1]
        beta = min(meeting.progress / _WARM_UP, 1.0)
        total = (lost + blurred) / (2 * variance) + 0.5 * width * variance.log()
        return {"values": (total + beta * kl.clamp(min=_FREE_NATS).sum(-1)) / width, "kl": kl.sum(-1)}


def _variance(spread: Tensor) -> Tensor:
    return F.softplus(spread) + _LEAST_VARIANCE


def _inverse_variance(variance: Tensor) -> Tensor:
    """What `_variance` makes this variance of, or twice the floor of where it is less than that."""
    above = (variance - _LEAST_VARIANCE).clamp(min=_LEAST_VARIANCE)
    return above + (-(-above).expm1()).log()  # log(e^above - 1) without overflow


def _gaussian_kl(mean: Tensor, variance: Tensor, prior_mean: Tensor, prior_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) ‖ N(prior_mean, prior_variance)) in nats, elementwise."""
    ratio = variance / prior_variance
    return 0.5 * (ratio - 1 - ratio.log() + (mean - prior_mean).square() / prior_variance)
