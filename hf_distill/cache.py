"""A teacher's outputs as a data set on disk: computed once, shard by shard, and checked before they are used."""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_distill import columns
from hf_distill.tasks import TASKS
from hf_distill.teacher import LiveTeacher, TeacherEnsemble

ROW_HASH = "row_hash"
PROVENANCE = "provenance.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16}


def cache_teacher_outputs(
    dataset: datasets.Dataset,
    teacher_model: PreTrainedModel | TeacherEnsemble | str | Path,
    *,
    task: str,
    output_dir: str | Path,
    top_k: int | None = None,
    temperature: float = 1.0,
    dtype: str = "float16",
    data_collator: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
    batch_size: int = 64,
    shard_size: int = 16_384,
    bf16: bool = False,
    device: str | torch.device | None = None,
) -> datasets.Dataset:
    """Ask a teacher once about every row, and keep its answers beside the rows.

    Rows are sorted by length inside each shard, so little padding is computed. A shard is written under another name
    and renamed when it is whole: a killed pass loses at most the shard it was writing, and the next call goes on from
    there.

    Args:
        dataset: tokenised rows. A teacher with its own tokenizer reads `teacher_input_ids` and its companions.
        teacher_model: a model, an ensemble, or a Hub id or folder.
        task: `text-classification`.
        output_dir: where the shards are, or will be.
        top_k: classes to keep a row, for language models; not for classification.
        temperature: of the tail of a top-k cache; dense logits are kept as they are and can be tempered later.
        dtype: `float16` or `float32` on disk. Training from a float32 cache equals training live.
        data_collator: makes the teacher's batches. None: `input_ids` are padded on the right with the teacher's pad id,
            or 0 if it has none, and masked.
        batch_size: rows a forward.
        shard_size: rows a file.
        bf16: whether the teacher computes in bfloat16; for hardware that is fast at it.
        device: where the teacher runs; None: an accelerator if there is one.
    Returns:
        The same rows in the same order, with the column `teacher_logits`, memory-mapped.
    Raises:
        ValueError: another teacher, other rows or other options made what is in `output_dir`; the teacher returns NaN;
            a column of that name is there already.
    """
    _check_options(dataset, task, top_k, temperature, dtype)
    loaded: Any = teacher_model
    if isinstance(teacher_model, str | Path):
        loaded = TASKS[task].auto_class.from_pretrained(teacher_model)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    teacher = LiveTeacher(loaded, device)
    output_dir = Path(output_dir)
    hashes = row_hashes(dataset)
    provenance = {
        "teacher": {
            "name": _public_name(teacher),
            "revision": getattr(teacher.model.config, "_commit_hash", None),
            "weights": weights_hash(teacher),
        },
        "rows": {"number": len(dataset), "hash": hashlib.blake2b(hashes.tobytes(), digest_size=16).hexdigest()},
        "options": {
            "task": task,
            "top_k": top_k,
            "temperature": temperature,
            "dtype": dtype,
            "bf16": bf16,
            "shard_size": shard_size,
        },
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]},
    }
    _check_provenance(output_dir, provenance)
    output_dir.mkdir(parents=True, exist_ok=True)
    _write(output_dir / PROVENANCE, json.dumps(provenance, indent=2))

    pad_id = getattr(teacher.model.config, "pad_token_id", None) or 0
    collate = data_collator or functools.partial(_pad, pad_id=pad_id)
    shards = range(0, len(dataset), shard_size)
    paths = [output_dir / f"shard-{number:05d}.arrow" for number in range(len(shards))]
    with tqdm(total=len(dataset), desc="Teacher", unit=" rows") as progress:
        for start, path in zip(shards, paths, strict=True):
            rows = dataset.select(range(start, min(start + shard_size, len(dataset))))
            if not path.exists():
                logits = _logits(rows, teacher, collate, batch_size, bf16, progress)
                _write_shard(path, logits.to(DTYPES[dtype]), hashes[start : start + len(rows)])
            else:
                progress.update(len(rows))
    cached = datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in paths])
    if not np.array_equal(np.array(cached.data.column(ROW_HASH), dtype=np.int64), hashes):
        raise ValueError(
            f"{output_dir} holds outputs for other rows than the data set's, though it says otherwise. Delete it."
        )
    return datasets.concatenate_datasets([dataset, cached.remove_columns(ROW_HASH)], axis=1)


def row_hashes(dataset: datasets.Dataset) -> np.ndarray:
    """A hash of what the teacher reads of each row: (rows,) int64."""
    own = [name for name in dataset.column_names if name.startswith(columns.PREFIX) and not columns.is_output(name)]
    names = sorted(own or [name for name in dataset.column_names if name in ("input_ids", "token_type_ids")])

    def digest(row: dict[str, Any]) -> int:
        content = b"|".join(np.asarray(row[name], dtype=np.int64).tobytes() for name in names)
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)

    selected = dataset.select_columns(names).with_format(None)
    return np.fromiter((digest(row) for row in selected), dtype=np.int64, count=len(dataset))


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


def _check_options(dataset: datasets.Dataset, task: str, top_k: int | None, temperature: float, dtype: str) -> None:
    if task != "text-classification":
        raise ValueError(f"cache_teacher_outputs knows the task text-classification, got {task!r}. Use a live teacher.")
    if top_k is not None:
        raise ValueError(f"top_k={top_k}: classification keeps all classes, there is nothing to leave out. Use None.")
    if temperature != 1.0:
        raise ValueError(
            f"temperature={temperature} only shapes the tail of a top-k cache; dense logits are tempered in training. "
            "Use 1."
        )
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    if columns.LOGITS in dataset.column_names:
        raise ValueError(f"The data set has a column {columns.LOGITS} already: remove or rename it.")
    if "input_ids" not in dataset.column_names:
        raise ValueError(f"Expected tokenised rows with input_ids, got the columns {dataset.column_names}.")
    if len(dataset) == 0:
        raise ValueError("The data set has no rows: there is nothing to ask the teacher.")


def _check_provenance(output_dir: Path, provenance: dict[str, Any]) -> None:
    path = output_dir / PROVENANCE
    if not path.exists():
        return
    before = json.loads(path.read_text())
    differences = [
        f"{part}.{name}: {before.get(part, {}).get(name)!r} there, {value!r} now"
        for part in ("teacher", "rows", "options")
        for name, value in provenance[part].items()
        if name != "name" and before.get(part, {}).get(name) != value
    ]
    if differences:
        raise ValueError(
            f"{output_dir} holds the outputs of another pass: {'; '.join(differences)}. "
            "Choose another output_dir, or delete that one."
        )


def _public_name(teacher: LiveTeacher) -> str:
    # A local folder's name says something about its owner's machine, and nothing to anybody else.
    names = [getattr(member.config, "_name_or_path", "") for member in teacher.members]
    return " + ".join(name if name and not Path(name).exists() else type(teacher.members[0]).__name__ for name in names)


def _logits(
    rows: datasets.Dataset,
    teacher: LiveTeacher,
    collate: Callable[..., Any],
    batch_size: int,
    bf16: bool,
    progress: tqdm,
) -> torch.Tensor:
    name = columns.PREFIX + "input_ids" if columns.PREFIX + "input_ids" in rows.column_names else "input_ids"
    lengths = np.array([len(ids) for ids in rows[name]])
    order = np.argsort(-lengths, kind="stable")  # longest first: too little memory shows at once
    answers: list[torch.Tensor] = []
    for indices in _batches(order, batch_size):
        batch = {
            name: value.to(teacher.device)
            for name, value in collate([teacher.inputs_from(rows[int(index)]) for index in indices]).items()
        }
        with torch.autocast(teacher.device.type, torch.bfloat16, enabled=bf16):
            logits = teacher(batch)["logits"].float().cpu()
        if not torch.isfinite(logits).all():
            bad = indices[int((~torch.isfinite(logits)).any(dim=-1).nonzero()[0])]
            raise ValueError(
                f"The teacher returned NaN or infinity for row {bad} of this shard. A teacher in half precision may "
                "overflow: load it with dtype=torch.float32 or pass bf16=True. Finished shards are kept."
            )
        answers.append(logits)
        progress.update(len(indices))
    unsorted = torch.cat(answers)
    return unsorted[torch.from_numpy(np.argsort(order))]


def _batches(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _pad(rows: list[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    padded = {}
    for name in rows[0].keys() | {"attention_mask"}:
        fill = pad_id if name == "input_ids" else 0
        values = [list(row.get(name, [1] * len(row["input_ids"]))) for row in rows]
        padded[name] = torch.tensor([value + [fill] * (longest - len(value)) for value in values])
    return padded


def _write_shard(path: Path, logits: torch.Tensor, hashes: np.ndarray) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.part")
    value = datasets.Value("float16" if logits.dtype == torch.float16 else "float32")
    features = datasets.Features(
        {columns.LOGITS: datasets.Sequence(value, length=logits.shape[-1]), ROW_HASH: datasets.Value("int64")}
    )
    with datasets.arrow_writer.ArrowWriter(path=str(temporary), features=features) as writer:
        table = datasets.Dataset.from_dict({columns.LOGITS: logits.numpy(), ROW_HASH: hashes}, features=features)
        writer.write_table(table.data.table)
        writer.finalize()
    os.replace(temporary, path)


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.part")
    temporary.write_text(text)
    os.replace(temporary, path)
