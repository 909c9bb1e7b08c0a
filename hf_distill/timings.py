"""What timings amount to: percentiles, examples a second, and ratios with intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_distill.bootstrap import RESAMPLES, Estimate, draws
from hf_distill.speed import Cell, Speed, per_second
from hf_distill.verdicts import Verdicts

FEWEST = 4  # calls of which an interval says anything


def summary(speed: Speed) -> dict[str, Any]:
    """A model's `latency_ms`, `throughput` and `tokens_per_text`, and its `flops_per_text` and `flops_per_token`.

    Args:
        speed: of the model; one outside of torch has no count of operations.
    """
    p50, p95 = np.percentile(speed.latencies_ms, [50, 95])
    found = {
        "latency_ms": {"batch_1": {"p50": p50, "p95": p95}},
        "throughput": {"batch_32": speed.throughput},
        "tokens_per_text": speed.tokens_per_text,
    }
    if any(speed.flops):
        found["flops_per_text"], found["flops_per_token"] = speed.flops
    return found


def by_length(cells: Sequence[Cell], seed: int) -> list[dict[str, Any]]:
    """A row for each model, batch size and length, see `Report.speed`.

    Args:
        cells: of `teacher`, `student`, and the student's files under the names of their runtimes.
        seed: see `ratio_of_medians`.
    """
    slow = {(cell.batch, cell.length): cell.compared for cell in cells if cell.model == "teacher"}
    rows = []
    for cell in cells:
        p50, p95 = np.percentile(cell.milliseconds, [50, 95])
        in_torch = cell.model in ("teacher", "student")
        row: dict[str, Any] = {
            "model": cell.model if in_torch else "student",
            "runtime": "torch" if in_torch else cell.model,
            "batch": cell.batch,
            "length": cell.length,
            "tokens": list(cell.tokens),
            "calls": len(cell.milliseconds),
            "p50_ms": p50,
            "p95_ms": p95,
            "per_second": per_second(cell.batch, cell.milliseconds),
        }
        if cell.model != "teacher":
            row["faster"] = ratio_of_medians(slow[cell.batch, cell.length], cell.compared, seed)
        rows.append(row)
    return rows


def exported(
    file: Path, name: str, verdicts: Verdicts, speeds: Mapping[str, Speed], teacher_bytes: int, seed: int
) -> dict[str, Any]:
    """What is to be said of one ONNX file of the student beside its quality, see `Report.onnx`.

    Args:
        file: that was asked.
        name: under which it is among the others.
        verdicts: of all.
        speeds: likewise.
        teacher_bytes: of the teacher's weights file.
        seed: see `ratio_of_medians`.
    """
    size = file.stat().st_size
    compared = {"lighter": {"value": teacher_bytes / size}, **faster(speeds["teacher"], speeds[name], seed)}
    said: dict[str, Any] = {"bytes": size, **summary(speeds[name]), **with_intervals(compared)}
    ours, theirs = verdicts.decisions["student"], verdicts.decisions[name]
    if ours.dtype.kind == "i":  # a quantity is never quite the same
        said["agreement"] = float((ours == theirs).reshape(len(ours), -1).all(axis=1).mean())
    return said


def faster(slow: Speed, fast: Speed, seed: int) -> dict[str, dict[str, Any]]:
    """How many times as fast one of two models is: `faster` a text at a time, `throughput` in batches of 32.

    Args:
        slow: of the one that is compared with.
        fast: of the other, from the same run.
        seed: see `ratio_of_medians`.
    """
    return {
        "faster": ratio_of_medians(slow.latencies_ms, fast.latencies_ms, seed),
        "throughput": ratio_of_medians(slow.batches_ms, fast.batches_ms, seed),
    }


def ratio_of_medians(slow: np.ndarray, fast: np.ndarray, seed: int) -> dict[str, Any]:
    """The ratio of two models' median times with its interval from resampled calls; of fewer than four, without.

    Args:
        slow: (calls,) milliseconds a call, or a token.
        fast: (calls,) likewise, call i on the same texts.
        seed: of the draws of calls.
    """
    ratio = float(np.median(slow) / np.median(fast))
    if len(fast) < FEWEST:
        return {"value": ratio}
    medians = [
        np.median(slow[rows], axis=1) / np.median(fast[rows], axis=1) for rows in draws(len(fast), RESAMPLES, seed)
    ]
    return Estimate(ratio, np.concatenate(medians)).summary()


def with_intervals(compared: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """`ratios` and, apart, the `ratio_intervals` of those that have one.

    Args:
        compared: name -> `value`, with `low` and `high` where there is an interval.
    """
    return {
        "ratios": {name: ratio["value"] for name, ratio in compared.items()},
        "ratio_intervals": {
            name: {"low": ratio["low"], "high": ratio["high"]} for name, ratio in compared.items() if "low" in ratio
        },
    }
