"""Recipes: unknown keys, types and overrides."""

import pytest
import yaml

from hf_distill import Recipe

MINIMAL = {"task": "text-classification", "data": {"path": "a.csv"}, "teacher": {"model": "b"}, "output_dir": "c"}


def written(tmp_path, **changes):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **changes}))
    return path


def test_defaults_and_round_trip(tmp_path):
    recipe = Recipe.load(written(tmp_path))
    assert recipe.student.vocab_size == 8000
    assert recipe.stages == [{}]
    recipe.save(tmp_path / "again.yaml")
    assert Recipe.load(tmp_path / "again.yaml") == recipe


def test_overrides(tmp_path):
    path = written(tmp_path, distill={"temperature": 2.0})
    words = ["--distill.temperature", "4", "--student.vocab_size=null", "--data.labels", "[x, y]", "--data.test=0.2"]
    recipe = Recipe.load(path, words)
    assert recipe.distill == {"temperature": 4}
    assert recipe.student.vocab_size is None
    assert recipe.data.labels == ["x", "y"]
    assert recipe.data.test == 0.2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--teacher.flor", "1"], r"unknown key 'teacher\.flor'\. Did you mean floor\?"),
        (["--distil.temperature", "1"], r"unknown key 'distil'\. Did you mean distill\?"),
        (["--distill.temprature", "1"], r"^distill: unknown key 'temprature'\. Did you mean temperature"),
        (["--distill.temperature", "hot"], r"distill\.temperature: expected a number, got the text 'hot'"),
        (["--teacher.fine_tune.lerning_rate", "1"], r"unknown key 'lerning_rate'\. Did you mean learning_rate\?"),
        (
            ["--student.config.hiden_size", "1"],
            r"student\.config: unknown key 'hiden_size'\. Did you mean hidden_size\?",
        ),
        (["--seed", "abc"], "Expected a <class 'int'>. Got value: abc"),
        (["--student.kind", "gru"], "gru"),
        (
            ["--student.kind", "static", "--student.config.num_layers", "1"],
            r"student\.config: unknown key 'num_layers'",
        ),
        (["--task", "translation", "--student.kind", "static"], "student.kind: static students classify texts or tag"),
        (["--task", "text-clasification"], r"Did you mean text-classification\?"),
        (["--task", "translation", "--distill.targets", "letter"], "expected one of word, sequence, both"),
        (["--task", "translation", "--data.text", "[a, b]"], "a translation has one text to read"),
        (["--task", "text-generation", "--compare.by", "[a]"], "leave it out of a text-generation recipe"),
        (["--teacher.lora.r", "4"], r"teacher\.lora: is for translation and text generation"),
        (["--teacher.generation.num_beams", "2"], r"teacher\.generation: is for translation"),
        (["--teacher.ledger", "told.jsonl"], "leave it out of a text-classification recipe"),
        (["--distill", "[]"], "got an empty list"),
        (
            ["--distill", "{matching: [{kind: hiden_state}]}"],
            r"unknown kind 'hiden_state'\. Did you mean hidden_state\?",
        ),
        (["--distill", "{matching: [{kind: relation, layer: 1}]}"], "distill.matching, relation: .*layer"),
        (["--distill", "{matching: [{kind: relation, layers: {1: 1}}]}"], 'granularity="token" needs one tokenizer'),
        (["--distill.output_dir", "x"], "output_dir belongs at the recipe's top level"),
        (["seed", "1"], "Expected --key.of.the.recipe VALUE, got 'seed'"),
        (["--seed"], "--seed needs a value"),
        (["--data", "x"], "data: expected keys and values, got 'x'"),
    ],
)
def test_what_does_not_fit(tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        Recipe.load(written(tmp_path), words)


def test_missing_keys_and_files(tmp_path):
    with pytest.raises(ValueError, match="There is no recipe"):
        Recipe.load(tmp_path / "nothing.yaml")
    (tmp_path / "broken.yaml").write_text("task: [a\nb: {")
    with pytest.raises(ValueError, match=r"broken\.yaml: expected YAML.* Mend it"):
        Recipe.load(tmp_path / "broken.yaml")
    with pytest.raises(ValueError, match=r"The recipe lacks the key 'data\.path'"):
        Recipe.from_dict({**MINIMAL, "data": {}})
    with pytest.raises(ValueError, match="The recipe lacks the key 'teacher'"):
        Recipe.from_dict({name: value for name, value in MINIMAL.items() if name != "teacher"})
