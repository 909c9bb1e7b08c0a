"""Initialise a static student from its teacher."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.students.embeddings import ProjectedTable, mean_of_pieces, token_embeddings
from hf_distill.students.static.configuration_static import StaticStudentConfig
from hf_distill.students.static.modeling_static import (
    StaticStudentForSequenceClassification,
    StaticStudentForTokenClassification,
    StaticStudentModel,
    StaticStudentPreTrainedModel,
    StaticTable,
)
from hf_distill.students.tokenizer import batched
from hf_distill.students.transformer.config import check_within

# The end of a teacher's class name to the static student with that head; the first match counts.
HEADS: dict[str, type[StaticStudentPreTrainedModel]] = {
    "ForSequenceClassification": StaticStudentForSequenceClassification,
    "ForTokenClassification": StaticStudentForTokenClassification,
    "Model": StaticStudentModel,
}
EMBEDDING_STD = 1.0  # root mean square of the table, as in LSTM students
SMOOTHING = 1e-3  # a of the smooth inverse frequency a / (a + p), in the range that its authors recommend
BATCH = 256  # tokens that pass through the teacher at once


def fill_static(
    student_class: type[StaticStudentPreTrainedModel],
    config: StaticStudentConfig,
    teacher: PreTrainedModel,
    pieces: list[list[int]] | None,
    tokenizer: PreTrainedTokenizerBase | None,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
    texts: Iterable[str] | None,
) -> tuple[StaticStudentPreTrainedModel, dict[str, str]]:
    """Build a static student with the teacher's embeddings of its tokens, and weights by their frequency.

    Args:
        student_class: the class with the teacher's kind of head.
        config: the student's, complete but for `unpooled_token_ids`.
        teacher: the teacher; it is not changed.
        pieces: from `pieces_for_student`; None for the teacher's vocabulary.
        tokenizer: the student's. None: the teacher's.
        teacher_tokenizer: needed to pass tokens through the teacher's layers.
        texts: that the frequencies are counted in. None: all tokens have the weight 1.
    Returns:
        The student, and a dict from parameter name to where it came from.
    Raises:
        ValueError: the student is wider than its teacher, or a tokenizer is missing.
    """
    tokenizer = teacher_tokenizer if tokenizer is None else tokenizer
    if config.unpooled_token_ids is None:
        config.unpooled_token_ids = unpooled_token_ids(tokenizer)
    table = token_embeddings(teacher)
    if config.teacher_embeddings == "layers":
        known = [[index] for index in range(table.weight.shape[0])] if pieces is None else pieces
        rows = through_layers(teacher, known, teacher_tokenizer)
        check_within("embedding_size", config.embedding_size, rows.shape[1])
        projected = ProjectedTable(rows, "each token passed through the teacher's layers", config.embedding_size)
    else:
        check_within("embedding_size", config.embedding_size, table.weight.shape[1])
        projected = ProjectedTable.of_parameter(teacher, table.weight, config.embedding_size, pieces)
    student = student_class(config)
    embeddings = token_embeddings(student)
    carried = projected.fill(student, embeddings.weight, EMBEDDING_STD)
    if embeddings.padding_idx is not None:
        embeddings.weight[embeddings.padding_idx] = 0
    if texts is None:
        return student, carried
    if tokenizer is None:
        raise ValueError("texts: their tokens are counted, and there is no tokenizer. Pass tokenizer=, the student's.")
    return student, carried | weigh_by_frequency(student, texts, tokenizer)


def through_layers(
    teacher: PreTrainedModel, pieces: list[list[int]], tokenizer: PreTrainedTokenizerBase | None
) -> Tensor:
    """The mean of the teacher's last states for each token alone, between the special tokens of a text.

    Args:
        teacher: any text model; of an encoder-decoder, its encoder is used.
        pieces: the teacher's token ids for each of the student's tokens.
        tokenizer: the teacher's.
    Returns:
        (student tokens, teacher size) float64. A token without pieces gets the mean of all others.
    Raises:
        ValueError: there is no tokenizer.
    Source:
        Tulkens & van Dongen 2024, Model2Vec, https://github.com/MinishLab/model2vec.
    """
    if tokenizer is None:
        raise ValueError(
            'teacher_embeddings="layers" passes each token through the teacher between its special tokens, and there '
            'is no tokenizer that has them. Pass teacher_tokenizer=, or set teacher_embeddings="table".'
        )
    encoded = tokenizer("a", return_special_tokens_mask=True)
    marks = encoded["special_tokens_mask"]
    first = marks.index(0) if 0 in marks else 0
    last = len(marks) - marks[::-1].index(0) if 0 in marks else len(marks)
    before, after = encoded["input_ids"][:first], encoded["input_ids"][last:]
    texts = sorted({tuple(ids) for ids in pieces if ids}, key=len)
    encoder: Any = teacher.get_encoder() if teacher.config.is_encoder_decoder else teacher.base_model
    training = teacher.training
    teacher.eval()
    try:
        parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        rows = [_means(encoder, [[*before, *ids, *after] for ids in part]) for part in parts]
    finally:
        teacher.train(training)
    place = {ids: number for number, ids in enumerate(texts)}
    return mean_of_pieces(torch.cat(rows), [[place[tuple(ids)]] if ids else [] for ids in pieces])


@torch.no_grad()
def _means(encoder: Any, texts: list[list[int]]) -> Tensor:
    """(texts, size) float64: the mean of a model's last states over each text."""
    lengths = torch.tensor([len(ids) for ids in texts])
    longest = int(lengths.max())
    mask = (torch.arange(longest) < lengths.unsqueeze(1)).long().to(encoder.device)
    ids = torch.tensor([[*text, *[text[0]] * (longest - len(text))] for text in texts], device=encoder.device)
    states = encoder(input_ids=ids, attention_mask=mask, return_dict=True).last_hidden_state.double()
    return ((states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)).cpu()


def weigh_by_frequency(
    student: StaticStudentPreTrainedModel, texts: Iterable[str], tokenizer: PreTrainedTokenizerBase
) -> dict[str, str]:
    """Set the weight of each token to its smooth inverse frequency, a / (a + p), in place.

    Args:
        student: any static student.
        texts: that the frequencies p are counted in; those of the training set.
        tokenizer: the student's.
    Returns:
        The name of the weights, and where they came from.
    Raises:
        ValueError: no text has a token.
    Source:
        Arora, Liang & Ma 2017, A simple but tough-to-beat baseline for sentence embeddings, ICLR.
    """
    counts: Counter[int] = Counter()
    for part in batched(list(texts)):
        for ids in tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]:
            counts.update(ids)
    if not counts:
        raise ValueError("Expected texts to count the frequencies of tokens in, got none with a token.")
    weights = cast(Tensor, cast(StaticTable, token_embeddings(student)).token_weights)
    shares = torch.zeros(len(weights), dtype=torch.float64)
    shares[list(counts)] = torch.tensor(list(counts.values()), dtype=torch.float64) / counts.total()
    with torch.no_grad():
        weights.copy_(SMOOTHING / (SMOOTHING + shares))
    name = next(name for name, parameter in student.named_parameters() if parameter is weights)
    return {name: f"smooth inverse frequency of {counts.total()} tokens, {SMOOTHING:g} / ({SMOOTHING:g} + p)"}


def unpooled_token_ids(tokenizer: PreTrainedTokenizerBase | None) -> list[int] | None:
    """The tokens that say nothing of a text: those that every text has, and the unknown token.

    model2vec leaves out the same ones, so that the vectors of a plain table are equal there.

    Args:
        tokenizer: the student's. None: it is not known.
    """
    if tokenizer is None:
        return None
    unknown = [] if tokenizer.unk_token_id is None else [tokenizer.unk_token_id]
    return sorted({*tokenizer("")["input_ids"], *unknown})
