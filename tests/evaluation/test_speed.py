"""Speed of models that take a known time, by a clock that stands still otherwise."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_distill.evaluation import speed, stopwatch
from hf_distill.evaluation.predictor import Predictor
from tests.conftest import tiny_bert


class Clock:
    """A time that passes only where it is told to."""

    now = 0.0


def sleeper(seconds=0.0, a_token=0.0):
    """Takes a known time a call, and so much more for each token of its batch."""
    model = tiny_bert()
    model.calls = []
    forward = model.forward

    def slowly(input_ids, attention_mask=None, **kwargs):
        model.calls.append(tuple(input_ids.shape))
        Clock.now += seconds + a_token * input_ids.numel()
        return forward(input_ids=input_ids, attention_mask=attention_mask)

    model.forward = slowly
    return model


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: Clock.now))
    monkeypatch.setattr(speed, "FEWEST_CALLS", 32)
    monkeypatch.setattr(speed, "SECONDS", 10.0)
    monkeypatch.setattr(speed, "CELL_SECONDS", 1.0)
    monkeypatch.setattr(speed, "COUNTED", 16)


@pytest.fixture
def dataset():
    return Dataset.from_dict({"input_ids": [[1, 2, 3], [4], [5, 6]], "labels": [0, 1, 0]})


def measured(function, dataset, **models):
    readers = {name: Predictor(model, dataset) for name, model in models.items()}
    with torch.inference_mode():
        return function(readers, dataset)


def test_models_take_turns_on_the_same_texts(dataset, monkeypatch):
    monkeypatch.setattr(speed, "CALLS", 40)
    monkeypatch.setattr(speed, "ROUNDS", 2)
    models = {"slow": sleeper(0.125), "fast": sleeper(0.015625)}
    speeds = measured(speed.measure_speed, dataset, **models)
    slow, fast = speeds["slow"], speeds["fast"]
    assert slow.latencies_ms.tolist() == [125.0] * 40
    assert fast.latencies_ms.tolist() == [15.625] * 40
    assert (slow.batches_ms.tolist(), fast.batches_ms.tolist()) == ([125.0] * 2, [15.625] * 2)
    assert models["slow"].calls == models["fast"].calls
    # Three texts fill a batch of 32 by coming again.
    assert (slow.throughput, fast.throughput) == (256, 2048)
    assert (slow.texts, slow.tokens_per_text) == (3, 2)
    assert slow.flops == fast.flops
    assert slow.flops[0] == pytest.approx(2 * slow.flops[1])


def test_a_row_without_a_token_is_not_timed():
    empty = Dataset.from_dict({"input_ids": [[], [4], [5, 6]]})
    found = measured(speed.measure_speed, empty, student=sleeper(0.125))["student"]
    assert (found.texts, found.tokens_per_text) == (2, 1.5)
    cells = measured(speed.measure_cells, empty, student=sleeper(0.125))
    assert {cell.length: cell.tokens for cell in cells} == {"short": (1, 1), "medium": (2, 2)}


def test_slow_models_stop_early(dataset, monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 1.0)
    found = measured(speed.measure_speed, dataset, slow=sleeper(0.1))["slow"]
    assert len(found.latencies_ms) == speed.FEWEST_CALLS
    cells = measured(speed.measure_cells, dataset, slow=sleeper(0.5))
    assert {(cell.batch, len(cell.milliseconds)) for cell in cells} == set(speed.CELL_FEWEST.items())


def test_thirds_of_the_texts_are_timed_apart():
    """Each text takes the time of its tokens, so what a cell shows is the lengths it was made of."""
    lengths = np.random.default_rng(0).permutation(np.repeat([2, 5, 20], 40)).tolist()
    rows = Dataset.from_dict({"input_ids": [[1] * length for length in lengths]})
    cells = measured(speed.measure_cells, rows, teacher=sleeper(a_token=0.5), student=sleeper(a_token=0.25))
    assert [(cell.model, cell.batch, cell.length) for cell in cells] == [
        (name, batch, length)
        for length in ("short", "medium", "long")
        for batch in (1, 8, 32)
        for name in ("teacher", "student")
    ]
    for cell in cells:
        tokens = {"short": 2, "medium": 5, "long": 20}[cell.length]
        assert cell.tokens == (tokens, tokens)
        each = 500 if cell.model == "teacher" else 250
        assert cell.milliseconds == pytest.approx(each * tokens * cell.batch)
