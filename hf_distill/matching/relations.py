"""Relations between positions, after MiniLM."""

import math
from collections.abc import Mapping

from torch import Tensor

from hf_distill.matching.base import Alignment, Matching, States
from hf_distill.matching.tensors import RULED_OUT, kl_divergence, normalize


class RelationMatching(Matching):
    """KL(teacher ‖ student) of the relations between positions, averaged over relation heads.

    The relation of a position to the others is the scaled dot product of their hidden states, after a softmax over all
    positions of the example that are not padding. It has no parameters, and works between any two widths and
    architectures. MiniLM does this with queries, keys and values, which an LSTM does not have; here hidden states are
    used.

    Args:
        layers: student layer to teacher layer; 0 is the embeddings, negative counts from the end.
        weight: in the objective, >= 0.
        granularity: "token" or "word".
        name: logged as `<name>_loss`; None: "relation". In nats.
        heads: number of parts that both models' states are split into; must divide all widths. Prefer many heads: in a
            wide part, almost all of a position's softmax is on itself.
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
            f'{granularity!r}. A "sequence" is a single vector; its only relation, to itself, is always 1.'
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

    def _compare(self, number: int, student: Tensor, teacher: Tensor, alignment: Alignment) -> dict[str, Tensor]:
        kl = kl_divergence(self._log_relations(teacher, alignment.keep), self._log_relations(student, alignment.keep))
        return {"values": kl.mean(1)[alignment.keep]}

    def _log_relations(self, states: Tensor, keep: Tensor) -> Tensor:
        """(batch, heads, units, units), each row a distribution over the units that are kept."""
        parts = normalize(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        scores = parts @ parts.transpose(-1, -2) / math.sqrt(parts.shape[-1])
        return scores.masked_fill(~keep[:, None, None, :], RULED_OUT).log_softmax(-1)
