"""Padding that no attention mask marks: found where it can be known, and refused where a model would read it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_distill.models import base_model, device_of, evaluating, forward_arguments
from hf_distill.packed_rows import row_starts

# A column of collated batches that lack an attention mask: (batch, length) bool, False at padding.
IS_TOKEN = "is_token"
ORDINARY = {"left": ("bos_token_id", "cls_token_id"), "right": ("eos_token_id", "sep_token_id")}
# Of the greatest output. Half precision rounds more, and there a change has to show in the padded row alone, too.
TOLERANCE, TOLERANCE_OF_HALF = 1e-3, 0.05


def is_token(rows: Sequence[Any], batch: Mapping[str, Any]) -> Tensor | None:
    """Where a collator put the tokens of its rows, if it padded them and made no attention mask.

    Args:
        rows: the token ids of each row before; None where it has none.
        batch: that they became.
    Returns:
        (batch, length) bool; None where there is a mask, where nothing was padded, or where rows were changed.
    """
    ids = batch.get("input_ids")
    if batch.get("attention_mask") is not None or rows[0] is None or not isinstance(ids, Tensor) or ids.dim() != 2:
        return None
    length = ids.shape[1]
    if len(ids) != len(rows) or not any(len(row) < length for row in rows):
        return None
    found = torch.zeros_like(ids, dtype=torch.bool)
    for number, (row, padded) in enumerate(zip(rows, ids.tolist(), strict=True)):
        tokens = [int(token) for token in row]
        start = next((at for at in (0, length - len(tokens)) if padded[at : at + len(tokens)] == tokens), None)
        if start is None:
            return None
        found[number, start : start + len(tokens)] = True
    return found


class UnmaskedPaddingCheck:
    """Refuses padding that no attention mask marks, where the model's outputs would depend on it.

    Padding is known where the collator made it (`IS_TOKEN`), and where the ends of rows are the padding token of a
    tokenizer or a config. One such token alone is not known to be padding where the token has another meaning there,
    as the end of text on the right, or where only a config names it. The model itself tells whether it reads the
    padding: the row that has most of it is read with and without. Decoders do not, on the right.

    Args:
        model: a student or a teacher.
        name: of its part, for the error.
        sources: configs and tokenizers that know the padding token; None among them is left out.
        can_be_tried: whether this process may call the model by itself; else whatever is not masked is refused.
    """

    def __init__(self, model: Any, name: str, sources: Iterable[Any] = (), can_be_tried: bool = True) -> None:
        self.model = model
        self.name = name
        self._can_be_tried = can_be_tried
        self._shortest = {side: _shortest_runs(side, [model.config, *sources]) for side in ORDINARY}
        self._passed: set[str] = set()
        self._reads_mask = "attention_mask" in forward_arguments(model)

    def __call__(self, batch: Mapping[str, Any], at_all: bool = False) -> None:
        """Raise where a batch has padding that the model would read as tokens.

        Args:
            batch: what the model reads, and `IS_TOKEN` where it is known.
            at_all: whether padding without a mask changes something else, whatever the model makes of it.
        Raises:
            ValueError: it has some.
        """
        ids = batch.get("input_ids")
        if not self._reads_mask or batch.get("attention_mask") is not None or not isinstance(ids, Tensor):
            return
        if ids.dim() != 2 or row_starts(batch) is not None:
            return
        for side in ORDINARY:
            if side in self._passed and not at_all:
                continue
            lengths = self._padding(ids, batch.get(IS_TOKEN), side)
            lengths = torch.where(lengths < ids.shape[1], lengths, 0)  # of padding alone no row is left
            row = int(lengths.argmax()) if len(ids) else 0
            length = int(lengths[row]) if len(ids) else 0
            if length and (at_all or not self._can_be_tried or self._depends(batch, row, length, side)):
                raise self._error(ids[row], row, length, side)
            if length:
                self._passed.add(side)

    def _padding(self, ids: Tensor, known: Tensor | None, side: str) -> Tensor:
        """How many positions at this end of each row are padding: (batch,)."""
        if known is not None:
            return _run(~known, side)
        found = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        for token, shortest in self._shortest[side].items():
            runs = _run(ids == token, side)
            found = torch.where(runs >= shortest, torch.maximum(found, runs), found)
        return found

    def _depends(self, batch: Mapping[str, Any], row: int, length: int, side: str) -> bool:
        """Whether the outputs at the tokens of a row change with the padding, and are not those of the tokens alone."""
        shape = batch["input_ids"].shape
        kept = slice(length, None) if side == "left" else slice(0, shape[1] - length)
        padded: dict[str, Any] = {}
        for name, value in batch.items():
            if name in forward_arguments(self.model):
                of_rows = isinstance(value, Tensor) and value.shape[:1] == shape[:1]
                padded[name] = value[row : row + 1].to(device_of(self.model, value.device)) if of_rows else value
        alone = {
            name: value[:, kept]
            if isinstance(value, Tensor) and value.shape[:2] == (1, shape[1]) and not name.startswith("decoder_")
            else value
            for name, value in padded.items()
        }
        other = (padded["input_ids"] == 0).to(padded["input_ids"].dtype)  # another token: 0, or 1 in place of 0
        other[:, kept] = padded["input_ids"][:, kept]
        of_padding, of_other, of_tokens = map(self._logits, (padded, padded | {"input_ids": other}, alone))
        if of_padding.shape != of_tokens.shape:
            of_padding, of_other = of_padding[:, kept], of_other[:, kept]
        size = of_tokens.abs().max()
        if (of_padding - of_other).abs().max() <= 8 * torch.finfo(of_padding.dtype).eps * size:
            return False
        half = of_tokens.dtype.itemsize < 4 or torch.is_autocast_enabled(of_tokens.device.type)
        return bool((of_padding - of_tokens).abs().max() > (TOLERANCE_OF_HALF if half else TOLERANCE) * size)

    def _logits(self, inputs: Mapping[str, Any]) -> Tensor:
        uncached = dict.fromkeys({"use_cache"} & forward_arguments(self.model), False)
        with evaluating(self.model), torch.no_grad():
            return self.model(**{**inputs, **uncached})["logits"]

    def _error(self, ids: Tensor, row: int, length: int, side: str) -> ValueError:
        token = int(ids[0 if side == "left" else -1])
        return ValueError(
            f"Row {row} of the batch has {length} positions of padding (token {token}) on the {side}, and there is no "
            f"attention_mask: the {self.name}, a {type(base_model(self.model)).__name__}, would read the padding as "
            "tokens. Give the rows a column attention_mask, 1 at tokens and 0 at padding, and let the data_collator "
            "return it (DataCollatorWithPadding does). If those are tokens of the text, a mask that is 1 everywhere "
            "tells so."
        )


def _shortest_runs(side: str, sources: Sequence[Any]) -> dict[int, int]:
    """For each token that rows may be padded with, how many of it at this end are known to be padding."""
    found: dict[int, int] = {}
    meant: set[Any] = set()
    for source in sources:
        if source is None:
            continue
        source = source.get_text_config() if hasattr(source, "get_text_config") else source
        for name in ORDINARY[side]:
            value = getattr(source, name, None)
            meant.update(value if isinstance(value, list | tuple) else [value])
        pad_id = getattr(source, "pad_token_id", None)
        ends = getattr(source, "eos_token_id", None)
        for token in [pad_id] if pad_id is not None else ends if isinstance(ends, list) else [ends]:
            if token is not None and token >= 0:
                of_tokenizer = pad_id is not None and hasattr(source, "convert_tokens_to_ids")
                found[token] = min(found.get(token, 2), 1 if of_tokenizer else 2)
    return {token: 2 if token in meant else shortest for token, shortest in found.items()}


def _run(marked: Tensor, side: str) -> Tensor:
    """How many positions are marked without a gap at one end of each row: (batch,)."""
    marked = marked if side == "left" else marked.flip(-1)
    return marked.long().cumprod(dim=-1).sum(dim=-1)
