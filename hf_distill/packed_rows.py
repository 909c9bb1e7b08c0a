"""Packed rows: several rows one after the other in one, as `DataCollatorWithFlattening` makes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_distill.models import PACKING, base_model, device_of, evaluating, forward_arguments

PROBED = 4  # tokens of each of two rows


def row_starts(batch: Mapping[str, Any]) -> Tensor | None:
    """Where further rows start within the rows of a batch.

    Args:
        batch: what a model reads. Rows are told apart by `position_ids` that do not go on, `cu_seq_lens_q` or
            `seq_idx`.
    Returns:
        (batch, length) bool, False at the first token of each row of the batch; None where nothing is packed.
    """
    ids, positions, mask = (batch.get(name) for name in ("input_ids", "position_ids", "attention_mask"))
    if ids is None or ids.dim() != 2:
        return None
    starts = torch.zeros_like(ids, dtype=torch.bool)
    if isinstance(positions, Tensor) and positions.dim() == 2:
        going_back = positions.diff(dim=-1) <= 0
        if mask is not None and mask.shape == ids.shape:  # positions of padding have no meaning
            going_back = going_back & (mask[:, 1:] != 0) & (mask[:, :-1] != 0)
        starts[:, 1:] |= going_back
    if isinstance(batch.get("seq_idx"), Tensor):
        starts[:, 1:] |= batch["seq_idx"].diff(dim=-1) != 0
    if isinstance(batch.get("cu_seq_lens_q"), Tensor):
        starts[:, batch["cu_seq_lens_q"][1:-1].long()] = True
    return starts if starts.any() else None


def check_packing_is_marked(rows: Sequence[Any], batch: Mapping[str, Any]) -> None:
    """Raise if a collator packed rows without marking where they start: no model could tell them apart.

    Args:
        rows: the token ids of each row before; None where it has none.
        batch: that they became.
    Raises:
        ValueError: fewer and longer rows came out, without `position_ids` or the like.
    """
    ids = batch.get("input_ids")
    if rows[0] is None or not isinstance(ids, Tensor) or ids.dim() != 2:
        return
    longer = ids.shape[1] > max(map(len, rows))
    if len(ids) < len(rows) and longer and not PACKING.union({"position_ids"}) & set(batch):
        raise ValueError(
            f"The data_collator packed {len(rows)} rows into {len(ids)} of {ids.shape[1]} tokens, and the batch has "
            f"only {sorted(batch)}: no column marks where a row starts, so every model would mix them. Let it return "
            "position_ids (DataCollatorWithFlattening does by default), or use a collator that pads."
        )


class PackedRowsCheck:
    """Checks that a model tells packed rows apart, at the first batch that has some.

    A few tokens of two rows are read packed, packed after other tokens, and alone: the outputs of the second row must
    be the same. So the check depends neither on how the model uses `position_ids` nor on its config.

    Args:
        model: a student or a teacher.
        name: of its part, for the error.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.model = model
        self.name = name
        self._passed = False

    def __call__(self, batch: Mapping[str, Any]) -> None:
        """Raise where a batch has packed rows and the model would mix them.

        Args:
            batch: with all that was collated, what the model does not read too.
        Raises:
            ValueError: the outputs of a row depend on the row before it.
        """
        if self._passed or not PACKING.union({"position_ids"}) & set(batch):
            return
        mask = batch.get("attention_mask")
        if isinstance(mask, Tensor) and mask.dim() > 2:  # the mask itself separates the rows
            return
        starts = row_starts(batch)
        if starts is None:
            return
        problem = self._problem(batch, starts)
        if problem is not None:
            raise ValueError(
                f"The batch has packed rows (several rows in one, position_ids starting anew), and the {self.name}, a "
                f"{type(base_model(self.model)).__name__}, does not tell them apart: {problem}. Use a collator that "
                "pads (DataCollatorWithPadding, DataCollatorForSeq2Seq) instead of one that packs "
                "(DataCollatorWithFlattening)."
            )
        self._passed = True

    def _problem(self, batch: Mapping[str, Any], starts: Tensor) -> str | None:
        if "position_ids" not in forward_arguments(self.model):
            return "its forward takes no position_ids"
        if isinstance(batch.get("attention_mask"), Tensor):
            return (
                "there is an attention_mask of one entry a token, and with one the models of transformers no longer "
                "look where position_ids start anew. Leave the attention_mask out of packed rows"
            )
        row = int(starts.any(dim=-1).int().argmax())
        second = int(starts[row].int().argmax())
        ids = batch["input_ids"][row]
        before, after = ids[max(0, second - PROBED) : second], ids[second:]
        end = int(starts[row, second + 1 :].int().argmax()) + 1 if starts[row, second + 1 :].any() else len(after)
        after = after[: min(end, PROBED)]
        first = int(batch["position_ids"][row, second]) if "position_ids" in batch else 0
        others = (before == 0).to(before.dtype)  # another token everywhere: 0, or 1 in place of 0
        packed = self._logits(_packed(batch, before, after, first), len(before))
        if packed.dim() < 2:
            return "it has one output a row of the batch, and the batch has more rows packed into it"
        changed = self._logits(_packed(batch, others, after, first), len(before))
        alone = self._logits({"input_ids": after.unsqueeze(0)}, 0)
        precision = torch.finfo(packed.dtype).eps
        size = packed.abs().max()
        if (packed - changed).abs().max() > 8 * precision * size:
            return "the outputs of a row change with the tokens of the row before it"
        if (packed - alone).abs().max() > precision**0.5 * size:
            return f"a row whose position_ids start at {first} has other outputs than the same row alone"
        return None

    def _logits(self, inputs: dict[str, Any], start: int) -> Tensor:
        """The logits of the one row: (positions, classes) from a position on, or (classes,) of one output a row."""
        device = device_of(self.model, inputs["input_ids"].device)
        arguments = forward_arguments(self.model)
        here = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
            if name in arguments
        }
        uncached = dict.fromkeys({"use_cache"} & arguments, False)
        with evaluating(self.model), torch.no_grad():
            logits = self.model(**here, **uncached)["logits"]
        return logits[0, start:] if logits.dim() > 2 else logits[0]


def _packed(batch: Mapping[str, Any], before: Tensor, after: Tensor, first: int) -> dict[str, Any]:
    """Two rows packed as those of the batch are."""
    lengths = [len(before), len(after)]
    device = before.device
    ends = torch.tensor([0, lengths[0], sum(lengths)], dtype=torch.int32, device=device)
    longest = max(lengths)
    made = {
        "position_ids": torch.cat([torch.arange(first, first + length, device=device) for length in lengths])[None],
        "seq_idx": torch.tensor([[0] * lengths[0] + [1] * lengths[1]], dtype=torch.int32, device=device),
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
    }
    ids = torch.cat([before, after])[None]
    return {"input_ids": ids} | {name: value for name, value in made.items() if name in batch}
