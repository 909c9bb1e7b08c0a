"""What has a graph, and what is refused before anything is written."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from hf_distill import LSTMStudentForCausalLM, LSTMStudentForSequenceClassification, LSTMStudentModel, TeacherEnsemble
from hf_distill.export import graphs
from hf_distill.export.onnx import export_onnx
from tests.conftest import tiny_bert
from tests.export.cases import MODELS, SEGMENTS, config, run, texts


@pytest.mark.parametrize("name", MODELS)
def test_inputs_and_axes(name, tmp_path):
    session = onnxruntime.InferenceSession(str(export_onnx(MODELS[name](), tmp_path, int8=False)["model"]))
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * (name in SEGMENTS)
    assert [(put.name, put.shape, put.type) for put in session.get_inputs()] == [
        (put, ["batch", "length"], "tensor(int64)") for put in names
    ]
    (logits,) = session.get_outputs()
    assert logits.name == "logits"
    assert logits.shape[:-1] == (["batch", "length"] if "tagger" in name else ["batch"])


def test_a_patched_forward_is_not_exported(tmp_path):
    """As accelerate leaves it behind after training in mixed precision."""
    model = MODELS["lstm"]().eval()
    original = model.forward
    inputs = texts(3, 5, "right")
    with torch.no_grad():
        expected = model(**inputs).logits
    model.forward = lambda *args, **kwargs: original(*args, **kwargs)
    np.testing.assert_allclose(run(export_onnx(model, tmp_path)["model"], inputs), expected, atol=1e-5)


class Quantized(LSTMStudentForSequenceClassification):
    is_quantized = True


class Spread(LSTMStudentForSequenceClassification):
    hf_device_map = {"lstm": 0, "classifier": "cpu"}  # noqa: RUF012


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: LSTMStudentForCausalLM(config()),
            "no ONNX export for LSTMStudentForCausalLM: expected a model for seq",
        ),
        (lambda: LSTMStudentModel(config()), "LSTMStudentModel has no head"),
        (lambda: nn.Linear(2, 2), "Expected a transformers model, got Linear"),
        (lambda: TeacherEnsemble([tiny_bert()]), "got TeacherEnsemble. Export the members of an ensemble"),
        (lambda: Quantized(config()), "is quantised.*without quantization_config"),
        (lambda: Spread(config()), "spread over several devices.*without device_map"),
    ],
)
def test_what_cannot_be_exported_is_refused_at_once(model, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_onnx(model(), tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_models_beyond_the_file_format_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "LARGEST", 1000)
    with pytest.raises(ValueError, match="GB of float32 weights"):
        export_onnx(MODELS["lstm"](), tmp_path / "student")
