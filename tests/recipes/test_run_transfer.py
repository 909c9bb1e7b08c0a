"""Recipes whose teacher knows something else, labels what it did not learn from, or reads texts that were made up."""

import csv
import json
import os

import datasets
import numpy as np
import pytest

from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.run import plan_recipe, run_recipe
from hf_distill.recipes.steps import Run
from hf_distill.soft_targets.provenance import row_hashes
from tests.recipes.test_run import BAD, FILLER, GOOD, write_teacher

TEACHER = {"num_train_epochs": 10, "learning_rate": 2.0e-3, "per_device_train_batch_size": 16, "disable_tqdm": True}

READ = ["teacher_attention_mask", "teacher_input_ids", "teacher_token_type_ids"]


def write_reviews(path, names, number=300, seed=0):
    """Reviews of three words of judgement, labelled by how many are good, 0 to 3, under these names."""
    generator = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for _ in range(number):
            good = int(generator.integers(0, 4))
            words = [*generator.choice(GOOD, good), *generator.choice(BAD, 3 - good), *generator.choice(FILLER, 6)]
            writer.writerow([" ".join(generator.permutation(words)), names[good]])


def recipe(folder, **changes):
    content = {
        "task": "text-classification",
        "output_dir": str(folder / "out"),
        "data": {"path": str(folder / "reviews.csv"), "labels": ["bad", "good"], "test": 60, "validation": 40},
        "teacher": {"model": str(folder / "teacher"), "fine_tune": TEACHER},
        "student": {"vocab_size": 110, "config": {"embedding_size": 8, "hidden_size": 8}},
        "distill": {"num_train_epochs": 6, "learning_rate": 1.0e-2, "disable_tqdm": True},
        "compare": {"resamples": 50, "controls": False, "detailed_costs": False},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        content[section] = {**content[section], key: value} if key else value
    return Recipe.from_dict(content)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A folder whose `polarity` is a teacher that tells bad from good, and whose reviews have three classes."""
    folder = tmp_path_factory.mktemp("transfer")
    write_teacher(folder / "teacher")
    write_reviews(folder / "reviews.csv", ["bad", "bad", "good", "good"])
    run_recipe(recipe(folder), only="teacher")
    (folder / "out" / "teacher").rename(folder / "polarity")
    write_reviews(folder / "reviews.csv", ["poor", "mixed", "mixed", "fine"])
    return folder


@pytest.mark.long
def test_a_teacher_of_another_task_through_its_inner_states(known):
    settings = {
        "output_dir": str(known / "states"),
        "data__labels": ["poor", "mixed", "fine"],
        "data__labelled": 60,
        "teacher": {"model": str(known / "polarity")},
    }
    with pytest.raises(ValueError, match=r"the classes of the teacher are \['bad', 'good'\].*teacher\.label_map"):
        run_recipe(recipe(known, **settings))
    report = run_recipe(
        recipe(
            known,
            **settings,
            distill={
                "num_train_epochs": 3,
                "learning_rate": 1.0e-2,
                "hard_label_weight": 1.0,
                "soft_target_weight": 0.0,
                "labelled_fraction": 0.5,
                "matching": [{"kind": "hidden_state", "layers": {-1: -1}, "granularity": "sequence"}],
                "disable_tqdm": True,
            },
        )
    )
    assert report is not None
    assert report.models["teacher"]["quality"] == {}
    assert report.warnings[0].startswith("The teacher's quality and the student's fidelity to it were not measured.")
    assert "gain_over_best_control" in report.differences
    assert not (known / "states" / "cache").exists()
    assert (known / "states" / "student" / "README.md").is_file()


@pytest.mark.long
def test_a_label_map_and_a_further_test_set(known):
    answers, further = known / "answers.csv", known / "further.csv"
    write_reviews(answers, ["no", "no", "yes", "yes"], seed=5)
    write_reviews(further, ["no", "no", "yes", "yes"], seed=6)
    report = run_recipe(
        recipe(
            known,
            output_dir=str(known / "mapped"),
            data={"path": str(answers), "labels": ["yes", "no"], "test": 60, "validation": 40},
            distill={"num_train_epochs": 6, "learning_rate": 1.0e-2, "disable_tqdm": True},
            teacher={"model": str(known / "polarity"), "label_map": {"bad": "no", "good": "yes"}, "calibrate": True},
            compare={
                "resamples": 50,
                "controls": ["teacher_hard_labels"],
                "test_sets": {"more": {"path": str(further)}},
            },
        )
    )
    assert report is not None
    assert report.models["teacher"]["quality"]["accuracy"]["value"] > 0.8
    assert report.fidelity["agreement"] > 0.5
    carried = json.loads((known / "mapped" / ".work" / "initial" / "carried.json").read_text())
    assert not any("classifier" in name or "head" in name for name in carried)  # the teacher's classes stand otherwise
    assert set(report.test_sets) == {"more"}
    assert set(report.test_sets["more"]) >= {"teacher", "student", "baseline", "examples"}


@pytest.mark.long
def test_cross_fitted_teachers_and_texts_that_were_made_up(tmp_path):
    write_teacher(tmp_path / "teacher")
    write_reviews(tmp_path / "reviews.csv", ["bad", "bad", "good", "good"])
    settings = {
        "teacher__cross_fit": 2,
        "teacher__calibrate": True,
        "data__labelled": 150,
        "data__augment": {"texts": 80, "mask": 0.1, "replace": 0.3},
    }
    run_recipe(recipe(tmp_path, **settings), only="distill")
    out = tmp_path / "out"
    for name in ("fold-0", "fold-1", "others"):
        assert (out / "cache" / name / "provenance.json").is_file()
    kept = json.loads((out / ".work" / "augmented.json").read_text())["value"]
    assert len(kept["texts"]) == len(set(kept["texts"])) == len(kept["sources"]) == 80
    of_labelled = sum(source < 150 for source in kept["sources"])  # these are in their old text's fold
    parts = [json.loads((out / "cache" / name / "provenance.json").read_text()) for name in ("fold-0", "fold-1")]
    assert sum(part["rows"]["number"] for part in parts) == 150 + of_labelled > 150
    # Each share's logits are divided by the temperature of its own teachers.
    run = Run(recipe(tmp_path, **settings))
    rows = run.distillation_rows
    temperatures = run.task.teacher_logits.temperatures
    assert set(temperatures) == {(0,), (1,), (0, 1)}
    assert len(set(temperatures.values())) == 3
    for numbers, name in {(0,): "fold-0", (1,): "fold-1", (0, 1): "others"}.items():
        shard = datasets.Dataset.from_file(str(out / "cache" / name / "shard-00000.arrow"))
        place = {hashed: number for number, hashed in enumerate(row_hashes(rows, READ))}
        heard = rows.select([place[hashed] for hashed in shard["row_hash"]])["teacher_logits"]
        assert np.allclose(np.array(heard) * temperatures[numbers], shard["teacher_logits"], atol=1e-5)
    steps = (out / ".work" / "record.json").read_text()
    run_recipe(recipe(tmp_path, **settings), only="distill")
    assert (out / ".work" / "record.json").read_text() == steps  # nothing is made twice
    report = run_recipe(recipe(tmp_path, **settings))
    assert report is not None
    assert report.run["rows"]["augmented texts"] == 80
    assert report.run["rows"]["words replaced"] > 80
    assert "; 80 augmented texts" in (out / "student" / "README.md").read_text(encoding="utf-8")
    assert (
        report.models["student"]["quality"]["accuracy"]["value"]
        > report.controls["majority_class"]["accuracy"]["value"]
    )


def test_texts_are_made_anew_for_another_teacher_or_another_model_that_fills_masks(tmp_path):
    for name, settings in (("teacher", {}), ("other", {"layer_norm_eps": 1e-6}), ("filler", {})):
        write_teacher(tmp_path / name, **settings)
    write_reviews(tmp_path / "reviews.csv", ["bad", "bad", "good", "good"])

    def inputs(teacher):
        filled = {"texts": 80, "masked_language_model": str(tmp_path / "filler")}
        settings = {"teacher__model": str(tmp_path / teacher), "data__augment": filled}
        return Run(recipe(tmp_path, **settings)).inputs["augmented"]

    first = inputs("teacher")
    assert inputs("teacher") == first
    assert inputs("other") != first
    (tmp_path / "filler" / "config.json").write_text("{}")
    assert inputs("teacher") != first


def test_a_cache_is_kept_and_what_changed_is_told(tmp_path, capsys):
    write_teacher(tmp_path / "teacher")
    write_reviews(tmp_path / "reviews.csv", ["bad", "bad", "good", "good"])
    settings = {"teacher__fine_tune": {"max_steps": 2, "per_device_train_batch_size": 4}}
    run_recipe(recipe(tmp_path, **settings), only="cache")
    shard = tmp_path / "out" / "cache" / "shard-00000.arrow"
    written = shard.stat().st_mtime_ns
    os.utime(tmp_path / "teacher" / "config.json")  # a touched file is the same file
    os.utime(tmp_path / "reviews.csv")
    capsys.readouterr()
    run_recipe(recipe(tmp_path, **settings), only="cache")
    assert capsys.readouterr().err.count("done before") == 2
    assert shard.stat().st_mtime_ns == written
    run_recipe(recipe(tmp_path, **settings, student__max_length=16), only="cache")
    told = " ".join(capsys.readouterr().err.split())
    assert "cache: runs again, student.max_length 128 → 16" in told
    assert "teacher: done before" in told
    assert shard.stat().st_mtime_ns > written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher__cross_fit": 1}, r"teacher\.cross_fit: expected two or more"),
        ({"teacher": {"model": "x", "cross_fit": 2}}, r"teacher\.cross_fit: expected two or more"),
        ({"teacher__label_map": {"a": "b"}}, "has its classes already"),
        ({"data__augment": {"texts": 5}, "data__text": ["a", "b"]}, "not of pairs or tagged sentences"),
        (
            {"compare__test_sets": {"a": {"pth": "b"}}},
            r"unknown key 'compare\.test_sets\.[a-z_ ]+\.pth'\. Did you mean path",
        ),
        ({"compare__more_seeds": [0, 1]}, r"compare\.more_seeds: expected seeds other than 0, each once"),
        ({"compare__by": ["label"]}, r"compare\.by: label is the text or its label"),
        ({"compare__metrics": ["calibration_error"]}, "calibration_error cannot stand first"),
        ({"compare__metrics": ["accuracy", "teacher_kl"]}, "teacher_kl cannot stand here"),
        ({"compare__controls": ["crf_tagger"]}, "no crf_tagger here; there are majority_class"),
    ],
)
def test_what_does_not_fit(tmp_path, changes, message):
    write_teacher(tmp_path / "teacher")
    write_reviews(tmp_path / "reviews.csv", ["bad", "bad", "good", "good"])
    with pytest.raises(ValueError, match=message):
        run_recipe(recipe(tmp_path, **changes))


def test_an_anonymous_teacher_needs_the_order_of_its_classes(tmp_path):
    write_teacher(tmp_path / "teacher")
    write_reviews(tmp_path / "reviews.csv", ["bad", "bad", "good", "good"])
    settings = {"teacher": {"model": str(tmp_path / "teacher")}}
    with pytest.raises(ValueError, match=r"have no names \(LABEL_0, LABEL_1, .* which is which is not known"):
        run_recipe(recipe(tmp_path, **settings, data__labels=None))
    write_reviews(tmp_path / "numbers.csv", ["0", "0", "1", "1"])
    data = {"path": str(tmp_path / "numbers.csv"), "test": 60, "validation": 40}
    plan = plan_recipe(recipe(tmp_path, **settings, data=data))
    assert not plan.refusals, "numbers are in the order of LABEL_0 and LABEL_1"


@pytest.mark.long
def test_a_teacher_whose_classes_are_in_another_order_is_refused(tmp_path):
    write_teacher(tmp_path / "teacher")
    write_reviews(tmp_path / "reviews.csv", ["bad", "bad", "good", "good"])
    run_recipe(recipe(tmp_path), only="teacher")
    folder = tmp_path / "anonymous"
    (tmp_path / "out" / "teacher").rename(folder)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"], config["label2id"] = {"0": "LABEL_0", "1": "LABEL_1"}, {"LABEL_0": 0, "LABEL_1": 1}
    (folder / "config.json").write_text(json.dumps(config))
    settings = {"teacher": {"model": str(folder)}, "output_dir": str(tmp_path / "new")}
    with pytest.raises(ValueError, match=r"right more often if its classes are \['bad', 'good'\]"):
        run_recipe(recipe(tmp_path, **settings, data__labels=["good", "bad"]), only="teacher")
    assert run_recipe(recipe(tmp_path, **settings), only="teacher") is None
