"""What can be asked of any model: its arguments, limits, problem type and placement."""

import inspect
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

# What collators that pack rows give to attention kernels, and transformers' models take as further keywords.
PACKING = frozenset({"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"})


def padded(rows: Sequence[Tensor], fill: int, side: str) -> Tensor:
    """Put rows of different lengths into one tensor.

    On the left `pad_sequence` fails under a FLOP counter before torch 2.13.

    Args:
        rows: (length,) each, at least one.
        fill: what stands where a row has nothing.
        side: of the padding, "left" or "right".
    Returns:
        (rows, longest).

    >>> padded([torch.tensor([1, 2, 3]), torch.tensor([4])], 0, "left").tolist()
    [[1, 2, 3], [0, 0, 4]]
    """
    if side == "right":
        return pad_sequence(list(rows), batch_first=True, padding_value=fill)
    return pad_sequence([row.flip(0) for row in rows], batch_first=True, padding_value=fill).flip(1)


def embedding_width(config: Any, through_layers: bool = False) -> int:
    """The size of a model's token embeddings, as its config has it.

    Args:
        config: of the model.
        through_layers: whether that of its states is meant, which the embeddings become in its layers.

    >>> from transformers import AlbertConfig
    >>> embedding_width(AlbertConfig(embedding_size=128, hidden_size=768))
    128
    """
    config = config.get_text_config()
    names = ["hidden_size"] if through_layers else ["embedding_size", "word_embed_proj_dim", "hidden_size"]
    return next((size for name in names if (size := getattr(config, name, None))), sys.maxsize)


def unwrapped(model: Any) -> Any:
    """A model without a compiler's wrapper (`torch.compile`) or data parallelism's around it."""
    while True:
        if "_orig_mod" in getattr(model, "_modules", {}):
            model = model._orig_mod
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def base_model(model: Any) -> Any:
    """A model without PEFT adapters, and without a compiler's wrapper or data parallelism's around it."""
    model = unwrapped(model)
    return unwrapped(model.get_base_model()) if hasattr(model, "get_base_model") else model


def callable_model(model: Any) -> Any:
    """A teacher as it will be called: compiled where it is compiled, without data parallelism around it.

    Args:
        model: a `PreTrainedModel`, or a module of your own with a `config` around one.
    Raises:
        TypeError: something that cannot be called with the inputs of a batch.
    """
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    expected = (
        "expected a PreTrainedModel (AutoModelFor....from_pretrained), or a module of your own with a `config` and a "
        "forward that names its inputs and returns an output with `logits`"
    )
    if not isinstance(model, nn.Module) or getattr(model, "config", None) is None:
        raise TypeError(f"The teacher is a {type(model).__name__} without a config: {expected}. Pass the model inside.")
    arguments = forward_arguments(model)
    if not arguments & {"input_ids", "inputs_embeds", getattr(base_model(model), "main_input_name", "input_ids")}:
        raise TypeError(
            f"The forward of the teacher, a {type(model).__name__}, takes {', '.join(sorted(arguments)) or 'nothing'}, "
            f"which does not say which columns it reads: {expected}. Name input_ids, attention_mask and what else it "
            "reads as parameters of forward, or pass the model inside."
        )
    return model


def device_of(model: Any, otherwise: torch.device) -> torch.device:
    """Where a model's weights are.

    Args:
        model: any module.
        otherwise: the answer for a module without weights of its own.
    """
    device = getattr(model, "device", None)
    return device if device is not None else next((each.device for each in model.parameters()), otherwise)


def decoder_inputs(model: Any, labels: Tensor) -> Tensor:
    """What an encoder-decoder model's decoder reads when it is given labels, by the model's own rule.

    Args:
        model: an encoder-decoder model with a language head, PEFT adapters allowed.
        labels: (batch, target), padded on the right; -100 is read as padding.
    Returns:
        (batch, target), the labels moved by one behind the token that the decoder starts with.
    Raises:
        ValueError: the model has no such rule that could be called.
    """
    base = base_model(model)
    if hasattr(base, "prepare_decoder_input_ids_from_labels"):
        return base.prepare_decoder_input_ids_from_labels(labels=labels)
    # M2M100 (NLLB) and others of transformers 5.23 shift by a function beside the class, and in `forward` alone.
    for cls in type(base).__mro__:
        shift = getattr(sys.modules[cls.__module__], "shift_tokens_right", None)
        if shift is not None:
            return shift(labels, base.config.pad_token_id, base.config.decoder_start_token_id)
    raise ValueError(
        f"{type(base).__name__} does not say what its decoder reads for given labels: expected a method "
        "prepare_decoder_input_ids_from_labels, or a function shift_tokens_right in its module. Add the method to it."
    )


def problem_type(config: Any, labels: Tensor | None) -> str:
    """`single_label_classification`, `multi_label_classification` or `regression`, by transformers' own rule.

    Args:
        config: of a sequence classification model.
        labels: of a batch, their type tells where the config does not.
    """
    if config.problem_type is not None:
        return config.problem_type
    if config.num_labels == 1:
        return "regression"
    multi_label = labels is not None and labels.is_floating_point()
    return "multi_label_classification" if multi_label else "single_label_classification"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode for a while, each of its modules put back into its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def is_placed(model: Any) -> bool:
    """Whether a model is quantised or was placed by a device map, and so must stay where it is."""
    return bool(getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False))


def forward_arguments(model: nn.Module) -> set[str]:
    """The names that a model's forward takes, read from the class since accelerate patches instances.

    Models of transformers that take further keywords hand those of packed rows (`PACKING`) to their attention.
    """
    base = base_model(model)
    parameters = inspect.signature(type(base).forward).parameters
    further = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return (set(parameters) - {"self"}) | (PACKING if further and isinstance(base, PreTrainedModel) else set())


def position_ids(model: Any, attention_mask: Tensor | None) -> Tensor | None:
    """The positions that a model must be given so that padding on the left changes nothing.

    Models count positions from the start of the padded row, `generate()` alone counts them from the first token. The
    side of padding is read from the mask.

    Args:
        model: whose forward reads the mask; adapters or a compiler around it are allowed.
        attention_mask: (batch, length), 0 at padding; None or another shape: nothing is known of padding.
    Returns:
        (batch, length) int, counted from each row's first token. None where no row is padded on the left, or where the
        model finds its positions itself (from the mask, from the token ids as RoBERTa does, or relative ones).
    Raises:
        ValueError: rows are padded on the left, and the model reads absolute positions that it cannot be given.
    """
    if attention_mask is None or attention_mask.dim() != 2:
        return None
    present = attention_mask != 0
    start = present.int().argmax(dim=-1, keepdim=True)  # the first token; 0 in a row of padding alone
    if not start.any():
        return None
    base = base_model(model)
    tables = list(_position_tables(base))
    if any(_counts_tokens(table) for table in tables):
        return None
    if "position_ids" in forward_arguments(model):
        # Where the numbers start: 0, but 2 in Nystromformer and YOSO.
        default = next((b for name, b in base.named_buffers() if name.endswith("embeddings.position_ids")), None)
        first = 0 if default is None else int(default.flatten()[0])
        places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        return (places - start).clamp(min=0) + first
    if tables:
        raise ValueError(
            f"Rows are padded on the left, and {type(base).__name__} numbers positions from the start of the padded "
            "row without taking position_ids: its outputs would depend on how much padding a row has. Pad on the "
            'right (tokenizer.padding_side = "right").'
        )
    return None


def _position_tables(model: nn.Module) -> Iterator[nn.Module]:
    """The tables of absolute positions, learned or precomputed, by their names in transformers."""
    names = ("position_embeddings", "embed_positions", "positions_embed", "wpe")
    return (table for name, table in model.named_modules() if name.endswith(names))


def _counts_tokens(table: nn.Module) -> bool:
    """Whether positions are counted by the token ids that are not padding, as in RoBERTa, MPNet, ESM and M2M100."""
    counted = getattr(table, "padding_idx", None) is not None
    return counted and "position_ids" not in inspect.signature(type(table).forward).parameters  # XGLM has both


def input_limits(model: Any) -> tuple[float, float]:
    """A model's number of positions, and the size of its vocabulary; infinite if its config has no limit.

    Args:
        model: the tables of learned or precomputed positions are found by their names, `position_embeddings` for
            instance; rotary and relative positions have no end.
    """
    places = [
        # A table's first rows may be kept for padding.
        table.num_embeddings - getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1)
        for table in _position_tables(model)
        if isinstance(table, nn.Embedding)
    ]
    base = base_model(model)
    try:
        words = base.get_input_embeddings() if isinstance(base, PreTrainedModel) else None
    except NotImplementedError:  # of a model that reads bytes, for instance
        words = None
    return min(places, default=math.inf), words.num_embeddings if isinstance(words, nn.Embedding) else math.inf


def tokens_of_one_tokenizer(tokenizer: Any, teacher_tokenizer: Any) -> int | None:
    """How many token ids a tokenizer uses, if student and teacher are known to have the same one; else None."""
    if tokenizer is None or teacher_tokenizer is None:
        return None
    vocabulary = tokenizer.get_vocab()
    return max(vocabulary.values()) + 1 if vocabulary == teacher_tokenizer.get_vocab() else None


def shared_tokens(student: Any, teacher: Any, tokenizer: Any, teacher_tokenizer: Any) -> int | None:
    """How many tokens two models share that are given the same token ids; None where their tables are equally long.

    Tables of one tokenizer may differ in rows that only pad them to a round number.

    Args:
        student: config.
        teacher: config.
        tokenizer: the student's, if known.
        teacher_tokenizer: the teacher's, if known.
    Raises:
        ValueError: their tokens differ, or may differ: the teacher would silently read other words.
    """
    sizes = [config.get_text_config().vocab_size for config in (student, teacher)]
    remedy = (
        "Give the rows a teacher_input_ids column made with the teacher's tokenizer (and teacher_attention_mask), and "
        "pass teacher_processing_class=... to pad it. If both do read the same tokens, pass their tokenizer as "
        "processing_class and as teacher_processing_class."
    )
    if tokenizer is not None and teacher_tokenizer is not None:
        vocabularies = tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
        if vocabularies[0] != vocabularies[1]:
            differing = len(set(vocabularies[0].items()) ^ set(vocabularies[1].items()))
            raise ValueError(
                f"The tokenizers of student and teacher differ in {differing} tokens, and the rows hold only the "
                f"student's input_ids. {remedy}"
            )
        return None if sizes[0] == sizes[1] else min(*sizes, max(vocabularies[0].values()) + 1)
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"The student knows {sizes[0]} tokens and the teacher {sizes[1]}, and the rows hold only the student's "
            f"input_ids. {remedy}"
        )
    return None
