"""How far a student's inner states are from its teacher's: modules, since most of them learn a map between the two.

A matching compares chosen layers, item by item. What an item is, its granularity says: a position ("token"), a word,
whose pieces are averaged ("word", for two tokenizers), or an example, whose positions are averaged ("sequence"). Every
matching

- compares states after a LayerNorm without parameters: lengths differ between models by orders of magnitude, and MSE
  would be about nothing else;
- returns unreduced values, so that the trainer sums and divides; no item depends on another example, nor on padding;
- is deterministic, and computes in float32 under autocast too (float64 states stay float64);
- gives the teacher no gradient.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hf_distill.inner_states import Items, Matching, Meeting, States, average

__all__ = [
    "AdversarialMatching",
    "AttentionMatching",
    "HiddenStateMatching",
    "Items",
    "Matching",
    "RelationMatching",
    "States",
    "VariationalMatching",
]

# As in `losses`: exp of it is exactly 0, and the difference of two is finite, where -inf would make NaN.
_RULED_OUT = -1e28

_LEAST_VARIANCE = 1e-3
_WARM_UP = 0.2  # of training, until the latent's KL counts in full
_FREE_NATS = 0.05  # per latent dimension


class HiddenStateMatching(Matching):
    """Squared difference, or one minus the cosine, of hidden states.

    Where the widths differ, the student's states pass a linear map (no bias) to the teacher's width, learnt along.

    Args:
        layers: student layer to teacher layer; 0 is the embeddings, negative counts from the end.
        weight: in the objective, >= 0.
        granularity: "token", "word" or "sequence".
        name: what it is logged as, `loss_<name>`; None: "hidden_state".
        loss: "mse", the mean over dimensions, 0 to 4; or "cosine", 0 to 2. Both dimensionless.
    Raises:
        ValueError: as `Matching`, or an unknown loss.
    Source:
        Romero et al. 2015 (FitNets), arXiv:1412.6550; for Transformers Jiao et al. 2020 (TinyBERT), arXiv:1909.10351,
        without the LayerNorm.

    >>> states = States(hidden=(torch.eye(4).view(1, 4, 4),), mask=torch.tensor([[True, True, True, False]]))
    >>> matching = HiddenStateMatching(layers={-1: -1})
    >>> matching.build([4], [4], teacher=states, student=states)
    >>> matching(states, states, progress=0.0).values
    tensor([0., 0., 0.])
    """

    kind = "hidden_state"

    def __init__(
        self,
        layers: Mapping[int, int],
        weight: float = 1.0,
        granularity: str = "token",
        name: str | None = None,
        *,
        loss: str = "mse",
    ) -> None:
        super().__init__(layers, weight, granularity, name)
        if loss not in ("mse", "cosine"):
            raise ValueError(f"loss must be 'mse' or 'cosine', got {loss!r}.")
        self.loss = loss

    def _create(self, widths: list[tuple[int, int]], student: States, teacher: States) -> None:
        self.projections = _projections(widths, student)

    def _compare(self, number: int, student: Tensor, teacher: Tensor, meeting: Meeting) -> dict[str, Tensor]:
        ours = _normalise(_project(self.projections[number], student[meeting.keep]))
        theirs = _normalise(teacher[meeting.keep])
        if self.loss == "cosine":
            return {"values": 1 - F.cosine_similarity(ours, theirs, dim=-1)}
        return {"values": (ours - theirs).square().mean(-1)}


class AttentionMatching(Matching):
    """KL(teacher ‖ student) of what each position attends to, averaged over the heads.

    Over the keys that are not padding and that the student gives any weight: a weight of exactly 0 is a key it masks or
    that attention dropout removed, where no gradient could reach it. Both sides are renormalised over the rest. Where
    the numbers of heads differ, the heads' mean attentions are compared.

    Args:
        layers: student layer to teacher layer, from 1; negative counts from the end.
        weight: in the objective, >= 0.
        granularity: "token" alone, with one tokenizer for both models.
        name: what it is logged as, `loss_<name>`; None: "attention". In nats.
    Raises:
        ValueError: as `Matching`, another granularity, or (from `build`) a model without attentions.
    Source:
        Wang et al. 2020 (MiniLM), arXiv:2002.10957, there on the last layer alone; the layer map as in Jiao et
        al. 2020 (TinyBERT), arXiv:1909.10351.
    """

    kind = "attention"
    granularities = ("token",)

    def _refusal(self, granularity: str) -> str:
        return (
            f'AttentionMatching compares attention between positions: granularity must be "token", got {granularity!r}.'
            ' With two tokenizers, use RelationMatching at "word" granularity.'
        )

    def _attentions(self, states: States, whose: str) -> tuple[Tensor, ...]:
        if not states.attentions or any(attention is None for attention in states.attentions):
            raise ValueError(
                f"{self.name}: the {whose} returned no attentions. Load it with "
                'from_pretrained(..., attn_implementation="eager"), since the fused kernels never hold them; a model '
                "without attention (an LSTM) can be matched by HiddenStateMatching or RelationMatching."
            )
        return states.attentions

    def _available(self, states: States, whose: str) -> int:
        return len(self._attentions(states, whose)) + 1

    def _resolve(self, layer: int, available: int, whose: str) -> int:
        resolved = super()._resolve(layer, available, whose)
        if resolved == 0:
            raise ValueError(
                f"{self.name}: the {whose}'s layer {layer} is its embeddings, which attend to nothing. Choose 1 to "
                f"{available - 1}."
            )
        return resolved

    def _view(self, states: States, whose: str, layer: int, members: Tensor | None, dtype: torch.dtype) -> Tensor:
        """(batch, heads, queries, keys), 0 wherever one of the two is padding."""
        mask = states.mask.bool()
        both = mask[:, None, :, None] & mask[:, None, None, :]
        return self._attentions(states, whose)[layer - 1].masked_fill(~both, 0).to(dtype)

    def _compare(self, number: int, student: Tensor, teacher: Tensor, meeting: Meeting) -> dict[str, Tensor]:
        if student.shape[1] != teacher.shape[1]:
            student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
        # (items, heads, keys)
        ours, theirs = student.transpose(1, 2)[meeting.keep], teacher.transpose(1, 2)[meeting.keep]
        seen = ours > 0
        kl = _kl(_log_shares(theirs, seen), _log_shares(ours, seen))
        return {"values": kl.mean(-1)}


class RelationMatching(Matching):
    """KL(teacher ‖ student) of how each position relates to the others, averaged over relation heads.

    The relation of two positions is the scaled dot product of their hidden states, after a softmax over all positions
    of the example that are not padding. No parameters, any two widths, and any two architectures. This is MiniLM's idea
    on hidden states, where MiniLM takes queries, keys and values, which an LSTM does not have.

    Args:
        layers: student layer to teacher layer; 0 is the embeddings, negative counts from the end.
        weight: in the objective, >= 0.
        granularity: "token" or "word".
        name: what it is logged as, `loss_<name>`; None: "relation". In nats.
        heads: into how many parts both models' states are split; divides all the widths. Many heads are better than
            few: in a wide part each position relates to hardly any other than itself.
    Raises:
        ValueError: as `Matching`, "sequence" granularity, or (from `build`) a width that `heads` does not divide.
    Source:
        Wang et al. 2020 (MiniLM), arXiv:2002.10957; relation heads as in Wang et al. 2021 (MiniLMv2),
        arXiv:2012.15828.
    """

    kind = "relation"
    granularities = ("token", "word")

    def __init__(
        self,
        layers: Mapping[int, int],
        weight: float = 1.0,
        granularity: str = "token",
        name: str | None = None,
        *,
        heads: int = 16,
    ) -> None:
        super().__init__(layers, weight, granularity, name)
        if heads < 1:
            raise ValueError(f"heads must be at least 1, got {heads}.")
        self.heads = heads

    def _refusal(self, granularity: str) -> str:
        return (
            f'RelationMatching compares the relations within an example: granularity must be "token" or "word", got '
            f'{granularity!r}. A "sequence" is one vector, whose only relation, to itself, is always 1.'
        )

    def _create(self, widths: list[tuple[int, int]], student: States, teacher: States) -> None:
        for pair in widths:
            if any(width % self.heads for width in pair):
                common = math.gcd(*pair)
                fits = [heads for heads in range(1, common + 1) if common % heads == 0]
                raise ValueError(
                    f"{self.name}: heads={self.heads} must divide the student's width {pair[0]} and the teacher's "
                    f"{pair[1]}. Choose one of {', '.join(map(str, fits))}."
                )

    def _compare(self, number: int, student: Tensor, teacher: Tensor, meeting: Meeting) -> dict[str, Tensor]:
        kl = _kl(self._log_relations(teacher, meeting.keep), self._log_relations(student, meeting.keep))
        return {"values": kl.mean(1)[meeting.keep]}

    def _log_relations(self, states: Tensor, keep: Tensor) -> Tensor:
        """(batch, heads, units, units), each row a distribution over the units that are kept."""
        parts = _normalise(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        scores = parts @ parts.transpose(-1, -2) / math.sqrt(parts.shape[-1])
        return scores.masked_fill(~keep[:, None, None, :], _RULED_OUT).log_softmax(-1)


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
        name: what it is logged as, `loss_<name>`; None: "variational". In nats a dimension of the teacher, without the
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
        where = _like(student)
        outputs = nn.ModuleList()
        spreads = nn.ParameterList()
        meeting, views = self._meet(student, teacher, 0.0)
        for (student_width, teacher_width), (_, theirs) in zip(widths, views, strict=True):
            states = _normalise(theirs[meeting.keep])
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

    def _compare(self, number: int, student: Tensor, teacher: Tensor, meeting: Meeting) -> dict[str, Tensor]:
        ours, theirs = _normalise(student[meeting.keep]), _normalise(teacher[meeting.keep])
        variance = _variance(self.spreads[number].to(ours.dtype))
        output: Any = self.outputs[number]
        if self.latent_size is None:
            return {"values": 0.5 * (variance.log() + (theirs - _linear(output, ours)).square() / variance).mean(-1)}

        mean, spread = _linear(self.encoders[number], theirs).chunk(2, -1)
        prior_mean, prior_spread = _linear(self.priors[number], ours).chunk(2, -1)
        code_variance, prior_variance = _variance(spread), _variance(prior_spread)
        lost = (theirs - _linear(output, mean)).square().sum(-1)
        blurred = code_variance @ output.weight.to(ours.dtype).square().sum(0)  # tr(W diag(s²) Wᵀ)
        kl = _gaussian_kl(mean, code_variance, prior_mean, prior_variance)
        width = theirs.shape[-1]
        beta = min(meeting.progress / _WARM_UP, 1.0)
        total = (lost + blurred) / (2 * variance) + 0.5 * width * variance.log()
        return {"values": (total + beta * kl.clamp(min=_FREE_NATS).sum(-1)) / width, "kl": kl.sum(-1)}


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
        name: what it is logged as, `loss_<name>`; None: "adversarial". The sum of both parts, in nats, weight apart.
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
        self.projections = _projections(widths, student)
        self.discriminators = nn.ModuleList(
            _Discriminator(theirs, self.classes, self.hidden_size, student) for _, theirs in widths
        )
        self._said(self._meet(student, teacher, 0.0)[0], torch.float32)  # raises where they do not fit

    def paced_parameters(self) -> Iterator[nn.Parameter]:
        """The discriminators': the projections learn at the student's pace."""
        return self.discriminators.parameters()

    def _compare(self, number: int, student: Tensor, teacher: Tensor, meeting: Meeting) -> dict[str, Tensor]:
        ours = _normalise(_project(self.projections[number], student[meeting.keep]))
        theirs = _normalise(teacher[meeting.keep])
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

    def _said(self, meeting: Meeting, dtype: torch.dtype) -> Tensor:
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
        self.inner = nn.Linear(width + classes, hidden_size, **_like(student))
        self.outer = nn.Linear(hidden_size, 1, **_like(student))

    def forward(self, states: Tensor, said: Tensor) -> Tensor:
        """(items,), the score."""
        return _linear(self.outer, F.silu(_linear(self.inner, torch.cat([states, said], -1)))).squeeze(-1)

    def steepness(self, states: Tensor, said: Tensor) -> Tensor:
        """(items,), ‖∇D‖² with respect to the states.

        Written out, since two layers allow it: `autograd.grad` with `create_graph` would need a second backward, which
        `torch.compile` and evaluation without gradients do not have.
        """
        before = _linear(self.inner, torch.cat([states, said], -1))
        gate = before.sigmoid()
        slope = gate * (1 + before * (1 - gate)) * self.outer.weight.to(before.dtype)  # (items, hidden)
        return (slope @ self.inner.weight[:, : states.shape[-1]].to(before.dtype)).square().sum(-1)


def _like(states: States) -> dict[str, Any]:
    """Device and dtype of parameters for these states: never below float32, where small updates would be lost."""
    hidden = states.hidden[0]
    return {"device": hidden.device, "dtype": torch.promote_types(hidden.dtype, torch.float32)}


def _projections(widths: list[tuple[int, int]], student: States) -> nn.ModuleList:
    """A linear map for each pair whose widths differ, nothing for the others."""
    return nn.ModuleList(
        nn.Identity() if ours == theirs else nn.Linear(ours, theirs, bias=False, **_like(student))
        for ours, theirs in widths
    )


def _project(projection: nn.Module, states: Tensor) -> Tensor:
    return _linear(projection, states) if isinstance(projection, nn.Linear) else states


def _linear(layer: Any, inputs: Tensor) -> Tensor:
    """A linear layer in the dtype of its inputs, also where the parameters were cast (`bf16_full_eval`)."""
    bias = layer.bias
    return F.linear(inputs, layer.weight.to(inputs.dtype), None if bias is None else bias.to(inputs.dtype))


def _normalise(states: Tensor) -> Tensor:
    return F.layer_norm(states, states.shape[-1:])


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) in nats over the last dimension, p without gradient."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _log_shares(weights: Tensor, seen: Tensor) -> Tensor:
    """The logarithm of weights, renormalised over those seen; `_RULED_OUT` elsewhere and at 0."""
    positive = seen & (weights > 0)
    logs = torch.where(positive, weights, 1.0).log().masked_fill(~positive, _RULED_OUT)
    return logs - logs.logsumexp(-1, keepdim=True).clamp(min=_RULED_OUT / 2)


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
