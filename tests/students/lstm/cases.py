"""The shape of the LSTM students of these tests."""

from hf_distill import LSTMStudentConfig

VOCAB = 40
SIZES = {"vocab_size": VOCAB, "embedding_size": 12, "hidden_size": 10, "num_layers": 2}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}


def config(**changes):
    return LSTMStudentConfig(**{**SIZES, **TOKENS, **changes})
