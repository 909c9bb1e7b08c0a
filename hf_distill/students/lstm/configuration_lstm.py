"""The configuration of the LSTM students. Uploaded with every student, so it imports only transformers."""

from collections.abc import Sequence

from transformers import PreTrainedConfig

POOLINGS = ("last", "max", "mean")


class LSTMStudentConfig(PreTrainedConfig):
    """The shape of an LSTM student; every head (classification, tagging, translation, generation) shares it.

    Args:
        vocab_size: rows of the embedding table.
        embedding_size: width of the token embeddings.
        hidden_size: LSTM units per direction, so states of a bidirectional encoder are twice as wide.
        num_layers: LSTM layers; also known as `num_hidden_layers`.
        dropout: probability in [0, 1) on embeddings, between layers, and around the head's dense layer.
        pooling: what a sequence classifier reads from the states of the unmasked tokens, concatenated: "last" (where
            each direction ends), "max", "mean".
        bidirectional: whether the encoder also reads right to left. Decoders and causal students never do.
        initializer_range: standard deviation of freshly drawn embeddings and linear layers.
        tie_word_embeddings: whether a language-model head shares its weights with the token embeddings.
        pad_token_id: its embedding is zero and stays so. None: no token is special to the embeddings.
        decoder_start_token_id: the first token a translation student reads; needed by that head only.
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
        self.pooling = list(self.pooling)  # JSON has no tuples: a list is equal after a round trip
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id {self.pad_token_id} is not a row of an embedding table of vocab_size {self.vocab_size}. "
                "Take both from the student's tokenizer: `pad_token_id=tokenizer.pad_token_id, "
                "vocab_size=len(tokenizer)`."
            )
        super().__post_init__(**kwargs)

    @property
    def encoder_size(self) -> int:
        """Width of the encoder's states: hidden_size for each direction it reads in."""
        return self.hidden_size * (2 if self.bidirectional else 1)
