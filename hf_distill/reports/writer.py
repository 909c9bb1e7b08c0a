"""A generative model with its tokenizer, as reports use it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_distill.evaluation.cost import count_parameters, weights_bytes
from hf_distill.evaluation.generation_speed import Write
from hf_distill.evaluation.speed import BATCH
from hf_distill.export.session import FOLDER, QUANTIZED
from hf_distill.export.translator import GreedyTranslator
from hf_distill.teachers.generating import GeneratingTeacher, as_prompt

REPLY = 48  # tokens of a reply at most


@dataclass(frozen=True)
class Writer:
    """A model with the tokenizer that it writes with.

    Attributes:
        model: with `generate`.
        tokenizer: its own.
    """

    model: PreTrainedModel
    tokenizer: Any

    def writes(self, max_new_tokens: int, batch_size: int = BATCH, num_beams: int = 1) -> GeneratingTeacher:
        """What answers texts, without sampling."""
        return GeneratingTeacher(
            self.model,
            self.tokenizer,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            num_beams=num_beams,
            do_sample=False,
        )

    def reads(self, texts: Sequence[str]) -> np.ndarray:
        """(texts,) tokens that it reads before it writes: of a chat, with all that its template adds."""
        if self.model.config.is_encoder_decoder:
            return np.array([len(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]])
        return np.array([len(as_prompt(text, self.tokenizer)) for text in texts])

    def tokens(self, texts: Sequence[str]) -> int:
        """How many of its tokens some texts are that it wrote, with one for the end of each."""
        read = self.tokenizer(text_target=list(texts), add_special_tokens=False, verbose=False)
        return sum(map(len, read["input_ids"])) + len(texts)

    @property
    def size(self) -> dict[str, int]:
        """Its `parameters` and the `bytes` of its weights."""
        return {"parameters": count_parameters(self.model), "bytes": weights_bytes(self.model)}


def count_words(texts: Sequence[str]) -> int:
    """The number of words in some texts, split at white space."""
    return sum(len(text.split()) for text in texts)


def stripped(texts: Sequence[str]) -> np.ndarray:
    """(texts,) without white space around them."""
    return np.array([text.strip() for text in texts], dtype=object)


def write_in_batches(write: Write, texts: list[str]) -> list[str]:
    """Translations, the longest texts first, so that a batch is padded little."""
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
    written: dict[int, str] = {}
    for start in range(0, len(order), BATCH):
        numbers = order[start : start + BATCH]
        written |= dict(zip(numbers, write([texts[number] for number in numbers]), strict=True))
    return [written[number] for number in range(len(texts))]


def onnx_files_of(folder: Path, quantized: bool) -> list[Path]:
    """The exported files of a translator, float32 or int8."""
    return [folder / FOLDER / f"{part}{QUANTIZED * quantized}.onnx" for part in ("encoder_model", "decoder_model")]


def onnx_writers(student: Writer, folder: str | Path | None, max_new_tokens: int) -> dict[str, Write]:
    """What the student's exported files write, by `onnx float32` and `onnx int8`."""
    if folder is None:
        return {}
    made: dict[str, Write] = {}
    for name, quantized in (("onnx float32", False), ("onnx int8", True)):
        if not all(file.exists() for file in onnx_files_of(Path(folder), quantized)):
            continue
        run = GreedyTranslator(folder, quantized=quantized, threads=torch.get_num_threads())

        def write(texts: list[str], run: GreedyTranslator = run) -> list[str]:
            read = student.tokenizer(list(texts), padding=True, return_tensors="np")
            ids = run(read["input_ids"].astype(np.int64), read["attention_mask"].astype(np.int64), max_new_tokens)
            return student.tokenizer.batch_decode(ids[:, 1:], skip_special_tokens=True)

        made[name] = write
    return made
