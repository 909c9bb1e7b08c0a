"""One run at a time in a folder, whoever holds it and however it ended."""

import json
import os
import platform
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from hf_distill.recipes.lock import one_at_a_time


@pytest.fixture
def work(tmp_path):
    (tmp_path / ".work").mkdir()
    return tmp_path / ".work"


def locked(work):
    return one_at_a_time(work.parent, work)


def owned_by(work, **changes):
    own = {"process": os.getpid(), "host": platform.node(), "since": "2026-01-01 10:00:00", "started": 1.0}
    (work / "owner.json").write_text(json.dumps({**own, **changes}))


def test_the_second_is_told_who_is_at_work(work):
    told = rf"another run is at work in .* \(process {os.getpid()} on {platform.node()}, since 2.*\)\. Wait for it, or"
    with locked(work), pytest.raises(ValueError, match=told), locked(work):
        pass
    with locked(work):
        pass
    assert not (work / "owner.json").exists()


def test_a_run_that_fails_leaves_no_owner(work):
    with pytest.raises(OSError, match="full"), locked(work):
        raise OSError("full")
    assert not (work / "owner.json").exists()


def started(work, script):
    """A process that holds the lock, and what it printed."""
    code = textwrap.dedent(f"""
        import os, pathlib, subprocess, sys, time
        from hf_distill.recipes.lock import one_at_a_time
        work = pathlib.Path({str(work)!r})
        with one_at_a_time(work.parent, work):
            {script}
            print("locked", os.getpid(), flush=True)
            time.sleep(600)
    """)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().split()


def killed(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_the_lock_of_a_killed_run_does_not_count(work):
    process, _ = started(work, "pass")
    with pytest.raises(ValueError, match=f"process {process.pid} on"), locked(work):
        pass
    killed(process)
    assert json.loads((work / "owner.json").read_text())["process"] == process.pid
    with locked(work):
        assert json.loads((work / "owner.json").read_text())["process"] == os.getpid()


def test_a_child_that_outlives_its_run_still_holds_the_lock(work):
    """As a worker of a data loader does for a moment, which may still write."""
    process, _ = started(work, "os.fork() or time.sleep(600)  # the child prints nothing")
    killed(process)
    told = rf"\(process {process.pid} on .*, which has ended; a process that it started has not\)\. End that process"
    try:
        with pytest.raises(ValueError, match=told), locked(work):
            pass
    finally:
        (child,) = [each for each in psutil.process_iter(["pid", "cmdline"]) if str(work) in str(each.info["cmdline"])]
        child.kill()
    until = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.01)
    with locked(work):
        pass


def test_a_child_that_leaves_the_block_does_not_delete_the_owner(work):
    """As a forked worker that fails does, while its run is still at work."""
    process, _ = started(work, "os.fork() or sys.exit(); os.wait()")
    try:
        assert json.loads((work / "owner.json").read_text())["process"] == process.pid
        with pytest.raises(ValueError, match=f"process {process.pid} on"), locked(work):
            pass
    finally:
        killed(process)


def test_a_number_that_another_process_was_given_does_not_count(work):
    """Process 1 always runs; the owner had its number, and started at another time."""
    owned_by(work, process=1, started=psutil.Process(1).create_time() - 3600)
    with locked(work):
        assert json.loads((work / "owner.json").read_text())["process"] == os.getpid()


def test_a_run_whose_lock_was_deleted_still_counts(work):
    owned_by(work, process=1, started=psutil.Process(1).create_time())
    with pytest.raises(ValueError, match=r"another run is at work in .* \(process 1 on"), locked(work):
        pass
    assert (work / "owner.json").exists()


def test_a_run_of_another_machine_is_told_with_the_remedy(work):
    owned_by(work, host="elsewhere")
    told = r"another machine .* \(process .* on elsewhere, .*\)\. If it has ended, delete .*owner\.json and run again"
    with pytest.raises(ValueError, match=told), locked(work):
        pass
    (work / "owner.json").unlink()
    with locked(work):
        pass


@pytest.mark.parametrize("content", ["", "[]", '{"process": "x"}', '{"process": -5, "host": "h"}', "\x00"])
def test_an_owner_that_was_cut_does_not_count(work, content):
    (work / "owner.json").write_text(content)
    with locked(work):
        assert json.loads((work / "owner.json").read_text())["process"] == os.getpid()


@pytest.mark.parametrize("process", [0, -1, 2**40, 2**70])
def test_a_number_that_no_process_has_does_not_count(work, process):
    owned_by(work, process=process)
    with locked(work):
        assert json.loads((work / "owner.json").read_text())["process"] == os.getpid()
