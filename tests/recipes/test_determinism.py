"""The same seed gives the same student bit for bit, through a recipe of each task, in another process too."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.steps import Run
from tests.recipes import test_run, test_run_dialogue, test_run_problems, test_run_tagging, test_run_translation

BRIEF = {"num_train_epochs": 1, "disable_tqdm": True}
LSTM = {"embedding_size": 8, "hidden_size": 8}
STEPS = ("teacher", "cache", "initialize", "distill", "controls", "seeds")


def classification(folder: Path, problem: Any = None) -> dict[str, Any]:
    """Reviews, by a student with a tokenizer of its own; or one of the other problems."""
    test_run.write_teacher(folder / "teacher")
    if problem is None:
        test_run.write_reviews(folder / "data.csv", 240)
        data: dict[str, Any] = {"labels": ["bad", "good"]}
    else:
        data = problem(folder)
    return {
        "task": "text-classification",
        "data": {"path": str(folder / "data.csv"), "test": 40, "validation": 40, **data},
        "teacher": {"fine_tune": {**BRIEF, "learning_rate": 2e-3}},
        "student": {"vocab_size": 120, "config": LSTM},
        "distill": [
            {**BRIEF, "matching": [{"kind": "adversarial", "layers": {-1: -1}, "granularity": "sequence"}]},
            {**BRIEF, "num_train_epochs": 2, "learning_rate": 1e-2},
        ],
    }


def tagging(folder: Path) -> dict[str, Any]:
    test_run_tagging.write_teacher(folder / "teacher")
    test_run_tagging.write_sentences(folder / "names.conll", 200)
    return {
        "task": "token-classification",
        "data": {
            "path": str(folder / "names.conll"),
            "text": "words",
            "label": "tags",
            "test": 30,
            "validation": 30,
        },
        "teacher": {"fine_tune": {**BRIEF, "learning_rate": 2e-3}},
        "student": {"vocab_size": 90, "config": LSTM, "max_length": 24},
        "distill": {**BRIEF, "learning_rate": 1e-2},
    }


def translation(folder: Path) -> dict[str, Any]:
    (folder / "teacher").mkdir()
    test_run_translation.write_teacher(folder / "teacher")
    test_run_translation.write_pairs(folder / "pairs.csv", 120)
    return {
        "task": "translation",
        "data": {"path": str(folder / "pairs.csv"), "text": "en", "target": "es", "test": 12, "validation": 12},
        "teacher": {
            "max_length": 16,
            "top_k": 4,
            "generation": {"num_beams": 2},
            "fine_tune": {**BRIEF, "learning_rate": 4e-3},
        },
        "student": {"vocab_size": None, "max_length": 16, "config": {**LSTM, "dropout": 0.1}},
        "distill": {**BRIEF, "targets": "both", "learning_rate": 8e-3, "temperature": 1.0},
    }


def generation(folder: Path) -> dict[str, Any]:
    (folder / "teacher").mkdir()
    test_run_dialogue.write_teacher(folder / "teacher")
    test_run_dialogue.write_conversations(folder / "talk.jsonl", 80)
    return {
        "task": "text-generation",
        "data": {"path": str(folder / "talk.jsonl"), "messages": "messages", "test": 12, "validation": 8},
        "teacher": {
            "max_length": 48,
            "top_k": 16,
            "lora": {"r": 4, "target_modules": "all-linear"},
            "fine_tune": {**BRIEF, "learning_rate": 1e-2, "per_device_train_batch_size": 8},
        },
        "student": {"vocab_size": None, "max_length": 48, "config": {**LSTM, "embedding_size": 32, "dropout": 0.1}},
        "distill": {**BRIEF, "per_device_train_batch_size": 8, "temperature": 1.0},
    }


TASKS = {
    "text classification": classification,
    "several labels": lambda folder: classification(folder, test_run_problems.several),
    "regression": lambda folder: classification(folder, test_run_problems.quantity),
    "pairs": lambda folder: classification(folder, test_run_problems.pairs),
    "tagging": tagging,
    "translation": translation,
    "text generation": generation,
}


def made(name: str, folder: Path) -> dict[str, str]:
    """The hashes of all weights, tokenizers and teacher's outputs that a recipe makes before it measures anything."""
    folder.mkdir(parents=True)
    content = TASKS[name](folder)
    content["output_dir"] = str(folder / "out")
    content["teacher"]["model"] = str(folder / "teacher")
    content["compare"] = {"controls": False, "more_seeds": [7]}
    run = Run(Recipe.from_dict(content))
    for step in STEPS:
        run.step(step)
    kept = [path for path in (folder / "out").rglob("*") if path.name in ("tokenizer.json", "model.safetensors")]
    kept += (folder / "out").rglob("shard-*.arrow")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(kept)
        if "checkpoint" not in str(path)
    }


@pytest.mark.faults
def test_a_teacher_that_diverged_never_counts_as_done(tmp_path):
    content = classification(tmp_path)
    content |= {"output_dir": str(tmp_path / "out")}
    content["teacher"] |= {"model": str(tmp_path / "teacher"), "fine_tune": {**BRIEF, "learning_rate": 1e38}}
    for _ in range(2):  # the second goes on from the first one's checkpoint, if there is one
        run = Run(Recipe.from_dict(content))
        with pytest.raises(ValueError, match="The training was stopped"):
            run.step("teacher")
        assert Run(Recipe.from_dict(content)).state("teacher") is None
        assert not (tmp_path / "out" / "teacher").exists()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> dict[str, dict[str, str]]:
    """What another process makes, which orders its sets differently."""
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = {**os.environ, "PYTHONHASHSEED": "4321", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.recipes.test_determinism", str(folder)]
    ended = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, timeout=800
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return torch.load(folder / "made.pt")


@pytest.mark.faults
@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_gives_the_same_student(name, elsewhere, tmp_path):
    torch.manual_seed(12345)  # the recipe has its own
    here = made(name, tmp_path / "run")
    assert {"out/student/model.safetensors", "out/baseline/model.safetensors"} <= here.keys()
    assert here == elsewhere[name]


if __name__ == "__main__":
    torch.save({name: made(name, Path(sys.argv[1]) / name) for name in TASKS}, Path(sys.argv[1]) / "made.pt")
