"""Caches that were tampered with, label maps and rows of anything: right, or refused."""

import json
import math
import shutil
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import transformers
from hypothesis import example, given
from hypothesis import strategies as st

from hf_distill import cache_teacher_outputs
from hf_distill.checksums import SEAL, is_sealed
from hf_distill.soft_targets.label_map import check_label_map, mapped_logits
from hf_distill.soft_targets.provenance import row_hashes
from tests.conftest import tiny_bert, tiny_rows
from tests.properties import REFUSED, answer, examples

ROWS, TEACHER = tiny_rows(9), tiny_bert(num_labels=3)


def opened(folder, rows=ROWS):
    return cache_teacher_outputs(
        rows, TEACHER, task="text-classification", output_dir=folder, shard_size=4, dtype="float32"
    )


@pytest.fixture(scope="module")
def finished():
    """A finished cache of three shards, and its logits."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path), np.array(opened(path)["teacher_logits"])


@pytest.fixture
def logged(caplog):
    transformers.utils.logging.enable_propagation()
    yield caplog
    transformers.utils.logging.disable_propagation()


def copied(source, to):
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(source, to))


@examples(8, share=1 / 20)
@given(data=st.data(), number=st.integers(0, 2), how=st.sampled_from(["flip", "flip", "cut", "insert", "zero"]))
def test_a_changed_shard_is_told_by_its_name_and_made_again(finished, tmp_path, logged, data, number, how):
    source, expected = finished
    folder = copied(source, tmp_path / "cache")
    shard = folder / f"shard-0000{number}.arrow"
    content = bytearray(shard.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if how == "flip":
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del content[place:]
    elif how == "insert":
        content[place:place] = data.draw(st.binary(min_size=1, max_size=9))
    else:
        content[place : place + 8] = bytes(len(content[place : place + 8]))
    changed = bytes(content) != shard.read_bytes()
    shard.write_bytes(content)
    logged.clear()
    assert np.allclose(opened(folder)["teacher_logits"], expected, atol=1e-6)
    assert (f"{shard.name} " in logged.text and "has to be written again" in logged.text) == changed
    logged.clear()
    opened(folder)
    assert not logged.text, "it was not mended"


leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.floats()
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
)


@examples(8, share=1 / 20)
@given(
    part=st.sampled_from(["teacher", "tokenizer", "options", "rows", "checksums", "columns", "versions", None]),
    name=st.sampled_from(["order", "number", "unchecked", "hash", "weights", "task", None]),
    value=trees | st.just(["../provenance.json", "shard-00000.arrow"]),
)
@example(part="rows", name=None, value={})
@example(part="checksums", name="unchecked", value=None)
def test_a_changed_record_is_refused_or_says_the_same(finished, tmp_path, part, name, value):
    source, expected = finished
    folder = copied(source, tmp_path / "cache")
    record = json.loads((folder / "provenance.json").read_text())
    if part is None:
        record = value
    elif name is None:
        record[part] = value
    else:
        record[part] = {**record[part], name: value} if isinstance(record[part], dict) else value
    (folder / "provenance.json").write_text(json.dumps(record))
    made = answer(opened, folder)
    assert made is REFUSED or np.allclose(made["teacher_logits"], expected, atol=1e-6)


@examples(8, share=1 / 20)
@given(
    content=st.binary(max_size=30) | st.sampled_from([b"[" * 5000, b"{}", b"null", b"\xff\xfe", b'{"teacher": 1e999}'])
)
def test_any_bytes_for_a_record(finished, tmp_path, content):
    folder = copied(finished[0], tmp_path / "cache")
    (folder / "provenance.json").write_bytes(content)
    assert answer(opened, folder) is REFUSED


def of_version_0_1_0(source, to):
    """A cache as that version wrote it: no checksum at the end of a shard, and no word of them in the record."""
    folder = copied(source, to)
    for shard in folder.glob("shard-*.arrow"):
        shard.write_bytes(shard.read_bytes()[:-SEAL])
    record = json.loads((folder / "provenance.json").read_text())
    del record["checksums"]
    (folder / "provenance.json").write_text(json.dumps(record))
    return folder


def test_a_cache_without_checksums_is_opened_and_says_so(finished, tmp_path, logged):
    source, expected = finished
    assert json.loads((source / "provenance.json").read_text())["checksums"]["unchecked"] == []
    assert all(map(is_sealed, source.glob("shard-*.arrow")))
    folder = of_version_0_1_0(source, tmp_path / "cache")
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.arrow")}
    assert np.array_equal(opened(folder)["teacher_logits"], expected)
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.arrow")} == before and not logged.text
    record = json.loads((folder / "provenance.json").read_text())
    assert record["checksums"]["unchecked"] == sorted(before)
    (folder / "shard-00001.arrow").unlink()
    opened(folder)
    opened(folder)
    record = json.loads((folder / "provenance.json").read_text())
    assert record["checksums"]["unchecked"] == ["shard-00000.arrow", "shard-00002.arrow"]
    assert is_sealed(folder / "shard-00001.arrow")


def test_an_older_cache_that_cannot_be_written_to_is_opened(finished, tmp_path, logged, monkeypatch):
    folder = of_version_0_1_0(finished[0], tmp_path / "cache")

    def full(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("hf_distill.soft_targets.cache.write", full)
    assert np.array_equal(opened(folder)["teacher_logits"], finished[1])
    assert "is of an older version and cannot be written to" in logged.text


# Label maps

names = st.sampled_from(["a", "b", "c", ""]) | st.text(max_size=2)
numbers = st.floats(-50, 50) | st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -3.5e38, 1e300])


@examples(80)
@given(
    label_map=st.dictionaries(names, names | st.none() | st.integers() | st.just(["a"]))
    | st.none()
    | st.text(max_size=3),
    teacher=st.lists(names, max_size=4),
    student=st.lists(names, max_size=3),
    logits=st.lists(numbers, max_size=8),
    fit=st.booleans(),
)
def test_any_label_map(label_map, teacher, student, logits, fit):
    if fit:
        teacher, student, label_map = ["a", "b", "c", "d"], ["x", "y"], {"a": "x", "b": "x", "c": "y", "d": None}
    answer(check_label_map, label_map, teacher, student)
    values = np.array(logits[:4] if len(logits) < 8 else [logits[:4], logits[4:]])
    made = answer(mapped_logits, values, label_map, teacher, student)
    if made is not REFUSED:
        assert made[0].shape == (*values.shape[:-1], len(student)) or not values.size
        assert not np.isnan(made[0]).any() and ((made[1] >= 0) & (made[1] <= 1)).all()


@pytest.mark.parametrize(
    "values", [np.array("a"), np.array([None] * 4), np.array([1j] * 4), np.zeros((2, 3)), np.array(1.0)]
)
def test_logits_of_a_label_map(values):
    assert answer(mapped_logits, values, {c: c for c in "abcd"}, "abcd", "abcd") is REFUSED


# Rows

cells = st.none() | st.integers(-5, 5) | st.lists(st.integers(0, 9) | st.none(), max_size=3)


@examples(40)
@given(
    rows=st.lists(cells, max_size=4)
    | st.lists(st.lists(st.floats(0, 5), max_size=2), max_size=3)
    | st.lists(st.lists(st.booleans(), max_size=2), max_size=3)
    | st.lists(st.text(max_size=2) | st.lists(st.text(max_size=2)), max_size=3),
)
def test_any_rows_are_hashed_or_refused(rows):
    try:
        dataset = datasets.Dataset.from_dict({"input_ids": rows})
    except (TypeError, ValueError, OverflowError):  # lists beside numbers: no data set at all
        return
    hashes = answer(row_hashes, dataset, ["input_ids"])
    if hashes is not REFUSED:
        assert len(hashes) == len(rows) and all(isinstance(row, list) and None not in row for row in rows)
        assert all((hashes[i] == hashes[j]) == (rows[i] == rows[j]) for i in range(len(rows)) for j in range(i))
