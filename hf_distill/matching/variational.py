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
    """Negative log-likelihood of the teacher's states given the student's: a bound on their mutual information.

    By default the teacher's state h_t is Gaussian around a linear map μ of the student's h_s. Each dimension has a
    trained variance, σ² = softplus(a) + 1e-3, so that dimensions that the student cannot predict get a large variance
    instead of dominating the loss: ½ [log σ² + (h_t - μ(h_s))² / σ²], averaged over dimensions.

    With `latent_size` it is a conditional VAE: h_t is encoded into q(z | h_t) = N(m, s²) and decoded linearly from z,
    and the student has to predict the code, p(z | h_s): [‖h_t - W m - b‖² + tr(W diag(s²) Wᵀ)] / 2σ² + ½ D log σ² +
    β KL(q ‖ p), all ÷ D, the teacher's width, so that a weight means the same in both forms. The expectation is in
    closed form; nothing is sampled. β rises from 0 to 1 over the first fifth of training. Each latent dimension's KL
    counts as at least 0.05 nats, which keeps the code from collapsing. `kl` is logged, in nats, summed over the latent.

    σ² and the means are initialised with the teacher's variance and mean on the first batch.

    Args:
        layers: student layer to teacher layer; 0 is the embeddings, negative counts from the end.
        weight: in the objective, >= 0.
        granularity: "token", "word" or "sequence".
        name: logged as `<name>_loss`; None: "variational". In nats per dimension of the teacher, without the constant
            ½ log 2π; may be negative.
        latent_size: dimensions of z; None: no latent.
    Raises:
        ValueError: as `Matching`, or a `latent_size` below 1.
    Source:
        Ahn et al. 2019, arXiv:1904.05835; with a latent Sohn et al. 2015 (conditional VAE), free nats after Kingma et
        al. 2016, arXiv:1606.04934, there for the mean of a batch, here for each item.
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
        options = parameter_options(student)
        outputs = nn.ModuleList()
        raw_variances = nn.ParameterList()
        alignment, views = self._align(student, teacher, 0.0)
        for (student_width, teacher_width), (_, teacher_states) in zip(widths, views, strict=True):
            states = normalize(teacher_states[alignment.keep])
            # A single state has no variance; after the LayerNorm the mean over dimensions is 1.
            variance = states.var(0, correction=0) if len(states) > 1 else torch.ones_like(teacher_states[0, 0])
            output = nn.Linear(self.latent_size or student_width, teacher_width, **options)
            if len(states):
                output.bias.copy_(states.mean(0))
            outputs.append(output)
            start = variance if self.latent_size is None else variance.mean()
            raw_variances.append(nn.Parameter(_inverse_variance(start)))
        # μ, or the decoder W, b
        self.outputs, self.spreads = outputs, raw_variances
        if self.latent_size is not None:
            self.encoders = nn.ModuleList(nn.Linear(width, 2 * self.latent_size, **options) for _, width in widths)
            self.priors = nn.ModuleList(nn.Linear(width, 2 * self.latent_size, **options) for width, _ in widths)

    def _compare(self, number: int, student: Tensor, teacher: Tensor, alignment: Alignment) -> dict[str, Tensor]:
        student_items, teacher_items = normalize(student[alignment.keep]), normalize(teacher[alignment.keep])
        variance = _variance(self.spreads[number].to(student_items.dtype))
        output: Any = self.outputs[number]
        if self.latent_size is None:
            error = (teacher_items - linear(output, student_items)).square()
            return {"values": 0.5 * (variance.log() + error / variance).mean(-1)}

        mean, raw_variance = linear(self.encoders[number], teacher_items).chunk(2, -1)
        prior_mean, raw_prior_variance = linear(self.priors[number], student_items).chunk(2, -1)
        code_variance, prior_variance = _variance(raw_variance), _variance(raw_prior_variance)
        error = (teacher_items - linear(output, mean)).square().sum(-1)
        trace = code_variance @ output.weight.to(student_items.dtype).square().sum(0)  # tr(W diag(s²) Wᵀ)
        kl = _gaussian_kl(mean, code_variance, prior_mean, prior_variance)
        width = teacher_items.shape[-1]
        beta = min(alignment.progress / _WARM_UP, 1.0)
        total = (error + trace) / (2 * variance) + 0.5 * width * variance.log()
        return {"values": (total + beta * kl.clamp(min=_FREE_NATS).sum(-1)) / width, "kl": kl.sum(-1)}


def _variance(raw: Tensor) -> Tensor:
    return F.softplus(raw) + _LEAST_VARIANCE


def _inverse_variance(variance: Tensor) -> Tensor:
    """The argument for which `_variance` returns this variance, or twice the minimum where it is lower than that."""
    above = (variance - _LEAST_VARIANCE).clamp(min=_LEAST_VARIANCE)
    return above + (-(-above).expm1()).log()  # log(e^above - 1) without overflow


def _gaussian_kl(mean: Tensor, variance: Tensor, prior_mean: Tensor, prior_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) ‖ N(prior_mean, prior_variance)) in nats, elementwise."""
    ratio = variance / prior_variance
    return 0.5 * (ratio - 1 - ratio.log() + (mean - prior_mean).square() / prior_variance)
