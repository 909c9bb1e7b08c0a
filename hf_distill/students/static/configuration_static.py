"""The configuration of static students. It is uploaded with every student, so it imports only transformers."""

from collections.abc import Sequence

from transformers import PreTrainedConfig

TEACHER_EMBEDDINGS = ("table", "layers")


class StaticStudentConfig(PreTrainedConfig):
    """Configuration of a static student: token embeddings, hashed n-grams, and a small head.

    Args:
        vocab_size: rows of the table of token embeddings.
        embedding_size: width of both tables.
        hidden_size: units of the head's hidden layer.
        ngram_buckets: rows of the table of n-grams, which are hashed into it. 0: no n-grams.
        ngram_size: tokens of the longest n-gram; with 3, pairs and triples of neighbouring tokens are read.
        window: of a tagger, how many tokens on either side its head reads beside the token itself.
        dropout: probability in [0, 1), around the head's hidden layer.
        initializer_range: standard deviation of randomly initialised embeddings and linear layers. N-grams start at 0.
        teacher_embeddings: where `student_from_teacher` takes the token embeddings from: "table" (the teacher's
            embedding table) or "layers" (each token passed through the teacher's layers alone).
        unpooled_token_ids: tokens that the mean of a text leaves out: those that every text has, such as [CLS], and the
            unknown token. Recipes and `student_from_teacher` take them from the student's tokenizer.
        pad_token_id: the token whose embedding is and stays zero. None: no such token.
    Raises:
        ValueError: a size is out of range, dropout or a token id is, or `teacher_embeddings` is unknown.

    >>> StaticStudentConfig(vocab_size=8000, num_labels=3).ngram_size
    2
    """

    model_type = "static_student"
    _auto_class = "AutoConfig"

    vocab_size: int = 8000
    embedding_size: int = 128
    hidden_size: int = 128
    ngram_buckets: int = 0
    ngram_size: int = 2
    window: int = 2
    dropout: float = 0.1
    initializer_range: float = 0.1
    teacher_embeddings: str = "table"
    unpooled_token_ids: Sequence[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs):
        smallest = {"vocab_size": 1, "embedding_size": 1, "hidden_size": 1, "ngram_buckets": 0, "ngram_size": 2}
        for name, least in {**smallest, "window": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
        if self.ngram_buckets >= 2**31:
            # The hash has as many values, and its products would not fit into 64 bits beyond it.
            raise ValueError(f"ngram_buckets must be below 2**31, got {self.ngram_buckets}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {self.dropout!r}; 1 would drop everything.")
        if self.teacher_embeddings not in TEACHER_EMBEDDINGS:
            raise ValueError(
                f"teacher_embeddings must be one of {', '.join(TEACHER_EMBEDDINGS)}, got {self.teacher_embeddings!r}."
            )
        tokens = self.unpooled_token_ids
        if tokens is not None:
            self.unpooled_token_ids = sorted({*tokens})  # a list stays equal after saving and loading
        for name, ids in (("pad_token_id", [self.pad_token_id]), ("unpooled_token_ids", tokens or [])):
            beyond = [index for index in ids if index is not None and not 0 <= index < self.vocab_size]
            if beyond:
                raise ValueError(
                    f"{name}: {beyond[0]} is not a row of an embedding table of vocab_size {self.vocab_size}. Take "
                    "both from the student's tokenizer: `pad_token_id=tokenizer.pad_token_id, "
                    "vocab_size=len(tokenizer)`."
                )
        super().__post_init__(**kwargs)
