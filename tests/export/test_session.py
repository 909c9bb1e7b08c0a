"""ONNX sessions: a package that is missing is named."""

import importlib.util

import pytest

from hf_distill.export.onnx import export_onnx
from hf_distill.export.translator import GreedyTranslator
from tests.export.cases import MODELS


def test_missing_packages_are_named(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    with pytest.raises(ImportError, match=r"need onnxruntime.*pip install 'hf-distill\[onnx\]'"):
        export_onnx(MODELS["lstm"](), tmp_path / "student")
    with pytest.raises(ImportError, match="onnxruntime"):
        GreedyTranslator(tmp_path)
