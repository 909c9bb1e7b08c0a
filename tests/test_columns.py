"""Which columns are the teacher's, and the numbers in them in every form that a cache has."""

import datasets
import numpy as np
import pytest
import torch

from hf_distill.columns import (
    all_numbers,
    column_names,
    is_output,
    is_teacher_column,
    numbers,
    teacher_input_columns,
    words_read,
)


def test_outputs_and_inputs_of_a_teacher_are_told_apart():
    outputs = ["teacher_logits", "teacher_logits_scale", "teacher_top_k_ids", "teacher_tail", "teacher_temperature"]
    outputs += ["teacher_hidden_3", "teacher_hidden_3_scale"]
    inputs = ["teacher_input_ids", "teacher_attention_mask"]
    own = ["input_ids", "labels", "logits"]
    assert [name for name in [*outputs, *inputs, *own] if is_output(name)] == outputs
    assert not any(is_teacher_column(name) for name in own)
    assert all(is_teacher_column(name) for name in [*outputs, *inputs, "word_starts", "teacher_word_starts"])
    assert teacher_input_columns([*own, *inputs, *outputs, "teacher_word_starts", "teacher_labels"]) == inputs


def test_words_are_counted_by_their_starts_or_else_by_labels():
    row = {"labels": [-100, 0, -100, 2], "word_starts": [-100, 1, 0, 1], "teacher_word_starts": [1, 1, 1, -100]}
    assert words_read(row) == 3
    assert words_read({name: row[name] for name in ("labels", "word_starts")}) == 2
    assert words_read({"labels": row["labels"]}) == 2
    with pytest.raises(ValueError, match="expected teacher_word_starts, word_starts"):
        words_read({"input_ids": [1]})


def test_numbers_are_the_same_in_every_form():
    values = np.array([[1.5, -2.0], [0.25, 8.0], [3.0, -0.5]], dtype=np.float32)  # exact in bfloat16
    as_bytes = [torch.tensor(row).bfloat16().view(torch.uint8).numpy().tobytes() for row in values]
    forms = [values, values.tolist(), torch.from_numpy(values), values.astype(np.float16), as_bytes, list(values)]
    for form in forms:
        torch.testing.assert_close(numbers({"teacher_logits": form}, "teacher_logits"), torch.from_numpy(values))
    scaled = {"teacher_logits": [[-127, 3], [1, 2]], "teacher_logits_scale": [0.5, 2.0]}
    assert numbers(scaled, "teacher_logits").tolist() == [[-63.5, 1.5], [2.0, 4.0]]
    dataset = datasets.Dataset.from_dict({name: [value] for name, value in scaled.items()})
    (row,) = all_numbers(dataset.with_format("torch"), "teacher_logits")
    assert row.tolist() == [[-63.5, 1.5], [2.0, 4.0]]


def test_columns_of_whatever_has_some():
    first, second = datasets.Dataset.from_dict({"a": [1]}), datasets.Dataset.from_dict({"b": [1]})
    assert column_names([first, {"further": second}, None, [1, 2]]) == {"a", "b"}
