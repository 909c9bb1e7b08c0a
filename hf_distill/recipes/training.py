"""How a recipe trains: arguments with their defaults, stages, checkpoints and learning curves."""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from transformers import Trainer, get_scheduler, set_seed

from hf_distill.environment import accelerator, has_fast_bf16
from hf_distill.matching.base import Matching
from hf_distill.recipes import checkpoints, progress
from hf_distill.recipes.files import write_text
from hf_distill.recipes.processes import Processes
from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.workspace import Workspace, digest
from hf_distill.tasks.base import RecipeTask
from hf_distill.tasks.models import Models
from hf_distill.training.arguments import DistillationArguments
from hf_distill.training.trainer import DistillationTrainer

TRAINING_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "num_train_epochs": 3,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,
    "train_sampling_strategy": "group_by_length",
    "logging_steps": 50,
    "report_to": "none",
    "disable_tqdm": False,  # whatever the verbosity of logs is
}
# What transformers and torch raise for arguments that do not fit together or here.
REFUSALS = (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, NotImplementedError)


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
    processes: int = 1,
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
        processes: that share each batch; so do all GPUs of a single one. The settings have the size of whole batches.
    Raises:
        ValueError: a run that is killed would end with another student than one that is not; a batch cannot be divided.
    """
    if settings.get("ignore_data_skip"):
        raise ValueError(
            "ignore_data_skip: a run that is killed in the middle of an epoch would begin it anew, and end with "
            "another student than an undisturbed run. Leave it out."
        )
    # Both decide on the order of the rows.
    order = {"train_sampling_strategy": "random"} if settings.get("labelled_fraction") else {}
    settings = TRAINING_DEFAULTS | {"seed": seed} | order | dict(settings)
    settings.pop("matching", None)
    per_step = settings["per_device_train_batch_size"] * settings.get("gradient_accumulation_steps", 1)
    epoch = math.ceil(rows / per_step)
    if steps is not None:
        settings["max_steps"] = steps
    elif settings.get("max_steps", -1) <= 0:
        settings["max_steps"] = math.ceil(settings["num_train_epochs"] * epoch)
    every = min(evaluate_every or epoch, settings["max_steps"])
    arguments = kind(
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
            "use_cpu": accelerator() is None,
            **settings,
        }
    )
    replicas = processes if processes > 1 else max(1, arguments.n_gpu)
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
        setattr(arguments, name, share_of(name, getattr(arguments, name), replicas))
    return arguments


def share_of(name: str, size: int, replicas: int) -> int:
    """The part of a batch that each replica of a model gets.

    Args:
        name: of the setting.
        size: of the whole batch.
        replicas: how many processes, or GPUs of a single one, share it.
    Raises:
        ValueError: it cannot be divided evenly.
    """
    if size % replicas:
        raise ValueError(
            f"{name}: {size} rows cannot be divided evenly among {replicas} processes or GPUs; a recipe's batches are "
            f"global, so that the student does not depend on their number. Set {name}: "
            f"{math.ceil(size / replicas) * replicas}, or launch another number of processes."
        )
    return size // replicas


class Training:
    """The trainings of a run.

    Args:
        recipe: of the run.
        task: of the run.
        models: of the run.
        workspace: of the run.
        processes: that train.
        console: of the run.
    """

    def __init__(
        self,
        recipe: Recipe,
        task: RecipeTask,
        models: Models,
        workspace: Workspace,
        processes: Processes,
        console: Console,
    ) -> None:
        self.recipe, self.task, self.models, self.workspace = recipe, task, models, workspace
        self.processes, self.console = processes, console
        self.step = "teacher"  # at work; the logs of trackers stand under its name

    def arguments(self, settings: Mapping[str, Any], name: str, **sizes: Any) -> DistillationArguments:
        """Training arguments of this run; see `training_arguments`."""
        return training_arguments(
            self.task.training_settings(settings),
            self.workspace.work / name,
            seed=self.recipe.seed,
            metric=self.task.selection_metric,
            kind=self.task.arguments_class,
            greater_is_better=self.task.greater_is_better,
            processes=self.processes.size,
            **sizes,
        )

    def checked_arguments(self, settings: Mapping[str, Any], key: str, **sizes: Any) -> DistillationArguments:
        """Training arguments, after a trial of the optimizer and the schedule that they ask for.

        Args:
            settings: of the recipe.
            key: of these settings.
            sizes: see `training_arguments`.
        Raises:
            ValueError: transformers or torch refuse them.
        """
        try:
            arguments = self.arguments(settings, key, **sizes)
            parameter: Any = torch.nn.Linear(1, 1)
            schedule: Any = arguments.lr_scheduler_kwargs
            if arguments.optim_target_modules is None:  # which of its modules only the model itself tells
                kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, parameter)
                get_scheduler(
                    arguments.lr_scheduler_type,
                    kind(parameter.parameters(), **options),
                    num_warmup_steps=arguments.get_warmup_steps(arguments.max_steps),
                    num_training_steps=arguments.max_steps,
                    scheduler_specific_kwargs=schedule,
                )
        except REFUSALS as error:
            raise ValueError(f"{key}: {' '.join(str(error).split()) or type(error).__name__}") from error
        return arguments

    def stages(
        self, name: str, rows: int, distilled_rows: int, *, without_teacher: bool = False, seed: int | None = None
    ) -> Iterator[tuple[DistillationArguments, list[Matching]]]:
        """The arguments and the matchings of each stage of a student's training, or of a control's.

        Args:
            name: of the student.
            rows: number of rows that it is trained on.
            distilled_rows: number of those of the student. A control gets as many steps, and is evaluated as often.
            without_teacher: whether it learns from labels alone.
            seed: in place of the recipe's.
        """
        for number, stage in enumerate(self.recipe.stages):
            settings: dict[str, Any] = {"learning_rate": 2e-3, "bf16": self.recipe.student.bf16 and has_fast_bf16()}
            settings |= stage | ({} if seed is None else {"seed": seed})
            planned = self.arguments(settings, f"{name}-{number}", rows=distilled_rows)
            if without_teacher or not self.recipe.uses_soft_targets:
                settings |= {"hard_label_weight": 1.0, "soft_target_weight": 0.0}
                settings |= dict.fromkeys(("hard_label_weight_end", "soft_target_weight_end", "labelled_fraction"))
            arguments = self.arguments(
                settings,
                f"{name}-{number}",
                rows=rows,
                steps=planned.max_steps,
                evaluate_every=int(planned.eval_steps or planned.max_steps),
            )
            set_seed(arguments.seed)
            yield arguments, [] if without_teacher else self.recipe.matchings(stage)

    def fit(
        self,
        model: Any,
        tokenizer: Any,
        arguments: DistillationArguments,
        train: Dataset,
        validation: Dataset,
        inputs: Mapping[str, Any],
        matching: Sequence[Matching] = (),
    ) -> None:
        """Train a model in place, from the last checkpoint of the same run if it was killed; keep the learning curve.

        Args:
            model: is changed.
            tokenizer: of the model.
            arguments: of the training.
            train: rows.
            validation: rows that select the model.
            inputs: what the training depends on; checkpoints of others do not count.
            matching: of inner states; calls the teacher.
        """
        folder = Path(str(arguments.output_dir))
        self.processes.on_main(lambda: self.open_checkpoints(folder, digest([inputs, len(train)])))
        runs, place = self.workspace.folder / progress.RUNS, f"{self.step}/{folder.name}"
        judged = f"eval_{arguments.metric_for_best_model}"
        name = progress.title(folder.name, len(self.recipe.stages))
        with progress.trackers_in(runs, place) if arguments.report_to else nullcontext():
            trainer = self.trainer(model, tokenizer, arguments, train, validation, matching)
            with progress.shown(trainer, name, judged):
                checkpoints.train(trainer, folder, self.processes)
        curve = [[entry["step"], entry[judged]] for entry in trainer.state.log_history if judged in entry]
        self.workspace.write_json("curves.json", self.workspace.read_json("curves.json", {}) | {folder.name: curve})
        self.processes.on_main(lambda: shutil.rmtree(folder))

    def trainer(
        self,
        model: Any,
        tokenizer: Any,
        arguments: DistillationArguments,
        train: Dataset,
        validation: Dataset,
        matching: Sequence[Matching],
    ) -> DistillationTrainer:
        """The trainer of the task; see `fit`."""
        teacher, teacher_tokenizer, placement = self.models.live_teacher() if matching else (None, None, "replicate")
        arguments.teacher_placement = placement
        return self.task.trainer_class(
            model,
            arguments,
            teacher_model=teacher,
            teacher_processing_class=teacher_tokenizer,
            matching=matching,
            train_dataset=train,
            eval_dataset=validation,
            processing_class=tokenizer,
            data_collator=self.task.collator(tokenizer, model),
            compute_metrics=self.task.validation_metrics(tokenizer),
        )

    def open_checkpoints(self, folder: Path, inputs: str) -> None:
        """Make a folder of checkpoints; those of other inputs, or of another number of processes, do not count.

        Args:
            folder: of the checkpoints.
            inputs: a hash of what the training depends on.
        """
        mark, size = folder / "inputs.json", self.processes.size
        before = mark.read_text(encoding="utf-8", errors="replace") if mark.exists() else ""
        now = inputs if size == 1 else f"{inputs} {size}"
        if before == now:
            return
        if before.partition(" ")[0] == inputs:
            self.console.print(
                f"{folder.name}: this training was begun by {before.partition(' ')[2] or 1} processes; with {size} it "
                "starts anew.",
                style="yellow",
            )
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        write_text(mark, now)

    def curves(self) -> dict[str, list[list[float]]]:
        """The selection metric on the validation rows by optimizer step, of student and baseline through all stages."""
        kept = self.workspace.read_json("curves.json", {})
        found: dict[str, list[list[float]]] = {}
        for name in ("student", "baseline"):
            past = 0
            for number in range(len(self.recipe.stages)):
                curve = kept.get(f"{name}-{number}", [])
                found[name] = found.get(name, []) + [[past + step, value] for step, value in curve]
                past += curve[-1][0] if curve else 0
        return {name: curve for name, curve in found.items() if curve}
