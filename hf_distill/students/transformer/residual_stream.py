"""The principal components of a teacher's residual stream."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Stream:
    """A projection of a teacher's residual stream onto fewer directions.

    Attributes:
        directions: (teacher width, student width), orthonormal.
        ratios: name of a LayerNorm to the ratio of a token's standard deviation over the units after the projection to
            that before it.
    """

    directions: Tensor
    ratios: dict[str, float]

    def narrowed(self, name: str, weight: Tensor, dimension: int) -> Tensor:
        """A weight with one of its dimensions projected.

        A LayerNorm scales single units, so its projection is approximate: its gains become the diagonal of the
        projected gain matrix, times the ratio of the standard deviations that it divides by.

        Args:
            name: of the weight.
            weight: the teacher's.
            dimension: the one that holds the units of the stream.
        """
        path, _, leaf = name.rpartition(".")
        values = weight.double()
        if leaf == "weight" and path in self.ratios:
            values = self.directions.square().T @ values * self.ratios[path]
        else:
            values = (values.movedim(dimension, -1) @ self.directions).movedim(-1, dimension)
        return values.to(weight.dtype)


def principal_stream(teacher: PreTrainedModel, size: int, kept: set[str]) -> Stream:
    """The principal directions of the LayerNorms' outputs on random tokens.

    No text is needed: on the benchmark's tweets, random tokens give as good an initialisation as real texts.

    Args:
        teacher: of a family with `post_norm`.
        size: width of the student's stream.
        kept: names of the teacher's weights that the student keeps; only their LayerNorms count, with equal weight.
    """
    norms = {name: module for name, module in teacher.named_modules() if isinstance(module, nn.LayerNorm)}
    norms = {name: module for name, module in norms.items() if f"{name}.weight" in kept}
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def record(name: str, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        inputs[name], outputs[name] = (
            states.detach().cpu().double().flatten(0, -2) for states in (arguments[0], output)
        )

    hooks = [
        module.register_forward_hook(lambda _, arguments, output, name=name: record(name, arguments, output))
        for name, module in norms.items()
    ]
    training = [module for module in teacher.modules() if module.training]
    try:
        for module in training:
            module.training = False
        teacher.base_model(input_ids=random_tokens(teacher).to(teacher.device))
    finally:
        for module in training:
            module.training = True
        for hook in hooks:
            hook.remove()
    moments = sum(states.T @ states / states.square().sum() for states in outputs.values())
    directions = torch.linalg.eigh(cast(Tensor, moments)).eigenvectors.flip(1)[:, :size]
    # The sign of a direction is arbitrary; the largest entry is made positive so that every run gives the same result.
    directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    ratios = {
        name: ((states @ directions).std(1, correction=0) / states.std(1, correction=0)).mean().item()
        for name, states in inputs.items()
    }
    return Stream(directions, ratios)


def random_tokens(teacher: PreTrainedModel, texts: int = 256, length: int = 24) -> Tensor:
    """(texts, length) random token ids without padding, the same in every call."""
    length = min(length, teacher.config.max_position_embeddings // 2)
    ids = torch.randint(teacher.config.vocab_size - 1, (texts, length), generator=torch.Generator().manual_seed(0))
    padding = teacher.config.pad_token_id
    return ids if padding is None else ids + (ids >= padding)
