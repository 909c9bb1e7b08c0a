"""Relations against numpy in float64, item by item."""

import numpy as np
import pytest

from hf_distill.matching.relations import RelationMatching
from tests.matching.cases import LAYERS, built, models, np_items, np_norm, weights


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


def test_heads_must_divide_the_widths():
    student, teacher = models()
    with pytest.raises(ValueError, match=r"heads=16 must divide .* 8 and the teacher's 12\..* 1, 2, 4\."):
        built(RelationMatching(LAYERS), student, teacher)
