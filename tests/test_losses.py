"""Every loss against a reference of its own (numpy, float64, row by row), closed forms, limits and hard inputs."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_distill.losses import (
    LOSSES,
    bernoulli_kl,
    decoupled_kd,
    forward_kl,
    jensen_shannon,
    logit_mse,
    reverse_kl,
    skewed_kl,
    top_k_forward_kl,
    top_k_universal_logit_distance,
    total_variation,
    universal_logit_distance,
)

INF = math.inf


# The references: p is the teacher, q the student; logarithms throughout, so that they hold at ±1e4 too.


def np_log_softmax(x):
    return x - np.logaddexp.reduce(x)


def np_log_sigmoid(x):
    return -np.logaddexp(0.0, -x)


def np_kl(log_p, log_q):
    return sum(np.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True) if np.exp(a) > 0)


def np_forward_kl(s, t, temperature):
    return temperature**2 * np_kl(np_log_softmax(t / temperature), np_log_softmax(s / temperature))


def np_jensen_shannon(s, t, temperature, beta):
    log_p, log_q = np_log_softmax(t / temperature), np_log_softmax(s / temperature)
    log_m = np.logaddexp(np.log(beta) + log_p, np.log(1 - beta) + log_q)
    return temperature**2 * (beta * np_kl(log_p, log_m) + (1 - beta) * np_kl(log_q, log_m))


def np_skewed_kl(s, t, temperature, beta):
    log_p, log_q = np_log_softmax(t / temperature), np_log_softmax(s / temperature)
    return temperature**2 * np_kl(log_p, np.logaddexp(np.log(beta) + log_p, np.log(1 - beta) + log_q))


def np_total_variation(s, t, temperature):
    return (
        temperature
        * np.abs(np.exp(np_log_softmax(s / temperature)) - np.exp(np_log_softmax(t / temperature))).sum()
        / 2
    )


def np_logit_mse(s, t, temperature):
    return sum((a - b) ** 2 for a, b in zip(s, t, strict=True) if a != b) / len(s)


def np_decoupled_kd(s, t, temperature, target, target_weight=1.0, non_target_weight=8.0):
    def split(x):
        log_probs = np_log_softmax(x)
        rest = np.delete(log_probs, target)
        log_rest = np.logaddexp.reduce(rest)
        return np.array([log_probs[target], log_rest]), (None if log_rest == -INF else rest - log_rest)

    (p_target, p_rest), (q_target, q_rest) = split(t / temperature), split(s / temperature)
    rest = 0.0 if p_rest is None else INF if q_rest is None else np_kl(p_rest, q_rest)
    return temperature**2 * (target_weight * np_kl(p_target, q_target) + non_target_weight * rest)


def np_bernoulli_kl(s, t, temperature):
    s, t = s / temperature, t / temperature
    pairs = [np_kl(np_log_sigmoid(np.array([b, -b])), np_log_sigmoid(np.array([a, -a]))) for a, b in zip(s, t)]  # noqa: B905
    return temperature**2 * sum(pairs) / len(pairs)


def np_universal_logit_distance(s, t, temperature):
    sides = [sorted(np.exp(np_log_softmax(x / temperature)), reverse=True) for x in (s, t)]
    longest = max(map(len, sides))
    p, q = (np.array(x + [0.0] * (longest - len(x))) for x in sides)
    return temperature * np.abs(p - q).sum()


def np_top_k_forward_kl(s, t, temperature, k):
    order = np.argsort(-t)

    def fold(x):
        log_probs = np_log_softmax(x / temperature)[order]
        return np.append(log_probs[:k], np.logaddexp.reduce(log_probs[k:]))

    return temperature**2 * np_kl(fold(t), fold(s))


def np_top_k_universal_logit_distance(s, t, temperature, k):
    q, p = (np.sort(np.exp(np_log_softmax(side / temperature)))[::-1] for side in (s, t))
    return temperature * (np.abs(q[:k] - p[:k]).sum() + abs(q[k:].sum() - p[k:].sum()))


def universal_top_k_from_full(student: Tensor, teacher: Tensor, temperature: float, k: int) -> Tensor:
    """top_k_universal_logit_distance on what a cache would hold of these teacher logits."""
    top, ids = teacher.topk(k)
    tail = (teacher.double() / temperature).scatter(-1, ids, -INF).logsumexp(-1)
    return top_k_universal_logit_distance(student, top, tail, temperature)


def top_k_from_full(student: Tensor, teacher: Tensor, temperature: float, k: int) -> Tensor:
    """top_k_forward_kl on what a cache would hold of these teacher logits."""
    top, ids = teacher.topk(k)
    rest = teacher.double().scatter(-1, ids, -INF)
    return top_k_forward_kl(student, top, ids, (rest / temperature).logsumexp(-1), temperature)


def with_label_1(student: Tensor, teacher: Tensor, temperature: float, **weights: float) -> Tensor:
    return decoupled_kd(student, teacher, temperature, torch.full(student.shape[:-1], 1), **weights)


CASES = {
    "forward_kl": (forward_kl, np_forward_kl),
    "reverse_kl": (reverse_kl, lambda s, t, temperature: np_forward_kl(t, s, temperature)),
    "jensen_shannon": (jensen_shannon, partial(np_jensen_shannon, beta=0.5)),
    "jensen_shannon_0.2": (partial(jensen_shannon, beta=0.2), partial(np_jensen_shannon, beta=0.2)),
    "skewed_kl": (skewed_kl, partial(np_skewed_kl, beta=0.1)),
    "skewed_kl_0.7": (partial(skewed_kl, beta=0.7), partial(np_skewed_kl, beta=0.7)),
    "total_variation": (total_variation, np_total_variation),
    "logit_mse": (logit_mse, np_logit_mse),
    "decoupled_kd": (decoupled_kd, lambda s, t, temperature: np_decoupled_kd(s, t, temperature, int(t.argmax()))),
    "decoupled_kd_labels": (with_label_1, partial(np_decoupled_kd, target=1)),
    "decoupled_kd_weights": (
        partial(with_label_1, target_weight=0.3, non_target_weight=2.5),
        partial(np_decoupled_kd, target=1, target_weight=0.3, non_target_weight=2.5),
    ),
    "bernoulli_kl": (bernoulli_kl, np_bernoulli_kl),
    "universal_logit_distance": (universal_logit_distance, np_universal_logit_distance),
    "top_k_forward_kl": (partial(top_k_from_full, k=2), partial(np_top_k_forward_kl, k=2)),
    "top_k_universal": (partial(universal_top_k_from_full, k=2), partial(np_top_k_universal_logit_distance, k=2)),
}
every_loss = pytest.mark.parametrize(("loss", "reference"), CASES.values(), ids=CASES.keys())


def random_logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype)


def expected(reference, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    pairs = zip(student.double().flatten(0, -2).numpy(), teacher.double().flatten(0, -2).numpy(), strict=True)
    values = [float(reference(s, t, temperature)) for s, t in pairs]
    return torch.tensor(values, dtype=torch.float64).view(student.shape[:-1])


def student_gradient(loss, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    student = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student, teacher, temperature).sum(), student)
    return gradient


# Values and gradients


@every_loss
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_matches_reference(loss, reference, temperature):
    student, teacher = random_logits(2, 3, 5)
    value = loss(student, teacher, temperature)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, expected(reference, student, teacher, temperature), rtol=1e-12, atol=1e-12)


@every_loss
def test_gradient(loss, reference):
    student, teacher = random_logits(4, 5)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, 1.7), student.requires_grad_())


@every_loss
def test_gradient_with_classes_ruled_out_by_both(loss, reference):
    student, teacher = random_logits(4, 5)
    student[:2, 2] = teacher[:2, 2] = -INF
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, 1.7), student.requires_grad_())


@every_loss
def test_teacher_gets_no_gradient(loss, reference):
    student, teacher = (x.requires_grad_() for x in random_logits(4, 5))
    loss(student, teacher, 2.0).sum().backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_top_k_teacher_gets_no_gradient():
    student, top, tail = torch.zeros(5, requires_grad=True), torch.ones(2, requires_grad=True), torch.tensor(0.5)
    top_k_forward_kl(student, top, torch.tensor([3, 0]), tail.requires_grad_()).backward()
    assert top.grad is None and tail.grad is None


@every_loss
def test_identical_inputs_give_zero(loss, reference):
    _, teacher = random_logits(4, 5)
    torch.testing.assert_close(loss(teacher, teacher, 2.0), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-14)


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(loss, reference, dtype):
    student, teacher = random_logits(4, 5, dtype=dtype)
    value = loss(student, teacher, 2.0)
    assert value.dtype == torch.float32
    # Exact references of the rounded logits: only float32 can come this close.
    torch.testing.assert_close(value.double(), expected(reference, student, teacher, 2.0), rtol=2e-5, atol=1e-6)
    assert student_gradient(loss, student, teacher).dtype == dtype


@every_loss
def test_one_dimension_is_one_row(loss, reference):
    student, teacher = random_logits(4, 5)
    torch.testing.assert_close(loss(student[1], teacher[1], 2.0), loss(student, teacher, 2.0)[1])


@every_loss
def test_no_rows(loss, reference):
    assert loss(torch.zeros(0, 5), torch.zeros(0, 5), 2.0).shape == (0,)


# Hard inputs


@every_loss
@pytest.mark.parametrize("by", ["both", "student", "teacher"])
def test_classes_ruled_out(loss, reference, by):
    """Values as in the reference, +inf included, which float32 shares with float64; and finite gradients."""
    student, teacher = random_logits(6, 5)
    for row in range(5):  # one class each; in the last row none
        student[row, row] = -INF if by != "teacher" else student[row, row]
        teacher[row, row] = -INF if by != "student" else teacher[row, row]
    for dtype, tolerance in [(torch.float64, 1e-12), (torch.float32, 1e-4)]:
        value = loss(student.to(dtype), teacher.to(dtype), 2.0)
        wanted = expected(reference, student, teacher, 2.0)
        torch.testing.assert_close(value.double(), wanted, rtol=tolerance, atol=tolerance)
        gradient = student_gradient(loss, student.to(dtype), teacher.to(dtype), 2.0)
        assert gradient.isfinite().all()
        assert gradient[5].abs().sum() > 0  # a row at +inf does not spoil its neighbours
        if by == "both":
            assert (gradient.diagonal()[:5] == 0).all()


@every_loss
@pytest.mark.parametrize("by", ["both", "student", "teacher"])
def test_gradients_stay_finite_under_large_factors(loss, reference, by):
    """Loss scaling, weights and temperature² multiply the gradient on its way, in float32."""
    student, teacher = random_logits(3, 5, dtype=torch.float32)
    for logits in (student, teacher) if by == "both" else (student,) if by == "student" else (teacher,):
        logits[0, 2] = -INF
    assert student_gradient(lambda *args: 2.0**16 * loss(*args), student, teacher, 50.0).isfinite().all()


@every_loss
def test_smallest_float_rules_a_class_out_too(loss, reference):
    """The other usual mask: the smallest number of the dtype."""
    student, teacher = random_logits(3, 5, dtype=torch.bfloat16)
    values = []
    for mask in (-INF, torch.finfo(torch.bfloat16).min):
        student[0, 2] = teacher[0, 2] = teacher[1, 1] = student[2, 3] = mask
        values.append(loss(student, teacher, 1.0))
    assert torch.equal(*values)


@pytest.mark.parametrize("loss", [forward_kl, bernoulli_kl])
def test_mask_of_minus_a_billion_stays_finite(loss):
    value = loss(torch.tensor([-1e9, -1e9, 0.0]), torch.tensor([0.0, -1e9, 0.0]), 1.0)
    assert value.item() == pytest.approx(5e8 if loss is forward_kl else 5e8 / 3)


@pytest.mark.parametrize(
    ("by", "infinite"),
    [
        ("student", {"forward_kl", "logit_mse", "decoupled_kd", "bernoulli_kl"}),
        ("teacher", {"reverse_kl", "logit_mse"}),
    ],
)
def test_which_losses_become_infinite(by, infinite):
    student, teacher = random_logits(1, 5)
    (student if by == "student" else teacher)[0, 2] = -INF
    assert {name for name, loss in LOSSES.items() if loss(student, teacher, 1.0).isinf()} == infinite


def test_infinite_forward_kl_keeps_its_gradient():
    student, teacher = random_logits(1, 5)
    student[0, 2] = -INF
    gradient = student_gradient(forward_kl, student, teacher, 2.0)
    torch.testing.assert_close(gradient, 2.0 * ((student / 2).softmax(-1) - (teacher / 2).softmax(-1)))


@pytest.mark.parametrize("loss", [reverse_kl, logit_mse])
def test_infinite_rows_without_gradient(loss):
    student, teacher = random_logits(2, 5)
    teacher[0, 2] = -INF
    gradient = student_gradient(loss, student, teacher)
    assert (gradient[0] == 0).all() and (gradient[1] != 0).all()


@every_loss
def test_every_class_ruled_out(loss, reference):
    student, teacher = random_logits(3, 5)
    student[:2] = teacher[1:] = -INF  # the student's first two rows, the teacher's last two
    value, gradient = loss(student, teacher, 2.0), student_gradient(loss, student, teacher, 2.0)
    assert not value.isnan().any() and gradient.isfinite().all()
    assert value[1] == pytest.approx(0.0, abs=1e-12)


@every_loss
def test_nan_is_not_hidden(loss, reference):
    student, teacher = random_logits(3, 5)
    student[0, 1] = teacher[1, 1] = math.nan
    assert loss(student, teacher, 2.0).isnan().tolist() == [True, True, False]


@every_loss
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_inputs_stay_as_they_are(loss, reference, temperature):
    student, teacher = random_logits(3, 5)
    student[0, 1] = teacher[0, 1] = -INF
    before = student.clone(), teacher.clone()
    loss(student, teacher, temperature)
    assert torch.equal(student, before[0]) and torch.equal(teacher, before[1])


@every_loss
def test_extreme_logits(loss, reference):
    student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [1e4, 1e4, -1e4], [0.5, -0.5, 0.0]])
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [-1e4, 1e4, 0.0], [0.5, -0.5, 0.0], [1e4, 1e4, -1e4]])
    value = loss(student, teacher, 1.0)
    torch.testing.assert_close(value.double(), expected(reference, student, teacher, 1.0), rtol=1e-5, atol=1e-5)
    assert student_gradient(loss, student, teacher).isfinite().all()


@pytest.mark.parametrize(
    "loss", [forward_kl, reverse_kl, jensen_shannon, skewed_kl, total_variation, universal_logit_distance]
)
def test_one_class_is_certain_on_both_sides(loss):
    student, teacher = random_logits(4, 1)
    torch.testing.assert_close(loss(student, teacher, 2.0), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-14)


# Closed forms and limits


def test_closed_forms():
    uniform, three_to_one = torch.zeros(2, dtype=torch.float64), torch.tensor([3.0, 1.0], dtype=torch.float64).log()
    assert forward_kl(uniform, three_to_one).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert reverse_kl(uniform, three_to_one).item() == pytest.approx(0.5 * math.log(4 / 3))
    assert total_variation(uniform, three_to_one, 1.0).item() == pytest.approx(0.25)
    assert universal_logit_distance(uniform, three_to_one).item() == pytest.approx(0.5)
    assert logit_mse(uniform, torch.tensor([3.0, 1.0])).item() == pytest.approx(5.0)
    # Bernoulli(1/2) from log-odds 0, and Bernoulli(3/4) from log 3.
    log_odds = torch.tensor([0.0, math.log(3)], dtype=torch.float64)
    same_and_off = bernoulli_kl(torch.zeros(2, dtype=torch.float64), log_odds)
    assert same_and_off.item() == pytest.approx((0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2)


def test_bounds_are_reached_where_nothing_is_shared():
    student, teacher = torch.tensor([0.0, -INF]), torch.tensor([-INF, 0.0])
    assert total_variation(student, teacher, 3.0).item() == pytest.approx(3.0)
    assert skewed_kl(student, teacher, beta=0.25).item() == pytest.approx(math.log(4))
    entropy = -0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    assert jensen_shannon(student, teacher, beta=0.2).item() == pytest.approx(entropy)
    assert universal_logit_distance(torch.zeros(1), torch.zeros(1000), 3.0).item() == pytest.approx(6 - 6 / 1000)


@pytest.mark.parametrize(
    ("loss", "same_as"),
    [
        (partial(jensen_shannon, beta=0), forward_kl),
        (partial(jensen_shannon, beta=1), reverse_kl),
        (partial(skewed_kl, beta=0), forward_kl),
        (partial(top_k_from_full, k=5), forward_kl),
    ],
    ids=["jensen_shannon_0", "jensen_shannon_1", "skewed_kl_0", "top_k_of_all"],
)
def test_special_cases(loss, same_as):
    student, teacher = random_logits(4, 5)
    teacher[3, 0] = -INF
    torch.testing.assert_close(loss(student, teacher, 2.0), same_as(student, teacher, 2.0))
    gradients = [student_gradient(f, student, teacher, 2.0) for f in (loss, same_as)]
    torch.testing.assert_close(*gradients)


def test_jensen_shannon_tends_to_the_two_kls():
    """Divided by beta (or 1 - beta), which vanishes with it: TRL's convention for 0 and 1 is no accident."""
    student, teacher = random_logits(4, 5)
    near_0, near_1 = jensen_shannon(student, teacher, beta=1e-6), jensen_shannon(student, teacher, beta=1 - 1e-6)
    torch.testing.assert_close(near_0 / 1e-6, forward_kl(student, teacher), rtol=1e-3, atol=0)
    torch.testing.assert_close(near_1 / 1e-6, reverse_kl(student, teacher), rtol=1e-3, atol=0)


def half_variance(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).var(-1, correction=0) / 2


HIGH_TEMPERATURE = {
    "forward_kl": (forward_kl, half_variance),
    "reverse_kl": (reverse_kl, half_variance),
    "jensen_shannon": (partial(jensen_shannon, beta=0.2), lambda s, t: 0.2 * 0.8 * half_variance(s, t)),
    "skewed_kl": (partial(skewed_kl, beta=0.1), lambda s, t: 0.9**2 * half_variance(s, t)),
    "total_variation": (total_variation, lambda s, t: (s - t - (s - t).mean(-1, keepdim=True)).abs().mean(-1) / 2),
    "bernoulli_kl": (bernoulli_kl, lambda s, t: (s - t).square().mean(-1) / 8),
    "logit_mse": (logit_mse, lambda s, t: (s - t).square().mean(-1)),
}


@pytest.mark.parametrize(("loss", "limit"), HIGH_TEMPERATURE.values(), ids=HIGH_TEMPERATURE.keys())
def test_high_temperature(loss, limit):
    """The scaling by temperature leaves every loss a limit other than 0 and infinity."""
    student, teacher = random_logits(4, 5)
    torch.testing.assert_close(loss(student, teacher, 1e4), limit(student, teacher), rtol=1e-3, atol=0)


# decoupled_kd


def test_decoupled_parts_add_up_to_forward_kl():
    student, teacher = random_logits(4, 5)
    labels = torch.tensor([3, 0, 1, 4])
    target_part = decoupled_kd(student, teacher, 2.0, labels, target_weight=1.0, non_target_weight=0.0)
    non_target_part = decoupled_kd(student, teacher, 2.0, labels, target_weight=0.0, non_target_weight=1.0)
    not_target = 1 - (teacher / 2).softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
    torch.testing.assert_close(target_part + not_target * non_target_part, forward_kl(student, teacher, 2.0))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16])
def test_decoupled_rows_without_label_take_the_teachers_first_class(dtype):
    student, teacher = random_logits(3, 5)
    first = teacher.argmax(-1)
    labels = torch.tensor([-100, (first[1] + 1) % 5, -100], dtype=dtype)
    value = decoupled_kd(student, teacher, labels=labels)
    torch.testing.assert_close(value, decoupled_kd(student, teacher, labels=torch.where(labels == -100, first, labels)))
    without_labels = decoupled_kd(student, teacher)
    assert (value == without_labels).tolist() == [True, False, True]


def test_decoupled_teacher_certain_of_the_target():
    """No second choice to learn: the non-target part is 0, whatever the student says there."""
    student, teacher = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[-INF, 5.0, -INF]])
    assert decoupled_kd(student, teacher, target_weight=0.0).item() == 0.0
    assert decoupled_kd(student, teacher).item() == pytest.approx(-student.log_softmax(-1)[0, 1].item())


def test_decoupled_weight_of_zero_leaves_an_infinite_part_out():
    student, teacher = torch.tensor([[-INF, 0.0, 0.0]]), torch.zeros(1, 3)
    labels = torch.tensor([0])
    assert decoupled_kd(student, teacher, labels=labels).item() == INF
    assert decoupled_kd(student, teacher, labels=labels, target_weight=0.0).item() == 0.0


# universal_logit_distance


@pytest.mark.parametrize(("student_shape", "teacher_shape"), [((2, 5, 3), (2, 4, 6)), ((2, 4, 6), (2, 5, 3))])
def test_universal_distance_of_different_lengths_and_vocabularies(student_shape, teacher_shape):
    student, teacher = random_logits(*student_shape)[0], random_logits(*teacher_shape, seed=1)[1]
    value = universal_logit_distance(student, teacher, 2.0)
    wanted = [
        [np_universal_logit_distance(s, t, 2.0) for s, t in zip(*rows, strict=False)]
        for rows in zip(student.numpy(), teacher.numpy(), strict=True)
    ]
    torch.testing.assert_close(value, torch.tensor(wanted, dtype=torch.float64))
    gradient = student_gradient(universal_logit_distance, student, teacher)
    assert (gradient[:, 4:] == 0).all() and (gradient[:, :4].abs().sum(-1) > 0).all()


def test_universal_distance_of_batch_and_classes():
    assert universal_logit_distance(torch.zeros(4, 2), torch.zeros(4, 3)).tolist() == pytest.approx([2 / 3] * 4)


def test_universal_distance_ignores_the_order_of_the_vocabulary():
    student, teacher = random_logits(4, 5)
    value = universal_logit_distance(student, teacher)
    torch.testing.assert_close(universal_logit_distance(student, teacher[:, [3, 1, 4, 0, 2]]), value)


# top_k_forward_kl


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.int16, torch.int32, torch.int64])
def test_top_k_ids_of_any_integer_type(dtype):
    student, teacher = random_logits(2, 200)
    top, ids = teacher.topk(3)
    tail = teacher.scatter(-1, ids, -INF).logsumexp(-1)
    torch.testing.assert_close(
        top_k_forward_kl(student, top, ids.to(dtype), tail), top_k_from_full(student, teacher, 1.0, k=3)
    )


def test_top_k_ids_beyond_32767():
    student = torch.zeros(65536)
    student[65535] = 3.0
    ids = torch.tensor([65535], dtype=torch.uint16)
    value = top_k_forward_kl(student, torch.tensor([3.0]), ids, torch.tensor(math.log(65535)))
    assert value.item() == pytest.approx(0.0, abs=1e-5)


def test_top_k_grows_with_k_towards_forward_kl():
    student, teacher = random_logits(4, 8)
    values = torch.stack([top_k_from_full(student, teacher, 2.0, k) for k in range(1, 9)])
    assert (values.diff(dim=0) >= -1e-12).all()
    torch.testing.assert_close(values[-1], forward_kl(student, teacher, 2.0))
    assert (values[0] < values[-1]).all()


def test_top_k_tail_of_minus_infinity_rules_the_rest_out():
    student, teacher = random_logits(4, 8)
    top, ids = teacher.topk(3)
    rest_ruled_out = torch.full_like(teacher, -INF).scatter(-1, ids, top)
    value = top_k_forward_kl(student, top, ids, torch.full((4,), -INF), 2.0)
    torch.testing.assert_close(value, forward_kl(student, rest_ruled_out, 2.0))


def test_top_k_student_without_the_rest_is_infinite():
    student, teacher = random_logits(4, 5)
    student = student.scatter(-1, teacher.topk(3, largest=False).indices, -INF)
    assert top_k_from_full(student, teacher, 1.0, k=2).isinf().all()
    assert student_gradient(partial(top_k_from_full, k=2), student, teacher).isfinite().all()


# top_k_universal_logit_distance


@pytest.mark.parametrize("words", [4, 8, 12])  # fewer than the teacher's 8, as many, more
def test_universal_top_k_misses_at_most_what_was_left_out(words):
    student, teacher = random_logits(6, words)[0], random_logits(6, 8)[1]
    whole = universal_logit_distance(student, teacher, 2.0)
    sorted_student, sorted_teacher = (
        (side / 2).softmax(-1).sort(descending=True).values for side in (student, teacher)
    )
    before = torch.zeros(6, dtype=whole.dtype)
    for k in range(1, 9):
        value = universal_top_k_from_full(student, teacher, 2.0, k)
        rests = (side[:, k:].sum(-1) for side in (sorted_student, sorted_teacher))
        bound = 2 * 2.0 * torch.minimum(*rests)
        assert (value <= whole + 1e-12).all()
        assert (whole - value <= bound + 1e-12).all()
        assert (value >= before - 1e-12).all()  # a longer list can only tell more
        before = value
    torch.testing.assert_close(before, whole)
    gradients = [
        student_gradient(loss, student, teacher)
        for loss in (universal_logit_distance, partial(universal_top_k_from_full, k=8))
    ]
    torch.testing.assert_close(*gradients)


def test_universal_top_k_by_hand():
    """Top (1/2, 1/4) and a rest of 1/4 against (1/4, 1/4) and a rest of 1/2: 1/4 + 0 + 1/4, where all is 1/2 too."""
    kept, tail = torch.tensor([0.5, 0.25]).log(), torch.tensor(0.25).log()
    assert top_k_universal_logit_distance(torch.zeros(4), kept, tail).item() == pytest.approx(0.5)
    assert top_k_universal_logit_distance(torch.zeros(4), kept.flip(0), tail).item() == pytest.approx(0.5)
    assert top_k_universal_logit_distance(torch.zeros(1), kept, tail).item() == pytest.approx(1.0)


# Mistakes


@every_loss
@pytest.mark.parametrize("temperature", [0, -1.0, INF, math.nan])
def test_temperature_must_be_positive_and_finite(loss, reference, temperature):
    with pytest.raises(ValueError, match=rf"temperature must be positive and finite, got {temperature}"):
        loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature)


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"universal_logit_distance"}))
@pytest.mark.parametrize(("student_shape", "teacher_shape"), [((2, 3), (2, 4)), ((2, 3), (1, 3)), ((), ())])
def test_shapes_must_agree(name, student_shape, teacher_shape):
    got = rf"{student_shape} and {teacher_shape}".replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"one shape \(..., classes\).* got {got}.* universal_logit_distance"):
        LOSSES[name](torch.zeros(student_shape), torch.zeros(teacher_shape))


@pytest.mark.parametrize(
    ("student_shape", "teacher_shape"), [((2, 5, 3), (3, 5, 3)), ((2, 3), (4, 3)), ((2, 5, 3), (5, 3)), ((), ())]
)
def test_universal_distance_needs_the_same_batch(student_shape, teacher_shape):
    with pytest.raises(ValueError, match=r"all but the last two dimensions .* Give both the same examples"):
        universal_logit_distance(torch.zeros(student_shape), torch.zeros(teacher_shape))


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan])
def test_jensen_shannon_beta_out_of_range(beta):
    with pytest.raises(ValueError, match=rf"beta must lie in \[0, 1\].* got {beta}"):
        jensen_shannon(torch.zeros(2), torch.zeros(2), beta=beta)


@pytest.mark.parametrize("beta", [-0.1, 1, math.nan])
def test_skewed_kl_beta_out_of_range(beta):
    with pytest.raises(ValueError, match=rf"beta must lie in \[0, 1\).* identically zero; got {beta}"):
        skewed_kl(torch.zeros(2), torch.zeros(2), beta=beta)


@pytest.mark.parametrize("classes", [1, 2])
def test_decoupled_needs_three_classes(classes):
    with pytest.raises(ValueError, match=rf"at least three classes, got {classes}.* Use forward_kl"):
        decoupled_kd(torch.zeros(4, classes), torch.zeros(4, classes))


def test_decoupled_labels_must_fit():
    with pytest.raises(ValueError, match=r"labels must have .* \(4,\), one target a row; got \(3,\)"):
        decoupled_kd(torch.zeros(4, 3), torch.zeros(4, 3), labels=torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("weights", [{"target_weight": -1.0}, {"non_target_weight": math.nan}])
def test_decoupled_weights_must_not_be_negative(weights):
    with pytest.raises(ValueError, match="target_weight and non_target_weight must not be negative"):
        decoupled_kd(torch.zeros(4, 3), torch.zeros(4, 3), **weights)


@pytest.mark.parametrize(
    ("student", "top", "ids", "tail"),
    [
        ((2, 5), (2, 3), (2, 2), (2,)),
        ((2, 5), (3, 3), (3, 3), (2,)),
        ((2, 5), (2, 3), (2, 3), (2, 1)),
        ((2, 5), (2, 6), (2, 6), (2,)),
        ((), (), (), ()),
    ],
)
def test_top_k_shapes_must_fit(student, top, ids, tail):
    with pytest.raises(ValueError, match=r"k <= vocabulary, and teacher_tail \(...\); got .* Pad or cut"):
        top_k_forward_kl(torch.zeros(student), torch.zeros(top), torch.zeros(ids, dtype=torch.long), torch.zeros(tail))


@pytest.mark.parametrize(
    ("student", "top", "tail"), [((2, 5), (3, 3), (2,)), ((2, 5), (2, 3), (2, 1)), ((5,), (2, 3), ()), ((), (), ())]
)
def test_universal_top_k_shapes_must_fit(student, top, tail):
    with pytest.raises(ValueError, match=r"teacher_tail \(...\); got .* Give all three the same positions"):
        top_k_universal_logit_distance(torch.zeros(student), torch.zeros(top), torch.zeros(tail))
    with pytest.raises(ValueError, match="temperature must be positive"):
        top_k_universal_logit_distance(torch.zeros(3), torch.zeros(2), torch.zeros(()), 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_top_k_ids_must_be_integers(dtype):
    with pytest.raises(ValueError, match=r"teacher_top_k_ids must be integers, got torch\."):
        top_k_forward_kl(torch.zeros(5), torch.zeros(2), torch.zeros(2, dtype=dtype), torch.tensor(0.0))


# The table a trainer picks from


def test_losses_are_named_as_they_are():
    assert all(name == loss.__name__ for name, loss in LOSSES.items())
    assert top_k_forward_kl not in LOSSES.values()  # it takes other columns: the cache decides, not the user
