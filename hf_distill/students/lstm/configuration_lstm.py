"""The configuration of LSTM students. It is uploaded with every student, so it imports only transformers."""

from collections.abc import Sequence

from transformers import PreTrainedConfig

POOLINGS = ("last", "max", "mean")


class LSTMStudentConfig(PreTrainedConfig):
    """Configuration of an LSTM student with any head: classification, tagging, translation or generation.

    Args:
        vocab_size: rows of the embedding table.
        embedding_size: width of the token embeddings.
        hidden_size: LSTM units per direction; the states of a bidirectional encoder are twice as wide.
        num_layers: number of LSTM layers; also available as `num_hidden_layers`.
        dropout: probability in [0, 1), on embeddings, between layers, and around the head's dense layer.
        pooling: the inputs of a sequence classifier, computed from the states of the unmasked tokens and concatenated:
            "last" (the final state of each direction), "max", "mean".
        bidirectional: whether the encoder is bidirectional. Decoders and causal students never are.
        initializer_range: standard deviation of randomly initialised embeddings and linear layers.
        tie_word_embeddings: whether a language-model head shares its weights with the token embeddings.
        pad_token_id: the token whose embedding is and stays zero. None: no such token.
        bos_token_id: the first token of a text, for `generate`.
        eos_token_id: the end of a generated text, one id or several; required by the translation head.
        decoder_start_token_id: the first input token of the decoder; required by the translation head only.
    Raises:
        ValueError: a size is not a positive integer, dropout or a token id is out of range, or pooling is unknown.

    >>> LSTMStudentConfig(vocab_size=8000, num_labels=3).num_hidden_layers
    1
    """

    model_type = "lstm_student"
    _auto_class = "AutoConfig"
    attribute_map = {"num_hidden_layers": "num_layers"}  # noqa: RUF012 - transformers declares it as a ClassVar
    keys_to_ignore_at_inference = ["cache_params"]  # noqa: RUF012 - read by Trainer from the class

    vocab_size: int = 8000
    embedding_size: int = 128
    hidden_size: int = 128
    num_layers: int = 1
    dropout: float = 0.1
    pooling: Sequence[str] = ("last", "max")
    bidirectional: bool = True
    initializer_range: float = 0.1
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self, **kwargs):
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_layers"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {self.dropout!r}; 1 would drop everything.")
        if isinstance(self.pooling, str) or not self.pooling or set(self.pooling) - set(POOLINGS):
            raise ValueError(f"pooling must list one or more of {', '.join(POOLINGS)}, got {self.pooling!r}.")
        self.pooling = list(self.pooling)  # JSON has no tuples: a list stays equal after saving and loading
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id {self.pad_token_id} is not a row of an embedding table of vocab_size {self.vocab_size}. "
                "Take both from the student's tokenizer: `pad_token_id=tokenizer.pad_token_id, "
                "vocab_size=len(tokenizer)`."
            )
        super().__post_init__(**kwargs)

    @property
    def encoder_size(self) -> int:
        """Width of the encoder's states: hidden_size times the number of directions."""
        return self.hidden_size * (2 if self.bidirectional else 1)
