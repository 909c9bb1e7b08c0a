"""What a run would do, known before anything expensive: its rows, its steps and why they run, and every refusal."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.steps import STEPS, Run

CHECKPOINTS = 2  # the newest and the best
OPTIMIZER = 3  # a checkpoint is the weights and two moments of each


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
        needed_bytes: an estimate of the space that the steps that run take: weights, checkpoints and the cache.
        free_bytes: of the disk.
        refusals: what has to change before the recipe can run, one text each.
    """

    task: str
    output_dir: str
    rows: dict[str, int]
    classes: list[str]
    counts: dict[str, int]
    steps: list[PlannedStep]
    needed_bytes: int
    free_bytes: int
    refusals: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line."""
        runs = [step.name for step in self.steps if step.runs]
        rows = ", ".join(f"{number:,} {name}" for name, number in self.rows.items() if number)
        return f"{self.task}: {rows} rows; runs {', '.join(runs) if runs else 'nothing, all is done'}"

    def details(self) -> Group:
        """All of it, for a terminal."""
        steps = Table("step", "", "seconds before", title=self.summary(), title_justify="left", box=SIMPLE_HEAD)
        for step in self.steps:
            state = "; ".join(step.reasons) or ("runs" if step.runs else "done")
            steps.add_row(step.name, Text(state), "" if step.seconds is None else f"{step.seconds:,.0f}")
        lines = [f"classes: {', '.join(self.classes)}"] if self.classes else []
        lines += [f"{name}: {number:,}" for name, number in self.counts.items()]
        lines.append(f"space: about {self.needed_bytes / 1e6:,.0f} MB needed, {self.free_bytes / 1e6:,.0f} MB free")
        lines += [f"refused: {refusal}" for refusal in self.refusals]
        return Group(steps, *map(Text, lines))


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
    return Plan(
        task=run.recipe.task,
        output_dir=run.recipe.output_dir,
        rows=splits,
        classes=list(getattr(run.task, "classes", [])),
        counts=dict(run.task.counts),
        steps=steps,
        needed_bytes=_needed_bytes(run, {step.name for step in steps if step.runs}, splits),
        free_bytes=shutil.disk_usage(_existing(run.folder)).free,
        refusals=refusals,
    )


def _needed_bytes(run: Run, names: set[str], rows: dict[str, int]) -> int:
    source = Path(run.models.source)
    files = [source] if source.is_file() else list(source.glob("*.safetensors")) if source.is_dir() else []
    weights = sum(file.stat().st_size for file in files)
    recipe: Recipe = run.recipe
    needed = 0
    if "teacher" in names and recipe.teacher.fine_tune is not None:
        needed += weights * (1 + (recipe.teacher.cross_fit or 0) + CHECKPOINTS * OPTIMIZER)
    if "cache" in names and recipe.uses_soft_targets:
        taught = rows["train"] + rows["unlabelled"]
        per_row = 4 * max(1, len(getattr(run.task, "classes", [])))
        if run.task.kind.per_position:  # ids and logits of the top k, or of each class
            per_row = recipe.student.max_length * (
                per_row if run.task.kind.word_level else 6 * (recipe.teacher.top_k or 32_000)
            )
        needed += taught * per_row
    return needed


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
