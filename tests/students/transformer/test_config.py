"""Shapes of a smaller Transformer, and those that cannot be."""

import pytest

from hf_distill.students.transformer.config import TransformerStudentConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be a positive integer"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer"),
        ({"num_hidden_layers": (1, 2, 3)}, "num_hidden_layers must be a positive integer"),
        ({"layers": "middle"}, 'layers must be "uniform"'),
        ({"layers": [2, 1]}, "in ascending order"),
        ({"layers": []}, "in ascending order"),
        ({"layers": [0, 1], "num_hidden_layers": 3}, "layers lists 2 of the teacher's layers"),
    ],
)
def test_recipes_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TransformerStudentConfig(**settings)
