"""Initialise an LSTM student from its teacher."""

import re
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill.students.embeddings import ProjectedTable, token_embeddings
from hf_distill.students.lstm.configuration_lstm import LSTMStudentConfig
from hf_distill.students.lstm.modeling_lstm import (
    LSTMStudentForCausalLM,
    LSTMStudentForSeq2SeqLM,
    LSTMStudentForSequenceClassification,
    LSTMStudentForTokenClassification,
    LSTMStudentModel,
    LSTMStudentPreTrainedModel,
)
from hf_distill.students.transformer.config import check_within, evenly_spaced

# The end of a teacher's class name to the LSTM student with that head; the first match counts.
HEADS: dict[str, type[LSTMStudentPreTrainedModel]] = {
    "ForSequenceClassification": LSTMStudentForSequenceClassification,
    "ForTokenClassification": LSTMStudentForTokenClassification,
    "ForConditionalGeneration": LSTMStudentForSeq2SeqLM,
    "ForSeq2SeqLM": LSTMStudentForSeq2SeqLM,
    "MTModel": LSTMStudentForSeq2SeqLM,
    "ForCausalLM": LSTMStudentForCausalLM,
    "LMHeadModel": LSTMStudentForCausalLM,
    "Model": LSTMStudentModel,
}
# Standard deviation that a Transformer's embeddings are scaled to. They may be as small as 0.05, since a LayerNorm
# follows them. A new LSTM has weights of about 1 / sqrt(units); inputs of about 1 reach the nonlinear range of its
# gates, and training is faster: `python benchmarks/initialisation.py --cases 0 --embedding-std 0.1` compares.
EMBEDDING_STD = 1.0
LAYER = re.compile(r"^(lstm\.layers|layers|decoder)\.(\d+)\.")


def fill_lstm(
    student_class: type[LSTMStudentPreTrainedModel],
    config: LSTMStudentConfig,
    teacher: PreTrainedModel,
    pieces: list[list[int]] | None,
) -> tuple[LSTMStudentPreTrainedModel, dict[str, str]]:
    """Build an LSTM student with the teacher's embeddings and, if the teacher is an LSTM too, with its units.

    Args:
        student_class: the class with the teacher's kind of head.
        config: the student's, complete.
        teacher: the teacher; it is not changed.
        pieces: from `pieces_for_student`; None for the teacher's vocabulary.
    Returns:
        The student, and a dict from parameter name to where it came from.
    Raises:
        ValueError: the student is larger than its teacher.
    """
    from_lstm = isinstance(teacher, LSTMStudentPreTrainedModel)
    check_within("embedding_size", config.embedding_size, token_embeddings(teacher).weight.shape[1])
    if from_lstm:
        check_within("hidden_size", config.hidden_size, teacher.config.hidden_size)
        check_within("num_layers", config.num_layers, teacher.config.num_layers)
    student = student_class(config)
    embedded = ProjectedTable.of_parameter(teacher, token_embeddings(teacher).weight, config.embedding_size, pieces)
    embeddings = token_embeddings(student)
    carried = embedded.fill(student, embeddings.weight, None if from_lstm else EMBEDDING_STD)
    if embeddings.padding_idx is not None:
        embeddings.weight[embeddings.padding_idx] = 0
    predicted = None
    if isinstance(student, LSTMStudentForCausalLM | LSTMStudentForSeq2SeqLM):
        tied = student.config.tie_word_embeddings
        output = cast(nn.Linear, teacher.get_output_embeddings()).weight
        predicted = embedded if tied else ProjectedTable.of_parameter(teacher, output, config.embedding_size, pieces)
        if not tied:
            carried |= predicted.fill(student, student.lm_head.weight, None if from_lstm else config.initializer_range)
        elif not from_lstm:
            # The embeddings are larger than randomly initialised ones. The layer before the tied output weights is
            # scaled down to keep the first logits small.
            student.projection.weight *= config.initializer_range / EMBEDDING_STD
    if from_lstm:
        carried |= carry_units(student, teacher, embedded, predicted)
    return student, carried


def carry_units(
    student: PreTrainedModel, teacher: PreTrainedModel, embedded: ProjectedTable, predicted: ProjectedTable | None
) -> dict[str, str]:
    """Copy evenly spaced layers of an LSTM teacher, and the leading units of each, into an LSTM student.

    The first layer computes W e + b of embeddings e = directions @ x + mean, so its weight becomes W @ directions and
    its bias b + W @ mean. The layer before the output weights is projected onto their directions. The part that is
    lost, along their mean, is the same for all tokens, so no probability changes. If the tables keep all their
    variance, the student therefore computes what the teacher does. In a narrower table two parts are approximate: the
    padding token as an input or output of a language model, since its row stays zero; and the translation head, where
    a tanh comes before the output weights.

    Args:
        student: its parameters are changed in place.
        teacher: an LSTM student too.
        embedded: the teacher's input embeddings for the student.
        predicted: its output weights for the student. None: the head is no language model.
    Returns:
        Parameter name to where it came from.
    """
    units, teacher_units = student.config.hidden_size, teacher.config.hidden_size
    layers = evenly_spaced(student.config.num_layers, teacher.config.num_layers)
    weights = {name: weight.detach().cpu().double() for name, weight in teacher.named_parameters()}
    # Equal shapes do not imply equal features if the dense layer has other poolings as input, or if only one is tied.
    left_out = ["lm_head.", "lstm.embeddings.", "embeddings."]
    left_out += ["dense."] if list(student.config.pooling) != list(teacher.config.pooling) else []
    left_out += ["projection."] if student.config.tie_word_embeddings != teacher.config.tie_word_embeddings else []
    carried = {}
    for name, parameter in student.named_parameters():
        source = LAYER.sub(lambda match: f"{match[1]}.{layers[int(match[2])]}.", name)
        if source not in weights or name.startswith(tuple(left_out)):
            continue
        weight = weights[source]
        first = LAYER.match(name)
        if first and first[2] == "0" and name.endswith("weight_ih_l0"):
            weight = weight @ embedded.directions
        elif first and first[2] == "0" and name.endswith("bias_ih_l0"):
            weight = weight + weights[source.replace("bias", "weight")] @ embedded.mean
        elif name.startswith("projection.") and predicted is not None:
            weight = predicted.directions.T @ weight
        elif name.startswith("bridge."):
            # The initial hidden and cell state of every decoder layer.
            weight = weight.unflatten(0, (2, teacher.config.num_layers, teacher_units))[:, layers].flatten(0, 2)
        selected = leading_units(weight, parameter.shape, units, teacher_units)
        if selected is not None:
            parameter.copy_(selected)
            cut = selected.shape != weight.shape
            carried[name] = f"leading {units} of {teacher_units} units of {source}" if cut else source
    return carried


def leading_units(weight: Tensor, shape: torch.Size, units: int, teacher_units: int) -> Tensor | None:
    """The leading units of every block along every dimension; None if the dimensions do not correspond.

    A dimension of an LSTM's weight either holds consecutive blocks of hidden units, one for each gate, direction,
    pooling or layer, or is independent of the hidden units and has the same size in both models.

    Args:
        weight: the teacher's.
        shape: of the student's weight.
        units: hidden units of the student.
        teacher_units: hidden units of the teacher.
    """
    for dimension, (size, teacher_size) in enumerate(zip(shape, weight.shape, strict=True)):
        if size == teacher_size:
            continue
        blocks = teacher_size // teacher_units
        if size != blocks * units or teacher_size != blocks * teacher_units:
            return None
        weight = weight.unflatten(dimension, (blocks, teacher_units))
        weight = weight.narrow(dimension + 1, 0, units).flatten(dimension, dimension + 1)
    return weight
