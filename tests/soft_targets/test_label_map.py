"""A teacher of other classes."""

import numpy as np
import pytest

from hf_distill.soft_targets.label_map import check_label_map, mapped_logits

TEACHER, STUDENT = ["bad", "poor", "good", "unsure"], ["negative", "positive"]
GOOD = {"bad": "negative", "poor": "negative", "good": "positive", "unsure": None}


def test_probabilities_of_merged_classes_add_up():
    probability = np.array([[0.2, 0.3, 0.4, 0.1], [0.05, 0.05, 0.1, 0.8]])
    made, lost = mapped_logits(np.log(probability) + 7, GOOD, TEACHER, STUDENT)
    shares = np.exp(made) / np.exp(made).sum(-1, keepdims=True)
    assert np.allclose(shares, [[5 / 9, 4 / 9], [0.5, 0.5]])
    assert np.allclose(lost, [0.1, 0.8])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"awful": "negative"}, "there is no 'awful'"),
        ({"bad": "neutral"}, "there is no 'neutral'"),
        ({"bad": ...}, "the teacher's 'bad' is not mapped"),
        ({"good": None}, "no class of the teacher is mapped to the student's 'positive'"),
    ],
)
def test_maps_that_would_teach_something_wrong(changes, message):
    check_label_map(GOOD, TEACHER, STUDENT)
    label_map = {name: goal for name, goal in {**GOOD, **changes}.items() if goal is not ...}
    with pytest.raises(ValueError, match=message):
        check_label_map(label_map, TEACHER, STUDENT)
