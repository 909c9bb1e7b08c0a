"""Attention distributions of student and teacher."""

import torch
from torch import Tensor

from hf_distill.matching.base import Alignment, Matching, States
from hf_distill.matching.tensors import RULED_OUT, kl_divergence


class AttentionMatching(Matching):
    """KL(teacher ‖ student) of what each position attends to, averaged over the heads.

    Over the keys that are not padding and that the student gives any weight: a weight of exactly 0 is a key it masks or
    that attention dropout removed, where no gradient could reach it. Both sides are renormalised over the rest. Where
    the numbers of heads differ, the heads' mean attentions are compared.

    Args:
        layers: student layer to teacher layer, from 1; negative counts from the end.
        weight: in the objective, >= 0.
        granularity: "token" alone, with one tokenizer for both models.
        name: what it is logged as, `<name>_loss`; None: "attention". In nats.
    Raises:
        ValueError: as `Matching`, another granularity, or (from `build`) a model without attentions.
    Source:
        Wang et al. 2020 (MiniLM), arXiv:2002.10957, there on the last layer alone; the layer map as in Jiao et
        al. 2020 (TinyBERT), arXiv:1909.10351.
    """

    kind = "attention"
    granularities = ("token",)

    def _refusal(self, granularity: str) -> str:
        return (
            f'AttentionMatching compares attention between positions: granularity must be "token", got {granularity!r}.'
            ' With two tokenizers, use RelationMatching at "word" granularity.'
        )

    def _attentions(self, states: States, whose: str) -> tuple[Tensor, ...]:
        if not states.attentions or any(attention is None for attention in states.attentions):
            raise ValueError(
                f"{self.name}: the {whose} returned no attentions. Load it with "
                'from_pretrained(..., attn_implementation="eager"), since the fused kernels never hold them; a model '
                "without attention (an LSTM) can be matched by HiddenStateMatching or RelationMatching."
            )
        return states.attentions

    def _available(self, states: States, whose: str) -> int:
        return len(self._attentions(states, whose)) + 1

    def _resolve(self, layer: int, available: int, whose: str) -> int:
        resolved = super()._resolve(layer, available, whose)
        if resolved == 0:
            raise ValueError(
                f"{self.name}: the {whose}'s layer {layer} is its embeddings, which attend to nothing. Choose 1 to "
                f"{available - 1}."
            )
        return resolved

    def _view(self, states: States, whose: str, layer: int, members: Tensor | None, dtype: torch.dtype) -> Tensor:
        """(batch, heads, queries, keys), 0 wherever one of the two is padding."""
        mask = states.mask.bool()
        both = mask[:, None, :, None] & mask[:, None, None, :]
        return self._attentions(states, whose)[layer - 1].masked_fill(~both, 0).to(dtype)

    def _compare(self, number: int, student: Tensor, teacher: Tensor, meeting: Alignment) -> dict[str, Tensor]:
        if student.shape[1] != teacher.shape[1]:
            student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
        # (items, heads, keys)
        ours, theirs = student.transpose(1, 2)[meeting.keep], teacher.transpose(1, 2)[meeting.keep]
        seen = ours > 0
        kl = kl_divergence(_log_shares(theirs, seen), _log_shares(ours, seen))
        return {"values": kl.mean(-1)}


def _log_shares(weights: Tensor, seen: Tensor) -> Tensor:
    """The logarithm of weights, renormalised over those seen; `_RULED_OUT` elsewhere and at 0."""
    positive = seen & (weights > 0)
    logs = torch.where(positive, weights, 1.0).log().masked_fill(~positive, RULED_OUT)
    return logs - logs.logsumexp(-1, keepdim=True).clamp(min=RULED_OUT / 2)
