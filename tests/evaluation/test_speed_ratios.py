"""What known times amount to."""

import numpy as np
import pytest

from hf_distill.evaluation.counts import Items
from hf_distill.evaluation.predictions import Predictions
from hf_distill.evaluation.speed import Cell, Speed, by_length, ratio_of_medians, summary
from hf_distill.reports.classification import Measured, exported


def speed(single, batch, flops=(0.0, 0.0)):
    return Speed(np.full(40, single), np.full(20, batch), tokens_per_text=7.0, flops=flops, texts=128)


def test_percentiles_and_examples_a_second():
    times = Speed(np.arange(101.0), np.array([10.0, 20.0, 400.0]), 7.0, (70.0, 10.0), 128)
    found = summary(times)
    assert found["latency_ms"] == {"batch_1": {"p50": 50, "p95": 95}}
    assert found["throughput"] == {"batch_32": 1600}  # one call that was disturbed does not count
    assert (found["flops_per_text"], found["flops_per_token"]) == (70, 10)
    assert "flops_per_text" not in summary(speed(1.0, 2.0))


def test_a_ratios_interval_covers_what_varies():
    generator = np.random.default_rng(0)
    fast = generator.lognormal(0, 0.3, 200)
    steady = ratio_of_medians(3 * fast, fast, seed=0)
    assert steady == {"value": pytest.approx(3), "low": pytest.approx(3), "high": pytest.approx(3)}
    loose = ratio_of_medians(3 * generator.permutation(fast), fast, seed=0)
    assert loose["low"] < 2.9 < 3.1 < loose["high"]
    fewer = ratio_of_medians(3 * generator.permutation(fast)[:20], fast[:20], seed=0)
    assert fewer["high"] - fewer["low"] > loose["high"] - loose["low"]
    assert ratio_of_medians(3 * fast[:3], fast[:3], seed=0) == {"value": pytest.approx(3)}  # too few to resample


def test_cells_are_compared_with_the_teacher_at_the_same_texts():
    cells = [
        Cell(model, batch, length, (3, 9), np.full(8, ms * batch))
        for length, scale in (("short", 1.0), ("long", 4.0))
        for batch in (1, 32)
        for model, ms in (("teacher", 6.0 * scale), ("student", 2.0), ("onnx int8", 1.0))
    ]
    rows = by_length(cells, seed=0)
    assert [(row["model"], row["runtime"]) for row in rows[:3]] == [
        ("teacher", "torch"),
        ("student", "torch"),
        ("student", "onnx int8"),
    ]
    assert "faster" not in rows[0]
    assert [row["faster"]["value"] for row in rows if row["model"] == "student"] == [3, 6, 3, 6, 12, 24, 12, 24]
    last = rows[-1]
    assert (last["batch"], last["length"], last["tokens"], last["calls"]) == (32, "long", [3, 9], 8)
    assert (last["p50_ms"], last["p95_ms"], last["per_second"]) == (32, 32, 1000)


@pytest.mark.parametrize(
    ("torch_says", "file_says", "agreement"),
    [
        ([0, 1, 1, 0], [0, 1, 0, 0], 0.75),
        ([[0, 1], [1, 1]], [[0, 1], [1, 0]], 0.5),  # all classes of an example, where there are several
        ([0.25, 0.5], [0.25, 0.5], None),
    ],
)
def test_a_file_is_compared_with_the_model_and_with_the_teacher(tmp_path, torch_says, file_says, agreement):
    (tmp_path / "model.onnx").write_bytes(b"x" * 100)
    said = {"student": np.array(torch_says), "onnx float32": np.array(file_says)}
    predictions = Predictions(Items.one_an_example(len(torch_says)), said, {}, np.empty(0))
    speeds = {"teacher": speed(8.0, 64.0), "onnx float32": speed(0.5, 16.0)}
    measured = Measured(predictions, predictions, {}, np.empty(0), speeds, [], {}, {})
    found = exported(tmp_path / "model.onnx", "onnx float32", measured, predictions, 4000, seed=0)
    assert found["bytes"] == 100
    assert found.get("agreement") == agreement
    assert found["ratios"] == {"lighter": 40, "faster": 16, "throughput": 4}
    assert set(found["ratio_intervals"]) == {"faster", "throughput"}
    assert found["throughput"] == {"batch_32": 2000}
