"""The folder of a run's cache, before the teacher's outputs are written to it."""

import json
import shutil
from pathlib import Path

from rich.console import Console

from hf_distill.recipes.files import write_text
from hf_distill.soft_targets import provenance


def open_cache(folder: Path, inputs: str, console: Console) -> None:
    """Make the folder, or remove from it what was made of other inputs, or is damaged.

    Args:
        folder: of the cache.
        inputs: a hash of what its outputs depend on.
        console: of the run.
    """
    mark, now = folder / "inputs.json", json.dumps(inputs)
    if folder.exists() and (not mark.exists() or mark.read_text(encoding="utf-8", errors="replace") != now):
        console.print("cache: of another recipe or other data; it is made again.", style="yellow")
        shutil.rmtree(folder)
    if not mark.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(mark, now)
    _drop_unknown_shards(folder, console)


def _drop_unknown_shards(folder: Path, console: Console) -> None:
    """Remove shards whose record is gone or was cut: they are computed again."""
    for place in {path.parent for path in folder.rglob("shard-*.arrow")}:
        try:
            provenance.read(place / provenance.FILE)
        except (OSError, ValueError):
            console.print(f"cache: {place / provenance.FILE} is gone or damaged; it is made again.")
            for path in [*place.glob("shard-*.arrow"), *place.glob(provenance.FILE)]:
                path.unlink()
