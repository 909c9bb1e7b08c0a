"""What better targets add: the demo's student with a calibrated teacher, and with cross-fitted ones.

    python benchmarks/better_targets.py --output benchmarks/results/better_targets.json

The recipe of the demo, in one folder for each seed, so that what two ways share is made once: the teacher, its cache,
the student's first weights. A seed draws the split, the teacher's head and order, the student's weights and its order.
Accuracy and calibration error of teacher and student on the seed's test tweets; the students differ by
`teacher.calibrate` and `teacher.cross_fit` alone. Seeds that stand in the output are not run again.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from scipy.special import softmax
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_distill import Recipe, run_recipe
from hf_distill.data.labelled import load
from hf_distill.data.tokenization import tokenize
from hf_distill.environment import has_fast_bf16
from hf_distill.evaluation.predictor import Predictor, predict_logits
from hf_distill.metrics import load as load_metric

RECIPE = Path(__file__).parents[1] / "examples" / "recipes" / "tweet-sentiment.yaml"
WAYS = {
    "as they are": [],
    "calibrate": ["--teacher.calibrate=true"],
    "cross_fit: 3": ["--teacher.cross_fit=3"],
}


def scores(folder: Path, test: datasets.Dataset) -> dict[str, float]:
    """Accuracy and calibration error of a saved model."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    rows = tokenize(test, tokenizer, max_length=128)
    reader = Predictor(model, rows, tokenizer)
    with reader.ready():
        logits = predict_logits(reader, rows, name=folder.name)
    labels = np.array(test["label"])
    return {
        "accuracy": round(float((logits.argmax(axis=-1) == labels).mean()), 5),
        "calibration_error": round(float(load_metric("calibration_error").score(logits, labels)), 5),
        "cross_entropy": round(float(-np.log(softmax(logits, axis=-1)[np.arange(len(labels)), labels]).mean()), 5),
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and each way's difference to the same seed's student of targets as they are."""
    found: dict[str, Any] = {}
    for way in ("teacher", *WAYS):
        each = [run[way] for run in runs if way in run]
        if each:
            found[way] = {name: round(statistics.mean(run[name] for run in each), 5) for name in each[0]}
        if each and way in list(WAYS)[1:]:
            gains = [run[way]["accuracy"] - run["as they are"]["accuracy"] for run in runs if way in run]
            found[way]["gain of each seed"] = [round(gain, 5) for gain in gains]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", default="outputs/better-targets")
    parser.add_argument("--output", type=Path, help="a JSON file, written after each student")
    parser.add_argument("words", nargs="*", help="changes to the recipe, `-- --distill.max_steps=10` for instance")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    runs: list[dict[str, Any]] = []
    if options.output and options.output.exists():
        before = json.loads(options.output.read_text(encoding="utf-8"))["runs"]
        runs = [run for run in before if set(WAYS) <= set(run)]
    for seed in sorted(set(range(options.seeds)) - {run["seed"] for run in runs}):
        runs.append({"seed": seed})
        for way, words in WAYS.items():
            folder = Path(options.folder) / str(seed)
            common = [f"--output_dir={folder}", f"--seed={seed}", "--distill.disable_tqdm=true", *options.words]
            recipe = Recipe.load(RECIPE, [*common, *words])
            run_recipe(recipe, only="distill")
            test = load(recipe.data, recipe.seed).test
            if "teacher" not in runs[-1]:
                runs[-1]["teacher"] = scores(folder / "teacher", test)
            runs[-1][way] = scores(folder / "student", test)
            print(f"seed {seed}, {way}: {runs[-1][way]}", flush=True)
            if options.output:
                record = {
                    "command": "python benchmarks/better_targets.py",
                    "mean": summary(runs),
                    "runs": runs,
                    "test_rows": len(test),
                    "environment": {
                        "torch": torch.__version__,
                        "transformers": transformers.__version__,
                        "threads": torch.get_num_threads(),
                        "bf16_teacher": has_fast_bf16(),
                    },
                }
                options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
