"""The variational bound against numpy, torch's distributions and sampling."""

import math

import numpy as np
import pytest
import torch

from hf_distill.matching.base import States
from hf_distill.matching.variational import VariationalMatching, _gaussian_kl, _inverse_variance, _variance
from tests.matching.cases import (
    GRANULARITIES,
    LAYERS,
    PAIRS,
    TEACHER_WIDTH,
    WIDTH,
    built,
    case,
    np_items,
    np_norm,
    np_softplus,
    np_units,
    states,
    weights,
)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_variational(granularity):
    matching, student, teacher = case("variational", granularity)
    learnt = weights(matching)

    def compare(number, ours, theirs, row):
        mean = np_norm(ours) @ learnt[f"outputs.{number}.weight"].T + learnt[f"outputs.{number}.bias"]
        variance = np_softplus(learnt[f"spreads.{number}"]) + 1e-3
        return 0.5 * (np.log(variance) + (np_norm(theirs) - mean) ** 2 / variance).mean(-1)

    expected = np_items(matching, student, teacher, compare)
    items = matching(student, teacher, 0.5)
    np.testing.assert_allclose(items.values.detach(), expected, rtol=1e-9)
    assert not items.logged


@pytest.mark.parametrize(("progress", "beta"), [(0.0, 0.0), (0.05, 0.25), (0.2, 1.0), (0.9, 1.0)])
def test_variational_with_a_latent(progress, beta):
    matching, student, teacher = case("latent", "token")
    learnt = weights(matching)
    kls = []

    def compare(number, ours, theirs, row):
        ours, theirs = np_norm(ours), np_norm(theirs)

        def gaussian(name, inputs):
            out = inputs @ learnt[f"{name}.{number}.weight"].T + learnt[f"{name}.{number}.bias"]
            return out[:, :3], np_softplus(out[:, 3:]) + 1e-3

        mean, variance = gaussian("encoders", theirs)
        prior_mean, prior_variance = gaussian("priors", ours)
        decoder = learnt[f"outputs.{number}.weight"]
        noise = np_softplus(learnt[f"spreads.{number}"]) + 1e-3
        rest = theirs - mean @ decoder.T - learnt[f"outputs.{number}.bias"]
        trace = np.array([np.trace(decoder @ np.diag(one) @ decoder.T) for one in variance])
        fit = ((rest**2).sum(-1) + trace) / (2 * noise) + 0.5 * TEACHER_WIDTH * np.log(noise)
        kl = np.log(prior_variance / variance) - 1 + (variance + (mean - prior_mean) ** 2) / prior_variance
        kl = 0.5 * kl
        kls.append(kl)
        return (fit + beta * np.maximum(kl, 0.05).sum(-1)) / TEACHER_WIDTH

    expected = np_items(matching, student, teacher, compare)
    items = matching(student, teacher, progress)
    np.testing.assert_allclose(items.values.detach(), expected, rtol=1e-9)
    logged = np.concatenate(kls).sum(-1).reshape(2, -1).mean(0)  # as many items in each of the two pairs
    np.testing.assert_allclose(items.logged["kl"], logged, rtol=1e-9)
    assert not items.logged["kl"].requires_grad


def test_the_latent_bound_is_what_sampling_finds():
    student, teacher = states([WIDTH], [1]), states([TEACHER_WIDTH], [1], seed=3)
    matching = built(VariationalMatching({0: 0}, latent_size=2), student, teacher)
    with torch.no_grad():
        matching.priors[0].bias += 1  # away from the free nats
    found = matching(student, teacher, 1.0).values.item() * TEACHER_WIDTH
    target = torch.nn.functional.layer_norm(teacher.hidden[0][0, 0], (TEACHER_WIDTH,))
    given = torch.nn.functional.layer_norm(student.hidden[0][0, 0], (WIDTH,))
    with torch.no_grad():
        mean, spread = matching.encoders[0](target).chunk(2)
        prior_mean, prior_spread = matching.priors[0](given).chunk(2)
        code = torch.distributions.Normal(mean, _variance(spread).sqrt())
        prior = torch.distributions.Normal(prior_mean, _variance(prior_spread).sqrt())
        assert torch.distributions.kl_divergence(code, prior).min() > 0.05
        sampled = code.sample((400_000,))
        noise = _variance(matching.spreads[0]).sqrt()
        likelihood = torch.distributions.Normal(matching.outputs[0](sampled), noise).log_prob(target)
        constant = 0.5 * math.log(2 * math.pi)  # that the loss leaves out
        bound = -(likelihood + constant).sum(-1) + (code.log_prob(sampled) - prior.log_prob(sampled)).sum(-1)
    assert abs(bound.mean().item() - found) < 5 * bound.std().item() / math.sqrt(len(bound))
    assert bound.std() / math.sqrt(len(bound)) < 0.01


def test_gaussian_kl_is_torch_s():
    mean, prior_mean = torch.randn(2, 5, dtype=torch.float64)
    variance, prior_variance = torch.rand(2, 5, dtype=torch.float64) + 0.1
    normal = torch.distributions.Normal
    torch.testing.assert_close(
        _gaussian_kl(mean, variance, prior_mean, prior_variance),
        torch.distributions.kl_divergence(normal(mean, variance.sqrt()), normal(prior_mean, prior_variance.sqrt())),
    )


def test_free_nats_stop_the_kl_s_gradient():
    matching, student, teacher = case("latent", "token")
    with torch.no_grad():
        for module in (*matching.encoders, *matching.priors):
            module.weight.zero_()
            module.bias.fill_(0.3)
    items = matching(student, teacher, 1.0)
    items.values.sum().backward()
    assert items.logged["kl"].abs().max() < 1e-12
    assert all(module.weight.grad.abs().max() == 0 for module in matching.priors)


def test_variances_start_at_the_teacher_s():
    variances = torch.tensor([2e-3, 0.1, 1.0, 30.0, 500.0])
    torch.testing.assert_close(_variance(_inverse_variance(variances)), variances)
    assert _variance(_inverse_variance(torch.tensor(0.0))) == pytest.approx(2e-3)

    matching, student, teacher = case("variational", "token")
    for number, (_, layer) in enumerate(PAIRS):
        units = np_norm(np.concatenate(np_units(teacher, layer, "token")))
        np.testing.assert_allclose(_variance(matching.spreads[number]).detach(), units.var(0), rtol=1e-9)
        np.testing.assert_allclose(matching.outputs[number].bias.detach(), units.mean(0), rtol=1e-9)
    latent = built(VariationalMatching(LAYERS, latent_size=2), student, teacher)
    np.testing.assert_allclose(_variance(latent.spreads[1]).item(), units.var(0).mean(), rtol=1e-9)


@pytest.mark.parametrize("positions", [0, 1])
def test_variances_where_there_is_nothing_to_take_them_from(positions):
    mask = torch.arange(2).expand(1, 2) < positions
    student, teacher = (States((torch.randn(1, 2, width),), mask) for width in (WIDTH, TEACHER_WIDTH))
    matching = built(VariationalMatching({0: 0}), student, teacher)
    torch.testing.assert_close(_variance(matching.spreads[0]).detach(), torch.ones(TEACHER_WIDTH))
    assert all(parameter.isfinite().all() for parameter in matching.parameters())
