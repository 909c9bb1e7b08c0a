"""Whole runs whose student has a cascade: the threshold is fitted after the training, reported, and read by all."""

import json

import pytest
import yaml

from hf_distill import Cascade, Recipe
from hf_distill.cli import main
from hf_distill.recipes.run import plan_recipe
from hf_distill.runtime import Student
from tests.recipes import test_run as reviews

QUICK = {
    "student": {"kind": "static", "vocab_size": 120, "config": {"embedding_size": 8, "hidden_size": 8}},
    "distill": {"num_train_epochs": 4, "learning_rate": 1.0e-2, "disable_tqdm": True},
    "compare": {"resamples": 100, "controls": False, "detailed_costs": False},
    "data__fidelity": 60,
    "teacher__fine_tune": {"num_train_epochs": 8, "learning_rate": 2e-3, "disable_tqdm": True},
}


PROMPTED = {
    "teacher": {"model": "some", "prompt": {"classes": ["bad", "good"]}},
    "data__labels": None,
    "data__fidelity": 0,
    "distill": {},
}


@pytest.mark.cheapest
def test_a_run_with_a_cascade(tmp_path, capsys):
    reviews.write_reviews(tmp_path / "reviews.csv", 500)
    reviews.write_teacher(tmp_path / "teacher")
    out = tmp_path / "out"
    assert main(["run", str(reviews.recipe(tmp_path, **QUICK, cascade={"agreement": 0.9}))]) == 0
    config = json.loads((out / "student" / "config.json").read_text())
    report = json.loads((out / "report.json").read_text())
    deferral = report["deferral"]
    assert deferral["fit"]["threshold"] == pytest.approx(config["cascade_threshold"], rel=1e-5)
    assert deferral["fit"]["rows"] == "data.fidelity" and deferral["fit"]["agreement"] == 0.9
    assert deferral["fit"]["tested_texts"] + deferral["fit"]["calibration_texts"] == 60
    assert deferral["texts"] == 100 and deferral["metric"] == "accuracy"
    first, last = deferral["curve"][0], deferral["curve"][-1]
    models = {name: report["models"][name]["quality"]["accuracy"] for name in ("student", "teacher")}
    assert first["quality"] == models["student"] and last["quality"] == models["teacher"]
    assert last["agreement"]["value"] == 1.0 and last["cost"] > 1 > first["cost"]
    card = (out / "student" / "README.md").read_text()
    assert "### Cascade: student and teacher together" in card and "](deferral.png)" in card
    assert "at most 0.1, with confidence 0.95 over the choice of the 40 held-out texts (data.fidelity)" in card
    assert (out / "student" / "deferral.png").is_file()
    # The runtime and the library hand over the share that the report tells.
    texts = [f"{one} {two} place" for one in (*reviews.GOOD, "food") for two in (*reviews.BAD, "the")]
    deferred = [each["deferred"] for each in Student(out / "student")(texts)]
    assert [each["deferred"] for each in Cascade(out / "student", out / "teacher")(texts)] == deferred

    weights = {path: path.stat().st_mtime_ns for path in out.glob("[tb]*/model.safetensors")}
    trained = (out / "student" / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert main(["run", str(reviews.recipe(tmp_path, **QUICK, cascade={"defer": 0.5}))]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "distill: runs again, cascade.agreement 0.9 → null; cascade.defer null → 0.5" in told
    assert "controls: done before" in told and "cascade threshold:" in told
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert (out / "student" / "model.safetensors").read_bytes() == trained
    assert (out / "student" / "onnx" / "model.onnx").is_file()
    again = json.loads((out / "report.json").read_text())
    assert again["deferral"]["fit"]["defer"] == 0.5 and "agreement" not in again["deferral"]["fit"]
    assert again["models"]["student"]["quality"] == report["models"]["student"]["quality"]
    assert "This promises no agreement" in (out / "student" / "README.md").read_text()


def test_what_has_no_cascade_is_refused_before_anything_runs(tmp_path):
    reviews.write_reviews(tmp_path / "reviews.csv", 400)
    reviews.write_teacher(tmp_path / "teacher")

    def refusals(**changes):
        return "\n".join(plan_recipe(reviews.recipe(tmp_path, **{**QUICK, **changes})).refusals)

    assert not refusals(cascade={"agreement": 0.9})
    assert "cascade: Expected at least 374 held-out texts for agreement=0.99 with confidence 0.95, got 60" in refusals(
        cascade={"agreement": 0.99}
    )
    assert "They are the rows of validation. Set data.fidelity to 374 or more" in refusals(
        cascade={"agreement": 0.99}, data__fidelity=0
    )
    changes = {name: value for name, value in QUICK.items() if not name.startswith("teacher")}
    given = {"model": str(tmp_path / "teacher")}
    other = reviews.recipe(
        tmp_path,
        **{**changes, "data__fidelity": 0},
        cascade={"agreement": 0.9},
        teacher=given,
        data__labels=["bad", "good", "unknown"],
    )
    assert "cascade: the teacher's classes are" in "\n".join(plan_recipe(other).refusals)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cascade": {}}, "cascade: expected agreement"),
        ({"cascade": {"agreement": 0.9, "defer": 0.1}}, "Set one of them"),
        ({"cascade": {"agreement": 1.0}}, r"cascade\.agreement: expected .*got 1\.0"),
        ({"cascade": {"agrement": 0.9}}, "unknown key 'cascade.agrement'.*agreement"),
        ({"cascade": {"defer": 0.1}, **PROMPTED}, r"cascade: cannot go with teacher\.prompt"),
        ({"student": {"ladder": ["static", "lstm-8"]}, **PROMPTED}, r"student\.ladder: .* is behind a prompt"),
        ({"cascade": {"defer": 0.1}, "task": "token-classification"}, "cascade: is for classes of texts, and this is"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, changes, message):
    content = yaml.safe_load(reviews.recipe(tmp_path, **changes).read_text())
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(content)
