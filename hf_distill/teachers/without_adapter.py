"""The model under a student's adapters, as the student's teacher."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class WithoutAdapter(nn.Module):
    """A PEFT model whose adapters are switched off while it is called.

    It lets a student with adapters learn from the very model they were put into, without a second copy of the weights:
    `teacher_model=WithoutAdapter(student)`.

    Args:
        model: a `peft.PeftModel`, the student itself.
    Raises:
        TypeError: a model without adapters.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        if not hasattr(model, "disable_adapter") or not hasattr(model, "get_base_model"):
            raise TypeError(
                f"WithoutAdapter switches the adapters of a PEFT model off, and {type(model).__name__} has none. Pass "
                "the model that get_peft_model returned."
            )
        self.model = model

    @property
    def config(self) -> Any:
        """The config of the model under the adapters."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def hf_device_map(self) -> Mapping[str, Any] | None:
        """Where the parts of the model were placed, if they were."""
        return getattr(self.model, "hf_device_map", None)

    @property
    def is_quantized(self) -> bool:
        """Whether the weights under the adapters are quantized."""
        return bool(getattr(self.model, "is_quantized", False))

    def get_base_model(self) -> Any:
        """The model under the adapters, which names the arguments of the forward."""
        return self.model.get_base_model()

    def forward(self, **inputs: Any) -> Any:
        """The output of the model without its adapters.

        Args:
            inputs: of the model's own forward.
        """
        with self.model.disable_adapter():
            return self.model(**inputs)
