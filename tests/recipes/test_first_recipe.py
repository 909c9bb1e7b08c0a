"""The recipe that `hf-distill init` writes: it reads the data as it says, and a run takes it."""

import json

import datasets
import pytest

from hf_distill.cli import main
from hf_distill.recipes.first_recipe import write_recipe
from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.run import plan_recipe
from tests.recipes.test_run import write_reviews, write_teacher

WORDS = "oak elm ash fir yew bay box fig may sal tea gum".split()


@pytest.fixture
def reviews(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_reviews(tmp_path / "reviews.csv", 200)
    write_teacher(tmp_path / "teacher")
    return tmp_path


def test_a_recipe_of_a_csv_that_a_run_takes(reviews, capsys):
    assert main(["init", "reviews.csv", "--teacher", "teacher"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  hf-distill run reviews.yaml --dry-run",
        "  hf-distill run reviews.yaml",
    ]
    text = (reviews / "reviews.yaml").read_text()
    assert '# missing: ["unknown"]' in text, "a comment on what may be no label"
    assert "# rows read: 200" in text and "# test: 40" in text and "label: label   # " in text
    recipe = Recipe.load("reviews.yaml")
    assert (recipe.data.text, recipe.data.label, recipe.output_dir) == ("text", "label", "outputs/reviews")
    assert not plan_recipe(recipe).refusals


def test_an_empty_label_is_not_taken_for_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = {"text": [f"an {word} tree" for word in WORDS], "label": ["a", "b", None] * 4}
    datasets.Dataset.from_dict(rows).to_json("rows.jsonl")
    text = write_recipe("rows.jsonl").read_text()
    assert "missing" not in text and "# unlabelled: 4" in text


def test_options_of_a_csv_are_written_into_the_recipe(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"ein {word} für dich, {number};{'ab'[number % 2]}\n" for number, word in enumerate(WORDS * 2))
    (tmp_path / "rows.csv").write_text(f"text;label\n{rows}", encoding="cp1252")
    assert main(["init", "rows.csv", "--options", "{encoding: cp1252}"]) == 1
    assert 'set data.options: {sep: ";"}' in capsys.readouterr().err
    assert main(["init", "rows.csv", "--options", '{sep: ";", encoding: cp1252}']) == 0
    recipe = Recipe.load("rows.yaml")
    assert recipe.data.options == {"sep": ";", "encoding": "cp1252"} and recipe.data.label == "label"
    assert main(["init", "rows.csv", "--options", "cp1252", "--output", "other.yaml"]) == 1
    assert "--options: expected names and values" in capsys.readouterr().err


def test_a_recipe_is_never_replaced(reviews, capsys):
    (reviews / "reviews.yaml").write_text("mine")
    assert main(["init", "reviews.csv"]) == 1
    assert "reviews.yaml exists already, and is kept as it is" in capsys.readouterr().err
    assert (reviews / "reviews.yaml").read_text() == "mine"
    (reviews / "link.yaml").symlink_to(reviews / "nowhere")
    with pytest.raises(ValueError, match=r"link\.yaml exists already"):
        write_recipe("reviews.csv", "link.yaml")


def test_the_data_is_read_before_anything_is_written(reviews):
    (reviews / "few.csv").write_text("text,label\nthis is one,a\nthis is two,b\n")
    with pytest.raises(ValueError, match="no rows with a label"):
        write_recipe("few.csv", label="label", text=["text"])
    assert not (reviews / "few.yaml").exists()


def talk(word):
    return [{"role": "user", "content": f"a {word} is"}, {"role": "assistant", "content": f"a tree, the {word}"}]


@pytest.mark.parametrize(
    ("columns", "settings", "model"),
    [
        (
            {"tokens": [["the", word, "grows"] for word in WORDS], "ner": [["O", "B-T", "O"]] * 12},
            {"task": "token-classification", "text": "tokens", "label": "ner"},
            "google-bert/bert-base-cased",
        ),
        (
            {"en": [f"an {word} tree" for word in WORDS], "de": [f"ein {word} Baum" for word in WORDS]},
            {"task": "translation", "text": "en", "target": "de"},
            "Helsinki-NLP/opus-mt-en-de",
        ),
        (
            {"messages": [talk(word) for word in WORDS]},
            {"task": "text-generation", "messages": "messages"},
            "HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        (
            {"text": [f"какой это {word} день" for word in WORDS], "label": ["да: так", "нет"] * 6},
            {"task": "text-classification", "text": "text", "label": "label"},
            "distilbert/distilbert-base-multilingual-cased",
        ),
        (
            {
                "sentence1": [f"an {word} tree" for word in WORDS],
                "sentence2": [f"a {word} wood" for word in WORDS],
                "score": [0.5 * number for number in range(12)],
            },
            {"text": ["sentence1", "sentence2"], "label": "score", "problem_type": "regression"},
            "sentence-transformers/all-MiniLM-L6-v2",
        ),
    ],
)
def test_every_task(tmp_path, monkeypatch, columns, settings, model):
    monkeypatch.chdir(tmp_path)
    datasets.Dataset.from_dict(columns).to_json("rows.jsonl")
    recipe = Recipe.load(write_recipe("rows.jsonl"))
    assert recipe.teacher.model == model
    for name, value in settings.items():
        assert getattr(recipe if name == "task" else recipe.data, name) == value, name


def test_a_folder_of_splits_and_odd_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a: set"
    folder.mkdir()
    for part, words in (("train", WORDS[:8]), ("test", WORDS[8:10]), ("dev", WORDS[10:])):
        rows = [
            {"the: text": f"an {word} # tree", "label": "x\ny" if number % 2 else "- z"}
            for number, word in enumerate(words)
        ]
        (folder / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = Recipe.load(write_recipe("a: set", "made/one.yaml", text=["the: text"]))
    assert (recipe.data.path, recipe.data.text) == ("a: set", "the: text")
    assert (recipe.data.test, recipe.data.validation) == ("test", "dev")


def test_a_translation_between_columns_of_any_name_needs_a_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = {"source": [f"an {word} tree" for word in WORDS], "target": [f"ein {word} Baum" for word in WORDS]}
    datasets.Dataset.from_dict(rows).to_json("rows.jsonl")
    with pytest.raises(ValueError, match="Give a sequence-to-sequence model by --teacher"):
        write_recipe("rows.jsonl")
    assert Recipe.load(write_recipe("rows.jsonl", teacher="a/b")).teacher.model == "a/b"
