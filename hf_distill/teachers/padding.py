"""The side of padding that a teacher expects: rows are moved to it, and outputs back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# XLNet classifies by its last position, and was trained with padding on the left.
PADDED_ON_THE_LEFT = frozenset({"xlnet"})
OF_POSITIONS = ("logits", "last_hidden_state", "encoder_last_hidden_state", "hidden_states", "encoder_hidden_states")
OF_PAIRS = ("attentions", "encoder_attentions")


def expected_order(mask: Tensor, model_type: str) -> Tensor | None:
    """In which order a row's positions have to be read, so that its padding stands where the model expects it.

    With padding on the right every model counts positions from a row's first token, whether it takes `position_ids` or
    not; the side is read from the mask.

    Args:
        mask: (batch, length), 0 at padding.
        model_type: of the model's config.
    Returns:
        (batch, length) positions, rotated in each row; None where all rows are padded as expected.
    """
    present = (mask != 0).int()
    length = mask.shape[1]
    if model_type in PADDED_ON_THE_LEFT:
        moves = length - present.flip(-1).argmax(dim=-1)  # one behind the last token
        moves = torch.where(present.any(dim=-1), moves % length, 0)
    else:
        moves = present.argmax(dim=-1)
    if not moves.any():
        return None
    return (torch.arange(length, device=mask.device) + moves.unsqueeze(-1)) % length


def moved(inputs: Mapping[str, Any], order: Tensor) -> dict[str, Any]:
    """The inputs with the positions of each row in another order.

    Args:
        inputs: of a model; those of a decoder stay.
        order: (batch, length), see `expected_order`.
    """
    return {
        name: _gathered(value, order, 1)
        if isinstance(value, Tensor) and value.shape[:2] == order.shape and not name.startswith("decoder_")
        else value
        for name, value in inputs.items()
    }


def moved_back(output: Any, order: Tensor, encoder_decoder: bool) -> Any:
    """A model's output with its positions where the inputs had them before `moved`.

    Args:
        output: a mapping, changed in place.
        order: (batch, length), see `expected_order`.
        encoder_decoder: whether logits are at the positions of a decoder, which were not moved.
    """
    back = order.argsort(dim=-1)
    kept = ("logits", "last_hidden_state") if encoder_decoder else ()
    for name in (*OF_POSITIONS, *OF_PAIRS, "cross_attentions"):
        value = output.get(name)
        if value is None or name in kept:
            continue
        axes = {"cross_attentions": (3,)}.get(name, (2, 3) if name in OF_PAIRS else (1,))
        if isinstance(value, Tensor):
            output[name] = _all_gathered(value, back, axes)
        else:
            output[name] = tuple(_all_gathered(each, back, axes) for each in value)
    return output


def _all_gathered(value: Tensor, order: Tensor, axes: tuple[int, ...]) -> Tensor:
    # Outputs of other lengths, or of none as the logits of a classifier, are not of these positions.
    for axis in axes:
        if value.dim() > max(axis, 2) and value.shape[axis] == order.shape[1]:
            value = _gathered(value, order, axis)
    return value


def _gathered(value: Tensor, order: Tensor, axis: int) -> Tensor:
    shape = [1] * value.dim()
    shape[0], shape[axis] = order.shape
    wide = list(value.shape)
    return value.gather(axis, order.to(value.device).view(shape).expand(wide))
