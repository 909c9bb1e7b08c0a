"""Build a smaller Transformer of the teacher's family from the teacher's weights: fewer and narrower layers."""

import copy

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from hf_distill.students.embeddings import mean_of_pieces
from hf_distill.students.transformer.config import TransformerStudentConfig, check_within
from hf_distill.students.transformer.families import (
    HIDDEN,
    Family,
    family_of,
    head_size_of,
    pools,
    sides_of,
    source_of,
    unit_count,
    unit_positions,
)
from hf_distill.students.transformer.residual_stream import principal_stream


@torch.no_grad()
def shrink(
    teacher: PreTrainedModel, config: TransformerStudentConfig, pieces: list[list[int]] | None, special_ids: dict
) -> tuple[PreTrainedModel, dict[str, str]]:
    """Build a smaller model of the teacher's class; all of its weights are taken from the teacher.

    Inner units and heads are selected by importance. The importance of a unit is the sum of the norms of its slices in
    all weights that read or write it in the layers that are kept, each norm relative to the mean norm in that weight.
    Heads that share a key-value head are kept or removed together.

    In families with `post_norm`, a narrower residual stream is the projection of the teacher's onto its principal
    components, which gives a lower initial loss (`benchmarks/narrowing.py`); the units of a pooling layer are selected
    by importance. In the other families the units of the stream are selected by importance too. So are they in models
    with a masked language head, whose output weights are tied to the embeddings behind a nonlinearity.

    Args:
        teacher: of one of the `FAMILIES`; it is not changed.
        config: the student's sizes.
        pieces: from `pieces_for_student`, None for the teacher's vocabulary.
        special_ids: special token ids by their name in the config, for a student with another vocabulary.
    Returns:
        The student, and parameter name to where it came from.
    Raises:
        ValueError: the family is not supported, or a size exceeds the teacher's.
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
                "all position embeddings would be shifted. Make the tokenizer with student_tokenizer."
            )
    student = type(teacher)(student_config)
    if pieces is None and student.can_generate():
        student.generation_config = copy.deepcopy(teacher.generation_config)
    weights = {name: weight.detach().cpu() for name, weight in teacher.state_dict().items()}
    # Sinusoidal positions, which some models hold as parameters, are computed and not trained: they depend on width.
    ignored = student._keys_to_ignore_on_save or set()
    sources = {name: source_of(name, layers, weights) for name in student.state_dict() if name not in ignored}
    turned = (
        family.post_norm
        and student_config.hidden_size < teacher.config.hidden_size
        and teacher.get_output_embeddings() is None
    )
    # A projection does not commute with the nonlinearity after a pooling layer.
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


def chosen_layers(
    teacher_config: PreTrainedConfig, config: TransformerStudentConfig, family: Family
) -> list[list[int]]:
    """The teacher's layers that the student keeps, for each stack."""
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
                f"{max(chosen)}: all layers are taken from the teacher. Lower num_hidden_layers, "
                f"or list layers from 0 to {available - 1}."
            )
        layers.append(chosen)
    return layers


def shrunk_config(
    teacher_config: PreTrainedConfig, config: TransformerStudentConfig, family: Family, layers: list[list[int]]
) -> PreTrainedConfig:
    """The teacher's configuration with the student's sizes; a ValueError if these do not fit the teacher's."""
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


def most_important(
    weights: dict[str, Tensor],
    sides: dict[str, list[tuple | None]],
    teacher_config: PreTrainedConfig,
    student_config: PreTrainedConfig,
    family: Family,
) -> dict[tuple, Tensor]:
    """The indices of the units that the student keeps, in ascending order, for each kind and place."""
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
