"""Running a recipe, step by step."""

from pathlib import Path

from hf_distill.environment import summary
from hf_distill.recipes.failures import OneLine
from hf_distill.recipes.plan import Plan, plan
from hf_distill.recipes.processes import Processes
from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.steps import LAST_SHARED, STEPS, Run
from hf_distill.reports.report import Report


def run_recipe(recipe: Recipe | str | Path, only: str | None = None, *, verify: bool = False) -> Report | None:
    """Run a recipe, skipping every step whose result is there and whose inputs are unchanged.

    All that can be checked is checked before the first expensive step. A step writes beside its result and replaces it
    at its end, so a run that fails leaves earlier results intact; a run that was killed goes on from its last
    checkpoint.

    Under `accelerate launch` or `torchrun` the trainings and the cache pass are shared out; the main process alone
    writes files, and goes on alone after the last training.

    Args:
        recipe: a recipe or the path of one.
        only: one of `STEPS`; that step runs, after those it needs that are not done yet.
        verify: whether the content of all files of finished steps is compared with what they left, not only of those
            whose size or time differs.
    Returns:
        The report, or None where `only` stops before it, and in all processes but the main one.
    Raises:
        ValueError: the recipe, its data, its models and its arguments do not fit together; another run is at work in
            the folder, or something that is not of a run stands where this one would write.
        OSError: the disk is full, or may not be written to; one line that says what is kept and what to do.
    """
    if only is not None and only not in STEPS:
        raise ValueError(f"only: expected one of {', '.join(STEPS)}; got {only!r}.")
    recipe = _loaded(recipe)
    folder = Path(recipe.output_dir)
    processes = Processes.assembled()
    with OneLine("start", folder, lambda: "Nothing was changed."):
        run = _checked(recipe, verify, processes)
        with processes.locked(run.workspace):
            if not processes.on_main(lambda: run.workspace.is_current):  # another run has ended meanwhile
                run = processes.together(lambda: Run(recipe, verify, processes))
            processes.check_folder(run.workspace)
            processes.check_equal("What the recipe reads", run.inputs.digests(STEPS))
            run.models.initialized = processes.on_main(lambda: run.models.initialized)
            for step in STEPS if only is None else STEPS[: STEPS.index(only) + 1]:
                with OneLine(step, folder, run.kept), processes.step(step):
                    run.step(step)
                if step == LAST_SHARED:
                    processes.leave()
                    if not processes.is_main:
                        return None
            processes.leave()
    if not processes.is_main or only not in (None, "compare", "card"):
        return None
    report = Report.load(run.folder)
    run.console.print(report.table())
    return report


def _checked(recipe: Recipe, verify: bool, processes: Processes) -> Run:
    """A run of a recipe that can be had here; all processes refuse what one of them refuses."""
    run = processes.together(lambda: Run(recipe, verify, processes))
    planned = processes.together(lambda: plan(run))
    refusals = list(dict.fromkeys(refusal for each in processes.gathered(planned.refusals) for refusal in each))
    if refusals:
        raise ValueError("\n".join(refusals))
    run.console.print(f"{planned.size}, on {summary(run.bf16)}\n{planned.work}", highlight=False)
    if planned.questions is not None and any(step.name == "cache" and step.runs for step in planned.steps):
        run.console.print(f"{planned.questions}\n", highlight=False, markup=False)
    if planned.is_tight:
        run.console.print(f"The disk may become full: {planned.space}", style="yellow", highlight=False)
    return run


def plan_recipe(recipe: Recipe | str | Path, *, verify: bool = False) -> Plan:
    """What `run_recipe` would do; nothing is trained or written.

    Args:
        recipe: a recipe or the path of one.
        verify: see `run_recipe`.
    Raises:
        ValueError: the data cannot be read, or the folder belongs to something else.
    """
    return plan(Run(_loaded(recipe), verify))


def _loaded(recipe: Recipe | str | Path) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
