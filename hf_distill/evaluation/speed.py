"""How fast models answer: one text at a time and in batches, at the lengths of real texts, in turns in one run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from hf_distill.evaluation.bootstrap import RESAMPLES, Estimate, draws
from hf_distill.evaluation.cost import count_flops
from hf_distill.evaluation.predictor import Predictor
from hf_distill.evaluation.stopwatch import FEWEST, Limits, in_turns, per_second, thirds

BLOCK = 8  # calls of one model before it is the next one's turn
WARM_UP = 3
CALLS = 200
FEWEST_CALLS = 32
SECONDS = 10.0  # after which slow models may stop at the fewest calls; all models together
BATCH = 32
BATCHES = 4
ROUNDS = 5  # over these batches
CELL_CALLS = {1: 48, 8: 16, BATCH: 8}  # of each model, at one length
CELL_FEWEST = {1: 16, 8: 8, BATCH: 4}
CELL_SECONDS = 1.0
COUNTED = 16  # texts whose operations are counted


def mean_flops(predictor: Predictor, texts: Sequence[Mapping[str, Tensor]]) -> tuple[float, float]:
    """The means of `count_flops` a text and a token.

    Args:
        predictor: within its `ready`.
        texts: inputs of one text each.
    """
    lengths = [inputs["input_ids"].shape[-1] for inputs in texts]
    # They depend on a text's length and on nothing else of it.
    of_length = {
        length: count_flops(predictor, inputs) for length, inputs in dict(zip(lengths, texts, strict=True)).items()
    }
    total = sum(of_length[length] for length in lengths)
    return total / len(texts), total / sum(lengths)


@dataclass
class Speed:
    """How fast one model answered.

    Attributes:
        latencies_ms: (calls,) one text a call, call i on the same text for all models of a run.
        batches_ms: (calls,) 32 texts a call, likewise.
        tokens_per_text: mean over the texts that were read, in the model's own tokens.
        flops: a text and a token, means over the first 16 of these texts, see `cost.count_flops`; 0 of a model that
            runs outside of torch.
        texts: how many different texts the calls and the batches were made of.
    """

    latencies_ms: np.ndarray
    batches_ms: np.ndarray
    tokens_per_text: float
    flops: tuple[float, float]
    texts: int

    @property
    def throughput(self) -> float:
        """Examples a second in batches of 32, by the median of their times."""
        return per_second(BATCH, self.batches_ms)


@dataclass
class Cell:
    """How fast one model answered at one batch size, on texts of one length.

    Attributes:
        model: its name.
        batch: texts a call.
        length: which third of the texts, one of `LENGTHS`.
        tokens: fewest and most in one of the texts, in the model's own tokens.
        milliseconds: (calls,), call i on the same texts for all models of a run.
        written: (calls,) tokens that it wrote, by which models are compared that write texts of different lengths.
    """

    model: str
    batch: int
    length: str
    tokens: tuple[int, int]
    milliseconds: np.ndarray
    written: np.ndarray | None = None

    @property
    def compared(self) -> np.ndarray:
        """(calls,) milliseconds a call or, where it is counted, a token that is written."""
        return self.milliseconds if self.written is None else self.milliseconds / self.written


def measure_speed(predictors: Mapping[str, Predictor], dataset: Dataset, *, seed: int = 0) -> dict[str, Speed]:
    """Time several models in one run, in turns, so that their ratios are paired.

    Inputs are real rows at their real lengths, tokenised and on the device beforehand. Models take turns text block by
    text block: what else the machine does falls on all of them alike, and yet each runs with its own weights in the
    processor's caches. Batches hold 32 random rows, padded to their longest.

    Args:
        predictors: by name, each within its `ready`.
        dataset: tokenised.
        seed: of the choice of texts.
    """
    chosen = with_tokens(predictors, dataset, seed)[: BATCH * BATCHES]
    singles = {name: predictor.batches(dataset, chosen[:, None]) for name, predictor in predictors.items()}
    for name, call in _calls(predictors, singles).items():
        for number in range(min(WARM_UP, len(singles[name]))):
            call(number)
    calls = in_turns(_calls(predictors, singles), Limits(BLOCK, CALLS, FEWEST_CALLS, SECONDS, warm=True))
    rows = batches_of(chosen, BATCHES, BATCH)
    batches = {name: predictor.batches(dataset, rows) for name, predictor in predictors.items()}
    limits = Limits(len(rows), len(rows) * ROUNDS, len(rows), SECONDS, warm=True)
    many = in_turns(_calls(predictors, batches), limits)
    return {
        name: Speed(
            latencies_ms=calls[name].milliseconds,
            batches_ms=many[name].milliseconds,
            tokens_per_text=float(np.mean([inputs["input_ids"].shape[1] for inputs in singles[name]])),
            flops=mean_flops(predictor, singles[name][:COUNTED]),
            texts=len(chosen),
        )
        for name, predictor in predictors.items()
    }


def measure_cells(predictors: Mapping[str, Predictor], dataset: Dataset, *, seed: int = 0) -> list[Cell]:
    """Time several models as `measure_speed` does, for each third of the texts by length, alone and in batches of 8 and
    32.

    Args:
        predictors: by name, each within its `ready`. The thirds go by the mean of their tokens.
        dataset: tokenised.
        seed: of the choice of texts.
    """
    rows = with_tokens(predictors, dataset, seed)
    lengths = {name: predictor.lengths(dataset) for name, predictor in predictors.items()}
    cells = []
    for length, third in thirds(rows, lengths, seed):
        chosen = third[: BATCH * BATCHES]
        for batch in CELL_CALLS:
            groups = batches_of(chosen, CELL_FEWEST[batch], batch)
            inputs = {name: predictor.batches(dataset, groups) for name, predictor in predictors.items()}
            limits = Limits(
                min(BLOCK, CELL_FEWEST[batch]), CELL_CALLS[batch], CELL_FEWEST[batch], CELL_SECONDS, warm=True
            )
            timed = in_turns(_calls(predictors, inputs), limits)
            read = np.unique(groups)
            cells += [
                Cell(
                    name,
                    batch,
                    length,
                    (int(lengths[name][read].min()), int(lengths[name][read].max())),
                    each.milliseconds,
                )
                for name, each in timed.items()
            ]
    return cells


def with_tokens(predictors: Mapping[str, Predictor], dataset: Dataset, seed: int) -> np.ndarray:
    """The rows that can be read, shuffled: an empty one is no text."""
    shuffled = np.random.default_rng(seed).permutation(len(dataset))
    fewest = np.min([predictor.lengths(dataset) for predictor in predictors.values()], axis=0)
    return shuffled[fewest[shuffled] > 0]


def batches_of(rows: np.ndarray, most: int, size: int) -> np.ndarray:
    """(batches, size) rows; where there are too few, they are repeated, so that every batch is full."""
    number = min(most, max(1, len(rows) // size))
    return np.resize(rows, (number, size))


def _calls(
    predictors: Mapping[str, Predictor], inputs: Mapping[str, Sequence[Mapping[str, Tensor]]]
) -> dict[str, Callable[[int], None]]:
    """What `in_turns` times: call i of a model reads its inputs number i, from the first again after the last."""

    def call_of(predictor: Predictor, batches: Sequence[Mapping[str, Tensor]]) -> Callable[[int], None]:
        return lambda number: wait_for(predictor(batches[number % len(batches)]))

    return {name: call_of(predictor, inputs[name]) for name, predictor in predictors.items()}


def wait_for(logits: Tensor) -> None:
    """Return once the device has computed some logits."""
    if logits.device.type != "cpu":
        torch.accelerator.synchronize()


def summary(speed: Speed) -> dict[str, Any]:
    """A model's `latency_ms`, `throughput` and `tokens_per_text`, and its `flops_per_text` and `flops_per_token`.

    Args:
        speed: of the model; one outside of torch has no count of operations.
    """
    p50, p95 = np.percentile(speed.latencies_ms, [50, 95])
    found = {
        "latency_ms": {"batch_1": {"p50": p50, "p95": p95}},
        "throughput": {"batch_32": speed.throughput},
        "tokens_per_text": speed.tokens_per_text,
    }
    if any(speed.flops):
        found["flops_per_text"], found["flops_per_token"] = speed.flops
    return found


def by_length(cells: Sequence[Cell], seed: int) -> list[dict[str, Any]]:
    """A row for each model, batch size and length, see `Report.speed`.

    Args:
        cells: of `teacher` where it is here, `student`, and the student's files under the names of their runtimes.
        seed: see `ratio_of_medians`.
    """
    slow = {(cell.batch, cell.length): cell.compared for cell in cells if cell.model == "teacher"}
    rows = []
    for cell in cells:
        p50, p95 = np.percentile(cell.milliseconds, [50, 95])
        in_torch = cell.model in ("teacher", "student")
        row: dict[str, Any] = {
            "model": cell.model if in_torch else "student",
            "runtime": "torch" if in_torch else cell.model,
            "batch": cell.batch,
            "length": cell.length,
            "tokens": list(cell.tokens),
            "calls": len(cell.milliseconds),
            "p50_ms": p50,
            "p95_ms": p95,
            "per_second": per_second(cell.batch, cell.milliseconds),
        }
        if cell.model != "teacher" and slow:
            row["faster"] = ratio_of_medians(slow[cell.batch, cell.length], cell.compared, seed)
        rows.append(row)
    return rows


def faster(slow: Speed, fast: Speed, seed: int) -> dict[str, dict[str, Any]]:
    """How many times as fast one of two models is: `faster` a text at a time, `throughput` in batches of 32.

    Args:
        slow: of the one that is compared with.
        fast: of the other, from the same run.
        seed: see `ratio_of_medians`.
    """
    return {
        "faster": ratio_of_medians(slow.latencies_ms, fast.latencies_ms, seed),
        "throughput": ratio_of_medians(slow.batches_ms, fast.batches_ms, seed),
    }


def ratio_of_medians(slow: np.ndarray, fast: np.ndarray, seed: int) -> dict[str, Any]:
    """The ratio of two models' median times with its interval from resampled calls; of fewer than four, without.

    Args:
        slow: (calls,) milliseconds a call, or a token.
        fast: (calls,) likewise, call i on the same texts.
        seed: of the draws of calls.
    """
    ratio = float(np.median(slow) / np.median(fast))
    if len(fast) < FEWEST:
        return {"value": ratio}
    medians = [
        np.median(slow[rows], axis=1) / np.median(fast[rows], axis=1) for rows in draws(len(fast), RESAMPLES, seed)
    ]
    return Estimate(ratio, np.concatenate(medians)).summary()


def with_intervals(compared: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """`ratios` and, apart, the `ratio_intervals` of those that have one.

    Args:
        compared: name -> `value`, with `low` and `high` where there is an interval.
    """
    return {
        "ratios": {name: ratio["value"] for name, ratio in compared.items()},
        "ratio_intervals": {
            name: {"low": ratio["low"], "high": ratio["high"]} for name, ratio in compared.items() if "low" in ratio
        },
    }
