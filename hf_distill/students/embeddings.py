"""A student's token embeddings, made from its teacher's."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.students.token_map import teacher_pieces


def token_embeddings(model: PreTrainedModel) -> nn.Embedding:
    """The module that a model looks its tokens up in."""
    return cast(nn.Embedding, model.get_input_embeddings())


def pieces_for_student(
    teacher: PreTrainedModel,
    vocab_size: int | None,
    tokenizer: PreTrainedTokenizerBase | None,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
) -> list[list[int]] | None:
    """Which of the teacher's tokens stand for each row of the student's embedding table.

    Args:
        teacher: the model with the teacher's table.
        vocab_size: rows of the student's table; None for as many as its tokenizer needs.
        tokenizer, teacher_tokenizer: both, or the vocabulary is taken to be the teacher's.
    Returns:
        A list of teacher token ids for each student token; None if the two vocabularies are the same.
    Raises:
        ValueError: the vocabularies differ and a tokenizer is missing, or a table has fewer rows than its tokenizer
            has tokens.
    """
    teacher_size = token_embeddings(teacher).weight.shape[0]
    same_tokens = (
        tokenizer is not None
        and teacher_tokenizer is not None
        and tokenizer.get_vocab() == teacher_tokenizer.get_vocab()
    )
    if vocab_size is None:
        vocab_size = teacher_size if tokenizer is None or same_tokens else len(tokenizer)
    if tokenizer is None or teacher_tokenizer is None:
        if vocab_size != teacher_size:
            raise ValueError(
                f"Expected the teacher's vocabulary of {teacher_size}, got a student's of {vocab_size}, and not both "
                "tokenizers: token 7 of one is not token 7 of the other. Pass tokenizer= and teacher_tokenizer=, or "
                f"let both have vocab_size={teacher_size}."
            )
        return None
    for name, size, reader in (("student", vocab_size, tokenizer), ("teacher", teacher_size, teacher_tokenizer)):
        if len(reader) > size:
            raise ValueError(
                f"Expected at most {size} tokens, the {name}'s vocab_size, got a tokenizer with {len(reader)}: some "
                f"of its tokens would have no embedding. Is it the {name}'s tokenizer? If so, set vocab_size to it."
            )
    if vocab_size == teacher_size and same_tokens:
        return None
    pieces = teacher_pieces(tokenizer, teacher_tokenizer)
    return [pieces.get(index, []) for index in range(vocab_size)]


def mean_of_pieces(weight: Tensor, pieces: list[list[int]]) -> Tensor:
    """The rows of a student's table, each the mean of its teacher's rows.

    Args:
        weight: (teacher tokens, ...).
        pieces: for each student token, the teacher's; where there are none, the mean of all student rows that have
            some is taken, since a row of zeros could be far from all of them.
    Returns:
        (student tokens, ...), of the dtype of `weight`.
    """
    known = [index for index, ids in enumerate(pieces) if ids]
    flat = torch.tensor([piece for index in known for piece in pieces[index]], device=weight.device)
    counts = torch.tensor([len(pieces[index]) for index in known], device=weight.device)
    owner = torch.repeat_interleave(torch.tensor(known, device=weight.device), counts)
    rows = weight.new_zeros(len(pieces), *weight.shape[1:], dtype=torch.float64)
    rows.index_add_(0, owner, weight[flat].double())
    rows[known] /= counts.view(-1, *[1] * (weight.dim() - 1))
    unknown = [index for index, ids in enumerate(pieces) if not ids]
    rows[unknown] = rows[known].mean(0)
    return rows.to(weight.dtype)


def principal_components(rows: Tensor, size: int) -> tuple[Tensor, Tensor, float]:
    """The directions in which the rows differ most.

    Args:
        rows: (tokens, width).
        size: how many directions, at most width.
    Returns:
        The mean (width,), the directions (width, size), orthonormal and in falling order of variance, both float64,
        and the share of the variance that they hold.
    """
    rows = rows.double()
    mean = rows.mean(0)
    centered = rows - mean
    variances, directions = torch.linalg.eigh(centered.T @ centered)  # in rising order
    variances, directions = variances.flip(0).clamp(min=0), directions.flip(1)[:, :size]
    # A direction and its opposite are both right; the largest entry is made positive so that every run says the same.
    largest = directions.abs().argmax(0)
    signs = directions[largest, torch.arange(size, device=rows.device)].sign()
    return mean, directions * signs, (variances[:size].sum() / variances.sum()).item()
