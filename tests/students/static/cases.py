"""The shape of the static students of these tests."""

import torch

from hf_distill import StaticStudentConfig

VOCAB = 40
SIZES = {"vocab_size": VOCAB, "embedding_size": 12, "hidden_size": 10, "ngram_buckets": 30, "ngram_size": 3}
UNPOOLED = [1, 2]


def config(**changes):
    return StaticStudentConfig(**{**SIZES, "pad_token_id": 0, "unpooled_token_ids": UNPOOLED, **changes})


def built(model_class, **changes):
    """A student whose token weights and n-grams are not those of the start, where they have no effect."""
    torch.manual_seed(0)
    model = model_class(config(**changes)).eval()
    with torch.no_grad():
        model.base_model.embeddings.token_weights.uniform_(0.2, 2)
        if model.base_model.ngrams is not None:
            model.base_model.ngrams.weight.normal_()
    return model
