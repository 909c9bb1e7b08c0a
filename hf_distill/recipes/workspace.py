"""Files and hashes of a run."""

from pathlib import Path
from typing import Any

from datasets.fingerprint import Hasher


def contents_of(path: str) -> Any:
    """What tells one folder's contents from another's; a Hub id stands for itself."""
    folder = Path(path)
    if not folder.exists():
        return path
    files = [folder] if folder.is_file() else [item for item in folder.iterdir() if item.is_file()]
    return sorted((item.name, item.stat().st_size, item.stat().st_mtime_ns) for item in files)


def hashed(*parts: Any) -> str:
    """One hash of several things."""
    return Hasher.hash(list(parts))
