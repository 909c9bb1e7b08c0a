"""Soft targets over a vocabulary table that is longer than the other model's, since rows pad it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hf_distill import columns


def of_shared_tokens(
    targets: Mapping[str, Tensor], size: int, tokens: int | None
) -> tuple[dict[str, Tensor], int | None]:
    """Soft targets without the rows of a vocabulary table that only pad it, which the other table may lack.

    Args:
        targets: `teacher_logits` (..., teacher's table), or the top-k columns.
        size: of the student's table.
        tokens: how many ids stand for tokens, where both models are known to have one tokenizer.
    Returns:
        The targets, and how many of the student's logits are compared with them; None: all. Among the top k, an id
        that stands for no token gets a probability of 0; the tail is what the cache holds.
    Raises:
        ValueError: the tables have two sizes, and it is unknown which rows both have.
    """
    found = dict(targets)
    if columns.LOGITS in found:
        width = found[columns.LOGITS].shape[-1]
        if width == size:
            return found, None
        shared = _known(tokens, f"{width} rows", size)
        shared = min(shared, size, width)
        return found | {columns.LOGITS: found[columns.LOGITS][..., :shared]}, shared
    if columns.TOP_K_IDS not in found:
        return found, None
    ids = found[columns.TOP_K_IDS]
    limit = size if tokens is None else min(tokens, size)
    beyond = ids >= limit
    if not (ids >= size).any():
        return found, None
    _known(tokens, f"at least {int(ids.max()) + 1} rows", size)
    # Those that stand for tokens first; there are no more of them than tokens.
    first = beyond.int().argsort(dim=-1, stable=True)[..., :limit]
    kept = found[columns.TOP_K_LOGITS].masked_fill(beyond, -torch.inf).gather(-1, first)
    return found | {columns.TOP_K_LOGITS: kept, columns.TOP_K_IDS: ids.masked_fill(beyond, 0).gather(-1, first)}, None


def _known(tokens: int | None, theirs: str, size: int) -> int:
    if tokens is None:
        raise ValueError(
            f"The teacher's vocabulary table has {theirs} and the student's {size}, and it is unknown which tokens "
            "both have. If one tokenizer made the rows of both, pass it as processing_class and as "
            "teacher_processing_class (and to cache_teacher_outputs): the longer table then only pads it. If the "
            'vocabularies differ, choose soft_target_loss="universal_logit_distance".'
        )
    return tokens
