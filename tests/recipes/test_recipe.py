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
        (["--seed", "abc"], "seed: expected a whole number, got the text 'abc'"),
        (["--student.kind", "gru"], "gru"),
        (
            ["--student.kind", "static", "--student.config.num_layers", "1"],
            r"student\.config: unknown key 'num_layers'",
        ),
        (["--student.kind", "static", "--student.config.ngram_size", "1"], r"student\.config\.ngram_size: .*2"),
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
        (
            ["--distill", "{matching: [{kind: relation, layer: 1}]}"],
            "distill.matching, relation: unknown key 'layer'. Did you mean layers",
        ),
        (["--distill", "{matching: [{kind: relation, layers: {1: 1}}]}"], 'granularity="token" needs one tokenizer'),
        (["--distill.output_dir", "x"], "output_dir cannot be set here; it belongs at the recipe's top level"),
        (["seed", "1"], "Expected --key.of.the.recipe VALUE, got 'seed'"),
        (["--seed"], "--seed needs a value"),
        (["--data.text", "@x"], "--data.text: expected YAML. Line 1, column 1: .*Quote it"),
        (["--seed.x", "1"], "--seed.x: seed holds no keys, it is 5"),
        (
            ["--distill", "[{}]", "--distill.seed", "1"],
            r"--distill.seed: distill holds no keys, it is \[{}\]; change a stage in the file",
        ),
        (["--", "1"], "Expected --key.of.the.recipe VALUE, got '--'"),
        (["--distill.num_train_epochs", "null"], "distill.num_train_epochs: expected a number, got null"),
        (["--distill.num_train_epochs", "0"], "distill.num_train_epochs: expected above 0.0 and at most"),
        (["--distill.num_train_epochs", ".nan"], "distill.num_train_epochs: expected a finite number, got nan"),
        (["--distill.max_steps", "0"], "distill.max_steps: expected at least 1 .*, or -1, got 0"),
        (["--distill.per_device_train_batch_size", "-4"], "batch_size: expected at least 1"),
        (["--distill", "[{}, {seed: -1}]"], r"distill\[1\].seed: expected at least 0"),
        (["--distill.matching", "3"], "distill.matching: expected a list of keys and values, got 3"),
        (["--distill.matching", "[x]"], r"distill.matching\[0\]: expected keys and values, got the text 'x'"),
        (["--distill.matching", "[{kind: relation, layers: [1]}]"], "layers: expected keys and values"),
        (["--distill.matching", "[{kind: relation, layers: {1: 1}, weight: x}]"], "weight: expected a number"),
        (["--distill.hub_token", "secret"], "hub_token cannot be set here; a recipe is published with its student"),
        (["--distill.metric_for_best_model", "f1"], "the first of compare.metrics selects the models"),
        (["--teacher", "{model: b, fine_tune: {seed: 1.5}}"], "teacher.fine_tune.seed: expected a whole number"),
        (["--teacher.model", ""], "The recipe lacks the key .teacher.model."),
        (["--compare.resamples", "0"], "compare.resamples: expected at least 1"),
        (["--compare.more_seeds", "[-1]"], r"compare.more_seeds\[0\]: expected at least 0"),
        (["--compare.test_sets", "{a: {path: 3}}"], "compare.test_sets.a.path: expected a text, got 3"),
        (["--compare.test_sets", "{a: {together: x}}"], "compare.test_sets.a: together is about what is trained on"),
        (["--data.test", "0"], "data.test: expected at least 1, or a share"),
        (["--data.text", "[a, b, c]"], "data.text: expected one column or two different ones"),
        (["--student.config.dropout", "x"], "student.config.dropout: expected a number"),
        (["--student.config.pad_token_id", "0"], "pad_token_id follows from the data, the tokenizer"),
        (["--student.max_length", "0"], "student.max_length: expected at least 1"),
        (["--push.language", "no"], "push.language: expected a list of a text, got false"),
        (["--data", "x"], "data: expected keys and values, got the text 'x'"),
    ],
)
def test_what_does_not_fit(tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        Recipe.load(written(tmp_path, seed=5), words)


def test_keys_of_a_section_that_the_file_leaves_empty(tmp_path):
    path = written(tmp_path)
    path.write_text(path.read_text() + "student:\n")
    assert Recipe.load(path, ["--student.vocab_size", "500"]).student.vocab_size == 500


def test_numbers_as_yaml_1_2_writes_them(tmp_path):
    path = written(tmp_path)
    path.write_text(path.read_text() + "distill: {learning_rate: 5e-5}\n")
    assert Recipe.load(path).distill == {"learning_rate": 5e-5}


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


@pytest.mark.parametrize(
    ("text", "sample"), [("text", ["a", "b"]), (["a", "b"], "a"), (["a", "b"], ["a"]), ("text", "")]
)
def test_samples_are_like_the_texts(text, sample):
    content = {"task": "text-classification", "output_dir": "o", "data": {"path": "p", "text": text}}
    with pytest.raises(ValueError, match=r"push\.samples"):
        Recipe.from_dict({**content, "teacher": {"model": "m"}, "push": {"samples": [sample]}})
    right = "a" if text == "text" else ["a", "b"]
    Recipe.from_dict({**content, "teacher": {"model": "m"}, "push": {"samples": [right]}})
