"""Initialise a student's token embeddings from its teacher's."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.students.token_map import teacher_pieces


def token_embeddings(model: PreTrainedModel) -> nn.Embedding:
    """The input embedding table of a model."""
    return cast(nn.Embedding, model.get_input_embeddings())


def pieces_for_student(
    teacher: PreTrainedModel,
    vocab_size: int | None,
    tokenizer: PreTrainedTokenizerBase | None,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
) -> list[list[int]] | None:
    """The teacher's tokens that correspond to each row of the student's embedding table.

    Args:
        teacher: the model with the teacher's table.
        vocab_size: rows of the student's table. None: as many as its tokenizer needs.
        tokenizer, teacher_tokenizer: both, or neither if the student has the teacher's vocabulary.
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
                f"Expected the teacher's vocabulary size of {teacher_size}, got {vocab_size} for the student, and not "
                "both tokenizers: the token ids of different vocabularies do not correspond. Pass tokenizer= and "
                f"teacher_tokenizer=, or set the student's vocab_size to {teacher_size}."
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
    """The rows of a student's table, each the mean of the corresponding rows of its teacher's.

    Args:
        weight: (teacher tokens, ...).
        pieces: the teacher's tokens for each student token. A student token without any gets the mean of all other
            student rows, since a row of zeros could be far from all of them.
    Returns:
        (student tokens, ...), with the dtype of `weight`.
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
    """The principal components of some rows.

    Args:
        rows: (tokens, width).
        size: number of directions, at most width.
    Returns:
        The mean (width,); the directions (width, size), orthonormal and in descending order of variance; both float64;
        and the share of the variance that they explain.
    """
    rows = rows.double()
    mean = rows.mean(0)
    centered = rows - mean
    variances, directions = torch.linalg.eigh(centered.T @ centered)  # in ascending order
    variances, directions = variances.flip(0).clamp(min=0), directions.flip(1)[:, :size]
    # The sign of a direction is arbitrary; the largest entry is made positive so that every run gives the same result.
    largest = directions.abs().argmax(0)
    signs = directions[largest, torch.arange(size, device=rows.device)].sign()
    return mean, directions * signs, (variances[:size].sum() / variances.sum()).item()


class ProjectedTable:
    """Rows for a student's tokens, projected to the student's width.

    Args:
        rows: (student tokens, teacher size), float64.
        source: a description of where they come from.
        size: the student's width, at most the teacher's.

    Attributes:
        rows: (student tokens, size), (given rows - mean) @ directions.
        mean, directions: (teacher size,) and (teacher size, size); zero and the identity if the width is the same.
        source: the description, with that of the projection.
    """

    def __init__(self, rows: Tensor, source: str, size: int):
        self.source = source
        teacher_size = rows.shape[1]
        if size == teacher_size:
            self.mean, self.directions = rows.new_zeros(size), torch.eye(size, dtype=rows.dtype)
        else:
            self.mean, self.directions, share = principal_components(rows, size)
            rows = (rows - self.mean) @ self.directions
            self.source = f"PCA of {source}, {teacher_size} -> {size}, {share:.0%} of the variance"
        self.rows = rows

    @classmethod
    def of_parameter(
        cls, teacher: PreTrainedModel, table: Tensor, size: int, pieces: list[list[int]] | None
    ) -> "ProjectedTable":
        """A table of a teacher, for the student's tokens.

        Args:
            teacher: the model that has the table.
            table: (teacher tokens, teacher size), one of its parameters.
            size: the student's width.
            pieces: from `pieces_for_student`; None for the teacher's vocabulary.
        """
        rows, source = table.detach().cpu().double(), parameter_name(teacher, table)
        if pieces is None:
            return cls(rows, source, size)
        return cls(mean_of_pieces(rows, pieces), f"means of the pieces in {source}", size)

    def fill(self, student: PreTrainedModel, parameter: Tensor, std: float | None) -> dict[str, str]:
        """Copy the rows into a student's parameter, scaled to a root mean square of `std` if one is given."""
        scale = 1.0 if std is None else std / self.rows.square().mean().sqrt().item()
        parameter.copy_(self.rows * scale)
        source = self.source if std is None else f"{self.source}, times {scale:.3g}"
        return {parameter_name(student, parameter): source}


def parameter_name(model: PreTrainedModel, parameter: Tensor) -> str:
    """The name of one of a model's parameters."""
    return next(name for name, candidate in model.named_parameters() if candidate is parameter)
