"""What a model costs: parameters, bytes and operations."""

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from hf_distill.teachers.ensemble import TeacherEnsemble


def count_flops(call: Callable[[Any], Any], inputs: Any) -> int:
    """The operations of the matrix products in one call; a multiplication and an addition are two.

    Torch's counter knows linear layers, products and convolutions, but on a processor neither its recurrent layers nor
    its attention. These are counted by formulas: a recurrent layer does twice as many operations a position as its
    weight matrices have numbers, and attention 2 · queries · keys · (size of a key + size of a value) a head. What is
    done number by number (activations, normalisation, softmax) and reading an embedding are left out.

    Args:
        call: of a model: a `Predictor` within its `ready`, or one that writes.
        inputs: what it reads.
    """
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        call(inputs)
    return int(counter.get_total_flops())


def _of_recurrence(text: Sequence[int], *shapes: Any, out_val: Any = None, **rest: Any) -> int:
    """Of a recurrent layer in all its directions.

    Args:
        text: (..., size), or (positions, size) where it is packed.
        shapes: among them those of all its weights: matrices, and biases, which are not counted.
        out_val: not read.
        rest: not read.
    """
    weights = [shape for part in shapes if isinstance(part, list | tuple) for shape in part]
    matrices = [shape for shape in weights if isinstance(shape, torch.Size) and len(shape) == 2]
    return 2 * math.prod(text[:-1]) * sum(map(math.prod, matrices))


def _of_attention(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *rest: Any, out_val: Any = None, **options: Any
) -> int:
    """Of attention, whichever kernel computes it.

    Args:
        query: (..., heads, queries, size).
        key: (..., keys, size).
        value: (..., keys, size of a value).
        rest: not read.
        out_val: not read.
        options: not read.
    """
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


_aten = torch.ops.aten
# Each under its overloads, so that they are not taken apart into kernels that are not counted, and under its own name,
# by which the counter looks for a formula. In inference mode they reach it whole (seen with torch 2.13).
FORMULAS: dict[Any, Any] = {
    _aten.scaled_dot_product_attention: _of_attention,
    _aten.scaled_dot_product_attention.default: _of_attention,
    **{
        each: _of_recurrence
        for layer in (_aten.lstm, _aten.gru, _aten.rnn_tanh, _aten.rnn_relu)
        for each in (layer, layer.input, layer.data)
    },
}


def count_parameters(model: nn.Module | TeacherEnsemble) -> int:
    """Parameters of a model, tied ones once; of an ensemble, of all its members."""
    members = model.models if isinstance(model, TeacherEnsemble) else [model]
    return sum(parameter.numel() for member in members for parameter in member.parameters())


def weights_bytes(model: nn.Module | TeacherEnsemble) -> int:
    """Size of the safetensors files that `save_pretrained` writes.

    Args:
        model: models that are no `PreTrainedModel` (an adapter would save only itself) are counted by their tensors.
    """
    if isinstance(model, TeacherEnsemble):
        return sum(weights_bytes(member) for member in model.models)
    if not isinstance(model, PreTrainedModel):
        return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
