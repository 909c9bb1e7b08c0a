"""Small distillations for every task, loss and matching, run by one process or by two.

`accelerate launch --multi_gpu --num_processes 2 -m tests.cases FOLDER` runs them all and writes what came out.
"""

import gc
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    set_seed,
)

from hf_distill import (
    DistillationArguments,
    DistillationTrainer,
    Seq2SeqDistillationArguments,
    Seq2SeqDistillationTrainer,
)
from hf_distill.losses import LOSSES
from hf_distill.matching.adversarial import AdversarialMatching
from hf_distill.matching.hidden_states import HiddenStateMatching
from hf_distill.matching.relations import RelationMatching
from hf_distill.matching.variational import VariationalMatching
from tests.conftest import tiny_bert, tiny_rows

SINGLE, MULTI = "single_label_classification", "multi_label_classification"
LAYERS = {1: 1, -1: -1}

CASES: dict[str, dict[str, Any]] = {
    **{f"classification {name}": {"loss": name} for name in LOSSES if name != "bernoulli_kl"},
    "classification smoothed": {"arguments": {"label_smoothing_factor": 0.1}},
    "multi-label": {"problem": MULTI},
    "multi-label logit_mse": {"problem": MULTI, "loss": "logit_mse"},
    "regression": {"problem": "regression"},
    "tagging": {"task": "token"},
    "tagging jensen_shannon": {"task": "token", "loss": "jensen_shannon"},
    "seq2seq": {"task": "seq2seq"},
    "seq2seq reverse_kl": {"task": "seq2seq", "loss": "reverse_kl"},
    "causal": {"task": "causal"},
    "causal skewed_kl": {"task": "causal", "loss": "skewed_kl"},
    **{
        f"{task} of two vocabularies": {"task": task, "loss": "universal_logit_distance", "teacher_vocabulary": 70}
        for task in ("seq2seq", "causal")
    },
    "hidden states": {"matching": lambda: [HiddenStateMatching(LAYERS, weight=0.3)]},
    "relations": {"matching": lambda: [RelationMatching(LAYERS, weight=0.3)]},
    "variational": {"matching": lambda: [VariationalMatching(LAYERS, weight=0.3, latent_size=4)]},
    "adversarial": {"matching": lambda: [AdversarialMatching({-1: -1}, weight=0.3)]},
    "hidden states of a causal model": {"task": "causal", "matching": lambda: [HiddenStateMatching(LAYERS)]},
}

# The rest of the grid of tasks and losses, for one process.
GRID: dict[str, dict[str, Any]] = {
    f"{task} {name}": {"task": task, "loss": name}
    for task in ("token", "seq2seq", "causal")
    for name in LOSSES
    if name not in ("bernoulli_kl", "forward_kl")
}


def float_labels(rows: Any, problem: str) -> Any:
    """The rows with labels of another problem, every fifth missing."""
    generator = np.random.default_rng(1)
    shape = (len(rows), 3) if problem == MULTI else (len(rows),)
    values = generator.integers(0, 2, shape) if problem == MULTI else generator.normal(size=shape)
    values = values.astype(np.float32)
    values[::5] = np.nan
    return rows.remove_columns("labels").add_column("labels", values.tolist())


def position_labels(rows: Any, classes: int) -> Any:
    """The rows with a label a position, some missing; the third row, a whole micro-batch at times, has none at all."""
    generator = np.random.default_rng(2)

    def labels(row: dict[str, Any], number: int) -> dict[str, Any]:
        made = generator.integers(0, classes, len(row["input_ids"]))
        made[generator.random(len(made)) < 0.3] = -100
        return {"labels": [-100] * len(made) if number in (2, 3) else made.tolist()}

    return rows.remove_columns("labels").map(labels, with_indices=True)


def two_vocabularies(rows: Any, task: str, teacher_vocabulary: int) -> Any:
    """The rows with a reading of the teacher's own beside the student's: longer here and shorter there."""
    generator = np.random.default_rng(3)

    def read(row: dict[str, Any], number: int) -> dict[str, Any]:
        length = max(2, len(row["input_ids"]) + number % 5 - 2)
        ids = generator.integers(3, teacher_vocabulary, length)
        targets = generator.integers(3, teacher_vocabulary, length + 1) if task == "seq2seq" else ids.copy()
        if task == "causal" or number % 4 == 0:
            targets[: number % 3] = -100
        return {
            "teacher_input_ids": ids.tolist(),
            "teacher_attention_mask": [1] * length,
            "teacher_labels": targets.tolist() if number != 5 else [-100] * len(targets),
        }

    return rows.map(read, with_indices=True)


def pad(rows: list[dict[str, Any]], extra: int = 0) -> dict[str, torch.Tensor]:
    """Pad everything that has a position on the right."""
    longest = max(len(row["input_ids"]) for row in rows) + extra
    fill = {"labels": -100}
    batch = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if isinstance(values[0], list) and name not in ("teacher_logits",) and not isinstance(values[0][0], float):
            values = [value + [fill.get(name, 0)] * (longest - len(value)) for value in values]
        batch[name] = torch.tensor(values)
    return batch


def models(task: str, problem: str, teacher_vocabulary: int = 50) -> tuple[Any, Any]:
    """A student and a teacher in float64, both a little random network."""
    labels = 1 if problem == "regression" else 3
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 40}
    made = []
    for seed, vocabulary in ((0, 50), (1, teacher_vocabulary)):
        set_seed(seed)
        small["vocab_size"] = vocabulary
        if task == "sequence":
            made.append(tiny_bert(seed=seed, num_labels=labels, problem_type=problem))
        elif task == "token":
            config = BertConfig(
                **small,
                hidden_size=16,
                intermediate_size=32,
                num_labels=4,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
            made.append(BertForTokenClassification(config))
        elif task == "causal":
            made.append(
                LlamaForCausalLM(LlamaConfig(**small, hidden_size=16, intermediate_size=32, num_key_value_heads=2))
            )
        else:
            config = BartConfig(
                vocab_size=vocabulary,
                d_model=16,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=32,
                decoder_ffn_dim=32,
                max_position_embeddings=40,
                dropout=0.0,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=2,
                forced_eos_token_id=None,
            )
            made.append(BartForConditionalGeneration(config))
    return made[0].double(), made[1].double()


def build(name: str, folder: Path, batch: int = 8, accumulation: int = 1, **changes: Any) -> DistillationTrainer:
    """The trainer of a case.

    Args:
        name: of the case.
        folder: to work in.
        batch: rows a process and micro-batch.
        accumulation: micro-batches a step.
        changes: of the arguments.
    """
    case = (CASES | GRID)[name]
    task, problem = case.get("task", "sequence"), case.get("problem", SINGLE)
    rows = tiny_rows(24, unlabelled=9)
    if problem != SINGLE:
        rows = float_labels(rows, problem)
    if task != "sequence":
        rows = position_labels(rows, 4 if task == "token" else 50)
    teacher_vocabulary = case.get("teacher_vocabulary", 50)
    if teacher_vocabulary != 50:
        rows = two_vocabularies(rows, task, teacher_vocabulary)
    student, teacher = models(task, problem, teacher_vocabulary)
    set_seed(0)
    seq2seq = task == "seq2seq"
    arguments = (Seq2SeqDistillationArguments if seq2seq else DistillationArguments)(
        str(folder),
        **{
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
            "num_train_epochs": 2,
            "learning_rate": 0.05,
            "optim": "sgd",
            "lr_scheduler_type": "constant",
            "train_sampling_strategy": "sequential",
            "max_grad_norm": 0.5,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "ddp_backend": "gloo" if "RANK" in os.environ else None,
            "disable_tqdm": True,
            "soft_target_loss": case.get("loss", "forward_kl"),
            **case.get("arguments", {}),
            **changes,
        },
    )
    return (Seq2SeqDistillationTrainer if seq2seq else DistillationTrainer)(
        student,
        arguments,
        teacher_model=teacher,
        matching=case["matching"]() if "matching" in case else (),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=pad,
    )


def outcome(trainer: DistillationTrainer) -> dict[str, Any]:
    """What a training came to: weights, logged numbers and an evaluation."""
    trainer.train()
    evaluation = trainer.evaluate()
    return {
        "weights": {name: value.clone() for name, value in trainer.model.state_dict().items()},
        "logs": [
            {key: value for key, value in entry.items() if "loss" in key or key == "grad_norm" or "accuracy" in key}
            for entry in trainer.state.log_history
            if "loss" in entry
        ],
        "evaluation": {key: value for key, value in evaluation.items() if "loss" in key},
    }


def main() -> None:
    """Run every case in this process, one of several, and write the outcomes."""
    folder = Path(sys.argv[1])
    gc.freeze()  # as tests/conftest.py does
    for accumulation in (1, 2):
        outcomes = {
            name: outcome(build(name, folder, batch=4 // accumulation, accumulation=accumulation)) for name in CASES
        }
        if torch.distributed.get_rank() == 0:
            torch.save(outcomes, folder / f"outcomes-{accumulation}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
