"""The site: generated tables are complete, and the code of the README runs."""

import argparse
import dataclasses
import importlib.util
import inspect
import re
from pathlib import Path

import datasets
import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

import hf_distill
from hf_distill import DistillationArguments, LSTMStudentForSequenceClassification
from hf_distill.cli import _parser
from hf_distill.data.config import Augment, Data
from hf_distill.recipes.recipe import Cascade, Compare, Export, Push, Recipe, Student, Teacher
from hf_distill.students.lstm.configuration_lstm import LSTMStudentConfig
from hf_distill.students.static.configuration_static import StaticStudentConfig
from hf_distill.students.transformer.config import TransformerStudentConfig
from hf_distill.tasks.prompt_settings import Price, Prompt, Server
from hf_distill.training.arguments import Objective

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("docs_arguments", ROOT / "docs" / "arguments.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(hook, page):
    """Key to [type, default, meaning], as the tables of a page show them."""
    text = hook.on_page_markdown((ROOT / "docs" / "api" / page).read_text(encoding="utf-8"))
    assert "<!--" not in text
    cells = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in text.splitlines() if line.startswith("| `")]
    assert all(len(row) == 4 for row in cells)
    return {key.strip("`"): values for key, *values in cells}


@pytest.mark.parametrize(
    ("prefix", "owner"),
    [
        ("", Recipe),
        ("data.", Data),
        ("data.augment.", Augment),
        ("teacher.", Teacher),
        ("teacher.prompt.", Prompt),
        ("teacher.server.", Server),
        ("teacher.price.", Price),
        ("student.", Student),
        ("student.config.", TransformerStudentConfig),
        ("distill.", Objective),
        ("compare.", Compare),
        ("export.", Export),
        ("cascade.", Cascade),
        ("push.", Push),
    ],
)
def test_every_recipe_key_is_on_the_page_with_type_default_and_meaning(hook, prefix, owner):
    shown = rows(hook, "recipe_keys.md")
    for field in dataclasses.fields(owner):
        kind, default, meaning = shown[prefix + field.name]
        assert kind.strip("`") and len(meaning) > 5
        if field.default is not dataclasses.MISSING:
            assert default == f"`{field.default!r}`"
        elif field.default_factory is dataclasses.MISSING:
            assert default == "required"


def test_what_agents_are_told_is_there(tmp_path):
    """The skill's recipe loads, its code compiles, and what it imports or calls exists."""
    text = (ROOT / "hf_distill" / ".agents" / "skills" / "hf-distill" / "SKILL.md").read_text(encoding="utf-8")
    assert text.startswith("---\nname: hf-distill\ndescription: ")
    recipe, script = re.search(r"```yaml\n(.*?)```", text, re.S)[1], re.search(r"```python\n(.*?)```", text, re.S)[1]
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    assert Recipe.load(tmp_path / "recipe.yaml").export.onnx
    compile(script, "SKILL.md", "exec")
    for name in {
        *re.search(r"from hf_distill import (.*)", script)[1].split(", "),
        *re.findall(r"hf_distill\.(\w+)", text),
    }:
        assert hasattr(hf_distill, name) or importlib.util.find_spec(f"hf_distill.{name}"), name
    for name in re.findall(r"`(\w+(?:\.\w+)*\.md|\w+(?:/[\w.]+)+)`", (ROOT / "AGENTS.md").read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("config", [LSTMStudentConfig, StaticStudentConfig])
def test_every_field_of_a_students_config_is_on_the_page(hook, config):
    fields = {f"student.config.{name}" for name in inspect.get_annotations(config)}
    assert fields <= rows(hook, "recipe_keys.md").keys()


def test_every_field_of_the_objective_is_on_the_page(hook):
    ours = {field.name for field in dataclasses.fields(DistillationArguments)}
    ours -= {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    assert rows(hook, "arguments.md").keys() == ours


def test_a_new_field_needs_a_description(hook):
    @dataclasses.dataclass
    class Section:
        """A section.

        Attributes:
            known: described
                in two lines.
        """

        known: int | None = None
        forgotten: str = "x"

    assert hook.documented(Section) == {"known": "described in two lines."}
    assert hook.table(Section, names=["known"]).endswith(
        "| `known` | `int \\| None` | `None` | described in two lines. |\n"
    )
    with pytest.raises(ValueError, match=r"Section\.forgotten has no description"):
        hook.table(Section)


@pytest.mark.parametrize(
    "term",
    ["teacher", "student", "baseline", "control", "soft target", "temperature", "fidelity", "cache", "stage", "recipe"],
)
def test_the_glossary_defines(term):
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert re.search(rf"^\*\*{term}\*\*  *[-–:]? *\w|^\*\*{term}\*\*\n: \w", text, re.M | re.I), term


def test_every_command_and_option_is_on_the_site():
    text = (ROOT / "docs" / "api" / "command_line.md").read_text(encoding="utf-8")
    (commands,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    for name, parser in commands.choices.items():
        part = re.search(rf"^## {name}\n(.*?)(?=^## )", text, re.M | re.S)[1]
        for action in parser._actions:
            written = action.option_strings[-1] if action.option_strings else action.dest
            assert written == "--help" or re.search(rf"^\| `{written}\b", part, re.M), f"{name} {written}"


def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_the_first_example_of_the_readme_runs(tmp_path, monkeypatch):
    """As it stands, with a tiny model and a few rows in place of what it downloads."""
    code = re.search(r"```python\n(.*?)```", readme(), re.S)[1]
    assert len([line for line in code.splitlines() if line]) <= 12
    words = ["[PAD]", "[UNK]", "lovely", "bad", "food"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    size = {"hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    made = BertForSequenceClassification(BertConfig(vocab_size=len(words), num_labels=2, **size))
    data = datasets.Dataset.from_dict({"text": ["lovely food", "bad food"] * 8, "label": [1, 0] * 8})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", lambda name: made)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda name: tokenizer)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: data)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["trainer"].state.global_step > 0
    folder = tmp_path / names["args"].output_dir
    assert LSTMStudentForSequenceClassification.from_pretrained(folder).config.num_labels == 2


def test_the_files_that_the_readme_links_to_exist():
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", readme())
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []
