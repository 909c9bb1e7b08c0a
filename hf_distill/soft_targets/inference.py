"""A teacher's outputs for some rows: batches of one length, the positions that count, and the columns they become."""

import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from hf_distill import columns
from hf_distill.problems import IGNORE_INDEX, TASKS, marks
from hf_distill.soft_targets.layout import Layout, Values, in_order
from hf_distill.teachers.live import LiveTeacher
from hf_distill.unmasked_padding import IS_TOKEN, is_token

PIECE = 2**25  # logits that are compressed at once


@dataclass
class TeacherPass:
    """What turns some rows into the teacher's columns."""

    teacher: LiveTeacher
    task: str
    layout: Layout
    collate: Any
    batch_size: int
    bf16: bool

    def __post_init__(self) -> None:
        self._started = time.perf_counter()
        self._tokens = 0

    def __call__(self, rows: datasets.Dataset, first: int, progress: tqdm) -> dict[str, Values]:
        """The columns of some rows, in their order; batches are of rows of one length as far as possible.

        Args:
            rows: some that follow each other.
            first: the number of the first one, to name a row by.
            progress: of the pass.
        """
        wanted = [
            name
            for name in rows.column_names
            if name.startswith(columns.PREFIX)
            or name in self.teacher.arguments
            or name in (columns.WORD_STARTS, "labels")
        ]
        rows = rows.select_columns(wanted).with_format(None)
        name = columns.PREFIX + "input_ids" if columns.PREFIX + "input_ids" in wanted else "input_ids"
        lengths = np.array([len(ids) for ids in rows[name]])
        order = np.argsort(-lengths, kind="stable")  # longest first: too little memory shows at once
        outputs: list[dict[str, tuple[np.ndarray, np.ndarray]]] = []
        # One context for all batches: the weights are cast once.
        with torch.autocast(self.teacher.device.type, torch.bfloat16, enabled=self.bf16):
            for start in range(0, len(order), self.batch_size):
                indices = order[start : start + self.batch_size]
                read = rows[indices]
                examples = [dict(zip(read, row, strict=True)) for row in zip(*read.values(), strict=True)]
                outputs.append(self._outputs(examples, first + indices))
                self._report(int(lengths[indices].sum()), len(indices), progress)
        found = {}
        for name in list(outputs[0]):
            arrays, counts = zip(*(output.pop(name) for output in outputs), strict=True)
            array = in_order(arrays, counts, order)
            ragged = TASKS[self.task].per_position or name.startswith(columns.HIDDEN)
            of_rows = np.concatenate(counts)[np.argsort(order)] if ragged else None
            found[name] = self.layout.values(name, array, of_rows)
        if self.layout.top_k is not None:
            found[columns.TEMPERATURE] = Values(np.full(len(rows), self.layout.temperature, dtype=np.float32), None)
        return found

    def _report(self, tokens: int, rows: int, progress: tqdm) -> None:
        self._tokens += tokens
        passed = max(time.perf_counter() - self._started, 1e-9)
        progress.set_postfix({"tokens/s": f"{self._tokens / passed:,.0f}"}, refresh=False)
        progress.update(rows)

    @torch.no_grad()
    def _outputs(self, examples: list[dict[str, Any]], numbers: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each column the items of a batch, whose rows have these numbers, and how many each row has."""
        inputs = [self._inputs(example) for example in examples]
        for row in inputs if "attention_mask" not in inputs[0] else ():  # before a mask is made for it
            self.teacher.check_unmasked(row)
        collated: dict[str, Tensor] = self.collate(inputs)
        known = is_token([row["input_ids"] for row in inputs], collated)
        collated |= {} if known is None else {IS_TOKEN: known}
        batch: dict[str, Any] = {name: value.to(self.teacher.device) for name, value in collated.items()}
        label = examples[0].get("labels")
        if self.task == "text-classification" and label is not None:
            batch["labels"] = torch.as_tensor(label)  # whose type tells an ensemble what kind of problem it has
        extra = {"output_hidden_states": True} if self.layout.hidden_layers else {}
        output = self.teacher(batch, **extra)
        read = "labels" if self.task == "translation" else "input_ids"
        offsets = [_offset(ids, row[read]) for ids, row in zip(batch[read], inputs, strict=True)]
        everywhere = [np.arange(len(row[read])) for row in inputs]
        kept = [self._kept(example, where) for example, where in zip(examples, everywhere, strict=True)]
        logits = output["logits"][..., : self.teacher.tokens]
        found = self._columns(logits, kept, offsets, numbers, self.layout.logits, finite=False)
        for layer in self.layout.hidden_layers:
            of = "decoder_hidden_states" if self.task == "translation" else "hidden_states"
            states = output[of]
            if layer >= len(states):
                raise ValueError(f"hidden_layers: the teacher has layers 0 to {len(states) - 1}, got {layer}.")
            compress = functools.partial(self.layout.hidden, layer)
            found |= self._columns(states[layer], everywhere, offsets, numbers, compress, finite=True)
        return found

    def _inputs(self, example: dict[str, Any]) -> dict[str, Any]:
        inputs = self.teacher.inputs_from(example)
        if self.task == "translation":
            name = marks(example, self.task)
            inputs["labels"] = example[str(name)]
        return inputs

    def _kept(self, example: dict[str, Any], everywhere: np.ndarray) -> np.ndarray | None:
        """The positions of a row that are kept; None where it has one output a row."""
        if not TASKS[self.task].per_position:
            return None
        if self.task != "token-classification":
            return everywhere
        name = marks(example, self.task)
        values = np.asarray(example[str(name)])
        return np.flatnonzero(values != IGNORE_INDEX if name == "labels" else values == 1)

    def _columns(
        self,
        outputs: Tensor,
        kept: list[Any],
        offsets: list[int],
        numbers: np.ndarray,
        compress: Callable[[Tensor], dict[str, np.ndarray]],
        finite: bool,
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The compressed outputs (batch, [length,] width) at the positions that are kept; see `_usable`."""
        if kept[0] is None:
            counts = np.ones(len(kept), dtype=np.int64)
            chosen: Iterable[tuple[np.ndarray, Tensor]] = [(np.arange(len(kept)), outputs)]
        else:
            counts = np.array([len(where) for where in kept])
            rows = torch.from_numpy(np.repeat(np.arange(len(kept)), counts))
            places = torch.from_numpy(np.concatenate([o + w for o, w in zip(offsets, kept, strict=True)]))
            size = max(1, PIECE // outputs.shape[-1])
            at = list(zip(rows.split(size), places.split(size), strict=True))
            chosen = ((row.numpy(), outputs[row.to(outputs.device), place.to(outputs.device)]) for row, place in at)
        pieces = [compress(_usable(items.float(), numbers[row], finite)) for row, items in chosen]
        return {name: (np.concatenate([piece[name] for piece in pieces]), counts) for name in pieces[0]}


def _usable(items: Tensor, numbers: np.ndarray, finite: bool) -> Tensor:
    """The items (items, width) themselves, which belong to the rows of these numbers: (items,).

    All of their numbers have to be `finite`; or else -inf may rule a class out, though not all of them.
    """
    usable = items.isfinite().all(dim=-1) if finite else items.amax(dim=-1).isfinite()  # NaN is the greatest of all
    strange = ~usable
    if strange.any():
        raise ValueError(
            f"The teacher returned NaN or infinity for row {numbers[strange.cpu().numpy()].min()}. A teacher in half "
            "precision may overflow: load it with dtype=torch.float32 or pass bf16=True. Finished shards are kept."
        )
    return items


def _offset(padded: Tensor, row: list[int]) -> int:
    """How many positions a collator padded on the left."""
    values = padded.tolist()
    for offset in (0, len(values) - len(row)):
        if values[offset : offset + len(row)] == list(row):
            return offset
    raise ValueError(
        "The data_collator changed the rows that the teacher reads: shuffled, packed, cut or masked. Its outputs would "
        "stand beside other tokens. Use one that only pads."
    )


def pad(rows: list[dict[str, Any]], pad_id: int) -> dict[str, Tensor]:
    """Every column padded on the right to its longest row."""
    batch = {}
    for name in rows[0].keys() | {"attention_mask"}:
        fill = {"input_ids": pad_id, "labels": IGNORE_INDEX}.get(name, 0)
        values = [list(row.get(name, [1] * len(row["input_ids"]))) for row in rows]
        longest = max(map(len, values))
        batch[name] = torch.tensor([value + [fill] * (longest - len(value)) for value in values])
    return batch
