"""Relations between positions, after MiniLM."""

import math
from collections.abc import Mapping

from torch import Tensor

from hf_distill.matching.base import Alignment, Matching, States
from hf_distill.matching.tensors import RULED_OUT, kl_divergence, normalize


class RelationMatching(Matching):
    """KL(teacher ‖ student) of how each position relates to the others, averaged over relation heads.

    The relation of two positions is the scaled dot product of their hidden states, after a softmax over all positions
    of the example that are not padding. No parameters, any two widths, and any two architectures. This is MiniLM's idea
    on hidden states, where MiniLM takes queries, keys and values, which an LSTM does not have.

    Args:
        layers: student layer to teacher layer; 0 is the embeddings, negative counts from the end.
        weight: in the objective, >= 0.
        granularity: "token" or "word".
        name: what it is logged as, `<name>_loss`; None: "relation". In nats.
        heads: into how many parts both models' states are split; divides all the widths. Many heads are better than
            few: in a wide part each position relates to hardly any other than itself.
    Raises:
        ValueError: as `Matching`, "sequence" granularity, or (from `build`) a width that `heads` does not divide.
    Source:
        Wang et al. 2020 (MiniLM), arXiv:2002.10957; relation heads as in Wang et al. 2021 (MiniLMv2),
        arXiv:2012.15828.
    """

    kind = "relation"
    granularities = ("token", "word")

    def __init__(
        self,
        layers: Mapping[int, int],
        weight: float = 1.0,
        granularity: str = "token",
        name: str | None = None,
        *,
        heads: int = 16,
    ) -> None:
        super().__init__(layers, weight, granularity, name)
        if heads < 1:
            raise ValueError(f"heads must be at least 1, got {heads}.")
        self.heads = heads

    def _refusal(self, granularity: str) -> str:
        return (
            f'RelationMatching compares the relations within an example: granularity must be "token" or "word", got '
            f'{granularity!r}. A "sequence" is one vector, whose only relation, to itself, is always 1.'
        )

    def _create(self, widths: list[tuple[int, int]], student: States, teacher: States) -> None:
        for pair in widths:
            if any(width % self.heads for width in pair):
                common = math.gcd(*pair)
                fits = [heads for heads in range(1, common + 1) if common % heads == 0]
                raise ValueError(
                    f"{self.name}: heads={self.heads} must divide the student's width {pair[0]} and the teacher's "
                    f"{pair[1]}. Choose one of {', '.join(map(str, fits))}."
                )

    def _compare(self, number: int, student: Tensor, teacher: Tensor, meeting: Alignment) -> dict[str, Tensor]:
        kl = kl_divergence(self._log_relations(teacher, meeting.keep), self._log_relations(student, meeting.keep))
        return {"values": kl.mean(1)[meeting.keep]}

    def _log_relations(self, states: Tensor, keep: Tensor) -> Tensor:
        """(batch, heads, units, units), each row a distribution over the units that are kept."""
        parts = normalize(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        scores = parts @ parts.transpose(-1, -2) / math.sqrt(parts.shape[-1])
        return scores.masked_fill(~keep[:, None, None, :], RULED_OUT).log_softmax(-1)
