"""What ends a run early, in one line: what a disk refuses, with what to do, or Ctrl-C; and what is kept."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

REMEDIES = {
    errno.ENOSPC: "Make room on that disk, or choose another output_dir",
    errno.EDQUOT: "Delete files of this user, or have the quota raised",
    errno.EFBIG: "Raise the limit of file sizes (ulimit -f unlimited)",
    errno.EACCES: "Give this user the right to read and write there, or choose another output_dir",
    errno.EPERM: "Give this user the right to read and write there, or choose another output_dir",
    errno.EROFS: "Mount it for writing (a disk with errors is mounted read-only), or choose another output_dir",
    errno.EIO: "The disk has errors: look at the log of the system, or choose another output_dir",
    errno.ENOENT: "Something removed it meanwhile: keep other programs out of the folder",
    errno.ENOTDIR: "Something stands where a folder has to be: choose another output_dir",
    errno.EISDIR: "A folder stands where a file has to be: choose another output_dir",
    errno.ENAMETOOLONG: "Choose a shorter output_dir",
    errno.EMFILE: "Raise the limit of open files (ulimit -n)",
}
# Libraries in Rust and C++ raise errors of their own, with the system's words in them, or its number.
OF_RUST = re.compile(r"\(os error (\d+)\)")
WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
OF_TORCH = re.compile(r"PytorchStreamWriter|inline_container|iostream error|unexpected pos")
PROBE = 2**20  # bytes


class OneLine:
    """Turns what a disk refuses within a `with` block into an OSError with one line, and Ctrl-C into one that tells how
    to go on; other errors pass.

    Args:
        step: that is at work, in words.
        folder: of the run.
        kept: tells what is kept.
    """

    def __init__(self, step: str, folder: Path, kept: Callable[[], str]) -> None:
        self.step, self.folder, self.kept = step, folder, kept

    def __enter__(self) -> "OneLine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt) and not isinstance(error, InterruptedRun):
            told = f"Interrupted in {self.step}. {self.kept()} The same command goes on from there."
            raise InterruptedRun(told) from error
        found = None if error is None or isinstance(error, OneLineError) else refusal(error, self.folder)
        if found is not None:
            number, what = found
            told = " ".join(f"{self.step}: {what}. {self.kept()} {REMEDIES[number]}, then run again.".split())
            raise OneLineError(number, told) from error


class InterruptedRun(KeyboardInterrupt):
    """Ctrl-C, with one line that tells the step, what is kept and how to go on."""


class OneLineError(OSError):
    """What a disk refuses, in one line; `errno` is the system's number."""

    def __str__(self) -> str:
        return str(self.strerror)


def refusal(error: BaseException, folder: Path) -> tuple[int, str] | None:
    """The system's number of what a disk refused, and a clause that says what; None for other errors.

    Args:
        error: with what caused it.
        folder: that was written to.
    """
    if isinstance(error, OSError) and error.errno in REMEDIES:
        inside = Path(str(error.filename or "/")).is_relative_to(folder)
        return (error.errno, _clause(error, error.errno, folder)) if inside or error.errno != errno.ENOENT else None
    each: BaseException | None = error
    while each is not None:
        number = _number_in(each, folder)
        if number is not None:
            return number, _clause(each, number, folder)
        each = each.__cause__ or each.__context__
    return None


def _number_in(error: BaseException, folder: Path) -> int | None:
    """The number of a refused write that an error of a library tells of in its own way."""
    told = str(error)
    found = [int(number) for number in OF_RUST.findall(told)] + [getattr(error, "errno", None)]
    found += [number for number in WRITES if os.strerror(number) in told]
    number = next((number for number in found if number in WRITES), None)
    if number is None and isinstance(error, RuntimeError) and OF_TORCH.search(told):
        return _tried(folder)
    return number


def _clause(error: BaseException, number: int, folder: Path) -> str:
    """What could not be written, and why."""
    reason = os.strerror(number)
    if isinstance(error, OSError) and error.strerror and error.strerror != reason and error.filename is None:
        return str(error.strerror).rstrip(".")  # said where it was raised
    file = getattr(error, "filename", None) or f"a file in {folder}"
    return f"{file} could not be written or read: {reason}"


def _tried(folder: Path) -> int:
    """Why nothing can be written to a folder, which torch does not say."""
    path = folder / ".work" / "room"
    try:
        path.write_bytes(bytes(PROBE))
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        path.unlink(missing_ok=True)
    return errno.EFBIG if _file_limit() else errno.ENOSPC


def _file_limit() -> bool:
    """Whether files may not be larger than some size."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return False
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
