"""Rows: read, split, tokenized, augmented."""

from hf_distill.data.augmentation import FreshTexts, augmented
from hf_distill.data.config import Augment, Data
from hf_distill.data.tokenization import tokenize, tokenize_pairs

__all__ = ["Augment", "Data", "FreshTexts", "augmented", "tokenize", "tokenize_pairs"]
