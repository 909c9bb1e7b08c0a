"""Attention distributions of student and teacher."""

import torch
from torch import Tensor

from hf_distill.matching.base import Alignment, Matching, States
from hf_distill.matching.tensors import RULED_OUT, kl_divergence


class AttentionMatching(Matching):
    """KL(teacher ‖ student) of the attention distribution of each position, averaged over the heads.

    The distributions are taken over the keys that are not padding and to which the student gives a positive weight. A
    student weight of exactly 0 is a key that it masks or that attention dropout removed; it can have no gradient. Both
    sides are renormalised over the remaining keys. Where the numbers of heads differ, the mean attentions of the heads
    are compared.

    Args:
        layers: student layer to teacher layer, from 1; negative counts from the end.
        weight: in the objective, >= 0.
        granularity: "token" alone, with one tokenizer for both models.
        name: logged as `<name>_loss`; None: "attention". In nats.
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

    def _attentions(self, states: States, side: str) -> tuple[Tensor, ...]:
        if not states.attentions or any(attention is None for attention in states.attentions):
            raise ValueError(
                f"{self.name}: the {side} returned no attentions. Load it with "
                'from_pretrained(..., attn_implementation="eager"), since fused kernels do not return them; a model '
                "without attention (an LSTM) can be matched by HiddenStateMatching or RelationMatching."
            )
        return states.attentions

    def _available(self, states: States, side: str) -> int:
        return len(self._attentions(states, side)) + 1

    def _resolve(self, layer: int, available: int, side: str) -> int:
        resolved = super()._resolve(layer, available, side)
        if resolved == 0:
            raise ValueError(
                f"{self.name}: the {side}'s layer {layer} is its embeddings, which attend to nothing. Choose 1 to "
                f"{available - 1}."
            )
        return resolved

    def _view(self, states: States, side: str, layer: int, members: Tensor | None, dtype: torch.dtype) -> Tensor:
        """(batch, heads, queries, keys), 0 where the query or the key is padding."""
        mask = states.mask.bool()
        both = mask[:, None, :, None] & mask[:, None, None, :]
        return self._attentions(states, side)[layer - 1].masked_fill(~both, 0).to(dtype)

    def _compare(self, number: int, student: Tensor, teacher: Tensor, alignment: Alignment) -> dict[str, Tensor]:
        if student.shape[1] != teacher.shape[1]:
            student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
        # (items, heads, keys)
        student_items, teacher_items = student.transpose(1, 2)[alignment.keep], teacher.transpose(1, 2)[alignment.keep]
        attended = student_items > 0
        kl = kl_divergence(_log_distribution(teacher_items, attended), _log_distribution(student_items, attended))
        return {"values": kl.mean(-1)}


def _log_distribution(weights: Tensor, attended: Tensor) -> Tensor:
    """The logarithm of weights, renormalised over the attended keys; `RULED_OUT` at other keys and at weight 0."""
    positive = attended & (weights > 0)
    logs = torch.where(positive, weights, 1.0).log().masked_fill(~positive, RULED_OUT)
    return logs - logs.logsumexp(-1, keepdim=True).clamp(min=RULED_OUT / 2)
