"""Names of columns and what is in them, whatever they are."""

import datasets
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_distill import columns
from tests.properties import REFUSED, answer, examples

KNOWN = [*columns.SOFT_TARGETS, columns.TEMPERATURE, columns.HIDDEN + "3", columns.WORD_STARTS, columns.TEACHER_LABELS]
ENDS = ["", columns.SCALE, "_ids", "3", "\u200b", "\udfff"]
names = (
    st.builds(str.__add__, st.sampled_from([*KNOWN, columns.PREFIX, "labels", ""]), st.sampled_from(ENDS))
    | st.text(max_size=5)
    | st.integers()
    | st.none()
    | st.tuples(st.text(max_size=2))
    | st.binary(max_size=3)
)
numbers = st.integers(-(2**70), 2**70) | st.floats() | st.booleans() | st.integers(-5, 5)
values = st.recursive(
    numbers
    | st.none()
    | st.text(max_size=3)
    | st.binary(max_size=4)
    | st.sampled_from(
        [
            np.array([1, 2], dtype=np.uint16),
            np.array([2**63], dtype=np.uint64),
            np.array(["2026-11-27"], dtype="datetime64[D]"),
            np.array([1j]),
            np.array([1.0], dtype=">f4"),
            np.array([True, False])[::-1],
            np.array(b"x"),
            np.ma.masked_array([1.0], [True]),
            torch.ones(2, 2),
            object(),
            {1, 2},
            range(3),
            1j,
        ]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


@examples(60)
@given(name=names)
def test_every_name_is_an_output_or_an_input_or_none_of_the_teachers(name):
    inputs = answer(columns.teacher_inputs, {name: 1})
    is_text = isinstance(name, str)
    assert answer(columns.is_teacher_column, name) == (
        (is_text and name.startswith(columns.PREFIX)) or name == columns.WORD_STARTS
    )
    assert not (answer(columns.is_output, name) and inputs)
    assert answer(columns.teacher_input_columns, [name]) == ([name] if inputs else [])
    read = answer(columns.read_in_training, [name], True)
    assert not columns.is_output(name) or name in read


@examples(120)
@given(value=values)
def test_a_value_is_numbers_or_refused(value):
    made = answer(columns.as_tensor, value)
    assert made is REFUSED or isinstance(made, torch.Tensor)
    if isinstance(value, float | int):
        assert made is REFUSED or made.dim() == 0
    if isinstance(value, bytes) and len(value) % 2 == 0:
        assert len(made) == len(value) // 2


@examples(60)
@given(value=values, scale=values | st.floats(0, 1), scaled=st.booleans(), named=st.booleans())
def test_numbers_and_their_scales(value, scale, scaled, named):
    row = {"teacher_logits" if named else "other": value} | ({"teacher_logits_scale": scale} if scaled else {})
    made = answer(columns.numbers, row, "teacher_logits")
    assert made is REFUSED or (named and isinstance(made, torch.Tensor))


@examples(60)
@given(starts=values, labels=values, which=st.sets(st.sampled_from(["word_starts", "teacher_word_starts", "labels"])))
def test_words_are_counted_or_refused(starts, labels, which):
    row = {name: labels if name == "labels" else starts for name in which}
    made = answer(columns.words_read, row)
    assert made is REFUSED or (isinstance(made, int) and made >= 0 and which)


@examples(30)
@given(
    kind=st.sampled_from(
        [
            datasets.Value("float16"),
            datasets.Value("int8"),
            datasets.Value("bool"),
            datasets.List(datasets.Value("uint32")),
            datasets.List(datasets.Value("string")),
            datasets.List(datasets.List(datasets.Value("float64"))),
            datasets.Array2D((2, 2), "float32"),
            datasets.Value("string"),
            datasets.Value("binary"),
            datasets.List(datasets.Value("large_binary")),
            datasets.Value("timestamp[s]"),
            datasets.ClassLabel(names=["a", "b"]),
            {"a": datasets.Value("int64")},
        ]
    ),
    filled=st.booleans(),
    formatted=st.sampled_from([None, "numpy", "torch"]),
)
def test_any_type_of_column(kind, filled, formatted):
    examples_of = {
        datasets.Value: {"string": "a", "binary": b"ab", "bool": True, "timestamp[s]": 1},
        datasets.List: {"string": ["a"], "large_binary": [b"ab", b"cd"], "uint32": [1], None: [[0.5], [1.5]]},
    }
    inner = getattr(kind, "feature", kind)
    value = examples_of.get(type(kind), {}).get(getattr(inner, "dtype", None), 1)
    value = {"a": 1} if isinstance(kind, dict) else [[1.0, 2.0], [3.0, 4.0]] if hasattr(kind, "shape") else value
    rows = [value if filled else None, value]
    dataset = datasets.Dataset.from_dict({"teacher_logits": rows}, features=datasets.Features({"teacher_logits": kind}))
    made = answer(columns.all_numbers, dataset.with_format(formatted), "teacher_logits")
    assert made is REFUSED or (len(made) == 2 and all(each.dtype.kind in "fib" for each in made))
    assert answer(columns.column_names, [dataset, {"of": dataset}, None]) == {"teacher_logits"}
