"""Models to export, and texts of uneven lengths."""

import numpy as np
import onnxruntime
import torch
from transformers import (
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from hf_distill import (
    LSTMStudentConfig,
    LSTMStudentForSequenceClassification,
    LSTMStudentForTokenClassification,
    StaticStudentForSequenceClassification,
    StaticStudentForTokenClassification,
)
from tests.conftest import tiny_bert
from tests.students.static.cases import built

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
    "static": lambda: built(StaticStudentForSequenceClassification, vocab_size=VOCABULARY, num_labels=3),
    "static, tokens alone": lambda: built(
        StaticStudentForSequenceClassification, vocab_size=VOCABULARY, num_labels=3, ngram_buckets=0
    ),
    "static tagger": lambda: built(StaticStudentForTokenClassification, vocab_size=VOCABULARY, num_labels=3),
    "bert": tiny_bert,
    "bert tagger": tagging_bert,
    "distilbert": tiny_distilbert,
    "roberta": tiny_roberta,
}
SEGMENTS = ("bert", "bert tagger")


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
