"""How a recipe trains: arguments with their defaults, collators, and validation by the recipe's metrics."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding, EvalPrediction

from hf_distill import metrics
from hf_distill.evaluation.predictions import decide
from hf_distill.problems import IGNORE_INDEX, Task
from hf_distill.training.arguments import DistillationArguments

TRAINING_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "num_train_epochs": 3,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,
    "train_sampling_strategy": "group_by_length",
    "logging_steps": 50,
    "report_to": "none",
}


def training_arguments(
    settings: Mapping[str, Any],
    folder: Path,
    *,
    rows: int,
    seed: int,
    metric: str,
    steps: int | None = None,
    evaluate_every: int | None = None,
    kind: type[Any] = DistillationArguments,
    greater_is_better: bool = True,
) -> Any:
    """Training arguments: the settings, over the defaults, with validation about once an epoch.

    Args:
        settings: of the recipe; `matching` is left out.
        folder: of the checkpoints.
        rows: of the training set.
        seed: where the settings have none.
        metric: selects the model.
        steps: optimizer steps in all; None: by `num_train_epochs`.
        evaluate_every: steps between validations; None: an epoch.
        kind: of arguments.
        greater_is_better: whether the metric grows with quality.
    """
    # Both decide on the order of the rows.
    order = {"train_sampling_strategy": "random"} if settings.get("labelled_fraction") else {}
    settings = TRAINING_DEFAULTS | {"seed": seed} | order | dict(settings)
    settings.pop("matching", None)
    per_step = settings["per_device_train_batch_size"] * settings.get("gradient_accumulation_steps", 1)
    epoch = math.ceil(rows / (per_step * max(1, torch.cuda.device_count())))
    if steps is not None:
        settings["max_steps"] = steps
    elif settings.get("max_steps", -1) <= 0:
        settings["max_steps"] = math.ceil(settings["num_train_epochs"] * epoch)
    every = min(evaluate_every or epoch, settings["max_steps"])
    return kind(
        **{
            "output_dir": str(folder),
            "eval_strategy": "steps",
            "eval_steps": every,
            "save_strategy": "steps",
            "save_steps": every,
            "save_total_limit": 1,
            "load_best_model_at_end": True,
            "metric_for_best_model": metric,
            "greater_is_better": greater_is_better,
            "use_cpu": not torch.cuda.is_available(),
            **settings,
        }
    )


def collator(task: Task, tokenizer: Any) -> Any:
    """What pads the rows of a task."""
    return DataCollatorForTokenClassification(tokenizer) if task.word_level else DataCollatorWithPadding(tokenizer)


def validation(
    names: Sequence[str], classes: Sequence[str], problem_type: str | None
) -> Callable[[EvalPrediction], dict[str, float]]:
    """What `Trainer` calls to judge a model: some metrics by name.

    Args:
        names: see `metrics.load`.
        classes: names of the labels, for metrics that read names.
        problem_type: see `predictions.decide`.
    """

    def judge(prediction: EvalPrediction) -> dict[str, float]:
        labels = np.asarray(prediction.label_ids)
        answers = decide(np.asarray(prediction.predictions), problem_type)
        values: dict[str, float] = {}
        for name in names:
            said, true = answers, labels
            metric = metrics.load(name)
            if getattr(metric, "reads_logits", False):
                said = np.asarray(prediction.predictions)
            if name == "seqeval":
                said, true = _named(answers, labels, classes)
            elif problem_type is None:
                said, true = said[labels != IGNORE_INDEX], labels[labels != IGNORE_INDEX]
            values |= metric.compute(predictions=said, references=true) or {}
        return {name: float(value) for name, value in values.items()}

    return judge


def _named(answers: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> tuple[Any, Any]:
    """The tags of each sentence by name, at the labelled positions."""
    counted = [(row, labels[number] != IGNORE_INDEX) for number, row in enumerate(answers)]
    said = [[classes[number] for number in row[keep]] for row, keep in counted]
    true = [[classes[number] for number in labels[row][keep]] for row, (_, keep) in enumerate(counted)]
    return said, true
