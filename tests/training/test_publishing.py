"""The draft of a card that a trainer writes: who taught whom, on what; and what of its arguments is written."""

import copy
import json
from concurrent.futures import Future

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import Trainer, TrainingArguments
from transformers.utils.hub import PushInProgress

from hf_distill import DistillationArguments, DistillationTrainer, Seq2SeqDistillationArguments, TeacherEnsemble
from hf_distill.training.publishing import with_names, without_private
from tests.conftest import collate, tiny_bert
from tests.training.test_trainer_features import taught


def draft(tmp_path, student="", teachers=(), **told):
    """The card of a student with a name, of teachers with names."""
    members = [tiny_bert(seed=1, num_labels=3) for _ in teachers]
    for member, name in zip(members, teachers, strict=True):
        member.config._name_or_path = name
    learner = tiny_bert(num_labels=3)
    learner.config._name_or_path = student
    trainer = taught(tmp_path, learner, TeacherEnsemble(members) if len(members) > 1 else members[0])
    trainer.create_model_card(**told)
    return ModelCard.load(tmp_path / "README.md")


@pytest.mark.parametrize(
    ("student", "teachers", "told", "sentence", "base_model"),
    [
        ("", ["/home/me/teacher"], {}, "a student.", None),
        (
            "",
            ["org/teacher"],
            {},
            "a student, distilled from [org/teacher](https://huggingface.co/org/teacher).",
            ["org/teacher"],
        ),
        (
            "org/small",
            ["org/first", "org/second"],
            {"dataset": "reviews"},
            "a fine-tuned version of [org/small](https://huggingface.co/org/small), distilled from "
            "[org/first](https://huggingface.co/org/first) and [org/second](https://huggingface.co/org/second) on the "
            "reviews dataset.",
            ["org/small", "org/first", "org/second"],
        ),
    ],
)
def test_the_draft_names_the_teacher(tmp_path, student, teachers, told, sentence, base_model):
    card = draft(tmp_path, student, teachers, **told)
    assert f"\nThis model is {sentence}\n" in card.text
    assert card.data.base_model == base_model
    assert card.data.get("base_model_relation") == ("finetune" if base_model else None)
    assert "\n- temperature: " in card.text


def test_the_card_of_a_report_stays(tmp_path):
    written = "---\ntags:\n- hf_distill\n---\n# Measured\n"
    (tmp_path / "README.md").write_text(written)
    assert draft(tmp_path, teachers=["org/teacher"]).text.strip() == "# Measured"
    assert (tmp_path / "README.md").read_text() == written


def test_a_name_is_given_without_touching_the_module():
    """Only the copy of the method sees it; what does not look it up is refused."""

    class Uploading:
        def push(self, word, *, times=2):
            return hf_api() * times + word  # noqa: F821

        def quiet(self):
            return 1

    found = with_names(Uploading().push, hf_api=lambda: "client ")
    assert found("x") == "client client x" and found("x", times=1) == "client x"
    with pytest.raises(NameError, match="hf_api"):
        Uploading().push("x")
    with pytest.raises(RuntimeError, match="does not use hf_api"):
        with_names(Uploading().quiet, hf_api=None)


def test_what_trainer_calls_is_still_there():
    for method in (Trainer.push_to_hub, Trainer._push_from_checkpoint):
        assert "hf_api" in method.__code__.co_names
    for method in (Trainer._save, Trainer._push_from_checkpoint):
        assert "torch" in method.__code__.co_names


# Nothing private, and nothing but names


SECRET = "hf_PlantedPlantedPlanted"


def private(tmp_path, kind=DistillationArguments):
    return kind(
        str(tmp_path / "out"),
        hub_token=SECRET,
        hub_model_id="me/x",
        lr_scheduler_kwargs={"note": f"{tmp_path}/schedule"},
        report_to="none",
        use_cpu=True,
    )


@pytest.mark.parametrize("kind", [DistillationArguments, Seq2SeqDistillationArguments, TrainingArguments])
def test_what_is_saved_of_the_arguments_is_not_private(tmp_path, kind):
    arguments = private(tmp_path, kind)
    saved = without_private(arguments)
    assert saved.hub_token is None and saved.output_dir == "out" and saved.hub_model_id == "me/x"
    assert arguments.hub_token == SECRET and arguments.output_dir == str(tmp_path / "out")
    assert copy.deepcopy(arguments).hub_token == SECRET  # a copy in memory is a copy


def test_neither_a_checkpoint_nor_a_saved_model_has_the_token_or_a_folder(tmp_path):
    settings = {"hub_token": SECRET, "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    trainer = taught(tmp_path / "out", tiny_bert(num_labels=3), **settings)
    trainer.train()
    trainer.save_model()
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"training_args.bin", "optimizer.pt"} <= {path.name for path in written}
    for path in written:
        content = path.read_bytes()
        assert SECRET.encode() not in content, path
        state = path.name == "trainer_state.json"  # it has to find the best checkpoint, and is sent without its folder
        assert state or str(tmp_path).encode() not in content, path
    assert trainer.args.hub_token == SECRET and trainer.args.output_dir == str(tmp_path / "out")
    saved = torch.load(tmp_path / "out" / "training_args.bin", weights_only=False)
    assert saved.max_steps == 2 and saved.hub_token is None


def test_what_trackers_keep_is_not_private(tmp_path):
    text = private(tmp_path).to_json_string()
    assert SECRET not in text and str(tmp_path) not in text
    assert json.loads(text)["hub_model_id"] == "me/x"


def test_a_failed_push_shows_no_token(tmp_path, caplog):
    trainer = taught(tmp_path, tiny_bert(num_labels=3), tiny_bert(seed=1, num_labels=3), hub_token="planted-word")
    failed = Future()
    failed.set_exception(OSError(f"https://me:pw@hub/x?token={SECRET} with planted-word"))
    trainer.push_in_progress = PushInProgress([failed])
    trainer._finish_current_push()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "A push during training failed: https://hub/x?token=..." in line
    assert SECRET not in line and "pw@" not in line and "planted-word" not in line


@pytest.mark.parametrize("student", ["", "org/small", "/home/me/small", "<script>"])
def test_a_draft_has_no_markup_of_its_names(tmp_path, student):
    card = draft(tmp_path, student, ["org/teacher"], dataset="<script>alert(1)</script>", model_name="<b>*x*")
    assert "<script" not in card.text and "<b>" not in card.text and "/home/me" not in card.text
    assert "\n# &lt;b&gt;\\*x\\*\n" in card.text
    with pytest.raises(ValueError, match="create_model_card: expected names on one line, got 'mit"):
        draft(tmp_path, teachers=["org/teacher"], license="mit\n---\n# mine")


def test_a_draft_without_distillation_is_trainers_own(tmp_path):
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    trainer = DistillationTrainer(tiny_bert(num_labels=3), arguments, data_collator=collate)
    trainer.create_model_card(dataset="reviews")
    ours = (tmp_path / "README.md").read_text()
    Trainer.create_model_card(trainer, dataset="reviews")
    assert ours == (tmp_path / "README.md").read_text()
    trainer.create_model_card(dataset="<i>")
    assert "<i>" not in ModelCard.load(tmp_path / "README.md").text


def test_code_is_not_copied_through_a_link(tmp_path):
    """`Trainer` copies the code of a checkpoint beside its folder before it is uploaded."""
    trainer = taught(
        tmp_path / "out", tiny_bert(num_labels=3), tiny_bert(seed=1, num_labels=3), hub_strategy="every_save"
    )
    checkpoint, outside = tmp_path / "out" / "checkpoint-1", tmp_path / "outside.py"
    checkpoint.mkdir(parents=True)
    (checkpoint / "modeling.py").write_text("new")
    outside.write_text("kept")
    (tmp_path / "out" / "modeling.py").symlink_to(outside)
    trainer.push_in_progress = None
    trainer.hub_model_id = "me/x"
    trainer._uploads.upload_folder = lambda **_: Future()
    trainer._push_from_checkpoint(str(checkpoint))
    assert outside.read_text() == "kept"
    assert (tmp_path / "out" / "modeling.py").read_text() == "new"
    assert not (tmp_path / "out" / "modeling.py").is_symlink()
