"""Running a recipe step by step: teacher → cache → initialise → distil → controls → export → compare."""

import dataclasses
import importlib.util
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets.fingerprint import Hasher
from rich.console import Console
from transformers import AutoConfig, AutoTokenizer, DataCollatorWithPadding, EvalPrediction, PreTrainedModel, set_seed

from hf_distill import columns, hub, metrics
from hf_distill.arguments import DistillationArguments
from hf_distill.cache import cache_teacher_outputs
from hf_distill.controls import majority_class, tfidf_logistic_regression
from hf_distill.data import PACKAGE, Splits, load, resolve, tokenise
from hf_distill.export import export_onnx
from hf_distill.matching import Matching
from hf_distill.measure import has_fast_bf16, peak_memory, predict_classes
from hf_distill.recipe import Recipe
from hf_distill.report import Report, compare
from hf_distill.students import LSTMStudentConfig, TransformerStudentConfig, student_from_teacher, student_tokenizer
from hf_distill.tasks import IGNORE_INDEX, TASKS
from hf_distill.trainer import DistillationTrainer

STEPS = ("teacher", "cache", "initialise", "distill", "controls", "export", "compare")
RESULTS = {
    "cache": ("cache/provenance.json",),
    "initialise": (".work/initial/carried.json",),
    "distill": ("student/model.safetensors",),
    "controls": ("baseline/model.safetensors",),
    "compare": ("report.json", "student/README.md"),
}
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


def run_recipe(recipe: Recipe | str | Path, only: str | None = None) -> Report | None:
    """Run a recipe, skipping every step whose result is there and whose inputs are unchanged.

    All that can be checked is checked before the first expensive step. A step writes beside its result and replaces it
    at its end, so a run that fails leaves earlier results intact; a run that was killed goes on from its last
    checkpoint.

    Args:
        recipe: a recipe or the path of one.
        only: one of `STEPS`; that step runs, after those it needs that are not done yet.
    Returns:
        The report, or None where `only` stops before it.
    Raises:
        ValueError: the recipe, its data, its models and its arguments do not fit together.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.load(recipe)
    if only is not None and only not in STEPS:
        raise ValueError(f"only: expected one of {', '.join(STEPS)}; got {only!r}.")
    run = _Run(recipe)
    for step in STEPS:
        if only is None or STEPS.index(step) < STEPS.index(only) or step == only:
            run.step(step)
    return Report.load(run.folder) if only in (None, "compare") else None


class _Run:
    """One run of a recipe: what its steps share."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.task = TASKS[recipe.task]
        self.console = Console(stderr=True)
        self.folder = Path(recipe.output_dir)
        self.work = self.folder / ".work"
        self.splits: Splits = load(recipe.data, recipe.seed)
        self.teacher_path = resolve(recipe.teacher.model)
        self.bf16 = recipe.teacher.bf16 and has_fast_bf16()
        self.check()
        self.work.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict[str, Any]] = self._read_json("steps.json", {})

    # Before anything expensive

    def check(self) -> None:
        """Raise a ValueError for whatever would fail later."""
        foreign = [name for name in ("teacher", "cache", "student", "baseline") if (self.folder / name).exists()]
        if foreign and not self.work.exists():
            raise ValueError(
                f"output_dir: {self.folder} has {', '.join(foreign)} already, not from a run of a recipe. They would "
                "be replaced: choose another output_dir, or move them."
            )
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                "A recipe runs in one process, on all devices that it sees; for several processes use the trainer."
            )
        for name in self.recipe.metrics:
            metrics.load(name)
        config = AutoConfig.from_pretrained(self.teacher_path)
        if self.recipe.teacher.fine_tune is None:
            named = [config.id2label[number] for number in sorted(config.id2label)]
            anonymous = all(name == f"LABEL_{number}" for number, name in enumerate(named))
            if len(named) != len(self.splits.classes) or (not anonymous and named != self.splits.classes):
                raise ValueError(
                    f"The labels of the data are {self.splits.classes}, the classes of the teacher are {named}: a "
                    "teacher that is used as it is needs the same, in the same order. Set data.labels, or let it learn "
                    "them with teacher.fine_tune."
                )
        else:
            self.arguments(self.recipe.teacher.fine_tune, "teacher", rows=len(self.splits.train))
        for stage in self.recipe.stages:
            arguments = self.arguments(stage, "distill", rows=len(self.splits.train))
            if not arguments.wants_soft_targets and not stage.get("matching"):
                raise ValueError(
                    "distill: soft_target_weight is 0 and there is no matching, so the student would not hear its "
                    "teacher. The student without a teacher is trained anyway, as a control."
                )
        self.student_config()
        missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
        if self.recipe.export.onnx and missing:
            raise ValueError(
                f"export.onnx: {' and '.join(missing)} not installed. Install hf-distill[onnx], or set it false."
            )

    def student_config(self, tokenizer: Any = None) -> LSTMStudentConfig | TransformerStudentConfig:
        """The student's config; an LSTM's with the classes of the data and, where given, its tokenizer's tokens."""
        settings = self.recipe.student
        if settings.kind == "transformer":
            return TransformerStudentConfig(**settings.config)
        names = dict(enumerate(self.splits.classes))
        tokens: dict[str, Any] = {
            name: getattr(tokenizer, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")
        }
        return LSTMStudentConfig(
            vocab_size=100 if tokenizer is None else len(tokenizer),
            id2label=names,
            label2id={name: number for number, name in names.items()},
            **tokens,
            **settings.config,
        )

    def arguments(
        self,
        settings: dict[str, Any],
        name: str,
        *,
        rows: int,
        steps: int | None = None,
        evaluate_every: int | None = None,
    ) -> DistillationArguments:
        """Training arguments: the settings, over the defaults, with validation about once an epoch.

        Args:
            settings: of the recipe.
            name: of the training's folder.
            rows: of its training set.
            steps: optimizer steps in all; None: by `num_train_epochs`.
            evaluate_every: steps between validations; None: an epoch.
        """
        # Both decide on the order of the rows.
        order = {"train_sampling_strategy": "random"} if settings.get("labelled_fraction") else {}
        settings = TRAINING_DEFAULTS | {"seed": self.recipe.seed} | order | settings
        settings.pop("matching", None)
        per_step = settings["per_device_train_batch_size"] * settings.get("gradient_accumulation_steps", 1)
        epoch = math.ceil(rows / (per_step * max(1, torch.cuda.device_count())))
        if steps is not None:
            settings["max_steps"] = steps
        elif settings.get("max_steps", -1) <= 0:
            settings["max_steps"] = math.ceil(settings["num_train_epochs"] * epoch)
        every = min(evaluate_every or epoch, settings["max_steps"])
        return DistillationArguments(
            **{
                "output_dir": str(self.work / name),
                "eval_strategy": "steps",
                "eval_steps": every,
                "save_strategy": "steps",
                "save_steps": every,
                "save_total_limit": 1,
                "load_best_model_at_end": True,
                "metric_for_best_model": self.recipe.metrics[0],
                "greater_is_better": True,
                "use_cpu": not torch.cuda.is_available(),
                **settings,
            }
        )

    # Steps

    def step(self, name: str) -> None:
        """Run one step unless it is done."""
        fingerprint = self.fingerprints[name]
        results = {**RESULTS, "teacher": ("teacher/model.safetensors",) if self.recipe.teacher.fine_tune else ()}
        there = all((self.folder / result).exists() for result in results.get(name, ()))
        if there and self.done.get(name, {}).get("fingerprint") == fingerprint:
            self.console.print(f"[dim]{name}: done before, in {self.done[name]['seconds']:.0f} s[/dim]")
            return
        for later in STEPS[STEPS.index(name) :]:
            self.done.pop(later, None)  # from here on, results of another run may be replaced in parts
        self._write_json("steps.json", self.done)
        self.console.rule(f"{name}")
        start = time.perf_counter()
        getattr(self, f"_step_{name}")()
        self.done[name] = {
            "fingerprint": fingerprint,
            "seconds": round(time.perf_counter() - start, 1),
            "peak_memory_bytes": peak_memory(),
        }
        self._write_json("steps.json", self.done)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """A hash of all that each step's result depends on."""
        recipe = self.recipe
        parts = (
            self.splits.train,
            self.splits.unlabelled,
            self.splits.validation,
            self.splits.test,
            self.splits.fidelity,
        )
        data = Hasher.hash([self.splits.classes, *(part.to_dict() for part in parts)])
        teacher = Hasher.hash([_contents(self.teacher_path), recipe.teacher, recipe.seed, data, recipe.metrics[0]])
        shared = recipe.student.max_length if recipe.student.vocab_size is None else None  # the teacher reads the same
        cache = Hasher.hash([teacher, self.bf16, shared])
        initialise = Hasher.hash([teacher, dataclasses.asdict(recipe.student)])
        distill = Hasher.hash([cache, initialise, recipe.stages, recipe.metrics[0], has_fast_bf16()])
        controls = Hasher.hash([distill, recipe.compare.controls])
        export = Hasher.hash([distill, dataclasses.asdict(recipe.export)])
        report = Hasher.hash([controls, export, recipe.compare, recipe.teacher.floor, recipe.push])
        return dict(zip(STEPS, (teacher, cache, initialise, distill, controls, export, report), strict=True))

    def _step_teacher(self) -> None:
        """Fine-tune the teacher, or check that the given one loads."""
        tokenizer = AutoTokenizer.from_pretrained(self.teacher_path)
        if self.recipe.teacher.fine_tune is None:
            self.task.auto_class.from_pretrained(self.teacher_path)
            return
        names = dict(enumerate(self.splits.classes))
        set_seed(self.recipe.seed)
        model = self.task.auto_class.from_pretrained(
            self.teacher_path,
            num_labels=len(names),
            id2label=names,
            label2id={name: number for number, name in names.items()},
            dtype=torch.float32,
        )
        train, validation = (
            tokenise(part, tokenizer, max_length=self.recipe.teacher.max_length)
            for part in (self.splits.train, self.splits.validation)
        )
        settings = {
            "learning_rate": 5e-5,
            "weight_decay": 0.01,
            "bf16": self.bf16,
            **self.recipe.teacher.fine_tune,
            "hard_label_weight": 1.0,
            "soft_target_weight": 0.0,
        }
        arguments = self.arguments(settings, "teacher", rows=len(train))
        self.train(model, tokenizer, arguments, train, validation, "teacher")
        with self.replacing("teacher") as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    def _step_cache(self) -> None:
        """Ask the teacher about every training text."""
        self.with_teacher_logits(self.tokenised("train", "unlabelled"))

    def _step_initialise(self) -> None:
        """Make the student's tokenizer and its first weights."""
        teacher, teacher_tokenizer = self.teacher()
        settings = self.recipe.student
        tokenizer = teacher_tokenizer
        if settings.vocab_size is not None:
            texts = [text for part in (self.splits.train, self.splits.unlabelled) for text in self.texts(part)]
            tokenizer = student_tokenizer(teacher_tokenizer, texts, settings.vocab_size)
        tokenizer.model_max_length = settings.max_length
        config = self.student_config(tokenizer)
        set_seed(self.recipe.seed)
        carried: dict[str, str] = {}
        if settings.from_teacher:
            student, carried = student_from_teacher(teacher, config, tokenizer, teacher_tokenizer)
        else:
            student = self.task.auto_class.from_config(config)
        for name, source in carried.items():
            self.console.print(f"  {name} ← {source}", highlight=False)
        with self.replacing(".work/initial") as folder:
            student.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            (folder / "carried.json").write_text(json.dumps(carried, indent=2))

    def _step_distill(self) -> None:
        """Train the student on the labels and on what the teacher said."""
        rows = self.with_teacher_logits(self.tokenised("train", "unlabelled"))
        student, tokenizer = self.load(self.work / "initial")
        self.train_student("student", student, tokenizer, rows)

    def _step_export(self) -> None:
        """Write the student for onnxruntime, where asked to."""
        if self.recipe.export.onnx:
            student, _ = self.load(self.folder / "student")
            export_onnx(student, self.folder / "student", int8=self.recipe.export.int8)

    def _step_controls(self) -> None:
        """Train what the student must beat."""
        student, tokenizer = self.load(self.work / "initial")
        self.train_student("baseline", student, tokenizer, self.tokenised("train"), without_teacher=True)
        if not self.recipe.compare.controls:
            return
        predictions: dict[str, Any] = {
            "majority_class": majority_class(self.splits.train["label"], len(self.splits.test))
        }
        texts = {
            name: list(self.texts(getattr(self.splits, name))) for name in ("train", "unlabelled", "validation", "test")
        }
        bag = (texts["validation"], self.splits.validation["label"], texts["test"])
        predictions["tfidf_logistic_regression"] = tfidf_logistic_regression(
            texts["train"], self.splits.train["label"], *bag
        )
        rows = self.with_teacher_logits(self.tokenised("train", "unlabelled"))
        probabilities = torch.tensor(np.array(rows[columns.LOGITS]), dtype=torch.float64).softmax(dim=-1).numpy()
        predictions["tfidf_on_teacher_soft_labels"] = tfidf_logistic_regression(
            texts["train"] + texts["unlabelled"], None, *bag, soft_labels=probabilities
        )
        rows = rows.remove_columns(columns.LOGITS)
        test = self.tokenised("test")
        own = predict_classes(self.load(self.folder / "baseline")[0], rows, tokenizer)
        for name, answers in (("self_training", own), ("teacher_hard_labels", probabilities.argmax(axis=-1))):
            known = np.array(rows["labels"])
            kept = answers if name == "teacher_hard_labels" else np.where(known == IGNORE_INDEX, answers, known)
            labelled = rows.remove_columns("labels").add_column("labels", kept.astype(np.int64))
            student, _ = self.load(self.work / "initial")
            self.train_student(name, student, tokenizer, labelled, without_teacher=True)
            predictions[name] = predict_classes(student, test, tokenizer)
        self._write_json("controls.json", {name: np.asarray(made).tolist() for name, made in predictions.items()})

    def _step_compare(self) -> None:
        """Measure, and write the report, the card and the recipe."""
        start = time.perf_counter()
        teacher, teacher_tokenizer = self.teacher()
        student, tokenizer = self.load(self.folder / "student")
        baseline, _ = self.load(self.folder / "baseline")
        made = self._read_json("controls.json", {}) if self.recipe.compare.controls else {}
        with_teacher = {name for name in made if "teacher" in name}
        report = compare(
            teacher,
            student,
            self.tokenised("test"),
            task=self.recipe.task,
            baseline_model=baseline,
            student_processing_class=tokenizer,
            teacher_processing_class=teacher_tokenizer,
            metrics=tuple(self.recipe.metrics),
            controls={name: np.array(made[name]) for name in made if name not in with_teacher},
            controls_with_teacher={name: np.array(made[name]) for name in with_teacher},
            fidelity_dataset=self.tokenised("fidelity") if len(self.splits.fidelity) else None,
            teacher_floor=self.recipe.teacher.floor,
            resamples=self.recipe.compare.resamples,
            seed=self.recipe.seed,
        )
        seconds = {name: step["seconds"] for name, step in self.done.items() if name != "compare"}
        seconds["compare"] = round(time.perf_counter() - start, 1)
        run = {
            "seconds": seconds,
            "total_seconds": round(sum(seconds.values()), 1),
            "peak_memory_bytes": max(peak_memory(), *(step["peak_memory_bytes"] for step in self.done.values())),
            "rows": self.splits.counts,
            "bf16_teacher": self.bf16,
        }
        report = dataclasses.replace(report, run=run)
        report.save(self.folder)
        report.save(self.folder / "student")
        self.recipe.save(self.folder / "recipe.yaml")
        push = self.recipe.push
        hub.model_card(
            report,
            self.folder / "student",
            student_name=(push.repo_id or f"{self.recipe.student.kind} student of {_name(self.recipe.teacher.model)}"),
            teacher=push.base_model or _local(self.recipe.teacher.model),
            teacher_revision=getattr(teacher.config, "_commit_hash", None),
            repo_id=push.repo_id,
            license=push.license,
            language=push.language or None,
            datasets=push.datasets or [_name(self.recipe.data.path)],
            method={"temperature": 2.0, "soft_target_loss": "forward_kl", **self.recipe.stages[-1]},
            carried=json.loads((self.work / "initial" / "carried.json").read_text()),
            splits={
                name: self.splits.counts[name] for name in ("train", "unlabelled", "validation", "test", "fidelity")
            },
            reproduce="hf-distill run recipe.yaml",
            example=self.splits.test[0]["text"],
        )
        self.console.print(report.table())

    # Parts of the steps

    def train(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        arguments: DistillationArguments,
        train: datasets.Dataset,
        validation: datasets.Dataset,
        step: str,
        matching: Sequence[Matching] = (),
    ) -> None:
        """Train a model in place, from the last checkpoint of a killed run if it was the same run."""
        folder = Path(str(arguments.output_dir))
        mark = folder / "fingerprint"
        if not mark.exists() or mark.read_text() != self.fingerprints[step]:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            mark.write_text(self.fingerprints[step])
        teacher, teacher_tokenizer = self.teacher() if matching else (None, None)
        trainer = DistillationTrainer(
            model,
            arguments,
            teacher_model=teacher,
            teacher_processing_class=teacher_tokenizer,
            matching=matching,
            train_dataset=train,
            eval_dataset=validation,
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=self.compute_metrics,
        )
        # Written last: a checkpoint without it was being saved when the run was killed.
        whole = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime_ns)
        trainer.train(resume_from_checkpoint=str(whole[-1].parent) if whole else False)
        shutil.rmtree(folder)

    def train_student(
        self, name: str, student: PreTrainedModel, tokenizer: Any, rows: datasets.Dataset, without_teacher: bool = False
    ) -> None:
        """Train a student through all stages, or a control for as many steps, and save the two that are kept."""
        validation = self.tokenised("validation")
        step = "controls" if without_teacher else "distill"
        distilled_rows = len(self.splits.train) + len(self.splits.unlabelled)
        for number, stage in enumerate(self.recipe.stages):
            settings = {"learning_rate": 2e-3, "bf16": self.recipe.student.bf16 and has_fast_bf16(), **stage}
            planned = self.arguments(settings, f"{name}-{number}", rows=distilled_rows)
            if without_teacher:
                settings |= {"hard_label_weight": 1.0, "soft_target_weight": 0.0}
                settings |= dict.fromkeys(("hard_label_weight_end", "soft_target_weight_end", "labelled_fraction"))
            arguments = self.arguments(
                settings,
                f"{name}-{number}",
                rows=len(rows),
                steps=planned.max_steps,
                evaluate_every=int(planned.eval_steps or planned.max_steps),
            )
            set_seed(arguments.seed)
            matching = [] if without_teacher else self.recipe.matchings(stage)
            read = rows if matching else rows.remove_columns(_teacher_inputs(rows))
            judged = validation if matching else validation.remove_columns(_teacher_inputs(validation))
            self.train(student, tokenizer, arguments, read, judged, step, matching)
        if name in ("student", "baseline"):
            with self.replacing(name) as folder:
                student.save_pretrained(folder)
                tokenizer.save_pretrained(folder)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """The recipe's metrics on a validation set."""
        answers = np.asarray(prediction.predictions).argmax(axis=-1)
        values: dict[str, float] = {}
        for name in self.recipe.metrics:
            values |= metrics.load(name).compute(predictions=answers, references=prediction.label_ids) or {}
        return {name: float(value) for name, value in values.items()}

    def teacher(self) -> tuple[PreTrainedModel, Any]:
        """The teacher and its tokenizer."""
        return self.load(self.teacher_path if self.recipe.teacher.fine_tune is None else self.folder / "teacher")

    def load(self, path: str | Path) -> tuple[PreTrainedModel, Any]:
        """A model with its head, in float32, and its tokenizer."""
        return self.task.auto_class.from_pretrained(path, dtype=torch.float32), AutoTokenizer.from_pretrained(path)

    def tokenised(self, *names: str) -> datasets.Dataset:
        """Some splits, one after the other, as the student and the teacher read them."""
        rows = datasets.concatenate_datasets([getattr(self.splits, name) for name in names])
        tokenizer = AutoTokenizer.from_pretrained(self.work / "initial" if self.has_student else self.teacher_path)
        own = self.recipe.student.vocab_size is not None
        return tokenise(
            rows,
            tokenizer,
            max_length=self.recipe.student.max_length,
            teacher_tokenizer=AutoTokenizer.from_pretrained(self.teacher_path) if own else None,
            teacher_max_length=self.recipe.teacher.max_length,
        )

    @property
    def has_student(self) -> bool:
        """Whether the student's tokenizer is there yet; the cache does not need it."""
        return self.done.get("initialise", {}).get("fingerprint") == self.fingerprints["initialise"]

    def with_teacher_logits(self, rows: datasets.Dataset) -> datasets.Dataset:
        """The rows with the teacher's logits, from the cache as far as it goes."""
        folder = self.folder / "cache"
        mark = folder / "fingerprint"
        if folder.exists() and (not mark.exists() or mark.read_text() != self.fingerprints["cache"]):
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        mark.write_text(self.fingerprints["cache"])
        return cache_teacher_outputs(
            rows, self.teacher()[0], task=self.recipe.task, output_dir=folder, dtype="float32", bf16=self.bf16
        )

    def texts(self, split: datasets.Dataset) -> Iterator[str]:
        """A split's texts, the two of a pair joined."""
        for row in split:
            yield " ".join(row[name] for name in ("text", "text_pair") if name in row)

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A new folder that takes the place of `name` once it is whole."""
        target, temporary = self.folder / name, self.folder / f"{name}.part"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)

    def _read_json(self, name: str, default: Any) -> Any:
        path = self.work / name
        return json.loads(path.read_text()) if path.exists() else default

    def _write_json(self, name: str, content: Any) -> None:
        temporary = self.work / f"{name}.part"
        temporary.write_text(json.dumps(content))
        os.replace(temporary, self.work / name)


def _teacher_inputs(rows: datasets.Dataset) -> list[str]:
    return [name for name in rows.column_names if columns.is_teacher_column(name) and not columns.is_output(name)]


def _name(path: str) -> str:
    """A Hub id as it is, and of a file only what says nothing about this machine."""
    if path.startswith(PACKAGE):
        return path.removeprefix(PACKAGE).partition("/")[0]
    return Path(path).name if Path(path).exists() else path


def _local(path: str) -> str:
    """A Hub id as it is; anything else with a dot before it, so that nobody takes it for one."""
    return f"./{_name(path)}" if path.startswith(PACKAGE) or Path(path).exists() else path


def _contents(path: str) -> Any:
    folder = Path(path)
    if not folder.exists():
        return path
    return sorted(
        (item.name, item.stat().st_size, item.stat().st_mtime_ns) for item in folder.iterdir() if item.is_file()
    )
