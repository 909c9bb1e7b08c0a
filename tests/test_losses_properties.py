"""The losses on any input: right, or refused by a check of their own."""

import math
from fractions import Fraction
from functools import partial

import numpy as np
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from hf_distill import losses
from hf_distill.losses import LOSSES
from tests.properties import REFUSED, answer, examples

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BOUNDED = {"jensen_shannon", "skewed_kl", "total_variation", "universal_logit_distance", "top_k_universal"}


def top_k(loss, student, teacher, temperature=1.0, k=2):
    """A top-k loss on what a cache would hold of these teacher logits."""
    top, ids = teacher.topk(min(k, teacher.shape[-1]))
    rest = teacher.double().scatter(-1, ids, -math.inf)
    tail = (rest / temperature).logsumexp(-1)
    return loss(student, top, *([ids] if loss is losses.top_k_forward_kl else []), tail, temperature)


ALL = {
    **LOSSES,
    "top_k_forward_kl": partial(top_k, losses.top_k_forward_kl),
    "top_k_universal": partial(top_k, losses.top_k_universal_logit_distance),
}
every_loss = st.sampled_from(sorted(ALL))


@st.composite
def pairs(draw, largest=5e11, least_classes=1):
    """Student's and teacher's logits of one shape: ordinary numbers, tiny ones, and some up to `largest`."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = (*draw(st.sampled_from([(), (0,), (1,), (3,), (2, 2), (2, 0)])), draw(st.integers(least_classes, 5)))
    # By numpy, which draws many numbers faster than hypothesis does.
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    tiny, largest = torch.finfo(dtype).tiny, min(largest, torch.finfo(dtype).max)
    made = generator.normal(0, draw(st.sampled_from([0.0, 0.1, 3.0, 20.0])), (2, *shape))
    special = draw(st.lists(st.sampled_from([0.0, tiny, -tiny, largest, -largest, largest / 3, -1e9, 1e4]), max_size=3))
    if made.size:
        for value in special:
            made.flat[generator.integers(made.size)] = np.clip(value, -largest, largest)
    return tuple(torch.from_numpy(made).to(dtype))


temperatures = st.sampled_from([0.5, 1.0, 2.0, 20.0]) | st.floats(1e-3, 1e3)


def classes_needed(name):
    return 3 if name == "decoupled_kd" else 1


def tolerance(student, temperature):
    """What rounding leaves: of a divergence about 1e-7 a class."""
    return 1e-5 * max(1.0, temperature) ** 2 * max(1, student.shape[-1])


@examples(50)
@given(data=st.data(), temperature=temperatures, name=every_loss)
def test_finite_numbers_give_finite_values_and_gradients_above_zero(name, data, temperature):
    student, teacher = data.draw(pairs(5e11 * min(1.0, temperature), classes_needed(name)))
    student.requires_grad_()
    value = answer(ALL[name], student, teacher, temperature)
    assert value.isfinite().all() and value.dtype == (
        torch.float64 if student.dtype == torch.float64 else torch.float32
    )
    assert (value >= -tolerance(student, temperature)).all()
    value.sum().backward()
    assert not student.grad.isnan().any()
    # A gradient has the dtype of the logits, and that of a square may be twice what float16 holds.
    assert student.grad.isfinite().all() or (name == "logit_mse" and student.dtype == torch.float16)


@examples(50)
@given(data=st.data(), temperature=st.floats(1e-18, 1e18), name=every_loss)
def test_no_finite_number_gives_nan(name, data, temperature):
    """Up to the largest of the dtype: a divergence without a bound may be +inf, and that is all."""
    student, teacher = data.draw(pairs(math.inf, classes_needed(name)))
    student.requires_grad_()
    value = answer(ALL[name], student, teacher, temperature)
    assert not value.isnan().any() and not (value == -math.inf).any()
    assert value.isfinite().all() or name not in BOUNDED or temperature > 1e6
    if 1e-3 < temperature < 1e3:
        value.sum().backward()
        assert not student.grad.isnan().any()


@examples(50)
@given(data=st.data(), temperature=temperatures, name=every_loss)
def test_zero_at_equality(name, data, temperature):
    _, teacher = data.draw(pairs(math.inf, classes_needed(name)))
    value = answer(ALL[name], teacher.clone(), teacher, temperature)
    assert value.shape == teacher.shape[:-1]
    assert (value.abs() <= tolerance(teacher, temperature)).all()


@examples(50)
@given(data=st.data(), temperature=temperatures, name=every_loss)
def test_rows_are_compared_each_by_itself(name, data, temperature):
    """In any order, and with rows of padding beside them."""
    student, teacher = data.draw(pairs(1e4, classes_needed(name)))
    assume(student.dim() > 1)
    value = answer(ALL[name], student, teacher, temperature)
    order = torch.tensor(data.draw(st.permutations(range(len(student)))), dtype=torch.long)
    # Up to rounding: a vector unit computes the last numbers of a tensor otherwise than those before.
    near = {"rtol": 1e-4, "atol": tolerance(student, temperature)}
    torch.testing.assert_close(answer(ALL[name], student[order], teacher[order], temperature), value[order], **near)
    padding = torch.full((2, *student.shape[1:]), data.draw(st.sampled_from([0.0, -100.0, 1e4])), dtype=student.dtype)
    padded = answer(ALL[name], torch.cat([student, padding]), torch.cat([teacher, padding]), temperature)
    torch.testing.assert_close(padded[: len(student)], value, **near)


@examples(50)
@given(data=st.data(), temperature=temperatures, name=every_loss)
def test_the_order_of_the_classes_changes_nothing(name, data, temperature):
    student, teacher = data.draw(pairs(50.0, classes_needed(name)))
    # Which of two equal ones is the first is the one thing that the order decides.
    assume(all(len(set(row)) == len(row) for row in teacher.reshape(-1, teacher.shape[-1]).tolist()))
    order = torch.tensor(data.draw(st.permutations(range(student.shape[-1]))))
    value = answer(ALL[name], student, teacher, temperature)
    other = answer(ALL[name], student[..., order], teacher[..., order], temperature)
    torch.testing.assert_close(other, value, rtol=1e-4, atol=tolerance(student, temperature))


# Whatever is passed

anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from([10**400, -(10**400), Fraction(1, 3), 1j, np.float32(2), np.bool_(True), np.array([1.0, 2.0])]),
    st.sampled_from([torch.tensor(2.0), torch.ones(2), [], [1.0], {}, b"1", math.inf, -math.inf, 1e-320, 1e300]),
)


@st.composite
def tensors(draw):
    """Tensors of any dtype and shape, and what is none."""
    if draw(st.integers(0, 9)) == 0:
        return draw(anything)
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = draw(st.sampled_from([*DTYPES, torch.bool, torch.int64, torch.uint16, torch.complex64, torch.float8_e5m2]))
    made = torch.zeros(shape, dtype=torch.float32).to(dtype)
    kind = draw(st.integers(0, 19))
    if kind == 0 and made.dim() == 2 and dtype in DTYPES:
        return made.to_sparse()
    return made.to("meta") if kind == 1 else made


@examples(50)
@given(temperature=anything, name=every_loss)
@example(name="forward_kl", temperature="2")
@example(name="forward_kl", temperature=True)
@example(name="forward_kl", temperature=0)
@example(name="forward_kl", temperature=math.nan)
@example(name="forward_kl", temperature=10**400)
def test_a_temperature_is_a_number(name, temperature):
    value = answer(ALL[name], torch.zeros(2, 3), torch.ones(2, 3), temperature) if name in LOSSES else REFUSED
    assert value is REFUSED or (not value.isnan().any() and 0 < float(temperature) < math.inf)
    assert value is REFUSED or not isinstance(temperature, bool | torch.Tensor | str)


WEIGHTS = [("jensen_shannon", "beta"), ("skewed_kl", "beta")]
WEIGHTS += [("decoupled_kd", "target_weight"), ("decoupled_kd", "non_target_weight")]


@examples(60)
@given(which=st.sampled_from(WEIGHTS), value=anything)
def test_a_weight_is_a_number(which, value):
    name, setting = which
    made = answer(LOSSES[name], torch.zeros(2, 3), torch.ones(2, 3), **{setting: value})
    assert made is REFUSED or (made.isfinite().all() and float(value) >= 0 and not isinstance(value, bool))


@examples(60)
@given(name=st.sampled_from(sorted(LOSSES)), student=tensors(), teacher=tensors(), same=st.booleans())
def test_any_two_tensors(name, student, teacher, same):
    value = answer(LOSSES[name], student, student if same else teacher)
    if value is not REFUSED:
        assert value.shape == student.shape[:-1] or name == "universal_logit_distance"
        assert value.device == student.device


@examples(80)
@given(data=st.data())
def test_any_labels(data):
    labels = data.draw(
        tensors() | st.lists(st.integers(-200, 200), min_size=2, max_size=2).map(torch.tensor) | st.just(torch.ones(2))
    )
    value = answer(losses.decoupled_kd, torch.zeros(2, 3), torch.ones(2, 3), labels=labels)
    numbers = [] if value is REFUSED or labels is None else labels.tolist()
    assert all(label == -100 or 0 <= label < 3 for label in numbers)


@examples(80)
@given(student=tensors(), top=tensors(), ids=tensors(), tail=tensors(), fit=st.booleans(), id=st.integers(-3, 8))
def test_any_top_k(student, top, ids, tail, fit, id):
    if fit:
        student, top, tail = torch.zeros(2, 5), torch.ones(2, 1), torch.zeros(2)
        ids = torch.tensor([[id], [0]])
    answer(losses.top_k_universal_logit_distance, student, top, tail)
    value = answer(losses.top_k_forward_kl, student, top, ids, tail)
    assert value is REFUSED or not fit or 0 <= id < 5
