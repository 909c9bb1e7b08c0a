"""A smaller Transformer of the teacher's own family: fewer layers, and narrower ones, of its weights."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .embeddings import mean_of_pieces


@dataclass(frozen=True)
class TransformerStudentConfig:
    """How much smaller than its teacher a Transformer student is; what is left out stays as it is in the teacher.

    Args:
        num_hidden_layers: how many layers; for an encoder-decoder the same number in both, or a pair of numbers.
        hidden_size: width of the residual stream. Where heads divide it among them (BERT, BART, GPT-2 and their
            kin), heads keep their size and their number follows.
        intermediate_size: width of the feed-forward layers.
        num_attention_heads: how many heads, each as wide as the teacher's. Key-value heads shrink in proportion.
        layers: which of the teacher's layers: "uniform" (evenly spaced, the first and the last among them), "first",
            "last", or their indices in rising order.
    Raises:
        ValueError: a size is not a positive integer, or the layers are not indices in rising order that agree with
            num_hidden_layers.

    >>> TransformerStudentConfig(layers=[0, 3, 5]).num_hidden_layers
    3
    """

    num_hidden_layers: int | Sequence[int] | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_attention_heads: int | None = None
    layers: Literal["uniform", "first", "last"] | Sequence[int] = "uniform"

    def __post_init__(self) -> None:
        for name in ("hidden_size", "intermediate_size", "num_attention_heads"):
            size = getattr(self, name)
            if size is not None and (not isinstance(size, int) or size < 1):
                raise ValueError(f"{name} must be a positive integer, or None for the teacher's, got {size!r}.")
        counts = [self.num_hidden_layers] if isinstance(self.num_hidden_layers, int) else self.num_hidden_layers or []
        if any(not isinstance(count, int) or count < 1 for count in counts) or len(counts) > 2:
            raise ValueError(
                "num_hidden_layers must be a positive integer, a pair of them for an encoder and a decoder, or None "
                f"for the teacher's, got {self.num_hidden_layers!r}."
            )
        if isinstance(self.layers, str):
            if self.layers not in ("uniform", "first", "last"):
                raise ValueError(
                    f'layers must be "uniform", "first", "last" or a list of indices, got {self.layers!r}.'
                )
            return
        indices = list(self.layers)
        if not indices or indices != sorted(set(indices)) or indices[0] < 0:
            raise ValueError(
                f"layers must be indices from 0, each once and in rising order, got {indices}: a layer works on what "
                "the layers before it have made."
            )
        if any(count != len(indices) for count in counts):
            raise ValueError(
                f"layers lists {len(indices)} of the teacher's layers, but num_hidden_layers is "
                f"{self.num_hidden_layers}. Leave one of the two out."
            )
        object.__setattr__(self, "num_hidden_layers", len(indices))

    def choose_layers(self, stack: int, teacher_layers: int) -> list[int]:
        """The teacher's layers to keep in one stack, 0 the encoder (or the only one) and 1 the decoder."""
        if not isinstance(self.layers, str):
            return list(self.layers)
        if self.num_hidden_layers is None:
            return list(range(teacher_layers))
        several = not isinstance(self.num_hidden_layers, int)
        count = cast(Sequence[int], self.num_hidden_layers)[stack] if several else cast(int, self.num_hidden_layers)
        if self.layers == "uniform":
            return evenly_spaced(count, teacher_layers)
        return list(range(count)) if self.layers == "first" else list(range(teacher_layers - count, teacher_layers))


def evenly_spaced(count: int, of: int) -> list[int]:
    """`count` layers out of `of`, the first and (from two on) the last among them.

    >>> evenly_spaced(3, 12), evenly_spaced(1, 12)
    ([0, 6, 11], [0])
    """
    return [round(index * (of - 1) / max(count - 1, 1)) for index in range(count)]


# What the two sides of a weight are: (out, in).
QKV = ("heads", "hidden")  # query, key or value, or the three fused
ATTENTION_OUT = ("hidden", "heads")
UP = ("inner", "hidden")  # also a fused pair of gate and value
DOWN = ("hidden", "inner")
RELATIVE_BIAS = ("", "heads")


@dataclass(frozen=True)
class Family:
    """The names by which a family calls its parts.

    Attributes:
        weights: the end of a module's name, and what the two sides of its weight are; the first that fits. Modules
            not listed are embeddings and norms of the hidden size, or layers of a head on top.
        layers, inner, heads: names in the configuration, of the encoder and of the decoder, or of the only stack.
        head_size: its name in the configuration; None where it is hidden size / heads.
        shared_heads: whether one table of relative positions serves all layers, which ties head i to head i.
        counts_from_padding: whether positions start after the id of the padding token.
        post_norm: whether the residual stream is what its LayerNorms leave of it, so that it can be turned onto its
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


@torch.no_grad()
def shrink(
    teacher: PreTrainedModel, config: TransformerStudentConfig, pieces: list[list[int]] | None, special_ids: dict
) -> tuple[PreTrainedModel, dict[str, str]]:
    """Builds a smaller model of the teacher's class, and fills all of it with what matters most in the teacher.

    Inner units and heads are chosen by importance: the sum, over all weights that read or write a unit in the layers
    that are kept, of the norm of its slice, each weight counted relative to its mean slice; a group of heads that share
    a key-value head stays or goes as one. A narrower residual stream is turned onto its principal components in the
    families with `post_norm`, which starts lower (`benchmarks/narrowing.py`), and what a head has pooled is chosen by
    importance. In the other families, and under a masked language head, which is tied to the embeddings beyond a
    nonlinearity, the stream's units are chosen by importance too.

    Args:
        teacher: of one of the `FAMILIES`; it is not changed.
        config: the student's sizes.
        pieces: from `pieces_for_student`, None for the teacher's vocabulary.
        special_ids: the ones of the student's config in another vocabulary, by name.
    Returns:
        The student, and parameter name to where it came from.
    Raises:
        ValueError: the family is not known, or the sizes are not within the teacher's.
    """
    family = family_of(teacher)
    layers = chosen_layers(teacher.config, config, family)
    student_config = shrunk_config(teacher.config, config, family, layers)
    if pieces is not None:
        student_config.vocab_size = len(pieces)
        if hasattr(student_config, "decoder_vocab_size"):  # Marian's
            student_config.decoder_vocab_size = len(pieces)
        for name, index in special_ids.items():
            if hasattr(student_config, name):
                setattr(student_config, name, index)
        if family.counts_from_padding and student_config.pad_token_id != teacher.config.pad_token_id:
            raise ValueError(
                f"Expected a tokenizer whose padding id is the teacher's {teacher.config.pad_token_id}, got "
                f"{student_config.pad_token_id}: a {teacher.config.model_type} model counts positions from it, so "
                "each would read its neighbour's embedding. Make the tokenizer with student_tokenizer."
            )
    student = type(teacher)(student_config)
    if pieces is None and student.can_generate():
        student.generation_config = copy.deepcopy(teacher.generation_config)
    weights = {name: weight.detach().cpu() for name, weight in teacher.state_dict().items()}
    # Sinusoids, which some models hold as parameters, are made and not learned: each width has its own.
    ignored = student._keys_to_ignore_on_save or set()
    sources = {name: source_of(name, layers, weights) for name in student.state_dict() if name not in ignored}
    turned = (
        family.post_norm
        and student_config.hidden_size < teacher.config.hidden_size
        and teacher.get_output_embeddings() is None
    )
    # What is turned cannot pass the nonlinearity after a pooling layer.
    pooling = turned and any(pools(path, module, teacher, family) for path, module in teacher.named_modules())
    sides = {source: sides_of(source, weights[source], teacher, family, pooling) for source in sources.values()}
    stream = principal_stream(teacher, student_config.hidden_size, set(sources.values())) if turned else None
    kept = most_important(weights, sides, teacher.config, student_config, family)
    parameters = dict(student.named_parameters())
    carried = {}
    for name, tensor in student.state_dict().items():
        if name in ignored:
            continue
        weight, words = weights[sources[name]], []
        for dimension, side in enumerate(sides[sources[name]]):
            if side is None:
                continue
            if side[0] == "vocabulary":
                if pieces is not None:
                    weight = mean_of_pieces(weight.transpose(0, dimension), pieces).transpose(0, dimension)
                    words.append("means of the pieces")
                continue
            if stream is not None and side == HIDDEN:
                weight = stream.narrowed(sources[name], weight, dimension)
                words.append(f"{student_config.hidden_size} principal components of the hidden states")
                continue
            count = unit_count(teacher.config, family, side)
            if len(kept[side]) < count:
                positions = unit_positions(weight.shape[dimension], side, teacher.config, family)
                weight = weight.index_select(dimension, positions[:, kept[side]].flatten())
                words.append(f"{len(kept[side])} of {count} {side[0]}")
        if weight.shape != tensor.shape:
            raise ValueError(
                f"Expected {sources[name]} to shrink to {tuple(tensor.shape)}, got {tuple(weight.shape)}: this "
                f"{type(teacher).__name__} is built in a way that is not known here. Keep the teacher's widths."
            )
        tensor.copy_(weight)
        if name in parameters:
            carried[name] = ", ".join([sources[name], *words])
    return student, carried


@dataclass(frozen=True)
class Stream:
    """The residual stream of a teacher, turned onto fewer directions.

    Attributes:
        directions: (teacher width, student width), orthonormal.
        ratios: by the name of a LayerNorm, how much larger a token's deviation over the units is afterwards.
    """

    directions: Tensor
    ratios: dict[str, float]

    def narrowed(self, name: str, weight: Tensor, dimension: int) -> Tensor:
        """A weight with one of its dimensions turned.

        A LayerNorm scales single units and cannot be turned exactly: its gains become the diagonal of what they would
        be, times how much more it divides by than before.
        """
        path, _, leaf = name.rpartition(".")
        values = weight.double()
        if leaf == "weight" and path in self.ratios:
            values = self.directions.square().T @ values * self.ratios[path]
        else:
            values = (values.movedim(dimension, -1) @ self.directions).movedim(-1, dimension)
        return values.to(weight.dtype)


def principal_stream(teacher: PreTrainedModel, size: int, kept: set[str]) -> Stream:
    """The directions in which what the LayerNorms leave is largest, on random tokens.

    No text is needed: on the tweets of the benchmark random tokens give as good a start as real ones.

    Args:
        teacher: of a family with `post_norm`.
        size: of the student's stream.
        kept: names of the teacher's weights that the student has, whose LayerNorms count, each the same.
    """
    norms = {name: module for name, module in teacher.named_modules() if isinstance(module, nn.LayerNorm)}
    norms = {name: module for name, module in norms.items() if f"{name}.weight" in kept}
    read: dict[str, Tensor] = {}
    left: dict[str, Tensor] = {}

    def note(name: str, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        read[name], left[name] = (states.detach().cpu().double().flatten(0, -2) for states in (arguments[0], output))

    hooks = [
        module.register_forward_hook(lambda _, arguments, output, name=name: note(name, arguments, output))
        for name, module in norms.items()
    ]
    training = [module for module in teacher.modules() if module.training]
    try:
        for module in training:
            module.training = False
        teacher.base_model(input_ids=random_tokens(teacher).to(teacher.device))
    finally:
        for module in training:
            module.training = True
        for hook in hooks:
            hook.remove()
    moments = sum(states.T @ states / states.square().sum() for states in left.values())
    directions = torch.linalg.eigh(cast(Tensor, moments)).eigenvectors.flip(1)[:, :size]
    # A direction and its opposite are both right; the largest entry is made positive so that every run says the same.
    directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    ratios = {
        name: ((states @ directions).std(1, correction=0) / states.std(1, correction=0)).mean().item()
        for name, states in read.items()
    }
    return Stream(directions, ratios)


def random_tokens(teacher: PreTrainedModel, texts: int = 256, length: int = 24) -> Tensor:
    """(texts, length) token ids, the same every time, none of them padding."""
    length = min(length, teacher.config.max_position_embeddings // 2)
    ids = torch.randint(teacher.config.vocab_size - 1, (texts, length), generator=torch.Generator().manual_seed(0))
    padding = teacher.config.pad_token_id
    return ids if padding is None else ids + (ids >= padding)


def family_of(teacher: PreTrainedModel) -> Family:
    """The teacher's family; a ValueError if it is not known how to take it apart."""
    if teacher.config.model_type not in FAMILIES:
        raise ValueError(
            f"Expected a teacher of one of the families {', '.join(FAMILIES)}, got {teacher.config.model_type!r} "
            f"({type(teacher).__name__}): it is not known which of its weights belong together. Take an "
            "LSTMStudentConfig, or a student made elsewhere."
        )
    return FAMILIES[teacher.config.model_type]


def chosen_layers(
    teacher_config: PreTrainedConfig, config: TransformerStudentConfig, family: Family
) -> list[list[int]]:
    """For each stack, the teacher's layers that the student keeps."""
    layers = []
    pair = not isinstance(config.num_hidden_layers, int | None) and config.num_hidden_layers
    if pair and len(pair) != len(family.layers):
        raise ValueError(
            f"Expected num_hidden_layers for {len(family.layers)} stack of layers in a {teacher_config.model_type} "
            f"model, got {config.num_hidden_layers!r}. A pair is for an encoder and a decoder."
        )
    for stack, name in enumerate(family.layers):
        available = getattr(teacher_config, name)
        chosen = config.choose_layers(stack, available)
        if len(chosen) > available or chosen[-1] >= available or chosen[0] < 0:
            raise ValueError(
                f"Expected at most {available} layers, the teacher's {name}, got {len(chosen)} with the last one "
                f"{max(chosen)}: a student is filled from its teacher, which has no more. Lower num_hidden_layers, "
                f"or list layers from 0 to {available - 1}."
            )
        layers.append(chosen)
    return layers


def shrunk_config(
    teacher_config: PreTrainedConfig, config: TransformerStudentConfig, family: Family, layers: list[list[int]]
) -> PreTrainedConfig:
    """The teacher's configuration with the student's sizes; a ValueError where these do not fit the teacher's."""
    shrunk = copy.deepcopy(teacher_config)
    for stack, name in enumerate(family.layers):
        setattr(shrunk, name, len(layers[stack]))
    values = getattr(teacher_config, "layer_types", None)
    if values is not None:  # the kind of attention of each layer, in ModernBERT and Qwen
        shrunk.layer_types = [values[index] for index in layers[0]]
    hidden = config.hidden_size or teacher_config.hidden_size
    check_within("hidden_size", hidden, teacher_config.hidden_size)
    shrunk.hidden_size = hidden
    for stack, name in enumerate(family.inner):
        inner = unit_count(teacher_config, family, ("inner units", stack))
        check_within("intermediate_size", config.intermediate_size or inner, inner)
        setattr(shrunk, name, config.intermediate_size or inner)
    head_size = head_size_of(teacher_config, family)
    for name in family.heads:
        teacher_heads = getattr(teacher_config, name)
        heads = config.num_attention_heads or teacher_heads
        if family.head_size is None:
            if hidden % head_size or (config.num_attention_heads or hidden // head_size) != hidden // head_size:
                raise ValueError(
                    f"Expected a hidden_size of as many heads as the student has, each {head_size} wide like the "
                    f"teacher's, got hidden_size {hidden} and num_attention_heads {config.num_attention_heads}: in a "
                    f"{teacher_config.model_type} model the heads divide the hidden size among them. Take a multiple "
                    f"of {head_size}, and leave out num_attention_heads."
                )
            heads = hidden // head_size
        check_within("num_attention_heads", heads, teacher_heads)
        setattr(shrunk, name, heads)
        groups = getattr(teacher_config, "num_key_value_heads", None) or teacher_heads
        shared = teacher_heads // groups
        if heads % shared:
            raise ValueError(
                f"Expected num_attention_heads to be a multiple of {shared}, got {heads}: the teacher's heads share "
                f"their keys and values in groups of {shared}, which stay together."
            )
        if groups != teacher_heads or hasattr(shrunk, "num_key_value_heads"):
            shrunk.num_key_value_heads = heads // shared
    if family.head_size is not None:
        setattr(shrunk, family.head_size, head_size)
    return shrunk


def check_within(name: str, size: int, teacher_size: int) -> None:
    """Raises a ValueError if the student is to be larger than its teacher."""
    if size > teacher_size:
        raise ValueError(
            f"Expected {name} of at most {teacher_size}, the teacher's, got {size}: a student is filled from its "
            f"teacher, which has no more. Set {name} to {teacher_size} or less."
        )


def head_size_of(config: PreTrainedConfig, family: Family) -> int:
    """How wide one attention head is."""
    explicit = getattr(config, family.head_size, None) if family.head_size else None
    return explicit or config.hidden_size // getattr(config, family.heads[0])


def source_of(name: str, layers: list[list[int]], weights: dict[str, Tensor]) -> str:
    """The teacher's weight that a student's weight comes from."""
    stack = min(stack_of(name), len(layers) - 1)
    source = LAYER.sub(lambda match: f"{match[1]}.{layers[stack][int(match[2])]}.", name, count=1)
    # Some weights are only in the first layer, and serve all of them: T5's positions.
    return source if source in weights else name


def stack_of(name: str) -> int:
    """0 for the encoder or the only stack, 1 for the decoder."""
    return int(".decoder." in "." + name)


def sides_of(
    name: str, weight: Tensor, teacher: PreTrainedModel, family: Family, pooling: bool = False
) -> list[tuple | None]:
    """What lies along each dimension of a teacher's weight.

    Args:
        name: of the weight.
        weight: itself.
        teacher: whose it is.
        family: the teacher's.
        pooling: whether the units of a layer between the stream and the labels are a kind of their own.
    Returns:
        For each dimension None, if it is the same in every student, or the kind of its units and the place they are
        in: dimensions of the same kind and place hold the same units.
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
        return sides[::-1] if isinstance(module, Conv1D) else sides  # Conv1D keeps (in, out)
    if weight.shape[-1] == teacher.config.hidden_size and not path.endswith(("q_norm", "k_norm")):
        return [None] * (weight.dim() - 1) + [hidden]
    if weight.shape[-1] == teacher.config.vocab_size:
        return [None] * (weight.dim() - 1) + [vocabulary]
    return [None] * weight.dim()


def is_label_head(path: str, module: nn.Module, teacher: PreTrainedModel) -> bool:
    """Whether a linear layer on top gives logits of labels."""
    width = cast(Tensor, module.weight).shape[0]
    return path.split(".")[-1] in LABEL_HEADS or width != teacher.config.hidden_size


def pools(path: str, module: nn.Module, teacher: PreTrainedModel, family: Family) -> bool:
    """Whether a linear layer on top stands between the stream and the logits."""
    inside = any(("." + path).endswith(end) for end in family.weights)
    return isinstance(module, nn.Linear) and not inside and not is_label_head(path, module, teacher)


def side_of(role: str, name: str, family: Family) -> tuple | None:
    """The kind and the place of the units that play a role in a weight."""
    found = LAYER.search(name)
    layer = int(found[2]) if found else None
    if role == "hidden":
        return HIDDEN
    if role == "inner":
        return ("inner units", stack_of(name), layer)
    if role == "heads":
        across = any(word in name for word in ("EncDecAttention", "encoder_attn", "crossattention"))
        return ("groups of heads", stack_of(name), across, None if family.shared_heads and not across else layer)
    return None


def unit_count(config: PreTrainedConfig, family: Family, side: tuple) -> int:
    """How many units of a kind a configuration has in one place."""
    if side in (HIDDEN, POOLED):
        return config.hidden_size
    if side[0] == "inner units":
        return getattr(config, family.inner[min(side[1], len(family.inner) - 1)]) or 4 * config.hidden_size
    heads = getattr(config, family.heads[min(side[1], len(family.heads) - 1)])
    return getattr(config, "num_key_value_heads", None) or heads


def unit_positions(size: int, side: tuple, config: PreTrainedConfig, family: Family) -> Tensor:
    """(blocks, units, width) positions of the units along a dimension of this size.

    A fused query, key and value are three blocks, a fused gate and value are two. A group of heads is as wide as its
    heads together, as wide as one where they share it, and one wide in a table of relative positions.
    """
    count = unit_count(config, family, side)
    if side[0] == "groups of heads":
        heads = getattr(config, family.heads[min(side[1], len(family.heads) - 1)])
        blocks = 3 if size == 3 * heads * head_size_of(config, family) else 1
    else:
        blocks = size // count
    return torch.arange(size).view(blocks, count, -1)


def most_important(
    weights: dict[str, Tensor],
    sides: dict[str, list[tuple | None]],
    teacher_config: PreTrainedConfig,
    student_config: PreTrainedConfig,
    family: Family,
) -> dict[tuple, Tensor]:
    """For each kind and place, the indices of the units that the student keeps, in rising order."""
    scores: dict[tuple, Tensor] = {}
    for name, of_weight in sides.items():
        for dimension, side in enumerate(of_weight):
            if side is None or side[0] == "vocabulary":
                continue
            slices = weights[name].double().movedim(dimension, 0)
            slices = slices.reshape(len(slices), -1).square().sum(1)
            positions = unit_positions(len(slices), side, teacher_config, family)
            norms = slices[positions].sum((0, 2)).sqrt()  # (units,)
            relative = norms / norms.mean().clamp(min=1e-30)  # a bias may be all zeros
            scores[side] = scores[side] + relative if side in scores else relative
    return {
        side: score.argsort(descending=True, stable=True)[: unit_count(student_config, family, side)].sort().values
        for side, score in scores.items()
    }
