"""What every matching shares: the states of two models, the items of them that are compared, and the layers.

A matching's granularity says what an item is: a position ("token"), a word, whose pieces are averaged ("word", for two
tokenizers), or an example, whose positions are averaged ("sequence").
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class States:
    """What one model did on a batch.

    Attributes:
        hidden: one (batch, length, width) a layer, 0 the embeddings.
        mask: (batch, length) bool, the positions that are not padding.
        attentions: one (batch, heads, length, length) a layer, the embeddings left out.
        word_starts: (batch, length) int: 1 a word's first piece, 0 its further ones, -100 special tokens and padding.
        logits: (batch, classes) or (batch, length, classes).
    """

    hidden: tuple[Tensor, ...]
    mask: Tensor
    attentions: tuple[Tensor, ...] | None = None
    word_starts: Tensor | None = None
    logits: Tensor | None = None


@dataclass(frozen=True)
class Items:
    """One matching on one batch, unreduced.

    Attributes:
        values: (items,), the loss of each counted item, averaged over the pairs of layers.
        rows: (items,), the example each item belongs to.
        logged: name to (items,), detached, to be averaged as the values are.
    """

    values: Tensor
    rows: Tensor
    logged: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Alignment:
    """What a pair of layers is compared in the light of.

    `keep` is (batch, units) bool, the units that are items; `teacher_members` as `_members` gives it.
    """

    keep: Tensor
    teacher: States
    teacher_members: Tensor | None
    progress: float


class Matching(nn.Module):
    """What the five matchings share: their layers, their items, and the average over pairs of layers.

    A subclass says how two layers compare (`_compare`) and which parameters that takes (`_create`).

    Args:
        layers: student layer to teacher layer; 0 is the embeddings, negative counts from the end.
        weight: in the objective, >= 0.
        granularity: "token", "word" or "sequence".
        name: what it is logged as, `<name>_loss`; None: the kind of matching.
    Raises:
        ValueError: no layers, layers that are not whole numbers, a negative weight, an unknown granularity.
    """

    kind: str
    granularities: tuple[str, ...] = ("token", "word", "sequence")
    learning_rate: float | None = None
    """Of `paced_parameters`, where it is not to be the trainer's."""

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
                f"weight must be a finite number >= 0, or the student would flee its teacher; got {weight}."
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

    # Meeting the models

    def build(
        self, student_widths: Sequence[int], teacher_widths: Sequence[int], *, teacher: States, student: States
    ) -> None:
        """Resolve the layers and make the parameters, before there is an optimizer.

        Drawn from torch's generator. A second call with models of the same widths keeps the parameters.

        Args:
            student_widths: of each of the student's hidden states.
            teacher_widths: of each of the teacher's.
            teacher: on a real batch; what the variances start from.
            student: on the same batch.
        Raises:
            ValueError: a layer that is not there, states that cannot be compared, or models of other widths than in
                an earlier call.
        """
        widths = (tuple(student_widths), tuple(teacher_widths))
        if self._built_for is not None and self._built_for != widths:
            raise ValueError(
                f"{self.name}: built for a student of widths {self._built_for[0]} and a teacher of {self._built_for[1]}"
                f", and now meets {widths[0]} and {widths[1]}. What it has learnt does not fit them: make a new one."
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
            pair_widths = [(widths[0][ours], widths[1][theirs]) for ours, theirs in self.pairs]
            with torch.no_grad(), torch.autocast(student.mask.device.type, enabled=False):
                self._create(pair_widths, student, teacher)
            self._built_for = widths

    def _resolve(self, layer: int, available: int, whose: str) -> int:
        resolved = layer + available if layer < 0 else layer
        if not 0 <= resolved < available:
            raise ValueError(
                f"{self.name}: the {whose} has no layer {layer}. It has {available} states, 0 (the embeddings) to "
                f"{available - 1}, or -{available} to -1 from the end."
            )
        return resolved

    def _available(self, states: States, whose: str) -> int:
        return len(states.hidden)

    def _create(self, widths: list[tuple[int, int]], student: States, teacher: States) -> None:
        """Make the parameters, from the widths of each pair and the models' states on one batch."""

    def paced_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that `learning_rate` is about."""
        return self.parameters()

    # Items

    def counted(
        self, mask: Tensor, word_starts: Tensor | None, teacher_mask: Tensor, teacher_word_starts: Tensor | None
    ) -> Tensor:
        """How many items each example has, from the inputs alone.

        Args:
            mask: (batch, length), the student's positions that are not padding.
            word_starts: (batch, length), see `States`.
            teacher_mask: (batch, teacher length).
            teacher_word_starts: (batch, teacher length).
        Returns:
            (batch,) int: positions; words, where one side was cut off those of the shorter; or 1 for an example that
            is not empty on either side.
        Raises:
            ValueError: "token" where the models read other tokens, "word" where words are not marked.
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
                f"{' and no '.join(missing)}. Add the columns (1 a word's first piece, 0 its further pieces, -100 "
                'special tokens), or use granularity="sequence".'
            )
        words = ((word_starts == 1) & mask).sum(-1)
        return torch.minimum(words, ((teacher_word_starts == 1) & teacher_mask).sum(-1))

    def _check_same_tokens(
        self, mask: Tensor, word_starts: Tensor | None, teacher_mask: Tensor, teacher_word_starts: Tensor | None
    ) -> None:
        same = torch.equal(mask, teacher_mask)
        if same and word_starts is not None and teacher_word_starts is not None:
            # Rows that both sides cut to one length have one mask, whatever the tokenizers.
            same = torch.equal(word_starts == 1, teacher_word_starts == 1)
        if not same:
            others = " or ".join(f'granularity="{other}"' for other in self.granularities if other != "token")
            raise ValueError(
                f'{self.name}: granularity="token" compares position by position, but student and teacher read other '
                f"tokens: {tuple(mask.shape)} positions with {mask.sum(-1).tolist()} in use against "
                f"{tuple(teacher_mask.shape)} with {teacher_mask.sum(-1).tolist()}, or words that start elsewhere. "
                + (f"Use {others}" if others else "Use one tokenizer for both, or a matching of hidden states")
                + ", and pad both on the same side."
            )

    def _members(self, states: States, units: int) -> Tensor | None:
        """Which positions belong to which unit: (batch, units, length) bool; None where each position is its own."""
        mask = states.mask.bool()
        if self.granularity == "token":
            return None
        if self.granularity == "sequence" or states.word_starts is None:
            return mask.unsqueeze(1)
        word = ((states.word_starts == 1) & mask).cumsum(-1) - 1  # before the first word -1, in no unit
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
            As many items for each example as `counted` says.
        Raises:
            ValueError: called before `build`, or states that cannot be compared.
        """
        if self._built_for is None:
            raise ValueError(
                f"{self.name}: call build(...) with both models' widths and states first, and only then make the "
                "optimizer: the parameters made there would otherwise never be trained."
            )
        with torch.autocast(student.mask.device.type, enabled=False):
            meeting, views = self._meet(student, teacher, progress)
            found = [self._compare(number, *view, meeting) for number, view in enumerate(views)]
            averaged = {name: torch.stack([parts[name] for parts in found]).mean(0) for name in found[0]}
        values = averaged.pop("values")
        return Items(values, meeting.keep.nonzero()[:, 0], {name: part.detach() for name, part in averaged.items()})

    def _meet(
        self, student: States, teacher: States, progress: float
    ) -> tuple[Alignment, Iterator[tuple[Tensor, Tensor]]]:
        """The items of a batch, and for each pair of layers both sides' (batch, units, width)."""
        counts = self.counted(student.mask, student.word_starts, teacher.mask, teacher.word_starts)
        units = 1 if self.granularity == "sequence" else min(student.mask.shape[1], teacher.mask.shape[1])
        if self.granularity == "token":
            keep = student.mask.bool()
        else:
            keep = torch.arange(units, device=counts.device) < counts[:, None]
        members, teacher_members = self._members(student, units), self._members(teacher, units)

        def views() -> Iterator[tuple[Tensor, Tensor]]:
            for ours, theirs in self.pairs:
                dtype = torch.promote_types(student.hidden[0].dtype, torch.float32)
                yield (
                    self._view(student, "student", ours, members, dtype),
                    self._view(teacher, "teacher", theirs, teacher_members, dtype).detach(),
                )

        return Alignment(keep, teacher, teacher_members, progress), views()

    def _view(self, states: States, whose: str, layer: int, members: Tensor | None, dtype: torch.dtype) -> Tensor:
        """(batch, units, width): a layer's states, averaged over the members of each unit."""
        # Some attention kernels leave NaN in padding, and 0 · NaN would spread it.
        hidden = states.hidden[layer].masked_fill(~states.mask.bool().unsqueeze(-1), 0).to(dtype)
        return average(hidden, members)

    def _compare(self, number: int, student: Tensor, teacher: Tensor, meeting: Alignment) -> dict[str, Tensor]:
        """The (items,) `values` of a pair of layers, and what else is to be logged.

        Args:
            number: of the pair.
            student: (batch, units, width).
            teacher: (batch, units, teacher width), without gradient.
            meeting: the items and more.
        """
        raise NotImplementedError


def average(states: Tensor, members: Tensor | None) -> Tensor:
    """(batch, units, width): the mean of each unit's members, 0 where it has none.

    A matrix product, since scattered sums differ from run to run on a GPU.
    """
    if members is None:
        return states
    shares = members.to(states.dtype)
    return shares @ states / shares.sum(-1, keepdim=True).clamp(min=1)
