"""Files and sessions of onnxruntime."""

import importlib.util
from pathlib import Path
from typing import Any

FOLDER = "onnx"  # where transformers.js and sentence-transformers look
QUANTIZED = "_quantized"
DECODING = "hf_distill.decoding"  # key of the token ids that a decoder's file carries


def open_session(file: str | Path, threads: int | None = None) -> Any:
    """An `onnxruntime.InferenceSession` of a file, on the processor.

    Args:
        file: that `export_onnx` wrote.
        threads: that it may use. None: onnxruntime's choice.
    Raises:
        ImportError: onnxruntime is missing.
    """
    require_onnx("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def require_onnx(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"ONNX files need {' and '.join(missing)}, not installed here. Run: pip install 'hf-distill[onnx]'"
        )
