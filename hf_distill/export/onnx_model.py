"""An ONNX file that `export_onnx` wrote, as a model beside others: asked, scored and timed like them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill.export.session import FOLDER, QUANTIZED, open_session

KINDS = {"float32": "model", "int8": f"model{QUANTIZED}"}


class OnnxModel(nn.Module):
    """A classifier or tagger run by onnxruntime on the processor, with as many threads as torch has.

    Args:
        file: with the inputs of a model and the output `logits`.
        config: of the model that it was made from.
    """

    def __init__(self, file: str | Path, config: Any) -> None:
        super().__init__()
        self.file = Path(file)
        self.config = config
        self.session = open_session(file, torch.get_num_threads())
        self.names = [put.name for put in self.session.get_inputs()]
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # where a reader sees that inputs go to the CPU

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
    """The exported files of a student, by kind: `float32`, and `int8` where there is one.

    Args:
        folder: that `export_onnx` wrote to.
        config: the student's.
    Raises:
        ImportError: onnxruntime is missing.
        ValueError: there is no such file.
    """
    files = {kind: Path(folder) / FOLDER / f"{stem}.onnx" for kind, stem in KINDS.items()}
    if not any(file.exists() for file in files.values()):
        raise ValueError(
            f"Expected {' or '.join(str(file) for file in files.values())}, and neither is there. Write them with "
            f"export_onnx(student, {str(folder)!r}), or leave them out of the comparison."
        )
    return {kind: OnnxModel(file, config) for kind, file in files.items() if file.exists()}
