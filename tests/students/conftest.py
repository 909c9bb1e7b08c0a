"""Tokenizers of every kind."""

import pytest
from transformers import AlbertTokenizer, BertTokenizer, GPT2Tokenizer, LlamaTokenizer, RobertaTokenizer, T5Tokenizer

STORY = (
    "the flight was late again and nobody told us why so we are standing in line waiting for a new plane thanks a lot "
    "what a lovely crew they really saved our holiday great service best airline ever never flying with you again "
    "my bag is lost somewhere between boston and denver please help customer support does not answer the phone"
)
WORDS = STORY.split(" ")
TEXTS = [" ".join(WORDS[start : start + 7]) + "!" for start in range(len(WORDS))]
KINDS = [BertTokenizer, RobertaTokenizer, GPT2Tokenizer, T5Tokenizer, AlbertTokenizer, LlamaTokenizer]


@pytest.fixture(scope="session")
def teachers():
    """A teacher's tokenizer of each kind, with settings of its own."""
    return {
        kind: kind(model_max_length=77, padding_side="left", truncation_side="left").train_new_from_iterator(
            [TEXTS], 600, show_progress=False
        )
        for kind in KINDS
    }


def tokens_of(tokenizer, ids):
    return tokenizer.convert_ids_to_tokens(ids)
