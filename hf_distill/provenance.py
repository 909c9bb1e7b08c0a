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

from hf_distill.teacher import LiveTeacher, TeacherEnsemble

FILE = "provenance.json"
# What a config says that changes no answer.
NAMES = ("_name_or_path", "transformers_version", "dtype", "id2label", "label2id", "architectures")


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
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise ValueError(f"{name}: expected a list of whole numbers in each row, one a position; got {column.type}.")
    ends = np.cumsum(np.asarray(pc.list_value_length(column)))
    numbers = np.asarray(pc.list_flatten(column), dtype=np.int64)
    return [part.tobytes() for part in np.split(numbers, ends[:-1])]


def rows_record(hashes: np.ndarray) -> dict[str, Any]:
    """What is kept of some rows: their number, a hash of them in any order, and one of this order."""
    return {
        "number": len(hashes),
        "hash": _short(np.sort(hashes).tobytes()),
        "order": _short(hashes.tobytes()),
    }


def _short(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def weights_hash(teacher: LiveTeacher) -> str:
    """A hash of a teacher's weights: the same weights have the same hash under any name."""
    digest = hashlib.sha256()
    for member in teacher.members:
        for name, tensor in sorted(member.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    if isinstance(teacher.model, TeacherEnsemble):
        digest.update(str(teacher.model.weights).encode())
    return digest.hexdigest()


def config_hash(teacher: LiveTeacher) -> str:
    """A hash of how a teacher computes with its weights, where its config differs from the defaults of its kind."""
    configs = [_nameless(member.config.to_diff_dict()) for member in teacher.members]
    return _short(json.dumps(configs, sort_keys=True, default=str).encode())


def _nameless(config: Any) -> Any:
    """A config, and those inside it, without `NAMES`."""
    if not isinstance(config, dict):
        return config
    return {str(name): _nameless(value) for name, value in config.items() if name not in NAMES}


def tokenizer_hash(tokenizer: Any) -> str:
    """A hash of all that decides on which token ids a text becomes; padding and truncation are left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = {} if backend is None else json.loads(backend.to_str())
    content = {name: value for name, value in content.items() if name not in ("padding", "truncation")}
    parts = [content, sorted(tokenizer.get_vocab().items()), sorted(map(str, tokenizer.all_special_tokens))]
    return _short(json.dumps(parts, sort_keys=True).encode())


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
            "name": _public_name(teacher),
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


def _public_name(teacher: LiveTeacher) -> str:
    # A local folder's name says something about its owner's machine, and nothing to anybody else.
    names = [getattr(member.config, "_name_or_path", "") for member in teacher.members]
    return " + ".join(name if name and not Path(name).exists() else type(teacher.members[0]).__name__ for name in names)


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
    before = _read(path)
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


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # of text that is not UTF-8, or not JSON
        content = None
    parts = ("teacher", "tokenizer", "options")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in parts):
        raise ValueError(
            f"{path} is not the record of a cache: expected JSON with {', '.join(parts)}. Choose another "
            "output_dir, or delete that one."
        )
    return content


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
