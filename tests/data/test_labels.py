"""What labels mean: the same in every format, or refused."""

import json
import math
import re

import datasets
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from hf_distill.data.class_names import check_names
from hf_distill.data.config import Data
from hf_distill.data.generation import load_writing
from hf_distill.data.labelled import load, load_further

WORDS = "ash birch cedar dogwood elm fir ginkgo hazel ivy juniper".split()
TEXTS = [f"{WORDS[i % 10]} {WORDS[i // 10]} tree" for i in range(60)]
FORMATS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def write(folder, suffix, columns):
    path, frame = str(folder / f"a{suffix}"), pandas.DataFrame(columns)
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix in (".jsonl", ".json"):
        frame.to_json(path, orient="records", lines=suffix == ".jsonl")
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    return path


def labelled(values):
    return {"text": TEXTS, "label": [values[number % len(values)] for number in range(60)]}


def loaded(folder, values, suffix=".jsonl", *, task="text-classification", **settings):
    path = write(folder, suffix, values if isinstance(values, dict) else labelled(values))
    return load(Data(path, **{"test": 5, "validation": 5} | settings), task=task)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["None", "NA", "null"], ["NA", "None", "null"]),
        (["007", "0", "00"], ["0", "00", "007"]),
        ([str(number) for number in range(12)], [str(number) for number in range(12)]),
        (list(range(12)), [str(number) for number in range(12)]),
        ([1.0, 0.0, None], ["0", "1"]),
        ([True, False], ["False", "True"]),
        (["v2.0", "v10.0"], ["v10.0", "v2.0"]),
        ([-1, 1], ["-1", "1"]),
    ],
)
def test_formats_agree_on_the_classes_and_their_numbers(tmp_path, values, classes):
    found = [loaded(tmp_path, values, suffix) for suffix in FORMATS]
    assert [splits.classes for splits in found] == [classes] * len(FORMATS)
    rows = [{row["text"]: row["label"] for row in splits.train} for splits in found]
    assert all(row == rows[0] for row in rows) and len(rows[0]) + len(found[0].unlabelled) == 50
    truth = dict(zip(*labelled(values).values(), strict=True))
    names = {text: f"{value:g}" if isinstance(value, float) else str(value) for text, value in truth.items()}
    assert all(classes[number] == names[text] for text, number in rows[0].items())


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_missing_is_listed(tmp_path, suffix):
    splits = loaded(tmp_path, ["a", "b", "NA", "nan"], suffix, missing=["NA"])
    assert splits.classes == ["a", "b", "nan"] and splits.counts["unlabelled"] == 15
    texts = {"text": ["NA", *TEXTS[1:]], "label": labelled(["a", "b"])["label"]}
    assert loaded(tmp_path, texts, suffix, missing=["NA"]).counts["empty texts, left out"] == 1
    with pytest.raises(ValueError, match=r"data\.missing"):
        loaded(tmp_path, [1.0, 2.0, "unknown"], ".csv", minimum={"label": 1})
    assert loaded(tmp_path, [1, 2, "?"], ".csv", minimum={"label": 1}, missing=["?"]).classes == ["1", "2"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_named_classes_are_found_in_every_spelling_of_a_number(tmp_path, suffix):
    for labels in ([1.5, 0, 3], ["1.5", "0.0", "3.0"]):
        splits = loaded(tmp_path, [1.5, 0.0, 3.0, 9.0], suffix, labels=labels)
        assert splits.classes == [str(label) for label in labels] and splits.counts["unlabelled"] == 15


@pytest.mark.parametrize("suffix", FORMATS)
def test_targets_are_strings(tmp_path, suffix):
    targets = ["null" if number % 4 == 0 else "NA" if number % 4 == 1 else f"z {number}" for number in range(60)]
    path = write(tmp_path, suffix, {"text": TEXTS, "target": targets})
    splits = load_writing(Data(path, test=5, validation=5), task="translation")
    assert {"null", "NA"} < set(splits.train["target"]) and len(splits.train) == 50
    splits = load_writing(Data(path, test=5, validation=5, missing=["NA"]), task="translation")
    assert splits.counts["rows without a target"] == 15 == len(splits.unlabelled)
    assert "null" in splits.train["target"][:]


def test_a_text_of_zero_is_a_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": number}) + "\n" for number in range(12)))
    splits = load_writing(Data(str(path), test=2, validation=2), task="text-generation")
    assert "empty texts, left out" not in splits.counts and splits.counts["rows read"] == 12


def test_space_around_labels_is_stripped_and_other_spellings_are_pointed_out(tmp_path):
    splits = loaded(tmp_path, ["pos", "neg", "pos ", "Neg", " pos"], ".csv")
    assert splits.classes == ["Neg", "neg", "pos"]
    assert splits.counts["labels with white space around them, stripped"] == 24
    assert splits.counts["classes that differ only in case or space: 'Neg', 'neg'"] == 2
    splits = loaded(tmp_path, ["pos", "neg", "Neg"], labels=["neg", "pos"])
    assert splits.counts["labels that differ from a class only in case or space, unlabelled"] == 20
    assert splits.counts["unlabelled"] == 20


@pytest.mark.parametrize("suffix", FORMATS)
def test_columns_of_zero_and_one(tmp_path, suffix):
    columns = {"text": TEXTS, "wet": [-1, 1, 0] * 20, "cold": [-1, 0, 1] * 20}
    splits = loaded(tmp_path, columns, suffix, label=["wet", "cold"])
    assert splits.counts["rows with a label of -1, unlabelled"] == 20 == splits.counts["unlabelled"]
    assert sorted({tuple(label) for label in splits.train["label"]}) == [(0.0, 1.0), (1.0, 0.0)]
    for wrong in (2, 0.5, "yes", 1.5):
        with pytest.raises(ValueError, match=r"expected 0, 1 or nothing .* in the column 'cold', got .*Make 0 or 1"):
            loaded(tmp_path, columns | {"cold": [0, 1, wrong] * 20}, ".csv", label=["wet", "cold"])
    marks = columns | {"wet": [True, False, None] * 20, "cold": [False, True, True] * 20}
    assert loaded(tmp_path, marks, suffix, label=["wet", "cold"]).counts["unlabelled"] == 20


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_single_label_of_minus_one_is_asked_about(tmp_path, suffix):
    with pytest.raises(
        ValueError, match=r"-1 stands among the labels 0, 1, 2 .*data\.missing: \[-1\].*\[-1, 0, 1, 2\]"
    ):
        loaded(tmp_path, [0, 1, 2, -1], suffix)
    splits = loaded(tmp_path, [0, 1, 2, -1], suffix, missing=[-1])
    assert splits.classes == ["0", "1", "2"] and splits.counts["unlabelled"] == 15
    assert loaded(tmp_path, [0, 1, 2, -1], suffix, labels=[-1, 0, 1, 2]).counts["unlabelled"] == 0


@pytest.mark.parametrize(
    ("values", "separator"),
    [
        (["a", "b", "a;b"], ";"),
        (["a|b", "b|c", "a|c"], "|"),
        (["joy", "anger", "joy, anger"], ","),
        (["['a', 'b']", "['a']"], ","),
        (["[1, 2]", "[2]"], ","),
        (["[1 2]", "[2]"], " "),
    ],
)
def test_several_labels_in_one_cell_are_refused_with_the_key_that_reads_them(tmp_path, values, separator):
    for suffix in (".csv", ".jsonl"):
        with pytest.raises(ValueError, match=rf'several in .* Set data\.label_separator: "[{separator}]"'):
            loaded(tmp_path, values, suffix)
        splits = loaded(tmp_path, [*values, None], suffix, label_separator=separator)
        assert splits.problem_type == "multi_label_classification" and 2 <= len(splits.classes) <= 3
        assert not any(separator in name or "[" in name for name in splits.classes)
        assert np.array(splits.train["label"]).sum() > len(splits.train) and splits.counts["unlabelled"] > 0


def test_several_of_the_named_classes_in_one_cell(tmp_path):
    for cell, separator in (("a;b", ";"), ("['a']", ";"), ("b, a", ",")):
        with pytest.raises(ValueError, match=rf'several in .* Set data\.label_separator: "{separator}"'):
            loaded(tmp_path, ["a", "b", cell], ".csv", labels=["a", "b"])
    assert loaded(tmp_path, ["a", "b", "c;d"], ".csv", labels=["a", "b"]).counts["unlabelled"] == 20


@pytest.mark.parametrize(
    "values", [["good", "very good", "bad"], ["Arts, Crafts", "Arts, Music"], ["a/c", "heating"], ["C++", "C"]]
)
def test_names_of_several_words_are_names(tmp_path, values):
    assert loaded(tmp_path, values).classes == sorted(values)


def test_a_separator_is_for_texts_with_several_labels(tmp_path):
    with pytest.raises(ValueError, match=r"data\.label_separator='' parts the labels"):
        Data("a.csv", label_separator="")
    with pytest.raises(ValueError, match=r"one column in data\.label, got \['a', 'b'\]"):
        Data("a.csv", label=["a", "b"], label_separator=";")
    with pytest.raises(ValueError, match="leave it out where words have tags"):
        loaded(tmp_path, [1.0, 2.0], problem_type="regression", label_separator=";")


SPAN = {"start": 0, "end": 3, "label": "PER"}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("text", ["red", "dog"], "got lists: .*task: token-classification"),
        ("text", {"en": "red"}, "got objects: .*a column of its own"),
        ("text", "['red', 'dog']", "got lists: .*task: token-classification"),
        ("label", [SPAN], "got objects: .*task: token-classification"),
        ("label", SPAN, "got objects: .*task: token-classification"),
        ("label", str(SPAN), "got objects: .*task: token-classification"),
        ("label", [0, 1, 0], "mark classes by 0 and 1, .*name them all in data.label"),
    ],
)
def test_lists_and_objects_where_a_text_or_a_label_belongs(tmp_path, column, value, message):
    path = tmp_path / "a.jsonl"
    rows = [{"text": text, "label": "ab"[number % 2], column: value} for number, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=rf"data\.{column}: .*{message}"):
        load(Data(str(path), test=5, validation=5))


def test_tagging_reads_lists(tmp_path):
    rows = {"words": [text.split() for text in TEXTS], "tags": [["A", "B", "C"]] * 60}
    settings = {"task": "token-classification", "text": "words", "label": "tags"}
    assert loaded(tmp_path, rows, **settings).classes == ["A", "B", "C"]
    with pytest.raises(ValueError, match="expected a list of words in the column 'words', got ash ash tree"):
        loaded(tmp_path, rows | {"words": TEXTS}, **settings)
    with pytest.raises(ValueError, match="expected a list of tags a sentence in the column 'tags', got 'A B C'"):
        loaded(tmp_path, rows | {"tags": ["A B C"] * 60}, **settings)
    ignored = loaded(tmp_path, rows | {"tags": [[0, -100, 1]] * 60}, **settings)
    assert ignored.classes == ["0", "1"] and ignored.train[0]["label"] == [0, -100, 1]
    blank = loaded(tmp_path, rows | {"words": [[*text.split()[:2], " "] for text in TEXTS]}, **settings)
    assert blank.train[0]["words"][-1] == " " and "empty texts, left out" not in blank.counts


def test_schemes_of_tags_are_told(tmp_path):
    rows = {"words": [[*text.split(), "x"] for text in TEXTS]}
    for tags, scheme, counts in (
        (["B-A", "I-A", "O", "O"], "IOB2", {}),
        (["I-A", "B-A", "O", "O"], "IOB1", {"sentences with tags in the IOB1 scheme": 60}),
        (["B-A", "O", "O", "S-A"], "IOBES", {"tags that the IOBES scheme does not allow where they stand": 60}),
    ):
        splits = loaded(tmp_path, rows | {"tags": [tags] * 60}, task="token-classification", text="words", label="tags")
        assert splits.tag_scheme == scheme and counts.items() <= splits.counts.items()
    assert loaded(tmp_path, ["a", "b"]).tag_scheme is None


@pytest.mark.parametrize("large", [True, False])
def test_columns_of_large_lists(tmp_path, large):
    kind = pyarrow.large_list if large else pyarrow.list_
    labels = pyarrow.array([["a", "b"], ["a"], ["b"]] * 20, type=kind(pyarrow.large_string()))
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "label": labels}), tmp_path / "a.parquet")
    splits = load(Data(str(tmp_path / "a.parquet"), test=5, validation=5))
    assert splits.classes == ["a", "b"] and len(splits.train) == 50


@pytest.mark.parametrize("value", ["inf", "-Infinity", "nan", "1e999"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_quantities_are_finite(tmp_path, value, suffix):
    values = ["0.5", "1.5", "2.5", value]
    with pytest.raises(ValueError, match=rf"finite numbers in 'label', got '{value}'.*data\.missing: \[{value}\]"):
        loaded(tmp_path, values, suffix, problem_type="regression")
    splits = loaded(tmp_path, values, suffix, problem_type="regression", missing=[value])
    assert splits.counts["unlabelled"] == 15


def test_infinite_numbers_are_no_quantities_either(tmp_path):
    path = str(tmp_path / "a.parquet")
    labels = pyarrow.array([0.5, math.inf, math.nan] * 20)
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "label": labels}), path)
    with pytest.raises(ValueError, match="finite numbers in 'label', got inf"):
        load(Data(path, test=5, validation=5, problem_type="regression"))


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_column_of_different_values_has_no_classes(tmp_path, suffix):
    with pytest.raises(ValueError, match=r"60 different values in 60 labels, 0, 1, 2 .*data\.problem_type: regression"):
        loaded(tmp_path, list(range(60)), suffix)
    with pytest.raises(ValueError, match=r"60 different values.* Is it a text\?.*data\.labels"):
        loaded(tmp_path, [f"about {text}" for text in TEXTS], suffix)
    check_names([str(number) for number in range(30)], "label", 60, single=True)


def test_a_labelled_copy_wins_over_an_unlabelled_one(tmp_path):
    rows = [(text, None) for text in TEXTS[:30]] + [(text, "ab"[number % 2]) for number, text in enumerate(TEXTS)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text.upper(), "label": label}) + "\n" for text, label in rows))
    splits = load(Data(str(path), test=5, validation=5))
    assert splits.counts["duplicates, left out"] == 30 and splits.counts["unlabelled"] == 0
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test)) == 60
    (tmp_path / "set").mkdir()
    for part, chosen in (("train", rows[30:]), ("test", [*rows[:1], ("a larch", "a")])):
        lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in chosen)
        (tmp_path / "set" / f"{part}.jsonl").write_text("".join(lines))
    splits = load(Data(str(tmp_path / "set"), test="test", validation=5))
    assert splits.counts["train"] == 55 and "duplicates, left out" not in splits.counts


def test_groups_of_a_report_are_numbers_in_every_format(tmp_path):
    columns = labelled(["a", "b"]) | {"year": range(60), "score": [0.5, 1.25] * 30, "code": ["007", "8"] * 30}
    for suffix in FORMATS:
        data = Data(write(tmp_path, suffix, columns), test=5, validation=5)
        train = load(data, keep=["year", "score", "code"]).train
        assert [train.features[name].dtype for name in ("year", "score", "code")][:2] == ["int64", "float64"]
        assert set(train["code"]) == {"007", "8"}


def test_further_test_sets_read_what_is_missing_and_separated(tmp_path):
    splits = loaded(tmp_path, ["a", "b", "a;b"], ".csv", label_separator=";")
    (tmp_path / "b.csv").write_text("text,label\nan elder,b;a\na larch,NA\n")
    further = load_further(Data(str(tmp_path / "b.csv"), label_separator=";", missing=["NA"]), splits)
    assert further["label"][:] == [[1.0, 1.0]]


@pytest.mark.parametrize(("separator", "written"), [(";", ";"), ("|", "|"), ("\t", r"\t")])
def test_another_separator_is_advised(tmp_path, separator, written):
    """Also where cells of texts have commas, which would otherwise be taken for too many cells."""
    (tmp_path / "a.csv").write_text(f"text{separator}label\na, b and c{separator}d\n")
    told = rf'the header is one cell, .*separate the columns, set data\.options: {{sep: "{re.escape(written)}"}}; if'
    with pytest.raises(ValueError, match=told):
        load(Data(str(tmp_path / "a.csv"), test=1))


def test_what_may_be_no_class_is_counted(tmp_path):
    names = ["billing"] * 22 + ["delivery"] * 24 + ["delivrey"] * 2 + ["Delivery"] + ["legal"] + ["sports"] * 10
    counts = loaded(tmp_path, {"text": TEXTS, "label": names}).counts
    assert counts["labelled rows of the class 'legal', too few to learn or to measure it"] == 1
    assert counts["labelled rows of the class 'delivrey', one typing error from 'delivery'"] == 2
    assert counts["classes that differ only in case or space: 'Delivery', 'delivery'"] == 2
    assert not [name for name in counts if "billing" in name or "sports" in name]


def test_a_class_label_of_minus_one_is_none(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])})
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": [-1, 0, 1] * 20}, features=features)
    rows.to_parquet(str(tmp_path / "a.parquet"))
    splits = load(Data(str(tmp_path / "a.parquet"), test=5, validation=5))
    assert splits.classes == ["x", "y"] and splits.counts["unlabelled"] == 20


@pytest.mark.parametrize(
    ("values", "sign"),
    [
        (["entailment", "neutral", "-"], "'-'"),
        (["yes", "no", "?"], "'[?]'"),
        (["pos", "neg", "-1"], "-1"),
        ([1, 2, 3, -1], "-1"),
    ],
)
def test_a_value_that_may_mean_no_label_is_refused(tmp_path, values, sign):
    with pytest.raises(ValueError, match=rf"data\.label: {sign} stands among .* set data\.missing: \[{sign}\]"):
        loaded(tmp_path, values)
    assert loaded(tmp_path, values, missing=[values[-1]]).counts["unlabelled"] > 0
    assert loaded(tmp_path, values, labels=values).classes == [str(value) for value in values]


@pytest.mark.parametrize("values", [[-2, -1, 0, 1], [-1, 1], ["+", "-", "none"], ["\U0001f600", "\u2764"]])
def test_signs_and_negative_numbers_may_be_classes(tmp_path, values):
    assert sorted(loaded(tmp_path, values).classes) == sorted(map(str, values))


@pytest.mark.parametrize(
    ("values", "separator"),
    [
        (["('a', 'b')", "('a',)", "()"], ","),
        (["a & b", "a", "b"], "&"),
        (["a:b", "a", "b"], ":"),
        (["a#b", "a", "b"], "#"),
        (["a\tb", "c\ta", "b\tc"], "\t"),
    ],
)
def test_more_ways_of_writing_several_labels(tmp_path, values, separator):
    with pytest.raises(ValueError, match=rf'several in .*data\.label_separator: "{separator}"'):
        loaded(tmp_path, values)
    splits = loaded(tmp_path, values, label_separator=separator)
    assert splits.problem_type == "multi_label_classification" and set(splits.classes) <= set("abc")


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        ([[0, 1], [1, 0]], {}),
        ([[0.2, 0.8], [0.6, 0.4]], {}),
        ([[True, False, False], [False, True, True]], {}),
        (["[0 1 0]", "[1 0 0]"], {"label_separator": " "}),
    ],
)
def test_marks_and_probabilities_do_not_name_classes(tmp_path, values, settings):
    with pytest.raises(ValueError, match=r"mark classes by (0 and 1|quantities), .* do not name them"):
        loaded(tmp_path, values, **settings)


@pytest.mark.parametrize(
    ("values", "told"),
    [(["pos", "\ufeffpos", "neg"], "pos"), (["caf\u00e9", "cafe\u0301", "x"], "caf"), (["a", "b", "a\u200b"], "a")],
)
def test_classes_that_look_alike_are_pointed_out(tmp_path, values, told):
    counts = loaded(tmp_path, values).counts
    assert any(name.startswith(f"classes that differ only in case or space: '{told}") for name in counts)


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        (labelled([1.5]), {"problem_type": "regression"}, "different numbers in 'label', and all rows have 1.5"),
        (labelled([1e39, 1.0]), {"problem_type": "regression"}, "finite numbers in 'label', got 1e[+]39"),
        (
            labelled([1, 2]) | {"other": range(60)},
            {"problem_type": "regression", "label": ["label", "other"]},
            "one column of quantities",
        ),
        (labelled(["a", "b"]), {"labels": ["x", "y"]}, r"none of \['x', 'y'\] stands in .* which has 'a', 'b'"),
        (labelled(["a", "b"]) | {"label.1": ["a"] * 60}, {}, "'label' stands twice in the data"),
        ({"text": TEXTS, " label": ["a", "b"] * 30}, {}, "the data has 'text', ' label'"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(tmp_path, columns, settings, message):
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path, columns, ".parquet", **settings)


@pytest.mark.parametrize("column", ["text", "label"])
@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()])
def test_bytes_are_no_text(tmp_path, column, kind):
    columns = {name: pyarrow.array(values) for name, values in labelled(["a", "b"]).items()}
    columns[column] = columns[column].cast(kind)
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=rf"data\.{column}: the column '{column}' holds bytes"):
        load(Data(str(tmp_path / "a.parquet"), test=5, validation=5))


def test_a_class_label_without_a_class_is_no_quantity(tmp_path):
    feature = datasets.ClassLabel(names=["one", "two"])
    features = datasets.Features({"text": datasets.Value("string"), "label": feature})
    datasets.Dataset.from_dict(labelled([0, 1, -1]), features=features).to_parquet(tmp_path / "a.parquet")
    splits = load(Data(str(tmp_path / "a.parquet"), test=5, validation=5, problem_type="regression"))
    assert splits.counts["unlabelled"] == 20 and set(splits.train["label"]) == {0.0, 1.0}
