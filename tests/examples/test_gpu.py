"""The benchmark of one GPU, in small on whatever is here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_the_benchmark_of_a_gpu_runs_in_small(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--tiny", "--output", tmp_path / "gpu.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["tiny"] and found["environment"]["device"]
    rates = found["samples a second"]
    for kind in ("lstm", "three layers"):
        for name in ("live", "cached"):
            assert {f"{kind}, {name}, float32"} <= rates.keys()
            assert any(way.startswith(f"{kind}, {name}") and way.endswith("compiled") for way in rates)
    assert {"dense, float32", "packed, float32"} <= found["steps a second of an LSTM"].keys()
    assert found["samples a second of the teacher's forward"].keys() == {"replicate", "offload"}
    parts = [part for part in found.values() if isinstance(part, dict) and part is not found["environment"]]
    assert all(rate > 0 for part in parts for rate in part.values())
