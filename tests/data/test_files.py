"""Files in, rows out."""

import pytest

from hf_distill.data.files import read, read_conll

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
