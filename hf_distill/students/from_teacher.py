"""Build a student that starts from its teacher's weights."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.students.embeddings import pieces_for_student
from hf_distill.students.lstm.configuration_lstm import LSTMStudentConfig
from hf_distill.students.lstm.from_teacher import HEADS, fill_lstm
from hf_distill.students.static import from_teacher as static
from hf_distill.students.static.configuration_static import StaticStudentConfig
from hf_distill.students.token_map import special_token_ids
from hf_distill.students.transformer.config import TransformerStudentConfig
from hf_distill.students.transformer.from_teacher import shrink


@torch.no_grad()
def student_from_teacher(
    teacher: PreTrainedModel,
    config: LSTMStudentConfig | StaticStudentConfig | TransformerStudentConfig,
    tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    texts: Iterable[str] | None = None,
) -> tuple[PreTrainedModel, dict[str, str]]:
    """Build a student with the teacher's kind of head, initialised from the teacher's weights.

    A Transformer student is a smaller model of the teacher's own class. All of its weights come from the teacher: from
    its layers, and from the principal components of its residual stream or its most important units (see
    `transformer.from_teacher.shrink`). An LSTM student takes the token embeddings of a Transformer teacher, reduced to
    their principal components. From an LSTM teacher it takes all weights, in evenly spaced layers and leading units.
    A static student takes the embeddings of its tokens, or what the teacher's layers make of each token alone, likewise
    reduced; with texts, it weighs its tokens by their frequency.
    Other weights are drawn at random, as in any new model. The weights that are taken over are the same in every call.
    A Transformer or LSTM of the teacher's own size computes what the teacher does. The student is float32, on the CPU.

    Labels, problem type and special token ids are the teacher's where the config of an LSTM or a static student leaves
    them out.

    Args:
        teacher: any text model for an LSTM or a static student, a model of a known family for a Transformer; it is not
            changed.
        config: the student's size; it is not changed.
        tokenizer: the student's, needed with `teacher_tokenizer` if its vocabulary is not the teacher's. Each of its
            tokens then starts from the mean of the teacher's tokens for the same text.
        teacher_tokenizer: the teacher's.
        texts: of the training set, for the token weights of a static student; not read for others. None: all are 1.
    Returns:
        The student, and a dict from the name of each parameter that was initialised from the teacher to a description
        of where it came from.
    Raises:
        ValueError: the teacher's head or family is not supported, labels or vocabularies do not agree, or the student
            is larger than its teacher.
    """
    if isinstance(config, TransformerStudentConfig):
        pieces = pieces_for_student(teacher, None, tokenizer, teacher_tokenizer)
        return shrink(teacher, config, pieces, special_token_ids(teacher.config, tokenizer))
    heads: tuple[Any, str] = (static.HEADS, "static") if isinstance(config, StaticStudentConfig) else (HEADS, "LSTM")
    student_class = class_for(teacher, *heads)
    pieces = pieces_for_student(teacher, config.vocab_size, tokenizer, teacher_tokenizer)
    config = copy.deepcopy(config)
    if "Classification" in student_class.__name__:
        agree_on_labels(config, teacher.config)
    for name, index in special_token_ids(teacher.config, None if pieces is None else tokenizer).items():
        if getattr(config, name, index) is None:
            setattr(config, name, index)
    if isinstance(config, StaticStudentConfig):
        return static.fill_static(student_class, config, teacher, pieces, tokenizer, teacher_tokenizer, texts)
    return fill_lstm(student_class, config, teacher, pieces)


def class_for(teacher: PreTrainedModel, heads: Mapping[str, Any], kind: str) -> Any:
    """The student class with the teacher's kind of head.

    Args:
        teacher: the teacher.
        heads: the end of a teacher's class name to the student's class; the first match counts.
        kind: of student, in words.
    Raises:
        ValueError: there is none.
    """
    name = type(teacher).__name__
    ending = next((ending for ending in heads if name.endswith(ending)), None)
    if ending is None or (ending == "Model" and teacher.config.is_encoder_decoder):
        raise ValueError(
            f"Expected a teacher whose class name ends in one of {', '.join(heads)} (the last for encoders only), got "
            f"{name}, for which there is no {kind} student. Load the teacher with the Auto class of its task, for "
            "instance AutoModelForSequenceClassification."
        )
    return heads[ending]


def agree_on_labels(config: LSTMStudentConfig | StaticStudentConfig, teacher_config: PreTrainedConfig) -> None:
    """Copy labels and problem type from the teacher where the student's config does not set them.

    Names LABEL_0, LABEL_1, ... are transformers' defaults and count as not set. So does their number if it is two.

    Args:
        config: the student's; it is changed in place.
        teacher_config: the teacher's.
    Raises:
        ValueError: both set labels or problem types, and they differ.
    """
    names = list((config.id2label or {}).values())
    teacher_names = list((teacher_config.id2label or {}).values())
    unnamed = names == [f"LABEL_{index}" for index in range(len(names))]
    teacher_unnamed = teacher_names == [f"LABEL_{index}" for index in range(len(teacher_names))]
    other_number = len(names) != len(teacher_names) and not (unnamed and len(names) == 2)
    other_names = names != teacher_names and not unnamed and not teacher_unnamed
    if other_number or other_names:
        raise ValueError(
            f"Expected a student with the teacher's labels {teacher_names}, got {names}: its logits could not be "
            "compared with the teacher's. Leave num_labels and id2label out of the student's config, or name the "
            "teacher's labels the same way and in the same order."
        )
    if unnamed:
        config.id2label = copy.copy(teacher_config.id2label)
        config.label2id = copy.copy(teacher_config.label2id)
    if config.problem_type is None:
        config.problem_type = teacher_config.problem_type
    elif teacher_config.problem_type not in (None, config.problem_type):
        raise ValueError(
            f"Expected the teacher's problem_type {teacher_config.problem_type!r}, got {config.problem_type!r}: their "
            "logits would mean different things. Leave problem_type out of the student's config."
        )
