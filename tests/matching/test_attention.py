"""Attentions against numpy in float64, item by item."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_distill.matching.attention import AttentionMatching
from hf_distill.matching.base import States
from tests.matching.cases import LAYERS, LENGTHS, PAIRS, built, case, models


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


def test_gradients_of_attentions():
    matching, student, teacher = case("attention", "token")
    scores = [torch.randn(4, 2, 6, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def values(*scores):
        shares = tuple(score.masked_fill(~student.mask[:, None, None], -1e9).softmax(-1) for score in scores)
        return matching(replace(student, attentions=shares), teacher, 0.5).values

    assert torch.autograd.gradcheck(values, scores, fast_mode=True)


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
