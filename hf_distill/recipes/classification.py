"""A run of a recipe whose student classifies texts or tags words."""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, set_seed

from hf_distill import columns, metrics
from hf_distill.data.augmentation import augmented
from hf_distill.data.labelled import TEXTS, Splits, load, load_further, texts_of, unlabelled
from hf_distill.data.near_duplicates import near_duplicate_key
from hf_distill.data.tokenization import tokenize, words_cut_off
from hf_distill.environment import has_fast_bf16
from hf_distill.evaluation.predictor import (
    Predictor,
    predict_classes,
    predict_logits,
    predict_tags,
    predict_word_logits,
)
from hf_distill.export.onnx import export_onnx
from hf_distill.matching.base import Matching
from hf_distill.paths import resolve
from hf_distill.recipes import controls
from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.steps import STEPS, Steps
from hf_distill.recipes.training import collator, training_arguments, validation
from hf_distill.recipes.workspace import contents_of, hashed
from hf_distill.reports.classification import compare
from hf_distill.soft_targets.calibration import adjusted, calibration_temperature
from hf_distill.soft_targets.cross_fit import (
    Share,
    as_one_teacher,
    ask_teachers,
    cross_fit_shares,
    folds_of,
    inherited_folds,
)
from hf_distill.soft_targets.label_map import check_label_map
from hf_distill.students.from_teacher import student_from_teacher
from hf_distill.students.lstm.configuration_lstm import LSTMStudentConfig
from hf_distill.students.tokenizer import student_tokenizer
from hf_distill.students.transformer.config import TransformerStudentConfig
from hf_distill.teachers.ensemble import TeacherEnsemble
from hf_distill.training.arguments import DistillationArguments
from hf_distill.training.trainer import DistillationTrainer

SINGLE_LABEL = "single_label_classification"
COMPARING = ("teacher_agreement", "teacher_kl")
OF_CLASSES = ("accuracy", "f1", "macro_f1", "matthews_correlation", "calibration_error")


class LabellingRun(Steps):
    """A run whose student chooses among classes, of a text or of each word, or says a quantity."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.splits: Splits = load(recipe.data, recipe.seed, task=recipe.task, keep=recipe.compare.by)
        self.further = {
            name: load_further(data, self.splits, task=recipe.task) for name, data in recipe.further_data.items()
        }
        self.classes = self.splits.classes or [recipe.data.label_columns[0]]  # a regression has one output
        self.temperatures: dict[tuple[int, ...], float] = {}  # found once, see `temperature`
        self.check()

    # Before anything expensive

    def check(self) -> None:
        """Raise a ValueError for whatever would fail later."""
        for number, name in enumerate(self.recipe.metrics):
            metric = metrics.load(name)
            if name in COMPARING or (number == 0 and not getattr(metric, "larger_is_better", True)):
                raise ValueError(
                    f"compare.metrics: {name} cannot stand {'first' if number == 0 else 'here'}. The first metric "
                    "selects the models, so it grows with quality; agreement with the teacher is in the report anyway."
                )
            if name in OF_CLASSES and self.splits.problem_type == "regression":
                raise ValueError(f"compare.metrics: {name} is about classes, and the label is a quantity. Use pearson.")
        unknown = set(self.recipe.compare.asked) - set(controls.known_controls(self.task, self.splits.problem_type))
        if unknown:
            known = controls.known_controls(self.task, self.splits.problem_type)
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
        self.check_export()

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
        elif self.uses_soft_targets and not self.same_classes:
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
    def uses_soft_targets(self) -> bool:
        """Whether any stage learns from the teacher's logits."""
        stages = (self.arguments(stage, "distill", rows=len(self.splits.train)) for stage in self.recipe.stages)
        return any(stage.wants_soft_targets for stage in stages)

    @property
    def results(self) -> Mapping[str, Sequence[str]]:
        """The files that a step leaves."""
        return {**super().results, "cache": ("cache/fingerprint",) if self.uses_soft_targets else ()}

    @property
    def head(self) -> dict[str, Any]:
        """The fields of a config that say what a head decides on."""
        names = dict(enumerate(self.classes))
        problem = {} if self.task.word_level else {"problem_type": self.splits.problem_type}
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

    def arguments(self, settings: Mapping[str, Any], name: str, **sizes: Any) -> DistillationArguments:
        """Training arguments of this run; see `training_arguments`."""
        chosen = self.recipe.metrics[0]
        return training_arguments(settings, self.work / name, seed=self.recipe.seed, metric=chosen, **sizes)

    # Steps

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
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
        data = hashed(recipe.task, self.classes, splits.problem_type, *(part.to_dict() for part in read))
        taught = recipe.teacher
        lesson = (taught.fine_tune, taught.max_length, taught.bf16)
        learnt = hashed(contents_of(self.teacher_path), lesson, recipe.seed, data, recipe.metrics[0])
        teacher = hashed(learnt, taught.cross_fit)
        shared = recipe.student.max_length if recipe.student.vocab_size is None else None  # the teacher reads the same
        filler = recipe.data.augment and recipe.data.augment.masked_language_model
        made_by = (contents_of(self.teacher_path), filler and contents_of(resolve(filler)))  # its tokenizer masks words
        augment = hashed(data, recipe.data.augment, made_by, recipe.seed)
        cache = hashed(teacher, self.bf16, shared, augment)
        initialize = hashed(learnt, dataclasses.asdict(recipe.student))
        heard = (taught.label_map, taught.calibrate)
        distill = hashed(cache, heard, initialize, recipe.stages, recipe.metrics[0], has_fast_bf16())
        controls = hashed(distill, recipe.compare.controls)
        seeds = hashed(distill, recipe.compare.more_seeds)
        export = hashed(distill, dataclasses.asdict(recipe.export))
        further = {name: part.to_dict() for name, part in self.further.items()}
        report = hashed(
            controls, seeds, export, recipe.compare, kept[3].to_dict(), further, recipe.teacher.floor, recipe.push
        )
        steps = (teacher, cache, initialize, distill, controls, seeds, export, report)
        return {"learnt": learnt, "augment": augment, **dict(zip(STEPS, steps, strict=True))}

    def _step_teacher(self) -> None:
        """Fine-tune the teacher, or check that the given one loads."""
        if self.recipe.teacher.fine_tune is None:
            self.load(self.teacher_path)
            return
        self.once("teacher", "learnt", lambda: self.fine_tuned("teacher", self.splits.train))
        for number in range(self.recipe.teacher.cross_fit or 0):
            others = self.splits.train.select(np.flatnonzero(self.folds[: len(self.splits.train)] != number))
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
            tokenize(part, tokenizer, max_length=self.recipe.teacher.max_length)
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
        self.fit(model, tokenizer, self.arguments(settings, name, rows=len(train)), train, judged, "teacher")
        return model, tokenizer

    @cached_property
    def folds(self) -> np.ndarray:
        """The fold of each training row, the labelled ones first."""
        labelled, others = map(texts_of, (self.splits.train, self.splits.unlabelled))
        return folds_of(labelled, others, self.recipe.teacher.cross_fit or 1)

    def _step_cache(self) -> None:
        """Ask the teacher about every training text, if anybody wants to hear it."""
        if self.uses_soft_targets:
            self.taught_rows()

    def _step_initialize(self) -> None:
        """Make the student's tokenizer and its first weights."""
        _, teacher_tokenizer = self.teacher()
        settings = self.recipe.student
        tokenizer = teacher_tokenizer
        if settings.vocab_size is not None:
            parts = (self.splits.train, self.splits.unlabelled)
            texts = [text for part in parts for text in texts_of(part)]
            tokenizer = student_tokenizer(teacher_tokenizer, texts, settings.vocab_size)
        # A Transformer cut from its teacher has the teacher's positions, and shared tokens are read by both.
        unlimited = settings.kind == "lstm" and settings.vocab_size is not None
        limit = settings.max_length if unlimited else min(settings.max_length, teacher_tokenizer.model_max_length)
        tokenizer.model_max_length = limit
        student, carried = self.untrained(tokenizer, self.recipe.seed)
        self.keep_initial(student, tokenizer, carried)

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

    def _step_export(self) -> None:
        """Write the student for onnxruntime, where asked to."""
        if self.recipe.export.onnx:
            student, _ = self.load(self.folder / "student")
            export_onnx(student, self.folder / "student", int8=self.recipe.export.int8)

    def _step_controls(self) -> None:
        """Train what the student must beat."""
        self.train_baseline()
        tokenizer = self.tokenizer(self.work / "initial")
        known = controls.known_controls(self.task, self.splits.problem_type)
        wanted = [name for name in known if self.recipe.compare.wants(name)]
        if not self.uses_soft_targets:
            wanted = [name for name in wanted if name not in controls.WITH_TEACHER]
        alone = controls.TAGGING if self.task.word_level else controls.CLASSIFICATION
        made = {name: alone[name](self.splits) for name in wanted if name in alone}
        rows = self.taught_rows() if set(wanted) & set(controls.WITH_TEACHER) else self.read(self.taught_texts)
        for name in wanted:
            if name in (controls.TAUGHT_TFIDF, controls.TAUGHT_CRF):
                made[name] = controls.on_teacher(name, self.splits, self.taught_texts, rows[columns.LOGITS])
            elif name in (controls.SELF_TRAINING, controls.HARD_LABELS):
                if name == controls.HARD_LABELS:
                    answers = [np.argmax(row, axis=-1) for row in rows[columns.LOGITS]]
                else:
                    answers = self.decided(self.load(self.folder / "baseline")[0], rows, tokenizer)
                said = [column for column in rows.column_names if columns.is_output(column)]
                labelled = controls.relabelled(
                    rows.remove_columns(said), answers, self.task.word_level, name == controls.SELF_TRAINING
                )
                student, _ = self.load(self.work / "initial")
                self.train_student(name, student, tokenizer, labelled, without_teacher=True)
                made[name] = self.decided(student, self.tokenized("test"), tokenizer)
        plain = {name: each.tolist() if isinstance(each, np.ndarray) else each for name, each in made.items()}
        self.write_json("controls.json", plain)

    def _step_compare(self) -> None:
        """Measure, and write the report, the card and the recipe."""
        start = time.perf_counter()
        teacher, teacher_tokenizer = self.teacher()
        student, tokenizer = self.load(self.folder / "student")
        baseline, _ = self.load(self.folder / "baseline")
        made = self.read_json("controls.json", {})
        with_teacher = [name for name in made if name in controls.WITH_TEACHER]
        report = compare(
            teacher,
            student,
            self.for_comparison(self.splits.test),
            task=self.recipe.task,
            baseline_model=baseline,
            more_students=[(student, alone) for (student, _), (alone, _) in self.more_students()],
            student_processing_class=tokenizer,
            teacher_processing_class=teacher_tokenizer,
            metrics=tuple(self.recipe.metrics),
            controls={name: made[name] for name in made if name not in with_teacher},
            controls_with_teacher={name: made[name] for name in with_teacher},
            fidelity_dataset=self.for_comparison(self.splits.fidelity) if len(self.splits.fidelity) else None,
            groups=self.groups,
            test_sets={name: self.for_comparison(part) for name, part in self.further.items()},
            texts=list(texts_of(self.splits.test)) if self.recipe.compare.quote else None,
            onnx=self.folder / "student" if self.recipe.export.onnx else None,
            detailed_costs=self.recipe.compare.detailed_costs,
            teacher_floor=self.recipe.teacher.floor,
            resamples=self.recipe.compare.resamples,
            seed=self.recipe.seed,
        )
        counts = self.counts
        report = dataclasses.replace(report, run=self.about_the_run(start, counts))
        self.publish_report(report, teacher, counts, example=self.example)

    # Parts of the steps

    def fit(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        arguments: DistillationArguments,
        train: datasets.Dataset,
        judged: datasets.Dataset,
        step: str,
        matching: Sequence[Matching] = (),
    ) -> None:
        """Train a model in place."""
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
        self.train(trainer, step)

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
        judged = self.tokenized("validation")
        step = "controls" if without_teacher and seed is None else "distill"
        stages = self.stages(name, len(rows), len(self.taught_texts), without_teacher=without_teacher, seed=seed)
        for arguments, matching in stages:
            read, heard = (
                part if matching else part.remove_columns(columns.teacher_input_columns(part.column_names))
                for part in (rows, judged)
            )
            self.fit(student, tokenizer, arguments, read, heard, step, matching)

    def own_rows(self) -> datasets.Dataset:
        """What the student without a teacher learns from: the labelled rows."""
        return self.tokenized("train")

    def decided(self, model: PreTrainedModel, rows: datasets.Dataset, tokenizer: Any) -> Any:
        """A model's class for each row, or for each word of it."""
        return (predict_tags if self.task.word_level else predict_classes)(model, rows, tokenizer)

    def tokenizer(self, path: str | Path) -> Any:
        """A tokenizer that can read the task's texts."""
        tokenizer = AutoTokenizer.from_pretrained(path)
        if self.task.word_level and getattr(tokenizer, "add_prefix_space", True) is False:
            # A byte-level one reads a word in the same pieces wherever it stands only when it is told to.
            return AutoTokenizer.from_pretrained(path, add_prefix_space=True)
        return tokenizer

    def tokenized(self, *names: str) -> datasets.Dataset:
        """Some splits, one after the other, as the student and the teacher read them."""
        return self.read(datasets.concatenate_datasets([getattr(self.splits, name) for name in names]))

    def read(self, rows: datasets.Dataset) -> datasets.Dataset:
        """Rows as the student and the teacher read them."""
        own = self.recipe.student.vocab_size is not None
        return tokenize(
            rows,
            self.tokenizer(self.work / "initial" if self.has_student else self.teacher_path),
            max_length=self.recipe.student.max_length,
            teacher_tokenizer=self.tokenizer(self.teacher_path) if own else None,
            teacher_max_length=self.recipe.teacher.max_length,
        )

    def for_comparison(self, rows: datasets.Dataset) -> datasets.Dataset:
        """Rows as `compare` reads them: where the teacher has other classes, with what it says in the data's."""
        read = self.read(rows)
        return self.adjusted(self.with_live_logits(read, self.teacher()[0])) if self.recipe.teacher.label_map else read

    def with_live_logits(self, rows: datasets.Dataset, teacher: PreTrainedModel | TeacherEnsemble) -> datasets.Dataset:
        """Tokenised rows with what a teacher says now."""
        tokenizer = self.tokenizer(self.teacher_path)
        reader = Predictor(teacher, rows, tokenizer, as_teacher=True, word_level=self.task.word_level)
        with reader.ready():
            said = (predict_word_logits if self.task.word_level else predict_logits)(reader, rows, name="teacher")
        return rows.add_column(columns.LOGITS, [row.tolist() for row in said])

    @property
    def groups(self) -> dict[str, Sequence[Any]]:
        """What the report breaks quality down by: columns of the data, and for tagging whether labels show a word."""
        test = self.splits.test
        made: dict[str, Sequence[Any]] = {name: test[name] for name in self.recipe.compare.by}
        if self.task.word_level:
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
        return row["words"] if self.task.word_level else [row[name] for name in names]

    @property
    def counts(self) -> dict[str, int]:
        """The rows of the data, the texts made of them, and the words of the training sentences that were cut off."""
        counts = dict(self.splits.counts)
        if self.recipe.data.augment is not None:
            counts |= self.new_texts["counts"]
        if self.task.word_level:
            words = self.taught_texts
            rows = self.read(words)
            for name, column in (("student", columns.WORD_STARTS), ("teacher", columns.TEACHER_WORD_STARTS)):
                if column in rows.column_names:
                    counts[f"training words cut off for the {name}"] = words_cut_off(words, rows[column])
        return counts

    @cached_property
    def taught_texts(self) -> datasets.Dataset:
        """All that the student learns from: labelled rows, rows without a label, and new texts made of both."""
        rows = datasets.concatenate_datasets([self.splits.train, self.splits.unlabelled])
        if self.recipe.data.augment is None:
            return rows
        new = unlabelled(self.new_texts["texts"], rows)
        return datasets.concatenate_datasets([rows.select_columns(["text", "label"]), new])

    @cached_property
    def new_texts(self) -> dict[str, Any]:
        """`texts` made of the training texts, made once; for each the number of its old one (`sources`); `counts`."""
        kept: dict[str, Any] = self.read_json("augmented.json", {})
        if kept.get("fingerprint") == self.fingerprints["augment"] and "counts" in kept:
            return kept
        settings: Any = self.recipe.data.augment
        if settings.masked_language_model is not None:
            settings = dataclasses.replace(settings, masked_language_model=resolve(settings.masked_language_model))
        sources: list[int] = []
        counts: dict[str, int] = {}
        made = augmented(
            [text for part in (self.splits.train, self.splits.unlabelled) for text in part["text"]],
            settings,
            self.recipe.seed,
            tokenizer=self.tokenizer(self.teacher_path),
            sources=sources,
            counts=counts,
        )
        held = {
            near_duplicate_key(text)
            for part in (self.splits.validation, self.splits.test, self.splits.fidelity)
            for text in part["text"]
        }
        fresh = [number for number, text in enumerate(made) if near_duplicate_key(text) not in held]
        counts |= {
            "augmented texts": len(fresh),
            "augmented texts like held-out ones, left out": len(made) - len(fresh),
        }
        self.console.print(f"  {len(fresh):,} new texts; {len(made) - len(fresh):,} were like held-out ones")
        kept = {
            "fingerprint": self.fingerprints["augment"],
            "texts": [made[number] for number in fresh],
            "sources": [sources[number] for number in fresh],
            "counts": {name: number for name, number in counts.items() if number},
        }
        self.write_json("augmented.json", kept)
        return kept

    def taught_rows(self) -> datasets.Dataset:
        """All training rows; where anybody wants to hear the teacher's logits, with them, in the data's classes."""
        rows = self.read(self.taught_texts)
        if not self.uses_soft_targets:
            return rows
        folder = self.marked("cache", "cache")
        fitted = self.recipe.teacher.cross_fit
        teachers = [self.teacher()[0]] if fitted is None else self.fold_teachers(range(fitted))
        # What a teacher learnt from, it knows in other words too.
        sources = self.new_texts["sources"] if self.recipe.data.augment else []
        folds = inherited_folds(self.folds.tolist(), len(rows) - len(sources), sources).tolist()
        said = ask_teachers(rows, teachers, folds, folder, task=self.recipe.task, dtype="float32", bf16=self.bf16)
        return self.adjusted(said, [] if fitted is None else cross_fit_shares(folds, fitted, len(rows)))

    def fold_teachers(self, numbers: Iterable[int]) -> list[PreTrainedModel]:
        """The teachers that did not learn from the folds of these numbers."""
        return [self.load(self.work / "folds" / str(number))[0] for number in numbers]

    def adjusted(self, rows: datasets.Dataset, shares: Sequence[Share] = ()) -> datasets.Dataset:
        """The rows with the teacher's logits in the data's classes, and as sure as its validation answers warrant.

        Args:
            rows: with logits.
            shares: whose logits they are, where they are not the teacher's.
        """
        settings = self.recipe.teacher
        if not (settings.label_map or settings.calibrate):
            return rows
        temperature: float | np.ndarray = 1.0
        if settings.calibrate and shares:
            temperature = np.ones(len(rows))
            for share in shares:
                temperature[share.rows] = self.temperature(share.teachers)
        elif settings.calibrate:
            temperature = self.temperature()
        changed, lost = adjusted(rows, temperature, settings.label_map, self.teacher_classes, self.classes)
        if lost:
            self.console.print(
                f"[yellow]teacher.label_map leaves out what the teacher would have chosen for {lost:.1%} of the "
                "items.[/yellow]"
            )
        return changed

    def temperature(self, numbers: tuple[int, ...] = ()) -> float:
        """At which the doubt of the teacher, or of the teachers of these folds together, fits the validation labels."""
        if numbers in self.temperatures:
            return self.temperatures[numbers]
        teacher = as_one_teacher(self.fold_teachers(numbers)) if numbers else self.teacher()[0]
        rows = self.with_live_logits(self.read(self.splits.validation), teacher)
        if self.recipe.teacher.label_map:
            rows, _ = adjusted(rows, 1.0, self.recipe.teacher.label_map, self.teacher_classes, self.classes)
        said = [np.asarray(row, dtype=np.float32).reshape(-1, len(self.classes)) for row in rows[columns.LOGITS]]
        true = [np.atleast_1d(row) for row in self.splits.validation["label"]]
        # Of a sentence that was cut off, the words that were read.
        labels = np.concatenate([row[: len(answers)] for row, answers in zip(true, said, strict=True)])
        found = calibration_temperature(np.concatenate(said), labels)
        whose = f" without fold {' or '.join(map(str, numbers))}" if numbers else ""
        self.console.print(f"  the temperature of the teacher{whose}: {found:.3f}", highlight=False)
        self.temperatures[numbers] = found
        return found
