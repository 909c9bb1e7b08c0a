"""File names and onnxruntime sessions."""

import importlib.util
from pathlib import Path
from typing import Any

FOLDER = "onnx"  # where transformers.js and sentence-transformers look
QUANTIZED = "_quantized"
DECODING = "hf_distill.decoding"  # metadata key of the special token ids in a decoder's file


def open_session(file: str | Path, threads: int | None = None) -> Any:
    """An `onnxruntime.InferenceSession` of a file, on the CPU.

    Args:
        file: written by `export_onnx`.
        threads: number of threads. None: onnxruntime's default.
    Raises:
        ImportError: onnxruntime is not installed.
    """
    require_onnx("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def require_onnx(*packages: str) -> None:
    """Raise an ImportError with the pip command if one of these packages is not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"ONNX files need {' and '.join(missing)}, not installed here. Run: pip install 'hf-distill[onnx]'"
        )
