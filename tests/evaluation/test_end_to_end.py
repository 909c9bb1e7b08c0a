"""From a text to its label, by a clock that stands still otherwise."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForTokenClassification, BertTokenizerFast

from hf_distill.data.tokenization import tokenize
from hf_distill.evaluation import speed, stopwatch
from hf_distill.evaluation.end_to_end import FromText, check_texts, end_to_end_ratios, measure_end_to_end
from hf_distill.evaluation.predictor import Predictor, predict_classes, predict_tags
from tests.conftest import tiny_bert


class Clock:
    """A time that passes only where it is told to."""

    now = 0.0


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: Clock.now))


@pytest.fixture
def tokenizer(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *(f"##{letter}" for letter in "abcdefghij")]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    return BertTokenizerFast(str(tmp_path / "vocab.txt"), model_max_length=12)


def rows(**columns):
    return Dataset.from_dict(columns)


def reader(model, tokenizer, dataset, **settings):
    predictor = Predictor(model, dataset, tokenizer, **settings)
    return FromText(predictor, tokenizer, int(predictor.lengths(dataset).max()), "single_label_classification")


@pytest.mark.parametrize(
    "columns",
    [
        {"text": ["a b", "c", "d e f g h i j a b c d e f g h"]},
        {"text": ["a b", "c", "d"], "text_pair": ["e", "f g", "h i j a b c d e f g h i j"]},
    ],
)
def test_a_text_gets_the_label_of_its_row(tokenizer, columns):
    raw = rows(**columns)
    dataset = tokenize(raw, tokenizer)
    model = tiny_bert(num_labels=3)
    one = reader(model, tokenizer, dataset)
    texts = list(zip(*columns.values(), strict=True)) if len(columns) > 1 else columns["text"]
    check_texts({"student": one}, texts, dataset)
    with torch.inference_mode():
        assert one.label(texts) == predict_classes(model, dataset, tokenizer).tolist()
        assert [one.label([text])[0] for text in texts] == one.label(texts)


def test_words_get_their_tags_as_far_as_they_are_read(tokenizer):
    sentences = [["ab", "c"], ["d"], ["efg", "hij", "abc", "de", "f"]]
    dataset = tokenize(rows(words=sentences), tokenizer)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = BertForTokenClassification(BertConfig(vocab_size=30, num_labels=3, initializer_range=1.0, **sizes)).eval()
    one = reader(model, tokenizer, dataset, word_level=True)
    check_texts({"student": one}, sentences, dataset)
    with torch.inference_mode():
        assert one.label(sentences) == predict_tags(model, dataset, tokenizer)
    with pytest.raises(ValueError, match="text 0 has 1 words for the student"):
        check_texts({"student": one}, [["ab"], ["d"], sentences[2]], dataset)


def test_tokenization_is_in_the_time(tokenizer, monkeypatch):
    """A tokenizer that takes two seconds, and a model that takes one."""
    monkeypatch.setattr(speed, "CALLS", 16)
    texts = ["a b", "c", "d e f"]
    dataset = tokenize(rows(text=texts), tokenizer)
    model = tiny_bert(num_labels=3)
    forward = model.forward

    def slowly(**inputs):
        Clock.now += 1.0
        return forward(**inputs)

    model.forward = slowly

    class Slow:
        padding_side = "right"

        def __call__(self, *given, **options):
            Clock.now += 2.0
            return tokenizer(*given, **options)

    one = reader(model, tokenizer, dataset)
    slow = FromText(one.predictor, Slow(), one.limit, one.problem)
    with torch.inference_mode():
        found = measure_end_to_end({"slow": slow, "fast": one}, texts, dataset)
    assert set(found["slow"].latencies_ms) == set(found["slow"].batches_ms) == {3000.0}
    assert set(found["fast"].latencies_ms) == {1000.0}
    assert found["slow"].summary() == {
        "end_to_end_ms": {"batch_1": {"p50": 3000, "p95": 3000}},
        "end_to_end_throughput": {"batch_32": pytest.approx(32 / 3)},
    }
    assert end_to_end_ratios(found["slow"], found["fast"], 0)["faster_end_to_end"]["value"] == 3
