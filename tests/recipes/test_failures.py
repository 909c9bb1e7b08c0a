"""What a disk refuses is told in one line; everything else passes."""

import errno
import os

import pytest
from safetensors import SafetensorError

from hf_distill.recipes.failures import InterruptedRun, OneLine, OneLineError


def told(tmp_path, error, cause=None):
    """The line for an error, or the error itself where it passes."""
    with pytest.raises(type(error) if error.__class__ in (ValueError, KeyError) else OSError) as raised:  # noqa: SIM117
        with OneLine("distill", tmp_path, lambda: "Kept: teacher."):
            raise error from cause
    return raised.value


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "No space left on device. Kept: teacher. Make room on that disk, or choose another output_dir"),
        (errno.EDQUOT, "Kept: teacher. Delete files of this user, or have the quota raised, then run again."),
        (errno.EFBIG, "Kept: teacher. Raise the limit of file sizes (ulimit -f unlimited)"),
        (errno.EACCES, "Permission denied. Kept: teacher. Give this user the right to read and write there"),
        (errno.EROFS, "Kept: teacher. Mount it for writing"),
        (errno.EIO, "Kept: teacher. The disk has errors"),
    ],
)
def test_the_step_the_file_what_is_kept_and_what_to_do(tmp_path, number, remedy):
    error = told(tmp_path, OSError(number, os.strerror(number), f"{tmp_path}/student/a.json"))
    assert isinstance(error, OneLineError) and error.errno == number
    assert str(error).startswith(f"distill: {tmp_path}/student/a.json could not be written or read: ")
    assert remedy in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (Exception("File too large (os error 27)"), errno.EFBIG),  # as tokenizers raise it
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 704 vs 598"), errno.ENOSPC),
        (OSError("[Errno 28] Error writing bytes to file. Detail: No space left on device"), errno.ENOSPC),
    ],
)
def test_libraries_tell_in_their_own_ways(tmp_path, error, number):
    (tmp_path / ".work").mkdir()
    found = told(tmp_path, error)
    assert isinstance(found, OneLineError) and found.errno == number
    assert f"a file in {tmp_path}" in str(found)
    assert list((tmp_path / ".work").iterdir()) == []


def test_what_was_said_where_it_was_raised_stays(tmp_path):
    error = told(tmp_path, OSError(errno.ENOSPC, "3 shards are kept: the same call goes on."))
    assert str(error).startswith("distill: 3 shards are kept: the same call goes on. Kept: teacher. Make room")


def test_a_full_disk_is_found_behind_another_error(tmp_path):
    error = told(tmp_path, OSError("the export failed"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x"))
    assert "/x could not be written" in str(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("data.text: there is no column"),
        KeyError("a"),
        OSError("google/bert is not a local folder"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/elsewhere/data.csv"),
    ],
)
def test_other_errors_pass(tmp_path, error):
    assert told(tmp_path, error) is error


def test_ctrl_c_tells_how_to_go_on(tmp_path):
    with pytest.raises(KeyboardInterrupt) as raised, OneLine("distill", tmp_path, lambda: "Kept: teacher."):
        raise KeyboardInterrupt
    told = "Interrupted in distill. Kept: teacher. The same command goes on from there."
    assert isinstance(raised.value, InterruptedRun) and str(raised.value) == told
