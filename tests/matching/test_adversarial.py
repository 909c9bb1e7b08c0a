"""The adversarial game: both players' losses and gradients, against numpy and autograd."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_distill.matching.adversarial import AdversarialMatching
from tests.matching.cases import (
    GRANULARITIES,
    LAYERS,
    LENGTHS,
    TEACHER_WIDTH,
    WIDTH,
    WORDS,
    built,
    case,
    models,
    np_items,
    np_norm,
    np_softplus,
    np_units,
    padded,
    states,
    weights,
)


def np_sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("logits", ["example", "position", None])
def test_adversarial(granularity, logits):
    words = (WORDS["student"], WORDS["teacher"]) if granularity != "token" else (None, None)
    student = states([WIDTH] * 3, LENGTHS, words[0], seed=1)
    teacher = states([TEACHER_WIDTH] * 4, LENGTHS, words[1], logits=logits, seed=2)
    matching = AdversarialMatching(
        LAYERS, granularity=granularity, hidden_size=7, mse_weight=0.7, gradient_penalty=0.9, weight=0.3
    )
    learnt = weights(built(matching, student, teacher))
    progress = 0.13
    accuracy, errors = [], []

    def said(ours, row):
        if logits is None:
            return np.zeros((len(ours), 0))
        if logits == "example":
            return np.repeat(teacher.logits[row : row + 1].numpy(), len(ours), axis=0)
        pooled = np_units(replace(teacher, hidden=(teacher.logits,)), 0, granularity)
        return pooled[row][: len(ours)]

    def compare(number, ours, theirs, row):
        ours, theirs = np_norm(ours @ learnt[f"projections.{number}.weight"].T), np_norm(theirs)
        condition = said(ours, row)
        name = f"discriminators.{number}."

        def score(units):
            before = np.concatenate([units, condition], -1) @ learnt[name + "inner.weight"].T
            before = before + learnt[name + "inner.bias"]
            value = before * np_sigmoid(before) @ learnt[name + "outer.weight"].T + learnt[name + "outer.bias"]
            return value[:, 0]

        def steepness(units):  # by finite differences
            total = np.zeros(len(units))
            for dimension in range(units.shape[-1]):
                step = np.zeros(units.shape[-1])
                step[dimension] = 1e-5
                total += ((score(units + step) - score(units - step)) / 2e-5) ** 2
            return total

        d = score(theirs) - score(ours)
        caught = np_softplus(-d) + 0.9 / 2 * (steepness(theirs) + steepness(ours))
        mse = ((ours - theirs) ** 2).mean(-1)
        accuracy.append(d > 0)
        errors.append(mse)
        return caught + (2 / (1 + np.exp(-10 * progress)) - 1) * (np_softplus(d) + 0.7 * mse)

    items = matching(student, teacher, progress)
    np.testing.assert_allclose(
        items.values.detach(), np_items(matching, student, teacher, compare), rtol=1e-7, atol=1e-9
    )
    for name, expected in (("d_accuracy", accuracy), ("mse", errors)):
        np.testing.assert_allclose(items.logged[name], np.concatenate(expected).reshape(2, -1).mean(0), rtol=1e-9)
        assert not items.logged[name].requires_grad


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_padding_has_no_logits(granularity):
    matching, student, teacher = case("adversarial", granularity)
    of_positions = replace(teacher, logits=torch.randn(*teacher.mask.shape, 3, dtype=torch.float64))
    expected = matching(student, of_positions, 0.5).values
    found = matching(padded(student, 2), padded(of_positions, 2), 0.5).values
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def game(weight, progress, **kwargs):
    """The gradients of the discriminator, of the projection and of the student's states."""
    torch.manual_seed(0)
    student, teacher = models()
    leaf = student.hidden[1].clone().requires_grad_()
    student = replace(student, hidden=(student.hidden[0], leaf, student.hidden[2]))
    matching = built(AdversarialMatching({1: 2}, weight=weight, hidden_size=7, **kwargs), student, teacher)
    (weight * matching(student, teacher, progress).values.sum()).backward()
    own = torch.cat([parameter.grad.flatten() for parameter in matching.discriminators.parameters()])
    return own, matching.projections[0].weight.grad, leaf.grad


def test_neither_player_moves_the_other():
    own, projection, student = game(1.0, progress=0.0)  # w(0) = 0: the discriminator's part alone
    assert own.abs().max() > 0
    assert projection.abs().max() == 0
    assert student.abs().max() == 0

    later, projection, student = game(1.0, progress=0.5)  # the student's part joins, and D's gradient stays as it was
    torch.testing.assert_close(later, own, rtol=0, atol=0)
    assert projection.abs().max() > 0
    assert student.abs().max() > 0


def test_the_student_s_part_alone():
    """Its gradient is that of w(p) (softplus(D(h_t) - D(h_s)) + λ MSE) with D held still, found without the class."""
    torch.manual_seed(0)
    student, teacher = models()
    leaf = student.hidden[1].clone().requires_grad_()
    student = replace(student, hidden=(student.hidden[0], leaf, student.hidden[2]))
    matching = built(AdversarialMatching({1: 2}, hidden_size=7, mse_weight=0.5), student, teacher)
    matching(student, teacher, 0.3).values.sum().backward()
    found, leaf.grad = leaf.grad, None

    mask = student.mask
    ours = torch.nn.functional.layer_norm(matching.projections[0](leaf[mask]), (TEACHER_WIDTH,))
    theirs = torch.nn.functional.layer_norm(teacher.hidden[2][mask], (TEACHER_WIDTH,))
    condition = teacher.logits[mask.nonzero()[:, 0]]
    critic = matching.discriminators[0]
    d = critic(theirs, condition) - critic(ours, condition)
    ramp = 2 / (1 + math.exp(-3)) - 1
    (ramp * (torch.nn.functional.softplus(d) + 0.5 * (ours - theirs).square().mean(-1))).sum().backward()
    torch.testing.assert_close(found, leaf.grad)


def test_the_weight_is_the_student_s_alone():
    own, projection, student = game(1.0, 0.5)
    light_own, light_projection, light_student = game(0.1, 0.5)
    torch.testing.assert_close(light_own, own)
    torch.testing.assert_close(light_projection, 0.1 * projection)
    torch.testing.assert_close(light_student, 0.1 * student)
    assert game(0.0, 0.5)[0].abs().max() == 0


def test_the_penalty_is_autograd_s():
    """Of its value and, through a second backward, of its gradient."""
    student, teacher = models()
    critic = built(AdversarialMatching({1: 2}, hidden_size=7), student, teacher).discriminators[0]
    inputs = torch.randn(5, TEACHER_WIDTH, dtype=torch.float64, requires_grad=True)
    condition = torch.randn(5, 3, dtype=torch.float64)
    (slope,) = torch.autograd.grad(critic(inputs, condition).sum(), inputs, create_graph=True)
    expected = slope.square().sum(-1)
    found = critic.squared_gradient_norm(inputs.detach(), condition)
    torch.testing.assert_close(found, expected)
    parameters = [critic.inner.weight, critic.inner.bias, critic.outer.weight]
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), parameters), torch.autograd.grad(expected.sum(), parameters)
    )


def test_the_penalty_is_paid_without_gradients_too():
    matching, student, teacher = case("adversarial", "token")
    with torch.no_grad():
        evaluated = matching(student, teacher, 0.5).values
    torch.testing.assert_close(evaluated, matching(student, teacher, 0.5).values.detach(), rtol=0, atol=0)


def test_only_the_discriminators_have_a_pace_of_their_own():
    matching, _, _ = case("adversarial", "token")
    paced = {id(parameter) for parameter in matching.paced_parameters()}
    assert paced == {id(parameter) for parameter in matching.discriminators.parameters()}
    assert matching.learning_rate == 2e-4
    other, _, _ = case("mse", "token")
    assert other.learning_rate is None
    assert list(other.paced_parameters()) == list(other.parameters())


def test_gradients_of_the_discriminators():
    """At w(0) = 0, since two players' objective is neither's; the penalty included."""
    matching, student, teacher = case("adversarial", "token")
    parameters = list(matching.discriminators.parameters())
    assert torch.autograd.gradcheck(lambda *_: matching(student, teacher, 0.0).values, parameters, fast_mode=True)


def test_logits_that_do_not_fit():
    matching, student, teacher = case("adversarial", "token")
    with pytest.raises(ValueError, match=r"built for 3 logits of the teacher \(0: none\), and now there are 0"):
        matching(student, replace(teacher, logits=None), 0.5)
    with pytest.raises(ValueError, match=r"logits are \(4, 9, 3\), expected one row an example"):
        built(AdversarialMatching(LAYERS), student, replace(teacher, logits=torch.zeros(4, 9, 3)))


def test_a_class_ruled_out_is_finite():
    matching, student, teacher = case("adversarial", "token")
    ruled_out = replace(teacher, logits=teacher.logits.masked_fill(torch.tensor([True, False, False]), -math.inf))
    assert matching(student, ruled_out, 0.5).values.isfinite().all()
