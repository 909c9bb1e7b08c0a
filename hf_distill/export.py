"""A student, or its teacher, as ONNX files in float32 and int8, each compared with the model before it is kept."""

import copy
import importlib.util
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_distill.students import LSTMStudentForSeq2SeqLM
from hf_distill.students.modeling_lstm import LSTMState
from hf_distill.tasks import base_model, task_of
from hf_distill.teacher import forward_arguments

OPSET = 17  # the first with LayerNormalization as one operator
TOLERANCE = 1e-5  # of logits around 1, and relative for larger ones
TRACED = (2, 8)  # batch and length of the example that the graph is recorded from
CHECKED = ((1, 1), (3, 5), (4, 33))  # batches and lengths, all unlike the example's, that the files are checked on
LARGEST = 2**31  # bytes of a protobuf file
FOLDER = "onnx"  # where transformers.js and sentence-transformers look
QUANTIZED = "_quantized"
QUANTIZED_OPERATORS = ["LSTM", "MatMul", "Gemm", "Gather"]  # Gather: the table of token embeddings
DECODING = "hf_distill.decoding"  # key of the token ids that a decoder's file carries


@dataclass(frozen=True)
class Graph:
    """One ONNX file to be.

    Attributes:
        module: takes the inputs by position and returns a tuple of the outputs.
        inputs: name to axes, each an axis number to its name; these axes take any size.
        outputs: likewise.
        example: random inputs by name, from a batch size, a length and whether to pad on the left.
        metadata: text that the file carries along.
    """

    module: nn.Module
    inputs: Mapping[str, Mapping[int, str]]
    outputs: Mapping[str, Mapping[int, str]]
    example: Callable[[int, int, bool], dict[str, Tensor]]
    metadata: Mapping[str, str]


def export_onnx(
    student: nn.Module,
    folder: str | Path,
    int8: bool = True,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    opset: int = OPSET,
) -> dict[str, Path]:
    """Write a model as ONNX files that need neither torch nor this package.

    Classifiers and taggers become `onnx/model.onnx`: `input_ids`, `attention_mask` and, where the model tells segments
    apart, `token_type_ids` in, `logits` out, for any batch and length. LSTM translators become
    `onnx/encoder_model.onnx` and `onnx/decoder_model.onnx`, which `GreedyTranslator` runs. With int8, each has a
    `_quantized` sibling a quarter of its size.

    The float32 files are compared with the model on random batches of other sizes, padded on either side. Nothing is
    moved into the folder before all files are complete, and files of an earlier export do not outlive a new one.

    Args:
        student: an LSTM student with a classification, tagging or translation head, or a Transformer with one of the
            first two, such as the teacher; PEFT adapters are merged. It is not changed: a copy is exported.
        folder: usually the one that `save_pretrained` wrote to.
        int8: whether to write quantised files too. Weights and embeddings are stored in 8 bits, and activations are
            quantised on the fly, so no calibration data is needed; measure what it costs on your texts.
        tokenizer: written beside them, so that the folder has all that is needed to run the files.
        opset: version of ONNX's operators.
    Returns:
        The written files, by name without extension, such as `model` and `model_quantized`.
    Raises:
        ImportError: onnx or onnxruntime is missing.
        ValueError: the model cannot be exported, it gives other logits once it is, or the tokenizer is not its own.
    """
    _require("onnx", "onnxruntime")
    graphs = _graphs(student)
    _check_tokenizer(student, tokenizer)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Inside the folder, so that moving the files is renaming them.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as temporary:
        staged = Path(temporary)
        (staged / FOLDER).mkdir()
        for name, graph in graphs.items():
            exact, quantized = (staged / FOLDER / f"{name}{ending}.onnx" for ending in ("", QUANTIZED))
            _record(graph, exact, opset)
            _compare(graph, exact)
            if int8:
                _quantize(exact, quantized)
                _compare(graph, quantized, exactly=False)
        if tokenizer is not None:
            tokenizer.save_pretrained(staged)
        return _move(staged, folder, stale=[] if int8 else [f"{FOLDER}/{name}{QUANTIZED}.onnx" for name in graphs])


class GreedyTranslator:
    """Runs the files of an exported LSTM translator with onnxruntime alone, as greedy `generate` runs the model.

    Args:
        folder: that `export_onnx` wrote to.
        quantized: whether to run the int8 files.
        threads: of each session. None: onnxruntime's choice.
    Raises:
        ImportError: onnxruntime is missing.
        ValueError: the files are not there.
    """

    def __init__(self, folder: str | Path, *, quantized: bool = False, threads: int | None = None) -> None:
        _require("onnxruntime")
        files = [Path(folder) / FOLDER / f"{name}{QUANTIZED * quantized}.onnx" for name in TRANSLATOR]
        for file in files:
            if not file.exists():
                raise ValueError(
                    f"Expected {file}, which is not there. Write it with export_onnx(student, {str(folder)!r}"
                    f"{', int8=True' * quantized}); only sequence-to-sequence students have an encoder and a decoder."
                )
        self.encoder, self.decoder = (open_session(file, threads) for file in files)
        self.ids = json.loads(self.decoder.get_modelmeta().custom_metadata_map[DECODING])

    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray, max_new_tokens: int = 128) -> np.ndarray:
        """The most likely next token, again and again.

        Args:
            input_ids: (batch, source) int64.
            attention_mask: (batch, source) int64, nonzero where a token counts.
            max_new_tokens: after which to stop, whether or not all rows have ended.
        Returns:
            (batch, target) int64: the start token and what follows, padded behind the end of a sentence.
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


class Classifier(nn.Module):
    """A classifier or tagger that takes its inputs by position."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        """The logits, (batch, classes) or (batch, length, classes)."""
        return (self.model(**dict(zip(self.names, inputs, strict=True)), return_dict=True).logits,)


class TranslatorEncoder(nn.Module):
    """What an LSTM translator does once for each source text."""

    def __init__(self, model: LSTMStudentForSeq2SeqLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, length, size) states; (batch, layers, hidden_size) hidden and cell that the decoder starts from."""
        config = self.model.config
        encoded = self.model.lstm(input_ids, attention_mask, return_dict=True)
        start = self.model.bridge(encoded.pooler_output).tanh()
        hidden, cell = start.unflatten(-1, (2, config.num_layers, config.hidden_size)).unbind(1)
        return encoded.last_hidden_state, hidden, cell


class TranslatorStep(nn.Module):
    """What an LSTM translator does for each target token."""

    def __init__(self, model: LSTMStudentForSeq2SeqLM) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, decoder_input_ids: Tensor, source: Tensor, attention_mask: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, 1, vocabulary) logits of the next token, and the hidden and cell to go on from."""
        outputs = self.model(
            decoder_input_ids=decoder_input_ids,
            encoder_outputs=BaseModelOutputWithPooling(last_hidden_state=source),
            attention_mask=attention_mask,
            cache_params=LSTMState(hidden, cell),
            use_cache=True,
            return_dict=True,
        )
        return outputs.logits, outputs.cache_params.hidden, outputs.cache_params.cell


TRANSLATOR = {"encoder_model": TranslatorEncoder, "decoder_model": TranslatorStep}


def _graphs(student: nn.Module) -> dict[str, Graph]:
    """What to write for a model, by the name of the file."""
    base = base_model(student)
    kind = type(base).__name__
    if not isinstance(base, PreTrainedModel):
        raise ValueError(f"Expected a transformers model, got {kind}. Of an ensemble, export the members one by one.")
    translates = isinstance(base, LSTMStudentForSeq2SeqLM)
    if not translates and task_of(base).name not in ("text-classification", "token-classification"):
        raise ValueError(
            f"There is no ONNX export for {kind}: expected a model for sequence or token classification, or an "
            "LSTMStudentForSeq2SeqLM. Transformers that write text are exported by `optimum-cli export onnx`."
        )
    if getattr(base, "is_quantized", False):
        raise ValueError(
            f"This {kind} is quantised, and its layers have no counterpart in ONNX. Load it without "
            "quantization_config; int8=True then writes a quantised file."
        )
    if len(set((getattr(base, "hf_device_map", None) or {}).values())) > 1:
        raise ValueError(
            f"This {kind} is spread over several devices: {base.hf_device_map}. Load it without device_map."
        )
    size = 4 * sum(parameter.numel() for parameter in base.parameters())
    if size > LARGEST:
        raise ValueError(
            f"This {kind} has {size / 1e9:.1f} GB of float32 weights, and an ONNX file holds at most "
            f"{LARGEST / 1e9:.1f} GB. Export the student, or use `optimum-cli export onnx`."
        )
    model = _exact_copy(student)
    return _translator(model) if translates else {"model": _classifier(model)}


def _exact_copy(student: nn.Module) -> Any:
    """A copy in float32 on the CPU, in evaluation mode, without adapters."""
    copied: Any = copy.deepcopy(student)
    if hasattr(copied, "merge_and_unload"):
        copied = copied.merge_and_unload()
    # Mixed precision training hides the forward of an instance behind one that still runs the original.
    vars(copied).pop("forward", None)
    return copied.to(device="cpu", dtype=torch.float32).eval()


def _classifier(model: PreTrainedModel) -> Graph:
    names = ["input_ids", "attention_mask"]
    # LSTM students and RoBERTa take token_type_ids too, but to no effect.
    segments = getattr(model.config, "type_vocab_size", 0) or 0
    if segments > 1 and "token_type_ids" in forward_arguments(model):
        names.append("token_type_ids")
    text = {0: "batch", 1: "length"}

    def example(batch: int, length: int, left: bool) -> dict[str, Tensor]:
        made = _random_texts(model.config, batch, length, left)
        made["token_type_ids"] = torch.arange(made["input_ids"].numel()).view_as(made["input_ids"]) % 2
        return {name: made[name] for name in names}

    return Graph(
        module=Classifier(model, names).eval(),
        inputs=dict.fromkeys(names, text),
        outputs={"logits": text if task_of(model).per_position else {0: "batch"}},
        example=example,
        metadata={},
    )


def _translator(model: LSTMStudentForSeq2SeqLM) -> dict[str, Graph]:
    config, batch, source = model.config, {0: "batch"}, {0: "batch", 1: "length"}
    ids = {"start": config.decoder_start_token_id, "end": config.eos_token_id, "pad": config.pad_token_id}
    encoder, step = TranslatorEncoder(model).eval(), TranslatorStep(model).eval()

    def step_example(rows: int, length: int, left: bool) -> dict[str, Tensor]:
        texts = _random_texts(config, rows, length, left)
        with torch.no_grad():
            states, hidden, cell = encoder(**texts)
        return {
            "decoder_input_ids": texts["input_ids"][:, :1],
            "encoder_hidden_states": states,
            "encoder_attention_mask": texts["attention_mask"],
            "hidden": hidden,
            "cell": cell,
        }

    return {
        "encoder_model": Graph(
            module=encoder,
            inputs={"input_ids": source, "attention_mask": source},
            outputs={"encoder_hidden_states": source, "hidden": batch, "cell": batch},
            example=lambda rows, length, left: _random_texts(config, rows, length, left),
            metadata={},
        ),
        "decoder_model": Graph(
            module=step,
            inputs={
                "decoder_input_ids": batch,
                "encoder_hidden_states": source,
                "encoder_attention_mask": source,
                "hidden": batch,
                "cell": batch,
            },
            outputs={"logits": batch, "next_hidden": batch, "next_cell": batch},
            example=step_example,
            metadata={DECODING: json.dumps(ids)},
        ),
    }


def _random_texts(config: Any, batch: int, length: int, left: bool) -> dict[str, Tensor]:
    """(batch, length) input_ids and attention_mask: the first row is full, the others are padded."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions:
        length = max(1, min(length, positions - 2))  # RoBERTa gives away its first two
    # A generator of its own: an export must not change what is drawn afterwards.
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    input_ids = torch.randint(config.vocab_size, (batch, length), generator=generator)
    lengths = torch.randint(1, length + 1, (batch, 1), generator=generator)
    lengths[0] = length
    attention_mask = (torch.arange(length) < lengths).long()
    if left:
        attention_mask = attention_mask.flip(1)
    pad = getattr(config, "pad_token_id", None) or 0
    return {"input_ids": input_ids.masked_fill(attention_mask == 0, pad), "attention_mask": attention_mask}


def _record(graph: Graph, file: Path, opset: int) -> None:
    """Write the float32 file.

    Uses torch's exporter by tracing, deprecated since torch 2.9 and still there in 2.13. The one that follows it
    (`dynamo=True`, https://docs.pytorch.org/docs/stable/onnx_export.html) keeps the length of the example for an
    `nn.LSTM`: "Constraints violated". This can go over to it once tests/test_export.py passes with it.
    """
    import onnx

    inputs = graph.example(*TRACED, False)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # Of the deprecation, and of values that a trace might have taken for constants: `_compare` sees to those.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.module,
                tuple(inputs.values()),
                str(file),
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_axes={name: dict(axes) for name, axes in {**graph.inputs, **graph.outputs}.items()},
                opset_version=opset,
                dynamo=False,
            )
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"torch could not write {file.name} with opset {opset}: {error}. The model, or this opset, has an operator "
            "that its exporter does not know; nothing was written."
        ) from error
    if graph.metadata:
        written = onnx.load(file)
        onnx.helper.set_model_props(written, dict(graph.metadata))
        onnx.save(written, file)


def _compare(graph: Graph, file: Path, exactly: bool = True) -> None:
    """Run a file on batches that it was not recorded from.

    Args:
        exactly: whether the outputs must be the module's; else they need only be numbers of the right shape.
    Raises:
        ValueError: they are not.
    """
    session = open_session(file, torch.get_num_threads())
    for batch, length in CHECKED:
        for left in (False, True):
            inputs = graph.example(batch, length, left)
            with torch.no_grad():
                expected = [output.numpy() for output in graph.module(*inputs.values())]
            where = f"{batch} texts of up to {length} tokens, padded on the {'left' if left else 'right'}"
            try:
                got = session.run(None, {name: value.numpy() for name, value in inputs.items()})
            except Exception as error:  # onnxruntime's errors have no base class of their own
                raise ValueError(
                    f"{file.name} cannot read {where}: {error}. A size of the example was recorded as a constant, so "
                    "this model cannot be exported by tracing; nothing was written."
                ) from error
            for name, ours, theirs in zip(graph.outputs, got, expected, strict=True):
                fits = ours.shape == theirs.shape and bool(np.isfinite(ours).all())
                if fits and exactly:
                    fits = np.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)
                if not fits:
                    difference = np.abs(ours - theirs).max() if ours.shape == theirs.shape else float("nan")
                    raise ValueError(
                        f"{file.name} gives other {name} than the model on {where}: shape {ours.shape} instead of "
                        f"{theirs.shape}, values up to {difference:.2g} apart where "
                        f"{f'{TOLERANCE:g} is allowed' if exactly else 'finite ones are expected'}. It would silently "
                        "predict something else, so nothing was written."
                    )


def _quantize(source: Path, target: Path) -> None:
    """Write the int8 sibling of a float32 file.

    On the 3,000 test tweets of the demo, 99.93 % keep their label with the LSTM student (4.6 MB to 1.2 MB) and 99.5 %
    with its MiniLM-L6 teacher (91 MB to 23 MB): `python benchmarks/latency.py --student outputs/demo/student
    --teacher outputs/demo/teacher --recipe examples/recipes/tweet-sentiment.yaml`.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic

    recurrent = any(node.op_type == "LSTM" for node in onnx.load(source).graph.node)
    prepared = target.with_suffix(".prepared")
    quant_pre_process(str(source), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
    quantize_dynamic(
        prepared,
        target,
        op_types_to_quantize=QUANTIZED_OPERATORS,
        # Processors without VNNI add pairs of signed × unsigned products in 16 bits, which saturate. An LSTM avoids
        # that by unsigned weights at no cost. They make a Transformer several times slower, so it gives up one bit; and
        # its outliers call for a scale a channel.
        weight_type=QuantType.QUInt8 if recurrent else QuantType.QInt8,
        per_channel=not recurrent,
        reduce_range=not recurrent,
    )
    prepared.unlink()


def _move(staged: Path, folder: Path, stale: Sequence[str]) -> dict[str, Path]:
    """Move complete files into their folder, and remove those of an earlier export that have no successor."""
    (folder / FOLDER).mkdir(exist_ok=True)
    for name in stale:
        (folder / name).unlink(missing_ok=True)
    written = {}
    for file in sorted(path for path in staged.rglob("*") if path.is_file()):
        target = folder / file.relative_to(staged)
        os.replace(file, target)
        written[target.stem] = target
    return written


def open_session(file: str | Path, threads: int | None = None) -> Any:
    """An `onnxruntime.InferenceSession` of a file, on the processor.

    Args:
        file: that `export_onnx` wrote.
        threads: that it may use. None: onnxruntime's choice.
    Raises:
        ImportError: onnxruntime is missing.
    """
    _require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _check_tokenizer(student: nn.Module, tokenizer: PreTrainedTokenizerBase | None) -> None:
    words = base_model(student).config.vocab_size
    if tokenizer is not None and len(tokenizer) > words:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, but the model only {words} embeddings, so it cannot read "
            "some of them. Give the tokenizer that the model was trained with."
        )


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"ONNX files need {' and '.join(missing)}, not installed here. Run: pip install 'hf-distill[onnx]'"
        )
