"""Reading, cleaning and splitting."""

import csv

import datasets
import pytest
from transformers import BertTokenizerFast

from hf_distill.data import Data, load, near_duplicate_key, resolve, tokenise


def write(path, rows, names=("text", "label", "confidence")):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)
    return str(path)


WORDS = "ash birch cedar dogwood elm fir ginkgo hazel ivy juniper".split()


def many(number=200):
    """Distinct texts, half of each class, every tenth without a sure label."""
    return [
        (
            f"{WORDS[i % 10]} {WORDS[i // 10 % 10]} {WORDS[i // 100]} tree",
            ("good", "bad")[i % 2],
            0.1 if i % 10 == 0 else 0.9,
        )
        for i in range(number)
    ]


def test_splits_are_disjoint_complete_and_repeatable(tmp_path):
    data = Data(write(tmp_path / "a.csv", many()), minimum={"confidence": 0.5}, test=30, validation=0.1, fidelity=10)
    splits = load(data)
    parts = {
        name: getattr(splits, name)["text"][:] for name in ("train", "unlabelled", "validation", "test", "fidelity")
    }
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 132,
        "unlabelled": 10,
        "validation": 18,
        "test": 30,
        "fidelity": 10,
    }
    assert len({text for part in parts.values() for text in part}) == 200
    assert splits.classes == ["bad", "good"]
    assert set(splits.unlabelled["label"]) == {-100} == set(splits.fidelity["label"])
    assert load(data).test["text"][:] == parts["test"]
    assert load(data, seed=1).test["text"][:] != parts["test"]


def test_labels_follow_the_order_asked_for(tmp_path):
    path = write(tmp_path / "a.csv", many())
    splits = load(Data(path, labels=["good", "bad"], test=20))
    truth = {text: label for text, label, _ in many()}
    assert all(["good", "bad"][row["label"]] == truth[row["text"]] for row in splits.test)
    only = load(
        Data(write(tmp_path / "b.csv", [*many(), ("a neutral tree", "so so", 1.0)]), labels=["good", "bad"], test=20)
    )
    assert only.unlabelled["text"][:] == ["a neutral tree"]


def test_duplicates_and_empty_texts_are_counted(tmp_path):
    rows = [*many(), ("  ASH ash ash tree ", "good", 1.0), ("", "good", 1.0)]
    splits = load(Data(write(tmp_path / "a.csv", rows), test=20))
    assert splits.counts["rows read"] == 202
    assert splits.counts["duplicates, left out"] == 1
    assert splits.counts["empty texts, left out"] == 1


def test_near_duplicates_stay_on_one_side(tmp_path):
    """Every text comes four times, apart by what a retweet changes: no key may stand in two splits."""
    rows = [
        (form.format(text), label, sure)
        for text, label, sure in many(100)
        for form in ("{}", "RT @ann: {}", "{} http://t.co/x1", "{} 17!")
    ]
    splits = load(
        Data(write(tmp_path / "a.csv", rows), minimum={"confidence": 0.5}, test=80, validation=40, fidelity=12)
    )
    keys = [
        {near_duplicate_key(text) for text in getattr(splits, name)["text"]}
        for name in ("train", "unlabelled", "validation", "test", "fidelity")
    ]
    assert sum(len(part) for part in keys) == len(set.union(*keys)) == 100
    assert len(splits.test) == 80


def test_named_test_split_wins_over_training_rows(tmp_path):
    rows = many(60)
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.csv", rows)
    write(folder / "test.csv", [("RT " + rows[0][0], "bad", 1.0), ("another oak", "good", 1.0)])
    splits = load(Data(str(folder), test="test", validation=10))
    assert len(splits.test) == 2
    assert rows[0][0] not in splits.train["text"][:]
    assert splits.counts["near-duplicates of held-out rows, left out"] == 1


def test_named_splits_share_no_near_duplicates(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.csv", many(60))
    write(folder / "test.csv", [("A great oak 10!", "good", 1.0), ("a poor oak", "bad", 1.0)])
    write(folder / "validation.csv", [("a great oak 9", "good", 1.0), ("a fair oak", "bad", 1.0)])
    splits = load(Data(str(folder), test="test", validation="validation"))
    assert splits.validation["text"][:] == ["a fair oak"]
    assert splits.counts["near-duplicates of held-out rows, left out"] == 1


@pytest.mark.parametrize("labels", [None, [0, 1]])
def test_whole_numbers_with_gaps(tmp_path, labels):
    """An empty cell makes pandas read whole numbers as floats; the classes are whole numbers all the same."""
    rows = [(text, "" if number % 10 == 0 else number % 2, 1.0) for number, (text, _, _) in enumerate(many())]
    splits = load(Data(write(tmp_path / "a.csv", rows), labels=labels, test=20))
    assert splits.classes == ["0", "1"]
    assert splits.counts["unlabelled"] == 20


def test_pairs(tmp_path):
    path = write(tmp_path / "a.csv", [(f"{t} one", f"{t} two", label) for t, label, _ in many()], ("a", "b", "label"))
    splits = load(Data(path, text=["a", "b"], test=20))
    assert splits.train.column_names == ["text", "text_pair", "label"]
    assert splits.train[0]["text_pair"] == splits.train[0]["text"].replace("one", "two")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "tweet"}, "data.text: there is no column 'tweet', the data has text, label, confidence"),
        ({"label": "class"}, "data.label: there is no column 'class'"),
        ({"minimum": {"sure": 1}}, "data.minimum: there is no column 'sure'"),
        ({"labels": ["good"]}, r"expected at least two classes, got \['good'\]"),
        ({"test": "test"}, "data.test: .* has no split 'test', it has train"),
        ({"test": 500}, "data.test: asked for 500 rows with a label, found"),
        ({"fidelity": 5}, "data.fidelity: asked for 5 rows without a label, found 0"),
        ({"labels": ["yes", "no"]}, "no labelled rows are left for train"),
        ({"train": "rows"}, None),
    ],
)
def test_what_does_not_fit(tmp_path, changes, message):
    settings = {"path": write(tmp_path / "a.csv", many()), "test": 20, "validation": 10, **changes}
    if changes.get("labels") == ["yes", "no"]:
        settings |= {"test": 0, "validation": 0}
    if message is None:
        assert len(load(Data(**settings)).train) == 170
    else:
        with pytest.raises(ValueError, match=message):
            load(Data(**settings))


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"data\.path: there is no file .*missing\.csv"):
        load(Data(str(tmp_path / "missing.csv")))
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(ValueError, match="is not one of the known formats"):
        load(Data(str(tmp_path / "a.xyz")))
    with pytest.raises(ValueError, match="the package 'no_such_package' is not installed"):
        resolve("package:no_such_package/a.csv")
    with pytest.raises(ValueError, match="has no file 'no/such/file'"):
        resolve("package:transformers/no/such/file")


def test_two_tokenizers(tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]))
    student, teacher = BertTokenizerFast(str(vocabulary)), BertTokenizerFast(str(vocabulary))
    rows = datasets.Dataset.from_dict({"text": ["a b a b", "b"], "label": [1, -100]})
    made = tokenise(rows, student, max_length=4, teacher_tokenizer=teacher, teacher_max_length=5)
    assert made["labels"][:] == [1, -100]
    assert [len(ids) for ids in made["input_ids"]] == [4, 3]
    assert [len(ids) for ids in made["teacher_input_ids"]] == [5, 3]
    assert {"attention_mask", "teacher_attention_mask"} <= set(made.column_names)
