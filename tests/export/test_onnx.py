"""The written files, run with onnxruntime, against the models they came from."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, load
from torch import nn
from transformers import AutoTokenizer, BertTokenizer

from hf_distill import LSTMStudentConfig, LSTMStudentForSequenceClassification
from hf_distill.export import onnx
from hf_distill.export.onnx import export_onnx
from tests.conftest import tiny_bert
from tests.export.cases import MODELS, SEGMENTS, VOCABULARY, config, run, texts


def contents(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_models_for_any_batch_and_padding(name, tmp_path):
    model = MODELS[name]().eval()
    file = export_onnx(model, tmp_path, int8=False)["model"]
    assert contents(tmp_path) == ["onnx/model.onnx", "runtime.py"]
    for batch, length, side in ((1, 1, "right"), (1, 38, "right"), (2, 8, "left"), (7, 12, "right"), (5, 20, "left")):
        inputs = texts(batch, length, side, model.config.pad_token_id)
        if name in SEGMENTS:
            inputs["token_type_ids"] = torch.randint(0, 2, (batch, length))
        with torch.no_grad():
            expected = model(**inputs).logits
        np.testing.assert_allclose(run(file, inputs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "static", "static tagger"])
def test_holes_in_the_mask_and_rows_without_tokens(name, tmp_path):
    model = MODELS[name]().eval()
    inputs = texts(6, 9, "right")
    inputs["attention_mask"] = torch.randint(0, 2, (6, 9))
    inputs["attention_mask"][3] = 0
    with torch.no_grad():
        expected = model(**inputs).logits
    np.testing.assert_allclose(run(export_onnx(model, tmp_path)["model"], inputs), expected, atol=1e-5)


def test_the_tables_of_a_static_student_have_8_bits(tmp_path):
    files = export_onnx(MODELS["static"](), tmp_path)
    sizes = {}
    for name in ("model", "model_quantized"):
        tables = [
            each for each in load(files[name]).graph.initializer if list(each.dims) in ([VOCABULARY, 12], [30, 12])
        ]
        sizes[name] = sorted(each.data_type for each in tables)
    assert sizes == {"model": [TensorProto.FLOAT] * 2, "model_quantized": [TensorProto.UINT8] * 2}


def trained_student() -> LSTMStudentForSequenceClassification:
    """Has learnt which half of the vocabulary most tokens of a text are from."""
    model = LSTMStudentForSequenceClassification(config(num_labels=2, hidden_size=16)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        inputs = texts(64, 11, "right")
        model(**inputs, labels=majority(inputs)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def majority(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    upper = (inputs["input_ids"] >= VOCABULARY // 2) & (inputs["attention_mask"] == 1)
    return (2 * upper.sum(1) > inputs["attention_mask"].sum(1)).long()


def test_int8_keeps_the_labels_of_a_trained_student(tmp_path):
    model = trained_student()
    files = export_onnx(model, tmp_path)
    inputs = texts(1000, 15, "left")
    with torch.no_grad():
        expected = model(**inputs).logits.argmax(-1)
    assert (expected == majority(inputs)).float().mean() > 0.9
    assert (run(files["model_quantized"], inputs).argmax(-1) == expected.numpy()).mean() >= 0.99


@pytest.mark.parametrize("name", ["lstm tagger", "bert", "distilbert"])
def test_int8_stays_close(name, tmp_path):
    model = MODELS[name]().eval()
    file = export_onnx(model, tmp_path)["model_quantized"]
    inputs = texts(50, 12, "right")
    if name in SEGMENTS:
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    assert np.abs(run(file, inputs) - expected).mean() < 0.1 * expected.std()


def test_int8_takes_a_quarter_of_the_space_embeddings_included(tmp_path):
    model = LSTMStudentForSequenceClassification(LSTMStudentConfig(vocab_size=8000, num_labels=2))
    files = export_onnx(model, tmp_path)
    assert list(files) == ["model", "model_quantized", "runtime"]
    assert contents(tmp_path) == ["onnx/model.onnx", "onnx/model_quantized.onnx", "runtime.py"]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters < files["model_quantized"].stat().st_size < 1.05 * parameters
    assert str(tmp_path).encode() not in files["model"].read_bytes() + files["model_quantized"].read_bytes()


def test_the_model_is_left_as_it_was(tmp_path):
    model = LSTMStudentForSequenceClassification(config()).to(torch.bfloat16).train()
    model.lstm.eval()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    drawn = torch.get_rng_state()
    files = export_onnx(model, tmp_path)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert torch.equal(torch.get_rng_state(), drawn)
    inputs = texts(4, 6, "right")
    with torch.no_grad():
        expected = model.float().eval()(**inputs).logits
    np.testing.assert_allclose(run(files["model"], inputs), expected, atol=1e-5)


def test_adapters_are_merged(tmp_path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_bert(), peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    nn.init.normal_(model.base_model.model.bert.encoder.layer[0].attention.self.query.lora_B["default"].weight)
    inputs = texts(3, 5, "right") | {"token_type_ids": torch.zeros(3, 5, dtype=torch.long)}
    with torch.no_grad():
        expected = model.eval()(**inputs).logits
    np.testing.assert_allclose(run(export_onnx(model, tmp_path)["model"], inputs), expected, atol=1e-5, rtol=1e-5)
    assert isinstance(model, peft.PeftModel)


def test_the_tokenizer_comes_along(tmp_path):
    vocabulary = {token: index for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good"])}
    tokenizer = BertTokenizer(vocab=vocabulary)
    files = export_onnx(MODELS["lstm"](), tmp_path, int8=False, tokenizer=tokenizer)
    assert files["tokenizer"] == tmp_path / "tokenizer.json"
    assert AutoTokenizer.from_pretrained(tmp_path)("good")["input_ids"] == tokenizer("good")["input_ids"]
    with pytest.raises(ValueError, match=r"tokenizer has 6 tokens, but the model only 5 embeddings.*trained with"):
        export_onnx(LSTMStudentForSequenceClassification(config(vocab_size=5)), tmp_path, tokenizer=tokenizer)


def test_an_earlier_int8_file_does_not_outlive_its_model(tmp_path):
    export_onnx(MODELS["lstm"](), tmp_path)
    export_onnx(MODELS["lstm"](), tmp_path, int8=False)
    assert contents(tmp_path) == ["onnx/model.onnx", "runtime.py"]


class LengthAsNumber(LSTMStudentForSequenceClassification):
    """Records the number of rows of the example as a constant."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        outputs = super().forward(input_ids, attention_mask, **kwargs)
        outputs.logits = outputs.logits + int(input_ids.shape[1])
        return outputs


class RowsAsNumber(LSTMStudentForSequenceClassification):
    """Reshapes to the number of rows of the example."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        outputs = super().forward(input_ids, attention_mask, **kwargs)
        outputs.logits = outputs.logits.reshape(int(input_ids.shape[0]), 3)
        return outputs


@pytest.mark.parametrize(
    ("model_class", "message"),
    [
        (
            LengthAsNumber,
            r"model.onnx gives other logits than the model on 1 texts.*7 apart.*silently differ.*nothing was",
        ),
        (RowsAsNumber, r"model.onnx cannot run 1 texts.*recorded as a constant.*nothing was written"),
    ],
)
def test_a_file_that_disagrees_is_not_kept(model_class, message, tmp_path):
    export_onnx(MODELS["lstm"](), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in contents(tmp_path)}
    with pytest.raises(ValueError, match=f"(?s){message}"):
        export_onnx(model_class(config()), tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in contents(tmp_path)} == before


def test_nothing_is_kept_when_quantizing_fails(tmp_path, monkeypatch):
    def fails(source, target):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(onnx, "_quantize", fails)
    with pytest.raises(OSError, match="disk full"):
        export_onnx(MODELS["lstm"](), tmp_path / "student")
    assert contents(tmp_path) == []


def test_an_unknown_opset(tmp_path):
    with pytest.raises(ValueError, match=r"could not write model\.onnx with opset 99"):
        export_onnx(MODELS["lstm"](), tmp_path, opset=99)
    assert contents(tmp_path) == []
