"""Code that a model brings along runs only where it was asked for, and the error names a key that exists."""

import dataclasses
import json

import pytest

from hf_distill import Recipe
from hf_distill.data.word_replacement import MaskedLanguageModel
from hf_distill.problems import TASKS
from hf_distill.remote_code import how_to_allow, refused_with, suggest_revision
from hf_distill.tasks.models import Models
from hf_distill.tasks.settings import Compare, Teacher
from hf_distill.teachers.live import load_teacher

CODE = """
from pathlib import Path
from transformers import BertConfig

Path({ran!r}).touch()


class OwnConfig(BertConfig):
    model_type = "own-of-this-test"
"""


@pytest.fixture
def ran(tmp_path):
    return tmp_path / "ran"


@pytest.fixture
def folder(tmp_path, ran):
    """A model with code of its own, as far as its config."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "configuration_own.py").write_text(CODE.format(ran=str(ran)))
    auto = {name: "configuration_own.OwnConfig" for name in ("AutoConfig", *(f"AutoModelFor{end}" for end in ENDS))}
    (folder / "config.json").write_text(json.dumps({"model_type": "own-of-this-test", "auto_map": auto}))
    (folder / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": ["configuration_own.OwnConfig", null]}}'
    )
    return folder


ENDS = ("SequenceClassification", "MaskedLM")


def models(folder, tmp_path, **teacher):
    recipe = Recipe.from_dict(
        {
            "task": "text-classification",
            "data": {"path": "a.csv"},
            "teacher": {"model": str(folder), "fine_tune": {}, **teacher},
            "output_dir": str(tmp_path / "out"),
        }
    )
    return Models(recipe)


def test_a_recipe_names_its_own_key(folder, tmp_path, ran):
    made = models(folder, tmp_path)
    for load in (made.config, made.with_untrained_head, lambda: made.load(made.source), lambda: made.tokenizer(folder)):
        with pytest.raises(ValueError, match=r"own brings code of its own, .*set teacher\.trust_remote_code: true"):
            load()
    assert not ran.exists()


def test_where_it_was_asked_for_it_runs(folder, tmp_path, ran):
    made = models(folder, tmp_path, trust_remote_code=True)
    assert made.config().model_type == "own-of-this-test"
    assert ran.exists()
    assert made.loading(made.initial)[1] == {"trust_remote_code": False}  # students are of hf_distill
    assert made.loading(made.work / "folds" / "0")[1]["trust_remote_code"]


def test_in_python_the_model_is_loaded_by_hand(folder, ran):
    with pytest.raises(ValueError, match=r"load the model with trust_remote_code=True and a revision, and pass that"):
        load_teacher(folder, TASKS["text-classification"].auto_class)
    with pytest.raises(ValueError, match="Choose one of an architecture that transformers has"):
        MaskedLanguageModel.load(str(folder))
    assert not ran.exists()


def test_the_keys_exist():
    for key, section in (("teacher", Teacher), ("compare", Compare)):
        names = {field.name for field in dataclasses.fields(section)}
        assert {"trust_remote_code", "revision"} <= names, key
        assert how_to_allow(f"{key}.trust_remote_code", "user/name").endswith(
            f"set {key}.trust_remote_code: true and {key}.revision to the commit that you read."
        )
        assert "revision" not in how_to_allow(f"{key}.trust_remote_code", "./x")


def test_a_commit_is_suggested_for_the_hub_alone(caplog):
    suggest_revision("teacher.revision", "./folder", "abc")
    assert not caplog.records
    suggest_revision("teacher.revision", "user/name", "abc")
    assert "teacher.revision says which commit is run" in caplog.text and "the newest is abc" in caplog.text


def test_a_revision_goes_to_the_teacher_alone(tmp_path, folder):
    made = models("user/name", tmp_path, revision="abc")
    assert made.loading("user/name")[1] == {"trust_remote_code": False, "revision": "abc"}
    assert "revision" not in made.loading(made.teacher_path)[1]


def test_other_errors_stay():
    with pytest.raises(ValueError, match=r"^another$"), refused_with("", "a"):
        raise ValueError("another")
