"""A training on a stream and a resumed one with `labelled_fraction`, run by one process or by two."""

import os
import sys
from pathlib import Path

import torch

from hf_distill import DistillationArguments, DistillationTrainer
from tests.conftest import collate, tiny_bert, tiny_rows

FOLDER = Path(sys.argv[-1]).with_suffix("")
WORLD = int(os.environ.get("WORLD_SIZE", "1"))


def trainer(rows, folder, **changes):
    settings = DistillationArguments(
        str(FOLDER / folder),
        **{
            "per_device_train_batch_size": 8 // WORLD,
            "per_device_eval_batch_size": 4,
            "learning_rate": 0.05,
            "optim": "sgd",
            "lr_scheduler_type": "constant",
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "ddp_backend": "gloo" if WORLD > 1 else None,
            **changes,
        },
    )
    return DistillationTrainer(
        tiny_bert(num_labels=3),
        settings,
        teacher_model=tiny_bert(seed=1, num_labels=3),
        train_dataset=rows,
        data_collator=collate,
        compute_metrics=lambda found: {"samples": len(found.label_ids)},
    )


def resumed() -> list[bool]:
    """Whether each step after a resume in the middle of an epoch saw the rows of the unbroken training."""
    seen = []
    for resume in (None, str(FOLDER / "fraction" / "checkpoint-4")):
        made = trainer(
            tiny_rows(21, unlabelled=14),
            "fraction",
            labelled_fraction=0.5,
            num_train_epochs=3,
            save_strategy="steps",
            save_steps=2,
        )
        step, rows = made.training_step, []

        def watched(model, inputs, *rest, step=step, rows=rows, **named):
            rows.append(sorted(map(tuple, inputs["input_ids"].tolist())))
            return step(model, inputs, *rest, **named)

        made.training_step = watched
        made.train(resume_from_checkpoint=resume)
        seen.append(rows)
    return [one == other for one, other in zip(seen[0][4:], seen[1], strict=True)]


def main(path: str) -> None:
    uneven = trainer(tiny_rows(21).to_iterable_dataset(num_shards=2), "uneven", max_steps=5)  # into a second epoch
    uneven.train()
    made = trainer(tiny_rows(24).to_iterable_dataset(num_shards=2), "stream", max_steps=3)
    made.train()
    found = made.evaluate(tiny_rows(21, seed=3).to_iterable_dataset())
    outcome = {
        "world": made.accelerator.num_processes,
        "weights": made.model.state_dict(),
        "evaluation": {name: value for name, value in found.items() if "loss" in name},
        "samples": int(found["eval_samples"]),
        "steps": uneven.state.global_step,
        "resumed": resumed(),
    }
    if made.is_world_process_zero():
        torch.save(outcome, path)
    if WORLD > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
