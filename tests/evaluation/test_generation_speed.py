"""Speed of what takes a known time to write, and operations of models that are counted by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_distill import LSTMStudentConfig, LSTMStudentForSeq2SeqLM
from hf_distill.evaluation import generation_speed, stopwatch
from hf_distill.evaluation.generation_speed import (
    measure_writing,
    measure_writing_cells,
    writing_flops,
    writing_summary,
)
from hf_distill.evaluation.speed import by_length


class Clock:
    """A time that passes only where it is told to."""

    now = 0.0


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: Clock.now))
    monkeypatch.setattr(generation_speed, "CALLS", {1: 24, 32: 6})
    monkeypatch.setattr(generation_speed, "SECONDS", 60.0)
    monkeypatch.setattr(generation_speed, "CELL_SECONDS", 20.0)


def slow_writer(a_call, a_text=0.0):
    """Says every text twice, and takes a known time."""

    def write(texts):
        write.calls.append(list(texts))
        Clock.now += a_call + a_text * len(texts)
        return [f"{text} {text}" for text in texts]

    write.calls = []
    return write


TEXTS = ["one", "two words", "now three words", "here are four words"]


def test_models_take_turns_on_the_same_texts():
    slow, fast = slow_writer(0.25, 0.125), slow_writer(0.0625)
    found = measure_writing({"slow": slow, "fast": fast}, TEXTS)
    assert slow.calls == fast.calls
    assert sorted(found) == [1, 32]
    assert found[1]["slow"].milliseconds.tolist() == [375.0] * 24
    assert found[1]["fast"].milliseconds.tolist() == [62.5] * 24
    assert found[32]["slow"].milliseconds.tolist() == [4250.0] * 6
    summary = writing_summary({batch: each["fast"] for batch, each in found.items()}, "words", len)
    assert summary["latency_ms"]["batch_1"] == {"p50": 62.5, "p95": 62.5}
    assert summary["throughput"] == {"batch_32": 512}
    assert summary["words_a_second"] == {"batch_1": 16, "batch_32": 512}
    # Each text comes up equally often when they are gone round: 24 calls on four of them.
    alone = [call[0] for call in fast.calls if len(call) == 1][1:]  # the first warms up
    assert {text: alone.count(text) for text in TEXTS} == dict.fromkeys(TEXTS, 6)


def test_slow_models_stop_at_a_third_of_the_calls():
    found = measure_writing({"slow": slow_writer(31.0)}, TEXTS)
    assert (len(found[1]["slow"].milliseconds), len(found[32]["slow"].milliseconds)) == (8, 4)
    lengths = np.arange(1, 100)
    cells = measure_writing_cells({"slow": slow_writer(31.0)}, ["a"] * 99, {"slow": lengths})
    assert {cell.batch: len(cell.milliseconds) for cell in cells} == {1: 4, 8: 4, 32: 4}
    # Of the texts that were read alone, not of all that might have been.
    alone = [cell for cell in cells if cell.batch == 1]
    rows = [np.random.default_rng(0).permutation(third)[:4] for third in np.array_split(np.arange(99), 3)]
    assert [cell.tokens for cell in alone] == [(lengths[row].min(), lengths[row].max()) for row in rows]


def test_times_are_apart_by_length():
    lengths = {"teacher": np.array([2, 4, 6, 8, 10, 12]), "student": np.array([1, 2, 3, 4, 5, 6])}
    texts = [f"text {number}" for number in range(6)]
    writers = {name: slow_writer(seconds) for name, seconds in (("teacher", 0.5), ("student", 0.25))}
    cells = measure_writing_cells(writers, texts, lengths)
    assert [(cell.length, cell.batch, cell.model) for cell in cells[:3]] == [
        ("short", 1, "teacher"),
        ("short", 1, "student"),
        ("short", 8, "teacher"),
    ]
    assert {(cell.model, cell.length): cell.tokens for cell in cells} == {
        ("teacher", "short"): (2, 4),
        ("teacher", "medium"): (6, 8),
        ("teacher", "long"): (10, 12),
        ("student", "short"): (1, 2),
        ("student", "medium"): (3, 4),
        ("student", "long"): (5, 6),
    }
    assert {cell.batch: len(cell.milliseconds) for cell in cells} == {1: 12, 8: 6, 32: 4}
    assert {len(call) for call in writers["student"].calls} == {1, 2, 8, 32}
    assert writers["teacher"].calls == writers["student"].calls


def test_replies_of_different_lengths_are_compared_by_the_token():
    """The student says twice what the teacher says, in half the time."""
    lengths = dict.fromkeys(("teacher", "student"), np.array([1, 2, 3, 4]))
    writers = {"teacher": slow_writer(0.5), "student": slow_writer(0.25)}
    words = {"teacher": lambda said: sum(len(text.split()) for text in said)}
    words["student"] = lambda said: 2 * words["teacher"](said)
    by_token = by_length(measure_writing_cells(writers, TEXTS, lengths, counts=words), seed=0)
    by_text = by_length(measure_writing_cells(writers, TEXTS, lengths), seed=0)
    assert {row["faster"]["value"] for row in by_text if row["model"] == "student"} == {2}
    assert {row["faster"]["value"] for row in by_token if row["model"] == "student"} == {4}
    assert [row["p50_ms"] for row in by_token] == [row["p50_ms"] for row in by_text]


def test_less_than_three_texts_have_fewer_lengths():
    cells = measure_writing_cells({"student": slow_writer(0.5)}, ["a b", "c"], {"student": np.array([2, 1])})
    assert {cell.length: cell.tokens for cell in cells} == {"short": (1, 1), "medium": (2, 2)}


def generating(model, ids, new):
    """Writes so many tokens after some ids, whatever the text."""
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "num_beams": 1}
    return lambda texts: [str(model.generate(torch.tensor([ids]), **options)) for _ in texts]


def test_a_language_models_operations_are_those_of_its_steps():
    """It reads the prompt once, and then each of its own tokens but the last."""
    size, inner, words, read, new = 16, 24, 30, 5, 4
    config = LlamaConfig(
        vocab_size=words, hidden_size=size, intermediate_size=inner, num_hidden_layers=2, num_attention_heads=2
    )
    write = generating(LlamaForCausalLM(config).eval(), list(range(5, 5 + read)), new)

    def layer(queries, keys):
        return 2 * queries * size * (4 * size + 3 * inner) + 2 * queries * keys * 2 * size

    logits = 2 * size * words  # of the last position alone
    expected = 2 * layer(read, read) + logits
    expected += sum(2 * layer(1, read + step) + logits for step in range(1, new))
    found = writing_flops(write, ["a", "b"], lambda texts, said: len(texts) * read + len(said) * new)
    assert found == {"flops_per_text": expected, "flops_per_token": expected / (read + new)}


def test_a_translators_reading_is_counted_once_and_its_writing_by_step():
    config = LSTMStudentConfig(
        vocab_size=30,
        embedding_size=8,
        hidden_size=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        is_encoder_decoder=True,
        decoder_start_token_id=1,
    )
    student = LSTMStudentForSeq2SeqLM(config).eval()

    def operations(read, new):
        write = generating(student, [3 + number for number in range(read)], new)
        return writing_flops(write, ["a"], lambda texts, said: 1)["flops_per_text"]

    one, two, four = (operations(6, new) for new in (1, 2, 4))
    step = two - one
    assert step > 2 * (8 * 30) and four == one + 3 * step
    # The step looks at all that was read, and does nothing else with it.
    assert operations(12, 2) - operations(12, 1) - step < step
    assert operations(12, 1) > one
