"""Files that are whole and on the disk, and folders that are gone through without following links."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

PART = ".part"


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place, sync it, and rename it."""
    temporary = path.with_name(path.name + PART)
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    os.replace(temporary, path)


def sync(path: Path) -> None:
    """Have the system write a file to its disk."""
    with path.open("rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:  # which does not say of which file
            raise OSError(error.errno, error.strerror, str(path)) from error


def sync_folder(folder: Path) -> None:
    """Have the system write all files of a folder to its disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync(path)


def content_hash(path: Path) -> str:
    """A hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def free_name(path: Path) -> Path:
    """The path, or the first of `path.2`, `path.3` and so on that is free."""
    number, free = 2, path
    while os.path.lexists(free):
        free, number = path.with_name(f"{path.name}.{number}"), number + 1
    return free


def entries(path: Path) -> Iterator[Path]:
    """A file or link, or all files and links under a folder. Links are not followed."""
    if path.is_symlink() or not path.is_dir():
        if os.path.lexists(path):
            yield path
        return
    for folder, folders, names in os.walk(path):
        for name in sorted([*names, *folders]):
            found = Path(folder) / name
            if name in names or found.is_symlink():
                yield found


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files under a folder."""
    found = 0
    for each in entries(path):
        try:
            found += each.lstat().st_size
        except FileNotFoundError:  # a run removes checkpoints meanwhile
            continue
    return found
