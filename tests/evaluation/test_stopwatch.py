"""The one stopwatch, by a clock that stands still otherwise."""

from types import SimpleNamespace

import numpy as np
import pytest

from hf_distill.evaluation import generation_speed, speed, stopwatch
from hf_distill.evaluation.stopwatch import Limits, in_turns, thirds


class Clock:
    """A time that passes only where it is told to."""

    now = 0.0


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: Clock.now))


def caller(seconds, made):
    def call(number):
        made.append(number)
        Clock.now += seconds
        return -number

    return call


def test_a_block_of_each_in_turn():
    made = []
    calls = {"slow": caller(2.0, made), "fast": caller(0.5, made)}
    found = in_turns(calls, Limits(block=2, most=4, fewest=2, seconds=100.0))
    assert made == [0, 1, 0, 1, 2, 3, 2, 3]
    assert found["slow"].milliseconds.tolist() == [2000.0] * 4
    assert found["fast"].milliseconds.tolist() == [500.0] * 4
    assert found["fast"].outputs == [0, -1, -2, -3]


def test_a_warm_call_is_not_timed():
    made = []
    found = in_turns({"one": caller(1.0, made)}, Limits(block=2, most=4, fewest=4, seconds=0.0, warm=True))
    assert made == [0, 0, 1, 2, 2, 3]
    assert len(found["one"].milliseconds) == 4


@pytest.mark.parametrize(("seconds", "calls"), [(1.0, 3), (4.5, 5), (1000.0, 9)])
def test_the_fewest_calls_are_made_and_more_while_there_is_time(seconds, calls):
    found = in_turns({"one": caller(1.0, [])}, Limits(block=1, most=9, fewest=3, seconds=seconds))
    assert len(found["one"].milliseconds) == calls


def test_thirds_are_by_the_mean_length_over_the_models():
    rows, lengths = np.arange(6), {"a": np.array([9, 1, 5, 8, 2, 4]), "b": np.array([9, 1, 5, 8, 2, 4]) * 3}
    assert {name: sorted(part) for name, part in thirds(rows, lengths, 0)} == {
        "short": [1, 4],
        "medium": [2, 5],
        "long": [0, 3],
    }
    assert [name for name, _ in thirds(rows[:1], lengths, 0)] == ["short"]


def test_there_is_no_other_clock():
    assert not hasattr(speed, "time") and not hasattr(generation_speed, "time")
