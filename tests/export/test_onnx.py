"""The written files, run with onnxruntime, against the models they came from."""

import importlib.util

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    BertForTokenClassification,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from hf_distill import (
    LSTMStudentConfig,
    LSTMStudentForCausalLM,
    LSTMStudentForSeq2SeqLM,
    LSTMStudentForSequenceClassification,
    LSTMStudentForTokenClassification,
    LSTMStudentModel,
    TeacherEnsemble,
)
from hf_distill.export import graphs, onnx
from hf_distill.export.onnx import export_onnx
from hf_distill.export.translator import GreedyTranslator
from tests.conftest import tiny_bert

VOCABULARY = 50


def config(**settings) -> LSTMStudentConfig:
    shape = {"vocab_size": VOCABULARY, "embedding_size": 12, "hidden_size": 10, "num_labels": 3, "pad_token_id": 0}
    return LSTMStudentConfig(**{**shape, **settings})


def tagging_bert() -> BertForTokenClassification:
    return BertForTokenClassification(tiny_bert().config).eval()


def tiny_distilbert() -> DistilBertForSequenceClassification:
    return DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=VOCABULARY, dim=16, n_layers=1, n_heads=2, hidden_dim=16, initializer_range=0.3)
    ).eval()


def tiny_roberta() -> RobertaForSequenceClassification:
    return RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=42,
            type_vocab_size=1,
        )
    ).eval()


MODELS = {
    "lstm": lambda: LSTMStudentForSequenceClassification(config(pooling=["last", "max", "mean"], num_layers=2)),
    "lstm, one way": lambda: LSTMStudentForSequenceClassification(config(bidirectional=False)),
    "lstm tagger": lambda: LSTMStudentForTokenClassification(config()),
    "bert": tiny_bert,
    "bert tagger": tagging_bert,
    "distilbert": tiny_distilbert,
    "roberta": tiny_roberta,
}
SEGMENTS = ("bert", "bert tagger")


def translator(**settings) -> LSTMStudentForSeq2SeqLM:
    special = {"eos_token_id": 1, "decoder_start_token_id": 2, "initializer_range": 0.5}
    return LSTMStudentForSeq2SeqLM(config(**special, **settings)).eval()


def texts(batch: int, length: int, side: str, pad: int = 0) -> dict[str, torch.Tensor]:
    """Random texts; the first fills its row."""
    lengths = torch.cat([torch.tensor([length]), torch.randint(1, length + 1, (batch - 1,))])
    mask = (torch.arange(length) < lengths[:, None]).long()
    mask = mask.flip(1) if side == "left" else mask
    ids = torch.randint(3, VOCABULARY, (batch, length)).masked_fill(mask == 0, pad)
    return {"input_ids": ids, "attention_mask": mask}


def run(file, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})[0]


def contents(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_models_for_any_batch_and_padding(name, tmp_path):
    model = MODELS[name]().eval()
    file = export_onnx(model, tmp_path, int8=False)["model"]
    assert contents(tmp_path) == ["onnx/model.onnx"]
    for batch, length, side in ((1, 1, "right"), (1, 38, "right"), (2, 8, "left"), (7, 12, "right"), (5, 20, "left")):
        inputs = texts(batch, length, side, model.config.pad_token_id)
        if name in SEGMENTS:
            inputs["token_type_ids"] = torch.randint(0, 2, (batch, length))
        with torch.no_grad():
            expected = model(**inputs).logits
        np.testing.assert_allclose(run(file, inputs), expected, atol=1e-5, rtol=1e-5)


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


def test_holes_in_the_mask_and_rows_without_tokens(tmp_path):
    model = MODELS["lstm"]().eval()
    inputs = texts(6, 9, "right")
    inputs["attention_mask"] = torch.randint(0, 2, (6, 9))
    inputs["attention_mask"][3] = 0
    with torch.no_grad():
        expected = model(**inputs).logits
    np.testing.assert_allclose(run(export_onnx(model, tmp_path)["model"], inputs), expected, atol=1e-5)


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
    assert list(files) == ["model", "model_quantized"]
    assert contents(tmp_path) == ["onnx/model.onnx", "onnx/model_quantized.onnx"]
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


def test_a_patched_forward_is_not_exported(tmp_path):
    """As accelerate leaves it behind after training in mixed precision."""
    model = MODELS["lstm"]().eval()
    original = model.forward
    inputs = texts(3, 5, "right")
    with torch.no_grad():
        expected = model(**inputs).logits
    model.forward = lambda *args, **kwargs: original(*args, **kwargs)
    np.testing.assert_allclose(run(export_onnx(model, tmp_path)["model"], inputs), expected, atol=1e-5)


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
    assert contents(tmp_path) == ["onnx/model.onnx"]


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


def test_missing_packages_are_named(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    with pytest.raises(ImportError, match=r"need onnxruntime.*pip install 'hf-distill\[onnx\]'"):
        export_onnx(MODELS["lstm"](), tmp_path / "student")
    with pytest.raises(ImportError, match="onnxruntime"):
        GreedyTranslator(tmp_path)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("side", ["right", "left"])
def test_translations_are_those_of_generate(num_layers, side, tmp_path):
    model = translator(num_layers=num_layers)
    files = export_onnx(model, tmp_path, int8=False)
    assert list(files) == ["decoder_model", "encoder_model"]
    inputs = texts(6, 9, side)
    expected = model.generate(**inputs, max_new_tokens=12, do_sample=False, num_beams=1)
    translate = GreedyTranslator(tmp_path, threads=1)
    got = translate(inputs["input_ids"].numpy(), inputs["attention_mask"].numpy(), max_new_tokens=12)
    assert got.tolist() == expected.tolist()


def test_translations_end(tmp_path):
    """Rows that end early are padded, and the loop stops with the last of them."""
    model = translator()
    inputs = texts(40, 9, "right")
    with torch.no_grad():
        often = model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, -1].mode().values
        model.lm_head.weight[1] = 1.01 * model.lm_head.weight[often]
    ends = (model.generate(**inputs, max_new_tokens=20, do_sample=False) == 1).any(1)
    inputs = {name: value[ends] for name, value in inputs.items()}
    expected = model.generate(**inputs, max_new_tokens=50, do_sample=False)
    export_onnx(model, tmp_path)
    got = GreedyTranslator(tmp_path)(inputs["input_ids"].numpy(), inputs["attention_mask"].numpy(), max_new_tokens=50)
    assert got.tolist() == expected.tolist()
    assert len(set((got == 1).argmax(1))) > 1, "all end at once: nothing is padded"
    assert got.shape[1] <= 21


def test_int8_translations(tmp_path):
    model = translator()
    files = export_onnx(model, tmp_path)
    assert {"encoder_model_quantized", "decoder_model_quantized"} < files.keys()
    inputs = texts(20, 9, "right")
    expected = model.generate(**inputs, max_new_tokens=1, do_sample=False, num_beams=1).numpy()
    translate = GreedyTranslator(tmp_path, quantized=True)
    got = translate(inputs["input_ids"].numpy(), inputs["attention_mask"].numpy(), max_new_tokens=1)
    assert (got == expected).mean() > 0.9


def test_a_folder_without_a_translator(tmp_path):
    export_onnx(MODELS["lstm"](), tmp_path)
    with pytest.raises(ValueError, match=r"Expected .*encoder_model_quantized\.onnx, which does not exist"):
        GreedyTranslator(tmp_path, quantized=True)
