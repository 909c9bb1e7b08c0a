"""Distance between hidden states."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from hf_distill.matching.base import Alignment, Matching, States
from hf_distill.matching.tensors import normalize, project, projections


class HiddenStateMatching(Matching):
    """Squared difference, or one minus the cosine, of hidden states.

    Both states are normalised by a LayerNorm without parameters. Where the widths differ, a linear map without bias,
    trained with the student, projects its states to the teacher's width.

    Args:
        layers: student layer to teacher layer; 0 is the embeddings, negative counts from the end.
        weight: in the objective, >= 0.
        granularity: "token", "word" or "sequence".
        name: logged as `<name>_loss`; None: "hidden_state".
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

    def _compare(self, number: int, student: Tensor, teacher: Tensor, alignment: Alignment) -> dict[str, Tensor]:
        student_items = normalize(project(self.projections[number], student[alignment.keep]))
        teacher_items = normalize(teacher[alignment.keep])
        if self.loss == "cosine":
            return {"values": 1 - F.cosine_similarity(student_items, teacher_items, dim=-1)}
        return {"values": (student_items - teacher_items).square().mean(-1)}
