"""An ONNX file of `export_onnx` as a module, so that it can be evaluated and timed like other models."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill.export.session import FOLDER, QUANTIZED, open_session

KINDS = {"float32": "model", "int8": f"model{QUANTIZED}"}


class OnnxModel(nn.Module):
    """A classifier or tagger that onnxruntime runs on the CPU, with as many threads as torch has.

    Args:
        file: an ONNX file with the inputs of a classifier and the output `logits`.
        config: the config of the exported model.
    """

    def __init__(self, file: str | Path, config: Any) -> None:
        super().__init__()
        self.file = Path(file)
        self.config = config
        self.session = open_session(file, torch.get_num_threads())
        self.names = [argument.name for argument in self.session.get_inputs()]
        # Predictors move inputs to the device of the first parameter: the CPU.
        self.device_marker = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The `logits`, (batch, classes) or (batch, length, classes).

        Args:
            input_ids: (batch, length).
            attention_mask: (batch, length).
            token_type_ids: (batch, length). None: zeros.
        """
        segments = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": segments}
        (logits,) = self.session.run(["logits"], {name: given[name].cpu().numpy() for name in self.names})
        return {"logits": torch.from_numpy(logits)}


def onnx_models(folder: str | Path, config: Any) -> dict[str, OnnxModel]:
    """The exported models of a student: `float32`, and `int8` if it exists.

    Args:
        folder: the one that `export_onnx` wrote.
        config: the student's.
    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: there is no exported file.
    """
    files = {kind: Path(folder) / FOLDER / f"{stem}.onnx" for kind, stem in KINDS.items()}
    if not any(file.exists() for file in files.values()):
        raise ValueError(
            f"Expected {' or '.join(str(file) for file in files.values())}, and neither exists. Write them with "
            f"export_onnx(student, {str(folder)!r}), or compare without ONNX."
        )
    return {kind: OnnxModel(file, config) for kind, file in files.items() if file.exists()}
