"""A checksum at the end of a file: written when the file is finished, compared before it is read.

A sealed file is its content, `MARK`, the CRC-32 of the content as eight hexadecimal digits, and the last bytes of the
content again: an Arrow stream ends with a mark of its own, and readers stop at the first one.
"""

import os
import zlib
from pathlib import Path

END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of an Arrow stream
MARK = b"\ncrc32: "
SEAL = len(MARK) + 8 + len(END)
CHUNK = 2**20


def seal(path: Path) -> None:
    """Put a checksum to the end of a finished Arrow stream, and wait until the file is on the disk.

    Args:
        path: of the file.
    Raises:
        OSError: the disk is full, for instance.
    """
    with open(path, "r+b") as file:
        found = _crc32(path, os.path.getsize(path))
        file.seek(0, os.SEEK_END)
        file.write(MARK + found + END)
        file.flush()
        os.fsync(file.fileno())


def is_sealed(path: Path) -> bool:
    """Whether a file ends with a checksum."""
    return _ending(path)[: len(MARK)] == MARK


def damage(path: Path, *, unsealed: bool = False) -> str | None:
    """What is wrong with an Arrow stream, in words that follow its name; None where nothing is.

    The whole file is read once, at the speed of the disk or of CRC-32.

    Args:
        path: of the file.
        unsealed: whether it may lack a checksum, as those of version 0.1.0 do: it is then only seen whether it was cut.
    """
    ending = _ending(path)
    if not ending.endswith(END):  # a stream cut between two batches reads well without it
        return "was cut short"
    if not ending.startswith(MARK):
        return None if unsealed else "has lost its checksum"
    written = ending[len(MARK) : -len(END)]
    found = _crc32(path, os.path.getsize(path) - SEAL)
    if found == written:
        return None
    return f"is damaged (its CRC-32 is {found.decode()}, and {written.decode(errors='replace')} when it was written)"


def _ending(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - SEAL))
        return file.read()


def _crc32(path: Path, size: int) -> bytes:
    checksum = 0
    with open(path, "rb", buffering=0) as file:
        while size > 0 and (chunk := file.read(min(CHUNK, size))):
            checksum = zlib.crc32(chunk, checksum)
            size -= len(chunk)
    return f"{checksum:08x}".encode()
