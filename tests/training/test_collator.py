"""The teacher's columns pass any collator unharmed."""

import pickle

import numpy as np
import pytest
import torch
from transformers import BertTokenizerFast, DataCollatorWithPadding

from hf_distill.columns import is_output, is_teacher_column, numbers, teacher_inputs
from hf_distill.training.collator import TeacherColumnsCollator
from tests.conftest import collate


@pytest.fixture
def tokenizers(tmp_path):
    """A student's that pads on the left with 3, and a teacher's that pads on the right with 0."""
    made = []
    for number, words in enumerate((["a", "b", "c", "[PAD]"], ["[PAD]", "a", "b"])):
        path = tmp_path / f"vocab{number}.txt"
        path.write_text("\n".join([*words, "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
        made.append(BertTokenizerFast(str(path), padding_side=("left", "right")[number]))
    return made


def rows(*lengths: int) -> list[dict]:
    return [
        {
            "input_ids": list(range(1, length + 1)),
            "attention_mask": [1] * length,
            "labels": 1,
            "teacher_input_ids": list(range(2, 2 * length + 2)),
            "teacher_attention_mask": [1] * 2 * length,
            "teacher_logits": [0.5, float(length)],
        }
        for length in lengths
    ]


def test_both_sides_are_padded_by_their_own_tokenizer(tokenizers):
    student, teacher = tokenizers
    batch = TeacherColumnsCollator(DataCollatorWithPadding(student), teacher)(rows(2, 3))
    assert batch["input_ids"].tolist() == [[3, 1, 2], [1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert batch["teacher_input_ids"].tolist() == [[2, 3, 4, 5, 0, 0], [2, 3, 4, 5, 6, 7]]
    assert batch["teacher_attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]
    assert batch["teacher_logits"].tolist() == [[0.5, 2.0], [0.5, 3.0]]


def test_without_a_teacher_tokenizer_its_inputs_are_padded_on_the_right():
    batch = TeacherColumnsCollator(collate, pad_id=9)(rows(1, 2))
    assert batch["teacher_input_ids"].tolist() == [[2, 3, 9, 9], [2, 3, 4, 5]]
    assert batch["teacher_attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize(("side", "expected"), [("left", [0.0, 1.0, 2.0]), ("right", [1.0, 2.0, 0.0])])
def test_a_column_a_position_takes_the_side_and_length_of_the_student(tokenizers, side, expected):
    tokenizers[0].padding_side = side
    long, short = ({name: row[name] for name in ("input_ids", "attention_mask")} for row in rows(3, 2))
    long["teacher_logits"] = [[1.0], [2.0], [3.0]]
    short["teacher_logits"] = [[1.0], [2.0]]
    batch = TeacherColumnsCollator(DataCollatorWithPadding(tokenizers[0]))([long, short])
    assert batch["teacher_logits"][1, :, 0].tolist() == expected
    assert batch["teacher_logits"].shape == (2, 3, 1)


def test_compressed_columns_come_back_as_numbers(tokenizers):
    """bfloat16 as bytes, int8 with a scale, in lists of Python's or arrays as the formats of `datasets` give them."""
    values = torch.tensor([[1.5, -2.0], [0.25, 3.0], [4.0, -8.0]])
    packed = [row.to(torch.bfloat16).view(torch.int16).numpy().tobytes() for row in values]
    made = rows(3, 2)
    for row, length in zip(made, (3, 2), strict=True):
        del row["teacher_logits"]
        row["teacher_top_k_logits"] = packed[:length]
        row["teacher_top_k_ids"] = np.array([[1, 65_535]] * length, dtype=np.uint16)
        row["teacher_hidden_1"] = [[127, -127]] * length
        row["teacher_hidden_1_scale"] = [0.5] * length
    batch = TeacherColumnsCollator(DataCollatorWithPadding(tokenizers[0]), tokenizers[1])(made)
    assert torch.equal(batch["teacher_top_k_logits"][0], values)
    assert torch.equal(batch["teacher_top_k_logits"][1, 1:], values[:2])  # padded on the left, as the student's ids
    assert batch["teacher_top_k_ids"][0].tolist() == [[1, 65_535]] * 3
    assert batch["teacher_hidden_1"].shape == (2, 6, 2)  # the teacher's length and side
    assert batch["teacher_hidden_1"][1, :3].tolist() == [[63.5, -63.5]] * 2 + [[0.0, 0.0]]
    assert "teacher_hidden_1_scale" not in batch
    assert numbers({"teacher_logits": packed[0]}, "teacher_logits").tolist() == [1.5, -2.0]
    ragged = np.empty(2, dtype=object)
    ragged[:] = [np.array([1.0, 2.0], dtype=np.float16)] * 2
    assert numbers({"teacher_logits": ragged}, "teacher_logits").tolist() == [[1.0, 2.0]] * 2


def test_word_starts_follow_their_own_side(tokenizers):
    student, teacher = tokenizers
    made = rows(1, 2)
    for row in made:
        row["word_starts"] = [1] * len(row["input_ids"])
        row["teacher_word_starts"] = [-100, 1, 0, 1][: len(row["teacher_input_ids"])]
    batch = TeacherColumnsCollator(DataCollatorWithPadding(student), teacher)(made)
    assert batch["word_starts"].tolist() == [[-100, 1], [1, 1]]
    assert batch["teacher_word_starts"].tolist() == [[-100, 1, -100, -100], [-100, 1, 0, 1]]


@pytest.mark.parametrize("in_decoder", [False, True])
def test_labels_of_a_teacher_with_its_own_vocabulary(tokenizers, in_decoder):
    """A decoder's start at the left, whatever its tokenizer does; a causal model's stand at its tokens."""
    student, teacher = tokenizers
    teacher.padding_side = "left"
    made = rows(1, 2)
    for row in made:
        row["teacher_labels"] = [5, *row["teacher_input_ids"][1:]]
        row["teacher_logits"] = [[float(label)] for label in row["teacher_labels"]]
    batch = TeacherColumnsCollator(DataCollatorWithPadding(student), teacher, in_decoder=in_decoder)(made)
    if in_decoder:
        assert batch["teacher_labels"].tolist() == [[5, 3, -100, -100], [5, 3, 4, 5]]
        assert batch["teacher_logits"][0, :, 0].tolist() == [5, 3, 0, 0]
    else:
        assert batch["teacher_labels"].tolist() == [[-100, -100, -100, 3], [-100, 3, 4, 5]]
        assert batch["teacher_logits"][0, :, 0].tolist() == [0, 0, 5, 3]
    assert batch["teacher_input_ids"].tolist() == [[0, 0, 2, 3], [2, 3, 4, 5]]
    assert made[0]["teacher_labels"][0] == 5  # the row is left as it was


@pytest.mark.parametrize(
    "spoil",
    [
        lambda batch: batch[::-1],  # shuffles
        lambda batch: batch[:1],  # packs
        lambda batch: [{**row, "input_ids": [0, *row["input_ids"][1:]]} for row in batch],  # masks
    ],
)
def test_collators_that_change_rows_are_refused_with_a_cache(spoil):
    with pytest.raises(ValueError, match="packs, shuffles, truncates or masks rows: 2 rows went in"):
        TeacherColumnsCollator(lambda batch: collate(spoil(batch)))(rows(2, 3))
    without = [{name: value for name, value in row.items() if not is_output(name)} for row in rows(2, 3)]
    TeacherColumnsCollator(lambda batch: collate(spoil(batch)))(without)  # a live teacher reads what comes out


def test_names():
    names = ["input_ids", "teacher_input_ids", "teacher_logits", "teacher_hidden_3", "word_starts", "labels"]
    assert [is_output(name) for name in names] == [False, False, True, True, False, False]
    assert [is_teacher_column(name) for name in names] == [False, True, True, True, True, False]
    assert teacher_inputs(dict.fromkeys(names)) == {"input_ids": None}


def test_it_is_the_collator_it_holds(tokenizers):
    made = TeacherColumnsCollator(DataCollatorWithPadding(tokenizers[0]))
    assert made.tokenizer is tokenizers[0]
    again = pickle.loads(pickle.dumps(made))  # worker processes get a copy
    assert torch.equal(again(rows(2))["input_ids"], made(rows(2))["input_ids"])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["input_ids", "labels"])
def test_the_side_of_padding_is_read_from_the_batch(side, name):
    """Of a collator without a tokenizer to ask, the labels of a decoder included."""

    def padded(rows):
        fill = {"labels": -100}
        batch = {}
        for column in ("input_ids", "attention_mask", "labels"):
            longest = max(len(row[column]) for row in rows)
            padding = [[fill.get(column, 0)] * (longest - len(row[column])) for row in rows]
            parts = [
                (p, row[column]) if side == "left" else (row[column], p) for p, row in zip(padding, rows, strict=True)
            ]
            batch[column] = torch.tensor([[*first, *second] for first, second in parts])
        return batch

    rows = [
        {
            "input_ids": list(range(5, 5 + length)),
            "attention_mask": [1] * length,
            "labels": list(range(5, 5 + length)),
            "teacher_logits": [[float(place)] for place in range(5, 5 + length)],
        }
        for length in (2, 4, 3)
    ]
    batch = TeacherColumnsCollator(padded, in_decoder=name == "labels")(rows)
    assert torch.equal(batch["teacher_logits"].squeeze(-1).long(), batch[name].clamp(min=0))
