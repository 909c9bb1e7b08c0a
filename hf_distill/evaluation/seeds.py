"""Several trainings of one student, from other seeds, measured as one."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from hf_distill.evaluation.bootstrap import Estimate, over_seeds

BASELINE = "baseline"

Model = TypeVar("Model")


def further_trainings(
    more_students: Sequence[tuple[Model, Model | None]], baseline: bool
) -> tuple[dict[str, Model], dict[str, list[str]]]:
    """Names for the trainings from further seeds.

    Args:
        more_students: each student with its baseline, if there is one.
        baseline: whether the first student has one.
    Returns:
        The further models by name, and for each name the trainings that its mean is of, its own run first.
    Raises:
        ValueError: some have a baseline and some have none.

    >>> further_trainings([("a model", None)], baseline=False)
    ({'student 2': 'a model'}, {'student': ['student', 'student 2']})
    """
    if any((one is None) == baseline for _, one in more_students):
        raise ValueError("Either each student has its baseline or none: means over seeds are compared seed by seed.")
    further: dict[str, Model] = {}
    trainings = {name: [name] for name in (["student", BASELINE] if baseline else ["student"])}
    for number, pair in enumerate(more_students, start=2):
        for name, model in zip(("student", BASELINE), pair, strict=True):
            if model is not None:
                further[f"{name} {number}"] = model
                trainings[name].append(f"{name} {number}")
    return further, trainings


def means_over_seeds(
    found: Mapping[str, Mapping[str, Estimate]], trainings: Mapping[str, Sequence[str]], seed: int
) -> dict[str, dict[str, Estimate]]:
    """Estimates with the further trainings taken into the first, see `over_seeds`.

    Args:
        found: name -> metric -> estimate, all on the same draws of examples.
        trainings: see `further_trainings`.
        seed: of the draws of seeds.
    """
    parts = {training for names in trainings.values() for training in names}
    means = {name: dict(of) for name, of in found.items() if name not in parts}
    for name, names in trainings.items():
        each = [found[training] for training in names]
        means[name] = {metric: over_seeds([one[metric] for one in each], seed) for metric in each[0]}
    return means
