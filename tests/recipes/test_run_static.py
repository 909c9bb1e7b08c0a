"""Whole runs with a static student: classes of texts, and tags of words."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from hf_distill import StaticStudentForSequenceClassification, StaticStudentForTokenClassification
from hf_distill.cli import main
from tests.export.cases import run
from tests.recipes import test_run as reviews
from tests.recipes import test_run_tagging as tags

SHAPE = {"embedding_size": 16, "hidden_size": 16, "ngram_buckets": 500}


@pytest.mark.cheapest
def test_classification_from_a_file_to_a_student(tmp_path):
    reviews.write_reviews(tmp_path / "reviews.csv")
    reviews.write_teacher(tmp_path / "teacher")
    student = {"kind": "static", "vocab_size": 120, "config": {**SHAPE, "teacher_embeddings": "layers"}}
    changes = {"student": student, "compare__controls": ["tfidf_logistic_regression"]}
    assert main(["run", str(reviews.recipe(tmp_path, **changes))]) == 0
    out = tmp_path / "out"
    report = json.loads((out / "report.json").read_text())
    quality = {name: model["quality"]["accuracy"]["value"] for name, model in report["models"].items()}
    assert quality["teacher"] > 0.9 and quality["student"] > 0.85
    assert report["ratios"]["faster"] > 0
    carried = json.loads((out / ".work" / "initial" / "carried.json").read_text())
    assert "through the teacher's layers" in carried["static.embeddings.weight"]
    assert "smooth inverse frequency" in carried["static.embeddings.token_weights"]
    # From the words of a text to its class, as torch, onnxruntime and a pipeline have it.
    student = StaticStudentForSequenceClassification.from_pretrained(out / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(out / "student")
    assert student.config.unpooled_token_ids == sorted({*tokenizer("").input_ids, tokenizer.unk_token_id})
    assert list(student.config.id2label.values()) == ["bad", "good"]
    texts = ["it was a lovely and superb place", "the staff was awful"]
    read = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        logits = student(**read).logits
    np.testing.assert_allclose(run(out / "student" / "onnx" / "model.onnx", dict(read)), logits, atol=1e-5)
    int8 = run(out / "student" / "onnx" / "model_quantized.onnx", dict(read))
    assert int8.argmax(-1).tolist() == logits.argmax(-1).tolist() == [1, 0]
    assert [each["label"] for each in pipeline("text-classification", str(out / "student"))(texts)] == ["good", "bad"]
    assert "trust_remote_code=True" in (out / "student" / "README.md").read_text()


@pytest.mark.cheapest
def test_tagging_from_a_file_to_a_student(tmp_path):
    tags.write_sentences(tmp_path / "names.conll")
    tags.write_teacher(tmp_path / "teacher")
    student = {"kind": "static", "vocab_size": 90, "max_length": 24, "config": {**SHAPE, "window": 1}}
    compare = {"resamples": 200, "metrics": ["seqeval"], "controls": False}
    assert main(["run", str(tags.recipe(tmp_path, student=student, compare=compare))]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["models"]["student"]["quality"]["seqeval"]["value"] > 0.8
    tagger = AutoModelForTokenClassification.from_pretrained(tmp_path / "out" / "student").eval()
    assert type(tagger) is StaticStudentForTokenClassification
    read = AutoTokenizer.from_pretrained(tmp_path / "out" / "student")(
        [["Celia", "went", "to", "Dover"]], is_split_into_words=True, return_tensors="pt"
    )
    first = [read.word_ids().index(word) for word in range(4)]
    with torch.no_grad():
        found = tagger(**read).logits[0, first].argmax(-1)
    assert [tagger.config.id2label[index] for index in found.tolist()] == ["B-PER", "O", "O", "B-LOC"]
