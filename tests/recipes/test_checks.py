"""What would fail after hours is refused before the first step."""

import pytest

from hf_distill import Recipe
from hf_distill.cli import main
from hf_distill.recipes.run import plan_recipe
from hf_distill.recipes.steps import Run
from tests.recipes.test_run import recipe, write_reviews, write_teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checks")
    write_reviews(folder / "reviews.csv", 300)
    write_teacher(folder / "teacher")
    return folder


def matched(kind, **settings):
    layers = {"layers": {1: 1}, "granularity": "word" if kind == "relation" else "sequence"}
    return {"distill": {"matching": [{"kind": kind, **layers, **settings}]}}


SHARED = {"student": {"vocab_size": None, "config": {"embedding_size": 8, "hidden_size": 8}}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (matched("hidden_state", layers={3: 1}), "distill.matching: hidden_state: the student has no layer 3"),
        (SHARED | matched("relation", granularity="token", heads=5), "heads=5 must divide the student's width 16"),
        (SHARED | matched("attention", granularity="token"), "attention: the student returned no attentions"),
        ({"distill": {"lr_scheduler_kwargs": {"foo": 1}, "lr_scheduler_type": "cosine"}}, "distill: .*foo"),
        ({"distill": {"optim": "adamx"}}, "distill: .*adamx"),
        ({"teacher__fine_tune": {"lr_scheduler_type": "nothing"}}, "teacher.fine_tune: .*nothing"),
        ({"teacher__max_length": 2}, "teacher.max_length: expected more than the 2 special tokens"),
        ({"student__vocab_size": 20}, "Expected vocab_size above"),
        (
            {"student": {"config": {"embedding_size": 33}}},
            "embedding_size of at most 32, the teacher's, got 33",
        ),
        (
            {"student": {"kind": "static", "config": {"embedding_size": 33, "teacher_embeddings": "layers"}}},
            "embedding_size of at most 32, the teacher's, got 33",
        ),
        ({"teacher__cross_fit": 90}, "teacher.cross_fit: fold-.* got none of"),
    ],
)
def test_what_does_not_fit(folder, changes, told):
    refusals = plan_recipe(recipe(folder, **changes)).refusals
    with pytest.raises(ValueError, match=told):
        raise ValueError(refusals[0])
    assert not (folder / "out").exists()


def test_a_run_does_not_read_what_it_replaces(folder):
    path = recipe(folder, output_dir=str(folder))
    with pytest.raises(ValueError, match=r"has teacher/.* already, not from a run of a recipe"):
        plan_recipe(path)
    inside = folder / "inside"
    (inside / ".work").mkdir(parents=True)
    (inside / ".work" / "record.json").write_text('{"format": 2, "steps": {}, "hashes": {}}')
    (folder / "teacher").rename(inside / "teacher")
    try:
        path = recipe(folder, output_dir=str(inside), teacher__model=str(inside / "teacher"))
        with pytest.raises(ValueError, match=r"teacher\.model: .* is in output_dir, where this run would replace it"):
            plan_recipe(path)
    finally:
        (inside / "teacher").rename(folder / "teacher")


@pytest.mark.parametrize("name", ["recipe.yaml", "report.json", "student/mine.txt", "cache/mine.arrow"])
def test_what_a_person_keeps_where_a_run_would_write(folder, tmp_path, name, capsys):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("years of work")
    assert main(["run", str(recipe(folder, output_dir=str(tmp_path)))]) == 1
    assert f"has {name} already, not from a run of a recipe" in capsys.readouterr().err
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [name]


def test_a_folder_that_is_a_link_inside(folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "out" / "cache").symlink_to(tmp_path / "other")
    assert main(["run", str(recipe(folder, output_dir=str(tmp_path / "out")))]) == 1
    assert "has symbolic links where a run writes: cache →" in capsys.readouterr().err


def test_a_teacher_with_code_of_its_own_is_told_plainly(folder, tmp_path):
    write_teacher(tmp_path / "teacher")
    config = tmp_path / "teacher" / "config.json"
    own = '"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}'
    config.write_text(config.read_text().replace('"model_type": "bert"', own))
    (tmp_path / "teacher" / "mine.py").write_text("raise SystemExit('this code ran')")
    told = r"teacher\.trust_remote_code"
    with pytest.raises(ValueError, match=told):
        planned = plan_recipe(recipe(folder, teacher__model=str(tmp_path / "teacher")))
        raise ValueError(*planned.refusals)


@pytest.mark.parametrize("kind", ["lstm", "static"])
def test_a_width_that_nobody_set_is_at_most_the_teachers(folder, kind):
    run = Run(Recipe.load(recipe(folder, student={"kind": kind, "vocab_size": 120})))
    tokenizer = run.models.tokenizer(run.models.source)
    assert run.task.student_config(tokenizer).embedding_size == 32
    assert not plan_recipe(recipe(folder, student={"kind": kind, "vocab_size": 120})).refusals
