"""The card of a run's student."""

import json
from typing import Any

from hf_distill.paths import local, name_of
from hf_distill.recipes.recipe import Recipe
from hf_distill.reports.card import model_card, title
from hf_distill.reports.report import Report


def write_card(run: Any) -> None:
    """Write the card of a run's student, from its report and its recipe.

    Args:
        run: a `steps.Run` whose models were compared.
    """
    recipe: Recipe = run.recipe
    push, report = recipe.push, Report.load(run.folder)
    fine_tuning = recipe.teacher.fine_tune
    if fine_tuning is not None and recipe.teacher.lora:
        fine_tuning = {**fine_tuning, "lora": recipe.teacher.lora}
    teacher = push.base_model or local(recipe.teacher.source)
    model_card(
        report,
        run.folder / "student",
        student_name=title(report, push.title or name_of(recipe.data.path), recipe.student.kind, teacher),
        teacher=teacher,
        teacher_revision=run.models.commit,
        repo_id=push.repo_id,
        license=push.license,
        language=push.language or None,
        datasets=push.datasets or [name_of(recipe.data.path)],
        fine_tuning=fine_tuning,
        stages=[told_of(stage, recipe) for stage in recipe.stages],
        carried=json.loads((run.models.initial / "carried.json").read_text()),
        splits=run.workspace.steps["compare"]["counts"],  # in their order, which report.json does not keep
        reproduce="hf-distill run recipe.yaml",
        example=run.task.example,
        samples=run.task.samples(run.folder / "student"),
    )


def told_of(stage: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """A stage's settings for the card: with temperature and loss of the soft targets, where it has some."""
    objective = recipe.objective(stage)
    soft = {"temperature": objective.temperature, "soft_target_loss": objective.soft_target_loss}
    if recipe.uses_soft_targets:
        return stage | soft
    return {name: value for name, value in stage.items() if name not in soft}
