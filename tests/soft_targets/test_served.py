"""Served log-probabilities of a language model against a local pass, and servers that are not what they should be."""

import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from hf_distill import cache_teacher_outputs
from hf_distill.columns import all_numbers
from hf_distill.losses import top_k_forward_kl
from hf_distill.soft_targets.served import ServedLogits
from tests.teachers.serving import TOKENS, characters, classifier, language_model, serve, serving

FORMS = ((), ("prompt_logprobs",))
TEXTS = ["some text", "t", "a longer text than all of the others", "text 2", "some text"]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def model():
    return language_model(max_position_embeddings=60)


def rows(texts=TEXTS, tokenizer=None):
    ids = (tokenizer or characters())(texts)["input_ids"]
    return datasets.Dataset.from_dict({"input_ids": ids, "labels": ids, "attention_mask": [[1] * len(i) for i in ids]})


def logits(server, tokenizer=None, **options):
    settings = {"base_url": server.url, "api_key": "x", "max_retries": 0, **options}
    return ServedLogits("tiny", tokenizer or characters(), **settings)


def arrays(cached):
    return {name: all_numbers(cached, name) for name in ("teacher_top_k_logits", "teacher_top_k_ids", "teacher_tail")}


def normalised(columns):
    """The columns as log-probabilities: those of a local pass differ by a number a position."""
    found = []
    for kept, tail in zip(columns["teacher_top_k_logits"], columns["teacher_tail"], strict=True):
        whole = np.logaddexp.reduce(np.concatenate([kept, tail[:, None]], axis=1), axis=1)
        found.append(np.concatenate([kept, tail[:, None]], axis=1) - whole[:, None])
    return found


@pytest.mark.served
@pytest.mark.parametrize("ignored", FORMS, ids=["prompt_logprobs", "echo"])
def test_columns_are_those_of_a_local_pass(model, tmp_path, ignored):
    local = arrays(
        cache_teacher_outputs(
            rows(),
            model,
            task="text-generation",
            output_dir=tmp_path / "local",
            top_k=8,
            dtype="float32",
            teacher_processing_class=characters(),
        )
    )
    with serving(serve.CausalAnswers(model, characters()), ignored=ignored) as server:
        made = logits(server).cache(rows(), output_dir=tmp_path / "served", top_k=8, dtype="float32", shard_size=2)
        asked = len(server.requests)
        again = logits(server).cache(rows(), output_dir=tmp_path / "served", top_k=8, dtype="float32", shard_size=2)
        assert len(server.requests) == asked == len(TEXTS) + (3 if ignored else 1)  # and what finds out how
    served = arrays(made)
    assert made.column_names == again.column_names and arrays(again)["teacher_tail"][0].shape == (len(TEXTS[0]),)
    assert {name: made.features[name] for name in served} == {
        name: feature for name, feature in made.features.items() if name in served
    }
    for number in range(len(TEXTS)):
        assert np.array_equal(served["teacher_top_k_ids"][number], local["teacher_top_k_ids"][number])
        assert np.exp(normalised(served)[number]) == pytest.approx(np.exp(normalised(local)[number]), abs=1e-3)
        assert normalised(served)[number] == pytest.approx(normalised(local)[number], abs=1e-3)
    student = torch.randn(len(TEXTS[2]), TOKENS)
    losses = [
        top_k_forward_kl(
            student,
            torch.from_numpy(each["teacher_top_k_logits"][2]),
            torch.from_numpy(each["teacher_top_k_ids"][2]).long(),
            torch.from_numpy(each["teacher_tail"][2]),
        )
        for each in (served, local)
    ]
    assert torch.allclose(*losses, atol=1e-3)


def test_the_servers_own_limit_is_read_and_told(model, tmp_path, caplog):
    with serving(serve.CausalAnswers(model, characters()), max_logprobs=6) as server:
        made = logits(server).cache(rows(), output_dir=tmp_path / "cache")
        assert made.features["teacher_top_k_ids"].feature.length == 6
        assert "gives 6 tokens a position at most: top_k=6" in caplog.text and "--max-logprobs" in caplog.text
        before = len(server.requests)
        logits(server).cache(rows(), output_dir=tmp_path / "cache")
        assert len(server.requests) == before
        with pytest.raises(ValueError, match=r"gives 6 tokens .* top_k=12 .* Choose top_k=6, or .* --max-logprobs 12"):
            logits(server).cache(rows(), output_dir=tmp_path / "other", top_k=12)


@pytest.mark.served
def test_streams_keep_their_rows(model, tmp_path):
    with serving(serve.CausalAnswers(model, characters())) as server:
        plain = logits(server).cache(rows(), output_dir=tmp_path / "rows", top_k=4, dtype="float32")
        stream = logits(server).cache(
            rows().to_iterable_dataset(), output_dir=tmp_path / "stream", top_k=4, dtype="float32", shard_size=2
        )
    assert stream["input_ids"] == plain["input_ids"]
    assert arrays(stream)["teacher_tail"][2] == pytest.approx(arrays(plain)["teacher_tail"][2])


@pytest.mark.served
def test_rows_as_long_as_the_server_reads(model, tmp_path):
    full = rows(["x" * 60, "y" * 59])
    with serving(serve.CausalAnswers(model, characters())) as server:
        made = arrays(logits(server).cache(full, output_dir=tmp_path / "cache", top_k=4, dtype="float32"))
        with pytest.raises(ValueError, match="61 tokens, and the teacher has places for 60"):
            logits(server).cache(rows(["x" * 61]), output_dir=tmp_path / "other", top_k=4)
    last = made["teacher_top_k_logits"][0][-1]
    assert last == pytest.approx(np.full(4, -np.log(TOKENS))) and made["teacher_top_k_logits"][1][-1][0] > last[0]


class Strange(serve.CausalAnswers):
    """Reads other tokens than it is sent."""

    def prompt_tokens(self, ids, top):
        return super().prompt_tokens([ids[0], *ids], top)


@pytest.mark.parametrize("ignored", FORMS, ids=["prompt_logprobs", "echo"])
def test_another_tokenizer_than_the_servers_is_refused(model, tmp_path, ignored):
    other = characters(reverse=True)  # as many tokens, which stand for other characters
    refusal = r"has another tokenizer, or reads other tokens than it is sent: "
    with (
        serving(serve.CausalAnswers(model, other), ignored=ignored) as server,
        pytest.raises(ValueError, match=refusal + "its token"),
    ):
        logits(server).cache(rows(), output_dir=tmp_path / "other", top_k=4)
    with (
        serving(Strange(model, characters()), ignored=ignored) as server,
        pytest.raises(ValueError, match=refusal),
    ):
        logits(server).cache(rows(), output_dir=tmp_path / "strange", top_k=4)
    assert not list(tmp_path.glob("*/shard*"))


@pytest.mark.served
def test_tokens_that_are_called_by_their_texts(model, tmp_path):
    tokenizer = characters()
    ascii_ids = [token for token in range(TOKENS) if tokenizer.decode([token]).isascii()]
    kept = language_model(max_position_embeddings=60)
    kept.lm_head = torch.nn.Linear(16, TOKENS)
    kept.lm_head.bias.data = torch.full((TOKENS,), -50.0).index_fill(0, torch.tensor(ascii_ids), 0.0)
    settings = {"top_k": 4, "dtype": "float32"}
    with serving(serve.CausalAnswers(kept, tokenizer), ignored=serve.EXTENSIONS) as server:
        texts = logits(server).cache(rows(), output_dir=tmp_path / "texts", **settings)
    with serving(serve.CausalAnswers(kept, tokenizer)) as server:
        ids = logits(server).cache(rows(), output_dir=tmp_path / "ids", **settings)
    for name, values in arrays(texts).items():
        assert all(map(np.allclose, values, arrays(ids)[name]))
    with (
        serving(serve.CausalAnswers(model, tokenizer), ignored=serve.EXTENSIONS) as server,
        pytest.raises(ValueError, match="which 128 tokens of the tokenizer decode to: it does not say which"),
    ):
        logits(server).cache(rows(), output_dir=tmp_path / "other", **settings)


class Changing(serve.CausalAnswers):
    """Reads the second row with another token."""

    def prompt_tokens(self, ids, top):
        changed = [*ids[:-1], ids[-1] + 1] if self.tokenizer.decode(ids) == TEXTS[2] else ids
        return super().prompt_tokens(changed, top)


def test_every_row_is_compared(model, tmp_path):
    with serving(Changing(model, characters())) as server, pytest.raises(ValueError, match="is not among those"):
        logits(server, requests_in_flight=1).cache(rows(), output_dir=tmp_path, top_k=1)


def test_a_server_without_log_probabilities(model, tmp_path):
    answers = serve.CausalAnswers(model, characters())
    with (
        serving(answers, with_logprobs=False) as server,
        pytest.raises(ValueError, match=r"gives no log-probabilities of a prompt. prompt_logprobs: .*echo: "),
    ):
        logits(server).cache(rows(), output_dir=tmp_path, top_k=4)


@pytest.mark.served
def test_a_failed_pass_goes_on(model, tmp_path):
    class Failing(serve.CausalAnswers):
        fails = True

        def prompt_tokens(self, ids, top):
            if Failing.fails and self.tokenizer.decode(ids) == TEXTS[3]:
                raise serve.RequestError("overloaded", 503)
            return super().prompt_tokens(ids, top)

    with serving(Failing(model, characters())) as server:
        with pytest.raises(ConnectionError, match="overloaded"):
            logits(server, requests_in_flight=1).cache(rows(), output_dir=tmp_path, top_k=4, shard_size=1)
        Failing.fails = False
        before = len(server.requests)
        logits(server).cache(rows(), output_dir=tmp_path, top_k=4, shard_size=1)
    assert len(server.requests) - before == 2 + 1  # rows 3 and 4, and what finds out how


@pytest.mark.parametrize("option", ["temperature", "top_p", "n", "max_tokens"])
def test_options_that_change_the_log_probabilities_are_refused(option):
    with pytest.raises(ValueError, match=f"temperature 1: leave {option} out"):
        ServedLogits("tiny", characters(), api_key="x", **{option: 1})


def test_more_than_the_vocabulary(model, tmp_path):
    with serving(serve.CausalAnswers(model, characters())) as server, pytest.raises(ValueError, match="more than the"):
        logits(server).cache(rows(), output_dir=tmp_path, top_k=TOKENS + 1)


def test_rows_that_a_server_cannot_read_as_they_are_meant(model, tmp_path):
    padded = datasets.Dataset.from_dict({"input_ids": [[5, 6, 0]], "attention_mask": [[1, 1, 0]]})
    with serving(serve.CausalAnswers(model, characters())) as server:
        with pytest.raises(ValueError, match=r"The rows from 0 on are padded \(attention_mask has a 0\)"):
            logits(server).cache(padded, output_dir=tmp_path / "padded", top_k=4)
        with pytest.raises(ValueError, match="Row 0 has no tokens"):
            logits(server).cache(rows().map(lambda _: {"input_ids": []}), output_dir=tmp_path / "empty")
        with pytest.raises(ValueError, match="top_k must be at least 1"):
            logits(server).cache(rows(), output_dir=tmp_path / "none", top_k=0)
        with pytest.raises(ValueError, match="Expected tokenized rows with input_ids"):
            logits(server).cache(rows().rename_column("input_ids", "ids"), output_dir=tmp_path / "ids")
    assert not server.requests


class Shares(serve.CausalAnswers):
    """Gives probabilities in place of their logarithms."""

    def prompt_tokens(self, ids, top):
        tokens = super().prompt_tokens(ids, top)
        for token in tokens:
            token.top = [(i, text, math.exp(value)) for i, text, value in token.top]
        return tokens


def test_numbers_that_are_no_log_probabilities_are_refused(model, tmp_path):
    with (
        serving(Shares(model, characters())) as server,
        pytest.raises(ValueError, match=r"returned no log-probabilities at position 1 .* sum to a probability of"),
    ):
        logits(server).cache(rows(), output_dir=tmp_path, top_k=4)


TWO = """
    import sys
    from tests.soft_targets import test_prompted, test_served as here

    class server:
        url = sys.argv[2]

    class classifier:
        url = sys.argv[3]

    made = here.logits(server).cache(
        here.rows(), output_dir=sys.argv[1] + "/logits", top_k=4, dtype="float32", shard_size=1
    )
    assert made["input_ids"] == here.rows()["input_ids"]
    data = test_prompted.rows()
    made, targets = test_prompted.cache_prompted_outputs(
        data, test_prompted.teacher(classifier), output_dir=sys.argv[1] + "/classes"
    )
    assert made["text"] == data["text"] and targets.method == "letters" and targets.counts["texts"] == len(data)
"""


@pytest.mark.served
def test_two_processes_share_the_requests(model, tmp_path):
    script = tmp_path / "two.py"
    script.write_text(textwrap.dedent(TWO))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    labels = classifier(("negative", "positive", "neutral"))
    with (
        serving(serve.CausalAnswers(model, characters())) as server,
        serving(serve.ClassifierAnswers(*labels)) as classes,
    ):
        done = subprocess.run(
            [*command, "--main_process_port", "0", str(script), str(tmp_path), server.url, classes.url],
            env=environment,
            capture_output=True,
            text=True,
            timeout=800,
        )
        assert done.returncode == 0, done.stderr
        assert len(server.requests) == len(TEXTS) + 2  # each finds out how
        assert len({request["messages"][-1]["content"] for request in classes.requests}) == len(classes.requests)
    assert len(list((tmp_path / "logits").glob("*.arrow"))) == len(TEXTS)
