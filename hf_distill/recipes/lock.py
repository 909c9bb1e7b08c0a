"""One run at a time in a folder."""

import errno
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from hf_distill.recipes.files import write_text

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK, OWNER = "lock", "owner.json"
UNLOCKABLE = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
TOLERANCE = 2.0  # seconds: the system's clock may be set between two looks at when a process started


@contextmanager
def one_at_a_time(folder: Path, work: Path) -> Iterator[None]:
    """Keep other runs out of a folder for a while.

    The lock is the system's, on a file: it ends with the process that took it and those that this one forked, so that
    a killed run leaves none behind. A file beside it says whose it is; it also counts where the file system has no
    locks between machines, or where somebody deleted the lock.

    Args:
        folder: of the run, for the messages.
        work: where lock and owner stand.
    Raises:
        ValueError: another run is at work, or one of another machine may be.
    """
    owner = work / OWNER
    busy = f"output_dir: another run is at work in {folder}"
    try:
        lock = _acquired(work / LOCK)
    except BlockingIOError as error:
        about = _read(owner)
        told = "started just now" if about is None else _described(about)
        ended = about is not None and about["host"] == platform.node() and not _is_running(about)
        remedy = "Wait for it, or choose another output_dir."
        if ended:
            told += ", which has ended; a process that it started has not"
            remedy = "End that process, or wait for it."
        raise ValueError(f"{busy} ({told}). {remedy}") from error
    try:
        about = _read(owner)
        if about is not None and about["host"] != platform.node():
            raise ValueError(
                f"output_dir: {folder} was last used by a run on another machine that did not end by itself, or is "
                f"still at work ({_described(about)}). If it has ended, delete {owner} and run again; else wait for "
                "it, or choose another output_dir."
            )
        if about is not None and about["process"] != os.getpid() and _is_running(about):
            raise ValueError(f"{busy} ({_described(about)}). Wait for it, or choose another output_dir.")
        own = os.getpid()
        write_text(owner, json.dumps(_this_process()))
        try:
            yield
        finally:
            if os.getpid() == own:  # a forked process leaves this block too, while the run may still be at work
                owner.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _acquired(path: Path) -> int:
    """The descriptor of a file that is locked until it is closed here and in all forked processes.

    `filelock` 4.2 closes its descriptors in forked processes, so that these would not count.

    Raises:
        BlockingIOError: it is locked already.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in UNLOCKABLE:
            return descriptor  # a file system without locks: what the owner wrote counts
        os.close(descriptor)
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise BlockingIOError(error.errno, error.strerror, str(path)) from error
        raise
    return descriptor


def _this_process() -> dict[str, Any]:
    started = psutil.Process().create_time()
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"process": os.getpid(), "host": platform.node(), "since": since, "started": started}


def _read(path: Path) -> dict[str, Any] | None:
    """What the owner of a lock wrote; None where that is nothing, or not whole."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        known = {"process": int, "host": str, "since": str, "started": float}
        return about if all(isinstance(about[name], kind) for name, kind in known.items()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_running(about: dict[str, Any]) -> bool:
    """Whether the process still runs; another one that was given its number started at another time."""
    try:
        process = psutil.Process(about["process"])
        same = abs(process.create_time() - about["started"]) < TOLERANCE
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError, OverflowError):  # no number that a process can have
        return False
    except psutil.AccessDenied:
        return True


def _described(about: dict[str, Any]) -> str:
    return f"process {about['process']} on {about['host']}, since {about['since']}"
