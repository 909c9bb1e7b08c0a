"""What a run would do is known before it does anything."""

import pytest

from hf_distill.cli import main
from hf_distill.recipes.run import plan_recipe, run_recipe
from tests.recipes.test_run import recipe, write_reviews, write_teacher


@pytest.fixture
def folder(tmp_path):
    write_reviews(tmp_path / "reviews.csv", 300)
    write_teacher(tmp_path / "teacher")
    return tmp_path


def test_a_plan_of_a_new_run(folder):
    planned = plan_recipe(recipe(folder))
    assert planned.task == "text-classification" and planned.classes == ["bad", "good"]
    assert planned.rows["test"] == 100 and planned.rows["validation"] == 60 and planned.rows["fidelity"] == 40
    assert [step.name for step in planned.steps if step.runs] == [step.name for step in planned.steps]
    assert planned.needed_bytes > 0 and planned.free_bytes > 0 and not planned.refusals
    assert not (folder / "out").exists(), "a plan writes nothing"


def test_every_refusal_is_told_at_once(folder):
    path = recipe(folder, compare={"metrics": ["calibration_error"], "controls": ["crf_tagger"]})
    planned = plan_recipe(path)
    assert [refusal.split(":")[0] for refusal in planned.refusals] == ["compare.metrics", "compare.controls"]
    with pytest.raises(ValueError, match=r"(?s)calibration_error.*\n.*crf_tagger"):
        run_recipe(path)
    assert not (folder / "out").exists()


def test_a_dry_run_prints_the_plan(folder, capsys):
    words = ["run", str(recipe(folder)), "--dry-run"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "classes: bad, good" in told and "MB needed" in told
    assert main([*words, "--compare.controls", "[crf_tagger]"]) == 1
    assert "refused: compare.controls: no crf_tagger here" in " ".join(capsys.readouterr().out.split())
    assert not (folder / "out").exists()


def test_ctrl_c_in_a_step_is_one_line(folder, monkeypatch, capsys):
    def interrupted(run):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_distill.recipes.steps.Run._step_teacher", interrupted)
    assert main(["run", str(recipe(folder))]) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "hf-distill: Interrupted in teacher. Kept: nothing yet. The same command goes on from there."


def test_a_model_that_cannot_be_loaded_is_named_with_its_key(folder, capsys):
    words = ["run", str(recipe(folder)), "--dry-run"]
    assert main([*words, "--teacher.model", "nobody/nothing"]) == 1
    assert capsys.readouterr().err.startswith("hf-distill: teacher.model: nobody/nothing cannot be loaded. ")
    assert main([*words, "--data.path", "nobody/rows"]) == 1
    assert capsys.readouterr().err.startswith("hf-distill: data.path: nobody/rows cannot be loaded. ")


def test_what_runs_again_and_why(folder):
    quick = {"teacher": {"model": str(folder / "teacher"), "fine_tune": {"max_steps": 2}}}
    run_recipe(recipe(folder, **quick), only="teacher")
    steps = {step.name: step for step in plan_recipe(recipe(folder, **quick)).steps}
    assert not steps["teacher"].runs and steps["teacher"].seconds is not None and steps["cache"].runs
    changed = {"teacher": {"model": str(folder / "teacher"), "fine_tune": {"max_steps": 3}}}
    steps = {step.name: step for step in plan_recipe(recipe(folder, **changed)).steps}
    assert steps["teacher"].reasons == ["teacher.fine_tune.max_steps 2 → 3"]
    model = folder / "out" / "teacher" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:100])
    steps = {step.name: step for step in plan_recipe(recipe(folder, **quick)).steps}
    assert steps["teacher"].reasons == ["teacher/model.safetensors is missing or is not what it left"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"distill": {"report_to": "wandb"}}, "distill.report_to: wandb is not installed here"),
        (
            {"distill": {"matching": [{"kind": "hidden_state", "layers": {-1: 7}, "granularity": "sequence"}]}},
            "distill.matching, hidden_state: the teacher has 2 layers, numbered 0 (the embeddings) to 2",
        ),
        (
            {"student": {"kind": "transformer", "vocab_size": None, "config": {"num_hidden_layers": 5}}},
            "5",
        ),
    ],
)
def test_what_configs_tell_is_told_before_the_teacher_is_trained(folder, changes, told):
    (refusal,) = plan_recipe(recipe(folder, **changes)).refusals
    assert told in refusal


def test_a_vocabulary_below_the_alphabet_is_told(folder):
    (refusal,) = plan_recipe(recipe(folder, student={"vocab_size": 12, "config": {"embedding_size": 8}})).refusals
    assert "Expected vocab_size above" in refusal and "got 12" in refusal


def test_a_slow_tokenizer_is_told(folder):
    for file in folder.glob("teacher/tokenizer*"):
        file.unlink()
    (folder / "teacher" / "tokenizer_config.json").write_text('{"tokenizer_class": "CanineTokenizer"}')
    (refusal,) = plan_recipe(recipe(folder)).refusals
    assert "Expected a fast tokenizer" in refusal and "CanineTokenizer" in refusal


@pytest.mark.parametrize("vocab_size", [120, None])
def test_a_teacher_without_positions_for_the_longest_text_is_told(folder, vocab_size):
    write_teacher(folder / "short", max_position_embeddings=8)
    student = {"vocab_size": vocab_size, "config": {"embedding_size": 8}}
    changes = {"teacher": {"model": str(folder / "short"), "max_length": 60}, "student": student}
    (refusal,) = plan_recipe(recipe(folder, **changes)).refusals
    assert refusal.startswith("teacher.max_length: 60, a text of train has ")
    assert "positions for 8. Set teacher.max_length: 8" in refusal
    changes["teacher"]["max_length"] = 8
    refusals = plan_recipe(recipe(folder, **changes)).refusals
    assert [refusal.split(",")[0] for refusal in refusals] == ([] if vocab_size else ["student.max_length: 128"])


def test_short_texts_and_splits_without_rows_need_no_positions(folder):
    """The limit is above the positions, so that each split is looked through, the empty ones too."""
    path = folder / "teacher" / "tokenizer_config.json"
    path.write_text(path.read_text().replace('"model_max_length": 64', '"model_max_length": 512'))
    made = plan_recipe(recipe(folder, teacher__max_length=500, data__fidelity=0))
    assert made.refusals == [] and made.rows["fidelity"] == 0


@pytest.mark.parametrize(
    ("problem", "told"), [("multi_label_classification", True), ("single_label_classification", False)]
)
def test_a_teacher_of_another_problem_is_told(folder, problem, told):
    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    write_teacher(folder / "ready", problem_type=problem, **names)
    refusals = plan_recipe(recipe(folder, teacher={"model": str(folder / "ready"), "fine_tune": None})).refusals
    message = f"its config's problem_type is {problem}, and the labels of the data are single_label_classification"
    assert [message in refusal for refusal in refusals] == [True] * told


@pytest.mark.parametrize("metric", ["pearson", "spearman", "seqeval", "sacrebleu", "chrf"])
def test_metrics_of_something_else_are_told(folder, metric):
    (refusal,) = plan_recipe(recipe(folder, compare={"metrics": [metric]})).refusals
    assert refusal.startswith(f"compare.metrics: {metric} is about ")


def test_token_ids_of_a_static_student_are_checked_against_its_vocabulary(folder):
    def refusals(**config):
        student = {"kind": "static", "vocab_size": 120, "config": {"embedding_size": 8, **config}}
        return plan_recipe(recipe(folder, student=student)).refusals

    assert refusals(unpooled_token_ids=[10]) == []
    assert "110 is not a row of an embedding table of vocab_size" in str(refusals(unpooled_token_ids=[110]))
    (refusal,) = refusals(teacher_embeddings="layer")
    assert "teacher_embeddings must be one of table, layers, got 'layer'" in refusal


def test_a_family_that_cannot_be_cut_is_told(folder):
    config = folder / "teacher" / "config.json"
    config.write_text(config.read_text().replace('"model_type": "bert"', '"model_type": "convbert"'))
    student = {"kind": "transformer", "vocab_size": None, "config": {"num_hidden_layers": 1}}
    assert "this one is convbert. Set student.kind: lstm" in str(plan_recipe(recipe(folder, student=student)).refusals)
