"""A file of answers, one JSON object per line."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from hf_distill.teachers.text import quoted

LINE_START = b'{"key": "'


@contextlib.contextmanager
def open_ledger(path: Path, timeout: float = -1) -> Iterator[tuple[dict[str, str], BinaryIO]]:
    """The answers in a ledger by key, and the file to append answers to; locked for one process at a time.

    Args:
        path: of the file, which is made where there is none.
        timeout: seconds to wait for another process; negative: as long as it takes.
    Raises:
        filelock.Timeout: another process still has it.
        ValueError: something else than a ledger is there.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and a ledger is a file. Choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=timeout):
        answers = _read_ledger(path) if path.exists() else {}
        with path.open("ab") as file:
            yield answers, file


def _read_ledger(path: Path) -> dict[str, str]:
    """The answers by key; a truncated last line is removed from the file."""
    answers = {}
    complete = 0  # bytes
    with path.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            truncated = not line.endswith(b"\n")
            entry = _entry(line)
            if entry is None:
                if truncated and (line.startswith(LINE_START) or LINE_START.startswith(line)):
                    file.truncate(complete)  # the last line of a run that was killed while writing it
                    break
                raise ValueError(
                    f"{path}, line {number} is not a line of a ledger: {quoted(line.decode(errors='replace'))}. Choose "
                    "another file. If the file is a ledger, delete this line; its text is then sent again."
                )
            key, answer = entry
            answers[key] = answer
            complete += len(line)
            if truncated:  # otherwise the next answer would be appended to this line
                file.seek(complete)
                file.write(b"\n")
    return answers


def _entry(line: bytes) -> tuple[str, str] | None:
    """The key and the answer of a line; None where it is no line of a ledger."""
    try:
        entry = json.loads(line)
        key, answer = (entry.get(name) for name in ("key", "answer")) if isinstance(entry, dict) else (None, None)
        if isinstance(key, str) and isinstance(answer, str):
            answer.encode()  # half of a surrogate pair is no text
            return key, answer
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested too deeply for its parser
        pass
    return None


def answer_key(*parts: Any) -> str:
    """The key of an answer: a hash of the teacher's name and the text."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
