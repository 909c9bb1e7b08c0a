"""What one GPU does: training live and cached, the forms of an LSTM, the cache pass, offloading, overlapping.

    python benchmarks/gpu.py --output benchmarks/results/gpu.json

At most eight minutes; nothing is downloaded: weights and tokens are random, of the sizes of BERT-base. `--tiny` runs
all of it in small on any machine, to see that it works. Each rate is of `--steps` steps after a few that do not count.
The result has the device's name, and is written after each rate, so that a run that is stopped keeps those it has.
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from lstm_step import PackedLSTM
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback

from hf_distill import (
    DistillationArguments,
    DistillationTrainer,
    LSTMStudentConfig,
    LSTMStudentModel,
    TransformerStudentConfig,
    cache_teacher_outputs,
    student_from_teacher,
)
from hf_distill.environment import accelerator, environment, has_fast_bf16
from hf_distill.teachers.live import LiveTeacher

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SMALL = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}


class Bench:
    """One set of measurements.

    Args:
        tiny: whether models and rows are as small as may be.
        steps: that a rate is of.
        output: of the result.
    """

    def __init__(self, tiny: bool, steps: int, output: Path) -> None:
        self.tiny, self.steps, self.warmup = tiny, steps, 2 if tiny else 10
        self.device = accelerator() or torch.device("cpu")
        self.output, self.began = output, time.perf_counter()
        self.found: dict[str, Any] = {"environment": environment(self.device), "tiny": tiny}
        self.length, self.batch = (12, 4) if tiny else (128, 32)
        self.vocabulary, sizes = (60, SMALL) if tiny else (30_522, BASE)
        self.teacher = BertForSequenceClassification(
            BertConfig(vocab_size=self.vocabulary, **sizes, num_labels=2)
        ).eval()
        count = self.batch * (self.steps + self.warmup)
        ids = torch.randint(1, self.vocabulary, (count, self.length), generator=torch.Generator().manual_seed(0))
        labels = (torch.arange(count) % 2).tolist()
        columns = {"input_ids": ids.tolist(), "attention_mask": [[1] * self.length] * count, "labels": labels}
        self.rows = datasets.Dataset.from_dict(columns)

    def keep(self, part: str, way: str, rate: float) -> None:
        """Print a rate and write it, with all before it."""
        self.found.setdefault(part, {})[way] = rate
        print(f"{time.perf_counter() - self.began:>5.0f} s  {part:<44}{way:<32}{rate:>12,.1f}", flush=True)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")

    def rate(self, call: Callable[[], Any]) -> float:
        """Calls a second."""
        for _ in range(self.warmup):
            call()
        self.wait()
        start = time.perf_counter()
        for _ in range(self.steps):
            call()
        self.wait()
        return self.steps / (time.perf_counter() - start)

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def student(self, kind: str) -> Any:
        """A student of the teacher: an LSTM, or three of its layers."""
        lstm = LSTMStudentConfig(
            vocab_size=self.vocabulary, embedding_size=8 if self.tiny else 128, hidden_size=8 if self.tiny else 256
        )
        config = lstm if kind == "lstm" else TransformerStudentConfig(num_hidden_layers=3)
        return student_from_teacher(self.teacher, config)[0]

    def training(self, kind: str, rows: datasets.Dataset, **settings: Any) -> tuple[float, float]:
        """Samples a second of a distillation by the trainer, and the seconds until the first step was done."""
        watch = Stopwatch(self)
        cached = "teacher_logits" in rows.column_names
        with tempfile.TemporaryDirectory() as folder:
            arguments = DistillationArguments(
                folder,
                per_device_train_batch_size=self.batch,
                max_steps=self.warmup + self.steps,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=self.device.type == "cpu",
                **settings,
            )
            DistillationTrainer(
                self.student(kind),
                arguments,
                teacher_model=None if cached else copy.deepcopy(self.teacher),
                train_dataset=rows,
                callbacks=[watch],
            ).train()
        return self.steps * self.batch / watch.seconds, watch.first

    def trainings(self, compiled: bool) -> None:
        """Samples a second of each student: live and cached, in float32 and bfloat16; or compiled."""
        ways: dict[str, dict[str, Any]] = {"float32": {}} | ({"bf16": {"bf16": True}} if has_fast_bf16() else {})
        if compiled:
            way, settings = ways.popitem()
            backend = {"torch_compile_backend": "eager"} if self.tiny else {}
            ways = {f"{way}, compiled": {**settings, "torch_compile": True, **backend}}
        with tempfile.TemporaryDirectory() as folder:
            cached = cache_teacher_outputs(self.rows, self.teacher, task="text-classification", output_dir=folder)
            for kind in ("three layers", "lstm"):
                for name, rows in (("live", self.rows), ("cached", cached)):
                    for way, settings in ways.items():
                        rate, first = self.training(kind, rows, **settings)
                        self.keep("samples a second", f"{kind}, {name}, {way}", rate)
                        if compiled:
                            self.keep("seconds until the first step is done", f"{kind}, {name}", first)

    def lstm_forms(self) -> None:
        """Steps a second, forward and backward, of the dense form and of a packed `nn.LSTM`, which is cuDNN's."""
        student = LSTMStudentModel(LSTMStudentConfig(vocab_size=8000, embedding_size=128, hidden_size=256))
        packed = PackedLSTM(student).to(self.device)
        student.to(self.device)
        lengths = torch.randint(self.length // 2, self.length + 1, (self.batch,))
        ids = torch.randint(1, 8000, (self.batch, int(lengths.max())), device=self.device)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long().to(self.device)
        # Under autocast to bfloat16 torch's packed form computes in float16, the package's in float32.
        for way, bf16 in (("float32", False), ("bf16", True)) if has_fast_bf16() else (("float32", False),):
            forms: dict[str, Callable[[], torch.Tensor]] = {
                "dense": lambda: student(input_ids=ids, attention_mask=mask).last_hidden_state,
                "packed": lambda: packed(ids, lengths),
            }
            for name, form in forms.items():

                def step(form: Callable[[], torch.Tensor] = form, bf16: bool = bf16) -> None:
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                        loss = form().float().square().mean()
                    loss.backward()

                if not (name == "packed" and bf16 and self.device.type == "cpu"):  # not there on processors
                    self.keep("steps a second of an LSTM", f"{name}, {way}", self.rate(step))

    def cache_pass(self) -> None:
        """Tokens a second of the cache pass."""
        for way, bf16 in (("float32", False), ("bf16", True)) if has_fast_bf16() else (("float32", False),):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                cache_teacher_outputs(self.rows, self.teacher, task="text-classification", output_dir=folder, bf16=bf16)
                rate = len(self.rows) * self.length / (time.perf_counter() - start)
                self.keep("tokens a second of the cache pass", way, rate)

    def placements(self) -> None:
        """Samples a second of the teacher's forward, replicated and offloaded."""
        batch = {
            name: torch.tensor(self.rows[: self.batch][name], device=self.device)
            for name in ("input_ids", "attention_mask")
        }
        for placement in ("replicate", "offload"):
            teacher = LiveTeacher(copy.deepcopy(self.teacher), self.device, placement)
            rate = self.batch * self.rate(lambda teacher=teacher: teacher(batch))
            self.keep("samples a second of the teacher's forward", placement, rate)

    def overlap(self) -> None:
        """Steps a second with the teacher's forward before the student's step, and beside it on a second stream."""
        module = None if self.device.type == "cpu" else torch.get_device_module(self.device)
        if not hasattr(module, "Stream"):
            return
        teacher = copy.deepcopy(self.teacher).to(self.device)
        student = self.student("three layers").to(self.device)
        optimizer = torch.optim.AdamW(student.parameters())
        ids = torch.tensor(self.rows[: self.batch]["input_ids"], device=self.device)
        side = module.Stream()

        def ask() -> torch.Tensor:
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=has_fast_bf16()):
                return teacher(ids).logits.float()

        def learn(target: torch.Tensor) -> None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=has_fast_bf16()):
                logits = student(ids).logits.float()
            torch.nn.functional.mse_loss(logits, target).backward()
            optimizer.step()
            optimizer.zero_grad()

        waiting = [ask()]

        def beside() -> None:
            side.wait_stream(module.current_stream())
            with module.stream(side):
                following = ask()
            learn(waiting[0])
            module.current_stream().wait_stream(side)
            waiting[0] = following

        part = "steps a second with the teacher's forward"
        self.keep(part, "before", self.rate(lambda: learn(ask())))
        self.keep(part, "beside", self.rate(beside))


class Stopwatch(TrainerCallback):
    """The seconds of a training after its first steps."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.seconds = self.first = self._start = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start."""
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The end of the first step; start after the warm-up, stop at the end."""
        if state.global_step == 1:
            self.bench.wait()
            self.first = time.perf_counter() - self._start
        if state.global_step in (self.bench.warmup, state.max_steps):
            self.bench.wait()
            now = time.perf_counter()
            self.seconds, self._start = now - self._start, now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=50, help="that each rate is of")
    parser.add_argument("--tiny", action="store_true", help="as small as may be, on any machine")
    words = parser.parse_args()
    torch.manual_seed(0)
    bench = Bench(words.tiny, 2 if words.tiny else words.steps, words.output)
    bench.lstm_forms()
    bench.placements()
    bench.overlap()
    bench.cache_pass()
    bench.trainings(compiled=False)
    bench.trainings(compiled=True)


if __name__ == "__main__":
    main()
