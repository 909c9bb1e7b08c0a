"""Exported files as models: they say what the model says, and a comparison measures them beside it."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_distill import (
    LSTMStudentConfig,
    LSTMStudentForSequenceClassification,
    LSTMStudentForTokenClassification,
    compare,
    export_onnx,
)
from hf_distill.evaluation import speed
from hf_distill.evaluation.predictor import Predictor, predict_logits
from hf_distill.export.onnx_model import OnnxModel, onnx_models
from tests.conftest import tiny_bert

VOCABULARY = 40


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, value in {"CALLS": 16, "FEWEST_CALLS": 16, "ROUNDS": 1, "CELL_SECONDS": 0.0}.items():
        monkeypatch.setattr(speed, name, value)


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    ids = [generator.integers(1, VOCABULARY, size=generator.integers(2, 20)).tolist() for _ in range(60)]
    return Dataset.from_dict(
        {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": [row[0] % 3 for row in ids]}
    )


def lstm(head=LSTMStudentForSequenceClassification):
    torch.manual_seed(1)
    shape = {"embedding_size": 12, "hidden_size": 10, "num_labels": 3, "pad_token_id": 0}
    student = head(LSTMStudentConfig(vocab_size=VOCABULARY, **shape)).eval()
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return student


@pytest.mark.parametrize("make", [lstm, tiny_bert])
def test_a_file_says_what_its_model_says(make, rows, tmp_path):
    model = make().eval()
    file = export_onnx(model, tmp_path, int8=False)["model"]
    said = []
    for each in (model, OnnxModel(file, model.config)):
        reader = Predictor(each, rows)
        with reader.ready():
            said.append(predict_logits(reader, rows, name="model"))
    np.testing.assert_allclose(*said, atol=1e-5)


def test_segments_are_read_where_there_are_any(rows, tmp_path):
    model = tiny_bert().eval()
    inputs = {"input_ids": torch.tensor([[3, 4, 5]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    exported = OnnxModel(export_onnx(model, tmp_path, int8=False)["model"], model.config)
    found = []
    with torch.no_grad():
        for segments in (None, torch.tensor([[0, 1, 1]])):
            found.append(exported(**inputs, token_type_ids=segments)["logits"])
            torch.testing.assert_close(found[-1], model(**inputs, token_type_ids=segments).logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(*found)


def test_files_are_found_by_kind(tmp_path):
    student = lstm()
    with pytest.raises(ValueError, match=r"neither exists\. Write them with export_onnx"):
        onnx_models(tmp_path, student.config)
    export_onnx(student, tmp_path, int8=False)
    assert set(onnx_models(tmp_path, student.config)) == {"float32"}
    export_onnx(student, tmp_path)
    assert set(onnx_models(tmp_path, student.config)) == {"float32", "int8"}


def test_a_comparison_measures_the_files(rows, tmp_path):
    student = lstm()
    files = export_onnx(student, tmp_path)
    report = compare(
        tiny_bert(num_labels=3), student, rows, metrics=["accuracy"], onnx=tmp_path, test_sets={"again": rows}
    )
    assert set(report.onnx) == {"float32", "int8"}
    assert report.onnx["float32"]["agreement"] == 1
    assert report.onnx["int8"]["agreement"] > 0.8
    assert report.onnx["float32"]["quality"] == report.models["student"]["quality"]
    for kind, stem in (("float32", "model"), ("int8", "model_quantized")):
        size = files[stem].stat().st_size
        assert report.onnx[kind]["bytes"] == size
        ratios = report.onnx[kind]["ratios"]
        assert ratios["lighter"] == pytest.approx(report.models["teacher"]["bytes"] / size, rel=1e-4)
        times = [one["latency_ms"]["batch_1"]["p50"] for one in (report.models["teacher"], report.onnx[kind])]
        assert ratios["faster"] == pytest.approx(times[0] / times[1], rel=1e-3)
        assert "flops_per_text" not in report.onnx[kind]
    runtimes = {(row["model"], row["runtime"]) for row in report.speed}
    assert runtimes == {("teacher", "torch"), *(("student", name) for name in ("torch", "onnx float32", "onnx int8"))}
    # They are no further models, controls or seeds.
    assert set(report.models) == {"teacher", "student"}
    assert set(report.controls) == {"majority_class"}
    assert set(report.test_sets["again"]) == {"examples", "teacher", "student"}


def test_a_file_that_answers_otherwise_is_seen(rows, tmp_path):
    """The files of another student, planted."""
    student = lstm()
    other = lstm()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    export_onnx(other, tmp_path, int8=False)
    report = compare(tiny_bert(num_labels=3), student, rows, metrics=["accuracy"], onnx=tmp_path)
    reader = [Predictor(model, rows) for model in (student, other)]
    said = []
    for one in reader:
        with one.ready():
            said.append(predict_logits(one, rows, name="model").argmax(axis=-1))
    assert report.onnx["float32"]["agreement"] == pytest.approx((said[0] == said[1]).mean(), abs=1e-4)
    assert report.onnx["float32"]["agreement"] < 1


def test_words_are_compared_too(tmp_path):
    generator = np.random.default_rng(0)
    ids = [generator.integers(1, VOCABULARY, size=generator.integers(2, 12)).tolist() for _ in range(40)]
    marks = [[1 if place % 2 == 0 else 0 for place in range(len(row))] for row in ids]
    labels = [
        [row[place] % 3 if mark else -100 for place, mark in enumerate(starts)]
        for row, starts in zip(ids, marks, strict=True)
    ]
    rows = Dataset.from_dict({"input_ids": ids, "word_starts": marks, "labels": labels})
    student = lstm(LSTMStudentForTokenClassification)
    export_onnx(student, tmp_path, int8=False)
    report = compare(
        lstm(LSTMStudentForTokenClassification),
        student,
        rows,
        task="token-classification",
        metrics=["accuracy"],
        onnx=tmp_path,
    )
    assert report.onnx["float32"]["agreement"] == 1
    assert report.onnx["float32"]["quality"] == report.models["student"]["quality"]
