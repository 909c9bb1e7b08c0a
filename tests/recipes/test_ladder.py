"""A ladder of students: one teacher and one cache, a choice that is told, and all rungs in the report."""

import json

import pytest
import yaml

from hf_distill import Recipe
from hf_distill.cli import main
from hf_distill.recipes.ladder import rows_needed
from hf_distill.recipes.run import plan_recipe
from hf_distill.reports.ladder import front, section
from hf_distill.tasks.rungs import rungs_of
from tests.recipes import test_run as reviews
from tests.recipes import test_run_tagging as tags

RUNGS = [
    {"kind": "static", "name": "bag of words", "config": {"embedding_size": 16, "hidden_size": 16}},
    {
        "kind": "lstm",
        "name": "two layers",
        "vocab_size": 90,
        "config": {"embedding_size": 8, "hidden_size": 8, "num_layers": 2},
    },
    "transformer-1",
]
QUICK = {
    "student": {"vocab_size": 120, "ladder": RUNGS, "floor": 0.1},
    "distill": {"num_train_epochs": 4, "learning_rate": 1.0e-2, "disable_tqdm": True},
    "compare": {"resamples": 100, "controls": ["tfidf_logistic_regression"], "detailed_costs": False},
    "data__fidelity": 0,
}


@pytest.mark.cheapest
def test_a_ladder_from_a_file_to_the_cheapest_student(tmp_path, capsys):
    reviews.write_reviews(tmp_path / "reviews.csv", 400)
    reviews.write_teacher(tmp_path / "teacher")
    out = tmp_path / "out"
    quick = {**QUICK, "teacher__fine_tune": {"num_train_epochs": 8, "learning_rate": 2e-3, "disable_tqdm": True}}
    unreachable = {**quick, "student": {**QUICK["student"], "floor": 2.0}}
    assert main(["run", str(reviews.recipe(tmp_path, **unreachable))]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "No rung of the ladder was shown to keep 2 of the teacher's quality" in told
    assert "does not hold" in told and "not tested" in told and "validation rows decide if its value stays" in told
    report = json.loads((out / "report.json").read_text())
    ladder = report["ladder"]
    assert [rung["name"] for rung in ladder["rungs"]] == ["bag of words", "two layers", "transformer-1"]
    costs = [rung["flops_per_text"] for rung in ladder["rungs"]]
    assert costs == sorted(costs)
    assert [rung["tested"] for rung in ladder["rungs"]] == [False, False, True]
    chosen = max(ladder["rungs"], key=lambda rung: rung["validation"]["value"])
    assert ladder["chosen"] == chosen["name"] and not ladder["held"]
    assert report["warnings"][0].startswith("No rung of the ladder was shown to keep 2")
    # The chosen rung is the student, with its own baseline.
    kinds = {json.loads((out / name / "config.json").read_text())["model_type"] for name in ("student", "baseline")}
    assert kinds == {{"static": "static_student", "lstm": "lstm_student", "transformer": "bert"}[chosen["kind"]]}
    assert chosen["quality"]["accuracy"] == report["models"]["student"]["quality"]["accuracy"]
    assert chosen["quality_kept"]["value"] == pytest.approx(report["ratios"]["quality_kept"], rel=1e-4)
    for rung in [*ladder["rungs"], ladder["teacher"], *(rung["onnx"]["int8"] for rung in ladder["rungs"])]:
        assert rung["end_to_end_ms"]["batch_1"]["p50"] > 0 and rung["end_to_end_throughput"]["batch_32"] > 0
    assert report["run"]["curves"]["student"] and (out / "student" / "ladder.png").is_file()
    card = (out / "student" / "README.md").read_text()
    assert "### The ladder" in card and "the bytes, " in card and "](ladder.png)" in card
    assert "No rung was shown to keep 2" in card
    assert "The cheapest rung shown to keep 0.5" in section({**ladder, "held": True, "floor": 0.5})
    assert yaml.safe_load((out / "recipe.yaml").read_text())["student"]["floor"] == 2.0

    # Another floor trains no rung again. Each keeps a tenth of the teacher's quality, so the cheapest is taken.
    weights = {path: path.stat().st_mtime_ns for path in out.glob(".work/rungs/*/model.safetensors")}
    assert len(weights) == 3
    assert main(["run", str(reviews.recipe(tmp_path, **quick)), "--only", "distill"]) == 0
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    record = json.loads((out / ".work" / "ladder.json").read_text())
    assert record["held"] and record["chosen"] == "bag of words" and all(rung["holds"] for rung in record["rungs"])
    assert json.loads((out / "student" / "config.json").read_text())["model_type"] == "static_student"


def test_short_names_stand_for_students(tmp_path):
    recipe = Recipe.load(reviews.recipe(tmp_path, **{**QUICK, "distill": {"temperature": 3.0}}))
    recipe.student.ladder = [RUNGS[0], "lstm-4", *RUNGS[1:]]
    found = rungs_of(recipe)
    assert [each["student"].kind for each in found.values()] == ["static", "lstm", "lstm", "transformer"]
    assert found["lstm-4"]["student"].config == {"embedding_size": 4, "hidden_size": 4}
    assert [each["student"].vocab_size for each in found.values()] == [120, 120, 90, None]
    assert found["transformer-1"]["student"].config == {"num_hidden_layers": 1}
    rates = [each["distill"].get("learning_rate") for each in found.values()]
    assert rates == [1e-2, None, None, 1e-4] and all(each["distill"]["temperature"] == 3.0 for each in found.values())
    own = {
        **QUICK,
        "student": {"ladder": ["static", {"kind": "static", "distill": {"learning_rate": 0.5}}]},
        "distill": {},
    }
    content = rungs_of(Recipe.load(reviews.recipe(tmp_path, **own)))
    assert [each["distill"]["learning_rate"] for each in content.values()] == [1e-2, 0.5]


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"ladder": ["static", "lstm_64"]}, r"student\.ladder\[1\]: unknown rung 'lstm_64'.*lstm-64"),
        ({"ladder": ["static", "gru-64"]}, "Expected static, lstm-<hidden size>, transformer-<layers>"),
        ({"ladder": ["static", "lstm-0"]}, "unknown rung 'lstm-0'"),
        ({"ladder": ["static", "static"]}, "a name of its own for each rung"),
        ({"ladder": ["static"]}, "two rungs or more"),
        (
            {"ladder": ["static", {"kind": "lstm", "hidden_size": 3}]},
            r"unknown key 'student\.ladder\[1\]\.hidden_size'",
        ),
        ({"ladder": ["static", {"ladder": ["static"]}]}, "expected the fields of a student"),
        ({"ladder": ["static", {"config": {"hidden_size": 0}}]}, "student.ladder, lstm 2: student.config.hidden_size"),
        ({"ladder": ["static", "lstm-4"], "config": {"hidden_size": 3}}, "kind and config belong to its rungs"),
        ({"ladder": ["static", "lstm-4"], "floor": 0}, r"student\.floor: expected"),
        ({"floor": 0.9}, "student.floor: is of a ladder"),
    ],
)
def test_ladders_that_make_no_sense(tmp_path, student, message):
    content = yaml.safe_load(reviews.recipe(tmp_path, student=student).read_text())
    content["distill"] = {}
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(content)


def test_models_that_write_have_no_ladder():
    content = {"data": {"path": "d"}, "teacher": {"model": "m"}, "output_dir": "o"}
    with pytest.raises(
        ValueError, match=r"student\.ladder: is for text and token classification, and the task is tran"
    ):
        Recipe.from_dict({**content, "task": "translation", "student": {"ladder": ["lstm-4", "lstm-8"]}})


def test_a_rung_that_cannot_be_cut_from_the_teacher_is_told_before_anything_runs(tmp_path):
    reviews.write_reviews(tmp_path / "reviews.csv", 300)
    reviews.write_teacher(tmp_path / "teacher")
    changes = {**QUICK, "student": {**QUICK["student"], "ladder": ["static", "transformer-9"]}}
    (refusal,) = plan_recipe(reviews.recipe(tmp_path, **changes)).refusals
    assert refusal.startswith("student.ladder, transformer-9: ")
    assert not plan_recipe(reviews.recipe(tmp_path, **QUICK)).refusals


def test_the_rows_that_would_decide():
    assert rows_needed({"value": 0.98, "low": 0.96, "high": 1.0}, 0.97, 1000) == 4000
    assert rows_needed({"value": 0.96, "low": 0.9, "high": 0.965}, 0.97, 1000) == 250
    assert rows_needed({"value": 0.97, "low": 0.9, "high": 1.0}, 0.97, 1000) is None
    assert rows_needed({}, 0.97, 1000) is None


def test_the_front_has_what_no_other_beats():
    assert front([(3.0, 0.9), (1.0, 0.8), (2.0, 0.7), (4.0, 0.9)]) == [1, 0]


@pytest.mark.cheapest
def test_a_ladder_of_taggers(tmp_path):
    tags.write_sentences(tmp_path / "names.conll")
    tags.write_teacher(tmp_path / "teacher")
    rungs = [{"kind": "static", "name": "window", "config": {"embedding_size": 16, "hidden_size": 16}}, "lstm-8"]
    student = {"vocab_size": 90, "max_length": 24, "ladder": rungs, "floor": 0.1}
    compare = {"resamples": 50, "metrics": ["accuracy"], "controls": False, "detailed_costs": False}
    quick = {"num_train_epochs": 3, "learning_rate": 2e-3, "disable_tqdm": True}
    changes = {"teacher__fine_tune": quick, "distill": {**quick, "learning_rate": 2e-2}}
    path = tags.recipe(tmp_path, student=student, compare=compare, export={"onnx": False}, **changes)
    assert main(["run", str(path)]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {rung["name"] for rung in report["ladder"]["rungs"]} == {"window", "lstm-8"}
    chosen = next(rung for rung in report["ladder"]["rungs"] if rung["name"] == report["ladder"]["chosen"])
    assert chosen["quality"]["accuracy"] == report["models"]["student"]["quality"]["accuracy"]
    assert chosen["quality_kept"]["value"] == pytest.approx(report["ratios"]["quality_kept"], rel=1e-4)
    assert "onnx" not in chosen and chosen["end_to_end_ms"]["batch_1"]["p50"] > 0
