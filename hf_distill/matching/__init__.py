"""Losses on the inner states of student and teacher, each an `nn.Module`."""

from typing import Any

from hf_distill.matching.adversarial import AdversarialMatching
from hf_distill.matching.attention import AttentionMatching
from hf_distill.matching.hidden_states import HiddenStateMatching
from hf_distill.matching.relations import RelationMatching
from hf_distill.matching.variational import VariationalMatching

__all__ = [
    "MATCHINGS",
    "AdversarialMatching",
    "AttentionMatching",
    "HiddenStateMatching",
    "RelationMatching",
    "VariationalMatching",
]

MATCHINGS: dict[str, Any] = {
    each.kind: each
    for each in (HiddenStateMatching, AttentionMatching, RelationMatching, VariationalMatching, AdversarialMatching)
}
