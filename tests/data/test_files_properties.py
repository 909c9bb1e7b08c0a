"""Files of any content: rows, or an error that names the file."""

import bz2
import gzip
import io
import json
import lzma
import tempfile
import zipfile
from pathlib import Path

import datasets
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hf_distill.data.config import Data
from hf_distill.data.files import read
from hf_distill.data.generation import load_writing
from hf_distill.data.labelled import load
from tests.properties import REFUSED, answer, examples, quiet

# The library leaves files open where it raises.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

ROWS = [{"text": f"word {number} is, here", "label": "ab"[number % 2]} for number in range(8)]
TABLE = pa.Table.from_pylist(ROWS)


def arrow() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return sink.getvalue()


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink)
    return sink.getvalue()


def zipped(content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        file.writestr("rows.csv", content)
    return sink.getvalue()


CSV = pandas.DataFrame(ROWS).to_csv(index=False).encode()
JSONL = b"\n".join(json.dumps(row).encode() for row in ROWS)
CONLL = b"\n\n".join(b"the O\ncat B-A\nsat O" if n % 2 else b"a O\ndog B-A\nran O" for n in range(8))
VALID = {
    "rows.csv": CSV,
    "rows.tsv": pandas.DataFrame(ROWS).to_csv(index=False, sep="\t").encode(),
    "rows.json": json.dumps(ROWS).encode(),
    "rows.jsonl": JSONL,
    "rows.parquet": parquet(),
    "rows.arrow": arrow(),
    "rows.conll": CONLL,
    "rows.txt": b"a text\nand another\n",
    "rows.csv.gz": gzip.compress(CSV),
    "rows.jsonl.gz": gzip.compress(JSONL),
    "rows.conll.gz": gzip.compress(CONLL),
    "rows.jsonl.bz2": bz2.compress(JSONL),
    "rows.csv.xz": lzma.compress(CSV),
    "rows.csv.zip": zipped(CSV),
}
every_format = pytest.mark.parametrize("name", sorted(VALID))
HEADERS = [
    b"text,label",
    b"text\tlabel\n",
    b"[]",
    b"{}",
    b'{"text": null, "label": null}\n',
    b"\xef\xbb\xbf",
    b"\n\n\n",
]
ODD = [
    b"\x00",
    b'"',
    b"\xff",
    b"\r",
    b"\n",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"," * 9,
    b"{" * 3000,
    b"[" * 3000,
    b"x" * 200_000,
]


@st.composite
def contents(draw, valid: bytes):
    """The bytes of a file, changed here and there; or other bytes."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.sampled_from([b"", *HEADERS, *ODD, *VALID.values()]))
    if kind == 1:
        return draw(st.binary(max_size=200))
    if kind == 2:
        return valid.decode("latin-1").encode(
            draw(st.sampled_from(["utf-16", "utf-32", "utf-16-le", "utf-8", "cp500"]))
        )
    made = bytearray(valid)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(made) - 1)))
        how = draw(st.integers(0, 4))
        if how == 0:
            del made[place:]
        elif how == 1:
            del made[place : place + draw(st.integers(1, 20))]
        elif how == 2:
            made[place:place] = draw(st.sampled_from(ODD) | st.binary(max_size=9))
        elif made:
            made[place] ^= 1 << draw(st.integers(0, 7))
    return bytes(made)


@pytest.fixture(scope="module", autouse=True)
def folder():
    """Where the files are, and what the library makes of them."""
    with tempfile.TemporaryDirectory() as path, pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", Path(path) / "cache")
        patch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", Path(path) / "extracted")
        patch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", Path(path) / "downloads")
        yield Path(path)


@every_format
@examples(6, share=1 / 7)
@given(data=st.data())
def test_any_bytes_are_rows_or_a_file_that_is_named(folder, name, data):
    file = folder / name
    content = data.draw(contents(VALID[name]))
    file.write_bytes(content)
    with quiet():
        found = answer(read, str(file))
        task = "token-classification" if "conll" in name else "text-classification"
        if found is not REFUSED:
            assert all(len(part) for part in found.values())
            words = {"text": "words", "label": "tags"} if "conll" in name else {}
            answer(load, Data(str(file), test=0.2, validation=0.2, **words), task=task)
            answer(load_writing, Data(str(file), test=1, validation=1), task="text-generation")


@every_format
def test_what_is_not_broken_is_read(folder, name):
    (folder / name).write_bytes(VALID[name])
    with quiet():
        found = answer(read, str(folder / name))
    assert (found is REFUSED) == name.endswith(".txt")
    assert found is REFUSED or len(found["train"]) == 8


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.conll"])
@examples(5, share=1 / 20)
@given(
    encoding=st.sampled_from(
        ["utf-8", "utf-16", "cp1252", "ascii", "UTF_8", "idna", "base64", "rot13", "none", "", "\0"]
    ),
    content=st.text(max_size=30),
)
@example(encoding="utf-16", content="a")
def test_any_encoding(folder, name, encoding, content):
    (folder / name).write_bytes(b"text,label\n" + content.encode("utf-8", "surrogatepass"))
    with quiet():
        answer(read, str(folder / name), encoding=encoding)


cells = st.none() | st.text(max_size=5) | st.integers() | st.floats() | st.booleans() | st.lists(st.text(max_size=3))
cells = cells | st.dictionaries(st.sampled_from(["role", "content", "a"]), st.text(max_size=3))


@examples(15, share=1 / 10)
@given(
    rows=st.lists(st.fixed_dictionaries({"text": cells}, optional={"label": cells, "target": cells}), max_size=6),
    task=st.sampled_from(["text-classification", "token-classification", "translation", "text-generation", "messages"]),
    more=st.fixed_dictionaries(
        {},
        optional={
            "label_separator": st.just(";"),
            "missing": st.just(["a"]),
            "problem_type": st.just("regression"),
            "labels": st.just(["a", "b"]),
            "together": st.just("text"),
            "minimum": st.just({"label": 0.5}),
        },
    ),
)
def test_any_cells(folder, rows, task, more):
    """Rows whose values are anything that JSON can hold, ten times over, so that some are left for each split."""
    file = folder / "cells.jsonl"
    many = [
        {name: value + str(n) if isinstance(value, str) else value for name, value in row.items()}
        for n in range(10)
        for row in rows
    ]
    file.write_text("\n".join(json.dumps(row) for row in many))
    data = Data(str(file), test=1, validation=1, messages="text" if task == "messages" else None, **more)
    with quiet():
        if task in ("text-classification", "token-classification"):
            answer(load, data, task=task)
        else:
            answer(load_writing, data, task=task.replace("messages", "text-generation"))
