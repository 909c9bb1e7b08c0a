"""Runs on disks that are full, limited or read-only: one line that says what to do, and the same student afterwards.

HF_DISTILL_INJECTIONS=all injects a failure at every call, not at a sample; see `injections.py`.
"""

import contextlib
import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import threading

import pytest

from tests.recipes.injections import forked, inject, outcome, prepare, run

pytestmark = pytest.mark.faults
SAMPLE = 10  # calls, of some six hundred


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A recipe, what its run comes to, and the bytes that its folder takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = prepare(folder)
    assert forked(lambda: run(recipe)) == 0
    size = sum(path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file())
    return recipe, outcome(folder / "out"), size


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a file system of so many bytes in memory, or changes the one that it mounted."""
    place = tmp_path / "disk"
    place.mkdir()

    def mounted(*options: str) -> None:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", place], capture_output=True)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")

    yield place, mounted
    subprocess.run(["umount", place], capture_output=True)


def told(recipe, path, prepared=lambda: None):
    """The exit status of a run on the command line in a child process, and all that it wrote to its streams."""
    path.write_text(json.dumps(recipe))  # which is YAML
    reading, writing = os.pipe()  # no file: its size may be limited too

    def work():
        from hf_distill.cli import main

        os.dup2(writing, 1)
        os.dup2(writing, 2)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(number, "w"), write_through=True) for number in (1, 2))
        prepared()
        os._exit(main(["run", str(path)]))

    said = []

    def read():
        with os.fdopen(reading, "rb") as stream:
            said.append(stream.read())

    reader = threading.Thread(target=read)
    reader.start()
    status = forked(work)
    os.close(writing)
    reader.join()
    return status, said[0].decode()


def with_any_room(monkeypatch):
    """Let plan and cache take the disk for large enough, as one that others fill meanwhile."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type(usage)(2**50, 0, 2**50))


def line_of(said):
    lines = [line for line in said.splitlines() if line.startswith("hf-distill: ")]
    assert len(lines) == 1 and "Traceback" not in said and "terminate called" not in said, said[-3000:]
    return lines[0]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.8])
def test_a_disk_that_becomes_full(undisturbed, disk, tmp_path, monkeypatch, share):
    recipe, want, size = undisturbed
    place, mounted = disk
    mounted(f"size={int(share * size)}")
    recipe = {**recipe, "output_dir": str(place / "out")}
    with monkeypatch.context() as patch:
        with_any_room(patch)
        status, said = told(recipe, tmp_path / "recipe.yaml")
    line = line_of(said)
    assert status == 1 and "No space left on device. Kept: " in line and "then run again" in line, line
    mounted("remount", "size=64m")
    assert forked(lambda: run(recipe)) == 0
    assert outcome(place / "out") == want


def test_a_disk_that_is_too_small_is_told_before_anything_starts(undisturbed, disk, tmp_path):
    recipe, _, _ = undisturbed
    place, mounted = disk
    mounted("size=256k")
    status, said = told({**recipe, "output_dir": str(place / "out")}, tmp_path / "recipe.yaml")
    assert status == 1 and "needed (teacher 0 MB" in line_of(said)
    assert not (place / "out").exists()


@pytest.mark.parametrize("most", [200, 30_000, 60_000, 110_000])
def test_a_limit_on_the_size_of_files(undisturbed, tmp_path, most):
    """As `ulimit -f` sets it."""
    recipe, want, _ = undisturbed
    recipe = {**recipe, "output_dir": str(tmp_path / "out")}
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    status, said = told(
        recipe, tmp_path / "recipe.yaml", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    )
    assert status == 1 and "Raise the limit of file sizes (ulimit -f unlimited), then run again" in line_of(said)
    assert forked(lambda: run(recipe)) == 0
    assert outcome(tmp_path / "out") == want


def test_a_disk_that_is_mounted_read_only(undisturbed, disk, tmp_path):
    recipe, want, _ = undisturbed
    place, mounted = disk
    mounted("size=64m")
    recipe = {**recipe, "output_dir": str(place / "out")}
    (place / "out").mkdir()
    mounted("remount", "ro")
    status, said = told(recipe, tmp_path / "recipe.yaml")
    assert status == 1 and "is no folder that may be written to" in line_of(said)
    mounted("remount", "rw")
    assert forked(lambda: run(recipe)) == 0
    assert outcome(place / "out") == want


def test_a_failure_at_every_rename_replace_and_sync(tmp_path):
    chance = random.Random(0)
    chosen = {chance.randrange(600) for _ in range(SAMPLE)}
    everything = os.environ.get("HF_DISTILL_INJECTIONS") == "all"
    found = inject(tmp_path, None if everything else chosen.__contains__)
    assert found["tried"]["killed"] >= (sum(found["calls"].values()) if everything else SAMPLE // 2)
    assert not found["lost"]
    assert all(each.endswith("exit 3") for each in found["exits"]), "one line that says what is kept"
    with contextlib.suppress(KeyError):
        assert found["tried"]["full"] == found["tried"]["denied"] == found["tried"]["quota"]
