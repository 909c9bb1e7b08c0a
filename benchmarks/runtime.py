"""A student without torch: `hf_distill.runtime` against a pipeline of transformers, both on the same exported folder.

    python benchmarks/runtime.py --output benchmarks/results/runtime.json

The student is the demo's, `outputs/demo/student` of `make demo`. Without it, the student has the demo's size, a
tokenizer of the demo's tweets and random weights; the record says so. Times and memory do not depend on what weights
say; labels do. Compared, each with one thread:

- one text a call, from text to label: pipeline and runtime (float32 and int8) in turns in one process, eight texts a
  turn and each turn begun by a call that is not timed;
- start and peak memory, of new processes in turns that import, load, answer one text and then 200: the runtime is the
  copy in the student's folder;
- labels on the demo's test tweets: of the runtime, and of `examples/javascript/classify.mjs` where node and its
  packages are installed. In float32 a text counts where the pipeline's two best scores are more than 1e-4 apart.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers
from transformers import AutoTokenizer, pipeline

from hf_distill import LSTMStudentConfig, LSTMStudentForSequenceClassification, export_onnx, student_tokenizer
from hf_distill.data.labelled import load
from hf_distill.paths import resolve
from hf_distill.recipes.recipe import Recipe
from hf_distill.runtime import Student

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "examples" / "recipes" / "tweet-sentiment.yaml"
SCRIPT = ROOT / "examples" / "javascript" / "classify.mjs"
TURN, MARGIN = 8, 1e-4
TARGETS = {
    "faster": 3.5,  # times, one text, float32
    "first_answer_seconds": 0.5,  # from before the import
    "memory_ratio": 1 / 3,
    "same_label": 1.0,
    "node_same_label": 1.0,
    "node_int8_same_label": 0.998,
}
# Each prints the seconds of its import and until its first answer, and its peak memory after 200 texts, in bytes.
PROGRAM = r"""
import json, re, resource, sys, time
folder, texts = sys.argv[1], json.load(open(sys.argv[2]))
began = time.perf_counter()
{load}
classify(texts[:1])
answered = time.perf_counter() - began
classify(texts[:200])
try:  # on Linux ru_maxrss is at least that of the process that started this one
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])
except FileNotFoundError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([imported - began, answered, peak]))
"""
RUNTIME = """
sys.path.insert(0, folder)
import runtime
imported = time.perf_counter()
classify = runtime.Student(folder, threads=1)
"""
PIPELINE = """
import torch
from transformers import pipeline
from transformers.utils import logging
import hf_distill
imported = time.perf_counter()
torch.set_num_threads(1)
logging.disable_progress_bar()
read = pipeline("text-classification", folder)
classify = lambda texts: read(texts, truncation=True)
"""


def fresh_student(folder: Path, texts: Sequence[str], recipe: Recipe) -> None:
    """A student of the demo's size with a tokenizer of its texts and random weights, saved and exported."""
    torch.manual_seed(0)
    teacher = AutoTokenizer.from_pretrained(resolve(recipe.teacher.model))
    tokenizer = student_tokenizer(teacher, texts, vocab_size=recipe.student.vocab_size)
    names = dict(enumerate(recipe.data.labels))
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **recipe.student.config}
    # Larger weights than those a training starts from: labels then differ from text to text.
    config = LSTMStudentConfig(**sizes, id2label=names, initializer_range=0.3)
    student = LSTMStudentForSequenceClassification(config)
    student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    export_onnx(student, folder)


def one_text(classifiers: dict[str, Callable[[list[str]], Any]], texts: Sequence[str], calls: int) -> dict[str, float]:
    """The median milliseconds of a call with one text, by classifier."""
    times: dict[str, list[float]] = {name: [] for name in classifiers}
    for turn in range(-(-calls // TURN)):
        for name, classify in classifiers.items():
            classify([texts[0]])
            for number in range(TURN):
                given = [texts[(TURN * turn + number) % len(texts)]]
                start = time.perf_counter()
                classify(given)
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in times.items()}


def processes(folder: Path, texts: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds and bytes of new processes, medians over the rounds."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    found: dict[str, list[list[float]]] = {"runtime": [], "pipeline": []}
    for _ in range(rounds):
        for name, load_it in (("runtime", RUNTIME), ("pipeline", PIPELINE)):
            words = [sys.executable, "-c", PROGRAM.replace("{load}", load_it.strip()), str(folder), str(texts)]
            done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    names = ("import_seconds", "first_answer_seconds", "peak_bytes")
    return {
        name: dict(zip(names, map(statistics.median, zip(*rows, strict=True)), strict=True))
        for name, rows in found.items()
    }


def in_node(folder: Path, texts: Path, int8: bool) -> list[str]:
    """The labels that node gives."""
    words = ["node", str(SCRIPT), str(folder), "--file", str(texts), *(["--int8"] if int8 else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [json.loads(line)["label"] for line in done.stdout.splitlines()]


def share(got: Sequence[str], wanted: Sequence[str], counted: np.ndarray | None = None) -> float:
    """Of the texts that are counted, those with the same label."""
    equal = np.array(got) == np.array(wanted)
    return float(equal.mean() if counted is None else equal[counted].mean())


def labels(
    student: Student, quantized: Student, classify: Any, folder: Path, texts: list[str], file: Path
) -> dict[str, Any]:
    """Shares of the texts with the label that the pipeline gives."""
    best = [classify(text, truncation=True, top_k=2) for text in texts]
    wanted = [one["label"] for one, _ in best]
    counted = np.array([one["score"] - other["score"] > MARGIN for one, other in best])
    found: dict[str, Any] = {"texts": len(texts), "texts_counted": int(counted.sum()), "classes": len({*wanted})}
    found["same_label"] = share([each["label"] for each in student(texts)], wanted, counted)
    found["int8_same_label"] = share([each["label"] for each in quantized(texts)], wanted)
    if shutil.which("node") is None or not (SCRIPT.parent / "node_modules").is_dir():
        return found | {"node": "not measured: node, or the packages of examples/javascript, are not installed"}
    found["node_same_label"] = share(in_node(folder, file, False), wanted, counted)
    in_int8 = [quantized([text])[0]["label"] for text in texts]  # alone, as in node
    return found | {"node_int8_same_label": share(in_node(folder, file, True), in_int8)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", type=Path, default=ROOT / "outputs" / "demo" / "student")
    parser.add_argument("--calls", type=int, default=800, help="with one text, of each")
    parser.add_argument("--rounds", type=int, default=5, help="of new processes")
    parser.add_argument("--texts", type=int, default=3000, help="of the demo's test set")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    recipe = Recipe.load(RECIPE)
    splits = load(recipe.data, recipe.seed)
    texts = list(splits.test["text"])[: options.texts]
    with tempfile.TemporaryDirectory() as temporary:
        folder, file = options.student, Path(temporary) / "texts.json"
        trained = (folder / "onnx" / "model.onnx").is_file()
        if not trained:
            folder = Path(temporary) / "student"
            fresh_student(folder, list(splits.train["text"]), recipe)
        file.write_text(json.dumps(texts), encoding="utf-8")
        read = pipeline("text-classification", str(folder))
        student, quantized = Student(folder, threads=1), Student(folder, int8=True, threads=1)
        classifiers = {
            "pipeline": lambda given: read(given, truncation=True),
            "runtime": student,
            "runtime_int8": quantized,
        }
        with torch.inference_mode():
            milliseconds = one_text(classifiers, texts, options.calls)
        started = processes(folder, file, options.rounds)
        found = labels(student, quantized, read, folder, texts, file)
    ratios = {
        "faster": milliseconds["pipeline"] / milliseconds["runtime"],
        "faster_int8": milliseconds["pipeline"] / milliseconds["runtime_int8"],
        "first_answer_seconds": started["runtime"]["first_answer_seconds"],
        "memory_ratio": started["runtime"]["peak_bytes"] / started["pipeline"]["peak_bytes"],
    }
    for name, limit in TARGETS.items():
        got = (ratios | found).get(name)
        lower = name in ("first_answer_seconds", "memory_ratio")
        held = got is not None and (got <= limit if lower else got >= limit)
        told = "not measured" if got is None else f"{got:.4g} ({'reached' if held else 'MISSED'})"
        print(f"{name}: {told}, wanted {'at most' if lower else 'at least'} {limit:.4g}")
    record = {
        "command": "python benchmarks/runtime.py",
        "what": "an exported student: hf_distill.runtime against a pipeline of transformers in torch, one thread each",
        "student": "outputs/demo/student"
        if trained
        else "of the demo's size, with random weights: labels mean nothing",
        "one_text_ms": milliseconds,
        "new_process": started,
        "ratios": ratios,
        "labels": found,
        "targets": TARGETS,
        "calls": options.calls,
        "rounds": options.rounds,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(rounded(record), indent=2) + "\n")


def rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: rounded(value) for name, value in values.items()}
    return float(f"{values:.4g}") if isinstance(values, float) else values


if __name__ == "__main__":
    main()
