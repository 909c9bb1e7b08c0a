"""The principal directions of a teacher's residual stream."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Stream:
    """The residual stream of a teacher, turned onto fewer directions.

    Attributes:
        directions: (teacher width, student width), orthonormal.
        ratios: by the name of a LayerNorm, how much larger a token's deviation over the units is afterwards.
    """

    directions: Tensor
    ratios: dict[str, float]

    def narrowed(self, name: str, weight: Tensor, dimension: int) -> Tensor:
        """A weight with one of its dimensions turned.

        A LayerNorm scales single units and cannot be turned exactly: its gains become the diagonal of what they would
        be, times how much more it divides by than before.
        """
        path, _, leaf = name.rpartition(".")
        values = weight.double()
        if leaf == "weight" and path in self.ratios:
            values = self.directions.square().T @ values * self.ratios[path]
        else:
            values = (values.movedim(dimension, -1) @ self.directions).movedim(-1, dimension)
        return values.to(weight.dtype)


def principal_stream(teacher: PreTrainedModel, size: int, kept: set[str]) -> Stream:
    """The directions in which what the LayerNorms leave is largest, on random tokens.

    No text is needed: on the tweets of the benchmark random tokens give as good a start as real ones.

    Args:
        teacher: of a family with `post_norm`.
        size: of the student's stream.
        kept: names of the teacher's weights that the student has, whose LayerNorms count, each the same.
    """
    norms = {name: module for name, module in teacher.named_modules() if isinstance(module, nn.LayerNorm)}
    norms = {name: module for name, module in norms.items() if f"{name}.weight" in kept}
    read: dict[str, Tensor] = {}
    left: dict[str, Tensor] = {}

    def note(name: str, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        read[name], left[name] = (states.detach().cpu().double().flatten(0, -2) for states in (arguments[0], output))

    hooks = [
        module.register_forward_hook(lambda _, arguments, output, name=name: note(name, arguments, output))
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
    moments = sum(states.T @ states / states.square().sum() for states in left.values())
    directions = torch.linalg.eigh(cast(Tensor, moments)).eigenvectors.flip(1)[:, :size]
    # A direction and its opposite are both right; the largest entry is made positive so that every run says the same.
    directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    ratios = {
        name: ((states @ directions).std(1, correction=0) / states.std(1, correction=0)).mean().item()
        for name, states in read.items()
    }
    return Stream(directions, ratios)


def random_tokens(teacher: PreTrainedModel, texts: int = 256, length: int = 24) -> Tensor:
    """(texts, length) token ids, the same every time, none of them padding."""
    length = min(length, teacher.config.max_position_embeddings // 2)
    ids = torch.randint(teacher.config.vocab_size - 1, (texts, length), generator=torch.Generator().manual_seed(0))
    padding = teacher.config.pad_token_id
    return ids if padding is None else ids + (ids >= padding)
