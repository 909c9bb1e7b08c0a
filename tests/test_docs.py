"""The site: generated tables are complete, and the code of the README runs."""

import argparse
import ast
import dataclasses
import importlib
import importlib.util
import inspect
import re
import shlex
import typing
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
from hf_distill.cli import _parser, _parted
from hf_distill.data.config import Augment, Data
from hf_distill.plain_yaml import parse_yaml
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
    text = (ROOT / "docs" / "api" / page).read_text(encoding="utf-8")
    assert text == hook.on_page_markdown(text), "run python docs/arguments.py"
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
    assert "\n| `known` | `int \\| None` | `None` | described in two lines. |\n" in hook.table(Section, names=["known"])
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


PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.M | re.S)


def blocks(path, kind):
    return [code for found, code in BLOCK.findall(path.read_text(encoding="utf-8")) if found == kind]


def test_every_public_name_is_on_the_site():
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES if path.parent.name == "api")
    documented = re.findall(r"^::: ([\w.]+)", text, re.M)
    ends = {name.rpartition(".")[2] for name in documented}
    ends |= {name for module in documented for name in getattr(importlib_of(module), "__all__", ())}
    names = {name for name in hf_distill.__all__ if not name.startswith("_")}
    assert names - ends == set()


def importlib_of(name):
    """The module of that name; None where it names something within one."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=lambda path: path.stem)
def test_the_code_of_a_page_compiles_and_names_what_is_there(path):
    for code in blocks(path, "python"):
        tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hf_distill"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name) or importlib_of(f"{node.module}.{alias.name}"), alias.name


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=lambda path: path.stem)
def test_the_commands_of_a_page_are_those_of_the_command_line(path):
    for code in blocks(path, "bash"):
        lines = code.replace("\\\n", " ").splitlines()
        for words in (shlex.split(line, comments=True) for line in lines if "hf-distill " in line):
            start = next((number for number, word in enumerate(words) if word.endswith("hf-distill")), None)
            if start is None:
                continue
            own, overrides = _parted([word for word in words[start + 1 :] if word not in ("&&", ";")])
            _parser().parse_args(own)
            for word in overrides[::1]:
                if word.startswith("--") and not re.match(r"--\d", word):
                    section, _, key = word.removeprefix("--").partition("=")[0].partition(".")
                    kind = typing.get_type_hints(Recipe)[section]
                    assert (
                        not key
                        or not dataclasses.is_dataclass(kind)
                        or key.split(".")[0] in {field.name for field in dataclasses.fields(kind)}
                    ), word


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_recipes_of_a_page_have_known_keys(path):
    for code in blocks(path, "yaml"):
        content = parse_yaml(code, path.name, "")
        for section, values in content.items() if isinstance(content, dict) else ():
            if section in typing.get_type_hints(Recipe):
                kind = typing.get_type_hints(Recipe)[section]
                known = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else None
                assert known is None or set(values) <= known, f"{section}: {set(values) - known}"


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
