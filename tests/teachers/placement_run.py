"""Teachers that are sharded over two processes: `python -m tests.teachers.placement_run FOLDER`."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch.distributed.tensor import DTensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    set_seed,
)

from hf_distill import DistillationArguments, DistillationTrainer, HiddenStateMatching, cache_teacher_outputs
from hf_distill.teachers.placement import load_sharded, parameter_bytes, shard, units
from tests.conftest import collate, tiny_bert, tiny_rows

FOLDER = Path(sys.argv[-1])
CPU = torch.device("cpu")


def losses(teacher: Any, placement: str, **changes: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """What a student learned from a teacher: the loss of each step, and its weights. 21 rows: the last batch is cut."""
    arguments = DistillationArguments(
        str(FOLDER / "out"),
        per_device_train_batch_size=4,
        num_train_epochs=2,
        optim="sgd",
        learning_rate=0.05,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        teacher_placement=placement,
        **changes,
    )
    made = DistillationTrainer(
        tiny_bert(num_labels=3),
        arguments,
        teacher_model=teacher,
        train_dataset=tiny_rows(21),
        eval_dataset=tiny_rows(9, seed=3),
        data_collator=collate,
        matching=[HiddenStateMatching(layers={-1: -1})],
    )
    made.train()
    found = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    return [*found, made.evaluate()["eval_soft_loss"]], made.model.state_dict()


def greatest(one: Any, other: Any) -> float:
    """The greatest difference of two trainings."""
    weights = max(float((one[1][name] - other[1][name]).abs().max()) for name in one[1])
    return max(weights, float(np.abs(np.array(one[0]) - np.array(other[0])).max()))


def peak(model: Any, inputs: dict[str, torch.Tensor]) -> int:
    """Bytes of parameters on this process at most in a forward: parts, and what is gathered beside them."""
    seen = []

    def count(*_: Any) -> None:
        parts = sum(each.to_local().nbytes for each in kept)
        gathered = {id(each): each.nbytes for each in model.parameters() if not isinstance(each, DTensor)}
        seen.append(parts + sum(gathered.values()))

    kept = [each for each in model.parameters() if isinstance(each, DTensor)]
    for module in model.modules():
        module.register_forward_pre_hook(count)
        module.register_forward_hook(count)
    with torch.no_grad():
        model(**inputs)
    return max(seen)


def save(model: Any, folder: Path, **options: Any) -> None:
    """Write a model once, for all processes to read."""
    if PartialState().is_main_process:
        model.save_pretrained(folder, **options)
    PartialState().wait_for_everyone()


def memory() -> dict[str, int]:
    """What a language model with a large table and eight layers takes, whole and sharded."""
    set_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=400, tie_word_embeddings=True, **sizes)).eval()
    layers = sorted(parameter_bytes([unit]) for unit in units(model))
    whole = parameter_bytes([model])
    ids = torch.arange(12).view(2, 6)
    expected = model(ids).logits
    folder = FOLDER / "llama"
    save(model, folder, max_shard_size="200KB")
    sharded = load_sharded(folder, AutoModelForCausalLM, CPU)
    with torch.no_grad():
        differs = float((sharded(ids).logits - expected).abs().max())
    largest = sorted([*layers, whole - sum(layers)])[-2:]
    shard(model, CPU)
    return {
        "whole": whole,
        "largest": sum(largest),
        "peak": peak(sharded, {"input_ids": ids}),
        "peak of a given model": peak(model, {"input_ids": ids}),
        "differs": differs,
    }


def refused(teacher: Any, student: Any) -> str:
    try:
        DistillationTrainer(
            student,
            DistillationArguments(str(FOLDER / "out"), use_cpu=True, report_to="none", teacher_placement="shard"),
            teacher_model=teacher,
            train_dataset=tiny_rows(9),
            data_collator=collate,
        )
    except ValueError as error:
        return str(error)
    return ""


def main() -> None:
    state = PartialState(cpu=True)
    teacher = tiny_bert(seed=1, num_labels=3)
    name = FOLDER / "teacher"
    save(teacher, name)
    told: dict[str, Any] = {"world": state.num_processes, "memory": memory()}
    for bf16 in (False, True):
        expected = losses(copy.deepcopy(teacher), "replicate", bf16=bf16)
        for kind, given in (("model", copy.deepcopy(teacher)), ("name", str(name))):
            told[f"{kind}, bf16 {bf16}"] = greatest(expected, losses(given, "shard", bf16=bf16))
    rows = tiny_rows(23)
    caches = [
        cache_teacher_outputs(
            rows if kind != "stream" else rows.to_iterable_dataset(),
            given,
            task="text-classification",
            output_dir=FOLDER / f"cache-{kind}",
            dtype="float32",
            shard_size=10,
            batch_size=4,
            device="cpu",
            teacher_placement=placement,
        )
        for kind, given, placement in (
            ("whole", copy.deepcopy(teacher), "replicate"),
            ("sharded", name, "shard"),
            ("stream", name, "shard"),
        )
    ]
    logits = [np.array(cached["teacher_logits"]) for cached in caches]
    told["cache"] = max(float(np.abs(each - logits[0]).max()) for each in logits)
    records = [json.loads((FOLDER / f"cache-{kind}" / "provenance.json").read_text()) for kind in ("whole", "sharded")]
    told["same record"] = records[0] == records[1]
    student = tiny_bert(num_labels=3).requires_grad_(False)
    student.classifier.requires_grad_(True)
    told["shared"] = refused(student, student)
    other = AutoModelForSequenceClassification.from_pretrained(name)
    other.hf_device_map = {"": "cpu"}
    told["placed"] = refused(other, tiny_bert(num_labels=3))
    (FOLDER / f"told-{state.process_index}.json").write_text(json.dumps(told))
    state.wait_for_everyone()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
