"""Where the weights of a live teacher are: on every process, a part on each, or beside the device."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import cpu_offload, init_empty_weights
from accelerate.utils.modeling import get_state_dict_offloaded_model
from safetensors import safe_open
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoConfig
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from hf_distill.models import base_model, is_placed
from hf_distill.teachers.ensemble import TeacherEnsemble

PLACEMENTS = ("replicate", "shard", "offload", "auto")
ROOM = 0.5  # share of the free memory that a replicated teacher may take under "auto": the student trains beside it


def check_placement(placement: str) -> None:
    """Raise a ValueError for a name that is not in `PLACEMENTS`."""
    if placement not in PLACEMENTS:
        raise ValueError(f"teacher_placement must be one of {', '.join(PLACEMENTS)}; got {placement!r}")


def settled(placement: str, teacher: Any, device: torch.device) -> str:
    """The placement that a teacher gets: what was asked for, or for "auto" what fits.

    Args:
        placement: one of `PLACEMENTS`.
        teacher: a model, an ensemble, a Hub id or a folder.
        device: of the student.
    Raises:
        ValueError: it cannot be had here.
    """
    check_placement(placement)
    models = [] if isinstance(teacher, str | Path) else getattr(teacher, "models", [teacher])
    placed = next((model for model in models if is_placed(model)), None)
    if placement == "replicate" or (placement == "auto" and placed is not None):
        return "replicate"
    if is_deepspeed_zero3_enabled():
        raise ValueError(
            f"teacher_placement={placement!r}: under ZeRO-3 DeepSpeed lays out every model that is loaded. Load the "
            "teacher before making the training arguments, pass the model, and leave teacher_placement at replicate."
        )
    if placed is not None:
        raise ValueError(
            f"teacher_placement={placement!r}: the teacher, a {type(base_model(placed)).__name__}, is quantized or was "
            "placed by a device map, and stays where it is. Leave teacher_placement at replicate, or load it without."
        )
    if placement == "auto":
        fits = (files_bytes(str(teacher)) if not models else parameter_bytes(models)) <= ROOM * free_bytes(device)
        reasons = [_unshardable(model) for model in models]
        others = "shard" if processes() > 1 and not any(reasons) else "offload"
        return "replicate" if fits else others
    if placement == "shard":
        reason = "there is one process" if processes() == 1 else next(filter(None, map(_unshardable, models)), None)
        if reason is not None:
            raise ValueError(
                f"teacher_placement='shard': {reason}. Start several processes with `accelerate launch` or `torchrun`, "
                "or set teacher_placement to offload, which keeps the weights in the machine's memory."
            )
    return placement


def processes() -> int:
    """How many processes compute together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _unshardable(model: Any) -> str | None:
    """Why a model cannot be sharded, in words; None where it can."""
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        return "the teacher has recurrent layers, whose weights torch cannot shard"
    if any(parameter.dim() == 0 for parameter in model.parameters()):
        return "the teacher has parameters that are single numbers, which torch cannot shard"
    return None


def parameter_bytes(models: Iterable[Any]) -> int:
    """Bytes of the parameters of some models, those that are tied counted once."""
    return sum(each.numel() * each.element_size() for model in models for each in model.parameters())


def files_bytes(name: str) -> int:
    """Bytes of the weights' files of a model."""
    return sum(Path(file).stat().st_size for file in weight_files(name))


def free_bytes(device: torch.device) -> int:
    """Bytes of memory that are free where a model would be: for one process, of those that share the machine."""
    if device.type not in ("cpu", "mps"):  # Apple's GPU shares the machine's memory
        return int(torch.accelerator.get_memory_info(device)[0])
    return psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def units(model: nn.Module) -> list[nn.Module]:
    """The layers of a model that are gathered one at a time: the outermost entries of its lists of modules."""
    found: list[nn.Module] = []
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            found += [each for each in child if next(each.parameters(), None) is not None]
        else:
            found += units(child)
    return found


def shard(model: Any, device: torch.device) -> None:
    """Leave a part of each parameter on each process; a layer is gathered while it computes.

    Args:
        model: the same on all processes; its parameters may be on the meta device.
        device: where the parts are.
    """
    mesh = init_device_mesh(device.type, (processes(),))
    model.requires_grad_(False)
    for unit in units(model):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def offload(model: Any, device: torch.device) -> None:
    """Keep the weights in the machine's memory; each is copied to the device while it computes."""
    cpu_offload(model, execution_device=device, offload_buffers=True)
    model.hf_device_map = {"": "cpu"}  # for whoever would move it


def place(model: Any, placement: str, device: torch.device) -> torch.device:
    """Put a teacher where it belongs.

    Args:
        model: of which only a sharded one may be placed already.
        placement: see `settled`.
        device: of the student.
    Returns:
        Where its inputs have to be.
    """
    if placement == "shard" and not isinstance(model, FSDPModule):
        model.to(device)
        shard(model, device)
    elif placement == "offload":
        offload(model, device)
    elif placement == "replicate":
        model.to(device)
    return device


def full_state(model: nn.Module) -> Mapping[str, Any]:
    """The weights of a model by their names, wherever they are; of a sharded one `whole` gives all of each."""
    if hasattr(model, "_hf_hook") and any(parameter.is_meta for parameter in model.parameters()):
        return get_state_dict_offloaded_model(model)
    return model.state_dict()


def whole(tensor: Any) -> Any:
    """All of a tensor of which each process may have a part; all processes ask for the same ones in one order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


# From files


def weight_files(name: str, **options: Any) -> list[str]:
    """The safetensors files of a model, on this machine.

    Args:
        name: a folder, or a Hub id, whose files are downloaded.
        options: `revision` alone is read.
    Raises:
        ValueError: it has none.
    """
    chosen = {"revision": options.get("revision"), "_raise_exceptions_for_missing_entries": False}
    one = cached_file(name, SAFE_WEIGHTS_NAME, **chosen)
    if one is not None:
        return [one]
    index = cached_file(name, SAFE_WEIGHTS_INDEX_NAME, **chosen)
    if index is None:
        raise ValueError(
            f"{name} has no {SAFE_WEIGHTS_NAME}: only safetensors files can be read in parts. Load the model once and "
            "save it with save_pretrained, or set teacher_placement to offload."
        )
    files, _ = get_checkpoint_shard_files(name, index, revision=options.get("revision"))
    return list(files)


def load_sharded(name: str | Path, auto_class: Any, device: torch.device, **options: Any) -> Any:
    """A model of which each process has read its own part alone.

    Args:
        name: a folder or a Hub id.
        auto_class: an `AutoModelFor...` class of the task.
        device: where the parts are.
        options: `revision`, `trust_remote_code` and `dtype`.
    Raises:
        ValueError: the files have other names for the weights than the model, or lack some.
    """
    name = str(name)
    loading = {key: options[key] for key in ("revision", "trust_remote_code") if key in options}
    config = AutoConfig.from_pretrained(name, **loading)
    dtype = options.get("dtype") or config.dtype or torch.float32
    with init_empty_weights(include_buffers=False):
        model = auto_class.from_config(config, dtype=dtype, trust_remote_code=options.get("trust_remote_code", False))
    model.eval()
    model.tie_weights()
    reason = _unshardable(model)
    if reason is not None:
        raise ValueError(f"teacher_placement='shard': {reason}. Set teacher_placement to replicate or offload.")
    aliases: dict[int, list[str]] = {}
    for alias, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(alias)
    names = {each[0]: each for each in aliases.values()}
    buffers = {alias: buffer.clone() for alias, buffer in model.named_buffers()}
    shard(model, device)
    model.to_empty(device=device)
    model.requires_grad_(False)
    for alias, buffer in model.named_buffers():
        buffer.copy_(buffers[alias])
    _read(model, names, weight_files(name, **options), name)
    return model


@torch.no_grad()
def _read(model: Any, names: Mapping[str, list[str]], files: Iterable[str], name: str) -> None:
    """Fill the parts of this process from the files.

    Args:
        model: sharded.
        names: of each parameter, all under which the files may have it.
        files: of the weights.
        name: of the model.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    parameters = dict(model.named_parameters(remove_duplicate=False))
    wanted = {alias: parameters[first] for first, all_names in names.items() for alias in all_names}
    wanted |= {alias: buffer for alias, buffer in model.named_buffers() if alias in model.state_dict()}
    read: set[int] = set()
    for file in files:
        with safe_open(file, framework="pt") as content:
            for key in content.keys():  # noqa: SIM118  it is no dict
                target = wanted.get(key, wanted.get(prefix + key, wanted.get(key.removeprefix(prefix))))
                if target is not None:
                    _copy_part(target, content.get_slice(key), key)
                    read.add(id(target))
    lacking = [first for first in names if id(parameters[first]) not in read]
    if lacking:
        raise ValueError(
            f"{name} has no weights of the names {', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}, which "
            "would be random numbers. Fine-tune it on the task first; or, if its files have names of an older version, "
            "load it once and save it with save_pretrained."
        )


def _copy_part(target: Tensor, source: Any, key: str) -> None:
    if list(source.get_shape()) != list(target.shape):
        raise ValueError(f"{key}: expected a tensor of {list(target.shape)}, got {list(source.get_shape())}.")
    if not isinstance(target, DTensor):
        target.copy_(source[:] if target.dim() else source[...])
        return
    rows, number = target.shape[0], target.device_mesh.get_local_rank()
    part = -(-rows // target.device_mesh.size())  # as torch.chunk cuts them
    start = min(rows, number * part)
    local = target.to_local()
    if len(local):
        local.copy_(source[start : start + len(local)])


def class_name(model: Any) -> str:
    """The name of a model's class, which `fully_shard` replaces by one of its own."""
    return next(each.__name__ for each in type(model).__mro__ if not issubclass(each, FSDPModule))


def is_sharded(teacher: Any) -> bool:
    """Whether any model of a teacher is sharded, so that all processes have to call it together."""
    models = teacher.models if isinstance(teacher, TeacherEnsemble) else [teacher]
    return any(isinstance(model, FSDPModule) for model in models)
