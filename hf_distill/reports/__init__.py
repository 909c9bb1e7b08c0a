"""Reports of a comparison, their plots and model cards."""

from hf_distill.reports.generation import compare_generation
from hf_distill.reports.report import Report
from hf_distill.reports.translation import compare_translation

__all__ = ["Report", "compare_generation", "compare_translation"]
