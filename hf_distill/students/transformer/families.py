"""Families of Transformers as data: the names of their layers, heads and tables."""

import re
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

# The units along the two dimensions of a weight: (out, in).
QKV = ("heads", "hidden")  # query, key or value, or the three fused
ATTENTION_OUT = ("hidden", "heads")
UP = ("inner", "hidden")  # also a fused pair of gate and value
DOWN = ("hidden", "inner")
RELATIVE_BIAS = ("", "heads")


@dataclass(frozen=True)
class Family:
    """The names of the parts of a family's models.

    Attributes:
        weights: the end of a module's name to the units along the dimensions of its weight; the first match counts.
            Modules not listed are embeddings and norms of the hidden size, or layers of a head.
        layers, inner, heads: names in the configuration, of the encoder and of the decoder, or of the only stack.
        head_size: its name in the configuration; None where it is hidden size / heads.
        shared_heads: whether one table of relative positions serves all layers, which ties head i to head i.
        counts_from_padding: whether position ids start after the id of the padding token.
        post_norm: whether the residual stream is the output of LayerNorms, so that it can be projected onto its
            principal components.
    """

    weights: dict[str, tuple[str, str]]
    layers: tuple[str, ...] = ("num_hidden_layers",)
    inner: tuple[str, ...] = ("intermediate_size",)
    heads: tuple[str, ...] = ("num_attention_heads",)
    head_size: str | None = None
    shared_heads: bool = False
    counts_from_padding: bool = False
    post_norm: bool = False


FEED_FORWARD = {"intermediate.dense": UP, "output.dense": DOWN}
BERT = {"self.query": QKV, "self.key": QKV, "self.value": QKV, "attention.output.dense": ATTENTION_OUT}
LLAMA = Family(
    weights={"attn.q_proj": QKV, "attn.k_proj": QKV, "attn.v_proj": QKV, "attn.o_proj": ATTENTION_OUT}
    | {"mlp.gate_proj": UP, "mlp.up_proj": UP, "mlp.down_proj": DOWN},
    head_size="head_dim",
)
BART = Family(
    weights={"attn.q_proj": QKV, "attn.k_proj": QKV, "attn.v_proj": QKV, "attn.out_proj": ATTENTION_OUT}
    | {"fc1": UP, "fc2": DOWN},
    layers=("encoder_layers", "decoder_layers"),
    inner=("encoder_ffn_dim", "decoder_ffn_dim"),
    heads=("encoder_attention_heads", "decoder_attention_heads"),
)
FAMILIES = {
    "bert": Family(weights=BERT | FEED_FORWARD, post_norm=True),
    "roberta": Family(weights=BERT | FEED_FORWARD, counts_from_padding=True, post_norm=True),
    "distilbert": Family(
        weights={"q_lin": QKV, "k_lin": QKV, "v_lin": QKV, "out_lin": ATTENTION_OUT}
        | {"ffn.lin1": UP, "ffn.lin2": DOWN},
        inner=("hidden_dim",),
        post_norm=True,
    ),
    "modernbert": Family(weights={"attn.Wqkv": QKV, "attn.Wo": ATTENTION_OUT, "mlp.Wi": UP, "mlp.Wo": DOWN}),
    "mpnet": Family(
        weights={"attn.q": QKV, "attn.k": QKV, "attn.v": QKV, "attn.o": ATTENTION_OUT}
        | {"relative_attention_bias": RELATIVE_BIAS}
        | FEED_FORWARD,
        shared_heads=True,
        counts_from_padding=True,
        post_norm=True,
    ),
    "bart": BART,
    "marian": BART,
    "t5": Family(
        weights={"Attention.q": QKV, "Attention.k": QKV, "Attention.v": QKV, "Attention.o": ATTENTION_OUT}
        | {"relative_attention_bias": RELATIVE_BIAS, "wi": UP, "wi_0": UP, "wi_1": UP, "DenseReluDense.wo": DOWN},
        layers=("num_layers", "num_decoder_layers"),
        inner=("d_ff",),
        head_size="d_kv",
        shared_heads=True,
    ),
    "gpt2": Family(
        weights={"attn.c_attn": QKV, "attn.c_proj": ATTENTION_OUT, "mlp.c_fc": UP, "mlp.c_proj": DOWN},
        inner=("n_inner",),
    ),
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
}
LAYER = re.compile(r"\b(layer|layers|block|h)\.(\d+)\.")
TOKEN_TABLES = ("word_embeddings", "tok_embeddings", "embed_tokens", "shared", "wte")
HIDDEN, POOLED = ("hidden units",), ("pooled units",)
LABEL_HEADS = ("classifier", "score", "qa_outputs", "out_proj", "seq_relationship")


def family_of(teacher: PreTrainedModel) -> Family:
    """The teacher's family; a ValueError if it is not supported."""
    if teacher.config.model_type not in FAMILIES:
        raise ValueError(
            f"Expected a teacher of one of the families {', '.join(FAMILIES)}, got {teacher.config.model_type!r} "
            f"({type(teacher).__name__}): the roles of its weights are not known here. Use an LSTMStudentConfig, or "
            "build the student yourself."
        )
    return FAMILIES[teacher.config.model_type]


def head_size_of(config: PreTrainedConfig, family: Family) -> int:
    """The width of one attention head."""
    explicit = getattr(config, family.head_size, None) if family.head_size else None
    return explicit or config.hidden_size // getattr(config, family.heads[0])


def source_of(name: str, layers: list[list[int]], weights: dict[str, Tensor]) -> str:
    """The teacher's weight that a student's weight comes from."""
    stack = min(stack_of(name), len(layers) - 1)
    source = LAYER.sub(lambda match: f"{match[1]}.{layers[stack][int(match[2])]}.", name, count=1)
    # Some weights exist in the first layer only and serve all layers: T5's relative positions.
    return source if source in weights else name


def stack_of(name: str) -> int:
    """0 for the encoder or the only stack, 1 for the decoder."""
    return int(".decoder." in "." + name)


def sides_of(
    name: str, weight: Tensor, teacher: PreTrainedModel, family: Family, pooling: bool = False
) -> list[tuple | None]:
    """The units along each dimension of a teacher's weight.

    Args:
        name: of the weight.
        weight: the weight.
        teacher: the model that it belongs to.
        family: the teacher's.
        pooling: whether the units of a layer between the stream and the labels are a separate kind.
    Returns:
        For each dimension None, if it has the same size in every student, or the kind of its units and their place in
        the model. Dimensions with the same kind and place hold the same units.
    """
    path, _, leaf = name.rpartition(".")
    module = teacher.get_submodule(path)
    hidden = HIDDEN
    vocabulary = ("vocabulary",)
    if isinstance(module, nn.Linear | Conv1D | nn.Embedding) and leaf in ("weight", "bias"):
        roles = next((roles for end, roles in family.weights.items() if ("." + path).endswith(end)), None)
        if roles is not None:
            sides = [side_of(role, name, family) for role in roles]
        elif isinstance(module, nn.Embedding):
            sides = [vocabulary if path.split(".")[-1] in TOKEN_TABLES else None, hidden]
        elif module is teacher.get_output_embeddings():
            sides = [vocabulary, hidden]
        else:
            labels = is_label_head(path, module, teacher)
            top = POOLED if pooling else hidden
            sides = [None, top] if labels else [top, hidden]
        if leaf == "bias":
            return sides[:1]
        return sides[::-1] if isinstance(module, Conv1D) else sides  # Conv1D stores (in, out)
    if weight.shape[-1] == teacher.config.hidden_size and not path.endswith(("q_norm", "k_norm")):
        return [None] * (weight.dim() - 1) + [hidden]
    if weight.shape[-1] == teacher.config.vocab_size:
        return [None] * (weight.dim() - 1) + [vocabulary]
    return [None] * weight.dim()


def is_label_head(path: str, module: nn.Module, teacher: PreTrainedModel) -> bool:
    """Whether a linear layer outside of the layers computes the logits of labels."""
    width = cast(Tensor, module.weight).shape[0]
    return path.split(".")[-1] in LABEL_HEADS or width != teacher.config.hidden_size


def pools(path: str, module: nn.Module, teacher: PreTrainedModel, family: Family) -> bool:
    """Whether a linear layer outside of the layers is between the residual stream and the logits."""
    inside = any(("." + path).endswith(end) for end in family.weights)
    return isinstance(module, nn.Linear) and not inside and not is_label_head(path, module, teacher)


def side_of(role: str, name: str, family: Family) -> tuple | None:
    """The kind and the place of the units that have a role in a weight."""
    found = LAYER.search(name)
    layer = int(found[2]) if found else None
    if role == "hidden":
        return HIDDEN
    if role == "inner":
        return ("inner units", stack_of(name), layer)
    if role == "heads":
        cross_attention = any(part in name for part in ("EncDecAttention", "encoder_attn", "crossattention"))
        shared = family.shared_heads and not cross_attention
        return ("groups of heads", stack_of(name), cross_attention, None if shared else layer)
    return None


def unit_count(config: PreTrainedConfig, family: Family, side: tuple) -> int:
    """The number of units of a kind that a configuration has in one place."""
    if side in (HIDDEN, POOLED):
        return config.hidden_size
    if side[0] == "inner units":
        return getattr(config, family.inner[min(side[1], len(family.inner) - 1)]) or 4 * config.hidden_size
    heads = getattr(config, family.heads[min(side[1], len(family.heads) - 1)])
    return getattr(config, "num_key_value_heads", None) or heads


def unit_positions(size: int, side: tuple, config: PreTrainedConfig, family: Family) -> Tensor:
    """(blocks, units, width) positions of the units along a dimension of this size.

    A fused query, key and value are three blocks, a fused gate and value are two. The width of a group of heads is that
    of all its heads, or of a single head where they share keys and values, or 1 in a table of relative positions.
    """
    count = unit_count(config, family, side)
    if side[0] == "groups of heads":
        heads = getattr(config, family.heads[min(side[1], len(family.heads) - 1)])
        blocks = 3 if size == 3 * heads * head_size_of(config, family) else 1
    else:
        blocks = size // count
    return torch.arange(size).view(blocks, count, -1)
