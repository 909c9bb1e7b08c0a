"""Export students to ONNX, and run the exported files."""

from hf_distill.export.onnx import export_onnx
from hf_distill.export.translator import GreedyTranslator

__all__ = ["GreedyTranslator", "export_onnx"]
