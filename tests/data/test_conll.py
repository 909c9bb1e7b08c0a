"""Files of the CoNLL family: which lines are words, and which columns words and tags."""

import gzip
from collections import Counter

import pytest

from hf_distill.data.config import Data
from hf_distill.data.conll import read_conll
from hf_distill.data.files import read
from hf_distill.data.labelled import load


def sentences(path, text, **columns):
    path.write_text(text, encoding="utf-8")
    counts = Counter()
    rows = read_conll(path, counts=counts, **columns)
    return rows["words"][:], rows["tags"][:], dict(counts)


def test_comments_are_no_words_and_words_that_begin_with_a_hash_are(tmp_path):
    text = "# id 1\tdomain=en\n# 12\n#Foo _ B-X\n# _ O\na _ O\n\n#\n# newdoc\n# _ O\nb _ B-X\n"
    words, tags, counts = sentences(tmp_path / "a.conll", text)
    assert words == [["#Foo", "#", "a"], ["#", "b"]] and tags == [["B-X", "O", "O"], ["O", "B-X"]]
    assert counts == {"comment lines, left out": 4}


def test_tags_of_hashtags_alone(tmp_path):
    """A tag set may have a tag of its own for them."""
    words, tags, _ = sentences(tmp_path / "a.conll", "#now\t#\nplaying\tV\n\ngo\tV\n#go\t#\n")
    assert words == [["#now", "playing"], ["go", "#go"]] and tags == [["#", "V"], ["V", "#"]]


UNIVERSAL = """# sent_id = 1
# text = au x
1-2\tau\t_\t_\t_\t_\t_\t_\t_\t_
1\ta\ta\tADP\tIN\t_\t0\tdep\t_\t_
2\tle\tle\tDET\tDT\t_\t0\tdep\t_\tSpaceAfter=No
2.1\tx\tx\tVERB\tVB\t_\t_\t_\t_\t_

1\tb\tb\tNOUN\tNN\t_\t0\tdep\t_\t_
"""


def test_index_columns(tmp_path):
    path = tmp_path / "a.conllu"
    with pytest.raises(ValueError, match=r"numbers only, not the words\. .* data\.text: 1 and data\.label: 3.*1: 'a'"):
        sentences(path, UNIVERSAL)
    with pytest.raises(ValueError, match=r"ten columns, as in CoNLL-U.* data\.label: 3"):
        sentences(path, UNIVERSAL, words=1)
    words, tags, counts = sentences(path, UNIVERSAL, words=1, tags=3)
    assert words == [["a", "le"], ["b"]] and tags == [["ADP", "DET"], ["NOUN"]]
    assert counts["lines of several words together or of none (7-8, 7.1), left out"] == 2
    with pytest.raises(ValueError, match=r"there is no column 12, it has 10: 0: '1', 1: 'a'"):
        sentences(path, UNIVERSAL, words=12, tags=3)


def test_an_index_in_front_of_named_entities(tmp_path):
    path = tmp_path / "a.conll"
    german = "#\thttp://x [2009]\n1\tAnna\tB-PER\tO\n2\tging\tO\tO\n\n1\tEr\tO\tO\n"
    with pytest.raises(ValueError, match=r"data\.text: 1"):
        sentences(path, german)
    assert sentences(path, german, words=1, tags=2)[:2] == ([["Anna", "ging"], ["Er"]], [["B-PER", "O"], ["O"]])
    of_documents = "doc1 0 Anna B-PER\ndoc1 1 went O\ndoc1 2 home O\n\n" * 2
    with pytest.raises(ValueError, match=r"one value a sentence, not the words.* data\.text: 2 and data\.label: 3"):
        sentences(path, of_documents)
    assert sentences(path, of_documents, words=2)[0][0] == ["Anna", "went", "home"]


def test_columns_by_number_in_a_recipe(tmp_path):
    rows = "".join(f"1\tred\tADJ\tx\n2\tdog{'x' * number}\tNOUN\tx\n\n" for number in range(20))
    (tmp_path / "a.conll").write_text(rows)
    data = Data(str(tmp_path / "a.conll"), text=1, label=2, test=4, validation=4)
    splits = load(data, task="token-classification")
    assert splits.classes == ["ADJ", "NOUN"] and splits.train["words"][0][0] == "red"
    (tmp_path / "a.csv").write_text("text,label\na,b\n")
    with pytest.raises(ValueError, match=r"1, 2 are columns by number, as CoNLL files have them.*names its columns"):
        load(Data(str(tmp_path / "a.csv"), text=1, label=2))


def test_white_space_that_belongs_to_words(tmp_path):
    words, tags, _ = sentences(tmp_path / "a.conll", "10\u00a0000 B-NUM\n\u00a0 O\ndog  O\n")
    assert words == [["10\u00a0000", "\u00a0", "dog"]] and tags == [["B-NUM", "O", "O"]]
    words, tags, _ = sentences(tmp_path / "b.conll", "New York\tB-LOC\n \tO\nis\tO\n\nuntagged words\n")
    assert words == [["New York", " ", "is"], ["untagged words"]] and tags == [["B-LOC", "O", "O"], None]
    words, tags, _ = sentences(tmp_path / "c.conll", "a\tX\t\nb\tY\t\n")
    assert words == [["a", "b"]] and tags == [["X", "Y"]]


@pytest.mark.parametrize("broken", ["a X\nNew York Y\nb X\n", "a\tX\nb\t\nc\tY\n", "a X\n\nb X\nc\n"])
def test_lines_that_do_not_fit(tmp_path, broken):
    with pytest.raises(ValueError, match=r"a\.conll.*(has 3 columns and the others of its sentence 2|have no tag)"):
        sentences(tmp_path / "a.conll", broken)


def test_a_byte_order_mark_and_compression(tmp_path):
    for part in ("train", "test"):
        with gzip.open(tmp_path / f"{part}.conll.gz", "wt", encoding="utf-8-sig") as file:
            file.write("a X\nb Y\n")
    parts = read(str(tmp_path))
    assert sorted(parts) == ["test", "train"] and parts["train"]["words"][:] == [["a", "b"]]
    assert read(str(tmp_path / "train.conll.gz"))["train"]["tags"][:] == [["X", "Y"]]


SENTENCES = [["Anna", "went", "to", "Rome", "."], ["Bert", "sees", "Paris"], ["Carla", "reads", "books", "slowly"]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (lambda place, word: (word, "NN", str(place)), "the last column numbers the words .* data.label: 1"),
        (lambda place, word: (word, "NN", str(place + 1)), "the last column numbers the words"),
        (lambda place, word: ("N" + str(place % 2), word), "other way round.* data.text: 1 and data.label: 0"),
        (lambda place, word: (word, "NN", word.lower()), "repeats most words.* data.text: 0 and data.label: 1"),
    ],
)
def test_a_last_column_that_holds_no_tags_is_refused(tmp_path, columns, message):
    lines = ["\n".join("\t".join(columns(*each)) for each in enumerate(words)) for words in SENTENCES]
    (tmp_path / "a.conll").write_text("\n\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=message):
        read_conll(tmp_path / "a.conll")
    assert len(read_conll(tmp_path / "a.conll", words=0, tags=0)) == 3


def test_numbers_may_be_tags(tmp_path):
    words, tags, _ = sentences(tmp_path / "a.conll", "a\t0\nb\t1\nc\t0\n\nd\t1\ne\t0\nf\t1\n")
    assert words == [["a", "b", "c"], ["d", "e", "f"]] and tags == [["0", "1", "0"], ["1", "0", "1"]]


def load_tags(path, rows):
    path.write_text("".join(f"{row}\n\n" for row in rows))
    return load(Data(str(path), text="words", label="tags", test=1, validation=1), task="token-classification")


def test_other_separators_than_tabs_and_blanks_are_told(tmp_path):
    with pytest.raises(ValueError, match="other signs than tabs or blanks"):
        load_tags(tmp_path / "a.conll", [f"{word}|O" for word in "abcdef"])


@pytest.mark.parametrize(
    ("tags", "odd"), [("B-X I-X 0", "'0'"), ("B_X I_X O", "'B_X', 'I_X'"), ("X-B X-I O", "'X-B', 'X-I'")]
)
def test_tags_that_miss_a_scheme_are_told(tmp_path, tags, odd):
    words = "ash birch cedar dogwood elm fir".split()
    rows = [f"{word} {tag}" for word, tag in zip(words, tags.split() * 2, strict=True)]
    splits = load_tags(tmp_path / "a.conll", rows)
    told = f"tags that are not B-NAME, I-NAME or O, so that words are scored, not entities: {odd}"
    assert splits.tag_scheme is None and told in splits.counts
