"""The size of a Transformer student."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast


@dataclass(frozen=True)
class TransformerStudentConfig:
    """The size of a Transformer student; a field that is None keeps the teacher's value.

    Args:
        num_hidden_layers: number of layers; for an encoder-decoder one number for both, or a pair of numbers.
        hidden_size: width of the residual stream. In families where it is divided among the heads (such as BERT, BART
            and GPT-2), heads keep their size and their number follows.
        intermediate_size: width of the feed-forward layers.
        num_attention_heads: number of heads, each as wide as the teacher's. Key-value heads shrink in proportion.
        layers: which of the teacher's layers: "uniform" (evenly spaced, the first and the last included), "first",
            "last", or their indices in ascending order.
    Raises:
        ValueError: a size is not a positive integer, or the layers are not indices in ascending order that agree with
            num_hidden_layers.

    >>> TransformerStudentConfig(layers=[0, 3, 5]).num_hidden_layers
    3
    """

    num_hidden_layers: int | Sequence[int] | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_attention_heads: int | None = None
    layers: Literal["uniform", "first", "last"] | Sequence[int] = "uniform"

    def __post_init__(self) -> None:
        for name in ("hidden_size", "intermediate_size", "num_attention_heads"):
            size = getattr(self, name)
            if size is not None and (not isinstance(size, int) or size < 1):
                raise ValueError(f"{name} must be a positive integer, or None for the teacher's, got {size!r}.")
        counts = [self.num_hidden_layers] if isinstance(self.num_hidden_layers, int) else self.num_hidden_layers or []
        if any(not isinstance(count, int) or count < 1 for count in counts) or len(counts) > 2:
            raise ValueError(
                "num_hidden_layers must be a positive integer, a pair of them for an encoder and a decoder, or None "
                f"for the teacher's, got {self.num_hidden_layers!r}."
            )
        if isinstance(self.layers, str):
            if self.layers not in ("uniform", "first", "last"):
                raise ValueError(
                    f'layers must be "uniform", "first", "last" or a list of indices, got {self.layers!r}.'
                )
            return
        indices = list(self.layers)
        if not indices or indices != sorted(set(indices)) or indices[0] < 0:
            raise ValueError(
                f"layers must be indices from 0, each once and in ascending order, got {indices}: each layer was "
                "trained on the output of the layers before it."
            )
        if any(count != len(indices) for count in counts):
            raise ValueError(
                f"layers lists {len(indices)} of the teacher's layers, but num_hidden_layers is "
                f"{self.num_hidden_layers}. Leave one of the two out."
            )
        object.__setattr__(self, "num_hidden_layers", len(indices))

    def choose_layers(self, stack: int, teacher_layers: int) -> list[int]:
        """The teacher's layers to keep in one stack, 0 the encoder (or the only one) and 1 the decoder."""
        if not isinstance(self.layers, str):
            return list(self.layers)
        if self.num_hidden_layers is None:
            return list(range(teacher_layers))
        several = not isinstance(self.num_hidden_layers, int)
        count = cast(Sequence[int], self.num_hidden_layers)[stack] if several else cast(int, self.num_hidden_layers)
        if self.layers == "uniform":
            return evenly_spaced(count, teacher_layers)
        return list(range(count)) if self.layers == "first" else list(range(teacher_layers - count, teacher_layers))


def evenly_spaced(count: int, of: int) -> list[int]:
    """The indices of `count` evenly spaced layers out of `of`; the first, and from two on the last, are included.

    >>> evenly_spaced(3, 12), evenly_spaced(1, 12)
    ([0, 6, 11], [0])
    """
    return [round(index * (of - 1) / max(count - 1, 1)) for index in range(count)]


def check_within(name: str, size: int, teacher_size: int) -> None:
    """Raise a ValueError if a size of the student exceeds the teacher's."""
    if size > teacher_size:
        raise ValueError(
            f"Expected {name} of at most {teacher_size}, the teacher's, got {size}: all weights are taken from the "
            f"teacher. Set {name} to {teacher_size} or less."
        )
