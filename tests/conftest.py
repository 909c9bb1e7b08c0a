"""What the tests share: no network, and models small enough to train in a second."""

import gc
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run side by side, and their models are small

import datasets
import numpy as np
import pytest
import torch
from filelock import FileLock
from tqdm import tqdm
from transformers import BertConfig, BertForSequenceClassification, set_seed

datasets.disable_progress_bars()
tqdm.set_lock(threading.RLock())  # its own is shared with forked processes: one that is killed would hold it for ever

# The parts of `make test-long` and the minutes that each may take with two workers, 15 in all.
PARTS = {"notebooks": 1.5, "long": 1.5, "faults": 5, "processes": 3, "served": 2, "cheapest": 2}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        part = next((name for name in PARTS if item.get_closest_marker(name)), "quick")
        item.user_properties.append(("part", part))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config) -> None:
    """One line: the seconds of all tests, summed by part."""
    sums: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                sums[dict(report.user_properties)["part"]] += report.duration
    workers = getattr(config.option, "numprocesses", None) or 1
    limits = {part: f" of {60 * workers * minutes:.0f}" for part, minutes in PARTS.items()}
    told = ", ".join(f"{part} {seconds:.0f}{limits.get(part, '')}" for part, seconds in sorted(sums.items()))
    terminalreporter.write_line(f"seconds of tests by part: {told or 'none'}")


def tiny_bert(seed: int = 0, dropout: float = 0.0, **config) -> BertForSequenceClassification:
    set_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            initializer_range=0.2,
            **config,
        )
    ).eval()


def tiny_rows(number: int = 24, classes: int = 3, unlabelled: int = 0, seed: int = 0) -> datasets.Dataset:
    """Tokenised rows of uneven lengths, some without a label."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, 12, number)
    labels = generator.integers(0, classes, number)
    labels[generator.permutation(number)[:unlabelled]] = -100
    return datasets.Dataset.from_dict(
        {
            "input_ids": [generator.integers(3, 50, length).tolist() for length in lengths],
            "attention_mask": [[1] * length for length in lengths],
            "labels": labels.tolist(),
        }
    )


def collate(rows: list[dict], extra: int = 0) -> dict[str, torch.Tensor]:
    """Pad on the right to the longest row, or `extra` positions further."""
    longest = max(len(row["input_ids"]) for row in rows) + extra
    batch = {
        name: torch.tensor([list(row[name]) + [0] * (longest - len(row[name])) for row in rows])
        for name in ("input_ids", "attention_mask")
    }
    if "labels" in rows[0]:
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
    return batch


@pytest.fixture(autouse=True, scope="module")
def frozen_imports() -> None:
    """Each training begins with a garbage collection, which need not look at the half million objects of imports."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """The folder that `make` filled in the first of the workers that asked for this name; the others wait for it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def of(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return of


@pytest.fixture(autouse=True)
def one_seed() -> None:
    set_seed(0)


# Settings of modules of hf_distill.evaluation with which models are timed as briefly as may be.
BRIEFLY = {
    "speed": {"FEWEST_CALLS": 8, "SECONDS": 0.0, "CELL_SECONDS": 0.0, "COUNTED": 2},
    "generation_speed": {"SECONDS": 0.0, "CELL_SECONDS": 0.0, "COUNTED": 1, "CALLS": {1: 4, 32: 4}},
}


@pytest.fixture(autouse=True, scope="session")
def fewest_timed_calls():
    """Models of the tests are timed briefly; tests/evaluation/test_speed.py says itself for how long."""
    with pytest.MonkeyPatch.context() as patch:
        for module, settings in BRIEFLY.items():
            for name, value in settings.items():
                patch.setattr(f"hf_distill.evaluation.{module}.{name}", value)
        yield
