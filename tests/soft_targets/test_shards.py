"""Several runs that share one cache or one ledger, each a process of its own."""

import json
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from hf_distill.soft_targets.shards import ALONE, Processes
from tests.conftest import tiny_bert, tiny_rows
from tests.soft_targets.test_cache import cached

PASS = """
    import sys, time
    from pathlib import Path
    import tests.soft_targets.test_cache as here
    from tests.conftest import tiny_bert, tiny_rows

    class Slow(type(tiny_bert())):
        def forward(self, input_ids=None, attention_mask=None):
            time.sleep(0.02)
            return super().forward(input_ids, attention_mask)

    teacher = tiny_bert(num_labels=3)
    teacher.__class__ = Slow
    print("ready", flush=True)
    sys.stdin.readline()
    found = here.cached(tiny_rows(200), teacher, Path(sys.argv[1]), batch_size=4, shard_size=20)
    print(sum(map(sum, found["teacher_logits"])), flush=True)
"""
ASKED = """
    import sys
    from pathlib import Path
    from hf_distill.teachers.ask import ask

    def answers(texts):
        with open(sys.argv[1] + ".sent", "a") as file:
            file.write("".join(f"{text}\\n" for text in texts))
        return [text.upper() for text in texts]

    print("ready", flush=True)
    sys.stdin.readline()
    texts = [f"text {number}" for number in range(300)]
    assert ask(answers, texts, ledger=sys.argv[1], name="t", batch_size=3) == [text.upper() for text in texts]
    print("done", flush=True)
"""


def several(script, path, number=2):
    """Processes that do the same at the same time."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(number)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    return started


@pytest.mark.faults
@pytest.mark.parametrize("kills", [0, 1])
def test_runs_that_share_a_cache(tmp_path, kills):
    """All get the whole result, also where one is killed while it writes."""
    processes = several(PASS, tmp_path / "cache")
    if kills:
        while not list((tmp_path / "cache").glob("shard-00002.*part")):
            time.sleep(0.002)
        (writing,) = (tmp_path / "cache").glob("*.part")
        number = int(writing.name.split(".")[1])
        (victim,) = [process for process in processes if process.pid == number]
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        processes.remove(victim)
    said = [process.communicate(timeout=300) for process in processes]
    assert all(process.returncode == 0 for process in processes), said
    want = sum(map(sum, cached(tiny_rows(200), tiny_bert(num_labels=3), tmp_path / "alone")["teacher_logits"]))
    assert [float(out) for out, _ in said] == pytest.approx([want] * len(said), abs=1e-3)
    assert not list((tmp_path / "cache").glob("*.part"))


@pytest.mark.faults
@pytest.mark.parametrize("kills", [0, 1])
def test_runs_that_share_a_ledger(tmp_path, kills):
    """Each text is sent once, or again if it was in flight when its run was killed."""
    ledger = tmp_path / "ledger.jsonl"
    processes = several(ASKED, ledger)
    if kills:
        while not ledger.exists() or ledger.stat().st_size < 2000:
            time.sleep(0.0005)
        processes[0].send_signal(signal.SIGKILL)
        processes[0].communicate()
        processes.pop(0)
    said = [process.communicate(timeout=300) for process in processes]
    assert all(process.returncode == 0 for process in processes), said
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert len({line["key"] for line in lines}) == 300
    sent = (tmp_path / "ledger.jsonl.sent").read_text().splitlines()
    assert 300 <= len(sent) <= 300 + 3 * kills


def test_a_process_that_is_alone_for_now_waits_for_no_other(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = ALONE.set(True)
    try:
        assert Processes.assembled("cpu") == Processes(0, 1, torch.device("cpu"))
    finally:
        ALONE.reset(before)
