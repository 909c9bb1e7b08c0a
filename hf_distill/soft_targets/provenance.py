"""Where a cache comes from: hashes of its rows, of the teacher's weights and of its tokenizer."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import transformers

from hf_distill.checksums import is_sealed
from hf_distill.teachers.identity import config_hash, public_name, short_hash, tokenizer_hash, weights_hash
from hf_distill.teachers.live import LiveTeacher

FILE = "provenance.json"


def row_hashes(dataset: datasets.Dataset, names: Sequence[str]) -> np.ndarray:
    """A hash of what the teacher reads of each row: (rows,) int64.

    Args:
        dataset: tokenised.
        names: its columns that the teacher's answers depend on, each a list of whole numbers.
    Raises:
        ValueError: a column of something else.

    >>> rows = datasets.Dataset.from_dict({"input_ids": [[1, 2], [3], [1, 2]]})
    >>> first, second, third = row_hashes(rows, ["input_ids"])
    >>> bool(first == third), bool(first == second)
    (True, False)
    """
    hashes = np.empty(len(dataset), dtype=np.int64)
    start = 0
    for table in dataset.select_columns(list(names)).with_format("arrow").iter(1000):
        read = [_pieces(name, table.column(name)) for name in names]
        for number, pieces in enumerate(zip(*read, strict=True)):
            digest = hashlib.blake2b(b"|".join(pieces), digest_size=8).digest()
            hashes[start + number] = int.from_bytes(digest, "little", signed=True)
        start += len(table)
    return hashes


def _pieces(name: str, column: pa.ChunkedArray) -> list[bytes]:
    """The bytes of each row's numbers, as int64."""
    kind = column.type.value_type if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) else None
    if kind is None or not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        raise ValueError(f"{name}: expected a list of whole numbers in each row, one a position; got {column.type}.")
    flattened = pc.list_flatten(column)
    if column.null_count or flattened.null_count:
        raise ValueError(
            f"{name}: expected a list of whole numbers in each row; got {column.null_count} rows and "
            f"{flattened.null_count} positions without one. Fill them in, or remove these rows."
        )
    ends = np.cumsum(np.asarray(pc.list_value_length(column)))
    numbers = np.asarray(flattened, dtype=np.int64)
    return [part.tobytes() for part in np.split(numbers, ends[:-1])]


def rows_record(hashes: np.ndarray) -> dict[str, Any]:
    """What is kept of some rows: their number, a hash of them in any order, and one of this order."""
    return {
        "number": len(hashes),
        "hash": short_hash(np.sort(hashes).tobytes()),
        "order": short_hash(hashes.tobytes()),
    }


def provenance(teacher: LiveTeacher, tokenizer: Any, options: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """All that a cache depends on but its rows.

    Args:
        teacher: whose outputs they are.
        tokenizer: the teacher's, where it is known.
        options: of the pass.
        names: of the columns that the row hashes are of.
    """
    return {
        "teacher": {
            "name": public_name(teacher),
            "revision": getattr(teacher.model.config, "_commit_hash", None),
            "weights": weights_hash(teacher),
            "config": config_hash(teacher),
        },
        "tokenizer": {"hash": None if tokenizer is None else tokenizer_hash(tokenizer)},
        "options": options,
        "columns": list(names),
        "versions": {
            "transformers": transformers.__version__,
            "datasets": datasets.__version__,
            "torch": torch.__version__.split("+")[0],
        },
    }


def check(folder: Path, now: dict[str, Any]) -> dict[str, Any] | None:
    """What a folder says it holds, if it says so; versions may differ, and so may the order of the rows.

    Args:
        folder: of a cache.
        now: what is asked for.
    Raises:
        ValueError: it holds the outputs of another pass, or files that say nothing of their origin, or a record that
            is not a cache's.
    """
    path = folder / FILE
    if not path.exists():
        if any(folder.glob("*.arrow")):
            raise ValueError(
                f"{folder} holds Arrow files and no {FILE} that says where they come from. Choose another output_dir."
            )
        return None
    before = read(path)
    differences = [
        f"{part}.{name}: {before[part].get(name)!r} there, {value!r} now"
        for part in ("teacher", "tokenizer", "rows", "options")
        for name, value in now.get(part, {}).items()
        if part in before and _differ(part, name, before[part].get(name), value)
    ]
    if differences:
        raise ValueError(
            f"{folder} holds the outputs of another pass: {'; '.join(differences)}. "
            "Choose another output_dir, or delete that one."
        )
    return before


def read(path: Path) -> dict[str, Any]:
    """The record of a cache.

    Args:
        path: of the record.
    Raises:
        OSError: there is none.
        ValueError: the file is not one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # of text that is not UTF-8, or not JSON
        content = None
    parts = ("teacher", "tokenizer", "options")
    fits = isinstance(content, dict) and all(isinstance(content.get(part), dict) for part in parts)
    fits = fits and all(isinstance(content.get(part, {}), dict) for part in ("rows", "checksums"))
    names = content.get("checksums", {}).get("unchecked", []) if fits else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"{path} is not the record of a cache: expected JSON with {', '.join(parts)}. Choose another "
            "output_dir, or delete that one."
        )
    return content


def with_checksums(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A record with the names of the shards that no checksum checks: those of versions that wrote none.

    Args:
        record: of a cache.
        folder: its shards.
    """
    shards = [path for path in sorted(folder.glob("shard-*.arrow")) if path.is_file() and not is_sealed(path)]
    names = [path.name for path in shards if "checksums" not in record or path.name in unchecked(record)]
    return record | {"checksums": {"kind": "CRC-32 at the end of each shard", "unchecked": names}}


def unchecked(record: dict[str, Any]) -> list[str]:
    """The names of the shards that a record of `with_checksums` says are without a checksum."""
    return record["checksums"].get("unchecked", [])


def _differ(part: str, name: str, before: Any, now: Any) -> bool:
    unknown = part == "tokenizer" and (before is None or now is None)
    unknown |= (part, name) == ("teacher", "config") and before is None  # older records do not say
    informal = (part, name) in (("teacher", "name"), ("teacher", "revision"), ("rows", "order"))
    if name == "keeps_rows":  # older records do not say
        return bool(before) != now
    return before != now and not unknown and not informal


def write(folder: Path, content: dict[str, Any]) -> None:
    """Keep a record in a folder, at once or not at all."""
    temporary = folder / f"provenance.{os.getpid()}.part"
    temporary.write_text(json.dumps(content, indent=2))
    os.replace(temporary, folder / FILE)
