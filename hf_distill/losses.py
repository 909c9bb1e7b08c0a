"""How far a student's predictions are from its teacher's: pure functions of logits.

Below, p is the teacher's distribution and q the student's, both softened by the temperature. Every function

- returns unreduced values over the leading dimensions, so that the caller masks, sums and divides;
- computes in float32 (float16 and bfloat16 are upcast; a float64 student stays float64);
- gives the teacher no gradient;
- treats a logit of -inf (or the least number of float32 or bfloat16) as a class that is ruled out: its probability is
  exactly 0. A class that both sides rule out adds 0. A class ruled out only by the second argument of a divergence
  makes that row +inf, never NaN; gradients stay finite. A row in which every class is ruled out counts as uniform.
  NaN logits stay NaN: they are not masks, and hiding them would hide a diverged model;
- is finite for logits / temperature up to 5e11 in magnitude (float16 always). Further apart, a divergence without a
  bound is +inf, as of a class ruled out; never NaN, whatever finite numbers the logits are.

Gradients of divergences fall with 1 / temperature², those of distances between probabilities with 1 / temperature;
each function multiplies this back, so that a weight means the same at every temperature.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_distill.loss_checks import (
    RULED_OUT,
    check_class_numbers,
    check_same_batch,
    check_tensors,
    checked_number,
    checked_temperature,
    compute_dtype,
    scaled,
    softened,
)

# No finite logits come this far apart (masks of -1e9 included), so a larger divergence is due to a class ruled out on
# one side, with a probability above 1e-16 on the other. It is reported as +inf.
_UNBOUNDED = 1e12

_WEIGHTS = "must not be negative, nor infinite: the student would be pushed away from the teacher. Got {value}."


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) of the temperature-softened classes, times temperature².

    Mode-covering: the student is pushed to cover every class that the teacher finds likely. A class that only the
    student rules out makes the row +inf; its gradient is still the usual, finite (q - p) × temperature.

    Args:
        student_logits: (..., classes), unnormalised.
        teacher_logits: (..., classes); receives no gradient.
        temperature: dimensionless, > 0.
    Returns:
        (...), nats × temperature², unreduced.
    Raises:
        ValueError: shapes differ, or temperature is not positive and finite.
    Source:
        Hinton et al. 2015, arXiv:1503.02531, section 2.

    >>> forward_kl(torch.zeros(2, 3), torch.zeros(2, 3)).shape
    torch.Size([2])
    """
    student, teacher, temperature = softened(student_logits, teacher_logits, temperature)
    return _kl(teacher.log_softmax(-1), student.log_softmax(-1)) * temperature**2


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(student ‖ teacher) of the temperature-softened classes, times temperature².

    Mode-seeking: the student is pushed away from classes that the teacher finds unlikely. A class that only the
    teacher rules out makes the row +inf and leaves it without a gradient: rule out the same classes in the student.

    Args:
        student_logits: (..., classes), unnormalised.
        teacher_logits: (..., classes); receives no gradient.
        temperature: dimensionless, > 0.
    Returns:
        (...), nats × temperature², unreduced.
    Raises:
        ValueError: shapes differ, or temperature is not positive and finite.
    Source:
        Gu et al. 2024 (MiniLLM), arXiv:2306.08543.

    >>> reverse_kl(torch.tensor([0.0, float("-inf")]), torch.zeros(2))  # log 2
    tensor(0.6931)
    """
    student, teacher, temperature = softened(student_logits, teacher_logits, temperature)
    kl = _kl(student.log_softmax(-1), teacher.log_softmax(-1))
    # The derivative contains log(q / p), which would be infinite in these rows; masked_fill stops it.
    return kl.masked_fill(kl.isinf(), math.inf) * temperature**2


def jensen_shannon(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, beta: float = 0.5
) -> Tensor:
    """Generalised Jensen-Shannon divergence: beta KL(p ‖ m) + (1 - beta) KL(q ‖ m), m = beta p + (1 - beta) q.

    `beta` means what it means in TRL: by convention 0 is the forward KL and 1 the reverse KL. In between, the value
    is bounded by the entropy of (beta, 1 - beta), log 2 at most, and so smaller than either KL; it falls towards 0
    near the two ends, so the weight of this loss has to be tuned together with beta.

    Args:
        student_logits: (..., classes), unnormalised.
        teacher_logits: (..., classes); receives no gradient.
        temperature: dimensionless, > 0.
        beta: dimensionless, in [0, 1].
    Returns:
        (...), nats × temperature², unreduced.
    Raises:
        ValueError: shapes differ, temperature is not positive and finite, or beta is outside [0, 1].
    Source:
        Agarwal et al. 2024 (GKD), arXiv:2306.13649.

    >>> jensen_shannon(torch.tensor([0.0, float("-inf")]), torch.tensor([float("-inf"), 0.0]))  # disjoint: log 2
    tensor(0.6931)
    """
    beta = checked_number("beta", beta, "must lie in [0, 1], from forward KL (0) to reverse KL (1); got {value}", 0, 1)
    if beta == 0:
        return forward_kl(student_logits, teacher_logits, temperature)
    if beta == 1:
        return reverse_kl(student_logits, teacher_logits, temperature)
    student, teacher, temperature = softened(student_logits, teacher_logits, temperature)
    student_log_probs, teacher_log_probs = student.log_softmax(-1), teacher.log_softmax(-1)
    mixture = _log_mixture(student_log_probs, teacher_log_probs, beta)
    value = beta * _kl(teacher_log_probs, mixture) + (1 - beta) * _kl(student_log_probs, mixture)
    return value * temperature**2


def skewed_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, beta: float = 0.1) -> Tensor:
    """KL(p ‖ (1 - beta) q + beta p): the forward KL with a little of the teacher mixed into the student.

    Any beta > 0 bounds the value by log(1 / beta), also where the student rules out a class that the teacher does not.

    Args:
        student_logits: (..., classes), unnormalised.
        teacher_logits: (..., classes); receives no gradient.
        temperature: dimensionless, > 0.
        beta: the teacher's share of the mixture, dimensionless, in [0, 1); 0 is the forward KL.
    Returns:
        (...), nats × temperature², unreduced.
    Raises:
        ValueError: shapes differ, temperature is not positive and finite, or beta is outside [0, 1).
    Source:
        Ko et al. 2024 (DistiLLM), arXiv:2402.03898 (their alpha is this beta).

    >>> skewed_kl(torch.tensor([0.0, float("-inf")]), torch.tensor([float("-inf"), 0.0]))  # disjoint: log 10
    tensor(2.3026)
    """
    expected = (
        "must lie in [0, 1), from forward KL (0) towards 1, where the mixture would be the teacher itself and the loss "
        "identically zero; got {value}"
    )
    beta = checked_number("beta", beta, expected, 0, math.nextafter(1, 0))
    if beta == 0:
        return forward_kl(student_logits, teacher_logits, temperature)
    student, teacher, temperature = softened(student_logits, teacher_logits, temperature)
    teacher_log_probs = teacher.log_softmax(-1)
    mixture = _log_mixture(student.log_softmax(-1), teacher_log_probs, beta)
    return _kl(teacher_log_probs, mixture) * temperature**2


def total_variation(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Half the L1 distance of the softened probabilities, times temperature.

    Bounded, hence robust to a teacher that is sometimes badly wrong.

    Args:
        student_logits: (..., classes), unnormalised.
        teacher_logits: (..., classes); receives no gradient.
        temperature: dimensionless, > 0.
    Returns:
        (...), dimensionless × temperature, in [0, temperature], unreduced.
    Raises:
        ValueError: shapes differ, or temperature is not positive and finite.
    Source:
        Wen et al. 2023 (f-DISTILL), arXiv:2307.15190.

    >>> total_variation(torch.tensor([0.0, float("-inf")]), torch.zeros(2))
    tensor(0.5000)
    """
    student, teacher, temperature = softened(student_logits, teacher_logits, temperature)
    return (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1) * (0.5 * temperature)


def logit_mse(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Squared difference of the logits themselves, averaged over the classes.

    Unlike the divergences it also matches the logits' common offset. A class that one side rules out and the other
    does not makes the row +inf and leaves it without a gradient.

    Args:
        student_logits: (..., classes), unnormalised.
        teacher_logits: (..., classes); receives no gradient.
        temperature: no effect; accepted so that all losses have one signature. Must still be > 0.
    Returns:
        (...), logits², unreduced over the leading dimensions, the mean over classes.
    Raises:
        ValueError: shapes differ, or temperature is not positive and finite.
    Source:
        Ba and Caruana 2014, arXiv:1312.6184; Tang et al. 2019, arXiv:1903.12136.

    >>> logit_mse(torch.zeros(2, 3), torch.full((2, 3), 2.0))
    tensor([4., 4.])
    """
    checked_temperature(temperature)
    student, teacher, _ = softened(student_logits, teacher_logits, 1.0)
    difference = student - teacher
    # Outside autograd, and in reach of a square: at the ends of float32 the gradient of a row at +inf would be 0 · inf.
    difference.detach().clamp_(RULED_OUT, -RULED_OUT)
    mse = difference.square().mean(-1)
    return mse.masked_fill(mse > _UNBOUNDED**2, math.inf)


def decoupled_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    labels: Tensor | None = None,
    target_weight: float = 1.0,
    non_target_weight: float = 8.0,
) -> Tensor:
    """Forward KL in two parts: the target class against all others, and the distribution over the others.

    The forward KL weights the second part by the teacher's 1 - p(target), which makes it almost vanish where the
    teacher is confident. Here each part has its own weight. Where the teacher rules out all classes but the target, the
    second part is 0.

    Args:
        student_logits: (..., classes), at least three classes, unnormalised.
        teacher_logits: (..., classes); receives no gradient.
        temperature: dimensionless, > 0.
        labels: (...), integers. Where -100, and everywhere if None, the teacher's most likely class is the target.
        target_weight: the paper's alpha, dimensionless, >= 0.
        non_target_weight: the paper's beta, dimensionless, >= 0.
    Returns:
        (...), nats × temperature², unreduced.
    Raises:
        ValueError: shapes differ, fewer than three classes, a temperature not positive and finite, a negative weight.
    Source:
        Zhao et al. 2022, arXiv:2203.08679, equation 7.

    >>> decoupled_kd(torch.zeros(2, 3), torch.zeros(2, 3), labels=torch.tensor([0, -100]))
    tensor([0., 0.])
    """
    student, teacher, temperature = softened(student_logits, teacher_logits, temperature)
    if student.shape[-1] < 3:
        raise ValueError(
            f"decoupled_kd needs at least three classes, got {student.shape[-1]}: with two, only one class is not the "
            "target and the non-target part would be identically zero. Use forward_kl."
        )
    weights = [
        checked_number("target_weight and non_target_weight", weight, _WEIGHTS, 0)
        for weight in (target_weight, non_target_weight)
    ]
    target = teacher.argmax(-1)
    if labels is not None:
        check_class_numbers("labels", labels, student.shape[-1], student.device, ignored=-100)
        if labels.shape != target.shape:
            shapes = f"{tuple(target.shape)}, one target a row; got {tuple(labels.shape)}"
            raise ValueError(f"labels must have shape {shapes}")
        labels = labels.long()
        target = torch.where(labels == -100, target, labels)
    student_log_odds, student_rest = _split_target(student, target)
    teacher_log_odds, teacher_rest = _split_target(teacher, target)
    target_part = _bernoulli_kl(teacher_log_odds, student_log_odds)
    non_target_part = _kl(teacher_rest.log_softmax(-1), student_rest.log_softmax(-1))
    non_target_part = non_target_part.masked_fill(teacher_log_odds > _UNBOUNDED, 0.0)
    # A weight of 0 leaves its part out altogether: 0 · inf would be NaN.
    parts = zip(weights, (target_part, non_target_part), strict=True)
    value = sum((weight * part for weight, part in parts if weight > 0), start=torch.zeros_like(target_part))
    return value * temperature**2


def bernoulli_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) of one yes/no decision per class (multi-label), averaged over classes, × temperature².

    Args:
        student_logits: (..., classes), one log-odds per class.
        teacher_logits: (..., classes); receives no gradient.
        temperature: dimensionless, > 0.
    Returns:
        (...), nats × temperature², the mean over classes, unreduced over the leading dimensions.
    Raises:
        ValueError: shapes differ, or temperature is not positive and finite.
    Source:
        Yang et al. 2023, arXiv:2308.06453 (the binary problems its logit part is divided into).

    >>> bernoulli_kl(torch.tensor([[1e4, 0.0]]), torch.zeros(1, 2))  # (5000 - log 2) / 2
    tensor([2499.6533])
    """
    student, teacher, temperature = softened(student_logits, teacher_logits, temperature)
    return _bernoulli_kl(teacher, student).mean(-1) * temperature**2


def universal_logit_distance(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """L1 distance of the sorted probabilities, times temperature: for two different vocabularies.

    The smaller vocabulary is padded with zero probabilities. Sequences are compared position by position up to the
    end of the shorter one. The caller masks positions that should not count.

    Args:
        student_logits: (..., student length, student vocabulary), unnormalised; or (..., student classes) with the
            teacher's leading dimensions.
        teacher_logits: (..., teacher length, teacher vocabulary); receives no gradient.
        temperature: dimensionless, > 0.
    Returns:
        (..., shorter length), dimensionless × temperature, in [0, 2 × temperature], unreduced.
    Raises:
        ValueError: the dimensions before the length (or the classes) differ; temperature is not positive and finite.
    Source:
        Boizard et al. 2024 (ULD), arXiv:2402.12030.

    >>> universal_logit_distance(torch.zeros(2, 5, 3), torch.zeros(2, 4, 6)).shape
    torch.Size([2, 4])
    """
    temperature = checked_temperature(temperature)
    check_tensors(student_logits=student_logits, teacher_logits=teacher_logits)
    check_same_batch(student_logits, teacher_logits)
    if student_logits.ndim > 2:
        length = min(student_logits.shape[-2], teacher_logits.shape[-2])
        student_logits, teacher_logits = student_logits[..., :length, :], teacher_logits[..., :length, :]
    vocabulary = max(student_logits.shape[-1], teacher_logits.shape[-1])

    def sorted_probabilities(logits: Tensor) -> Tensor:
        probabilities = scaled(logits, temperature, compute_dtype(student_logits)).softmax(-1)
        return F.pad(probabilities.sort(-1, descending=True).values, (0, vocabulary - logits.shape[-1]))

    distance = sorted_probabilities(student_logits) - sorted_probabilities(teacher_logits.detach())
    return distance.abs().sum(-1) * temperature


def top_k_forward_kl(
    student_logits: Tensor,
    teacher_top_k_logits: Tensor,
    teacher_top_k_ids: Tensor,
    teacher_tail: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """Forward KL of the k + 1 classes {each of the teacher's top k, everything else}, times temperature².

    At most the full forward KL, and equal to it where the tail is -inf. With the tail as a class of its own, the top k
    keep their true probabilities; renormalising them would teach overconfidence.

    Args:
        student_logits: (..., vocabulary), unnormalised.
        teacher_top_k_logits: (..., k), unnormalised, not divided by the temperature; receives no gradient.
        teacher_top_k_ids: (..., k), any integer type; each id at most once per row.
        teacher_tail: (...), log-sum-exp of the other logits / temperature, -inf where k = vocabulary.
        temperature: dimensionless, > 0, the one the tail was computed at.
    Returns:
        (...), nats × temperature², unreduced.
    Raises:
        ValueError: shapes do not fit together, ids are not integers, or temperature is not positive and finite.
    Source:
        Hinton et al. 2015, arXiv:1503.02531, section 2; Anshumann et al. 2025, arXiv:2503.16870.

    >>> top_k_forward_kl(torch.zeros(4), torch.zeros(1), torch.tensor([2]), torch.tensor(3.0).log()).abs() < 1e-6
    tensor(True)
    """
    temperature = checked_temperature(temperature)
    check_tensors(student_logits=student_logits, teacher_top_k_logits=teacher_top_k_logits, teacher_tail=teacher_tail)
    check_class_numbers(
        "teacher_top_k_ids", teacher_top_k_ids, student_logits.shape[-1:].numel(), student_logits.device
    )
    shapes_fit = (
        student_logits.ndim == teacher_top_k_ids.ndim > 0
        and teacher_top_k_ids.shape == teacher_top_k_logits.shape
        and teacher_top_k_ids.shape[:-1] == teacher_tail.shape == student_logits.shape[:-1]
        and teacher_top_k_ids.shape[-1] <= student_logits.shape[-1]
    )
    if not shapes_fit:
        raise ValueError(
            "expected student_logits (..., vocabulary), teacher_top_k_logits and teacher_top_k_ids (..., k) with "
            f"k <= vocabulary, and teacher_tail (...); got {tuple(student_logits.shape)}, "
            f"{tuple(teacher_top_k_logits.shape)}, {tuple(teacher_top_k_ids.shape)} and {tuple(teacher_tail.shape)}. "
            "Pad or cut the teacher's columns to the student's positions."
        )
    dtype = compute_dtype(student_logits)
    ids = teacher_top_k_ids.long()  # gather takes no unsigned type
    student = scaled(student_logits, temperature, dtype)
    student_rest = student.scatter(-1, ids, RULED_OUT).logsumexp(-1, keepdim=True)
    teacher_rest = scaled(teacher_tail.detach().unsqueeze(-1), 1.0, dtype)
    student_classes = torch.cat([student.gather(-1, ids), student_rest], -1)  # (..., k + 1)
    teacher_classes = torch.cat([scaled(teacher_top_k_logits.detach(), temperature, dtype), teacher_rest], -1)
    return _kl(teacher_classes.log_softmax(-1), student_classes.log_softmax(-1)) * temperature**2


def top_k_universal_logit_distance(
    student_logits: Tensor, teacher_top_k_logits: Tensor, teacher_tail: Tensor, temperature: float = 1.0
) -> Tensor:
    """L1 distance of k + 1 probabilities, {each of the sorted top k, everything else}, times temperature.

    The teacher's top k keep their exact probabilities. The distribution of the rest is unknown, so its total mass is
    compared with the mass outside the student's own top k. At most `universal_logit_distance`, lower by at most
    2 × temperature × the smaller of the two remaining masses, and equal to it where the tail is -inf.

    Args:
        student_logits: (..., student vocabulary), unnormalised.
        teacher_top_k_logits: (..., k), unnormalised, not divided by the temperature; receives no gradient.
        teacher_tail: (...), log-sum-exp of the other logits / temperature, -inf where k = vocabulary.
        temperature: dimensionless, > 0, the one the tail was computed at.
    Returns:
        (...), dimensionless × temperature, in [0, 2 × temperature], unreduced.
    Raises:
        ValueError: shapes do not fit together, or temperature is not positive and finite.
    Source:
        Boizard et al. 2024 (ULD), arXiv:2402.12030.

    >>> top_k_universal_logit_distance(torch.zeros(4), torch.zeros(1), torch.tensor(3.0).log()) < 1e-6
    tensor(True)
    """
    temperature = checked_temperature(temperature)
    check_tensors(student_logits=student_logits, teacher_top_k_logits=teacher_top_k_logits, teacher_tail=teacher_tail)
    shapes_fit = (
        student_logits.ndim == teacher_top_k_logits.ndim > 0
        and student_logits.shape[:-1] == teacher_top_k_logits.shape[:-1] == teacher_tail.shape
    )
    if not shapes_fit:
        raise ValueError(
            "expected student_logits (..., vocabulary), teacher_top_k_logits (..., k) and teacher_tail (...); got "
            f"{tuple(student_logits.shape)}, {tuple(teacher_top_k_logits.shape)} and {tuple(teacher_tail.shape)}. "
            "Give all three the same positions."
        )
    dtype = compute_dtype(student_logits)
    k = teacher_top_k_logits.shape[-1]
    student = scaled(student_logits, temperature, dtype)
    student_top, ids = student.topk(min(k, student.shape[-1]), -1)
    student_rest = student.scatter(-1, ids, RULED_OUT).logsumexp(-1, keepdim=True)
    student_top = F.pad(student_top, (0, k - student_top.shape[-1]), value=RULED_OUT)  # of fewer than k tokens
    teacher_top = scaled(teacher_top_k_logits.detach(), temperature, dtype).sort(-1, descending=True).values
    teacher_rest = scaled(teacher_tail.detach().unsqueeze(-1), 1.0, dtype)
    student = torch.cat([student_top, student_rest], -1).softmax(-1)  # (..., k + 1)
    teacher = torch.cat([teacher_top, teacher_rest], -1).softmax(-1)
    return (student - teacher).abs().sum(-1) * temperature


LOSSES: dict[str, Callable[..., Tensor]] = {
    loss.__name__: loss
    for loss in (
        *(forward_kl, reverse_kl, jensen_shannon, skewed_kl, total_variation, logit_mse),
        *(decoupled_kd, bernoulli_kl, universal_logit_distance),
    )
}
"""The values of `soft_target_loss`; each is called as (student_logits, teacher_logits, temperature)."""


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) in nats over the last dimension; +inf where q rules out what p does not."""
    # Differences first: p·log p and p·log q summed apart would cancel badly once the student is close.
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    # Added, not filled in, so that the finite gradient of the forward direction survives.
    return kl + torch.where(kl > _UNBOUNDED, math.inf, 0.0)


def _bernoulli_kl(p_log_odds: Tensor, q_log_odds: Tensor) -> Tensor:
    """KL of two yes/no decisions, elementwise in nats, from their log-odds."""
    yes_no = (torch.stack([F.logsigmoid(x), F.logsigmoid(-x)], -1) for x in (p_log_odds, q_log_odds))
    return _kl(*yes_no)


def _log_mixture(student_log_probs: Tensor, teacher_log_probs: Tensor, beta: float) -> Tensor:
    """log((1 - beta) q + beta p), 0 < beta < 1."""
    return torch.logaddexp(student_log_probs + math.log1p(-beta), teacher_log_probs + math.log(beta))


def _split_target(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The target's log-odds against the rest, (...), and the logits with the target ruled out, (..., classes)."""
    index = target.unsqueeze(-1)
    rest = logits.scatter(-1, index, RULED_OUT)
    return logits.gather(-1, index).squeeze(-1) - rest.logsumexp(-1), rest
