"""A first recipe for a data file: its columns, its sizes, and settings that suit them, with comments."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_distill.data import generation, labelled
from hf_distill.data.files import read
from hf_distill.data.roles import Roles, find_roles
from hf_distill.paths import name_of
from hf_distill.plain_yaml import parse_yaml, to_yaml
from hf_distill.recipes.recipe import Recipe

ENGLISH = {
    "text-classification": "sentence-transformers/all-MiniLM-L6-v2",
    "token-classification": "google-bert/bert-base-cased",
    "text-generation": "HuggingFaceTB/SmolLM2-135M-Instruct",
}
OTHERS = {
    "text-classification": "distilbert/distilbert-base-multilingual-cased",
    "token-classification": "google-bert/bert-base-multilingual-cased",
}
FOREIGN = 0.1  # share of letters beyond ASCII from which on a text is not English
LENGTHS = (32, 64, 128, 256, 512)
TOKENS_A_WORD = 1.5
UNKNOWN = ("unknown", "unlabelled", "unlabeled", "missing", "n/a", "na", "none", "null", "nan", "?")
SHOWN = 10  # classes in a comment


def write_recipe(
    path: str,
    output: str | Path | None = None,
    *,
    task: str | None = None,
    text: Sequence[str] | None = None,
    label: str | None = None,
    teacher: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Look at some data and write a recipe that distils a student for it.

    The data is read and split as the recipe will have it, so what a run would refuse is refused here.

    Args:
        path: what `data.path` of a recipe takes.
        output: the recipe's file; None: the data's name with `.yaml`, in the working directory.
        task: of the recipe. None: what the columns look like.
        text: columns of the text, one or two. None: those that look like one.
        label: column of the label, of the tags, or of a translation. None: the one that looks like one.
        teacher: a Hub id or a folder. None: one that suits task and language.
        options: `data.options` of the recipe, such as `encoding` and `sep`.
    Returns:
        The recipe's file.
    Raises:
        ValueError: the file exists already, the data cannot be read, or its columns could be several things.
    """
    stem = Path(name_of(path)).name.partition(".")[0] or "data"
    place = Path(f"{stem}.yaml" if output is None else output)
    if os.path.lexists(place):
        raise ValueError(f"{place} exists already, and is kept as it is. Give another --output, or move it away.")
    source = read(path, **(options or {}))
    rows = source["train"] if "train" in source else source[next(iter(source))]
    if not len(rows):
        raise ValueError(f"{path} has no rows.")
    roles = find_roles(rows, task=task, text=text or (), label=label)
    content = _Draft(path, stem, source, rows, roles, teacher, options).content()
    recipe = Recipe.from_dict(parse_yaml(content, str(place), ""))
    load: Any = labelled.load if recipe.task in OTHERS else generation.load_writing
    found = load(recipe.data, recipe.seed, task=recipe.task).counts
    counts = "".join(f"# {name}: {number:,}\n" for name, number in found.items() if number)
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("x", encoding="utf-8") as file:
        file.write(content.replace(COUNTS, counts, 1))
    return place


def parse_options(text: str) -> dict[str, Any]:
    """`data.options` from a command line.

    >>> parse_options('{sep: ";"}')
    {'sep': ';'}
    """
    found = parse_yaml(text, "--options", "Write them as in a recipe, '{encoding: cp1252}' for instance")
    if not isinstance(found, dict):
        raise ValueError(f"--options: expected names and values, '{{encoding: cp1252}}' for instance; got {text!r}.")
    return found


COUNTS = "# counts\n"


class _Draft:
    """The text of a recipe, see `write_recipe`."""

    def __init__(
        self,
        path: str,
        stem: str,
        source: datasets.DatasetDict,
        rows: datasets.Dataset,
        roles: Roles,
        teacher: str | None,
        options: Mapping[str, Any] | None,
    ) -> None:
        self.path, self.stem, self.source, self.rows, self.roles = path, stem, source, rows, roles
        self.task, self.options = roles.task, options
        self.texts = [_joined(value) for name in roles.text for value in rows[name][:5000] if value]
        self.teacher = teacher or self._teacher()

    def _teacher(self) -> str:
        if self.task == "translation":
            codes = (*self.roles.text, self.roles.label or "")
            if not all(len(code) == 2 for code in codes):
                raise ValueError(
                    "Which model translates? Give a sequence-to-sequence model by --teacher, a Hub id or a folder."
                )
            return f"Helsinki-NLP/opus-mt-{'-'.join(codes)}"
        letters = [letter for text in self.texts for letter in text if letter.isalpha()]
        foreign = sum(not letter.isascii() for letter in letters) > FOREIGN * len(letters)
        return (OTHERS if foreign and self.task in OTHERS else ENGLISH)[self.task]

    def content(self) -> str:
        """The recipe, with comments."""
        return "\n".join(
            [
                f"# A recipe for {name_of(self.path)}, written by `hf-distill init` from what its columns look like.",
                '# Every key, with its default: "Recipe keys" in the documentation. What the data gives, counted:',
                f"{COUNTS}task: {self.task}",
                f"output_dir: {_scalar('outputs/' + self.stem)}",
                "",
                *self._data(),
                "",
                *self._models(),
                "",
                *self._training(),
                "",
            ]
        )

    def _data(self) -> list[str]:
        roles = self.roles
        lines = ["data:", f"  path: {_scalar(self.path)}"]
        if self.task == "text-generation" and self._has_messages:
            lines.append(f"  messages: {_scalar(roles.text[0])}")
        else:
            lines.append(f"  text: {_scalar(roles.text[0] if len(roles.text) == 1 else list(roles.text))}")
        if roles.label is not None:
            key = "target" if self.task == "translation" else "label"
            lines.append(f"  {key}: {_scalar(roles.label)}{self._about_the_label()}")
        if roles.separator is not None:
            lines.append(f"  label_separator: {_scalar(roles.separator)}   # a cell may hold several labels")
        if roles.missing:
            lines.append(f"  missing: {_scalar(list(roles.missing))}   # no label; only the teacher labels these rows")
        elif roles.label is not None and self.task == "text-classification":
            spelled = {str(each).strip().lower() for each in self.rows[roles.label] if each is not None}
            unknown = [value for value in UNKNOWN if value in spelled]
            lines += [f"  # missing: {_scalar(unknown)}   # if that means that a row has no label"] if unknown else []
        if roles.regression:
            lines.append("  problem_type: regression   # the label is a quantity")
        if self.options:
            lines.append(f"  options: {json.dumps(dict(self.options), ensure_ascii=False)}")
        others = [name for name in self.rows.column_names if name not in (*roles.text, roles.label)]
        if others:
            lines.append(f"  # not used: {_listed(others)}")
        if "train" not in self.source:
            lines.append(f"  train: {_scalar(next(iter(self.source)))}")
        for part, names, share in (("test", ("test",), 0.2), ("validation", ("validation", "valid", "dev"), 0.1)):
            split = next((name for name in names if name in self.source), None)
            told = "" if split else f"{'   ' if part == 'validation' else '         '}# share of the labelled rows"
            lines.append(f"  {part}: {share if split is None else _scalar(split)}{told}")
        return lines

    @property
    def _has_messages(self) -> bool:
        return isinstance(next(value for value in self.rows[self.roles.text[0]] if value), list)

    def _about_the_label(self) -> str:
        """The classes with their numbers of rows, in a comment."""
        if self.task != "text-classification" or self.roles.regression or self.roles.separator:
            return ""
        feature = self.rows.features[self.roles.label]
        named = isinstance(feature, datasets.ClassLabel)
        values = [value for value in self.rows[self.roles.label] if value not in (None, "")]
        if isinstance(values[0], list):
            return "   # a list of labels in each row"
        counted = Counter(feature.int2str(value) if named and value >= 0 else str(value) for value in values)
        return f"   # {_listed([f'{name} {number:,}' for name, number in counted.most_common()])}"

    def _models(self) -> list[str]:
        length = self._length()
        half = f"95 % of the texts have at most {self._words():,.0f} words"
        lines = ["teacher:", f"  model: {_scalar(self.teacher)}   # a Hub id or a folder"]
        if self.task in OTHERS:
            lines.append("  fine_tune: {num_train_epochs: 3, learning_rate: 5.0e-5}   # null: has these classes")
        lines += [f"  max_length: {length}   # tokens; {half}", "", "student:"]
        if len(self.roles.text) > 1:
            lines += [
                "  kind: transformer   # a pair needs attention from one text to the other",
                "  vocab_size: null    # the teacher's tokenizer",
                "  config: {num_hidden_layers: 3}",
            ]
        elif self.task in OTHERS:
            lines += [
                "  kind: lstm          # or static (the fastest), or transformer (some of the teacher's layers)",
                "  vocab_size: 8000    # of a tokenizer of its own; null: the teacher's",
            ]
        else:
            lines += ["  kind: lstm", "  vocab_size: null   # the teacher's, so that its probabilities can be learned"]
        return [*lines, f"  max_length: {length}"]

    def _training(self) -> list[str]:
        lines = ["distill:"]
        if self.task in OTHERS:
            rate = "5.0e-5" if len(self.roles.text) > 1 else "2.0e-3"
            return [
                *lines,
                "  num_train_epochs: 10",
                f"  learning_rate: {rate}",
                "  per_device_train_batch_size: 64",
                "  hard_label_weight: 0.5   # of the labels in the data",
                "  soft_target_weight: 0.5  # of the teacher's outputs, also for rows without a label",
            ]
        if self.task == "translation":
            lines.append("  targets: both   # what the teacher writes, and its probabilities of it")
        return [*lines, "  num_train_epochs: 3", "  learning_rate: 2.0e-3", "  per_device_train_batch_size: 16"]

    def _words(self) -> float:
        return float(np.quantile([len(text.split()) for text in self.texts], 0.95))

    def _length(self) -> int:
        needed = TOKENS_A_WORD * self._words() + 2
        return next((length for length in LENGTHS if length >= needed), LENGTHS[-1])


def _joined(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(each.get("content", "")) if isinstance(each, dict) else str(each) for each in value)
    return str(value)


def _scalar(value: Any) -> str:
    """A value as YAML on one line."""
    told = to_yaml({"value": value}).removeprefix("value: ").rstrip("\n")
    return json.dumps(value, ensure_ascii=True) if "\n" in told or isinstance(value, list) else told


def _listed(names: Sequence[str]) -> str:
    told = ", ".join(" ".join(name.split())[:40] for name in names[:SHOWN])
    return told + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
