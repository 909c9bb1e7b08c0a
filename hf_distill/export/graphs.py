"""The parts of a student that are exported, each as a module with tensor inputs and outputs."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_distill.export.session import DECODING
from hf_distill.models import base_model, forward_arguments
from hf_distill.problems import task_of
from hf_distill.students.lstm.modeling_lstm import LSTMState, LSTMStudentForSeq2SeqLM

LARGEST = 2**31  # maximum bytes of a protobuf file


@dataclass(frozen=True)
class Graph:
    """The content of one ONNX file.

    Attributes:
        module: takes the inputs by position and returns a tuple of the outputs.
        inputs: input name to its dynamic axes, each an axis number to its name.
        outputs: the same for the outputs.
        example: makes random inputs by name, from a batch size, a length and whether to pad on the left.
        metadata: names and texts to store in the file.
    """

    module: nn.Module
    inputs: Mapping[str, Mapping[int, str]]
    outputs: Mapping[str, Mapping[int, str]]
    example: Callable[[int, int, bool], dict[str, Tensor]]
    metadata: Mapping[str, str]


class Classifier(nn.Module):
    """A classifier or tagger that takes its inputs by position."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        """The logits, (batch, classes) or (batch, length, classes)."""
        return (self.model(**dict(zip(self.names, inputs, strict=True)), return_dict=True).logits,)


class TranslatorEncoder(nn.Module):
    """The part of an LSTM translator that runs once per source text."""

    def __init__(self, model: LSTMStudentForSeq2SeqLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, length, size) states; (batch, layers, hidden_size) initial hidden and cell of the decoder."""
        config = self.model.config
        encoded = self.model.lstm(input_ids, attention_mask, return_dict=True)
        start = self.model.bridge(encoded.pooler_output).tanh()
        hidden, cell = start.unflatten(-1, (2, config.num_layers, config.hidden_size)).unbind(1)
        return encoded.last_hidden_state, hidden, cell


class TranslatorStep(nn.Module):
    """The part of an LSTM translator that runs once per target token."""

    def __init__(self, model: LSTMStudentForSeq2SeqLM) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, decoder_input_ids: Tensor, source: Tensor, attention_mask: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, 1, vocabulary) logits of the next token, and the next hidden and cell."""
        outputs = self.model(
            decoder_input_ids=decoder_input_ids,
            encoder_outputs=BaseModelOutputWithPooling(last_hidden_state=source),
            attention_mask=attention_mask,
            cache_params=LSTMState(hidden, cell),
            use_cache=True,
            return_dict=True,
        )
        return outputs.logits, outputs.cache_params.hidden, outputs.cache_params.cell


def graphs_of(student: nn.Module) -> dict[str, Graph]:
    """The ONNX graphs of a model, by file name without extension.

    Args:
        student: a model with a supported head; it is not changed.
    Raises:
        ValueError: the model cannot be exported.
    """
    base = base_model(student)
    kind = type(base).__name__
    if not isinstance(base, PreTrainedModel):
        raise ValueError(f"Expected a transformers model, got {kind}. Export the members of an ensemble one by one.")
    translates = isinstance(base, LSTMStudentForSeq2SeqLM)
    if not translates and task_of(base).name not in ("text-classification", "token-classification"):
        raise ValueError(
            f"There is no ONNX export for {kind}: expected a model for sequence or token classification, or an "
            "LSTMStudentForSeq2SeqLM. For generative Transformers use `optimum-cli export onnx`."
        )
    if getattr(base, "is_quantized", False):
        raise ValueError(
            f"This {kind} is quantised, and its layers have no ONNX operators. Load it without "
            "quantization_config; int8=True then writes a quantised file."
        )
    if len(set((getattr(base, "hf_device_map", None) or {}).values())) > 1:
        raise ValueError(
            f"This {kind} is spread over several devices: {base.hf_device_map}. Load it without device_map."
        )
    size = 4 * sum(parameter.numel() for parameter in base.parameters())
    if size > LARGEST:
        raise ValueError(
            f"This {kind} has {size / 1e9:.1f} GB of float32 weights, and an ONNX file holds at most "
            f"{LARGEST / 1e9:.1f} GB. Export the student, or use `optimum-cli export onnx`."
        )
    model = _exact_copy(student)
    return _translator(model) if translates else {"model": _classifier(model)}


def _exact_copy(student: nn.Module) -> Any:
    """A copy in float32 on the CPU, in evaluation mode, without adapters."""
    copied: Any = copy.deepcopy(student)
    if hasattr(copied, "merge_and_unload"):
        copied = copied.merge_and_unload()
    # Mixed precision training replaces the forward of an instance by a wrapper that still runs the original.
    vars(copied).pop("forward", None)
    return copied.to(device="cpu", dtype=torch.float32).eval()


def _classifier(model: PreTrainedModel) -> Graph:
    names = ["input_ids", "attention_mask"]
    # LSTM students and RoBERTa accept token_type_ids too, but ignore them.
    segments = getattr(model.config, "type_vocab_size", 0) or 0
    if segments > 1 and "token_type_ids" in forward_arguments(model):
        names.append("token_type_ids")
    text = {0: "batch", 1: "length"}

    def example(batch: int, length: int, left: bool) -> dict[str, Tensor]:
        inputs = _random_texts(model.config, batch, length, left)
        inputs["token_type_ids"] = torch.arange(inputs["input_ids"].numel()).view_as(inputs["input_ids"]) % 2
        return {name: inputs[name] for name in names}

    return Graph(
        module=Classifier(model, names).eval(),
        inputs=dict.fromkeys(names, text),
        outputs={"logits": text if task_of(model).per_position else {0: "batch"}},
        example=example,
        metadata={},
    )


def _translator(model: LSTMStudentForSeq2SeqLM) -> dict[str, Graph]:
    config, batch, source = model.config, {0: "batch"}, {0: "batch", 1: "length"}
    ids = {"start": config.decoder_start_token_id, "end": config.eos_token_id, "pad": config.pad_token_id}
    encoder, step = TranslatorEncoder(model).eval(), TranslatorStep(model).eval()

    def step_example(rows: int, length: int, left: bool) -> dict[str, Tensor]:
        texts = _random_texts(config, rows, length, left)
        with torch.no_grad():
            states, hidden, cell = encoder(**texts)
        return {
            "decoder_input_ids": texts["input_ids"][:, :1],
            "encoder_hidden_states": states,
            "encoder_attention_mask": texts["attention_mask"],
            "hidden": hidden,
            "cell": cell,
        }

    return {
        "encoder_model": Graph(
            module=encoder,
            inputs={"input_ids": source, "attention_mask": source},
            outputs={"encoder_hidden_states": source, "hidden": batch, "cell": batch},
            example=lambda rows, length, left: _random_texts(config, rows, length, left),
            metadata={},
        ),
        "decoder_model": Graph(
            module=step,
            inputs={
                "decoder_input_ids": batch,
                "encoder_hidden_states": source,
                "encoder_attention_mask": source,
                "hidden": batch,
                "cell": batch,
            },
            outputs={"logits": batch, "next_hidden": batch, "next_cell": batch},
            example=step_example,
            metadata={DECODING: json.dumps(ids)},
        ),
    }


def _random_texts(config: Any, batch: int, length: int, left: bool) -> dict[str, Tensor]:
    """(batch, length) input_ids and attention_mask: the first row is full, the others are padded."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions:
        length = max(1, min(length, positions - 2))  # RoBERTa does not use its first two positions
    # A separate generator: an export must not change torch's random state.
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    input_ids = torch.randint(config.vocab_size, (batch, length), generator=generator)
    lengths = torch.randint(1, length + 1, (batch, 1), generator=generator)
    lengths[0] = length
    attention_mask = (torch.arange(length) < lengths).long()
    if left:
        attention_mask = attention_mask.flip(1)
    pad = getattr(config, "pad_token_id", None) or 0
    return {"input_ids": input_ids.masked_fill(attention_mask == 0, pad), "attention_mask": attention_mask}
