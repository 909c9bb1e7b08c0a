"""Reading, sizes and speed of models whose answers are known in advance."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from hf_distill import measure


class Clock:
    """A time that passes only where it is told to."""

    now = 0.0


class Sleeper(BertForSequenceClassification):
    """Takes a known time, by the clock."""

    seconds = 0.0
    calls = 0

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        self.calls += 1
        Clock.now += self.seconds
        return super().forward(input_ids=input_ids, attention_mask=attention_mask)


def sleeper(seconds=0.0):
    torch.manual_seed(0)
    model = Sleeper(
        BertConfig(
            vocab_size=20,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            max_position_embeddings=16,
        )
    )
    model.seconds = seconds
    return model


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: Clock.now))


@pytest.fixture
def dataset():
    return Dataset.from_dict(
        {"input_ids": [[1, 2, 3], [4], [5, 6]], "token_type_ids": [[0] * 3, [0], [0] * 2], "labels": [0, 1, 0]}
    )


def test_only_what_the_forward_takes_is_read(dataset):
    reader = measure.Reader(sleeper(), dataset)
    assert set(reader.inputs(dataset, [0, 1])) == {"input_ids", "attention_mask"}
    plain = measure.Reader(BertForSequenceClassification(sleeper().config), dataset)
    assert set(plain.inputs(dataset, [0, 1])) == {"input_ids", "attention_mask", "token_type_ids"}


def test_rows_are_padded_by_the_processing_class_or_the_config(dataset):
    plain = measure.Reader(sleeper(), dataset).inputs(dataset, [0, 1])
    assert plain["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert plain["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    words = Tokenizer(models.WordLevel({"a": 0, "[PAD]": 9}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", padding_side="left")
    padded = measure.Reader(sleeper(), dataset, tokenizer).inputs(dataset, [0, 1])
    assert padded["input_ids"].tolist() == [[1, 2, 3], [9, 9, 4]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


def test_formatted_data_sets_are_read_alike(dataset):
    reader = measure.Reader(sleeper(), dataset)
    formatted = dataset.with_format("torch")
    assert torch.equal(reader.inputs(dataset, [0, 1])["input_ids"], reader.inputs(formatted, [0, 1])["input_ids"])
    assert reader.lengths(formatted).tolist() == [3, 1, 2]


def test_speed_is_measured_in_turns_on_the_same_texts(dataset, monkeypatch):
    monkeypatch.setattr(measure, "CALLS", 40)
    monkeypatch.setattr(measure, "THROUGHPUT_ROUNDS", 2)
    times = (("slow", 0.125), ("fast", 0.015625))
    readers = {name: measure.Reader(sleeper(seconds), dataset) for name, seconds in times}
    with readers["slow"].ready(), readers["fast"].ready():
        speeds = measure.measure_speed(readers, dataset)
    slow, fast = speeds["slow"], speeds["fast"]
    assert slow.latencies_ms.tolist() == [125.0] * 40
    assert fast.latencies_ms.tolist() == [15.625] * 40
    assert readers["slow"].model.calls == readers["fast"].model.calls
    # Three texts fill a batch of 32 by coming again.
    assert (slow.throughput, fast.throughput) == (256, 2048)
    assert (slow.texts, slow.tokens_per_text) == (3, 2)


def test_a_row_without_a_token_is_not_timed():
    empty = Dataset.from_dict({"input_ids": [[], [4], [5, 6]]})
    reader = measure.Reader(sleeper(0.125), empty)
    with reader.ready():
        speed = measure.measure_speed({"student": reader}, empty)["student"]
    assert (speed.texts, speed.tokens_per_text) == (2, 1.5)


def test_slow_models_stop_early(dataset, monkeypatch):
    monkeypatch.setattr(measure, "SECONDS", 1.0)
    reader = measure.Reader(sleeper(0.1), dataset)
    with reader.ready():
        speed = measure.measure_speed({"slow": reader}, dataset)["slow"]
    assert len(speed.latencies_ms) == measure.FEWEST_CALLS


def test_the_environment_names_no_machine(tmp_path):
    import platform

    described = measure.environment(torch.device("cpu"))
    assert described["threads"] == torch.get_num_threads()
    assert described["peak_memory_bytes"] > 10_000_000
    assert platform.node() not in str(described)


def test_a_model_without_save_pretrained_is_counted_by_its_tensors():
    module = torch.nn.Linear(3, 2)
    assert measure.count_parameters(module) == 8
    assert measure.weights_bytes(module) == 32
