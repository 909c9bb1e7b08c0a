"""The cache: the same rows in the same order, resumed after a kill, and never another teacher's."""

import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pytest
import tokenizers
import torch
import transformers

from hf_distill import (
    DistillationArguments,
    DistillationTrainer,
    Seq2SeqDistillationArguments,
    Seq2SeqDistillationTrainer,
    TeacherEnsemble,
    cache_teacher_outputs,
)
from hf_distill.columns import all_numbers
from hf_distill.matching.hidden_states import HiddenStateMatching
from hf_distill.models import input_limits
from hf_distill.soft_targets.layout import Layout, table
from hf_distill.soft_targets.provenance import row_hashes
from hf_distill.training.collator import TeacherColumnsCollator
from tests.cases import models, pad, position_labels
from tests.conftest import collate, tiny_bert, tiny_rows
from tests.hub_server import Hub


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


@pytest.mark.parametrize("of", [lambda rows: rows, lambda rows: rows.to_iterable_dataset()])
def test_large_answers_are_written_a_few_batches_at_a_time(tmp_path, monkeypatch, of):
    rows, teacher = tiny_rows(23).remove_columns("labels"), tiny_lm()
    whole = cache_teacher_outputs(rows, teacher, output_dir=tmp_path / "whole", batch_size=2, **CAUSAL)
    monkeypatch.setattr("hf_distill.soft_targets.cache.WINDOW_BYTES", 20_000)
    made = cache_teacher_outputs(of(rows), teacher, output_dir=tmp_path / "parts", batch_size=2, **CAUSAL)
    with pa.ipc.open_stream(tmp_path / "parts" / "shard-00000.arrow") as shard:
        sizes = [part.column("teacher_logits").flatten().nbytes for part in shard]
    assert len(sizes) > 2
    assert max(sizes) < 21_000
    for ours, theirs in zip(made["teacher_logits"], whole["teacher_logits"], strict=True):
        assert np.allclose(ours, theirs, atol=1e-6)


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


def tiny_tagger(seed=0):
    return models("token", "")[seed].float().eval()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("names", [["labels"], ["labels", "word_starts"], ["word_starts", "teacher_word_starts"]])
def test_tagging_keeps_one_row_a_word(tmp_path, names, side):
    """The teacher's own word starts go before the student's, and those before the labels."""
    rows, teacher = tiny_rows(9).remove_columns("labels"), tiny_tagger()
    marks = [np.random.default_rng(number).integers(0, 2, len(ids)) for number, ids in enumerate(rows["input_ids"])]
    for name in names:
        other = {"labels": -100, "word_starts": 0}.get(name, -100)
        column = [np.where(mark if name == names[-1] else 1 - mark, 1, other).tolist() for mark in marks]
        rows = rows.add_column(name, column)
    if "teacher_word_starts" in names:
        rows = rows.add_column("teacher_input_ids", rows["input_ids"]).remove_columns("attention_mask")

    def pad_left(batch):
        longest = max(len(row["input_ids"]) for row in batch)
        ids = [[0] * (longest - len(row["input_ids"])) + list(row["input_ids"]) for row in batch]
        return {"input_ids": torch.tensor(ids), "attention_mask": (torch.tensor(ids) != 0).long()}

    options = {"data_collator": pad_left, "batch_size": 1} if side == "left" else {"batch_size": 4}
    made = cache_teacher_outputs(
        rows, teacher, task="token-classification", output_dir=tmp_path, dtype="float32", shard_size=4, **options
    )
    for row, ids, mark in zip(made, rows["input_ids"], marks, strict=True):
        expected = teacher(input_ids=torch.tensor([ids])).logits[0].detach()[torch.tensor(mark) == 1]
        assert np.array(row["teacher_logits"]).reshape(-1, 4).shape == expected.shape
        assert np.allclose(np.array(row["teacher_logits"]).reshape(-1, 4), expected, atol=1e-5)


def test_tagging_without_word_starts(tmp_path):
    rows = tiny_rows(4).remove_columns("labels")
    message = (
        "A cache for token-classification holds one row a word, and no column says where they are: expected one of "
        "teacher_word_starts, word_starts, labels"
    )
    with pytest.raises(ValueError, match=message):
        cache_teacher_outputs(rows, tiny_tagger(), task="token-classification", output_dir=tmp_path)


KILLED = """
    import sys
    from pathlib import Path
    from hf_distill.soft_targets.cache import cache_teacher_outputs
    from tests.conftest import tiny_bert, tiny_rows
    import tests.soft_targets.test_cache as here
    import time, torch

    class Slow(type(tiny_bert())):
        def forward(self, input_ids=None, attention_mask=None, **kwargs):
            time.sleep(0.02)
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    teacher = tiny_bert(num_labels=3)
    teacher.__class__ = Slow
    here.cached(tiny_rows(400), teacher, Path(sys.argv[1]), batch_size=2, shard_size=40)
"""


@pytest.mark.faults
def test_killed_pass_goes_on_from_its_last_shard(tmp_path):
    folder = tmp_path / "cache"
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(KILLED), str(folder)])
    deadline = time.time() + 800
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
    with pytest.raises(ValueError, match=r"rows\.hash: '[0-9a-f]+' there, '[0-9a-f]+' now"):
        cached(tiny_rows(9, seed=1), teacher, tmp_path)
    with pytest.raises(ValueError, match=r"options\.dtype: 'float32' there, 'float16' now"):
        cached(rows, teacher, tmp_path, dtype="float16")
    assert json.loads((tmp_path / "provenance.json").read_text()) == before
    assert len(cached(rows, teacher, tmp_path)) == 9


def test_the_same_weights_that_compute_otherwise(tmp_path):
    rows, teacher = tiny_rows(9), tiny_bert(num_labels=3)
    said = cached(rows, teacher, tmp_path / "cache")["teacher_logits"]
    teacher.config.id2label = {0: "a", 1: "b", 2: "c"}
    teacher.save_pretrained(tmp_path / "teacher")
    assert np.allclose(cached(rows, tmp_path / "teacher", tmp_path / "cache")["teacher_logits"], said, atol=1e-6)
    other = type(teacher).from_pretrained(tmp_path / "teacher", num_attention_heads=1)
    with pytest.raises(ValueError, match=r"another pass: teacher\.config: '[0-9a-f]+' there, '[0-9a-f]+' now"):
        cached(rows, other, tmp_path / "cache")


# Language models

CAUSAL = {"task": "text-generation", "dtype": "float32"}


def tiny_lm(task="causal", seed=1):
    return models(task, "")[seed].float().eval()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("float16", 2e-3), ("bfloat16", 2e-2), ("int8", 5e-3)]
)
@pytest.mark.parametrize("top_k", [None, 5, 50])
def test_every_dtype_comes_back_through_the_collator(tmp_path, dtype, tolerance, top_k):
    rows, teacher = tiny_rows(9).remove_columns("labels"), tiny_lm()
    made = cache_teacher_outputs(
        rows,
        teacher,
        task="text-generation",
        output_dir=tmp_path,
        top_k=top_k,
        dtype=dtype,
        batch_size=4,
        shard_size=5,
        temperature=1.0 if top_k is None else 2.0,
        data_collator=collate,
    )
    batch = TeacherColumnsCollator(collate)(list(made))
    expected = teacher(**collate(list(rows))).logits.detach()
    seen = batch["attention_mask"] == 1
    if top_k is None:
        assert torch.allclose(batch["teacher_logits"][seen], expected[seen], atol=tolerance)
        return
    kept, ids = expected.topk(top_k)
    assert torch.allclose(batch["teacher_top_k_logits"][seen], kept[seen], atol=tolerance)
    assert torch.equal(batch["teacher_top_k_ids"][seen].long(), ids[seen])
    rest = (expected / 2).scatter(-1, ids, -torch.inf).logsumexp(-1)
    assert torch.allclose(batch["teacher_tail"][seen], rest[seen], atol=1e-5)
    assert batch["teacher_temperature"].tolist() == [2.0] * 9
    assert made.features["teacher_top_k_ids"].feature.feature.dtype == "uint8"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_bytes_an_item(dtype):
    layout = Layout(None, 1.0, dtype, (0, 2))
    found = [layout.logits(torch.randn(512, 40))]
    found += [layout.hidden(layer, torch.randn(512, 24)) for layer in layout.hidden_layers]
    sizes = [
        sum(layout.values(name, array, None).arrow.nbytes for name, array in columns.items()) / 512 for columns in found
    ]
    assert layout.bytes_per_item(40) == pytest.approx(sizes[0], abs=0.1)
    assert layout.bytes_per_position(24) == pytest.approx(sizes[1] + sizes[2], abs=0.1)


def test_bytes_a_token(tmp_path):
    """What the limits are about, up to 65,536 words and beyond: 64 logits, their ids and the tail."""
    for words, limit, kind in ((65_536, 270, "uint16"), (65_537, 400, "int32")):
        layout = Layout(64, 1.0, "float16", ())
        found = layout.logits(torch.randn(512, words))
        lengths = np.full(4, 128)
        columns = {name: layout.values(name, array, lengths) for name, array in found.items()}
        made = table(columns, None, {})
        assert found["teacher_top_k_ids"].dtype == kind
        assert made.nbytes / 512 <= limit
        assert layout.bytes_per_item(words) == pytest.approx(made.nbytes / 512, rel=0.01)


def test_translation_keeps_one_row_a_target_position(tmp_path):
    rows, teacher = position_labels(tiny_rows(7), 50), tiny_lm("seq2seq")
    rows = rows.map(lambda row: {"labels": [3, *[max(label, 3) for label in row["labels"]]]})  # another length
    made = cache_teacher_outputs(
        rows, teacher, task="translation", output_dir=tmp_path, dtype="float32", batch_size=3, hidden_layers=[1]
    )
    for row in made:
        labels = torch.tensor([row["labels"]])
        decoder = teacher.prepare_decoder_input_ids_from_labels(labels=labels)
        said = teacher(input_ids=torch.tensor([row["input_ids"]]), decoder_input_ids=decoder, output_hidden_states=True)
        assert np.allclose(row["teacher_logits"], said.logits[0].detach(), atol=1e-5)
        assert np.allclose(row["teacher_hidden_1"], said.decoder_hidden_states[1][0].detach(), atol=1e-5)


# Training from a cache


@pytest.mark.parametrize("top_k", [None, 50])
@pytest.mark.parametrize(
    ("task", "name"), [("token", "token-classification"), ("seq2seq", "translation"), ("causal", "text-generation")]
)
def test_a_float32_cache_equals_the_live_teacher(tmp_path, task, name, top_k):
    if task == "token" and top_k is not None:
        return
    rows = position_labels(tiny_rows(8), 4 if task == "token" else 50)
    if task == "seq2seq":
        rows = rows.map(lambda row: {"labels": [max(label, 3) for label in row["labels"]]})
    teacher = tiny_lm(task)
    temperature = 1.0 if top_k is None else 2.0
    made = cache_teacher_outputs(
        rows, teacher, task=name, output_dir=tmp_path / "cache", dtype="float32", top_k=top_k, temperature=temperature
    )
    live = trained(tmp_path, task, rows, teacher_model=teacher)
    again = trained(tmp_path, task, made)
    streamed = trained(tmp_path, task, made.to_iterable_dataset())
    for other in (again, streamed):
        assert history(other) == pytest.approx(history(live), abs=1e-6)
        for ours, theirs in zip(live.model.parameters(), other.model.parameters(), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("sequence", "text-classification"),
        ("token", "token-classification"),
        ("seq2seq", "translation"),
        ("causal", "text-generation"),
    ],
)
def test_a_float16_cache_is_within_a_thousandth_of_the_loss(tmp_path, task, name):
    """With logits as large as those of trained teachers."""
    rows = tiny_rows(8)
    if task != "sequence":
        rows = position_labels(rows, 4 if task == "token" else 50)
    if task == "seq2seq":
        rows = rows.map(lambda row: {"labels": [max(label, 3) for label in row["labels"]]})
    teacher = tiny_bert(seed=1, num_labels=3) if task == "sequence" else tiny_lm(task)
    with torch.no_grad():
        head = teacher.get_output_embeddings() or teacher.classifier
        head.weight.mul_(20)
    made = cache_teacher_outputs(rows, teacher, task=name, output_dir=tmp_path / "cache")
    assert max(abs(row).max(initial=0) for row in all_numbers(made, "teacher_logits")) > 3
    live = history(trained(tmp_path, task, rows, teacher_model=teacher))
    again = history(trained(tmp_path, task, made))
    assert again == pytest.approx(live, abs=1e-3)
    assert again != pytest.approx(live, abs=1e-7)


def trained(folder, task, rows, matching=(), temperature=2.0, **options):
    trainer_class, arguments_class = (
        (Seq2SeqDistillationTrainer, Seq2SeqDistillationArguments)
        if task == "seq2seq"
        else (DistillationTrainer, DistillationArguments)
    )
    arguments = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "optim": "sgd",
        "learning_rate": 0.05,
        "logging_steps": 1,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "temperature": temperature,
        "temperature_end": options.pop("temperature_end", None),
    }
    trainer = trainer_class(
        tiny_lm(task, seed=0) if task != "sequence" else tiny_bert(num_labels=3),
        arguments_class(str(folder), **arguments),
        train_dataset=rows,
        data_collator=pad,
        matching=matching,
        **options,
    )
    trainer.train()
    return trainer


def history(trainer):
    return [value for entry in trainer.state.log_history for name, value in entry.items() if name.startswith("loss")]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("settings", [{"temperature": 3.0}, {"temperature_end": 1.0}])
def test_a_tail_cannot_be_tempered_again(tmp_path, streamed, settings):
    rows = position_labels(tiny_rows(8), 50)
    made = cache_teacher_outputs(
        rows, tiny_lm(), task="text-generation", output_dir=tmp_path / "cache", top_k=4, temperature=2.0
    )
    made = made.to_iterable_dataset() if streamed else made
    with pytest.raises(ValueError, match=r"cache was made at temperature 2 .*, and its tail cannot be tempered later"):
        trained(tmp_path, "causal", made, **settings)


@pytest.mark.parametrize("own_tokens", [False, True])
def test_cached_states_match_as_live_ones(tmp_path, own_tokens):
    rows, teacher = tiny_rows(8), tiny_bert(seed=1, num_labels=3)
    if own_tokens:
        other = tiny_rows(8, seed=3)
        rows = rows.add_column("teacher_input_ids", other["input_ids"])
        rows = rows.add_column("teacher_attention_mask", other["attention_mask"])
    granularity = "sequence" if own_tokens else "token"
    matching = [HiddenStateMatching({1: 1, 2: 2}, granularity=granularity)]
    made = cached(rows, teacher, tmp_path / "cache", hidden_layers=[1, 2])
    live = trained(tmp_path, "sequence", rows, matching, teacher_model=teacher)
    assert history(trained(tmp_path, "sequence", made, matching)) == pytest.approx(history(live), abs=1e-6)
    with pytest.raises(ValueError, match=r"the teacher's layers \[-1\], and the cache holds \[1, 2\]"):
        trained(tmp_path, "sequence", made, [HiddenStateMatching({-1: -1}, granularity=granularity)])


# Rows in other orders, streams, several processes


def test_rows_in_another_order_are_matched(tmp_path):
    rows, teacher = tiny_rows(23), tiny_bert(num_labels=3)
    rows = datasets.concatenate_datasets([rows, rows.select([4, 4])])  # twins too
    first = cached(rows, teacher, tmp_path, shard_size=7)
    order = np.random.default_rng(0).permutation(25)
    made = cached(rows.select(order), teacher, tmp_path, shard_size=7)
    assert made.to_dict() == first.select(order).to_dict()


@pytest.mark.parametrize("left", [None, -8, -100, 0])
def test_an_unfinished_cache_wants_its_first_order(tmp_path, left):
    rows, teacher = tiny_rows(9), tiny_bert(num_labels=3)
    cached(rows, teacher, tmp_path, shard_size=4)
    shard = tmp_path / "shard-00001.arrow"
    content = shard.read_bytes()
    shard.unlink()
    if left is not None:
        shard.write_bytes(content[:left])
    with pytest.raises(ValueError, match="unfinished and holds these rows in another order: 2 of 3 shards are whole"):
        cached(rows.select(range(8, -1, -1)), teacher, tmp_path, shard_size=4)


def test_another_order_of_rows_that_the_shards_do_not_hold(tmp_path):
    rows, teacher = tiny_rows(9), tiny_bert(num_labels=3)
    cached(rows, teacher, tmp_path, shard_size=4)
    shutil.copy(tmp_path / "shard-00000.arrow", tmp_path / "shard-00001.arrow")
    with pytest.raises(ValueError, match="holds outputs for other rows than its record names"):
        cached(rows.select(range(8, -1, -1)), teacher, tmp_path, shard_size=4)


def streamed(rows):
    return rows.to_iterable_dataset(num_shards=2)


def test_a_stream_is_read_once_and_goes_on(tmp_path):
    rows, teacher = tiny_rows(23), tiny_bert(num_labels=3)
    expected = cached(rows, teacher, tmp_path / "rows", shard_size=5)
    made = cached(streamed(rows), teacher, tmp_path / "stream", shard_size=5, batch_size=1)
    assert made.remove_columns("teacher_logits").to_dict() == rows.to_dict()
    assert np.allclose(made["teacher_logits"], expected["teacher_logits"], atol=1e-6)
    assert len(list((tmp_path / "stream").glob("shard-*.arrow"))) == 5
    (tmp_path / "stream" / "shard-00002.arrow").unlink()
    kept = (tmp_path / "stream" / "shard-00001.arrow").stat().st_mtime_ns
    again = cached(streamed(rows), teacher, tmp_path / "stream", shard_size=5)
    assert np.allclose(again["teacher_logits"], expected["teacher_logits"], atol=1e-6)
    assert (tmp_path / "stream" / "shard-00001.arrow").stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match=r"Row 0 of .*shard-00000.arrow was another one when it was written"):
        cached(streamed(tiny_rows(23, seed=1)), teacher, tmp_path / "stream", shard_size=5)
    with pytest.raises(ValueError, match=r"shard-00004.arrow holds 3 rows and the stream ends after 1 of them"):
        cached(streamed(rows.select(range(21))), teacher, tmp_path / "stream", shard_size=5)
    with pytest.raises(ValueError, match=r"rows\.number: 23 there, 20 now"):
        cached(streamed(rows.select(range(20))), teacher, tmp_path / "stream", shard_size=5)


TWO = """
    import sys
    import numpy as np
    from pathlib import Path
    import tests.soft_targets.test_cache as here

    for name, rows in (("rows", here.tiny_rows(23)), ("stream", here.streamed(here.tiny_rows(23)))):
        folder = Path(sys.argv[1]) / name
        made = here.cached(rows, here.tiny_bert(num_labels=3), folder, shard_size=4, device="cpu")
        np.save(folder / f"rank-{here.rank()}.npy", np.array(made["teacher_logits"]))
"""


def rank():
    return torch.distributed.get_rank()


@pytest.mark.processes
def test_two_processes_share_the_shards(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(textwrap.dedent(TWO))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*command, "--main_process_port", "0", str(script), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    rows, teacher = tiny_rows(23), tiny_bert(num_labels=3)
    expected = direct(rows, teacher)
    for name in ("rows", "stream"):
        for number in (0, 1):
            assert np.allclose(np.load(tmp_path / name / f"rank-{number}.npy"), expected, atol=1e-6)
        assert len(list((tmp_path / name).glob("*.arrow"))) == 6
    # One process goes on where two have been.
    (tmp_path / "rows" / "shard-00003.arrow").unlink()
    assert np.allclose(cached(rows, teacher, tmp_path / "rows", shard_size=4)["teacher_logits"], expected, atol=1e-6)


PUSHED = """
    import sys
    import datasets, torch
    from huggingface_hub import HfApi, hf_hub_download
    from transformers import LlamaConfig, LlamaForCausalLM, default_data_collator, set_seed
    from hf_distill import DistillationArguments, DistillationTrainer, cache_teacher_outputs

    def model(seed):
        set_seed(seed)
        small = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
        return LlamaForCausalLM(LlamaConfig(vocab_size=50, **small)).eval()

    def losses(rows):
        arguments = dict(max_steps=3, per_device_train_batch_size=4, logging_steps=1, save_strategy="no", use_cpu=True)
        arguments |= dict(report_to="none", disable_tqdm=True, train_sampling_strategy="sequential", temperature=1.5)
        arguments = DistillationArguments(sys.argv[1] + "/out", **arguments)
        trainer = DistillationTrainer(
            model(0), arguments, train_dataset=rows, data_collator=default_data_collator
        )
        trainer.train()
        return torch.tensor([entry["soft_loss"] for entry in trainer.state.log_history if "soft_loss" in entry])

    ids = torch.randint(0, 50, (12, 7)).tolist()
    rows = datasets.Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * 7] * 12, "labels": ids})
    for dtype in ("float16", "bfloat16", "int8"):
        folder = f"{sys.argv[1]}/{dtype}"
        made = cache_teacher_outputs(
            rows, model(1), task="text-generation", output_dir=folder, top_k=8, temperature=1.5, dtype=dtype,
            shard_size=5,
        )
        made.push_to_hub(f"me/{dtype}", num_shards=2)
        HfApi().upload_file(
            path_or_fileobj=f"{folder}/provenance.json", path_in_repo="provenance.json", repo_id=f"me/{dtype}",
            repo_type="dataset",
        )
        streamed = datasets.load_dataset(f"me/{dtype}", split="train", streaming=True)
        assert streamed.features == made.features, streamed.features
        assert [row for row in streamed] == made.to_list()
        assert torch.allclose(losses(streamed), losses(made), atol=1e-6)
        assert open(hf_hub_download(f"me/{dtype}", "provenance.json", repo_type="dataset")).read()
"""


@pytest.mark.long
def test_a_cache_on_the_hub_is_trained_from_as_a_stream(tmp_path):
    with Hub() as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PUSHED), str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=800,
        )
    assert done.returncode == 0, done.stderr[-3000:]


# What goes wrong


@pytest.mark.parametrize("share", [0.3, 0.9, "last bytes", 0.0])
def test_a_shard_that_was_cut_short_is_said_and_written_again(tmp_path, caplog, share):
    rows, teacher = tiny_rows(12), tiny_bert(num_labels=3)
    first = cached(rows, teacher, tmp_path, shard_size=4)["teacher_logits"]
    shard, other = tmp_path / "shard-00001.arrow", tmp_path / "shard-00002.arrow"
    content, kept = shard.read_bytes(), other.stat().st_mtime_ns
    shard.unlink()  # the first result still reads it
    shard.write_bytes(content[:-8] if share == "last bytes" else content[: int(share * len(content))])
    transformers.utils.logging.enable_propagation()
    try:
        again = cached(rows, teacher, tmp_path, shard_size=4)["teacher_logits"]
    finally:
        transformers.utils.logging.disable_propagation()
    assert "shard-00001.arrow was cut short and has to be written again" in caplog.text
    assert np.allclose(again, first, atol=1e-6)
    assert other.stat().st_mtime_ns == kept


def test_a_full_disk_keeps_what_is_finished(tmp_path):
    rows, teacher = tiny_rows(5), tiny_bert(num_labels=3)
    longer = rows.map(lambda row: {name: list(row[name]) + [1] * 25 for name in ("input_ids", "attention_mask")})
    rows = datasets.concatenate_datasets([rows, longer])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, before[1]))  # the states of the second shard are more
    try:
        with pytest.raises(OSError, match=r"shard-00001.arrow could not be written: .* 1 finished shards are kept"):
            cached(rows, teacher, tmp_path, shard_size=5, hidden_layers=[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "provenance.json", "shard-00000.arrow"]
    kept = (tmp_path / "shard-00000.arrow").stat().st_mtime_ns
    assert len(cached(rows, teacher, tmp_path, shard_size=5, hidden_layers=[1])) == 10
    assert (tmp_path / "shard-00000.arrow").stat().st_mtime_ns == kept


def test_a_stream_that_breaks_off_is_no_full_disk(tmp_path):
    rows, teacher = tiny_rows(12), tiny_bert(num_labels=3)

    def read(numbers):
        for number in numbers:
            if number == 9:
                raise ConnectionError("the line is dead")
            yield rows[number]

    broken = datasets.IterableDataset.from_generator(read, gen_kwargs={"numbers": list(range(12))})
    with pytest.raises(ConnectionError, match=r"^the line is dead$"):
        cached(broken, teacher, tmp_path, shard_size=4, batch_size=1)
    assert sorted(path.name for path in tmp_path.glob("shard*")) == ["shard-00000.arrow", "shard-00001.arrow"]


def test_too_little_room_is_known_before(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(OSError, match=r"has 0.00 GB left and the cache needs 0.00 GB more. Make room"):
        cached(tiny_rows(23), tiny_bert(num_labels=3), tmp_path)
    assert not list(tmp_path.glob("*.arrow"))


def test_room_for_states_and_for_what_other_processes_write(tmp_path, monkeypatch):
    rows, teacher = tiny_rows(23), tiny_bert(num_labels=3)
    tokens = sum(map(len, rows["input_ids"]))
    needed = 23 * 3 * 4 + tokens * teacher.config.hidden_size * 4
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    other = classmethod(lambda cls, device: cls(1, 2, torch.device("cpu")))
    for name, crew in (("alone", None), ("one of two", other)):
        if crew is not None:
            monkeypatch.setattr("hf_distill.soft_targets.shards.Processes.assembled", crew)
            monkeypatch.setattr("hf_distill.soft_targets.shards.Processes.wait", lambda self: None)
            (tmp_path / name).mkdir()  # by the first process
        with pytest.raises(OSError, match="Make room"):
            cached(rows, teacher, tmp_path / name, hidden_layers=[1], shard_size=4)


def test_tokenizers_are_compared(tmp_path):
    rows, teacher = tiny_rows(5), tiny_bert(num_labels=3)
    one, other = (word_level(words) for words in ("a b c", "a c b"))
    cached(rows, teacher, tmp_path, teacher_processing_class=one)
    one(["a b", "c"], padding=True)  # leaves its padding behind, which is no part of it
    cached(rows, teacher, tmp_path, teacher_processing_class=one)
    cached(rows, teacher, tmp_path)
    with pytest.raises(ValueError, match=r"another pass: tokenizer\.hash: '[0-9a-f]+' there, '[0-9a-f]+' now"):
        cached(rows, teacher, tmp_path, teacher_processing_class=other)


def word_level(words):
    vocabulary = {word: number for number, word in enumerate(["[PAD]", *words.split()])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "[PAD]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]")


def test_files_of_unknown_origin(tmp_path):
    (tmp_path / "shard-00000.arrow").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"holds Arrow files and no provenance\.json"):
        cached(tiny_rows(3), tiny_bert(num_labels=3), tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"teacher": 1}', b"\xff"])
def test_a_record_of_something_else(tmp_path, content):
    (tmp_path / "provenance.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"provenance\.json is not the record of a cache: expected JSON with teacher"):
        cached(tiny_rows(3), tiny_bert(num_labels=3), tmp_path)


@pytest.mark.parametrize("of", [lambda rows: rows, streamed])
def test_a_row_without_text(tmp_path, of):
    rows = tiny_rows(3).map(
        lambda row, number: {"input_ids": [] if number == 1 else row["input_ids"]}, with_indices=True
    )
    with pytest.raises(ValueError, match=r"Row 1 (of the stream )?has no tokens: the teacher has nothing to read"):
        cached(of(rows), tiny_bert(num_labels=3), tmp_path)


@pytest.mark.parametrize("of", [lambda rows: rows, streamed])
def test_rows_that_the_teacher_cannot_read(tmp_path, of):
    teacher = tiny_bert(num_labels=3)
    places, words = teacher.config.max_position_embeddings, teacher.config.vocab_size
    for number, (planted, message) in enumerate(
        (
            ([5] * (places + 1), f"Row 1 has {places + 1} tokens, and the teacher has places for {places}. Cut"),
            ([5, words], f"The rows have the token {words}, and the teacher knows {words}: they were tokenised"),
        )
    ):
        ids = [[5] * places, planted, [words - 1]]
        rows = datasets.Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})
        with pytest.raises(ValueError, match=re.escape(message)):
            cached(of(rows), teacher, tmp_path / str(number))
        assert len(cached(of(rows.select([0, 2])), teacher, tmp_path / f"{number} well")) == 2


@pytest.mark.parametrize(
    ("kind", "settings", "ends"),
    [
        ("bert", {}, 20),
        ("roberta", {"pad_token_id": 1}, 18),
        ("distilbert", {}, 20),
        ("gpt2", {}, 20),
        ("opt", {"word_embed_proj_dim": 16}, 20),
        ("llama", {}, None),
        ("t5", {"d_kv": 8}, None),
        ("bart", {}, 20),
        ("marian", {"pad_token_id": 0, "decoder_start_token_id": 0}, 20),
    ],
)
def test_how_much_a_model_reads_at_once(kind, settings, ends):
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = transformers.AutoConfig.for_model(kind, **{**sizes, "max_position_embeddings": 20, **settings})
    model = transformers.AutoModel.from_config(config).eval()
    assert input_limits(model) == (ends or math.inf, 30)
    extra = {"decoder_input_ids": torch.tensor([[2]])} if config.is_encoder_decoder else {}
    model(torch.full((1, ends or 50), 3), **extra)
    if ends is not None:
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, ends + 1), 3), **extra)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "cache").write_text("x")
    with pytest.raises(ValueError, match=r"output_dir: expected a folder, and .*cache is a file"):
        cached(tiny_rows(3), tiny_bert(num_labels=3), tmp_path / "cache")


def test_numbers_that_do_not_fit(tmp_path):
    teacher = tiny_bert(num_labels=3)
    torch.nn.init.constant_(teacher.classifier.bias, 1e5)
    with pytest.raises(ValueError, match=r"the teacher's 1e\+05 is more than float16 can hold. Use bfloat16"):
        cached(tiny_rows(4), teacher, tmp_path / "a", dtype="float16")
    with pytest.raises(ValueError, match="hidden_layers: the teacher has layers 0 to 2, got 3"):
        cached(tiny_rows(4), teacher, tmp_path / "b", hidden_layers=[3])
    with pytest.raises(ValueError, match="hidden_layers: an ensemble has no states"):
        cached(tiny_rows(4), TeacherEnsemble([teacher, teacher]), tmp_path / "c", hidden_layers=[1])
    with pytest.raises(ValueError, match="data_collator changed the rows that the teacher reads"):
        cached(tiny_rows(4), teacher, tmp_path / "d", data_collator=lambda rows: collate(rows[::-1]))


def test_progress_says_rows_tokens_and_time_left(tmp_path, capsys):
    cached(tiny_rows(8), tiny_bert(num_labels=3), tmp_path)
    assert re.search(r"Teacher: 100%.* 8/8 \[\d+:\d+<\d+:\d+, .* rows/s, tokens/s=[\d,]+", capsys.readouterr().err)


def test_hashes_tell_rows_apart():
    hashes = row_hashes(tiny_rows(50), ["input_ids"])
    assert len(set(hashes)) == 50
    assert (row_hashes(tiny_rows(50), ["input_ids"]) == hashes).all()
    changed = tiny_rows(50).map(
        lambda row, number: {"input_ids": [*row["input_ids"], 7] if number == 3 else row["input_ids"]},
        with_indices=True,
    )
    assert (row_hashes(changed, ["input_ids"]) != hashes).nonzero()[0].tolist() == [3]


class Failing(type(tiny_bert())):
    """A teacher that answers with NaN where it reads this token."""

    stumbles_over = -1
    instead = torch.inf

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        said = super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        said.logits = said.logits.where((input_ids != self.stumbles_over).all(dim=-1, keepdim=True), torch.nan)
        if said.hidden_states is not None:
            here = (input_ids == self.stumbles_over).unsqueeze(-1)
            said.hidden_states = [states.masked_fill(here, self.instead) for states in said.hidden_states]
        return said


@pytest.mark.parametrize("of", [lambda rows: rows, lambda rows: rows.to_iterable_dataset()])
def test_a_teacher_that_returns_nan_is_told_by_the_row_and_what_is_finished_is_kept(tmp_path, of):
    teacher = tiny_bert(num_labels=3)

    def planted(row, number):
        ids = [46 if token == 47 else token for token in row["input_ids"]]
        return {"input_ids": [47, *ids[1:]] if number in (8, 9, 13) else ids}

    odd = tiny_rows(14).map(planted, with_indices=True)
    expected = cached(odd, teacher, tmp_path / "well", shard_size=3)["teacher_logits"]
    teacher.__class__ = Failing
    teacher.stumbles_over = 47
    with pytest.raises(
        ValueError, match=r"The teacher returned NaN or infinity for row 8\. .* Finished shards are kept"
    ):
        cached(of(odd), teacher, tmp_path / "cache", shard_size=3)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.arrow")}
    assert sorted(path.name for path in kept) == ["shard-00000.arrow", "shard-00001.arrow"]
    assert not list((tmp_path / "cache").glob("shard*.part"))
    teacher.stumbles_over = -1
    made = cached(of(odd), teacher, tmp_path / "cache", shard_size=3)
    assert np.allclose(made["teacher_logits"], expected, atol=1e-6)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())


def test_minus_infinity_rules_out_a_class_but_not_all(tmp_path):
    teacher, rows = tiny_bert(num_labels=3), tiny_rows(4)
    with torch.no_grad():
        teacher.classifier.bias[1] = -torch.inf
    made = np.array(cached(rows, teacher, tmp_path / "one")["teacher_logits"])
    assert np.isneginf(made[:, 1]).all()
    assert np.isfinite(made[:, [0, 2]]).all()
    with torch.no_grad():
        teacher.classifier.bias[:] = -torch.inf
    with pytest.raises(ValueError, match="The teacher returned NaN or infinity for row 0"):
        cached(rows, teacher, tmp_path / "all")


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_states_that_are_no_numbers(tmp_path, value):
    teacher = tiny_bert(num_labels=3)
    teacher.__class__ = Failing
    teacher.stumbles_over = tiny_rows(4)["input_ids"][2][0]
    teacher.instead = value
    number = next(n for n, ids in enumerate(tiny_rows(4)["input_ids"]) if teacher.stumbles_over in ids)
    teacher.classifier.forward = lambda pooled: pooled.new_zeros(len(pooled), 3)
    with pytest.raises(ValueError, match=f"The teacher returned NaN or infinity for row {number}"):
        cached(tiny_rows(4), teacher, tmp_path, hidden_layers=[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "summarisation"}, "task: expected one of text-classification, .*; got 'summarisation'"),
        ({"top_k": 8}, "top_k=8: classification keeps all classes"),
        ({"task": "text-generation", "top_k": 0}, "top_k must be at least 1, or None for all; got 0"),
        ({"task": "text-generation", "top_k": 51}, "top_k=51 is more than the teacher's 50 tokens"),
        ({"temperature": 2.0}, "only shapes the tail of a top-k cache"),
        ({"task": "text-generation", "top_k": 3, "temperature": 0.0}, "temperature must be a finite number > 0"),
        ({"dtype": "int4"}, "dtype must be one of float32, float16, bfloat16, int8; got 'int4'"),
        ({"hidden_layers": [-1]}, "hidden_layers must be different numbers from 0"),
        ({"batch_size": 0}, "batch_size and shard_size must be at least 1"),
        ({"task": "translation"}, "labels: expected a list of whole numbers in each row, one a position; got int64"),
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
    options = {"dtype": "int8", "hidden_layers": [1]}
    stale = ("teacher_top_k_logits", "teacher_top_k_ids", "teacher_tail", "teacher_temperature")
    for name in ("teacher_hidden_1", "teacher_hidden_1_scale", "teacher_logits_scale", "row_hash", *stale):
        for rows in (tiny_rows(3).add_column(name, [0.0] * 3), streamed(tiny_rows(3).add_column(name, [0.0] * 3))):
            with pytest.raises(ValueError, match=f"has a column {name} already: remove or rename it"):
                cached(rows, teacher, tmp_path, **options)
    with pytest.raises(ValueError, match="Expected tokenized rows with input_ids, got the columns"):
        cached(tiny_rows(3).remove_columns("input_ids"), teacher, tmp_path)
    with pytest.raises(ValueError, match="has no rows"):
        cached(tiny_rows(3).select([]), teacher, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_mask_is_a_part_of_a_row(tmp_path):
    teacher = tiny_bert(seed=1, num_labels=3)
    rows = datasets.Dataset.from_dict({"input_ids": [[5, 6, 7]] * 2, "attention_mask": [[1, 1, 1], [1, 1, 0]]})
    made = np.array(cached(rows, teacher, tmp_path)["teacher_logits"])
    turned = np.array(cached(rows.select([1, 0]), teacher, tmp_path)["teacher_logits"])
    assert not np.allclose(made[0], made[1])
    assert np.allclose(turned, made[::-1])


def test_a_stream_does_not_read_the_folder_of_a_map_style_set(tmp_path):
    teacher, rows = tiny_bert(seed=1, num_labels=3), tiny_rows(6)
    cached(rows, teacher, tmp_path)
    with pytest.raises(ValueError, match=r"options\.keeps_rows: False there, True now"):
        cached(rows.to_iterable_dataset(), teacher, tmp_path)
