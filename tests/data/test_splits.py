"""Reading, cleaning and splitting."""

import csv
import json

import datasets
import numpy as np
import pytest
from transformers import BertTokenizerFast

from hf_distill.data.config import Data
from hf_distill.data.labelled import load, load_further, unlabelled
from hf_distill.data.near_duplicates import near_duplicate_key
from hf_distill.data.tokenization import tokenize
from hf_distill.paths import resolve


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


def test_quantities_are_no_classes(tmp_path):
    rows = [(text, 0.25 + number, 1.0) for number, (text, _, _) in enumerate(many())]
    path = write(tmp_path / "a.csv", rows)
    with pytest.raises(ValueError, match=r"'label' has quantities, 0\.25 for instance.*problem_type=regression"):
        load(Data(path, test=20))
    assert load(Data(path, test=20, problem_type="regression")).classes == []


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
        (
            {"labels": ["yes", "no"]},
            r"data.labels: none of \['yes', 'no'\] stands in the column 'label', which has 'bad'",
        ),
        ({"minimum": {"confidence": 2}}, "none of the 200 rows of .* has a label among"),
        ({"train": "rows"}, None),
    ],
)
def test_what_does_not_fit(tmp_path, changes, message):
    settings = {"path": write(tmp_path / "a.csv", many()), "test": 20, "validation": 10, **changes}
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
    made = tokenize(rows, student, max_length=4, teacher_tokenizer=teacher, teacher_max_length=5)
    assert made["labels"][:] == [1, -100]
    assert [len(ids) for ids in made["input_ids"]] == [4, 3]
    assert [len(ids) for ids in made["teacher_input_ids"]] == [5, 3]
    assert {"attention_mask", "teacher_attention_mask"} <= set(made.column_names)


def write_tagged(path, sentences):
    with path.open("w") as file:
        for number, (words, tags) in enumerate(sentences):
            row = {"words": words, "tags": tags, "doc": number // 5, "genre": "ab"[number // 5 % 2]}
            file.write(json.dumps(row) + "\n")
    return str(path)


def tagged(number=100):
    return [(t.split(), ["X", "Y", "X", "Z"]) for t, _, _ in many(number)]


def test_sentences_and_their_documents(tmp_path):
    rows = [*tagged(), (["a", "lone", "word"], None), ([], [])]
    data = Data(
        write_tagged(tmp_path / "a.jsonl", rows),
        text="words",
        label="tags",
        together="doc",
        test=20,
        validation=10,
        labelled=30,
        fidelity=5,
    )
    splits = load(data, task="token-classification", keep=["genre", "doc"])
    assert splits.classes == ["X", "Y", "Z"]
    assert splits.counts["empty texts, left out"] == 1
    sizes = {name: len(getattr(splits, name)) for name in ("train", "unlabelled", "validation", "test", "fidelity")}
    assert sizes == {"train": 30, "unlabelled": 36, "validation": 10, "test": 20, "fidelity": 5}
    documents = [set(getattr(splits, name)["doc"]) for name in ("test", "validation", "fidelity")]
    documents.append(set(splits.train["doc"]) | set(splits.unlabelled["doc"]))
    assert sum(map(len, documents)) == len(set.union(*documents))
    assert set(splits.train[0]) == {"words", "label", "genre", "doc"}
    assert {label for row in splits.unlabelled["label"] for label in row} == {-100}


def test_tags_that_do_not_fit(tmp_path):
    data = Data(write_tagged(tmp_path / "a.jsonl", tagged()), text="words", label="tags", labels=["X", "Y"], test=20)
    splits = load(data, task="token-classification")
    assert splits.counts["words whose tag is not among the classes, unlabelled"] == 100
    assert splits.train[0]["label"] == [0, 1, 0, -100]
    broken = write_tagged(tmp_path / "b.jsonl", [*tagged(20), (["two", "words"], ["X"])])
    with pytest.raises(ValueError, match=r"a sentence of 2 words has 1 tags: 'two words'"):
        load(Data(broken, text="words", label="tags", test=5), task="token-classification")
    rare = [*tagged(40), (["one", "odd", "old", "oak"], ["X", "X", "X", "W"])]
    splits = load(
        Data(write_tagged(tmp_path / "c.jsonl", rare), text="words", label="tags", test=5, labelled=1),
        1,
        task="token-classification",
    )
    assert splits.counts["classes without a labelled training row"] == 1


def test_fewer_labels_are_a_part_of_all(tmp_path):
    path = write(tmp_path / "a.csv", many())
    few, more = (load(Data(path, test=20, labelled=number)) for number in (10, 50))
    assert (len(few.train), len(more.train)) == (10, 50)
    assert set(few.train["text"]) < set(more.train["text"])
    assert few.test["text"][:] == more.test["text"][:]
    assert few.counts["labels set aside by data.labelled"] == 150
    with pytest.raises(ValueError, match=r"data\.labelled: asked for 500 training rows with a label, there are"):
        load(Data(path, test=20, labelled=500))


def test_several_labels_and_quantities(tmp_path):
    rows = [(text, number % 2, number % 3 % 2, number / 10) for number, (text, _, _) in enumerate(many())]
    path = write(tmp_path / "a.csv", [*rows, ("no label here", "", "", "")], ("text", "wet", "cold", "depth"))
    several = load(Data(path, label=["wet", "cold"], test=20))
    assert several.classes == ["wet", "cold"]
    assert several.problem_type == "multi_label_classification"
    assert np.isnan(several.unlabelled[0]["label"]).all()
    truth = {text: [float(wet), float(cold)] for text, wet, cold, _ in rows}
    assert all(truth[row["text"]] == row["label"] for row in several.test)
    quantity = load(Data(path, label="depth", problem_type="regression", test=20))
    assert quantity.classes == []
    assert np.isnan(quantity.unlabelled[0]["label"])
    with pytest.raises(ValueError, match="a regression needs numbers in 'text', got"):
        load(Data(path, label="text", problem_type="regression", test=20))


def test_a_column_of_lists_is_multi_label(tmp_path):
    rows = [{"text": text, "kinds": ["tree"] + ["old"] * (number % 2)} for number, (text, _, _) in enumerate(many())]
    rows[3]["kinds"] = ["bush"]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    splits = load(Data(str(path), label="kinds", labels=["tree", "old"], test=20))
    assert splits.counts["rows with a label that is not among the classes, unlabelled"] == 1
    assert sorted({tuple(label) for label in splits.test["label"]}) == [(1.0, 0.0), (1.0, 1.0)]


def test_further_test_sets_leave_out_what_was_trained_on(tmp_path):
    rows = many()
    splits = load(Data(write(tmp_path / "a.csv", rows), test=20))
    known = splits.train["text"][0]
    path = write(tmp_path / "b.csv", [(known + "!", "good", 1), ("an elder", "bad", 1), ("a larch", "so so", 1)])
    further = load_further(Data(path), splits)
    assert further["text"][:] == ["an elder"]
    assert further["label"][:] == [splits.classes.index("bad")]
    with pytest.raises(ValueError, match="has no row labelled with one of"):
        load_further(Data(write(tmp_path / "c.csv", [("an elder", "great", 1)])), splits)


def test_new_texts_have_no_label_of_any_kind(tmp_path):
    rows = [(text, number % 2, number // 2 % 2, number / 10) for number, (text, _, _) in enumerate(many())]
    path = write(tmp_path / "a.csv", rows, ("text", "wet", "tall", "depth"))
    for settings in ({"label": "wet"}, {"label": ["wet", "tall"]}, {"label": "depth", "problem_type": "regression"}):
        train = load(Data(path, test=20, **settings)).train
        made = unlabelled(["a new oak"], train)
        assert made.features == train.features
        label = np.array(made[0]["label"])
        assert np.isnan(label).all() if label.dtype.kind == "f" else label == -100


def test_an_empty_label_is_no_class_called_none(tmp_path):
    rows = [{"text": text, "label": ["None", "some", None][number % 3]} for number, (text, _, _) in enumerate(many(90))]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    splits = load(Data(str(path), test=10, validation=10))
    assert splits.classes == ["None", "some"]
    assert splits.counts["unlabelled"] == 30


def test_documents_of_a_named_test_set_are_not_trained_on(tmp_path):
    rows = tagged(60)
    folder = tmp_path / "set"
    folder.mkdir()
    write_tagged(folder / "train.jsonl", rows[:50])
    with (folder / "test.jsonl").open("w") as file:
        for words, tags in rows[50:]:
            file.write(json.dumps({"words": words, "tags": tags, "doc": 3, "genre": "a"}) + "\n")
    data = Data(str(folder), text="words", label="tags", together="doc", test="test", validation=5)
    splits = load(data, task="token-classification", keep=["doc"])
    assert 3 not in splits.train["doc"]
    assert splits.counts["rows that share a doc with held-out ones, left out"] == 5


def test_a_row_without_its_confidence_lends_its_text(tmp_path):
    rows = [(text, label, "" if number % 4 == 0 else 0.5) for number, (text, label, _) in enumerate(many(80))]
    splits = load(Data(write(tmp_path / "a.csv", rows), minimum={"confidence": 0}, test=10))
    assert splits.counts["unlabelled"] == 20
