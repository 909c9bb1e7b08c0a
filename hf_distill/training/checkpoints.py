"""Which of a run's checkpoints can be resumed from: one whose files are missing or were cut is left out."""

import json
import re
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

logger = logging.get_logger(__name__)

NAME = re.compile(rf"^{PREFIX_CHECKPOINT_DIR}-(\d+)$")
STATE = "trainer_state.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
READ = (STATE, "config.json", "adapter_config.json", *INDICES)  # the JSON files that a resumed training reads


def last_whole_checkpoint(folder: str | Path, resumable: bool = True, sharded: bool = False) -> str | None:
    """The last checkpoint of a run whose files are all there, with a warning for each later one.

    Args:
        folder: of the run.
        resumable: whether optimizer, scheduler and random state are saved too (`save_only_model` is off).
        sharded: whether FSDP or DeepSpeed lays out the weights, which are then not looked for.
    Returns:
        Its path; None where the run has no checkpoint.
    Raises:
        ValueError: the run has checkpoints, and none of them is whole.
    """
    there = [path for path in Path(folder).iterdir() if path.is_dir() and NAME.match(path.name)]
    there.sort(key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    faults: dict[str, str] = {}
    for path in there:
        fault = fault_of(path, resumable, sharded)
        if fault is None:
            for name, reason in faults.items():
                logger.warning(f"{name} is not resumed from: {reason}. The training goes on from {path.name}.")
            return str(path)
        faults[path.name] = fault
    if faults:
        found = "; ".join(f"{name}: {reason}" for name, reason in faults.items())
        raise ValueError(
            f"No checkpoint in {folder} is whole ({found}). Delete the damaged ones and start anew, or name a folder: "
            "resume_from_checkpoint=..."
        )
    return None


def fault_of(checkpoint: Path, resumable: bool = True, sharded: bool = False) -> str | None:
    """Why a checkpoint cannot be resumed from; None where its files are there and end as they should.

    Args:
        checkpoint: its folder.
        resumable: see `last_whole_checkpoint`.
        sharded: see `last_whole_checkpoint`.
    """
    names = {path.name for path in checkpoint.iterdir() if path.is_file()}
    if STATE not in names:  # written last
        return f"{STATE} is missing"
    for name in sorted(names.intersection(READ)):
        try:
            content = json.loads((checkpoint / name).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError):
            return f"{name} was cut"
        if name in INDICES and (missing := set(content.get("weight_map", {}).values()) - names):
            return f"{', '.join(sorted(missing))} is missing"
    if not sharded:
        nested = any((path / name).is_file() for path in checkpoint.iterdir() if path.is_dir() for name in WEIGHTS)
        if not names.intersection((*WEIGHTS, *INDICES)) and not nested:
            return f"its weights ({', '.join(WEIGHTS[:2])}) are missing"
        for name in ("optimizer.pt", "scheduler.pt") if resumable else ():
            if name not in names:
                return f"{name} is missing"
        if resumable and not any(name.startswith("rng_state") for name in names):
            return "rng_state.pth is missing"
    return next((f"{path.name} was cut" for path in sorted(checkpoint.rglob("*")) if _is_cut(path)), None)


def _is_cut(path: Path) -> bool:
    """Whether a file of tensors is shorter than its header requires."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt"):
                return False
        except SafetensorError:
            return True
    # What torch.save writes is a zip archive, whose table of contents is at its end.
    return path.suffix in (".pt", ".pth", ".bin") and path.name != "training_args.bin" and not zipfile.is_zipfile(path)
