"""What a run would do, known before anything expensive: its rows, its steps and why they run, and every refusal."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from hf_distill.recipes.room import needed_room
from hf_distill.recipes.steps import STEPS, Run

TIGHT = 0.8  # share of the free space from which on the plan warns


@dataclass(frozen=True)
class PlannedStep:
    """A step of a run.

    Attributes:
        name: of the step.
        runs: whether it will run.
        reasons: why it runs again; none where it never ran, or is done.
        seconds: that it took before, where it did.
    """

    name: str
    runs: bool
    reasons: list[str]
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What a run of a recipe would do.

    Attributes:
        task: of the recipe.
        output_dir: of the run.
        rows: number of rows of each split.
        classes: names of the classes; none of a regression or a generative task.
        counts: of rows, by what became of them when they were read.
        steps: in their order.
        room: an estimate of the bytes that the steps that run take: for the teacher, checkpoints, the cache, students
            and their ONNX files.
        free_bytes: of the disk.
        questions: the prompt of one row and how many questions a teacher behind a prompt would be asked; None of any
            other, and where the recipe cannot run.
        refusals: what has to change before the recipe can run, one text each.
    """

    task: str
    output_dir: str
    rows: dict[str, int]
    classes: list[str]
    counts: dict[str, int]
    steps: list[PlannedStep]
    room: dict[str, int]
    free_bytes: int
    refusals: list[str] = field(default_factory=list)
    questions: Any = None

    @property
    def needed_bytes(self) -> int:
        """All of `room`."""
        return sum(self.room.values())

    @property
    def space(self) -> str:
        """How much space is needed and free, in words."""
        parts = ", ".join(f"{name} {_megabytes(size)}" for name, size in self.room.items() if size)
        told = f" ({parts})" if parts else ""
        return f"about {_megabytes(self.needed_bytes)} needed{told}, {_megabytes(self.free_bytes)} free"

    @property
    def is_tight(self) -> bool:
        """Whether the estimate comes so close to the free space that the disk may become full."""
        return self.needed_bytes > TIGHT * self.free_bytes

    @property
    def size(self) -> str:
        """Task and rows, in words."""
        rows = ", ".join(f"{number:,} {name}" for name, number in self.rows.items() if number)
        return f"{self.task}: {rows} rows"

    @property
    def work(self) -> str:
        """The steps that run, in words."""
        runs = [step.name for step in self.steps if step.runs]
        return f"runs {', '.join(runs) if runs else 'nothing, all is done'}"

    def summary(self) -> str:
        """One line."""
        return f"{self.size}; {self.work}"

    def details(self) -> Group:
        """All of it, for a terminal."""
        steps = Table("step", "", "seconds before", title=Text(self.summary()), title_justify="left", box=SIMPLE_HEAD)
        for step in self.steps:
            state = "; ".join(step.reasons) or ("runs" if step.runs else "done")
            steps.add_row(step.name, Text(state), "" if step.seconds is None else f"{step.seconds:,.0f}")
        lines = [f"classes: {', '.join(self.classes)}"] if self.classes else []
        lines += [f"{name}: {number:,}" for name, number in self.counts.items()]
        lines.append(f"space: {self.space}{'. The disk may become full: make room first' if self.is_tight else ''}")
        lines += [] if self.questions is None else [f"\nThe teacher's prompt for one text:\n\n{self.questions}\n"]
        lines += [f"refused: {refusal}" for refusal in self.refusals]
        return Group(steps, *(Text(line) for line in lines))  # no markup: classes and columns may have brackets


def plan(run: Run) -> Plan:
    """What a run would do; reads the data, configs and tokenizers, and trains nothing.

    Args:
        run: of a recipe.
    """
    refusals = []
    for check in run.checks:
        try:
            check()
        except ValueError as error:
            if str(error) not in refusals:
                refusals.append(str(error))
    steps = []
    for name in STEPS:
        state = run.state(name)
        record = run.workspace.steps.get(name, {})
        steps.append(PlannedStep(name, state != [], state or [], record.get("seconds")))
    splits = {name: len(part) for name, part in run.task.parts.items()}
    place = _existing(run.folder)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        refusals.append(f"output_dir: {place} is no folder that may be written to. Choose another output_dir.")
    room = {} if refusals else needed_room(run.checked, run.folder, {step.name for step in steps if step.runs}, splits)
    planned = Plan(
        task=run.recipe.task,
        output_dir=run.recipe.output_dir,
        rows=splits,
        classes=list(getattr(run.task, "classes", [])),
        counts=dict(run.task.counts),
        steps=steps,
        room=room,
        free_bytes=shutil.disk_usage(place).free,
        refusals=refusals,
        questions=None if refusals else run.task.questions(),
    )
    if planned.needed_bytes > planned.free_bytes:
        refusals.append(f"output_dir: {planned.space} on the disk of {place}. Make room, or choose another output_dir.")
    return planned


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
