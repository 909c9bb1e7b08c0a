"""The base class of all matchings: the states of two models, the items that are compared, and the layers.

The granularity of a matching defines its items: positions ("token"); words, the mean over their pieces ("word", for two
tokenizers); or examples, the mean over their positions ("sequence").
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class States:
    """The states of one model on a batch.

    Attributes:
        hidden: one (batch, length, width) per layer; 0 is the embeddings.
        mask: (batch, length) bool, the positions that are not padding.
        attentions: one (batch, heads, length, length) per layer, without the embeddings.
        word_starts: (batch, length) int: 1 at a word's first piece, 0 at its other pieces, -100 at special tokens and
            padding.
        logits: (batch, classes) or (batch, length, classes).
    """

    hidden: tuple[Tensor, ...]
    mask: Tensor
    attentions: tuple[Tensor, ...] | None = None
    word_starts: Tensor | None = None
    logits: Tensor | None = None


@dataclass(frozen=True)
class Items:
    """The values of one matching on one batch, unreduced.

    Attributes:
        values: (items,), the loss of each counted item, averaged over the pairs of layers.
        rows: (items,), the example each item belongs to.
        logged: name to (items,), detached; averaged in the same way as the values.
    """

    values: Tensor
    rows: Tensor
    logged: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Alignment:
    """How the positions of two models correspond on a batch.

    Attributes:
        keep: (batch, units) bool, the units that are items.
        teacher: the teacher's states.
        teacher_members: the teacher's positions in each unit, as `_members` returns them.
        progress: the share of training that is over, 0 to 1.
    """

    keep: Tensor
    teacher: States
    teacher_members: Tensor | None
    progress: float


class Matching(nn.Module):
    """The base of the five matchings: their layers, their items, and the average over pairs of layers.

    A subclass defines how two layers are compared (`_compare`) and the parameters for it (`_create`).

    Args:
        layers: student layer to teacher layer; 0 is the embeddings, negative counts from the end.
        weight: in the objective, >= 0.
        granularity: "token", "word" or "sequence".
        name: logged as `<name>_loss`; None: the kind of matching.
    Raises:
        ValueError: no layers, layers that are not whole numbers, a negative weight, an unknown granularity.
    """

    kind: str
    granularities: tuple[str, ...] = ("token", "word", "sequence")
    learning_rate: float | None = None
    """Of `paced_parameters`; None: the trainer's."""

    def __init__(
        self, layers: Mapping[int, int], weight: float = 1.0, granularity: str = "token", name: str | None = None
    ) -> None:
        super().__init__()
        numbers = [*layers, *layers.values()] if isinstance(layers, Mapping) else []
        if not numbers or any(type(number) is not int for number in numbers):
            raise ValueError(
                "layers must map student layers to teacher layers by whole numbers, {2: 6, -1: -1} for instance (0 is "
                f"the embeddings, -1 the last layer); got {layers!r}."
            )
        if not 0 <= weight < math.inf:
            raise ValueError(
                "weight must be a finite number >= 0, or the student would be pushed away from the teacher; got "
                f"{weight}."
            )
        if granularity not in self.granularities:
            raise ValueError(self._refusal(granularity))
        self.layers = dict(layers)
        self.weight = weight
        self.granularity = granularity
        self.name = self.kind if name is None else name
        self.pairs: list[tuple[int, int]] = []
        self._built_for: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def _refusal(self, granularity: str) -> str:
        return f"granularity must be one of {', '.join(map(repr, self.granularities))}; got {granularity!r}."

    # Building

    def build(
        self, student_widths: Sequence[int], teacher_widths: Sequence[int], *, teacher: States, student: States
    ) -> None:
        """Resolve the layers and make the parameters. Call it before making the optimizer.

        The parameters are drawn from torch's generator. A second call with models of the same widths keeps them.

        Args:
            student_widths: of each of the student's hidden states.
            teacher_widths: of each of the teacher's.
            teacher: its states on a real batch; variances are initialised from them.
            student: its states on the same batch.
        Raises:
            ValueError: a layer that does not exist, states that cannot be compared, or models of other widths than in
                an earlier call.
        """
        widths = (tuple(student_widths), tuple(teacher_widths))
        if self._built_for is not None and self._built_for != widths:
            raise ValueError(
                f"{self.name}: built for a student of widths {self._built_for[0]} and a teacher of {self._built_for[1]}"
                f", now called with widths {widths[0]} and {widths[1]}. Its parameters do not fit these models: make a "
                "new one."
            )
        self.pairs = [
            (
                self._resolve(student_layer, self._available(student, "student"), "student"),
                self._resolve(teacher_layer, self._available(teacher, "teacher"), "teacher"),
            )
            for student_layer, teacher_layer in self.layers.items()
        ]
        self.counted(student.mask, student.word_starts, teacher.mask, teacher.word_starts)
        if self._built_for is None:
            pair_widths = [
                (widths[0][student_layer], widths[1][teacher_layer]) for student_layer, teacher_layer in self.pairs
            ]
            with torch.no_grad(), torch.autocast(student.mask.device.type, enabled=False):
                self._create(pair_widths, student, teacher)
            self._built_for = widths

    def _resolve(self, layer: int, available: int, side: str) -> int:
        resolved = layer + available if layer < 0 else layer
        if not 0 <= resolved < available:
            raise ValueError(
                f"{self.name}: the {side} has no layer {layer}. It has {available} states, 0 (the embeddings) to "
                f"{available - 1}, or -{available} to -1 from the end."
            )
        return resolved

    def _available(self, states: States, side: str) -> int:
        return len(states.hidden)

    def _create(self, widths: list[tuple[int, int]], student: States, teacher: States) -> None:
        """Make the parameters, from the widths of each pair of layers and the models' states on one batch."""

    def paced_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that are trained at `learning_rate` instead of the trainer's."""
        return self.parameters()

    # Items

    def counted(
        self, mask: Tensor, word_starts: Tensor | None, teacher_mask: Tensor, teacher_word_starts: Tensor | None
    ) -> Tensor:
        """The number of items of each example, computed from the inputs alone.

        Args:
            mask: (batch, length), the student's positions that are not padding.
            word_starts: (batch, length), see `States`.
            teacher_mask: (batch, teacher length).
            teacher_word_starts: (batch, teacher length).
        Returns:
            (batch,) int. "token": the positions. "word": the words that both sides hold, so the smaller number if one
            side was truncated. "sequence": 1 for an example that is not empty on either side.
        Raises:
            ValueError: "token" with different tokens on the two sides, or "word" without the word columns.
        """
        mask, teacher_mask = mask.bool(), teacher_mask.bool()
        if self.granularity == "sequence":
            return (mask.any(-1) & teacher_mask.any(-1)).long()
        if self.granularity == "token":
            self._check_same_tokens(mask, word_starts, teacher_mask, teacher_word_starts)
            return mask.sum(-1)
        if word_starts is None or teacher_word_starts is None:
            missing = [
                name
                for name, column in (("word_starts", word_starts), ("teacher_word_starts", teacher_word_starts))
                if column is None
            ]
            raise ValueError(
                f'{self.name}: granularity="word" needs to know where words start on both sides, and there is no '
                f"{' and no '.join(missing)}. Add the columns (1 at a word's first piece, 0 at its other pieces, "
                '-100 at special tokens), or use granularity="sequence".'
            )
        words = ((word_starts == 1) & mask).sum(-1)
        return torch.minimum(words, ((teacher_word_starts == 1) & teacher_mask).sum(-1))

    def _check_same_tokens(
        self, mask: Tensor, word_starts: Tensor | None, teacher_mask: Tensor, teacher_word_starts: Tensor | None
    ) -> None:
        same = torch.equal(mask, teacher_mask)
        if same and word_starts is not None and teacher_word_starts is not None:
            # Rows that both sides truncate to one length have equal masks, even with different tokenizers.
            same = torch.equal(word_starts == 1, teacher_word_starts == 1)
        if not same:
            others = " or ".join(f'granularity="{other}"' for other in self.granularities if other != "token")
            raise ValueError(
                f'{self.name}: granularity="token" compares position by position, but student and teacher have '
                f"different tokens: {tuple(mask.shape)} positions with {mask.sum(-1).tolist()} unmasked against "
                f"{tuple(teacher_mask.shape)} with {teacher_mask.sum(-1).tolist()}, or words that start elsewhere. "
                + (f"Use {others}" if others else "Use one tokenizer for both, or a matching of hidden states")
                + ", and pad both on the same side."
            )

    def _members(self, states: States, units: int) -> Tensor | None:
        """Which positions belong to which unit: (batch, units, length) bool; None if each position is a unit."""
        mask = states.mask.bool()
        if self.granularity == "token":
            return None
        if self.granularity == "sequence" or states.word_starts is None:
            return mask.unsqueeze(1)
        word = ((states.word_starts == 1) & mask).cumsum(-1) - 1  # -1 before the first word: no unit
        inside = mask & (states.word_starts >= 0)
        return (word.unsqueeze(1) == torch.arange(units, device=mask.device)[:, None]) & inside.unsqueeze(1)

    # Comparing

    def forward(self, student: States, teacher: States, progress: float) -> Items:
        """Compare the models on a batch.

        Args:
            student: its states.
            teacher: its states; they receive no gradient.
            progress: the share of training that is over, 0 to 1.
        Returns:
            As many items for each example as `counted` returns.
        Raises:
            ValueError: called before `build`, or states that cannot be compared.
        """
        if self._built_for is None:
            raise ValueError(
                f"{self.name}: call build(...) with both models' widths and states before making the optimizer; "
                "otherwise the parameters of the matching would never be trained."
            )
        with torch.autocast(student.mask.device.type, enabled=False):
            alignment, views = self._align(student, teacher, progress)
            found = [self._compare(number, *view, alignment) for number, view in enumerate(views)]
            averaged = {name: torch.stack([parts[name] for parts in found]).mean(0) for name in found[0]}
        values = averaged.pop("values")
        return Items(values, alignment.keep.nonzero()[:, 0], {name: part.detach() for name, part in averaged.items()})

    def _align(
        self, student: States, teacher: States, progress: float
    ) -> tuple[Alignment, Iterator[tuple[Tensor, Tensor]]]:
        """The items of a batch, and the (batch, units, width) states of both sides for each pair of layers."""
        counts = self.counted(student.mask, student.word_starts, teacher.mask, teacher.word_starts)
        units = 1 if self.granularity == "sequence" else min(student.mask.shape[1], teacher.mask.shape[1])
        if self.granularity == "token":
            keep = student.mask.bool()
        else:
            keep = torch.arange(units, device=counts.device) < counts[:, None]
        members, teacher_members = self._members(student, units), self._members(teacher, units)

        def views() -> Iterator[tuple[Tensor, Tensor]]:
            for student_layer, teacher_layer in self.pairs:
                dtype = torch.promote_types(student.hidden[0].dtype, torch.float32)
                yield (
                    self._view(student, "student", student_layer, members, dtype),
                    self._view(teacher, "teacher", teacher_layer, teacher_members, dtype).detach(),
                )

        return Alignment(keep, teacher, teacher_members, progress), views()

    def _view(self, states: States, side: str, layer: int, members: Tensor | None, dtype: torch.dtype) -> Tensor:
        """(batch, units, width): a layer's states, averaged over the members of each unit."""
        # Some attention kernels leave NaN in padding, and 0 · NaN would spread it.
        hidden = states.hidden[layer].masked_fill(~states.mask.bool().unsqueeze(-1), 0).to(dtype)
        return average(hidden, members)

    def _compare(self, number: int, student: Tensor, teacher: Tensor, alignment: Alignment) -> dict[str, Tensor]:
        """The (items,) `values` of a pair of layers, and further quantities to log.

        Args:
            number: the index of the pair.
            student: (batch, units, width).
            teacher: (batch, units, teacher width), without gradient.
            alignment: the items of the batch.
        """
        raise NotImplementedError


def average(states: Tensor, members: Tensor | None) -> Tensor:
    """(batch, units, width): the mean of each unit's members, 0 for a unit without members.

    Computed by a matrix product, since scattered sums differ from run to run on a GPU.

    Args:
        states: (batch, length, width).
        members: (batch, units, length) bool. None: each position is a unit.
    """
    if members is None:
        return states
    weights = members.to(states.dtype)
    return weights @ states / weights.sum(-1, keepdim=True).clamp(min=1)
