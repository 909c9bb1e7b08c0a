"""The steps of a run, the same for all tasks: teacher → cache → initialize → distill → controls → seeds → export →
compare → card."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from rich.console import Console
from transformers import PreTrainedModel, set_seed

from hf_distill.environment import has_fast_bf16, peak_memory
from hf_distill.recipes.cache_folder import open_cache
from hf_distill.recipes.card import write_card
from hf_distill.recipes.checks import Checks, check_sources, replaced_by
from hf_distill.recipes.inputs import Inputs
from hf_distill.recipes.ladder import Ladder
from hf_distill.recipes.processes import Processes
from hf_distill.recipes.progress import RUNS
from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.training import Training
from hf_distill.recipes.workspace import CARD, DAMAGED, EDITED, digest
from hf_distill.students.from_teacher import student_from_teacher
from hf_distill.tasks import cascading, task_of
from hf_distill.tasks.base import Loaded, Trained
from hf_distill.tasks.labelling import LabellingTask
from hf_distill.tasks.models import Models

# Each with the revision of its code: a higher one makes the step run again where an older one made its result.
REVISIONS = {
    "teacher": 1,
    "cache": 1,
    "initialize": 1,
    "distill": 1,
    "controls": 1,
    "seeds": 1,
    "export": 1,
    "compare": 1,
    "card": 1,
}
STEPS = tuple(REVISIONS)
LAST_SHARED = "seeds"  # the last step that several processes share
# The files of each step's result, by patterns relative to the run's folder.
RESULTS = {
    "teacher": ("teacher/**/*", ".work/folds/**/*"),
    "cache": ("cache/**/*.arrow", "cache/**/provenance.json"),
    "initialize": (".work/initial/**/*",),
    "distill": ("student/*", ".work/cascade.json", ".work/ladder.json"),
    "controls": ("baseline/**/*", ".work/controls.json"),
    "seeds": (".work/seeds/**/*",),
    "export": ("student/onnx/*", "student/runtime.py", ".work/rungs/*/onnx/*"),
    "compare": (
        *("report.json", "report.png", "deferral.png", "ladder.png"),
        *("student/report.json", "student/report.png", "student/deferral.png", "student/ladder.png"),
    ),
    "card": (CARD, "recipe.yaml"),
}
# What each step writes in place, by patterns.
IN_PLACE = {
    "cache": ("cache/*shard-*", "cache/*provenance.*", "cache/inputs.json*", "cache/*.lock"),
    "export": ("student/onnx/*.onnx", "student/runtime.py", "student/.export-*"),
    "compare": RESULTS["compare"],
    "card": RESULTS["card"],
}


class Run:
    """One run of a recipe.

    Args:
        recipe: what to run.
        verify: whether the content of all files is compared with what the steps left, not only of those whose size or
            time differs.
        processes: that run it. None: this one alone.
    Raises:
        ValueError: something stands in the folder that a run would replace; the data cannot be read.
    """

    def __init__(self, recipe: Recipe, verify: bool = False, processes: Processes | None = None) -> None:
        self.recipe, self.given, self.verify = recipe, recipe, verify
        self.processes = processes or Processes()
        # No markup: classes and columns may have brackets.
        self.console = Console(stderr=True, markup=False, quiet=not self.processes.is_main)
        self.folder = Path(recipe.output_dir)
        self.workspace = self.processes.workspace(self.folder)
        self.work = self.workspace.work
        replaced = replaced_by(recipe)
        self.workspace.check_links([*replaced, RUNS])
        if not self.workspace.is_ours:
            self.workspace.check_foreign(replaced)
        check_sources(recipe)
        self.bf16 = recipe.teacher.bf16 and has_fast_bf16()
        self.models = Models(recipe)
        self.task = task_of(recipe)(recipe, self.models, self._keep)
        self.inputs = Inputs(recipe, self.task, self.models, self.workspace.hash_of)
        self.task.on_main = self.processes.on_main
        self.training = Training(recipe, self.task, self.models, self.workspace, self.processes, self.console)
        self.checked = Checks(recipe, self.task, self.models, self.training)
        self.ladder = Ladder(self)
        self.checks: Sequence[Callable[[], None]] = (self.check_foreign, *self.checked.all, *self.ladder.checks)
        self.edited: dict[str, Any] = {}  # files that a person changed, and what the run had written
        self.before: dict[str, Any] | None = None  # what the step in progress left the last time
        self.distillation_rows_now: Dataset | None = None  # once they are read
        done = [name for name in STEPS if self.state(name) == []]
        for name in done:
            self.task.counts |= self.workspace.steps[name]["counts"]
        self.models.initialized = "initialize" in done and not self.ladder  # whose rungs have folders of their own
        if self.ladder and "distill" in done:
            self.ladder.take_chosen()

    def _keep(self, name: str, make: Callable[[], Any]) -> Any:
        return self.processes.on_main(lambda: self.workspace.kept(name, self.inputs[name], make))

    def check_foreign(self) -> None:
        """Raise a ValueError for what the steps that will run would replace, and no run made."""
        self.workspace.check_foreign(replaced_by(self.recipe, [step for step in STEPS if self.state(step) != []]))

    def kept(self) -> str:
        """What a run that fails now leaves for the next one, in words."""
        there = [name for name in STEPS if name in self.workspace.steps]
        done = [name for name in there if self.workspace.changes(name, self.inputs[name], REVISIONS[name]) == []]
        going_on = sorted({path.parent.name for path in self.work.glob("*/checkpoint-*")})
        kept = (
            ["nothing yet"]
            if not done + going_on
            else [*done, *(f"the last checkpoint of {each}" for each in going_on)]
        )
        return f"Kept: {', '.join(kept)}."

    # Steps

    def state(self, step: str) -> list[str] | None:
        """Why a step has to run: None where it never did, reasons where something changed, none where it is done."""
        changes = self.workspace.changes(step, self.inputs[step], REVISIONS[step])
        if changes == []:
            names = [path.relative_to(self.folder).as_posix() for path in self.workspace.damaged(step, self.verify)]
            return [f"{name} is missing or is not what it left" for name in names]
        return changes

    def step(self, name: str) -> None:
        """Run one step unless it is done."""
        if not self.processes.on_main(lambda: self.begin(name)):
            return
        self.training.step = name
        start = time.perf_counter()
        getattr(self, f"_step_{name}")()
        self.tell_notes()
        self.models.release()
        self.processes.on_main(lambda: self.end(name, time.perf_counter() - start))
        if name == "initialize":
            self.models.initialized = not self.ladder

    def begin(self, name: str) -> bool:
        """Make room for what a step writes; False where it is done."""
        state = self.state(name)
        self.before = self.workspace.steps.get(name)
        if state == []:
            self.console.print(f"{name}: done before, in {self.workspace.steps[name]['seconds']:.0f} s", style="dim")
            return False
        if self.before is not None and state:
            self.console.print(f"{name}: runs again, {'; '.join(state)}", style="yellow", highlight=False, markup=False)
            for path in self.workspace.damaged(name, self.verify):
                self.workspace.move_aside(path, DAMAGED)
        self.keep_edited(name)
        self.edited = self.workspace.edited()
        self.workspace.forget(name)
        self.workspace.claim(IN_PLACE.get(name, ()))
        self.console.rule(name)
        return True

    def end(self, name: str, seconds: float) -> None:
        """Record that a step is done.

        Args:
            name: of the step.
            seconds: that it took.
        """
        self.workspace.finish(
            name,
            self.inputs[name],
            REVISIONS[name],
            RESULTS[name],
            seconds=round(seconds, 1),
            peak_memory_bytes=peak_memory(),
            counts=self.task.counts,
            keep=self.edited,
        )
        now, before = self.workspace.steps[name], self.before
        if before is not None and before["inputs"] == now["inputs"] and before["files"] != now["files"]:
            for later in STEPS[STEPS.index(name) + 1 :]:  # another machine or version gave another result
                self.workspace.forget(later)

    def tell_notes(self) -> None:
        """Print what the task noted."""
        while self.task.notes:
            self.console.print(f"  {self.task.notes.pop(0)}", highlight=False, markup=False)

    def keep_edited(self, step: str) -> None:
        """Move a card that a person edited out of the way of a new student."""
        if step == "distill" and CARD in self.workspace.edited():
            kept = self.workspace.move_aside(self.folder / CARD, EDITED)
            self.console.print(f"{CARD} was edited by hand: it is kept as {kept}", style="yellow", markup=False)

    def once(self, folder: str, inputs: Mapping[str, Any], make: Callable[[], Loaded]) -> None:
        """Make and keep a model, unless the same inputs have made it before.

        Args:
            folder: of the model, relative to the run's.
            inputs: what it depends on.
            make: gives the model and its tokenizer.
        """
        name = f"model {folder}"

        def is_made() -> bool:
            made = self.workspace.changes(name, inputs, 1) == [] and not self.workspace.damaged(name, self.verify)
            if not made:
                self.workspace.forget(name)
            return made

        if not self.processes.on_main(is_made):
            self.save(folder, *make())
            self.processes.on_main(lambda: self.workspace.finish(name, inputs, 1, [f"{folder}/**/*"]))

    def save(self, folder: str, model: PreTrainedModel, tokenizer: Any) -> None:
        """Keep a model and its tokenizer."""

        def write() -> None:
            with self.workspace.replacing(folder) as temporary:
                model.save_pretrained(temporary)
                tokenizer.save_pretrained(temporary)

        self.processes.on_main(write)

    # Teacher

    def _step_teacher(self) -> None:
        """Fine-tune the teacher, or check that the given one loads."""
        if self.recipe.teacher.fine_tune is None:
            self.processes.on_main(self.check_teacher)
            return
        train = self.task.splits.train
        self.once("teacher", self.inputs["fine-tuned teacher"], lambda: self.fine_tuned("teacher", train))
        for number in range(self.recipe.teacher.cross_fit or 0):
            make = functools.partial(self.fine_tuned, f"teacher-{number}", self.task.fold_rows(number))
            self.once(f".work/folds/{number}", self.inputs["teacher"], make)

    def check_teacher(self) -> None:
        """Raise a ValueError where a teacher that is used as it is does not load, or does not fit."""
        self.models.teacher()
        self.task.check_loaded_teacher()

    def fine_tuned(self, name: str, rows: Dataset) -> Loaded:
        """The teacher after its fine-tuning on some labelled rows, and its tokenizer."""
        model, tokenizer = self.task.untrained_teacher()
        train = self.task.teacher_rows(rows, "training")
        validation = self.task.teacher_rows(self.task.splits.validation, "validation")
        settings = {
            **self.task.teacher_training,
            "bf16": self.bf16,
            **({} if self.recipe.teacher.lora is None else {"learning_rate": 2e-4}),
            **(self.recipe.teacher.fine_tune or {}),
            "hard_label_weight": 1.0,
            "soft_target_weight": 0.0,
        }
        arguments = self.training.arguments(settings, name, rows=len(train))
        self.training.fit(model, tokenizer, arguments, train, validation, self.inputs["teacher"])
        return self.task.trained_teacher(model), tokenizer

    # What the student learns from

    def _step_cache(self) -> None:
        """Compute the teacher's outputs for every training text, where the student learns from them."""
        self.distillation_rows_now = self._rows_with_outputs()

    @property
    def distillation_rows(self) -> Dataset:
        """What the student learns from, with the teacher's outputs where it uses them."""
        if self.distillation_rows_now is None:
            self.distillation_rows_now = self._rows_with_outputs()
        return self.distillation_rows_now

    def _rows_with_outputs(self) -> Dataset:
        rows = self.task.distillation_rows()
        if not self.recipe.uses_soft_targets:
            return rows
        folder = self.folder / "cache"
        self.processes.on_main(lambda: open_cache(folder, digest(self.inputs["cache"]), self.console))
        return self.task.with_soft_targets(rows, folder, self.bf16)

    # The student

    def _step_initialize(self) -> None:
        """Make the student's tokenizer and its first weights."""
        self.processes.on_main(self.initialize)

    def initialize(self) -> None:
        """See `_step_initialize`; the other processes read what the main one makes."""
        with self.workspace.replacing(".work/initial") as folder:
            if self.ladder:
                self.ladder.initialize(self.write_untrained, folder)
            else:
                self.write_untrained(folder)

    def write_untrained(self, folder: Path) -> None:
        """Write the student's tokenizer and its first weights, and tell where these came from."""
        tokenizer = self.task.student_tokenizer()
        student, carried = self.untrained(tokenizer, self.recipe.seed)
        for name, source in carried.items():
            self.console.print(f"  {name} ← {source}", highlight=False, markup=False)
        student.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "carried.json").write_text(json.dumps(carried, indent=2))

    def untrained(self, tokenizer: Any, seed: int) -> tuple[PreTrainedModel, dict[str, str]]:
        """A new student, and where its weights came from."""
        config = self.task.student_config(tokenizer)
        teacher, teacher_tokenizer = self.models.teacher()
        set_seed(seed)
        if self.recipe.student.from_teacher:
            texts = self.task.student_texts
            student, carried = student_from_teacher(teacher, config, tokenizer, teacher_tokenizer, texts)
        else:
            student, carried = self.task.kind.auto_class.from_config(config), {}
        return self.task.finished_student(student, carried, (teacher, teacher_tokenizer), tokenizer)

    def _step_distill(self) -> None:
        """Train the student on its targets and on the teacher's outputs."""
        if self.ladder:
            student, tokenizer = self.ladder.distill()
        elif self.recipe.cascade is None:
            student, tokenizer = self.trained("student")
        else:  # another threshold needs no training
            make = functools.partial(self.trained, "student")
            self.once(".work/trained", self.inputs["trained student"], make)
            student, tokenizer = self.models.load(self.work / "trained")
        if self.recipe.cascade is not None:
            found = self.processes.on_main(lambda: cascading.fit(self.labelling_task, (student, tokenizer)).as_dict())
            self.workspace.write_json("cascade.json", found)
        self.save("student", student, tokenizer)

    def trained(self, name: str) -> Loaded:
        """The student after its training, and its tokenizer."""
        student, tokenizer = self.models.load(self.models.initial)
        self.train_student(name, student, tokenizer, self.distillation_rows)
        return student, tokenizer

    @property
    def labelling_task(self) -> LabellingTask:
        """The task of the run, which has classes.

        Raises:
            TypeError: it has none.
        """
        if not isinstance(self.task, LabellingTask):
            raise TypeError(f"{self.recipe.task} has no classes.")
        return self.task

    def _step_controls(self) -> None:
        """Train what the student must beat: first the same student without a teacher."""
        if self.task.has_baseline:
            student, tokenizer = self.models.load(self.models.initial)
            self.train_student("baseline", student, tokenizer, self.task.labelled_rows(), without_teacher=True)
            self.save("baseline", student, tokenizer)
        made = self.task.controls(lambda: self.distillation_rows, self.trained_control, self.folder / "baseline")
        self.workspace.write_json("controls.json", made)

    def trained_control(self, name: str, rows: Dataset) -> Loaded:
        """The student, trained without a teacher on some rows, and its tokenizer."""
        student, tokenizer = self.models.load(self.models.initial)
        self.train_student(name, student, tokenizer, rows, without_teacher=True)
        return student, tokenizer

    def _step_seeds(self) -> None:
        """Train the student and its baseline again, from other seeds."""
        for seed in self.recipe.compare.more_seeds:
            for name in ("student", *(["baseline"] if self.task.has_baseline else [])):
                make = functools.partial(self.trained_again, name, seed)
                self.once(f".work/seeds/{seed}/{name}", self.inputs["chosen student"], make)

    def trained_again(self, name: str, seed: int) -> Loaded:
        """A student or a baseline from another seed, and its tokenizer."""
        tokenizer = self.models.tokenizer(self.models.initial)
        student, _ = self.untrained(tokenizer, seed)
        alone = name == "baseline"
        rows = self.task.labelled_rows() if alone else self.distillation_rows
        self.train_student(f"{name}-of-seed-{seed}", student, tokenizer, rows, without_teacher=alone, seed=seed)
        return student, tokenizer

    def train_student(
        self,
        name: str,
        student: PreTrainedModel,
        tokenizer: Any,
        rows: Dataset,
        *,
        without_teacher: bool = False,
        seed: int | None = None,
    ) -> None:
        """Train a student in place through all stages, or a control for as many steps."""
        validation = self.task.validation_rows()
        for arguments, matching in self.training.stages(
            name, len(rows), len(self.distillation_rows), without_teacher=without_teacher, seed=seed
        ):
            train, judged = (self.task.training_rows(part, matching) for part in (rows, validation))
            self.training.fit(student, tokenizer, arguments, train, judged, self.inputs["chosen student"], matching)

    # The end

    def _step_export(self) -> None:
        """Write the student for onnxruntime, where asked to."""
        if self.recipe.export.onnx:
            from hf_distill.export.onnx import export_onnx

            student, _ = self.models.load(self.folder / "student")
            export_onnx(student, self.folder / "student", int8=self.recipe.export.int8)
            self.ladder.export(export_onnx)

    def _step_compare(self) -> None:
        """Measure the models, and write the report."""
        start = time.perf_counter()
        folders = [self.work / "seeds" / str(seed) for seed in self.recipe.compare.more_seeds]
        report = self.task.compare(
            Trained(
                teacher=self.models.teacher(),
                student=self.models.load(self.folder / "student"),
                baseline=self.baseline(self.folder),
                more=[(self.models.load(each / "student"), self.baseline(each)) for each in folders],
                controls=self.workspace.read_json("controls.json", {}),
                onnx=self.folder / "student" if self.recipe.export.onnx else None,
            )
        )
        if self.recipe.cascade is not None:
            student, fitted = self.models.load(self.folder / "student"), self.workspace.read_json("cascade.json")
            report = cascading.with_deferral(self.labelling_task, student, report, fitted)
        report = self.ladder.with_ladder(report) if self.ladder else report
        self.task.counts = self.task.final_counts()
        report = dataclasses.replace(report, run=self.about_the_run(start) | report.run)
        report = self.task.finished_report(report)
        report.save(self.folder)
        report.save(self.folder / "student")

    def baseline(self, folder: Path) -> Any:
        """The student without a teacher that is in a folder; a pair of None where there are no labels."""
        return self.models.load(folder / "baseline") if self.task.has_baseline else (None, None)

    def about_the_run(self, start: float) -> dict[str, Any]:
        """What a report tells of the run that made it.

        Args:
            start: when the comparison began, by `time.perf_counter`.
        """
        done = {
            name: self.workspace.steps[name] for name in STEPS[: STEPS.index("compare")] if name in self.workspace.steps
        }
        seconds = {name: step["seconds"] for name, step in done.items()}
        seconds["compare"] = round(time.perf_counter() - start, 1)
        return {
            "seconds": seconds,
            "total_seconds": round(sum(seconds.values()), 1),
            "processes": self.processes.launched,
            "peak_memory_bytes": max(peak_memory(), *(step["peak_memory_bytes"] for step in done.values())),
            "rows": self.task.counts,
            "bf16_teacher": self.bf16,
            "curves": self.training.curves(),
        }

    def _step_card(self) -> None:
        """Write the student's card and the recipe, unless a person has edited them."""
        if self.unedited("recipe.yaml"):
            self.given.save(self.folder / "recipe.yaml")
        if self.unedited("student/README.md"):
            write_card(self)

    def unedited(self, name: str) -> bool:
        """Whether a file may be written again; one that a person edited is kept, and named."""
        if name in self.edited:
            self.console.print(
                f"{name} was edited by hand and is kept as it is. Delete it to have it made again.", style="yellow"
            )
            return False
        return True
