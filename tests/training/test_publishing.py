"""The draft of a card that a trainer writes: who taught whom, on what."""

import pytest
from huggingface_hub import ModelCard
from transformers import Trainer

from hf_distill import TeacherEnsemble
from hf_distill.training.publishing import with_client
from tests.conftest import tiny_bert
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


def test_a_client_is_given_without_touching_the_module():
    """Only the copy of the method sees the client; what does not ask for one is refused."""

    class Uploading:
        def push(self, word, *, times=2):
            return hf_api() * times + word  # noqa: F821

        def quiet(self):
            return 1

    found = with_client(Uploading().push, "client ")
    assert found("x") == "client client x" and found("x", times=1) == "client x"
    with pytest.raises(NameError, match="hf_api"):
        Uploading().push("x")
    with pytest.raises(RuntimeError, match="does not call hf_api"):
        with_client(Uploading().quiet, "client ")


def test_what_trainer_calls_is_still_there():
    for method in (Trainer.push_to_hub, Trainer._push_from_checkpoint):
        assert "hf_api" in method.__code__.co_names
