"""Whether a long training grows: memory, open files, seconds a step and the log, over 10,000 steps.

    OMP_NUM_THREADS=1 python benchmarks/long_run.py --output benchmarks/results/long_run.json

A small LSTM student is trained twice on random tokens, from cached logits and from a live teacher, as a long run is:
with a log every 50 steps, an evaluation and a checkpoint every 1,000, two of which are kept. Resident memory and open
files are read every 20 steps. The slope of the memory is fitted by least squares after the first tenth of the steps, in
which buffers grow to the longest batch; its interval is that of a bootstrap over blocks of 500 steps, since readings
beside each other are alike. `Trainer` keeps its log in memory, so that a slope of some bytes a step is no leak.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    DataCollatorWithPadding,
    TrainerCallback,
    set_seed,
)

from hf_distill import (
    DistillationArguments,
    DistillationTrainer,
    LSTMStudentConfig,
    LSTMStudentForSequenceClassification,
    cache_teacher_outputs,
)

EVERY = 20  # steps between readings
BLOCK = 500  # steps that the bootstrap draws together


class Readings(TrainerCallback):
    """Step, resident bytes, open files and the time, every 20 steps."""

    def __init__(self) -> None:
        self.read: list[tuple[int, int, int, float]] = []

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % EVERY == 0:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            self.read.append((state.global_step, resident, len(os.listdir("/proc/self/fd")), time.perf_counter()))


def slope(steps: np.ndarray, resident: np.ndarray, seed: int = 0) -> dict[str, float]:
    """The bytes that a step adds, with a 95 % interval from a bootstrap over blocks of neighbouring readings."""
    blocks = np.split(np.arange(len(steps)), np.arange(BLOCK // EVERY, len(steps), BLOCK // EVERY))
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(2000):
        chosen = np.concatenate([blocks[number] for number in generator.integers(0, len(blocks), len(blocks))])
        drawn.append(np.polyfit(steps[chosen], resident[chosen], 1)[0])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"bytes_per_step": round(float(np.polyfit(steps, resident, 1)[0]), 2), "low": round(float(low), 2),
            "high": round(float(high), 2)}  # fmt: skip


def rows_of(number: int, seed: int) -> datasets.Dataset:
    """Random tokens of uneven lengths, in two classes."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(4, 24, number)
    return datasets.Dataset.from_dict(
        {
            "input_ids": [generator.integers(5, 1000, length).tolist() for length in lengths],
            "attention_mask": [[1] * length for length in lengths],
            "labels": generator.integers(0, 2, number).tolist(),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--output", help="JSON file")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()

    train, validation = rows_of(4000, 0), rows_of(200, 1)
    shape = {"vocab_size": 1000, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    set_seed(1)
    teacher = BertForSequenceClassification(
        BertConfig(**shape, intermediate_size=64, max_position_embeddings=64)
    ).eval()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(995))]))
        tokenizer = BertTokenizer(str(vocabulary))
        cached = cache_teacher_outputs(train, teacher, task="text-classification", output_dir=f"{folder}/cache")
        for name, rows, teachers in (("cached", cached, {}), ("live", train, {"teacher_model": teacher})):
            set_seed(0)
            readings = Readings()
            trainer = DistillationTrainer(
                LSTMStudentForSequenceClassification(
                    LSTMStudentConfig(vocab_size=1000, embedding_size=16, hidden_size=16, num_labels=2)
                ),
                DistillationArguments(
                    f"{folder}/{name}",
                    max_steps=options.steps,
                    per_device_train_batch_size=8,
                    train_sampling_strategy="group_by_length",
                    logging_steps=50,
                    eval_strategy="steps",
                    eval_steps=options.steps // 10,
                    save_steps=options.steps // 10,
                    save_total_limit=2,
                    report_to="none",
                    disable_tqdm=True,
                    use_cpu=True,
                ),
                train_dataset=rows,
                eval_dataset=validation,
                data_collator=DataCollatorWithPadding(tokenizer),
                callbacks=[readings],
                **teachers,
            )
            trainer.train()
            found[name] = result(readings, options.steps, Path(folder) / name)
            print(name, json.dumps(found[name], indent=2), flush=True)
            content = {
                "runs": found,
                "settings": {"steps": options.steps, "threads": torch.get_num_threads(), "cpus": os.cpu_count()},
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            }
            if options.output:
                Path(options.output).write_text(json.dumps(content, indent=2) + "\n")


def result(readings: Readings, total: int, folder: Path) -> dict:
    """What a run's readings come to."""
    steps, resident, files, times = (np.array(column) for column in zip(*readings.read, strict=True))
    tenth = len(steps) // 10
    milliseconds = 1000 * np.diff(times) / EVERY
    state = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2])) / "trainer_state.json"
    return {
        "memory": slope(steps[tenth:], resident[tenth:]),
        "resident_megabytes": {"after_a_tenth": round(resident[tenth] / 1e6, 1), "end": round(resident[-1] / 1e6, 1)},
        "open_files": {"first": int(files[0]), "last": int(files[-1]), "most": int(files.max())},
        "median_ms_per_step": {
            "first_tenth": round(float(np.median(milliseconds[:tenth])), 3),
            "last_tenth": round(float(np.median(milliseconds[-tenth:])), 3),
        },
        "trainer_state": {"bytes": state.stat().st_size, "bytes_per_step": round(state.stat().st_size / total, 1)},
        "seconds": round(float(times[-1] - times[0]), 1),
    }


if __name__ == "__main__":
    main()
