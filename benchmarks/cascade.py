"""A cascade on the tweets: accuracy by the share that is handed over, whether the promise is kept, another domain.

    make demo
    .venv/bin/hf-distill run examples/recipes/tweet-sentiment.yaml --compare.more_seeds '[1, 2]'
    OMP_NUM_THREADS=2 python benchmarks/cascade.py --run outputs/demo --other bible_en_es.tsv.gz \\
        --output benchmarks/results/cascade.json

The population: labelled tweets that no student was trained on, 3,000 of the test set, and 1,000 of the validation
set, which chose among checkpoints. Student and teacher answer each of them once.

- `curve`: accuracy of the cascade where 10 and 20 % of the population are handed over, the mean over the students of
  all seeds, beside the teacher's.
- `promise`: `--resamples` times, `--texts` texts are drawn with replacement, temperature and threshold are fitted to
  them, and P(answered by the student and different from the teacher) is taken over the whole population.
- `other`: the share of texts of another domain that is handed over at the same thresholds. `--other` is a file with a
  text a line; of a tsv the first column.
"""

import argparse
import gzip
import json
import statistics
from pathlib import Path

import datasets
import numpy as np
import transformers

from hf_distill.data.labelled import load
from hf_distill.evaluation.answering import Classifier, classifier_of
from hf_distill.evaluation.cascade import temperature_of
from hf_distill.evaluation.deferral import Target, confidences, curve_of, fitted
from hf_distill.recipes.recipe import Recipe

SHARES = (0.1, 0.2)


def classifier(folder: Path) -> Classifier:
    found = classifier_of(folder, 64, "student")
    if found is None:
        raise SystemExit(f"{folder} is no folder of a model.")
    return found


def lines(file: Path, most: int) -> list[str]:
    """The first texts of a file, blank ones aside."""
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as opened:
        texts = (line.rstrip("\n").split("\t")[0] for line in opened)
        return [text for text, _ in zip((text for text in texts if text.strip()), range(most), strict=False)]


def curve(probabilities: np.ndarray, answers: np.ndarray, labels: np.ndarray) -> dict:
    """Accuracy at each of `SHARES`."""
    decided = probabilities.argmax(axis=1)

    def quality(handed_over: np.ndarray) -> dict[str, float]:
        return {"value": float((np.where(handed_over, answers, decided) == labels).mean())}

    rows = curve_of(confidences(probabilities), decided == answers, quality)
    found = {round(row["handed_over"]["value"], 3): row for row in rows}
    return {share: round(found[share]["quality"]["value"], 4) for share in (0.0, *SHARES)}


def promise(probabilities: np.ndarray, answers: np.ndarray, other: np.ndarray | None, target: Target, options) -> dict:
    """How often a fit keeps its promise on the population, and what it hands over of it and of another domain."""
    generator, decided = np.random.default_rng(0), probabilities.argmax(axis=1)
    kept, shares, others = [], [], []
    for number in range(options.resamples):
        drawn = generator.integers(len(answers), size=options.texts)
        fit = fitted(probabilities[drawn], decided[drawn], answers[drawn], target, temperature_of(False), seed=number)
        threshold = 2.0 if fit.threshold is None else fit.threshold
        answered = confidences(probabilities, fit.temperature) >= threshold
        kept.append(bool((answered & (decided != answers)).mean() <= 1 - (target.agreement or 0)))
        shares.append(float((~answered).mean()))
        if other is not None:
            others.append(float((confidences(other, fit.temperature) < threshold).mean()))
    found = {"kept": round(statistics.mean(kept), 4), "handed_over": round(statistics.mean(shares), 4)}
    return found | ({"handed_over_of_another_domain": round(statistics.mean(others), 4)} if others else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("outputs/demo"), help="folder of a finished run")
    parser.add_argument("--agreement", type=float, default=0.97)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--texts", type=int, default=1000, help="of a fit")
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--population", type=int, help="texts of the population. None: all")
    parser.add_argument("--other", type=Path, help="texts of another domain")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()

    recipe = Recipe.load(options.run / "recipe.yaml")
    splits = load(recipe.data, recipe.seed)
    rows = datasets.concatenate_datasets([splits.test, splits.validation]).shuffle(seed=0)
    rows = rows.select(range(min(len(rows), options.population or len(rows))))
    texts, labels = rows["text"][:], np.array(rows["label"][:])
    teacher = classifier(
        options.run / "teacher" if recipe.teacher.fine_tune is not None else Path(recipe.teacher.model)
    )
    answers = teacher.decided(teacher(texts))
    target = Target(agreement=options.agreement, confidence=options.confidence)
    record = {
        "population": len(texts),
        "target": target.as_dict(),
        "texts_of_a_fit": options.texts,
        "resamples": options.resamples,
        "teacher": round(float((answers == labels).mean()), 4),
        "students": {},
    }
    other_texts = lines(options.other, 2000) if options.other else None
    seeds = sorted((options.run / ".work" / "seeds").glob("*/student"))
    for folder in (options.run / "student", *seeds):
        student = classifier(folder)
        probabilities = student(texts)
        other = None if other_texts is None else student(other_texts)
        name = "student" if folder not in seeds else f"seed {folder.parent.name}"
        record["students"][name] = {
            "agreement_alone": round(float((probabilities.argmax(axis=1) == answers).mean()), 4),
            "accuracy_by_share_handed_over": curve(probabilities, answers, labels),
            "promise": promise(probabilities, answers, other, target, options),
        }
        print(name, json.dumps(record["students"][name]), flush=True)
    found = [each["accuracy_by_share_handed_over"] for each in record["students"].values()]
    record["mean_accuracy_by_share_handed_over"] = {
        share: round(statistics.mean(each[share] for each in found), 4) for share in (0.0, *SHARES)
    }
    print(json.dumps({name: value for name, value in record.items() if name != "students"}, indent=2))
    if options.output:
        options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
