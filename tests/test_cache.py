"""The cache: the same rows in the same order, resumed after a kill, and never another teacher's."""

import json
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch

from hf_distill import TeacherEnsemble, cache_teacher_outputs
from hf_distill.cache import row_hashes
from tests.conftest import collate, tiny_bert, tiny_rows


def cached(rows, teacher, folder, **options):
    options = {"dtype": "float32", **options}
    return cache_teacher_outputs(rows, teacher, task="text-classification", output_dir=folder, **options)


def direct(rows, teacher):
    with torch.no_grad():
        return np.stack([teacher(**collate([row])).logits[0].numpy() for row in rows.remove_columns("labels")])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 1e-3)])
def test_same_rows_in_order_whatever_the_batches_and_shards(tmp_path, dtype, tolerance):
    rows, teacher = tiny_rows(23), tiny_bert(num_labels=3)
    expected = direct(rows, teacher)
    for number, (batch, shard) in enumerate(((1, 23), (4, 5), (64, 100))):
        made = cached(rows, teacher, tmp_path / str(number), batch_size=batch, shard_size=shard, dtype=dtype)
        assert made.remove_columns("teacher_logits").to_dict() == rows.to_dict()
        assert np.allclose(np.array(made["teacher_logits"]), expected, atol=tolerance)


def test_a_second_call_asks_nobody(tmp_path):
    rows, teacher = tiny_rows(9), tiny_bert(num_labels=3)
    first = cached(rows, teacher, tmp_path)
    shard = next(tmp_path.glob("*.arrow"))
    written = shard.stat().st_mtime_ns
    assert cached(rows, teacher, tmp_path).to_dict() == first.to_dict()
    assert shard.stat().st_mtime_ns == written


def test_ensemble_and_teacher_with_its_own_columns(tmp_path):
    rows, other = tiny_rows(6), tiny_rows(6, seed=4)
    both = rows.add_column("teacher_input_ids", other["input_ids"])
    members = [tiny_bert(num_labels=3), tiny_bert(seed=1, num_labels=3)]
    made = np.array(cached(both, TeacherEnsemble(members), tmp_path)["teacher_logits"])
    mixed = sum(torch.tensor(direct(other, member)).softmax(-1) for member in members) / 2
    assert torch.allclose(torch.tensor(made).float().softmax(-1), mixed, atol=1e-5)


KILLED = """
    import sys
    from pathlib import Path
    from hf_distill.cache import cache_teacher_outputs
    from tests.conftest import tiny_bert, tiny_rows
    import tests.test_cache as here
    import time, torch

    class Slow(type(tiny_bert())):
        def forward(self, input_ids=None, attention_mask=None, **kwargs):
            time.sleep(0.02)
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    teacher = tiny_bert(num_labels=3)
    teacher.__class__ = Slow
    here.cached(tiny_rows(400), teacher, Path(sys.argv[1]), batch_size=2, shard_size=40)
"""


def test_killed_pass_goes_on_from_its_last_shard(tmp_path):
    folder = tmp_path / "cache"
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(KILLED), str(folder)])
    deadline = time.time() + 120
    while len(list(folder.glob("*.arrow"))) < 2 and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("*.arrow")}
    assert 2 <= len(finished) < 10
    rows, teacher = tiny_rows(400), tiny_bert(num_labels=3)
    made = cached(rows, teacher, folder, batch_size=2, shard_size=40)
    assert np.allclose(np.array(made["teacher_logits"]), direct(rows, teacher), atol=1e-6)
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())


def test_another_teacher_other_rows_other_options(tmp_path):
    rows, teacher = tiny_rows(9), tiny_bert(num_labels=3)
    cached(rows, teacher, tmp_path)
    before = json.loads((tmp_path / "provenance.json").read_text())
    with pytest.raises(ValueError, match=r"another pass: teacher\.weights: '[0-9a-f]+' there, '[0-9a-f]+' now"):
        cached(rows, tiny_bert(seed=1, num_labels=3), tmp_path)
    with pytest.raises(ValueError, match=r"rows\.number: 9 there, 8 now"):
        cached(rows.select(range(8)), teacher, tmp_path)
    with pytest.raises(ValueError, match=r"rows\.hash"):
        cached(rows.select(list(range(8, -1, -1))), teacher, tmp_path)
    with pytest.raises(ValueError, match=r"options\.dtype: 'float32' there, 'float16' now"):
        cached(rows, teacher, tmp_path, dtype="float16")
    assert json.loads((tmp_path / "provenance.json").read_text()) == before
    assert len(cached(rows, teacher, tmp_path)) == 9


def test_hashes_tell_rows_apart():
    hashes = row_hashes(tiny_rows(50))
    assert len(set(hashes)) == 50
    assert (row_hashes(tiny_rows(50)) == hashes).all()
    changed = tiny_rows(50).map(
        lambda row, number: {"input_ids": [*row["input_ids"], 7] if number == 3 else row["input_ids"]},
        with_indices=True,
    )
    assert (row_hashes(changed) != hashes).nonzero()[0].tolist() == [3]


def test_teacher_that_returns_nan(tmp_path):
    teacher = tiny_bert(num_labels=3)
    torch.nn.init.constant_(teacher.classifier.bias, float("nan"))
    with pytest.raises(ValueError, match="The teacher returned NaN or infinity for row"):
        cached(tiny_rows(4), teacher, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "token-classification"}, "knows the task text-classification, got 'token-classification'"),
        ({"top_k": 8}, "top_k=8: classification keeps all classes"),
        ({"temperature": 2.0}, "only shapes the tail of a top-k cache"),
        ({"dtype": "int8"}, "dtype must be one of float32, float16; got 'int8'"),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, message):
    settings = {"task": "text-classification", "output_dir": tmp_path / "cache", **options}
    with pytest.raises(ValueError, match=message):
        cache_teacher_outputs(tiny_rows(3), tiny_bert(num_labels=3), **settings)
    assert not (tmp_path / "cache").exists()


def test_rows_that_do_not_fit(tmp_path):
    teacher = tiny_bert(num_labels=3)
    with pytest.raises(ValueError, match="has a column teacher_logits already"):
        cached(tiny_rows(3).add_column("teacher_logits", [[0.0] * 3] * 3), teacher, tmp_path)
    with pytest.raises(ValueError, match="Expected tokenised rows with input_ids, got the columns"):
        cached(tiny_rows(3).remove_columns("input_ids"), teacher, tmp_path)
    with pytest.raises(ValueError, match="has no rows"):
        cached(tiny_rows(3).select([]), teacher, tmp_path)
