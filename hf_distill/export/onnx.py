"""Export a student or its teacher to ONNX files in float32 and int8; each file is compared with the model."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_distill.export.graphs import Graph, graphs_of
from hf_distill.export.session import FOLDER, QUANTIZED, open_session, require_onnx
from hf_distill.models import base_model

OPSET = 17  # the first with LayerNormalization as one operator
TOLERANCE = 1e-5  # of logits around 1, and relative for larger ones
TRACED = (2, 8)  # batch and length of the example that the graph is traced with
CHECKED = ((1, 1), (3, 5), (4, 33))  # batches and lengths of the checks, all different from the example's
RUNTIME = Path(__file__).parents[1] / "runtime.py"
QUANTIZED_OPERATORS = ["LSTM", "MatMul", "Gemm", "Gather"]  # Gather: the table of token embeddings


def export_onnx(
    student: nn.Module,
    folder: str | Path,
    int8: bool = True,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    opset: int = OPSET,
) -> dict[str, Path]:
    """Write a model as ONNX files that need neither torch nor this package.

    A classifier or tagger becomes `onnx/model.onnx`. Its inputs are `input_ids`, `attention_mask` and, for models with
    segment embeddings, `token_type_ids`; its output is `logits`; batch and length are dynamic. An LSTM translator
    becomes `onnx/encoder_model.onnx` and `onnx/decoder_model.onnx`, which `GreedyTranslator` runs. With int8, each file
    has a `_quantized` variant of a quarter of the size. A classifier or tagger also gets `runtime.py`, a copy of
    `hf_distill.runtime`, which runs the files without torch and without this package.

    The float32 files are compared with the model on random batches of other sizes, with padding on either side. Files
    are moved into the folder only when all are complete, and replace those of an earlier export.

    Args:
        student: an LSTM student with a classification, tagging or translation head, or a Transformer with one of the
            first two, such as the teacher; PEFT adapters are merged. It is not changed: a copy is exported.
        folder: usually the one that `save_pretrained` wrote.
        int8: whether to write quantised files too. Weights and embeddings are stored in 8 bits; activations are
            quantised dynamically, so no calibration data is needed. Measure the loss of quality on your own texts.
        tokenizer: saved in the same folder, so that it has everything that is needed to run the files.
        opset: version of the ONNX operator set.
    Returns:
        The written files, by name without extension, for example `model`, `model_quantized` and `runtime`.
    Raises:
        ImportError: onnx or onnxruntime is not installed.
        ValueError: the model cannot be exported, the exported file gives other logits, or the tokenizer does not fit.
    """
    require_onnx("onnx", "onnxruntime")
    graphs = graphs_of(student)
    _check_tokenizer(student, tokenizer)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Inside the folder, so that moving a file is a rename on one file system.
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
        if "model" in graphs:
            shutil.copyfile(RUNTIME, staged / RUNTIME.name)
        if tokenizer is not None:
            tokenizer.save_pretrained(staged)
        return _move(staged, folder, stale=[] if int8 else [f"{FOLDER}/{name}{QUANTIZED}.onnx" for name in graphs])


def _record(graph: Graph, file: Path, opset: int) -> None:
    """Write the float32 file.

    Uses torch's tracing exporter, which is deprecated since torch 2.9 and still available in 2.13. Its successor
    (`dynamo=True`, https://docs.pytorch.org/docs/stable/onnx_export.html) fixes the length of an `nn.LSTM` to that of
    the example: "Constraints violated". Switch to it once tests/export/test_onnx.py passes with it.
    """
    import onnx

    inputs = graph.example(*TRACED, False)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # Warnings of the deprecation, and of values that a trace may have made constants: `_compare` checks those.
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
            f"torch could not write {file.name} with opset {opset}: {error}. The model or this opset has an operator "
            f"that the exporter does not support. Nothing was written; the default opset is {OPSET}."
        ) from error
    if graph.metadata:
        written = onnx.load(file)
        onnx.helper.set_model_props(written, dict(graph.metadata))
        onnx.save(written, file)


def _compare(graph: Graph, file: Path, exactly: bool = True) -> None:
    """Compare an ONNX file with its module on batches of other sizes than the example's.

    Args:
        graph: the graph that the file was written from.
        file: the ONNX file.
        exactly: whether the outputs must equal the module's; otherwise they must be finite and of the right shape.
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
                    f"{file.name} cannot run {where}: {error}. A size of the example was recorded as a constant, so "
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
                        f"{f'{TOLERANCE:g} is allowed' if exactly else 'finite ones are expected'}. Its predictions "
                        "would silently differ from the model's, so nothing was written."
                    )


def _quantize(source: Path, target: Path) -> None:
    """Write the int8 variant of a float32 file.

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
        # that by unsigned weights at no cost. Unsigned weights make a Transformer several times slower, so its weights
        # have one bit less; and its outliers require one scale per channel.
        weight_type=QuantType.QUInt8 if recurrent else QuantType.QInt8,
        per_channel=not recurrent,
        reduce_range=not recurrent,
    )
    prepared.unlink()


def _move(staged: Path, folder: Path, stale: Sequence[str]) -> dict[str, Path]:
    """Move complete files into their folder, and remove files of an earlier export that are not replaced."""
    (folder / FOLDER).mkdir(exist_ok=True)
    for name in stale:
        (folder / name).unlink(missing_ok=True)
    written = {}
    for file in sorted(path for path in staged.rglob("*") if path.is_file()):
        target = folder / file.relative_to(staged)
        os.replace(file, target)
        written[target.stem] = target
    return written


def _check_tokenizer(student: nn.Module, tokenizer: PreTrainedTokenizerBase | None) -> None:
    rows = base_model(student).config.vocab_size
    if tokenizer is not None and len(tokenizer) > rows:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, but the model only {rows} embeddings, so some tokens have "
            "none. Give the tokenizer that the model was trained with."
        )
