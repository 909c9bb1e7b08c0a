"""Where a teacher's weights are."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from hf_distill import DistillationArguments, DistillationTrainer, HiddenStateMatching, LSTMStudentConfig
from hf_distill.soft_targets.cache import cache_teacher_outputs
from hf_distill.students.lstm.modeling_lstm import LSTMStudentForSequenceClassification
from hf_distill.teachers import placement
from hf_distill.teachers.identity import weights_hash
from hf_distill.teachers.live import LiveTeacher
from hf_distill.teachers.placement import settled, units, weight_files
from tests.conftest import collate, tiny_bert, tiny_rows

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def of_two_processes(made_once):
    """What two processes found out of a sharded teacher, each in a file of its own."""

    def make(folder):
        launch = "torch.distributed.run --standalone --nproc_per_node 2 -m tests.teachers.placement_run"
        command = [sys.executable, "-m", *launch.split(), str(folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
        assert done.returncode == 0, done.stderr[-4000:]

    folder = made_once("sharded-teachers", make)
    told = [json.loads((folder / f"told-{number}.json").read_text()) for number in (0, 1)]
    assert [each["world"] for each in told] == [2, 2]
    return told


@pytest.mark.processes
def test_a_sharded_teacher_teaches_what_a_replicated_one_teaches(of_two_processes):
    """With a matching, in bfloat16, read from files or given as a model; live and through a cache."""
    for told in of_two_processes:
        for kind in ("model, bf16 False", "name, bf16 False", "model, bf16 True", "name, bf16 True", "cache"):
            assert told[kind] <= 1e-6, kind
        assert told["same record"]


@pytest.mark.processes
def test_a_process_holds_its_part_and_two_units(of_two_processes):
    for told in of_two_processes:
        memory = told["memory"]
        assert memory["differs"] <= 1e-6
        for name in ("peak", "peak of a given model"):
            assert memory["whole"] / 2 < memory[name] <= memory["whole"] / 2 + memory["largest"], name


@pytest.mark.processes
def test_what_cannot_be_sharded_is_refused_on_every_process(of_two_processes):
    assert "shares 41 weights with the student" in of_two_processes[0]["shared"]
    assert "was placed by a device map" in of_two_processes[0]["placed"]
    assert of_two_processes[0]["shared"] == of_two_processes[1]["shared"]
    assert of_two_processes[0]["placed"] == of_two_processes[1]["placed"]


def trained(teacher, folder, where):
    arguments = DistillationArguments(
        str(folder), max_steps=3, report_to="none", save_strategy="no", use_cpu=True, teacher_placement=where
    )
    made = DistillationTrainer(
        tiny_bert(num_labels=3),
        arguments,
        teacher_model=teacher,
        train_dataset=tiny_rows(),
        data_collator=collate,
        matching=[HiddenStateMatching(layers={-1: -1})],
    )
    made.train()
    return made.model.state_dict()


@pytest.mark.parametrize("where", ["offload", "auto"])
@pytest.mark.parametrize("by_name", [False, True])
def test_an_offloaded_teacher_teaches_what_a_replicated_one_teaches(tmp_path, where, by_name):
    teacher = tiny_bert(seed=1, num_labels=3)
    teacher.save_pretrained(tmp_path / "teacher")
    expected = trained(copy.deepcopy(teacher), tmp_path, "replicate")
    found = trained(str(tmp_path / "teacher") if by_name else teacher, tmp_path, where)
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_an_offloaded_teachers_cache_is_that_of_a_replicated_one(tmp_path):
    teacher, rows = tiny_bert(num_labels=3), tiny_rows()
    one, other = (
        cache_teacher_outputs(
            rows,
            copy.deepcopy(teacher),
            task="text-classification",
            output_dir=tmp_path / "cache",
            device="cpu",
            teacher_placement=where,
        )
        for where in ("replicate", "offload")  # the second finds the first one's shards: it is the same teacher
    )
    assert np.array_equal(one["teacher_logits"], other["teacher_logits"])
    moved = LiveTeacher(copy.deepcopy(teacher), CPU, "offload")
    assert all(each.is_meta for each in moved.members[0].parameters())
    assert weights_hash(moved) == weights_hash(LiveTeacher(teacher, CPU))
    batch = collate([rows[0]])
    assert torch.equal(moved(batch)["logits"], LiveTeacher(teacher, CPU)(batch)["logits"])


def test_auto_replicates_what_fits(monkeypatch, tmp_path):
    teacher = tiny_bert()
    teacher.save_pretrained(tmp_path)
    assert settled("auto", teacher, CPU) == settled("auto", str(tmp_path), CPU) == "replicate"
    monkeypatch.setattr(placement, "free_bytes", lambda device: 1000)
    assert settled("auto", teacher, CPU) == settled("auto", str(tmp_path), CPU) == "offload"
    monkeypatch.setattr(placement, "processes", lambda: 2)
    assert settled("auto", teacher, CPU) == "shard"
    teacher.hf_device_map = {"": "cpu"}
    assert settled("auto", teacher, CPU) == "replicate"  # it stays where it is


def test_what_cannot_be_had_is_refused(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="one of replicate, shard, offload, auto; got 'split'"):
        DistillationArguments(str(tmp_path), use_cpu=True, teacher_placement="split")
    with pytest.raises(ValueError, match="there is one process"):
        settled("shard", tiny_bert(), CPU)
    placed = tiny_bert()
    placed.hf_device_map = {"": "cpu"}
    with pytest.raises(ValueError, match="was placed by a device map"):
        settled("offload", placed, CPU)
    monkeypatch.setattr(placement, "processes", lambda: 2)
    recurrent = LSTMStudentForSequenceClassification(LSTMStudentConfig(vocab_size=9, embedding_size=4, hidden_size=4))
    with pytest.raises(ValueError, match="recurrent layers"):
        settled("shard", recurrent, CPU)
    single = SimpleNamespace(modules=lambda: [], parameters=lambda: [torch.tensor(1.0)])
    with pytest.raises(ValueError, match="single numbers"):
        settled("shard", single, CPU)
    monkeypatch.setattr(placement, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="under ZeRO-3 DeepSpeed lays out every model"):
        settled("shard", tiny_bert(), CPU)


def test_weights_of_the_student_are_not_moved(tmp_path):
    student = tiny_bert(num_labels=3).requires_grad_(False)
    student.classifier.requires_grad_(True)
    with pytest.raises(ValueError, match="shares 41 weights with the student"):
        DistillationTrainer(
            student,
            DistillationArguments(str(tmp_path), use_cpu=True, report_to="none", teacher_placement="offload"),
            teacher_model=student,
            train_dataset=tiny_rows(),
            data_collator=collate,
        )


def test_files_that_cannot_be_read_in_parts(tmp_path):
    tiny_bert().config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        weight_files(str(tmp_path))


def test_units_are_the_outermost_layers():
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Sequential(nn.ModuleList([nn.Linear(2, 2)])) for _ in range(3))
    model.empty = nn.ModuleList([nn.Identity()])
    assert units(model) == list(model.layers)
    bert = AutoModelForSequenceClassification.from_config(tiny_bert().config)
    assert units(bert) == list(bert.bert.encoder.layer)
