"""Running a recipe step by step: teacher → cache → initialize → distil → controls → seeds → export → compare."""

from pathlib import Path

from hf_distill.recipes.classification import LabellingRun
from hf_distill.recipes.generation import WritingRun
from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.steps import STEPS, Steps
from hf_distill.reports.report import Report


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
    run: Steps = WritingRun(recipe) if recipe.writes else LabellingRun(recipe)
    for step in STEPS:
        if only is None or STEPS.index(step) < STEPS.index(only) or step == only:
            run.step(step)
    return Report.load(run.folder) if only in (None, "compare") else None
