"""A ladder of students: all are trained from one cache, and the cheapest that is good enough is the run's.

The rungs are tested on the validation rows, from the most costly down (operations a text, then bytes). A rung holds
where the lower end of the 95 % interval of `quality_kept` is at least the floor. The first that does not ends the test,
so that the number of rungs inflates no error. The order is fixed before any answer is seen.
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import datasets
import numpy as np

from hf_distill.columns import LOGITS
from hf_distill.evaluation.cost import count_parameters, weights_bytes
from hf_distill.evaluation.end_to_end import FromText, measure_end_to_end
from hf_distill.evaluation.predictions import WORD_LABELS, Predictors
from hf_distill.evaluation.predictor import Predictor
from hf_distill.evaluation.quality import ratio, score, summaries
from hf_distill.evaluation.speed import COUNTED, mean_flops, with_tokens
from hf_distill.export.onnx_model import onnx_models
from hf_distill.recipes.checks import Checks
from hf_distill.recipes.inputs import Inputs
from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.training import Training
from hf_distill.reports.comparison import SINGLE_LABEL
from hf_distill.reports.report import Report, plain
from hf_distill.tasks.base import Loaded
from hf_distill.tasks.labelling import LabellingTask
from hf_distill.tasks.models import Models
from hf_distill.tasks.rungs import rungs_of

FILE, FOLDER = "ladder.json", "rungs"  # in `.work`
FLOOR = 0.97


@dataclasses.dataclass(frozen=True)
class Rung:
    """One student of a ladder, with what a run works on.

    Attributes:
        name: as the recipe lists it.
        recipe: with this student.
        models: likewise.
        task: likewise.
        training: likewise.
    """

    name: str
    recipe: Recipe
    models: Models
    task: LabellingTask
    training: Training


class Ladder:
    """The rungs of a run. Of a recipe without a ladder, there are none.

    Args:
        run: a `steps.Run` that they are of, before it works on any of them.
    """

    def __init__(self, run: Any) -> None:
        self.run, self.recipe = run, run.recipe
        self.task: Any = run.task  # one with classes, see `rungs.check_ladder`
        self.rungs = {name: self._rung(name, changes) for name, changes in rungs_of(run.recipe).items()}

    def _rung(self, name: str, changes: Mapping[str, Any]) -> Rung:
        recipe = dataclasses.replace(self.recipe, **changes)
        models = Models(recipe)
        models.initial = models.work / "initial" / name
        task: Any = self.task.with_student(recipe, models)
        run = self.run
        training = Training(recipe, task, models, run.workspace, run.processes, run.console)
        return Rung(name, recipe, models, task, training)

    def __bool__(self) -> bool:
        return bool(self.rungs)

    @property
    def floor(self) -> float:
        """The share of the teacher's quality that the student has to keep."""
        return FLOOR if self.recipe.student.floor is None else self.recipe.student.floor

    @property
    def checks(self) -> list[Callable[[], None]]:
        """What raises a ValueError for a rung that cannot be trained."""
        return [functools.partial(self._check, rung) for rung in self.rungs.values()]

    def _check(self, rung: Rung) -> None:
        checks = Checks(rung.recipe, rung.task, rung.models, rung.training)
        for check in (checks.check_stages, rung.task.check_texts, checks.check_student, checks.check_matchings):
            try:
                check()
            except ValueError as error:
                raise ValueError(f"student.ladder, {rung.name}: {error}") from error

    @contextmanager
    def on(self, rung: Rung) -> Iterator[None]:
        """Have the run work on a rung for a while."""
        run = self.run
        before = run.recipe, run.models, run.task, run.training
        rows = run.distillation_rows_now
        try:
            self.take(rung)
            yield
        finally:
            rung.models.release()
            run.recipe, run.models, run.task, run.training = before
            run.distillation_rows_now = rows

    def take(self, rung: Rung) -> None:
        """Have the run work on a rung from now on."""
        run = self.run
        run.recipe, run.models, run.task, run.training = rung.recipe, rung.models, rung.task, rung.training
        run.distillation_rows_now = None

    def take_chosen(self) -> None:
        """Have the run work on the rung that was chosen before."""
        for rung in self.rungs.values():
            rung.models.initialized = True
        self.take(self.rungs[self.run.workspace.read_json(FILE)["chosen"]])

    def rows_of(self, rung: Rung, cached: datasets.Dataset) -> datasets.Dataset:
        """What a rung learns from: its own tokens, and the teacher's outputs of the run's one cache.

        Args:
            rung: with its own tokenizer, perhaps.
            cached: the rows of the run, with the outputs.
        """
        rows = rung.task.distillation_rows()
        return rows.add_column(LOGITS, cached[LOGITS]) if LOGITS in cached.column_names else rows

    # Steps

    def initialize(self, write: Callable[[Any], None], folder: Any) -> None:
        """Make the first weights of all rungs.

        Args:
            write: makes those that the run works on, into a folder.
            folder: that takes a folder of each.
        """
        for rung in self.rungs.values():
            rung.models.initialized = False
            with self.on(rung):
                self.run.console.print(f"  {rung.name}", style="bold", markup=False)
                write(folder / rung.name)

    def distill(self) -> Loaded:
        """Train all rungs and choose one, which the run then works on.

        Returns:
            The chosen student and its tokenizer.
        """
        run, cached = self.run, self.run.distillation_rows
        for rung in self.rungs.values():
            rung.models.initialized = True
            inputs = Inputs(rung.recipe, rung.task, rung.models, run.workspace.hash_of)["trained student"]
            with self.on(rung):
                run.distillation_rows_now = self.rows_of(rung, cached)
                make = functools.partial(run.trained, f"rung-{rung.name}")
                run.once(f".work/{FOLDER}/{rung.name}", inputs, make)
        chosen = self.rungs[run.processes.on_main(self._choose)]
        self.take(chosen)
        run.distillation_rows_now = self.rows_of(chosen, cached)
        return run.models.load(self._folder(chosen))

    def _folder(self, rung: Rung) -> Any:
        return self.run.work / FOLDER / rung.name

    def _choose(self) -> str:
        """The name of the student of the run, whose curves are kept as the student's."""
        teacher, compared = self.run.models.teacher()[0], self._compared(self.task.splits.validation)
        found = [self._on_validation(rung, teacher, compared) for rung in self.rungs.values()]
        found.sort(key=lambda each: (each["flops_per_text"], each["bytes"]))
        holding = None
        for each in reversed(found):
            each["tested"] = True
            each["holds"] = bool(each["validation"].get("low", -math.inf) >= self.floor)
            if not each["holds"]:
                break
            holding = each
        best = max(found, key=lambda each: each["validation"].get("value", -math.inf))
        chosen = best if holding is None else holding
        record = {"floor": self.floor, "held": holding is not None, "chosen": chosen["name"], "rungs": found}
        self.run.workspace.write_json(FILE, plain(record))
        self._tell(record)
        curves, own = self.run.workspace.read_json("curves.json", {}), f"rung-{chosen['name']}-"
        named = {name.replace(own, "student-", 1): curve for name, curve in curves.items() if name.startswith(own)}
        self.run.workspace.write_json("curves.json", curves | named)
        return chosen["name"]

    def _compared(self, split: datasets.Dataset) -> datasets.Dataset:
        """Rows of a split in the run's tokens, with the teacher's logits."""
        rows = self.task.for_comparison(split)
        if LOGITS not in rows.column_names:
            rows = self.task.teacher_logits.compared(rows)
        if self.task.models is not self.run.models:
            self.task.models.release()  # the run has its own copy of the teacher
        return rows

    def _predictors(self, rung: Rung, model: Any, teacher: Any, rows: datasets.Dataset) -> dict[str, Predictor]:
        tokenizer, word_level = rung.models.tokenizer(rung.models.initial), self.task.kind.word_level
        return {
            "student": Predictor(model, rows, tokenizer, word_level=word_level),
            "teacher": Predictor(teacher, rows, as_teacher=True, word_level=word_level),
        }

    def _rows(self, rung: Rung, split: datasets.Dataset, compared: datasets.Dataset) -> datasets.Dataset:
        rows = rung.task.read(split)
        for name in (LOGITS, WORD_LABELS):
            if name in compared.column_names:
                rows = rows.add_column(name, compared[name])
        return rows

    def _scores(self, rung: Rung, predictors: Mapping[str, Predictor], rows: datasets.Dataset) -> dict[str, Any]:
        """The student's quality, and the share of the teacher's that it keeps, on the first metric."""
        word_level, settings = self.task.kind.word_level, self.recipe
        problem = SINGLE_LABEL if word_level else self.task.splits.problem_type or SINGLE_LABEL
        asked = Predictors(predictors, problem, self.task.classes, word_level, 64)
        first = settings.metrics[0]
        with predictors["student"].ready():
            predictions = asked.predict(rows)
        scored = score([self.task.metric(first)], predictions, {}, settings.compare.resamples, settings.seed)
        kept = ratio("kept", scored["student"][first], scored["teacher"][first])
        return {"quality": summaries(scored["student"]), "kept": kept.get("kept", {})}

    def _on_validation(self, rung: Rung, teacher: Any, compared: datasets.Dataset) -> dict[str, Any]:
        split = self.task.splits.validation
        rows, (model, _) = self._rows(rung, split, compared), rung.models.load(self._folder(rung))
        predictors = self._predictors(rung, model, teacher, rows)
        own = {"student": predictors["student"]}
        with own["student"].ready():
            chosen = with_tokens(own, rows, self.recipe.seed)[:COUNTED]
            flops = mean_flops(own["student"], own["student"].batches(rows, chosen[:, None]))[0]
        found = self._scores(rung, predictors, rows)
        return {
            "name": rung.name,
            "kind": rung.recipe.student.kind,
            "parameters": count_parameters(model),
            "bytes": weights_bytes(model),
            "flops_per_text": flops,
            "validation": found["kept"],
            "rows_needed": rows_needed(found["kept"], self.floor, len(split)),
            "tested": False,
            "holds": False,
        }

    def _tell(self, record: Mapping[str, Any]) -> None:
        """Print what was found and chosen."""
        rows, run = len(self.task.splits.validation), self.run
        for each in record["rungs"]:
            kept, needed = each["validation"], each["rows_needed"]
            told = "holds" if each["holds"] else "does not hold" if each["tested"] else "not tested"
            value = f"{kept['value']:.4f} [{kept['low']:.4f}, {kept['high']:.4f}]" if "low" in kept else "unknown"
            more = (
                "" if needed is None else f"; {needed:,} validation rows decide if its value stays, {rows:,} were there"
            )
            run.console.print(f"  {each['name']}: quality kept {value}, {told}{more}", highlight=False, markup=False)
        if not record["held"]:
            run.console.print(f"  {no_rung_holds(record)}", style="yellow", highlight=False, markup=False)

    def export(self, export_onnx: Callable[..., Any]) -> None:
        """Write the ONNX files of all rungs, which the report measures."""
        for rung in self.rungs.values():
            export_onnx(rung.models.load(self._folder(rung))[0], self._folder(rung), int8=self.recipe.export.int8)

    # The report

    def with_ladder(self, report: Report) -> Report:
        """A report with `ladder`: all rungs on the test rows, timed from text to label beside the teacher.

        Args:
            report: of the run.
        """
        record = copy.deepcopy(self.run.workspace.read_json(FILE))
        split, first = self.task.splits.test, self.recipe.metrics[0]
        (teacher, teacher_tokenizer), compared = self.run.models.teacher(), self._compared(split)
        readers: dict[str, FromText] = {}
        problem = SINGLE_LABEL if self.task.kind.word_level else self.task.splits.problem_type or SINGLE_LABEL
        for each in record["rungs"]:
            rung = self.rungs[each["name"]]
            rows, (model, tokenizer) = self._rows(rung, split, compared), rung.models.load(self._folder(rung))
            models: dict[str, Any] = {rung.name: model}
            if self.recipe.export.onnx:
                models |= {
                    f"{rung.name} {kind}": file for kind, file in onnx_models(self._folder(rung), model.config).items()
                }
            for name, each_model in models.items():
                predictors = self._predictors(rung, each_model, teacher, rows)
                found = self._scores(rung, predictors, rows)
                limit = int(predictors["student"].lengths(rows).max())
                readers[name] = FromText(predictors["student"], tokenizer, limit, problem)
                part = (
                    each if name == rung.name else each.setdefault("onnx", {}).setdefault(name.rpartition(" ")[2], {})
                )
                part |= {"quality": found["quality"], "quality_kept": found["kept"]}
                if name != rung.name:
                    part["bytes"] = each_model.file.stat().st_size
        predictor = self._predictors(next(iter(self.rungs.values())), teacher, teacher, compared)["teacher"]
        readers["teacher"] = FromText(predictor, teacher_tokenizer, int(predictor.lengths(compared).max()), problem)
        times = self._times(readers, compared)
        for each in record["rungs"]:
            each |= times[each["name"]]
            for kind, part in each.get("onnx", {}).items():
                part |= times[f"{each['name']} {kind}"]
        quality = report.models["teacher"]["quality"].get(first)
        record |= {"metric": first, "teacher": {**times["teacher"], "quality": quality}}
        warnings = report.warnings if record["held"] else [no_rung_holds(record), *report.warnings]
        return dataclasses.replace(report, ladder=plain(record), warnings=warnings)

    def _times(self, readers: Mapping[str, FromText], compared: datasets.Dataset) -> dict[str, Any]:
        with ExitStack() as stack:
            for reader in readers.values():
                stack.enter_context(reader.predictor.ready())
            found = measure_end_to_end(readers, self.task.raw_texts, compared, seed=self.recipe.seed)
        return {name: each.summary() for name, each in found.items()}


def rows_needed(kept: Mapping[str, float], floor: float, rows: int) -> int | None:
    """How many validation rows would decide whether a rung holds, if the value that was found stays.

    An interval shrinks with the square root of the rows.

    Args:
        kept: `value`, `low` and `high`, on `rows` rows.
        floor: that the lower end must reach or, for a value below it, that the upper end must not.
        rows: how many there were.
    Returns:
        None where no number of rows decides: the value is the floor itself, or there is no interval.

    >>> rows_needed({"value": 0.98, "low": 0.96, "high": 1.0}, 0.97, 1000)
    4000
    """
    if "low" not in kept or kept["value"] == floor:
        return None
    reach = kept["value"] - kept["low"] if kept["value"] > floor else kept["high"] - kept["value"]
    needed = math.ceil(round(rows * (reach / (kept["value"] - floor)) ** 2, 6))
    return needed if np.isfinite(needed) else None


def no_rung_holds(record: Mapping[str, Any]) -> str:
    """The warning that no rung reaches the floor."""
    return (
        f"No rung of the ladder was shown to keep {record['floor']:g} of the teacher's quality on the validation rows: "
        f"the student is the best of them, {record['chosen']}."
    )
