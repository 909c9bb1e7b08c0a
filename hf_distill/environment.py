"""The hardware and the packages of this machine."""

import platform
import sys
from pathlib import Path
from typing import Any

import torch
import transformers


def accelerator() -> torch.device | None:
    """The device of this process beside its processor: a GPU of any make; None where there is none."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


def has_fast_bf16() -> bool:
    """Whether bfloat16 is fast here: the accelerator supports it, or the processor has instructions for it."""
    kind = accelerator()
    if kind is not None:
        supported = getattr(torch.get_device_module(kind), "is_bf16_supported", None)
        return supported is not None and bool(supported())  # Apple's GPU has no such function
    # The check that torch's own compiler uses; the public list of capabilities is missing before torch 2.13.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def peak_memory() -> int:
    """Peak memory of this process so far, in bytes; 0 where the system does not report it."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def environment(device: torch.device) -> dict[str, Any]:
    """What measured speeds depend on: processor, threads and versions. Nothing identifies this machine or its user.

    Args:
        device: the device that the models ran on.
    Returns:
        Names to plain values, as `report.json` holds them under `environment`.
    """
    described: dict[str, Any] = {
        "machine": platform.machine(),
        "processor": _processor(),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if device.type != "cpu":
        described["accelerator"] = _device_name(device)
        described["peak_device_memory_bytes"] = torch.accelerator.max_memory_allocated(device)
    if peak_memory():
        described["peak_memory_bytes"] = peak_memory()
    return described


def summary(bf16: bool) -> str:
    """Device and versions, in one line.

    Args:
        bf16: whether bfloat16 is used.
    """
    from hf_distill import __version__

    where = f"{torch.get_num_threads()} threads of the processor"
    device = accelerator()
    if device is not None:
        count = torch.accelerator.device_count()
        where = _device_name(device) + (f" and {count - 1} more" if count > 1 else "")
    number = "bfloat16" if bf16 else "float32"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{where}, {number}; hf_distill {__version__}, {versions}, Python {platform.python_version()}"


def _device_name(device: torch.device) -> str:
    """What the maker calls a device, where its module tells; else its type."""
    named = getattr(torch.get_device_module(device), "get_device_name", None)
    return device.type if named is None else str(named(device))


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def optional(module: str, extra: str) -> Any:
    """Import a module of a package that only an extra of hf-distill installs.

    Args:
        module: its full name.
        extra: the name of the extra.
    Raises:
        ImportError: the package is not installed. The message has the pip command.
    """
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"This needs {package}, which is not installed. Run: pip install 'hf-distill[{extra}]'"
        ) from error
