"""Steps that are done once: each keeps its result beside a hash of all it depends on, and a killed run goes on."""

import functools
import importlib.util
import json
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from transformers import AutoTokenizer, PreTrainedModel, Trainer, set_seed

from hf_distill.environment import has_fast_bf16, peak_memory
from hf_distill.matching.base import Matching
from hf_distill.paths import local, name_of, resolve
from hf_distill.problems import TASKS
from hf_distill.recipes.recipe import Recipe
from hf_distill.reports.card import model_card
from hf_distill.reports.report import Report
from hf_distill.training.arguments import DistillationArguments

STEPS = ("teacher", "cache", "initialize", "distill", "controls", "seeds", "export", "compare")


class Steps(ABC):
    """One run of a recipe: what its steps share. A subclass says what each step is, as `_step_<name>`."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.task = TASKS[recipe.task]
        self.console = Console(stderr=True)
        self.folder = Path(recipe.output_dir)
        self.work = self.folder / ".work"
        self.teacher_path = resolve(recipe.teacher.model)
        self.bf16 = recipe.teacher.bf16 and has_fast_bf16()
        self.check_folder()

    def check_folder(self) -> None:
        """Raise a ValueError where something stands that a run would replace, or where several processes would."""
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

    def check_export(self) -> None:
        """Raise a ValueError where the export is asked for and what it needs is missing."""
        missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
        if self.recipe.export.onnx and missing:
            raise ValueError(
                f"export.onnx: {' and '.join(missing)} not installed. Install hf-distill[onnx], or set it false."
            )

    @cached_property
    def done(self) -> dict[str, dict[str, Any]]:
        """What each finished step depended on, and what it took."""
        self.work.mkdir(parents=True, exist_ok=True)
        return self.read_json("steps.json", {})

    @cached_property
    @abstractmethod
    def fingerprints(self) -> Mapping[str, str]:
        """A hash of all that each step's result depends on, and those of parts of steps by other names."""

    @property
    def results(self) -> Mapping[str, Sequence[str]]:
        """The files that a step leaves; a step without an entry leaves none."""
        seeds = [
            f".work/seeds/{seed}/{name}/config.json"
            for seed in self.recipe.compare.more_seeds
            for name in ("student", "baseline")
        ]
        return {
            "teacher": ("teacher/model.safetensors",) if self.recipe.teacher.fine_tune else (),
            "initialize": (".work/initial/carried.json",),
            "distill": ("student/model.safetensors",),
            "controls": ("baseline/model.safetensors", ".work/controls.json"),
            "seeds": seeds,
            "compare": ("report.json", "student/README.md"),
        }

    def step(self, name: str) -> None:
        """Run one step unless it is done."""
        fingerprint = self.fingerprints[name]
        there = all((self.folder / result).exists() for result in self.results.get(name, ()))
        if there and self.done.get(name, {}).get("fingerprint") == fingerprint:
            self.console.print(f"[dim]{name}: done before, in {self.done[name]['seconds']:.0f} s[/dim]")
            return
        for later in STEPS[STEPS.index(name) :]:
            self.done.pop(later, None)  # from here on, results of another run may be replaced in parts
        self.write_json("steps.json", self.done)
        self.console.rule(f"{name}")
        start = time.perf_counter()
        getattr(self, f"_step_{name}")()
        self.done[name] = {
            "fingerprint": fingerprint,
            "seconds": round(time.perf_counter() - start, 1),
            "peak_memory_bytes": peak_memory(),
        }
        self.write_json("steps.json", self.done)

    @property
    def has_student(self) -> bool:
        """Whether the student's tokenizer is there yet; the cache does not need it."""
        return self.done.get("initialize", {}).get("fingerprint") == self.fingerprints["initialize"]

    # Models

    def teacher(self) -> tuple[PreTrainedModel, Any]:
        """The teacher and its tokenizer."""
        return self.load(self.teacher_path if self.recipe.teacher.fine_tune is None else self.folder / "teacher")

    def load(self, path: str | Path) -> tuple[PreTrainedModel, Any]:
        """A model with its head, in float32, and its tokenizer."""
        return self.task.auto_class.from_pretrained(path, dtype=torch.float32), self.tokenizer(path)

    def tokenizer(self, path: str | Path) -> Any:
        """A tokenizer that can read the task's texts."""
        return AutoTokenizer.from_pretrained(path)

    def save(self, name: str, student: PreTrainedModel, tokenizer: Any) -> None:
        """Keep a trained model."""
        with self.replacing(name) as folder:
            student.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    def keep_initial(self, student: PreTrainedModel, tokenizer: Any, carried: Mapping[str, str]) -> None:
        """Keep the student before its training, and say where its weights came from."""
        for name, source in carried.items():
            self.console.print(f"  {name} ← {source}", highlight=False)
        with self.replacing(".work/initial") as folder:
            student.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            (folder / "carried.json").write_text(json.dumps(carried, indent=2))

    def once(self, folder: str, fingerprint: str, make: Callable[[], tuple[PreTrainedModel, Any]]) -> None:
        """Make and keep a model, unless what it depends on has made it before."""
        mark = self.work / f"{folder.removeprefix('.work/').replace('/', '-')}.fingerprint"
        whole = mark.exists() and mark.read_text() == self.fingerprints[fingerprint]
        if not (whole and any((self.folder / folder).glob("*.safetensors"))):
            self.save(folder, *make())
            mark.write_text(self.fingerprints[fingerprint])

    def train(self, trainer: Trainer, step: str) -> None:
        """Train in place, from the last checkpoint of a killed run if it was the same run; keep the learning curve."""
        folder = Path(str(trainer.args.output_dir))
        mark = folder / "fingerprint"
        if not mark.exists() or mark.read_text() != self.fingerprints[step]:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            mark.write_text(self.fingerprints[step])
        # Written last: a checkpoint without it was being saved when the run was killed.
        whole = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime_ns)
        trainer.train(resume_from_checkpoint=str(whole[-1].parent) if whole else False)
        judged = f"eval_{trainer.args.metric_for_best_model}"
        curve = [[entry["step"], entry[judged]] for entry in trainer.state.log_history if judged in entry]
        self.write_json("curves.json", self.read_json("curves.json", {}) | {folder.name: curve})
        shutil.rmtree(folder)

    @abstractmethod
    def arguments(self, settings: Mapping[str, Any], name: str, **sizes: Any) -> DistillationArguments:
        """Training arguments of this run; see `training_arguments`."""

    @property
    def uses_soft_targets(self) -> bool:
        """Whether the student learns from the teacher's probabilities."""
        return True

    def stages(
        self, name: str, rows: int, distilled_rows: int, *, without_teacher: bool = False, seed: int | None = None
    ) -> Iterator[tuple[DistillationArguments, list[Matching]]]:
        """The arguments and the matchings of each stage of a student's training, or of a control's.

        Args:
            name: of the student.
            rows: that it is trained on.
            distilled_rows: that the student is trained on; a control gets as many steps, and is judged as often.
            without_teacher: whether it learns from labels alone.
            seed: in place of the recipe's.
        """
        for number, stage in enumerate(self.recipe.stages):
            settings: dict[str, Any] = {"learning_rate": 2e-3, "bf16": self.recipe.student.bf16 and has_fast_bf16()}
            settings |= stage | ({} if seed is None else {"seed": seed})
            planned = self.arguments(settings, f"{name}-{number}", rows=distilled_rows)
            if without_teacher or not self.uses_soft_targets:
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

    def curves(self) -> dict[str, list[list[float]]]:
        """The first metric on the validation rows by optimizer step, of student and baseline through all stages."""
        kept = self.read_json("curves.json", {})
        found: dict[str, list[list[float]]] = {}
        for name in ("student", "baseline"):
            past = 0
            for number in range(len(self.recipe.stages)):
                curve = kept.get(f"{name}-{number}", [])
                found[name] = found.get(name, []) + [[past + step, value] for step, value in curve]
                past += curve[-1][0] if curve else 0
        return {name: curve for name, curve in found.items() if curve}

    # The student

    @abstractmethod
    def untrained(self, tokenizer: Any, seed: int) -> tuple[PreTrainedModel, dict[str, str]]:
        """A new student, and where its weights came from."""

    @abstractmethod
    def taught_rows(self) -> Dataset:
        """What the student learns from, with what the teacher said."""

    @abstractmethod
    def own_rows(self) -> Dataset:
        """What the student without a teacher learns from."""

    @abstractmethod
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

    def _step_distill(self) -> None:
        """Train the student on its targets and on what the teacher said."""
        student, tokenizer = self.load(self.work / "initial")
        self.train_student("student", student, tokenizer, self.taught_rows())
        self.save("student", student, tokenizer)

    def train_baseline(self) -> None:
        """Train the same student without a teacher: the same first weights, steps and selection."""
        student, tokenizer = self.load(self.work / "initial")
        self.train_student("baseline", student, tokenizer, self.own_rows(), without_teacher=True)
        self.save("baseline", student, tokenizer)

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
        rows = self.own_rows() if alone else self.taught_rows()
        self.train_student(f"{name}-of-seed-{seed}", student, tokenizer, rows, without_teacher=alone, seed=seed)
        return student, tokenizer

    def more_students(self) -> list[tuple[tuple[PreTrainedModel, Any], tuple[PreTrainedModel, Any]]]:
        """Students of other seeds with their baselines, and the tokenizers."""
        folders = [self.work / "seeds" / str(seed) for seed in self.recipe.compare.more_seeds]
        return [(self.load(folder / "student"), self.load(folder / "baseline")) for folder in folders]

    # The end

    def publish_report(self, report: Report, teacher: PreTrainedModel, counts: Mapping[str, int], **card: Any) -> None:
        """Write the report with what the run took, the card and the recipe.

        Args:
            report: what was measured.
            teacher: whose revision the card names.
            counts: of rows, by what became of them.
            card: more arguments of `model_card`.
        """
        push, recipe = self.recipe.push, self.recipe
        taught = recipe.teacher.fine_tune
        if taught is not None and recipe.teacher.lora:
            taught = {**taught, "lora": recipe.teacher.lora}
        report.save(self.folder)
        report.save(self.folder / "student")
        recipe.save(self.folder / "recipe.yaml")
        model_card(
            report,
            self.folder / "student",
            student_name=(push.repo_id or f"{recipe.student.kind} student of {name_of(recipe.teacher.model)}"),
            teacher=push.base_model or local(recipe.teacher.model),
            teacher_revision=getattr(teacher.config, "_commit_hash", None),
            repo_id=push.repo_id,
            license=push.license,
            language=push.language or None,
            datasets=push.datasets or [name_of(recipe.data.path)],
            fine_tuning=taught,
            stages=[{"temperature": 2.0, "soft_target_loss": "forward_kl", **stage} for stage in recipe.stages],
            carried=json.loads((self.work / "initial" / "carried.json").read_text()),
            splits=counts,
            reproduce="hf-distill run recipe.yaml",
            **card,
        )
        self.console.print(report.table())

    def about_the_run(self, start: float, counts: Mapping[str, int]) -> dict[str, Any]:
        """What a report says of the run that made it.

        Args:
            start: when the comparison began, by `time.perf_counter`.
            counts: of rows, by what became of them.
        """
        seconds = {name: step["seconds"] for name, step in self.done.items() if name != "compare"}
        seconds["compare"] = round(time.perf_counter() - start, 1)
        return {
            "seconds": seconds,
            "total_seconds": round(sum(seconds.values()), 1),
            "peak_memory_bytes": max(peak_memory(), *(step["peak_memory_bytes"] for step in self.done.values())),
            "rows": dict(counts),
            "bf16_teacher": self.bf16,
            "curves": self.curves(),
        }

    # Files

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A new folder that takes the place of `name` once it is whole."""
        target, temporary = self.folder / name, self.folder / f"{name}.part"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)

    def marked(self, name: str, fingerprint: str) -> Path:
        """A folder that is emptied when what it depends on changes, which is said, and kept otherwise."""
        folder = self.folder / name
        mark = folder / "fingerprint"
        if folder.exists() and (not mark.exists() or mark.read_text() != self.fingerprints[fingerprint]):
            self.console.print(f"[yellow]{name}: of another recipe or other data; it is made again.[/yellow]")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(self.fingerprints[fingerprint])
        return folder

    def read_json(self, name: str, default: Any) -> Any:
        """What `write_json` wrote."""
        path = self.work / name
        return json.loads(path.read_text()) if path.exists() else default

    def write_json(self, name: str, content: Any) -> None:
        """Keep plain data, whole or not at all."""
        temporary = self.work / f"{name}.part"
        temporary.write_text(json.dumps(content))
        os.replace(temporary, self.work / name)
