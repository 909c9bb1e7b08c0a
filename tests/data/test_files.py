"""Files in, rows out."""

import csv
import gzip
from collections import Counter

import datasets
import pyarrow
import pytest

from hf_distill.data.conll import read_conll
from hf_distill.data.files import read

CONLL = """-DOCSTART- -X- O

Anna NNP B-PER
went VBD O

untagged
words

. . O
"""


def test_conll(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text(CONLL)
    rows = read_conll(path)
    assert rows["words"][:] == [["Anna", "went"], ["untagged", "words"], ["."]]
    assert rows["tags"][:] == [["B-PER", "O"], None, ["O"]]
    assert read(str(path), split="all")["all"][:] == rows[:]


def test_an_empty_file_is_told_by_name(tmp_path):
    (tmp_path / "a.csv").touch()
    with pytest.raises(ValueError, match=r"data\.path: .*a\.csv cannot be read as csv: .+"):
        read(str(tmp_path / "a.csv"))


def test_tabs_win_over_blanks(tmp_path):
    path = tmp_path / "a.iob2"
    path.write_text("New York\tB-LOC\nis\tO\n")
    assert read_conll(path)[0] == {"words": ["New York", "is"], "tags": ["B-LOC", "O"]}


def test_a_folder_of_conll_files_has_a_split_each(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.conll").write_text(CONLL)
    assert {name: len(part) for name, part in read(str(tmp_path)).items()} == {"train": 3, "test": 3}


def test_a_folder_has_a_split_for_each_file_of_its_format(tmp_path):
    for name, number in (("train", 3), ("test", 2), ("texts_alone", 4)):
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\n" + "a, b\tgood\n" * number)
    (tmp_path / "ledger.jsonl").write_text('{"key": 1}\n')
    parts = read(str(tmp_path))
    assert {name: len(part) for name, part in parts.items()} == {"train": 3, "test": 2, "texts_alone": 4}
    assert parts["train"][0] == {"text": "a, b", "label": "good"}


def test_a_folder_without_the_split_is_left_to_the_library(tmp_path):
    for number in range(2):
        (tmp_path / f"train-0000{number}-of-00002.csv").write_text("text,label\na,good\n")
    assert {name: len(part) for name, part in read(str(tmp_path)).items()} == {"train": 2}


def test_a_word_without_a_tag(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("Anna B-PER\nwent\nhome O\n\n")
    with pytest.raises(ValueError, match=r"a\.conll: .* ends before line 4, 1 of 3 words have no tag"):
        read_conll(path)


STRINGS = ["None", "NA", "null", "nan", "N/A", "007", "True", "1.0", " a "]


def test_the_cells_of_csv_and_tsv_are_strings_and_only_the_empty_one_is_missing(tmp_path):
    for suffix, separator in ((".csv", ","), (".tsv", "\t")):
        path = tmp_path / f"a{suffix}"
        path.write_text(f"text{separator}label\n" + "".join(f"a{separator}{cell}\n" for cell in [*STRINGS, ""]))
        assert read(str(path))["train"]["label"][:] == [*STRINGS, None]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_separators_encodings_and_compression(tmp_path, suffix):
    opened = gzip.open if suffix else open
    for name, options, encoding in (
        ("a.csv", {"sep": ";"}, "utf-8-sig"),
        ("b.csv", {"sep": "|", "encoding": "cp1252"}, "cp1252"),
        ("c.tsv", {}, "utf-8-sig"),
    ):
        path, separator = tmp_path / (name + suffix), options.get("sep", "\t")
        with opened(path, "wt", encoding=encoding) as file:
            file.write(f"text{separator}label\nnäh{separator}None\n")
        assert read(str(path), **options)["train"][:] == {"text": ["näh"], "label": ["None"]}


def test_a_folder_of_shards_is_read_as_a_file_is(tmp_path):
    for number, label in enumerate(("None", "007")):
        (tmp_path / f"train-0000{number}-of-00002.csv").write_text(f"text,label\na,{label}\n")
    assert read(str(tmp_path))["train"]["label"][:] == ["None", "007"]


def test_a_folder_of_compressed_files(tmp_path):
    for part in ("train", "test"):
        with gzip.open(tmp_path / f"{part}.csv.gz", "wt") as file:
            file.write("text,label\na,NA\n")
    assert {name: rows["label"][:] for name, rows in read(str(tmp_path)).items()} == {"train": ["NA"], "test": ["NA"]}


def test_a_quotation_mark_in_tsv_is_a_character_unless_all_of_them_quote(tmp_path):
    path = tmp_path / "a.tsv"
    lone = ['"a', 'b "c" d', '5" pipe', '"whole"', "e"]
    path.write_text("text\tlabel\n" + "".join(f"{text}\tx\n" for text in lone))
    assert read(str(path))["train"]["text"][:] == lone
    quoted = ["a\tb", 'say "no"', "two\nlines", "plain"]
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([("text", "label"), *((text, "x") for text in quoted)])
    counts = Counter()
    assert read(str(path), counts=counts)["train"]["text"][:] == quoted
    assert counts == {"line ends within quoted cells": 1}
    path.write_text('text\tlabel\na "b" c\tx\n"two\nlines"\ty\n')
    with pytest.raises(ValueError, match=r"line 3, has 1 of 2 cells and ends in a text that \" opens: '\"two'"):
        read(str(path))


ROWS = [f"text {number},{'pos' if number % 2 else 'neg'}\n" for number in range(12)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*ROWS[:4], '"', *ROWS[4:]], "lines 6 to 13 are one row by their marks"),
        ([*ROWS[:4], '"', *ROWS[4:8], '"', *ROWS[8:]], "expected after '\"'.*quoting: 3"),
        ([*ROWS[:4], '"', *ROWS[4:8], 'loud",pos\n', *ROWS[8:]], "each line looks like a row: its 'label' is 'neg' or"),
        ([*ROWS[:11], '"text,pos'], "EOF inside string.*none closes it"),
        (
            [row.replace("\n", ",\n") for row in ROWS],
            "line 2, has 3 cells and the header 2: each line ends with a comma",
        ),
        ([f"{number},{row}" for number, row in enumerate(ROWS)], r"as all rows do.*index_col: 0"),
        ([*ROWS, "a, b,pos\n"], "line 14, has 3 cells and the header 2: 'a, b,pos'"),
        ([], "has the header 'text,label' and no row"),
    ],
)
def test_rows_that_quotation_marks_or_separators_change(tmp_path, lines, message):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(lines))
    with pytest.raises(ValueError, match=message):
        read(str(path))


def test_the_options_that_errors_advise(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"{number},{row}" for number, row in enumerate(ROWS)))
    rows = read(str(path), index_col=0)["train"]
    assert rows.column_names == ["text", "label"] and rows[1] == {"text": "text 1", "label": "pos"}
    path.write_text("text,label\n" + "".join(['"', *ROWS[:4], '"', *ROWS[4:]]))
    assert read(str(path), quoting=3)["train"]["text"][:5] == ['"text 0', "text 1", "text 2", "text 3", '"text 4']
    path.write_text("".join(ROWS))
    for options in ({"names": ["a", "b"]}, {"column_names": ["a", "b"]}):
        assert read(str(path), **options)["train"][0] == {"a": "text 0", "b": "neg"}
    path.write_text("7 rows\ntext,label\n007,None\n")
    assert read(str(path), skiprows=1)["train"][0] == {"text": "007", "label": "None"}


def test_lines_and_rows_are_compared(tmp_path):
    path, counts = tmp_path / "a.csv", Counter()
    path.write_text('text,label\n\n"one, a\nb, two\nthree",pos\nno label\n' + "".join(ROWS))
    assert len(read(str(path), counts=counts)["train"]) == 14
    assert counts == {
        "line ends within quoted cells": 2,
        "rows with fewer cells than the header, filled up with empty ones": 1,
    }


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.conll"])
def test_another_encoding_and_no_row_are_told(tmp_path, name):
    path = tmp_path / name
    path.write_bytes('{"text": "näh", "label": "x"}\n'.encode("cp1252"))
    with pytest.raises(ValueError, match=r"a\.\w+ cannot be read in this encoding: .*options: {encoding: cp1252}"):
        read(str(path))
    path.write_text("[]" if name == "a.json" else "")
    with pytest.raises(ValueError, match=r"a\.\w+ (cannot be read as \w+: the file is empty|has no word)"):
        read(str(path))


def test_arrow_files(tmp_path):
    table = pyarrow.table({"text": ["a", "b"], "label": ["None", None]})
    with pyarrow.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    assert read(str(tmp_path / "a.arrow"))["train"][:] == table.to_pydict()


MARKED = [("ash", "a"), ('"birch', "b"), ("cedar", "a"), ('dogwood"', "b"), ("elm", "a"), ("fir", "b"), ("oak", "b")]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"column_names": ["text", "label"]},
        {"names": ["text", "label"], "header": 0},
        {"header": None},
        {"skiprows": 1},
        {"usecols": ["text", "label"]},
        {"encoding": "utf-16"},
        {"escapechar": "\\"},
        {"comment": "%"},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_a_lone_mark_swallows_no_row_whatever_the_options(tmp_path, options, end):
    named = "column_names" in options or options.get("header", "") is None
    lines = [*["made by hand"] * ("skiprows" in options), *["text\tlabel"] * (not named)]
    lines += ["\t".join(row) for row in MARKED]
    path, encoding = tmp_path / "a.tsv", options.get("encoding", "utf-8")
    path.write_bytes("".join(line + end for line in lines).encode(encoding))
    rows = read(str(path), **options)["train"]
    assert list(zip(*(rows[name] for name in rows.column_names), strict=True)) == MARKED
    path = tmp_path / "a.csv"
    path.write_bytes("".join(line.replace("\t", ",") + end for line in lines).encode(encoding))
    if "comment" not in options:  # with it only pandas can tell what a row is
        with pytest.raises(ValueError, match=r'are one row by their marks \("\)'):
            read(str(path), **options)


def test_marks_and_line_ends_that_would_change_a_text_are_told(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"he said \\"hi\\" again",a\nash,b\n')
    with pytest.raises(ValueError, match=r"line 2, has .*Set data\.options: \{escapechar: '\\'\}"):
        read(str(path))
    assert read(str(path), escapechar="\\")["train"]["text"][:] == ['he said "hi" again', "ash"]
    path.write_text('text,label\n"he said "hi" again",a\nash,b\n')
    counts = Counter()
    assert len(read(str(path), counts=counts)["train"]) == 2
    assert counts == {"rows in which quotation marks stand where a csv writer sets none, read as they are": 1}
    path.write_bytes(b"text,label\nash\rbirch,a\nelm,b\n")
    with pytest.raises(ValueError, match="line 2 ends with a carriage return alone, and others with a line feed"):
        read(str(path))
    path.write_bytes(b'text,label\n"ash\rbirch",a\nelm,b\n')
    assert read(str(path))["train"]["label"][:] == ["a", "b"]


def test_what_else_a_folder_holds_is_told(tmp_path):
    for name, content in (("train.CSV", "text,label\nash,a\n"), ("test.csv", "text,label\nelm,b\n"), ("dev.tsv", "")):
        (tmp_path / name).write_text(content)
    counts = Counter()
    parts = read(str(tmp_path), counts=counts)
    assert {name: part["text"][:] for name, part in parts.items()} == {"train": ["ash"], "test": ["elm"]}
    assert counts == {"files of another format than .csv, not read: dev.tsv": 1}
    with gzip.open(tmp_path / "train.csv.gz", "wt") as file:
        file.write("text,label\nfir,a\n")
    with pytest.raises(ValueError, match=r"two files of the split 'train', train\.CSV and train\.csv\.gz"):
        read(str(tmp_path))


def test_a_saved_data_set_is_read_without_what_was_left_beside_it(tmp_path):
    rows = datasets.Dataset.from_dict({"text": ["ash", "elm"], "label": ["a", "b"]})
    rows.save_to_disk(tmp_path / "one")
    datasets.load_from_disk(tmp_path / "one").map(lambda row: {"text": row["text"].upper()})  # leaves a cache-*.arrow
    assert read(str(tmp_path / "one"))["train"]["text"][:] == ["ash", "elm"]
    datasets.DatasetDict(train=rows, test=rows.select([1])).save_to_disk(tmp_path / "two")
    assert {name: len(part) for name, part in read(str(tmp_path / "two")).items()} == {"train": 2, "test": 1}
