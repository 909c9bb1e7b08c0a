"""A training step of the padding-exact dense biLSTM against one of a packed `nn.LSTM` with the same weights, on CPU.

    python benchmarks/lstm_step.py --output benchmarks/results/lstm_step.json

Both read the same padded token ids and lengths, and go forward and backward through embeddings and one bidirectional
layer. They take turns in one process, so that whatever else the machine does falls on both: trust the ratios, not the
milliseconds. "Grouped" batches are cut as `train_sampling_strategy="group_by_length"` cuts them: 50 batches of random
lengths are sorted, so a batch holds neighbours in length; "shuffled" ones are cut from the unsorted lengths.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hf_distill import LSTMStudentConfig, LSTMStudentModel

BATCH, EMBEDDING, HIDDEN, VOCABULARY = 32, 128, 256, 8000
GROUPED_BATCHES = 50  # what transformers' LengthGroupedSampler sorts at a time
CASES = [
    {"lengths": [110, 128], "batches": "shuffled", "at_least": 2.0},
    {"lengths": [10, 128], "batches": "grouped", "at_least": 1.3},
    {"lengths": [10, 128], "batches": "shuffled", "at_least": None},
]


class PackedLSTM(nn.Module):
    """Embeddings and a bidirectional nn.LSTM that packs, with the weights of a student."""

    def __init__(self, student: LSTMStudentModel):
        super().__init__()
        self.embeddings = nn.Embedding.from_pretrained(student.embeddings.weight.detach().clone(), freeze=False)
        self.lstm = nn.LSTM(EMBEDDING, HIDDEN, batch_first=True, bidirectional=True)
        layer = student.layers[0]
        with torch.no_grad():
            for suffix, source in (("", layer.forward_lstm), ("_reverse", layer.backward_lstm)):
                for name, weight in source.named_parameters():
                    self.lstm.get_parameter(name + suffix).copy_(weight)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embeddings(input_ids), lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]


def batches(shortest: int, longest: int, kind: str, count: int) -> list[tuple[Tensor, Tensor]]:
    """Some (input_ids, lengths) of random rows."""
    lengths = torch.randint(shortest, longest + 1, (GROUPED_BATCHES * BATCH,))
    if kind == "grouped":
        lengths = lengths.sort(descending=True).values
    made = []
    for index in torch.randperm(GROUPED_BATCHES)[:count].tolist():
        rows = lengths[index * BATCH : (index + 1) * BATCH]
        made.append((torch.randint(1, VOCABULARY, (BATCH, int(rows.max()))), rows))
    return made


def measure(case: dict, rounds: int) -> dict:
    """Medians of both over random batches, and the median of each batch's ratio."""
    torch.manual_seed(0)
    config = LSTMStudentConfig(vocab_size=VOCABULARY, embedding_size=EMBEDDING, hidden_size=HIDDEN, dropout=0.0)
    student = LSTMStudentModel(config)
    packed = PackedLSTM(student)
    times: dict[str, list[float]] = {"dense": [], "packed": []}
    difference = 0.0
    warm_up = 2
    for index, (input_ids, lengths) in enumerate(batches(*case["lengths"], case["batches"], rounds + warm_up)):
        mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
        upstream = torch.randn(*input_ids.shape, 2 * HIDDEN)
        states = {}
        # Each goes first every other round: the second finds the caches warm.
        for name in ("dense", "packed") if index % 2 else ("packed", "dense"):
            start = time.perf_counter()
            if name == "dense":
                states[name] = student(input_ids, attention_mask=mask).last_hidden_state
            else:
                states[name] = packed(input_ids, lengths)
            states[name].backward(upstream)
            if index >= warm_up:
                times[name].append(1000 * (time.perf_counter() - start))
        difference = max(difference, (states["dense"] - states["packed"]).abs().max().item())
    ratios = [slow / fast for slow, fast in zip(times["packed"], times["dense"], strict=True)]
    return {
        **case,
        "dense_ms": round(statistics.median(times["dense"]), 1),
        "packed_ms": round(statistics.median(times["packed"]), 1),
        "times_faster": round(statistics.median(ratios), 2),
        "largest_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    results = []
    for case in CASES:
        result = measure(case, options.rounds)
        results.append(result)
        low, high = result["lengths"]
        target = f"at least {result['at_least']}" if result["at_least"] else "no target"
        print(
            f"lengths {low}-{high}, {result['batches']}: dense {result['dense_ms']} ms, packed "
            f"{result['packed_ms']} ms, {result['times_faster']} times faster ({target}), "
            f"states differ by at most {result['largest_difference']:.1e}"
        )
    if options.output:
        record = {
            "command": "python benchmarks/lstm_step.py",
            "what": "forward and backward, milliseconds; float32 on CPU",
            "batch": BATCH,
            "embedding_size": EMBEDDING,
            "hidden_size": HIDDEN,
            "rounds": options.rounds,
            "torch": torch.__version__,
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "cases": results,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
