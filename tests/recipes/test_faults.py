"""Runs that are really killed, interrupted or cut, by the script of the benchmarks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_distill.recipes.run import run_recipe
from tests.recipes.test_run import recipe, write_reviews, write_teacher

ROOT = Path(__file__).parents[2]


@pytest.mark.faults
def test_runs_end_with_the_undisturbed_student_after_kills_interrupts_and_cuts(tmp_path):
    words = ["--kills", "9", "--cuts", "2", "--seed", "7", "--output", str(tmp_path / "faults.json")]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "faults.py", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "faults.json").read_text())
    tried = {kind: found[kind]["tried"] for kind in ("moments", "interrupts", "checkpoints", "cuts")}
    assert tried == {"moments": 3, "interrupts": 3, "checkpoints": 3, "cuts": 4}
    assert [found[kind]["lost"] for kind in tried] == [[], [], [], []]


def test_a_cache_without_a_whole_record_is_made_again(tmp_path):
    write_reviews(tmp_path / "reviews.csv", 300)
    write_teacher(tmp_path / "teacher")
    path = recipe(tmp_path, teacher={"model": str(tmp_path / "teacher"), "fine_tune": {"max_steps": 2}})
    run_recipe(path, only="cache")
    record = tmp_path / "out" / "cache" / "provenance.json"
    (shard,) = record.parent.glob("shard-*.arrow")
    whole, content = record.read_bytes(), shard.read_bytes()
    for damaged in (whole[:100], b"", None):
        record.unlink() if damaged is None else record.write_bytes(damaged)
        run_recipe(path, only="cache")
        assert record.read_bytes() == whole and shard.read_bytes() == content
