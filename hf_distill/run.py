"""Running a recipe step by step: teacher → cache → initialise → distil → controls → seeds → export → compare."""

import dataclasses
import functools
import importlib.util
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets.fingerprint import Hasher
from rich.console import Console
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, set_seed

from hf_distill import columns, metrics, rivals
from hf_distill.arguments import DistillationArguments
from hf_distill.augment import augmented
from hf_distill.card import model_card
from hf_distill.data import TEXTS, Splits, load, load_further, near_duplicate_key, unlabelled
from hf_distill.export import export_onnx
from hf_distill.label_map import check_label_map
from hf_distill.matching import Matching
from hf_distill.measure import (
    Reader,
    has_fast_bf16,
    peak_memory,
    predict_classes,
    predict_logits,
    predict_tags,
    predict_word_logits,
)
from hf_distill.recipe import Recipe
from hf_distill.report import Report, compare
from hf_distill.sources import PACKAGE, resolve
from hf_distill.students import LSTMStudentConfig, TransformerStudentConfig, student_from_teacher, student_tokenizer
from hf_distill.targets import adjusted, ask_teachers, calibration_temperature, fold_of
from hf_distill.tasks import TASKS
from hf_distill.tokenising import tokenise, words_cut_off
from hf_distill.trainer import DistillationTrainer
from hf_distill.training import collator, training_arguments, validation

SINGLE_LABEL = "single_label_classification"
COMPARING = ("teacher_agreement", "teacher_kl")
OF_CLASSES = ("accuracy", "f1", "macro_f1", "matthews_correlation", "calibration_error")
STEPS = ("teacher", "cache", "initialise", "distill", "controls", "seeds", "export", "compare")
RESULTS = {
    "initialise": (".work/initial/carried.json",),
    "distill": ("student/model.safetensors",),
    "controls": ("baseline/model.safetensors", ".work/controls.json"),
    "compare": ("report.json", "student/README.md"),
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
        self.splits: Splits = load(recipe.data, recipe.seed, task=recipe.task, keep=recipe.compare.by)
        self.further = {
            name: load_further(data, self.splits, task=recipe.task) for name, data in recipe.further_data.items()
        }
        self.classes = self.splits.classes or [recipe.data.label_columns[0]]  # a regression has one output
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
        for number, name in enumerate(self.recipe.metrics):
            metric = metrics.load(name)
            if name in COMPARING or (number == 0 and not getattr(metric, "larger_is_better", True)):
                raise ValueError(
                    f"compare.metrics: {name} cannot stand {'first' if number == 0 else 'here'}. The first metric "
                    "selects the models, so it grows with quality; agreement with the teacher is in the report anyway."
                )
            if name in OF_CLASSES and self.splits.problem_type == "regression":
                raise ValueError(f"compare.metrics: {name} is about classes, and the label is a quantity. Use pearson.")
        unknown = set(self.recipe.compare.asked) - set(rivals.known_controls(self.task, self.splits.problem_type))
        if unknown:
            known = rivals.known_controls(self.task, self.splits.problem_type)
            raise ValueError(f"compare.controls: no {', '.join(sorted(unknown))} here; there are {', '.join(known)}.")
        for stage in self.recipe.stages:
            arguments = self.arguments(stage, "distill", rows=len(self.splits.train))
            if not arguments.wants_soft_targets and not stage.get("matching"):
                raise ValueError(
                    "distill: soft_target_weight is 0 and there is no matching, so the student would not hear its "
                    "teacher. The student without a teacher is trained anyway, as a control."
                )
        self.check_teacher()
        self.student_config()
        missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
        if self.recipe.export.onnx and missing:
            raise ValueError(
                f"export.onnx: {' and '.join(missing)} not installed. Install hf-distill[onnx], or set it false."
            )

    def check_teacher(self) -> None:
        """Raise a ValueError where the teacher cannot teach these classes."""
        settings = self.recipe.teacher
        if (settings.calibrate or settings.label_map) and self.splits.problem_type not in (None, SINGLE_LABEL):
            raise ValueError(
                "teacher.calibrate and teacher.label_map are about one choice among classes, and the labels are "
                f"{self.splits.problem_type}. Leave them out."
            )
        if settings.fine_tune is not None:
            AutoConfig.from_pretrained(self.teacher_path)
            self.arguments(settings.fine_tune, "teacher", rows=len(self.splits.train))
        elif settings.label_map:
            check_label_map(settings.label_map, self.teacher_classes, self.classes)
        elif self.hears_logits and not self.same_classes:
            raise ValueError(
                f"The labels of the data are {self.classes}, the classes of the teacher are {self.teacher_classes}: a "
                "teacher that is used as it is needs the same, in the same order. Set data.labels; or let it learn "
                "them with teacher.fine_tune; or say which is which with teacher.label_map; or learn from its inner "
                "states alone, with a matching and soft_target_weight: 0."
            )

    @cached_property
    def teacher_classes(self) -> list[str]:
        """What the teacher, before any fine-tuning, calls its classes."""
        config = AutoConfig.from_pretrained(self.teacher_path)
        return [config.id2label[number] for number in sorted(config.id2label)]

    @cached_property
    def same_classes(self) -> bool:
        """Whether the teacher answers in the classes of the data."""
        if self.recipe.teacher.fine_tune is not None:
            return True
        names = self.teacher_classes
        anonymous = all(name == f"LABEL_{number}" for number, name in enumerate(names))
        return len(names) == len(self.classes) and (anonymous or names == self.classes)

    @cached_property
    def hears_logits(self) -> bool:
        """Whether any stage learns from the teacher's logits."""
        stages = (self.arguments(stage, "distill", rows=len(self.splits.train)) for stage in self.recipe.stages)
        return any(stage.wants_soft_targets for stage in stages)

    @property
    def head(self) -> dict[str, Any]:
        """The fields of a config that say what a head decides on."""
        names = dict(enumerate(self.classes))
        problem = {} if self.task.of_words else {"problem_type": self.splits.problem_type}
        return {"id2label": names, "label2id": {name: number for number, name in names.items()}, **problem}

    def student_config(self, tokenizer: Any = None) -> LSTMStudentConfig | TransformerStudentConfig:
        """The student's config; an LSTM's with the classes of the data and, where given, its tokenizer's tokens."""
        settings = self.recipe.student
        if settings.kind == "transformer":
            return TransformerStudentConfig(**settings.config)
        tokens: dict[str, Any] = {
            name: getattr(tokenizer, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")
        }
        size = 100 if tokenizer is None else len(tokenizer)
        head = self.head if self.same_classes or not settings.from_teacher else {}  # else it gets a new one
        return LSTMStudentConfig(vocab_size=size, **head, **tokens, **settings.config)

    def arguments(self, settings: dict[str, Any], name: str, **sizes: Any) -> DistillationArguments:
        """Training arguments of this run; see `training_arguments`."""
        chosen = self.recipe.metrics[0]
        return training_arguments(settings, self.work / name, seed=self.recipe.seed, metric=chosen, **sizes)

    # Steps

    def step(self, name: str) -> None:
        """Run one step unless it is done."""
        fingerprint = self.fingerprints[name]
        results = {
            **RESULTS,
            "teacher": ("teacher/model.safetensors",) if self.recipe.teacher.fine_tune else (),
            "cache": ("cache/fingerprint",) if self.hears_logits else (),
            "seeds": tuple(
                f".work/seeds/{seed}/{name}/config.json"
                for seed in self.recipe.compare.more_seeds
                for name in ("student", "baseline")
            ),
        }
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
        recipe, splits = self.recipe, self.splits
        parts = (splits.train, splits.unlabelled, splits.validation, splits.test, splits.fidelity)
        # What the report alone reads does not make the models anew.
        kept = [
            part.select_columns([name for name in part.column_names if name in recipe.compare.by]) for part in parts
        ]
        read = [
            part.select_columns([name for name in part.column_names if name not in recipe.compare.by]) for part in parts
        ]
        data = Hasher.hash([recipe.task, self.classes, splits.problem_type, *(part.to_dict() for part in read)])
        taught = recipe.teacher
        lesson = (taught.fine_tune, taught.max_length, taught.bf16)
        learnt = Hasher.hash([_contents(self.teacher_path), lesson, recipe.seed, data, recipe.metrics[0]])
        teacher = Hasher.hash([learnt, taught.cross_fit])
        shared = recipe.student.max_length if recipe.student.vocab_size is None else None  # the teacher reads the same
        augment = Hasher.hash([data, recipe.data.augment, recipe.seed])
        cache = Hasher.hash([teacher, self.bf16, shared, augment])
        initialise = Hasher.hash([learnt, dataclasses.asdict(recipe.student)])
        heard = (taught.label_map, taught.calibrate)
        distill = Hasher.hash([cache, heard, initialise, recipe.stages, recipe.metrics[0], has_fast_bf16()])
        controls = Hasher.hash([distill, recipe.compare.controls])
        seeds = Hasher.hash([distill, recipe.compare.more_seeds])
        export = Hasher.hash([distill, dataclasses.asdict(recipe.export)])
        further = {name: part.to_dict() for name, part in self.further.items()}
        report = Hasher.hash(
            [controls, seeds, export, recipe.compare, kept[3].to_dict(), further, recipe.teacher.floor, recipe.push]
        )
        steps = (teacher, cache, initialise, distill, controls, seeds, export, report)
        return {"learnt": learnt, "augment": augment, **dict(zip(STEPS, steps, strict=True))}

    def _step_teacher(self) -> None:
        """Fine-tune the teacher, or check that the given one loads."""
        if self.recipe.teacher.fine_tune is None:
            self.load(self.teacher_path)
            return
        self.once("teacher", "learnt", lambda: self.fine_tuned("teacher", self.splits.train))
        for number in range(self.recipe.teacher.cross_fit or 0):
            others = self.splits.train.select(np.flatnonzero(self.folds != number))
            name = f"teacher-{number}"
            self.once(f".work/folds/{number}", "teacher", functools.partial(self.fine_tuned, name, others))

    def fine_tuned(self, name: str, rows: datasets.Dataset) -> tuple[PreTrainedModel, Any]:
        """The teacher after it learnt the task from some labelled rows, and its tokenizer."""
        tokenizer = self.tokenizer(self.teacher_path)
        set_seed(self.recipe.seed)
        # A head for other classes gives way to a new one.
        model = self.task.auto_class.from_pretrained(
            self.teacher_path, **self.head, dtype=torch.float32, ignore_mismatched_sizes=True
        )
        train, judged = (
            tokenise(part, tokenizer, max_length=self.recipe.teacher.max_length)
            for part in (rows, self.splits.validation)
        )
        settings = {
            "learning_rate": 5e-5,
            "weight_decay": 0.01,
            "bf16": self.bf16,
            **(self.recipe.teacher.fine_tune or {}),
            "hard_label_weight": 1.0,
            "soft_target_weight": 0.0,
        }
        self.train(model, tokenizer, self.arguments(settings, name, rows=len(train)), train, judged, "teacher")
        return model, tokenizer

    @cached_property
    def folds(self) -> np.ndarray:
        """The fold of each labelled row."""
        number = self.recipe.teacher.cross_fit or 1
        return np.array([fold_of(near_duplicate_key(text), number) for text in rivals.texts_of(self.splits.train)])

    def _step_cache(self) -> None:
        """Ask the teacher about every training text, if anybody wants to hear it."""
        if self.hears_logits:
            self.taught_rows()

    def _step_initialise(self) -> None:
        """Make the student's tokenizer and its first weights."""
        _, teacher_tokenizer = self.teacher()
        settings = self.recipe.student
        tokenizer = teacher_tokenizer
        if settings.vocab_size is not None:
            parts = (self.splits.train, self.splits.unlabelled)
            texts = [text for part in parts for text in rivals.texts_of(part)]
            tokenizer = student_tokenizer(teacher_tokenizer, texts, settings.vocab_size)
        # A Transformer cut from its teacher has the teacher's positions, and shared tokens are read by both.
        unlimited = settings.kind == "lstm" and settings.vocab_size is not None
        limit = settings.max_length if unlimited else min(settings.max_length, teacher_tokenizer.model_max_length)
        tokenizer.model_max_length = limit
        student, carried = self.untrained(tokenizer, self.recipe.seed)
        for name, source in carried.items():
            self.console.print(f"  {name} ← {source}", highlight=False)
        with self.replacing(".work/initial") as folder:
            student.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            (folder / "carried.json").write_text(json.dumps(carried, indent=2))

    def untrained(self, tokenizer: Any, seed: int) -> tuple[PreTrainedModel, dict[str, str]]:
        """A new student, and where its weights came from."""
        config = self.student_config(tokenizer)
        teacher, teacher_tokenizer = self.teacher()
        set_seed(seed)
        if not self.recipe.student.from_teacher:
            return self.task.auto_class.from_config(config), {}
        student, carried = student_from_teacher(teacher, config, tokenizer, teacher_tokenizer)
        if not self.same_classes:
            return self.with_new_head(student, carried)
        for name, value in self.head.items():  # a teacher's may be anonymous
            setattr(student.config, name, value)
        return student, carried

    def with_new_head(
        self, student: PreTrainedModel, carried: dict[str, str]
    ) -> tuple[PreTrainedModel, dict[str, str]]:
        """A student that answers in the data's classes, which are not its teacher's."""
        shapes = {name: parameter.shape for name, parameter in student.named_parameters()}
        kept = set(shapes)
        # By way of one class more: a head for equally many other classes would be taken for one of these.
        for head in ({"num_labels": len(self.classes) + 1 + len(self.teacher_classes)}, self.head):
            with tempfile.TemporaryDirectory() as folder:
                student.save_pretrained(folder)
                student = self.task.auto_class.from_pretrained(
                    folder, **head, dtype=torch.float32, ignore_mismatched_sizes=True
                )
            kept &= {name for name, parameter in student.named_parameters() if parameter.shape == shapes[name]}
        return student, {name: source for name, source in carried.items() if name in kept}

    def _step_distill(self) -> None:
        """Train the student on the labels and on what the teacher said."""
        student, tokenizer = self.load(self.work / "initial")
        self.train_student("student", student, tokenizer, self.taught_rows())
        self.save("student", student, tokenizer)

    def _step_export(self) -> None:
        """Write the student for onnxruntime, where asked to."""
        if self.recipe.export.onnx:
            student, _ = self.load(self.folder / "student")
            export_onnx(student, self.folder / "student", int8=self.recipe.export.int8)

    def _step_controls(self) -> None:
        """Train what the student must beat."""
        student, tokenizer = self.load(self.work / "initial")
        self.train_student("baseline", student, tokenizer, self.tokenised("train"), without_teacher=True)
        self.save("baseline", student, tokenizer)
        known = rivals.known_controls(self.task, self.splits.problem_type)
        wanted = [name for name in known if self.recipe.compare.wants(name)]
        if not self.hears_logits:
            wanted = [name for name in wanted if name not in rivals.WITH_TEACHER]
        alone = rivals.TAGGING if self.task.of_words else rivals.CLASSIFICATION
        made = {name: alone[name](self.splits) for name in wanted if name in alone}
        rows = self.taught_rows() if set(wanted) & set(rivals.WITH_TEACHER) else self.read(self.taught_texts)
        for name in wanted:
            if name in (rivals.TAUGHT_TFIDF, rivals.TAUGHT_CRF):
                made[name] = rivals.on_teacher(name, self.splits, self.taught_texts, rows[columns.LOGITS])
            elif name in (rivals.SELF_TRAINING, rivals.HARD_LABELS):
                if name == rivals.HARD_LABELS:
                    answers = [np.argmax(row, axis=-1) for row in rows[columns.LOGITS]]
                else:
                    answers = self.decided(self.load(self.folder / "baseline")[0], rows, tokenizer)
                said = [column for column in rows.column_names if columns.is_output(column)]
                labelled = rivals.relabelled(
                    rows.remove_columns(said), answers, self.task.of_words, name == rivals.SELF_TRAINING
                )
                student, _ = self.load(self.work / "initial")
                self.train_student(name, student, tokenizer, labelled, without_teacher=True)
                made[name] = self.decided(student, self.tokenised("test"), tokenizer)
        plain = {name: each.tolist() if isinstance(each, np.ndarray) else each for name, each in made.items()}
        self._write_json("controls.json", plain)

    def _step_seeds(self) -> None:
        """Train the student and its baseline again, from other seeds."""
        for seed in self.recipe.compare.more_seeds:
            for name in ("student", "baseline"):
                self.once(f".work/seeds/{seed}/{name}", "distill", functools.partial(self.trained_again, name, seed))

    def trained_again(self, name: str, seed: int) -> tuple[PreTrainedModel, Any]:
        """A student or a baseline from another seed, and its tokenizer."""
        tokenizer = self.tokenizer(self.work / "initial")
        student, _ = self.untrained(tokenizer, seed)
        alone = name == "baseline"
        rows = self.tokenised("train") if alone else self.taught_rows()
        self.train_student(f"{name}-of-seed-{seed}", student, tokenizer, rows, without_teacher=alone, seed=seed)
        return student, tokenizer

    def _step_compare(self) -> None:
        """Measure, and write the report, the card and the recipe."""
        start = time.perf_counter()
        teacher, teacher_tokenizer = self.teacher()
        student, tokenizer = self.load(self.folder / "student")
        baseline, _ = self.load(self.folder / "baseline")
        made = self._read_json("controls.json", {})
        with_teacher = [name for name in made if name in rivals.WITH_TEACHER]
        report = compare(
            teacher,
            student,
            self.for_comparison(self.splits.test),
            task=self.recipe.task,
            baseline_model=baseline,
            more_students=[
                (self.load(folder / "student")[0], self.load(folder / "baseline")[0])
                for folder in (self.work / "seeds" / str(seed) for seed in self.recipe.compare.more_seeds)
            ],
            student_processing_class=tokenizer,
            teacher_processing_class=teacher_tokenizer,
            metrics=tuple(self.recipe.metrics),
            controls={name: made[name] for name in made if name not in with_teacher},
            controls_with_teacher={name: made[name] for name in with_teacher},
            fidelity_dataset=self.for_comparison(self.splits.fidelity) if len(self.splits.fidelity) else None,
            groups=self.groups,
            test_sets={name: self.for_comparison(part) for name, part in self.further.items()},
            texts=list(rivals.texts_of(self.splits.test)) if self.recipe.compare.quote else None,
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
            "rows": self.counts,
            "bf16_teacher": self.bf16,
        }
        report = dataclasses.replace(report, run=run)
        report.save(self.folder)
        report.save(self.folder / "student")
        self.recipe.save(self.folder / "recipe.yaml")
        push = self.recipe.push
        model_card(
            report,
            self.folder / "student",
            student_name=(push.repo_id or f"{self.recipe.student.kind} student of {_name(self.recipe.teacher.model)}"),
            teacher=push.base_model or _local(self.recipe.teacher.model),
            teacher_revision=getattr(teacher.config, "_commit_hash", None),
            repo_id=push.repo_id,
            license=push.license,
            language=push.language or None,
            datasets=push.datasets or [_name(self.recipe.data.path)],
            fine_tuning=self.recipe.teacher.fine_tune,
            stages=[{"temperature": 2.0, "soft_target_loss": "forward_kl", **stage} for stage in self.recipe.stages],
            carried=json.loads((self.work / "initial" / "carried.json").read_text()),
            splits=run["rows"],
            reproduce="hf-distill run recipe.yaml",
            example=self.example,
        )
        self.console.print(report.table())

    # Parts of the steps

    def train(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        arguments: DistillationArguments,
        train: datasets.Dataset,
        judged: datasets.Dataset,
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
            eval_dataset=judged,
            processing_class=tokenizer,
            data_collator=collator(self.task, tokenizer),
            compute_metrics=validation(self.recipe.metrics, self.classes, self.splits.problem_type),
        )
        # Written last: a checkpoint without it was being saved when the run was killed.
        whole = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime_ns)
        trainer.train(resume_from_checkpoint=str(whole[-1].parent) if whole else False)
        shutil.rmtree(folder)

    def train_student(
        self,
        name: str,
        student: PreTrainedModel,
        tokenizer: Any,
        rows: datasets.Dataset,
        *,
        without_teacher: bool = False,
        seed: int | None = None,
    ) -> None:
        """Train a student in place through all stages, or a control for as many steps."""
        judged = self.tokenised("validation")
        step = "seeds" if seed is not None else "controls" if without_teacher else "distill"
        distilled_rows = len(self.taught_texts)
        for number, stage in enumerate(self.recipe.stages):
            settings = {"learning_rate": 2e-3, "bf16": self.recipe.student.bf16 and has_fast_bf16(), **stage}
            settings |= {} if seed is None else {"seed": seed}
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
            read, heard = (
                part if matching else part.remove_columns(columns.teacher_input_columns(part.column_names))
                for part in (rows, judged)
            )
            self.train(student, tokenizer, arguments, read, heard, step, matching)

    def save(self, name: str, student: PreTrainedModel, tokenizer: Any) -> None:
        """Keep a trained student."""
        with self.replacing(name) as folder:
            student.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    def once(self, folder: str, fingerprint: str, make: Callable[[], tuple[PreTrainedModel, Any]]) -> None:
        """Make and keep a model, unless what it depends on has made it before."""
        mark = self.work / f"{folder.removeprefix('.work/').replace('/', '-')}.fingerprint"
        whole = mark.exists() and mark.read_text() == self.fingerprints[fingerprint]
        if not (whole and any((self.folder / folder).glob("*.safetensors"))):
            self.save(folder, *make())
            mark.write_text(self.fingerprints[fingerprint])

    def decided(self, model: PreTrainedModel, rows: datasets.Dataset, tokenizer: Any) -> Any:
        """A model's class for each row, or for each word of it."""
        return (predict_tags if self.task.of_words else predict_classes)(model, rows, tokenizer)

    def teacher(self) -> tuple[PreTrainedModel, Any]:
        """The teacher and its tokenizer."""
        return self.load(self.teacher_path if self.recipe.teacher.fine_tune is None else self.folder / "teacher")

    def load(self, path: str | Path) -> tuple[PreTrainedModel, Any]:
        """A model with its head, in float32, and its tokenizer."""
        return self.task.auto_class.from_pretrained(path, dtype=torch.float32), self.tokenizer(path)

    def tokenizer(self, path: str | Path) -> Any:
        """A tokenizer that can read the task's texts."""
        tokenizer = AutoTokenizer.from_pretrained(path)
        if self.task.of_words and getattr(tokenizer, "add_prefix_space", True) is False:
            # A byte-level one reads a word in the same pieces wherever it stands only when it is told to.
            return AutoTokenizer.from_pretrained(path, add_prefix_space=True)
        return tokenizer

    def tokenised(self, *names: str) -> datasets.Dataset:
        """Some splits, one after the other, as the student and the teacher read them."""
        return self.read(datasets.concatenate_datasets([getattr(self.splits, name) for name in names]))

    def read(self, rows: datasets.Dataset) -> datasets.Dataset:
        """Rows as the student and the teacher read them."""
        own = self.recipe.student.vocab_size is not None
        return tokenise(
            rows,
            self.tokenizer(self.work / "initial" if self.has_student else self.teacher_path),
            max_length=self.recipe.student.max_length,
            teacher_tokenizer=self.tokenizer(self.teacher_path) if own else None,
            teacher_max_length=self.recipe.teacher.max_length,
        )

    def for_comparison(self, rows: datasets.Dataset) -> datasets.Dataset:
        """Rows as `compare` reads them: where the teacher has other classes, with what it says in the data's."""
        read = self.read(rows)
        return self.adjusted(self.with_live_logits(read)) if self.recipe.teacher.label_map else read

    def with_live_logits(self, rows: datasets.Dataset) -> datasets.Dataset:
        """Tokenised rows with what the teacher says now."""
        teacher, tokenizer = self.teacher()
        reader = Reader(teacher, rows, tokenizer, as_teacher=True, of_words=self.task.of_words)
        with reader.ready():
            said = (predict_word_logits if self.task.of_words else predict_logits)(reader, rows, name="teacher")
        return rows.add_column(columns.LOGITS, [row.tolist() for row in said])

    @property
    def groups(self) -> dict[str, Sequence[Any]]:
        """What the report breaks quality down by: columns of the data, and for tagging whether labels show a word."""
        test = self.splits.test
        made: dict[str, Sequence[Any]] = {name: test[name] for name in self.recipe.compare.by}
        if self.task.of_words:
            shown = {word for words in self.splits.train["words"] for word in words}
            made["word"] = [
                ["in the labelled sentences" if word in shown else "unseen" for word in words]
                for words in test["words"]
            ]
        return made

    @property
    def example(self) -> list[str]:
        """What the card's usage reads: a text, a pair, or words; one of the test set only where it may be quoted."""
        made: dict[str, Any] = {"text": "Some text", "text_pair": "Another text", "words": ["Some", "words", "."]}
        row = self.splits.test[0] if self.recipe.compare.quote else made
        names = TEXTS[: len(self.recipe.data.text_columns)]
        return row["words"] if self.task.of_words else [row[name] for name in names]

    @property
    def counts(self) -> dict[str, int]:
        """The rows of the data, and the words of the training sentences that were cut off."""
        counts = dict(self.splits.counts)
        if self.task.of_words:
            words = self.taught_texts
            rows = self.read(words)
            for name, column in (("student", columns.WORD_STARTS), ("teacher", columns.TEACHER_WORD_STARTS)):
                if column in rows.column_names:
                    counts[f"training words cut off for the {name}"] = words_cut_off(words, rows[column])
        return counts

    @property
    def has_student(self) -> bool:
        """Whether the student's tokenizer is there yet; the cache does not need it."""
        return self.done.get("initialise", {}).get("fingerprint") == self.fingerprints["initialise"]

    @cached_property
    def taught_texts(self) -> datasets.Dataset:
        """All that the student learns from: labelled rows, rows without a label, and new texts made of both."""
        rows = datasets.concatenate_datasets([self.splits.train, self.splits.unlabelled])
        settings = self.recipe.data.augment
        if settings is None:
            return rows
        kept = self._read_json("augmented.json", {})
        if kept.get("fingerprint") != self.fingerprints["augment"]:
            if settings.masked_language_model is not None:
                settings = dataclasses.replace(settings, masked_language_model=resolve(settings.masked_language_model))
            tokenizer = self.tokenizer(self.teacher_path)
            texts = augmented(rows["text"][:], settings, self.recipe.seed, tokenizer=tokenizer)
            held = {
                near_duplicate_key(text)
                for part in (self.splits.validation, self.splits.test, self.splits.fidelity)
                for text in part["text"]
            }
            made, texts = texts, [text for text in texts if near_duplicate_key(text) not in held]
            self.console.print(f"  {len(texts):,} new texts; {len(made) - len(texts):,} were like held-out ones")
            kept = {"fingerprint": self.fingerprints["augment"], "texts": texts}
            self._write_json("augmented.json", kept)
        return datasets.concatenate_datasets([rows.select_columns(["text", "label"]), unlabelled(kept["texts"], rows)])

    def taught_rows(self) -> datasets.Dataset:
        """All training rows; where anybody wants to hear the teacher's logits, with them, in the data's classes."""
        rows = self.read(self.taught_texts)
        if not self.hears_logits:
            return rows
        folder = self.folder / "cache"
        mark = folder / "fingerprint"
        if folder.exists() and (not mark.exists() or mark.read_text() != self.fingerprints["cache"]):
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        mark.write_text(self.fingerprints["cache"])
        folds = range(self.recipe.teacher.cross_fit or 0)
        teachers = [self.load(self.work / "folds" / str(fold))[0] for fold in folds] or [self.teacher()[0]]
        said = ask_teachers(
            rows, teachers, self.folds.tolist(), folder, task=self.recipe.task, dtype="float32", bf16=self.bf16
        )
        return self.adjusted(said)

    def adjusted(self, rows: datasets.Dataset) -> datasets.Dataset:
        """The rows with the teacher's logits in the data's classes, and as sure as its validation answers warrant."""
        settings = self.recipe.teacher
        if not (settings.label_map or settings.calibrate):
            return rows
        temperature = self.temperature if settings.calibrate else 1.0
        changed, lost = adjusted(rows, temperature, settings.label_map, self.teacher_classes, self.classes)
        if lost:
            self.console.print(
                f"[yellow]teacher.label_map leaves out what the teacher would have chosen for {lost:.1%} of the "
                "items.[/yellow]"
            )
        return changed

    @cached_property
    def temperature(self) -> float:
        """At which the teacher's doubt fits the validation labels."""
        rows = self.with_live_logits(self.read(self.splits.validation))
        if self.recipe.teacher.label_map:
            rows, _ = adjusted(rows, 1.0, self.recipe.teacher.label_map, self.teacher_classes, self.classes)
        said = [np.asarray(row, dtype=np.float32).reshape(-1, len(self.classes)) for row in rows[columns.LOGITS]]
        true = [np.atleast_1d(row) for row in self.splits.validation["label"]]
        # Of a sentence that was cut off, the words that were read.
        labels = np.concatenate([row[: len(answers)] for row, answers in zip(true, said, strict=True)])
        found = calibration_temperature(np.concatenate(said), labels)
        self.console.print(f"  the teacher's temperature: {found:.3f}", highlight=False)
        return found

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
