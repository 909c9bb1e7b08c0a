"""A ladder on the tweets, from several seeds: which rungs are on the front, and whether the choice is the same.

    make demo
    OMP_NUM_THREADS=2 python benchmarks/ladder.py --teacher outputs/demo/teacher --output benchmarks/results/ladder.json

Each seed is a run of `--recipe` with `student: {ladder: [static, lstm-32, lstm-64, lstm-128, transformer-3]}`: the same
splits and the same teacher, other first weights and orders of the rows. Static students and Transformers learn with the
learning rates of a ladder, LSTMs with the recipe's. Without `--teacher`, the first seed fine-tunes one and the others
take it. A run that was stopped is continued.
"""

import argparse
import dataclasses
import json
from collections import Counter
from pathlib import Path

from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.run import run_recipe
from hf_distill.reports.ladder import front

RUNGS = ["static", "lstm-32", "lstm-64", "lstm-128", "transformer-3"]


def recipe_of(options, seed: int, teacher: Path | None) -> Recipe:
    """The recipe of one seed."""
    content = Recipe.load(options.recipe, options.changes)
    stages = content.distill if isinstance(content.distill, list) else [content.distill]
    rate = stages[0].get("learning_rate")
    alike = [{name: value for name, value in stage.items() if name != "learning_rate"} for stage in stages]
    rungs = []
    for name in options.rungs:
        kind, _, size = name.partition("-")
        own = {"name": name, "kind": kind}
        if kind == "lstm":
            own |= {"config": {"embedding_size": int(size), "hidden_size": int(size)}}
            own |= {"distill": {"learning_rate": rate}} if rate else {}
        rungs.append(own if kind == "lstm" else name)
    student = dataclasses.replace(content.student, kind="lstm", config={}, ladder=rungs, floor=options.floor)
    given = {} if teacher is None else {"model": str(teacher), "fine_tune": None}
    return dataclasses.replace(
        content,
        student=student,
        distill=alike if isinstance(content.distill, list) else alike[0],
        teacher=dataclasses.replace(content.teacher, **given),
        data=dataclasses.replace(content.data, seed=0),
        compare=dataclasses.replace(content.compare, controls=["tfidf_logistic_regression"], detailed_costs=False),
        output_dir=str(options.runs / f"seed-{seed}"),
        seed=seed,
    )


def told_of(ladder: dict) -> dict:
    """What is kept of a run."""
    metric = ladder["metric"]
    rungs = {
        each["name"]: {
            "quality": each["quality"][metric],
            "quality_kept_on_validation": each["validation"],
            "holds": each["holds"],
            "tested": each["tested"],
            "bytes": each["bytes"],
            "end_to_end_ms": each["end_to_end_ms"]["batch_1"]["p50"],
            "int8_ms": each.get("onnx", {}).get("int8", {}).get("end_to_end_ms", {}).get("batch_1", {}).get("p50"),
        }
        for each in ladder["rungs"]
    }
    points = [(each["end_to_end_ms"], each["quality"]["value"]) for each in rungs.values()]
    names = list(rungs)
    return {
        "chosen": ladder["chosen"],
        "held": ladder["held"],
        "front": [names[number] for number in front(points)],
        "teacher": ladder["teacher"]["quality"],
        "rungs": rungs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=Path("examples/recipes/tweet-sentiment.yaml"))
    parser.add_argument("--teacher", type=Path, help="folder of a teacher that was fine-tuned with this recipe")
    parser.add_argument("--rungs", nargs="+", default=RUNGS)
    parser.add_argument("--floor", type=float, default=0.97)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("outputs/ladder"), help="folder of the runs")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    options, options.changes = parser.parse_known_args()
    record: dict = {"floor": options.floor, "seeds": {}}
    teacher = options.teacher
    for seed in options.seeds:
        report = run_recipe(recipe_of(options, seed, teacher))
        teacher = teacher or options.runs / f"seed-{seed}" / "teacher"
        record["seeds"][seed] = told_of(report.ladder if report else {})
        print(seed, json.dumps(record["seeds"][seed]), flush=True)
    chosen = Counter(each["chosen"] for each in record["seeds"].values())
    record["chosen"] = dict(chosen)
    record["fewest_rungs_on_a_front"] = min(len(each["front"]) for each in record["seeds"].values())
    print(json.dumps({name: value for name, value in record.items() if name != "seeds"}, indent=2))
    if options.output:
        options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
