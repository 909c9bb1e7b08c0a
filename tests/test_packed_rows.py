"""Packed rows: what a batch says of them, and which models tell them apart."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForTokenClassification,
    DataCollatorWithFlattening,
    set_seed,
)

from hf_distill import LSTMStudentConfig, LSTMStudentForCausalLM
from hf_distill.models import forward_arguments
from hf_distill.packed_rows import PackedRowsCheck, check_packing_is_marked, row_starts
from hf_distill.training.collator import TeacherColumnsCollator
from tests.teachers.models import tiny_gpt2, tiny_llama

ROWS = [{"input_ids": [5, 6, 7, 8]}, {"input_ids": [9, 10, 11]}, {"input_ids": [12, 13]}]
IDS = [row["input_ids"] for row in ROWS]
STARTS = [[False] * 4 + [True, False, False, True, False]]
SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def packed(**options):
    return DataCollatorWithFlattening(**options)(ROWS)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_position_ids": False, "return_flash_attn_kwargs": True},
        {"return_position_ids": False, "return_seq_idx": True},
    ],
)
def test_rows_start_where_numbers_start_anew(options):
    assert row_starts(packed(**options)).tolist() == STARTS


def test_padded_rows_are_not_packed():
    ids = torch.tensor([[5, 6, 7], [8, 9, 0]])
    assert row_starts({"input_ids": ids}) is None
    assert row_starts({"input_ids": ids, "position_ids": torch.arange(3).expand(2, 3)}) is None
    numbered = {"input_ids": ids, "position_ids": torch.tensor([[0, 1, 2], [0, 1, 0]])}
    assert row_starts(numbered | {"attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}) is None
    assert row_starts(numbered).tolist() == [[False] * 3, [False, False, True]]


@pytest.mark.parametrize("model", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("options", [{}, {"return_flash_attn_kwargs": True}, {"return_seq_idx": True}])
def test_decoders_tell_them_apart(model, options):
    check = PackedRowsCheck(model(), "student")
    check(packed(**options))
    check.model = None  # a model that passed is not asked again
    assert check(packed(**options)) is None


@pytest.mark.parametrize("trained", [True, False])
def test_a_check_changes_nothing_of_a_model(trained):
    model = tiny_llama().train(trained)
    PackedRowsCheck(model, "student")(packed())
    assert model.training == trained


def encoder():
    set_seed(0)
    return BertForTokenClassification(BertConfig(**SMALL, initializer_range=0.5))


def recurrent():
    return LSTMStudentForCausalLM(LSTMStudentConfig(vocab_size=50, pad_token_id=0))


@pytest.mark.parametrize(
    ("model", "options", "problem"),
    [
        (recurrent, {}, "the student, a LSTMStudentForCausalLM, .* its forward takes no position_ids. Use a collator"),
        (recurrent, {"return_flash_attn_kwargs": True}, "takes no position_ids"),
        (encoder, {}, "the outputs of a row change with the tokens of the row before it"),
        (tiny_gpt2, {"position_ids_start": 2}, "position_ids start at 2 has other outputs than the same row alone"),
        # Its attention here reads neither.
        (tiny_llama, {"return_position_ids": False, "return_flash_attn_kwargs": True}, "change with the tokens of"),
    ],
)
def test_models_that_mix_rows_are_refused(model, options, problem):
    with pytest.raises(ValueError, match=problem):
        PackedRowsCheck(model(), "student")(packed(**options))


def test_a_mask_of_tokens_switches_the_detection_off():
    batch = packed() | {"attention_mask": torch.ones(1, 9, dtype=torch.long)}
    with pytest.raises(ValueError, match="Leave the attention_mask out of packed rows"):
        PackedRowsCheck(tiny_llama(), "teacher")(batch)
    own = torch.ones(1, 1, 9, 9)  # a mask of pairs says itself what is read
    PackedRowsCheck(tiny_llama(), "teacher")(batch | {"attention_mask": own})


def test_models_of_transformers_take_the_keywords_of_packed_rows():
    assert {"cu_seq_lens_q", "max_length_k"} <= forward_arguments(tiny_llama())
    assert "cu_seq_lens_q" not in forward_arguments(recurrent())


def test_packing_that_nothing_tells_of_is_refused(tmp_path):
    check_packing_is_marked(IDS, packed())
    check_packing_is_marked(IDS, packed(return_position_ids=False, return_seq_idx=True))
    check_packing_is_marked(IDS, {"input_ids": torch.ones(1, 3)})  # rows left out
    check_packing_is_marked(IDS, {"input_ids": torch.ones(3, 8)})
    with pytest.raises(ValueError, match="packed 3 rows into 1 of 9 tokens"):
        check_packing_is_marked(IDS, packed(return_position_ids=False))
    collator = TeacherColumnsCollator(DataCollatorWithFlattening(return_position_ids=False), per_position=True)
    with pytest.raises(ValueError, match="no column marks where a row starts"):
        collator([dict(row) for row in ROWS])
