"""Hidden states of the student projected onto the teacher's."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from hf_distill.matching.base import Alignment, Matching, States
from hf_distill.matching.tensors import normalize, project, projections


class HiddenStateMatching(Matching):
    """Squared difference, or one minus the cosine, of hidden states.

    Where the widths differ, the student's states pass a linear map (no bias) to the teacher's width, learnt along.

    Args:
        layers: student layer to teacher layer; 0 is the embeddings, negative counts from the end.
        weight: in the objective, >= 0.
        granularity: "token", "word" or "sequence".
        name: what it is logged as, `<name>_loss`; None: "hidden_state".
        loss: "mse", the mean over dimensions, 0 to 4; or "cosine", 0 to 2. Both dimensionless.
    Raises:
        ValueError: as `Matching`, or an unknown loss.
    Source:
        Romero et al. 2015 (FitNets), arXiv:1412.6550; for Transformers Jiao et al. 2020 (TinyBERT), arXiv:1909.10351,
        without the LayerNorm.

    >>> import torch
    >>> states = States(hidden=(torch.eye(4).view(1, 4, 4),), mask=torch.tensor([[True, True, True, False]]))
    >>> matching = HiddenStateMatching(layers={-1: -1})
    >>> matching.build([4], [4], teacher=states, student=states)
    >>> matching(states, states, progress=0.0).values
    tensor([0., 0., 0.])
    """

    kind = "hidden_state"

    def __init__(
        self,
        layers: Mapping[int, int],
        weight: float = 1.0,
        granularity: str = "token",
        name: str | None = None,
        *,
        loss: str = "mse",
    ) -> None:
        super().__init__(layers, weight, granularity, name)
        if loss not in ("mse", "cosine"):
            raise ValueError(f"loss must be 'mse' or 'cosine', got {loss!r}.")
        self.loss = loss

    def _create(self, widths: list[tuple[int, int]], student: States, teacher: States) -> None:
        self.projections = projections(widths, student)

    def _compare(self, number: int, student: Tensor, teacher: Tensor, meeting: Alignment) -> dict[str, Tensor]:
        ours = normalize(project(self.projections[number], student[meeting.keep]))
        theirs = normalize(teacher[meeting.keep])
        if self.loss == "cosine":
            return {"values": 1 - F.cosine_similarity(ours, theirs, dim=-1)}
        return {"values": (ours - theirs).square().mean(-1)}
