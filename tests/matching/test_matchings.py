"""Every matching against a reference of its own (numpy, float64, item by item), and what the trainer relies on."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hf_distill.matching.adversarial import AdversarialMatching
from hf_distill.matching.attention import AttentionMatching
from hf_distill.matching.base import States
from hf_distill.matching.hidden_states import HiddenStateMatching
from hf_distill.matching.relations import RelationMatching
from hf_distill.matching.variational import VariationalMatching, _gaussian_kl, _inverse_variance, _variance
from tests.conftest import tiny_bert

WIDTH, TEACHER_WIDTH = 8, 12
LENGTHS = (5, 3, 0, 6)
WORDS = {  # of each example, the pieces of each of its words: on the student's side and on the teacher's
    "student": ([1, 2], [1], [], [1, 1, 2]),
    "teacher": ([2, 1, 1], [3], [], [1, 2]),
}


def states(widths, lengths, words=None, heads=None, logits=None, seed=0, dtype=torch.float64):
    """Random states, padding included; with words, a special token on both ends of an example."""
    generator = torch.Generator().manual_seed(seed)
    if words is not None:
        lengths = [sum(pieces) + 2 if pieces else 0 for pieces in words]
    batch, length = len(lengths), max(lengths)
    draw = {"generator": generator, "dtype": torch.float64}
    hidden = [3 * torch.randn(batch, length, width, **draw) + 1 for width in widths]
    starts = torch.full((batch, length), -100)
    for row, pieces in enumerate(words or []):
        at = 1
        for size in pieces:
            starts[row, at : at + size] = torch.tensor([1] + [0] * (size - 1))
            at += size
    mask = torch.arange(length) < torch.tensor(lengths)[:, None]
    attentions = None
    if heads is not None:
        scores = [torch.randn(batch, heads, length, length, **draw) for _ in widths[1:]]
        scores = [score.masked_fill(~mask[:, None, None, :], -1e9).softmax(-1) for score in scores]
        attentions = tuple(score.to(dtype) for score in scores)
    if logits == "example":
        logits = torch.randn(batch, 3, **draw).to(dtype)
    elif logits == "position":
        logits = torch.randn(batch, length, 3, **draw).to(dtype)
    return States(tuple(state.to(dtype) for state in hidden), mask, attentions, starts if words else None, logits)


def padded(made, extra, side="right", filler=math.nan):
    """The same states with more padding, filled with what a careless kernel may leave there."""

    def grow(tensor, dims, value):
        sizes = (0, extra) if side == "right" else (extra, 0)
        return torch.nn.functional.pad(tensor, (0, 0) * (tensor.dim() - 1 - dims[-1]) + sizes * len(dims), value=value)

    return States(
        hidden=tuple(grow(state, [1], filler) for state in made.hidden),
        mask=grow(made.mask, [1], False),
        attentions=None if made.attentions is None else tuple(grow(each, [2, 3], 0.5) for each in made.attentions),
        word_starts=None if made.word_starts is None else grow(made.word_starts, [1], -100),
        logits=grow(made.logits, [1], filler) if made.logits is not None and made.logits.dim() == 3 else made.logits,
    )


def rows_of(made, rows):
    return States(
        hidden=tuple(state[rows] for state in made.hidden),
        mask=made.mask[rows],
        attentions=None if made.attentions is None else tuple(each[rows] for each in made.attentions),
        word_starts=None if made.word_starts is None else made.word_starts[rows],
        logits=None if made.logits is None else made.logits[rows],
    )


def models(granularity="token", heads=None, teacher_heads=None, teacher_width=TEACHER_WIDTH, dtype=torch.float64):
    """A student of three states and a teacher of four, on a batch whose third example is empty."""
    words = (WORDS["student"], WORDS["teacher"]) if granularity != "token" else (None, None)
    return (
        states([WIDTH] * 3, LENGTHS, words[0], heads, seed=1, dtype=dtype),
        states([teacher_width] * 4, LENGTHS, words[1], teacher_heads, "example", seed=2, dtype=dtype),
    )


def built(matching, student, teacher):
    widths = ([state.shape[-1] for state in made.hidden] for made in (student, teacher))
    matching.build(*widths, student=student, teacher=teacher)
    return matching


LAYERS = {1: 2, -1: -1}
PAIRS = [(1, 2), (2, 3)]
KINDS = {
    "mse": lambda **kwargs: HiddenStateMatching(LAYERS, **kwargs),
    "cosine": lambda **kwargs: HiddenStateMatching(LAYERS, loss="cosine", **kwargs),
    "attention": lambda **kwargs: AttentionMatching(LAYERS, **kwargs),
    "relation": lambda **kwargs: RelationMatching(LAYERS, heads=4, **kwargs),
    "variational": lambda **kwargs: VariationalMatching(LAYERS, **kwargs),
    "latent": lambda **kwargs: VariationalMatching(LAYERS, latent_size=3, **kwargs),
    "adversarial": lambda **kwargs: AdversarialMatching(LAYERS, hidden_size=7, **kwargs),
}
CASES = [(kind, granularity) for kind, make in KINDS.items() for granularity in make().granularities]


def case(kind, granularity, **kwargs):
    torch.manual_seed(0)
    heads = {"heads": 2, "teacher_heads": 2} if kind == "attention" else {}
    student, teacher = models(granularity, **heads, **kwargs)
    return built(KINDS[kind](granularity=granularity), student, teacher), student, teacher


# The references: one example and one item after another.


def np_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def np_units(made, layer, granularity, number=None):
    """A list of (units, width), one an example."""
    found = []
    for row, state in enumerate(made.hidden[layer].detach().numpy()):
        state = state[made.mask[row].numpy()]
        if granularity == "sequence":
            state = state.mean(0, keepdims=True) if len(state) else state
        elif granularity == "word":
            pieces, words = made.word_starts[row][made.mask[row]].tolist(), []
            for vector, start in zip(state, pieces, strict=True):
                if start == 1:
                    words.append([])
                if start >= 0:
                    words[-1].append(vector)
            state = np.array([np.mean(word, axis=0) for word in words]).reshape(-1, state.shape[-1])
        found.append(state if number is None else state[: number[row]])
    return found


def np_both(student, teacher, pair, granularity):
    sizes = [
        min(len(a), len(b))
        for a, b in zip(np_units(student, 0, granularity), np_units(teacher, 0, granularity), strict=True)
    ]
    return np_units(student, pair[0], granularity, sizes), np_units(teacher, pair[1], granularity, sizes)


def np_items(matching, student, teacher, compare):
    """`compare(number of the pair, student units, teacher units, example)` -> (units,), averaged over the pairs."""
    values = []
    for number, pair in enumerate(PAIRS):
        both = zip(*np_both(student, teacher, pair, matching.granularity), strict=True)
        values.append(np.concatenate([compare(number, *units, row) for row, units in enumerate(both)]))
    return np.mean(values, axis=0)


def weights(module):
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def np_softplus(x):
    return np.logaddexp(0, x)


def np_sigmoid(x):
    return 1 / (1 + np.exp(-x))


GRANULARITIES = ("token", "word", "sequence")


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("loss", ["mse", "cosine"])
@pytest.mark.parametrize("teacher_width", [WIDTH, TEACHER_WIDTH])
def test_hidden_states(granularity, loss, teacher_width):
    student, teacher = models(granularity, teacher_width=teacher_width)
    matching = built(HiddenStateMatching(LAYERS, granularity=granularity, loss=loss), student, teacher)
    maps = weights(matching)
    assert len(maps) == (0 if teacher_width == WIDTH else 2)

    def compare(number, ours, theirs, row):
        ours = ours @ maps[f"projections.{number}.weight"].T if maps else ours
        ours, theirs = np_norm(ours), np_norm(theirs)
        if loss == "mse":
            return ((ours - theirs) ** 2).mean(-1)
        return 1 - (ours * theirs).sum(-1) / np.linalg.norm(ours, axis=-1) / np.linalg.norm(theirs, axis=-1)

    expected = np_items(matching, student, teacher, compare)
    np.testing.assert_allclose(matching(student, teacher, 0.5).values.detach(), expected, rtol=1e-9)


def test_attention_only_to_what_the_teacher_ignores_costs_nothing():
    """Where dropout left the student a single key that the teacher gives no weight, nothing can be compared."""
    mask = torch.ones(1, 2).bool()
    hidden = (torch.zeros(1, 2, 4),) * 2
    student, teacher = (
        States(hidden, mask, (torch.tensor(rows).view(1, 1, 2, 2),))
        for rows in ([0.0, 1.1, 0.5, 0.5], [1.0, 0.0, 0.5, 0.5])
    )
    assert built(AttentionMatching({1: 1}), student, teacher)(student, teacher, 0.5).values.tolist() == [0, 0]


@pytest.mark.parametrize("teacher_heads", [2, 4])
def test_attentions(teacher_heads):
    student, teacher = models(heads=2, teacher_heads=teacher_heads)
    # Attention dropout: the student's weight is 0 where the teacher looks.
    student.attentions[0][0, :, 1, 2] = 0
    # A key that the teacher does not see, as in local attention.
    teacher.attentions[1][0, :, 1, 3] = 0
    matching = built(AttentionMatching(LAYERS), student, teacher)
    expected = []
    for row, length in enumerate(LENGTHS):
        for query in range(length):
            found = []
            for ours, theirs in PAIRS:
                q = student.attentions[ours - 1][row, :, query, :length].numpy()
                p = teacher.attentions[theirs - 1][row, :, query, :length].numpy()
                if teacher_heads != 2:
                    p, q = p.mean(0, keepdims=True), q.mean(0, keepdims=True)
                for one_p, one_q in zip(p, q, strict=True):
                    seen = one_q > 0
                    one_p, one_q = one_p[seen] / one_p[seen].sum(), one_q[seen] / one_q[seen].sum()
                    found.append(sum(a * np.log(a / b) for a, b in zip(one_p, one_q, strict=True) if a > 0))
            expected.append(np.mean(found))
    np.testing.assert_allclose(matching(student, teacher, 0.5).values, expected, rtol=1e-9)


@pytest.mark.parametrize("granularity", ["token", "word"])
def test_relations(granularity):
    student, teacher = models(granularity)
    matching = built(RelationMatching(LAYERS, granularity=granularity, heads=4), student, teacher)
    assert not weights(matching)

    def relations(units):  # (heads, units, units)
        parts = np.split(np_norm(units), 4, axis=-1)
        scores = np.array([part @ part.T / np.sqrt(part.shape[-1]) for part in parts])
        shares = np.exp(scores)
        return shares / shares.sum(-1, keepdims=True)

    def compare(number, ours, theirs, row):
        p, q = relations(theirs), relations(ours)
        return (p * np.log(p / q)).sum(-1).mean(0)

    expected = np_items(matching, student, teacher, compare)
    np.testing.assert_allclose(matching(student, teacher, 0.5).values, expected, rtol=1e-9)


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


# The adversarial game


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


# What holds for all of them


@pytest.mark.parametrize(("kind", "granularity"), CASES)
def test_padding_changes_nothing(kind, granularity):
    matching, student, teacher = case(kind, granularity)
    expected = matching(student, teacher, 0.5)
    for side in ("right", "left"):
        wider = padded(student, 3, side), padded(teacher, 3 if granularity == "token" else 1, side)
        leaf = wider[0].hidden[1].clone().requires_grad_()
        wider = replace(wider[0], hidden=(wider[0].hidden[0], leaf, wider[0].hidden[2])), wider[1]
        found = matching(*wider, 0.5)
        torch.testing.assert_close(found.values, expected.values, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(found.rows, expected.rows)
        if kind != "attention":
            found.values.sum().backward()
            assert leaf.grad.isfinite().all()
            assert leaf.grad[~wider[0].mask].abs().max() == 0


@pytest.mark.parametrize(("kind", "granularity"), CASES)
def test_cutting_a_batch_changes_nothing(kind, granularity):
    matching, student, teacher = case(kind, granularity)
    whole = matching(student, teacher, 0.5)
    parts = [matching(rows_of(student, [row]), rows_of(teacher, [row]), 0.5) for row in range(4)]
    torch.testing.assert_close(torch.cat([part.values for part in parts]), whole.values, rtol=1e-12, atol=1e-13)
    for name, logged in whole.logged.items():
        torch.testing.assert_close(torch.cat([part.logged[name] for part in parts]), logged)


@pytest.mark.parametrize(("kind", "granularity"), CASES)
def test_counted_is_what_comes(kind, granularity):
    matching, student, teacher = case(kind, granularity)
    counts = matching.counted(student.mask, student.word_starts, teacher.mask, teacher.word_starts)
    assert counts.tolist() == {"token": [5, 3, 0, 6], "word": [2, 1, 0, 2], "sequence": [1, 1, 0, 1]}[granularity]
    items = matching(student, teacher, 0.5)
    assert items.rows.bincount(minlength=4).tolist() == counts.tolist()
    assert items.values.shape == items.rows.shape
    assert all(logged.shape == items.rows.shape for logged in items.logged.values())


@pytest.mark.parametrize(("kind", "granularity"), CASES)
def test_a_batch_of_nothing(kind, granularity):
    """No items, and still a graph to all parameters, which data parallelism waits for."""
    matching, student, teacher = case(kind, granularity)
    empty = replace(student, mask=student.mask & False), replace(teacher, mask=teacher.mask & False)
    items = matching(*empty, 0.5)
    assert items.values.shape == items.rows.shape == (0,)
    if list(matching.parameters()):
        items.values.sum().backward()
        assert all(parameter.grad.abs().max() == 0 for parameter in matching.parameters())


@pytest.mark.parametrize(("kind", "granularity"), CASES)
def test_the_teacher_gets_no_gradient(kind, granularity):
    matching, student, teacher = case(kind, granularity)

    def leaves(tensors):
        return None if tensors is None else tuple(tensor.clone().requires_grad_() for tensor in tensors)

    teacher = replace(
        teacher,
        hidden=leaves(teacher.hidden),
        attentions=leaves(teacher.attentions),
        logits=teacher.logits.clone().requires_grad_(),
    )
    student = replace(student, hidden=leaves(student.hidden), attentions=leaves(student.attentions))
    matching(student, teacher, 0.5).values.sum().backward()
    given = [*teacher.hidden, *(teacher.attentions or ()), teacher.logits]
    assert all(tensor.grad is None for tensor in given)
    inputs = student.attentions if kind == "attention" else student.hidden[1:]
    assert all(tensor.grad.abs().max() > 0 for tensor in inputs)


@pytest.mark.parametrize(
    ("kind", "granularity"), [each for each in CASES if each[0] in ("mse", "cosine", "attention", "relation")]
)
def test_nothing_separates_a_model_from_itself(kind, granularity):
    made = states([WIDTH] * 4, LENGTHS, WORDS["student"] if granularity == "word" else None, heads=2)
    matching = KINDS[kind](granularity=granularity)
    matching.layers = {1: 1, -1: 3}
    matching = built(matching, made, made)
    assert matching(made, made, 0.5).values.abs().max() < 1e-12
    assert not list(matching.parameters())


@pytest.mark.parametrize(
    ("kind", "granularity"), [each for each in CASES if each[0] not in ("attention", "adversarial")]
)
def test_gradients(kind, granularity):
    matching, student, teacher = case(kind, granularity)

    def values(hidden, *parameters):
        return matching(replace(student, hidden=(student.hidden[0], hidden, student.hidden[2])), teacher, 0.5).values

    leaf = student.hidden[1].clone().requires_grad_()
    assert torch.autograd.gradcheck(values, [leaf, *matching.parameters()], fast_mode=True)


def test_gradients_of_the_discriminators():
    """At w(0) = 0, since two players' objective is neither's; the penalty included."""
    matching, student, teacher = case("adversarial", "token")
    parameters = list(matching.discriminators.parameters())
    assert torch.autograd.gradcheck(lambda *_: matching(student, teacher, 0.0).values, parameters, fast_mode=True)


def test_gradients_of_attentions():
    matching, student, teacher = case("attention", "token")
    scores = [torch.randn(4, 2, 6, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def values(*scores):
        shares = tuple(score.masked_fill(~student.mask[:, None, None], -1e9).softmax(-1) for score in scores)
        return matching(replace(student, attentions=shares), teacher, 0.5).values

    assert torch.autograd.gradcheck(values, scores, fast_mode=True)


@pytest.mark.parametrize(("kind", "granularity"), CASES)
def test_low_precision_is_computed_in_float32(kind, granularity):
    matching, student, teacher = case(kind, granularity, dtype=torch.bfloat16)
    assert all(parameter.dtype == torch.float32 for parameter in matching.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = matching(student, teacher, 0.5).values
        again = built(KINDS[kind](granularity=granularity), student, teacher)
    assert found.dtype == torch.float32

    def up(made):
        return States(
            tuple(state.double() for state in made.hidden),
            made.mask,
            None if made.attentions is None else tuple(each.double() for each in made.attentions),
            made.word_starts,
            None if made.logits is None else made.logits.double(),
        )

    exact = copy.deepcopy(matching).double()(up(student), up(teacher), 0.5).values
    torch.testing.assert_close(found.double(), exact, rtol=2e-4, atol=2e-5)
    if kind == "variational":
        torch.testing.assert_close(list(again.spreads), list(matching.spreads))
    # Trainer casts the whole model for bf16_full_eval.
    assert matching.to(torch.bfloat16)(student, teacher, 0.5).values.isfinite().all()


@pytest.mark.parametrize(("kind", "granularity"), CASES)
def test_building_is_repeatable(kind, granularity):
    matching, student, teacher = case(kind, granularity)
    kept = copy.deepcopy(matching.state_dict())
    built(matching, student, teacher)  # the same models again: nothing is drawn anew
    torch.testing.assert_close(matching.state_dict(), kept, rtol=0, atol=0)
    other, _, _ = case(kind, granularity)
    torch.testing.assert_close(other.state_dict(), kept, rtol=0, atol=0)
    found = [each(student, teacher, 0.5).values for each in (matching, other)]
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_word_pooling_by_hand():
    """[CLS] un ##der stand [SEP] against [CLS] under st ##and ##ing [SEP] and a word that the student cut off."""
    ours = torch.tensor([[[9.0, 9.0], [1.0, 2.0], [3.0, 6.0], [5.0, 0.0], [7.0, 7.0]]])
    theirs = torch.tensor([[[8.0, 8.0], [2.0, 4.0], [6.0, 0.0], [3.0, 0.0], [6.0, 0.0], [1.0, 7.0], [7.0, 7.0]]])
    student = States((ours,), torch.ones(1, 5).bool(), word_starts=torch.tensor([[-100, 1, 0, 1, -100]]))
    teacher = States((theirs,), torch.ones(1, 7).bool(), word_starts=torch.tensor([[-100, 1, 1, 0, 0, 1, -100]]))
    matching = built(HiddenStateMatching({0: 0}, granularity="word"), student, teacher)
    alignment, views = matching._align(student, teacher, 0.0)
    pooled, teacher_pooled = next(views)
    assert pooled[alignment.keep].tolist() == teacher_pooled[alignment.keep].tolist() == [[2.0, 4.0], [5.0, 0.0]]
    assert matching(student, teacher, 0.0).values.tolist() == [0.0, 0.0]
    assert matching.counted(student.mask, student.word_starts, teacher.mask, teacher.word_starts).tolist() == [2]


def test_pieces_before_the_first_word_belong_to_none():
    """A row cut on the left may begin within a word."""
    hidden = torch.randn(1, 4, WIDTH)
    starts = torch.tensor([[0, 0, 1, 0]])
    made = States((hidden,), torch.ones(1, 4).bool(), word_starts=starts)
    matching = built(HiddenStateMatching({0: 0}, granularity="word"), made, made)
    alignment, views = matching._align(made, made, 0.0)
    torch.testing.assert_close(next(views)[0][alignment.keep], hidden[:, 2:].mean(1))


@pytest.mark.parametrize("granularity", ["word", "sequence"])
@pytest.mark.parametrize("empty", ["student", "teacher"])
def test_an_example_empty_on_one_side_is_no_item(granularity, empty):
    met = dict(zip(("student", "teacher"), models(granularity), strict=True))
    kept = torch.tensor([True, False, True, True])[:, None]
    met[empty] = replace(met[empty], mask=met[empty].mask & kept)
    matching = built(HiddenStateMatching(LAYERS, granularity=granularity), **met)
    assert matching(**met, progress=0.5).rows.unique().tolist() == [0, 3]
    starts = {name: made.word_starts for name, made in met.items()}
    counts = matching.counted(met["student"].mask, starts["student"], met["teacher"].mask, starts["teacher"])
    assert counts.tolist() == ([2, 0, 0, 2] if granularity == "word" else [1, 0, 0, 1])


def test_layers_count_from_both_ends():
    student, teacher = models(heads=2, teacher_heads=2)
    matching = built(HiddenStateMatching({0: -4, -1: 3, -2: 0}), student, teacher)
    assert matching.pairs == [(0, 0), (2, 3), (1, 0)]
    # There is no attention of the embeddings: layer 1 is the first.
    assert built(AttentionMatching({1: -3, -1: -1}), student, teacher).pairs == [(1, 1), (2, 3)]


def test_names():
    names = [make().name for make in KINDS.values()]
    assert names == [*["hidden_state"] * 2, "attention", "relation", *["variational"] * 2, "adversarial"]
    assert HiddenStateMatching({0: 0}, name="pooled").name == "pooled"


def test_a_transformer_in_training_mode_teaches_an_lstm():
    """Real models: only the widths matter, and attention dropout leaves the attentions comparable."""
    ids = torch.randint(3, 50, (3, 7))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 2 + [0] * 5])
    asked = {"output_hidden_states": True, "output_attentions": True}

    def said(model):
        output = model(input_ids=ids, attention_mask=mask, **asked)
        return States(output.hidden_states, mask.bool(), output.attentions, logits=output.logits)

    bert = tiny_bert(dropout=0.1, num_labels=3, attn_implementation="eager")
    teacher = said(bert)
    lstm = nn.LSTM(6, 9, bidirectional=True, batch_first=True)
    embedded = nn.Embedding(50, 6)(ids)
    student = States((embedded, lstm(embedded)[0]), mask.bool())
    for matching in (
        HiddenStateMatching({0: 0, -1: -1}),
        RelationMatching({1: -1}, heads=2),
        VariationalMatching({1: -1}, latent_size=2),
        AdversarialMatching({1: -1}),
    ):
        values = built(matching, student, teacher)(student, teacher, 0.5).values
        assert values.shape == (13,)
        assert values.isfinite().all()

    alike = built(AttentionMatching({1: 1, 2: 2}), teacher, teacher)
    dropped = alike(said(bert.train()), teacher, 0.5).values
    assert dropped.isfinite().all()
    assert dropped.max() < 1, "keys that dropout removed would cost some 30 nats each"


@pytest.mark.parametrize("kind", ["mse", "relation", "variational", "latent", "adversarial"])
def test_a_student_learns(kind):
    """Descending the loss brings held-out states nearer to the teacher's: the signs are right."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 4, 6)
    teacher_net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8)).requires_grad_(False)
    student_net = nn.Linear(6, 8)
    mask = torch.ones(64, 4).bool()
    make = {
        "mse": HiddenStateMatching({0: 0}),
        "relation": RelationMatching({0: 0}, heads=2),
        "variational": VariationalMatching({0: 0}),
        "latent": VariationalMatching({0: 0}, latent_size=4),
        "adversarial": AdversarialMatching({0: 0}, hidden_size=32),
    }

    def said(net, part):
        return States((net(inputs[part]),), mask[part])

    train, held_out = slice(0, 48), slice(48, 64)
    matching = built(make[kind], said(student_net, train), said(teacher_net, train))
    optimizer = torch.optim.Adam([*student_net.parameters(), *matching.parameters()], lr=1e-2)

    def measure():
        with torch.no_grad():
            items = matching(said(student_net, held_out), said(teacher_net, held_out), 1.0)
        return (items.logged["mse"] if kind == "adversarial" else items.values).mean().item()

    before = measure()
    for step in range(120):
        optimizer.zero_grad()
        matching(said(student_net, train), said(teacher_net, train), step / 120).values.mean().backward()
        optimizer.step()
    after = measure()
    assert after < (before - 0.3 if kind in ("variational", "latent") else 0.5 * before), (before, after)


# Errors


@pytest.mark.parametrize("layers", [{}, [1, 2], {1: "2"}, {True: 1}, {1.0: 1}, None])
def test_layers_must_be_a_map(layers):
    with pytest.raises(ValueError, match="layers must map student layers to teacher layers"):
        HiddenStateMatching(layers)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HiddenStateMatching({0: 0}, weight=-1.0), "weight must be a finite number >= 0.*got -1.0"),
        (lambda: HiddenStateMatching({0: 0}, weight=math.nan), "weight must be a finite number"),
        (lambda: HiddenStateMatching({0: 0}, granularity="piece"), "one of 'token', 'word', 'sequence'; got 'piece'"),
        (lambda: HiddenStateMatching({0: 0}, loss="mae"), "loss must be 'mse' or 'cosine', got 'mae'"),
        (lambda: AttentionMatching({1: 1}, granularity="word"), "must be \"token\", got 'word'.*use RelationMatching"),
        (lambda: RelationMatching({0: 0}, granularity="sequence"), "a single vector; its only relation"),
        (lambda: RelationMatching({0: 0}, heads=0), "heads must be at least 1, got 0"),
        (lambda: VariationalMatching({0: 0}, latent_size=0), "latent_size must be at least 1, or None.*got 0"),
        (lambda: AdversarialMatching({0: 0}, hidden_size=0), "hidden_size must be at least 1"),
        (lambda: AdversarialMatching({0: 0}, learning_rate=0.0), "learning_rate above 0"),
        (lambda: AdversarialMatching({0: 0}, mse_weight=-1.0), "mse_weight and gradient_penalty must not be negative"),
        (lambda: AdversarialMatching({0: 0}, gradient_penalty=-1.0), "must not be negative"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({3: 0}, r"the student has no layer 3. It has 3 states, 0 \(the embeddings\) to 2, or -3 to -1"),
        ({-4: 0}, "the student has no layer -4"),
        ({0: 4}, "the teacher has no layer 4. It has 4 states"),
        ({0: -5}, "the teacher has no layer -5"),
    ],
)
def test_layers_that_are_not_there(layers, message):
    student, teacher = models()
    with pytest.raises(ValueError, match=message):
        built(HiddenStateMatching(layers, name="inner"), student, teacher)


def test_attentions_that_are_not_there():
    student, teacher = models(heads=2, teacher_heads=2)
    matching = AttentionMatching(LAYERS)
    with pytest.raises(ValueError, match=r'the student returned no attentions.*attn_implementation="eager"'):
        built(matching, replace(student, attentions=None), teacher)
    with pytest.raises(ValueError, match="the teacher returned no attentions"):
        built(matching, student, replace(teacher, attentions=(None, None, None)))
    built(matching, student, teacher)
    with pytest.raises(ValueError, match="the teacher returned no attentions"):
        matching(student, replace(teacher, attentions=()), 0.5)
    for layers in ({0: 1}, {1: -4}):
        with pytest.raises(ValueError, match=r"is its embeddings, which attend to nothing. Choose 1 to"):
            built(AttentionMatching(layers), student, teacher)


@pytest.mark.parametrize("kind", ["mse", "attention", "relation"])
def test_token_granularity_needs_the_same_tokens(kind):
    matching, student, teacher = case(kind, "token")
    remedy = {
        "mse": 'Use granularity="word" or granularity="sequence"',
        "attention": "Use one tokenizer for both, or a matching of hidden states",
        "relation": 'Use granularity="word", and pad',
    }[kind]
    message = (
        'granularity="token" compares position by position, but student and teacher have different tokens.*' + remedy
    )
    shorter = replace(teacher, mask=teacher.mask & (torch.arange(6) < 4))
    for other in (padded(teacher, 2), shorter):
        with pytest.raises(ValueError, match=message):
            matching(student, other, 0.5)
        with pytest.raises(ValueError, match=message):
            matching.counted(student.mask, None, other.mask, None)
        with pytest.raises(ValueError, match=message):
            built(KINDS[kind](), student, other)
    # Cut to one length on both sides: only the words tell.
    starts = torch.tensor([[1, 1, 0, 1]]), torch.tensor([[1, 0, 1, 1]])
    full = torch.ones(1, 4).bool()
    with pytest.raises(ValueError, match="words that start elsewhere"):
        matching.counted(full, starts[0], full, starts[1])
    assert matching.counted(full, starts[0], full, starts[0]).tolist() == [4]


def test_word_granularity_needs_words():
    student, teacher = models("word")
    matching = HiddenStateMatching(LAYERS, granularity="word")
    with pytest.raises(ValueError, match=r'there is no word_starts. Add.*or use granularity="sequence"'):
        built(matching, replace(student, word_starts=None), teacher)
    with pytest.raises(ValueError, match="there is no teacher_word_starts"):
        built(matching, student, replace(teacher, word_starts=None))
    with pytest.raises(ValueError, match="no word_starts and no teacher_word_starts"):
        matching.counted(student.mask, None, teacher.mask, None)


def test_heads_must_divide_the_widths():
    student, teacher = models()
    with pytest.raises(ValueError, match=r"heads=16 must divide .* 8 and the teacher's 12\..* 1, 2, 4\."):
        built(RelationMatching(LAYERS), student, teacher)


def test_build_comes_first():
    student, teacher = models()
    for make in KINDS.values():
        with pytest.raises(ValueError, match=r"call build\(...\).*never be trained"):
            make()(student, teacher, 0.5)


def test_other_models_need_another_matching():
    matching, student, _ = case("mse", "token")
    _, other = models(teacher_width=16)
    with pytest.raises(ValueError, match=r"built for a student of widths \(8, 8, 8\).*make a new one"):
        built(matching, student, other)


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
