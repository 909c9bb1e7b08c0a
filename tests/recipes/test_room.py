"""The room that a run takes is estimated from its models, its rows and what is there."""

import shutil

import pytest

from hf_distill.cli import main
from hf_distill.recipes.run import plan_recipe
from tests.recipes.test_run import recipe, write_reviews, write_teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("room")
    write_reviews(folder / "reviews.csv", 300)
    write_teacher(folder / "teacher")
    return folder


def test_each_part_has_its_estimate(folder):
    teacher = (folder / "teacher" / "model.safetensors").stat().st_size
    room = plan_recipe(recipe(folder)).room
    assert room["teacher"] == pytest.approx(teacher, rel=0.15) and room["checkpoints"] == 9 * room["teacher"]
    assert room["cache"] > 0 and room["onnx"] == int(2 * 1.25 * room["students"] / 3)
    more = plan_recipe(recipe(folder, compare__more_seeds=[1, 2], teacher__cross_fit=3)).room
    assert more["students"] == pytest.approx(room["students"] * 7 / 3) and more["teacher"] == 4 * room["teacher"]
    assert plan_recipe(recipe(folder, export={"onnx": False})).room["onnx"] == 0


def test_what_is_there_is_not_needed_again(folder, tmp_path):
    path = recipe(folder)
    before = plan_recipe(path).room
    there = folder / "out" / ".work" / "teacher" / "checkpoint-3"
    there.mkdir(parents=True)
    (folder / "out" / ".work" / "record.json").write_text('{"format": 2, "steps": {}, "hashes": {}}')
    (there / "model.safetensors").write_bytes(bytes(1000))
    try:
        assert plan_recipe(path).room["checkpoints"] == before["checkpoints"] - 1000
    finally:
        shutil.rmtree(folder / "out")


def test_too_little_room_is_refused_before_the_start(folder, monkeypatch, capsys):
    usage = shutil.disk_usage("/")
    needed = plan_recipe(recipe(folder)).needed_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type(usage)(usage.total, usage.used, needed - 1))
    assert main(["run", str(recipe(folder))]) == 1
    assert "output_dir: about" in capsys.readouterr().err and not (folder / "out").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type(usage)(usage.total, usage.used, needed + 1))
    planned = plan_recipe(recipe(folder))
    assert planned.is_tight and not planned.refusals
    assert main(["run", str(recipe(folder)), "--dry-run"]) == 0
    assert "The disk may become full" in capsys.readouterr().out


def test_a_student_that_no_memory_holds_is_refused(folder):
    huge = {"vocab_size": 120, "config": {"hidden_size": 10**6, "embedding_size": 8, "num_layers": 3}}
    with pytest.raises(ValueError, match=r"output_dir: about|of this size cannot be"):
        planned = plan_recipe(recipe(folder, student=huge))
        raise ValueError(*planned.refusals)
