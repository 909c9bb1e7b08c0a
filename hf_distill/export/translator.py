"""Translate with an exported student."""

import json
from pathlib import Path

import numpy as np

from hf_distill.export.graphs import TranslatorEncoder, TranslatorStep
from hf_distill.export.session import DECODING, FOLDER, QUANTIZED, open_session, require_onnx


class GreedyTranslator:
    """Greedy decoding with the ONNX files of an LSTM translator, like `generate` without sampling or beams.

    Args:
        folder: the one that `export_onnx` wrote.
        quantized: whether to use the int8 files.
        threads: number of threads of each session. None: onnxruntime's default.
    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: the files do not exist.
    """

    def __init__(self, folder: str | Path, *, quantized: bool = False, threads: int | None = None) -> None:
        require_onnx("onnxruntime")
        files = [Path(folder) / FOLDER / f"{name}{QUANTIZED * quantized}.onnx" for name in TRANSLATOR]
        for file in files:
            if not file.exists():
                raise ValueError(
                    f"Expected {file}, which does not exist. Write it with export_onnx(student, {str(folder)!r}"
                    f"{', int8=True' * quantized}); only sequence-to-sequence students have an encoder and a decoder."
                )
        self.encoder, self.decoder = (open_session(file, threads) for file in files)
        self.ids = json.loads(self.decoder.get_modelmeta().custom_metadata_map[DECODING])

    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray, max_new_tokens: int = 128) -> np.ndarray:
        """Translate a batch of tokenized texts.

        Args:
            input_ids: (batch, source) int64.
            attention_mask: (batch, source) int64, nonzero where a token counts.
            max_new_tokens: maximum number of generated tokens.
        Returns:
            (batch, target) int64: the start token and the generated tokens, padded after the end of a sentence.
        """
        source, hidden, cell = self.encoder.run(None, {"input_ids": input_ids, "attention_mask": attention_mask})
        written = [np.full((len(input_ids), 1), self.ids["start"], dtype=np.int64)]
        ended = np.zeros((len(input_ids), 1), dtype=bool)
        for _ in range(max_new_tokens):
            logits, hidden, cell = self.decoder.run(
                None,
                {
                    "decoder_input_ids": written[-1],
                    "encoder_hidden_states": source,
                    "encoder_attention_mask": attention_mask,
                    "hidden": hidden,
                    "cell": cell,
                },
            )
            written.append(np.where(ended, self.ids["pad"], logits.argmax(axis=-1)))
            ended |= np.isin(written[-1], self.ids["end"])
            if ended.all():
                break
        return np.concatenate(written, axis=1)


TRANSLATOR = {"encoder_model": TranslatorEncoder, "decoder_model": TranslatorStep}
