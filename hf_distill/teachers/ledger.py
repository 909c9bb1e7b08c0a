"""A file of answers, one JSON object a line."""

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
def opened(path: Path) -> Iterator[tuple[dict[str, str], BinaryIO]]:
    """The answers in a ledger by their keys, and the file to append more to; for one process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        answers = _read_ledger(path) if path.exists() else {}
        with path.open("ab") as file:
            yield answers, file


def _read_ledger(path: Path) -> dict[str, str]:
    answers = {}
    whole = 0
    with path.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            torn = not line.endswith(b"\n")
            try:
                entry = json.loads(line)
                answers[entry["key"]] = str(entry["answer"])
            except (ValueError, KeyError, TypeError) as error:
                if torn and (line.startswith(LINE_START) or LINE_START.startswith(line)):
                    file.truncate(whole)  # the last line of a run that was killed while it wrote
                    break
                raise ValueError(
                    f"{path}, line {number} is not a line of a ledger: {quoted(line.decode(errors='replace'))}. Choose "
                    "another file, or, if it was one, delete this line and its answer is asked again."
                ) from error
            whole += len(line)
            if torn:  # or the next answer would stand on this line
                file.seek(whole)
                file.write(b"\n")
    return answers


def answer_key(*parts: Any) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
