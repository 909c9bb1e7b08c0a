"""Hidden states against numpy in float64, item by item."""

import numpy as np
import pytest

from hf_distill.matching.hidden_states import HiddenStateMatching
from tests.matching.cases import GRANULARITIES, LAYERS, TEACHER_WIDTH, WIDTH, built, models, np_items, np_norm, weights


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
