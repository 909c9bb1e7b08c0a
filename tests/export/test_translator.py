"""Translation without torch: the exported graphs say what `generate` says."""

import pytest
import torch

from hf_distill import LSTMStudentForSeq2SeqLM
from hf_distill.export.onnx import export_onnx
from hf_distill.export.translator import GreedyTranslator
from tests.export.cases import MODELS, config, texts


def translator(**settings) -> LSTMStudentForSeq2SeqLM:
    special = {"eos_token_id": 1, "decoder_start_token_id": 2, "initializer_range": 0.5}
    return LSTMStudentForSeq2SeqLM(config(**special, **settings)).eval()


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
