"""Random and mutated recipes and words: each is read, or refused by a check of this package before anything runs.

HF_DISTILL_EXAMPLES=5000 tries that many recipes in each test.
"""

import contextlib
import copy
import dataclasses
import io
import math
import os
import shlex
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import hf_distill
from hf_distill import Recipe
from hf_distill.cli import main
from hf_distill.matching import MATCHINGS
from hf_distill.recipes.recipe import argument_types
from hf_distill.recipes.run import plan_recipe
from hf_distill.tasks import RECIPE_TASKS
from hf_distill.tasks.settings import OF_THE_RUN
from hf_distill.training.arguments import DistillationArguments
from tests.recipes.test_run import write_reviews, write_teacher

PACKAGE = Path(hf_distill.__file__).parent
EXAMPLES = int(os.environ.get("HF_DISTILL_EXAMPLES", "0"))
MANY = settings(max_examples=EXAMPLES or 60, deadline=None)
EACH = settings(max_examples=EXAMPLES or 20, deadline=None)
SOME = settings(max_examples=EXAMPLES or 8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

CLASSIFYING: dict[str, Any] = {
    "task": "text-classification",
    "data": {"path": "reviews.csv", "labels": ["bad", "good"], "test": 100, "validation": 60, "fidelity": 40},
    "teacher": {"model": "teacher", "fine_tune": {"num_train_epochs": 1}, "cross_fit": 2, "max_length": 32},
    "student": {"vocab_size": 120, "config": {"embedding_size": 8, "hidden_size": 8, "pooling": ["max"]}},
    "distill": [
        {
            "soft_target_weight": 0.0,
            "matching": [{"kind": "hidden_state", "layers": {-1: -1}, "granularity": "sequence"}],
        },
        {"num_train_epochs": 4, "learning_rate": 1.0e-2, "temperature_end": 1.0, "lr_scheduler_type": "cosine"},
    ],
    "compare": {"resamples": 200, "metrics": ["accuracy"], "more_seeds": [1], "test_sets": {"more": {"test": 5}}},
    "export": {"onnx": True},
    "push": {"repo_id": "user/name", "language": ["en"]},
    "output_dir": "out",
    "seed": 3,
}
TAGGING = {
    **CLASSIFYING,
    "task": "token-classification",
    "data": {"path": "a.conll", "text": 0, "label": -1},
    "distill": {"num_train_epochs": 2, "labelled_fraction": 0.5},
}
TRANSLATING = {
    **{name: CLASSIFYING[name] for name in ("push", "output_dir", "seed")},
    "task": "translation",
    "data": {"path": "pairs.csv", "text": "de", "target": "en"},
    "teacher": {"model": "t", "generation": {"num_beams": 2}, "ledger": "written.jsonl", "top_k": 8},
    "student": {"vocab_size": None},
    "distill": {"targets": "both", "sequences": 10, "soft_target_loss": "reverse_kl"},
}
WRITING = {
    **TRANSLATING,
    "task": "text-generation",
    "distill": {},
    "data": {"path": "chats.jsonl", "messages": "turns"},
}
PROMPTED = {
    **CLASSIFYING,
    "data": {"path": "a.csv", "test": 10, "labelled_test": {"path": "b.csv", "label": "class"}},
    "teacher": {
        "prompt": {"classes": {"bad": "no", "good": None}, "examples": [["x", "good"]], "prior": ["N/A"]},
        "server": {"url": "http://127.0.0.1:9/v1", "model": "m", "extra": {"seed": 1}},
        "budget": 50,
        "price": {"input": 1, "output": 0.5},
    },
    "student": {"base": "encoder", "kind": "transformer"},
    "distill": {"num_train_epochs": 2},
    "compare": {"resamples": 200},
}
BASES = [CLASSIFYING, TAGGING, TRANSLATING, WRITING, PROMPTED]

NUMBERS = [0, -1, 1, 7, 2**31, 2**63, 2**70, -0.0, 0.5, 1e-300, 1e308, math.nan, math.inf, -math.inf]
TEXTS = ["", "x", "5", "1e-5", "@x", "é\u202e", "[/b]", "a\nb", "../x", "/etc/passwd", ".", "\0", "\ud800", "x" * 5000]
OTHERS = [
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    [1, 2],
    ["a", "a"],
    {"a": 1},
    {1: 2},
    {None: None},
    {"kind": "relation"},
]
ODD = st.sampled_from(NUMBERS + TEXTS + OTHERS) | st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
TRAINING = sorted({*argument_types(DistillationArguments)} | {*OF_THE_RUN})


def places(content: Any, at: tuple = ()) -> list[tuple]:
    """Where the values of a recipe stand: those that are there, and the keys that a section could have."""
    found = [at] if at else []
    if isinstance(content, dict):
        inner = {**content}
        section = at[0] if len(at) == 1 else None
        kinds = {each.name: each.type for each in dataclasses.fields(Recipe)}
        if dataclasses.is_dataclass(kinds.get(section)):
            inner |= dict.fromkeys(each.name for each in dataclasses.fields(kinds[section]) if each.name not in inner)
        if at[-1:] == ("fine_tune",) or (at[:1] == ("distill",) and len(at) <= 2 and not isinstance(at[-1], str)):
            inner |= dict.fromkeys(name for name in TRAINING if name not in inner)
        for name, value in inner.items():
            found += places(value, (*at, name))
    if isinstance(content, list):
        for number, value in enumerate(content):
            found += places(value, (*at, number))
    return found


PLACES = [sorted(places(base), key=repr) for base in BASES]


@st.composite
def mutated(draw, bases=(0, 1, 2, 3, 4)):
    """A recipe of which some values are others, are gone, or stand under another name."""
    number = draw(st.sampled_from(bases))
    content = copy.deepcopy(BASES[number])
    for _ in range(draw(st.integers(1, 2))):
        *parents, last = draw(st.sampled_from(PLACES[number]))
        section: Any = content
        for parent in parents:
            try:
                section = section[parent]
            except (KeyError, IndexError, TypeError):
                section = None
        if isinstance(section, dict):
            action = draw(st.sampled_from(["set", "set", "set", "delete", "rename"]))
            value = section.pop(last, None)
            if action == "set":
                section[last] = draw(ODD)
            elif action == "rename":
                section[draw(st.text(max_size=4) | st.just(f"{last}s"))] = value
        elif isinstance(section, list) and isinstance(last, int) and last < len(section):
            section[last] = draw(ODD)
    return content


def own(error: BaseException) -> bool:
    """Whether a check of this package raised an error: with a text that says something."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        isinstance(error, ValueError | TypeError) and Path(last.filename).is_relative_to(PACKAGE) and bool(str(error))
    )


def made(make):
    """What a function gives, or None where a check of this package refuses it; other errors pass."""
    try:
        return make()
    except (ValueError, TypeError) as error:
        if not own(error):
            raise
        assert "\n" not in str(error) or "output_dir" in str(error)
        return None


@MANY
@given(content=mutated())
@example(content=3)
@example(content=[])
@example(content={"distill": {"matching": None}})
@example(content={**CLASSIFYING, "distill": {"matching": [{}]}})
@example(content={**CLASSIFYING, "distill": {"matching": [{"kind": ["relation"]}]}})
def test_a_mutated_recipe_is_read_or_refused(content):
    recipe = made(lambda: Recipe.from_dict(content))
    if recipe is not None:
        assert recipe.stages and recipe.trainings


@MANY
@given(content=st.dictionaries(st.sampled_from([each.name for each in dataclasses.fields(Recipe)]), ODD))
def test_a_random_recipe_is_read_or_refused(content):
    made(lambda: Recipe.from_dict({"task": "translation", **content}))


@pytest.mark.parametrize("kind", MATCHINGS)
@EACH
@given(settings=st.dictionaries(st.sampled_from(["layers", "weight", "granularity", "name", "heads", "loss"]), ODD))
def test_matchings_of_any_settings(kind, settings):
    made(lambda: Recipe.from_dict({**CLASSIFYING, "distill": {"matching": [{"kind": kind, **settings}]}}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data, a teacher and a recipe for them."""
    folder = tmp_path_factory.mktemp("fuzzed")
    write_reviews(folder / "reviews.csv", 400)
    write_teacher(folder / "teacher")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(there(CLASSIFYING, folder)))
    return folder


def there(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A recipe whose files are in a folder, where their names are still its own."""
    content = copy.deepcopy(content)
    for section, key in (("data", "path"), ("teacher", "model")):
        part = content.get(section)
        if isinstance(part, dict) and part.get(key) == CLASSIFYING[section][key]:
            part[key] = str(folder / part[key])
    if content.get("output_dir") == "out":
        content["output_dir"] = str(folder / "out")
    return content


@MANY
@given(data=st.data())
def test_a_file_of_any_bytes_is_read_or_refused(tmp_path_factory, data):
    written = bytearray(yaml.safe_dump(CLASSIFYING).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place, length = data.draw(st.integers(0, len(written))), data.draw(st.integers(0, 5))
        odd = [b"&a ", b"*a", b"!!int ", b"<<: ", b"\t", b"\x00", b"\xff", b"? ", b"- ", b"{", b"]", b"'", b"\n"]
        written[place : place + length] = data.draw(st.binary(max_size=4) | st.sampled_from(odd))
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(bytes(written))
    made(lambda: Recipe.load(path))


KEYS = st.sampled_from([".".join(map(str, place)) for place in PLACES[0]]) | st.text("abcd._-=@", max_size=8)
VALUES = st.sampled_from(
    [
        "@x",
        "",
        "null",
        "[",
        "{",
        "*a",
        "!!python/none",
        "5",
        "-1",
        ".nan",
        "[a]",
        "{a: b}",
        "x",
        "'",
        "--",
        "é",
        "\udcff",
    ]
)


@st.composite
def words(draw):
    """Words of a command line that change keys of a recipe, or try to."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        key, value = f"--{draw(KEYS)}", draw(VALUES | st.text(max_size=6))
        found += draw(st.sampled_from([[key, value], [f"{key}={value}"], [key], [value]]))
    return found


@MANY
@given(words=words())
@example(words=["--data.text", "@x"])
def test_any_words_change_a_recipe_or_are_refused(folder, words):
    made(lambda: Recipe.load(folder / "recipe.yaml", words))


@SOME
@given(words=words())
@example(words=["--data.text", "@x"])
@example(words=["--data.labels", "[a, '[/b]']"])
@example(words=["--=\udcff"])
def test_any_words_end_a_plan_without_a_traceback(folder, capsys, words):
    # As Python's own stderr, and unlike pytest's, it can write half of a surrogate pair.
    errors = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    try:
        with contextlib.redirect_stderr(errors):
            status = main(["run", str(folder / "recipe.yaml"), "--dry-run", *words])
    except SystemExit as ended:  # argparse, for words that are its own
        status = ended.code
    assert status in (0, 1, 2), shlex.join(words)
    capsys.readouterr()


@SOME
@given(content=mutated(bases=(0,)))
def test_a_mutated_recipe_is_planned_or_refused(folder, content):
    content = there(content, folder)
    recipe = made(lambda: Recipe.from_dict(content))
    if recipe is not None and recipe.output_dir == str(folder / "out"):
        planned = made(lambda: plan_recipe(recipe))
        assert planned is None or planned.refusals or planned.rows["train"]
        assert not (folder / "out").exists(), "a plan writes nothing"


def test_every_task_is_mutated():
    assert {base["task"] for base in BASES} == {*RECIPE_TASKS}
    for base in BASES:
        Recipe.from_dict(base)
