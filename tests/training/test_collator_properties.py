"""Rows as they come: collated right, or refused by a check that names the column."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    default_data_collator,
)

from hf_distill.problems import TASKS
from hf_distill.training.batch import Batch, LeftPaddingCheck, add_decoder_inputs, check_batch
from hf_distill.training.collator import TeacherColumnsCollator
from tests.properties import REFUSED, answer, examples

pytestmark = pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy.ndarrays is extremely slow")

junk = st.sampled_from(
    [
        *(None, "a", b"a", b"ab", True, 0, -1, 10**30, 0.5, math.nan, math.inf, 1j, {}, {"a": 1}, object()),
        *([], [[]], [None], ["a"], [[1], [1, 2]], [[1.0, 2.0]], [0.5], [True], [1, None], [[1, 2], [3, 4]], [b"ab"]),
        *(torch.tensor(1), torch.ones(2), torch.ones(2, 2, 2), torch.zeros(0), np.array("a"), np.array([None])),
        *(np.array([1, 2], dtype=np.uint16), np.array(["2026-11-27"], dtype="datetime64[D]"), [10**30], [[[1]]]),
    ]
)


def tokenizer(side="right"):
    backend = Tokenizer(WordLevel({"[PAD]": 0, "a": 1, "[UNK]": 2}, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", padding_side=side)


def collator_of(task, side):
    reader = tokenizer(side)
    if task == "text-classification":
        return DataCollatorWithPadding(reader)
    kind = DataCollatorForSeq2Seq if task == "translation" else DataCollatorForTokenClassification
    return kind(reader)


def outputs(task, items, form):
    if task == "text-classification":
        return {"teacher_logits": [0.5, 1.5]}
    if form == "top_k" and task != "token-classification":
        kept = {"teacher_top_k_logits": [[1.0, 0.5]] * items, "teacher_top_k_ids": [[1, 0]] * items}
        return kept | {"teacher_tail": [0.1] * items, "teacher_temperature": 1.0}
    if form == "int8":
        return {"teacher_logits": [[127, 1]] * items, "teacher_logits_scale": [0.5] * items}
    return {
        "teacher_logits": [np.float32([0.5, 1.5]).tobytes()[::2][:4]] * items
        if form == "bytes"
        else [[1.0, 2.0]] * items
    }


@st.composite
def batches(draw):
    """A task and rows of it, of which some cells are something else."""
    task = draw(st.sampled_from(sorted(TASKS)))
    form = draw(st.sampled_from(["plain", "top_k", "int8", "bytes"]))
    own, cached, states = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    rows = []
    for length in draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)):
        labels = {"text-classification": 1, "translation": [1] * draw(st.integers(1, 4))}.get(task, [1] * length)
        row = {"input_ids": list(range(1, length + 1)), "attention_mask": [1] * length, "labels": labels}
        read = length + 1 if own else length
        if own:
            row |= {"teacher_input_ids": [2] * read, "teacher_attention_mask": [1] * read}
        if task == "token-classification":
            row["word_starts"] = [1] * length
            if own:
                row["teacher_word_starts"] = [1] * length + [-100]
        items = len(labels) if isinstance(labels, list) else 0
        if own and task in ("text-generation", "translation"):
            items = read if task == "text-generation" else items
            row["teacher_labels"] = [1] * items
        if cached:
            row |= outputs(task, items, form)
        if states and task != "translation":
            row["teacher_hidden_1"] = [[0.5, 1.0, 1.5]] * read
        rows.append(row)
    return task, rows


@st.composite
def spoiled(draw):
    """Rows of which cells were exchanged, left out or added."""
    task, rows = draw(batches())
    for _ in range(draw(st.integers(0, 2))):
        row = rows[draw(st.integers(0, len(rows) - 1))] if rows else {}
        name = draw(
            st.sampled_from([*row, "teacher_logits_scale", "teacher_x", "label", "token_type_ids", "teacher_tail"])
        )
        change = draw(st.integers(0, 3))
        if change == 0:
            row.pop(name, None)
        elif change == 1:
            for each in rows:
                each[name] = draw(junk)
        else:
            row[name] = draw(junk)
    kind = draw(st.integers(0, 19))
    return task, (draw(st.sampled_from([[], None, {}, "ab", [None], [[1]], 3])) if kind == 0 else rows)


def collated(task, rows, side="right", teacher=None, plain=None):
    kind = TASKS[task]
    made = TeacherColumnsCollator(
        plain or collator_of(task, side),
        teacher,
        word_level=kind.word_level,
        per_position=kind.per_position,
        in_decoder=kind.in_decoder,
    )
    return made(rows)


def parsed(task, inputs):
    """All that the objective reads of a batch."""
    batch = Batch(inputs, TASKS[task], None, {"input_ids"}, None)
    mask = batch.soft_target_mask
    targets = {name: TASKS[task].soft_targets(value, inputs, True, mask) for name, value in batch.cached.items()}
    return len(batch), batch.labels, batch.label_mask, batch.has_own_tokens, batch.teacher_length, targets


@examples(30)
@given(made=batches(), side=st.sampled_from(["left", "right"]), own=st.booleans())
def test_rows_are_padded_to_one_shape(made, side, own):
    task, rows = made
    batch = collated(task, rows, side, tokenizer() if own else None)
    length = max(len(row["input_ids"]) for row in rows)
    assert batch["input_ids"].shape == (len(rows), length)
    assert batch["attention_mask"].sum().item() == sum(len(row["input_ids"]) for row in rows)
    for number, row in enumerate(rows):
        first = length - len(row["input_ids"]) if side == "left" else 0
        assert batch["input_ids"][number, first : first + len(row["input_ids"])].tolist() == row["input_ids"]
    number, _, mask, _, _, targets = parsed(task, batch)
    assert number == len(rows)
    if "teacher_logits" in rows[0]:
        assert len(targets["teacher_logits"]) == (
            mask.sum() if task != "text-generation" else len(targets["teacher_logits"])
        )


@examples(120)
@given(made=spoiled(), side=st.sampled_from(["left", "right"]), own=st.booleans())
def test_spoiled_rows_are_refused_or_read(made, side, own):
    task, rows = made
    batch = answer(collated, task, rows, side, tokenizer() if own else None)
    if batch is not REFUSED:
        assert len(batch["input_ids"]) == len(rows)
        answer(parsed, task, batch)


@examples(25)
@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from(["labels", "label", "input_ids", "teacher_logits"]), junk), max_size=3
    )
)
def test_a_collator_without_a_tokenizer(rows):
    answer(collated, "text-classification", rows, plain=default_data_collator)


@examples(25)
@given(
    returned=junk | st.dictionaries(st.sampled_from(["input_ids", "labels"]), junk), task=st.sampled_from(sorted(TASKS))
)
def test_whatever_a_collator_returns(returned, task):
    row = {"input_ids": [1, 2], "labels": [1, 1], "teacher_logits": [[1.0], [2.0]], "word_starts": [1, 1]}
    answer(collated, task, [row], plain=lambda rows: returned)


shapes = st.lists(st.integers(0, 3), max_size=3)
tensors = st.builds(
    lambda shape, dtype: torch.zeros(shape, dtype=dtype), shapes, st.sampled_from([torch.long, torch.float, torch.bool])
)
NAMES = ["input_ids", "attention_mask", "labels", "word_starts", "teacher_labels", "teacher_word_starts"]
NAMES += ["teacher_logits", "teacher_tail", "teacher_top_k_ids", "teacher_top_k_logits", "teacher_input_ids"]


@examples(120)
@given(task=st.sampled_from(sorted(TASKS)), inputs=st.dictionaries(st.sampled_from(NAMES), tensors | junk))
def test_any_batch(task, inputs):
    if answer(check_batch, inputs, TASKS[task]) is not REFUSED:
        answer(parsed, task, inputs)


@examples(25)
@given(mask=tensors | st.none())
def test_left_padding_of_any_mask(mask):
    inputs = {"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": mask}
    batch = Batch(inputs, TASKS["text-classification"], None, {"input_ids"}, None)
    answer(LeftPaddingCheck(), batch)  # which reads no mask that the student does not
    assert answer(add_decoder_inputs, dict(inputs), None) == inputs
