"""The logits of a model on a tokenised data set."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import trange
from transformers import DataCollatorWithPadding, PreTrainedModel

from hf_distill import columns
from hf_distill.models import evaluating, forward_arguments, is_placed
from hf_distill.teachers.ensemble import TeacherEnsemble
from hf_distill.unmasked_padding import UnmaskedPaddingCheck


class Predictor:
    """A model together with the columns of a data set that it reads.

    Args:
        model: with logits among its outputs, or an ensemble.
        dataset: tokenised; only its column names are looked at.
        processing_class: the model's tokenizer, which pads. None: padded on the right with the config's pad token, or
            0.
        as_teacher: whether the columns that start with `teacher_` are the model's own; where there are none it reads
            the student's.
        word_level: whether it answers once a word, at the word's first piece.
        problem: how an ensemble mixes its members' outputs, see `models.problem_type`. None: by their configs.
    Raises:
        ValueError: no `input_ids` among the columns, or no column that marks where words start.
    """

    def __init__(
        self,
        model: nn.Module | TeacherEnsemble,
        dataset: Dataset,
        processing_class: Any = None,
        *,
        as_teacher: bool = False,
        word_level: bool = False,
        problem: str | None = None,
    ) -> None:
        self.model, self.problem = model, problem
        self.members = model.models if isinstance(model, TeacherEnsemble) else [model]
        names = {name: name for name in dataset.column_names if not columns.is_teacher_column(name)}
        own = {name: columns.PREFIX + name for name in columns.teacher_inputs(dict.fromkeys(dataset.column_names))}
        arguments = set.intersection(*(forward_arguments(member) for member in self.members))
        reads_own = as_teacher and "input_ids" in own
        self.columns = {
            argument: name
            for argument, name in (own if reads_own else names).items()
            if argument in arguments and "label" not in argument
        }
        if "input_ids" not in self.columns:
            raise ValueError(
                f"{type(self.members[0]).__name__} finds no input_ids among the columns {dataset.column_names}. "
                "Expected a tokenised data set; where the teacher has its own tokenizer its columns are called "
                "teacher_input_ids, teacher_attention_mask, and so on."
            )
        self.starts = _starts_column(dataset.column_names, reads_own) if word_level else None
        self.masks = "attention_mask" in arguments
        self.pad_id = getattr(self.members[0].config, "pad_token_id", None) or 0
        self.collator = DataCollatorWithPadding(processing_class) if processing_class is not None else None
        self._check_unmasked = [UnmaskedPaddingCheck(each, "model", [processing_class]) for each in self.members]

    @property
    def device(self) -> torch.device:
        """Where the (first) model is."""
        return next(self.members[0].parameters()).device

    def lengths(self, dataset: Dataset) -> np.ndarray:
        """(examples,) tokens of each example, in this model's own tokens."""
        return np.array([len(ids) for ids in dataset.with_format(None)[self.columns["input_ids"]]])

    def word_positions(self, dataset: Dataset) -> list[np.ndarray]:
        """Where each word starts: (words,) positions for each sentence, in this model's own tokens, without padding.

        Args:
            dataset: with the columns this predictor was made for; the predictor is one `word_level`.
        """
        if self.starts is None:
            raise ValueError(
                "This predictor answers once an example; make it with word_level=True to ask it about words."
            )
        marks = dataset.with_format(None)[self.starts]
        if self.starts == "labels":  # where nothing marks the words, the labelled positions stand for them
            return [np.flatnonzero(np.asarray(row) != columns.IGNORED) for row in marks]
        return [np.flatnonzero(np.asarray(row) == 1) for row in marks]

    def inputs(self, dataset: Dataset, rows: Any) -> dict[str, Tensor]:
        """The padded inputs of some rows, on the model's device.

        Args:
            dataset: with the columns this predictor was made for.
            rows: their numbers.
        """
        return self.batches(dataset, [rows])[0]

    def batches(self, dataset: Dataset, groups: Sequence[Any] | np.ndarray) -> list[dict[str, Tensor]]:
        """The padded inputs of several groups of rows, for which the data set is read once.

        Args:
            dataset: with the columns this predictor was made for.
            groups: the numbers of each one's rows.
        """
        wanted = [int(row) for rows in groups for row in rows]
        read = dataset.with_format(None).select_columns(list(self.columns.values()))[wanted]
        ends = np.cumsum([len(rows) for rows in groups])
        return [
            self._padded({argument: read[name][end - len(rows) : end] for argument, name in self.columns.items()})
            for rows, end in zip(groups, ends, strict=True)
        ]

    def _padded(self, features: dict[str, Any]) -> dict[str, Tensor]:
        if self.masks and "attention_mask" not in features:
            for row in zip(*features.values(), strict=True):
                of_row = dict(zip(features, (torch.as_tensor(value)[None] for value in row), strict=True))
                for check in self._check_unmasked:
                    check(of_row)
            features["attention_mask"] = [[1] * len(ids) for ids in features["input_ids"]]
        if self.collator is not None:
            padded = self.collator(
                [dict(zip(features, row, strict=True)) for row in zip(*features.values(), strict=True)]
            )
        else:
            padded = {
                name: pad_sequence(
                    [torch.as_tensor(value) for value in values],
                    batch_first=True,
                    padding_value=self.pad_id if name == "input_ids" else 0,
                )
                for name, values in features.items()
            }
        return {name: padded[name].to(self.device) for name in features}

    @property
    def pads_left(self) -> bool:
        """Whether shorter rows start later."""
        return getattr(getattr(self.collator, "tokenizer", None), "padding_side", "right") == "left"

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The logits, (batch, classes), or (batch, length, classes) of a model that tags."""
        outputs = [member(**inputs)["logits"] for member in self.members]
        return self.model.mixture(outputs, self.problem) if isinstance(self.model, TeacherEnsemble) else outputs[0]

    @contextmanager
    def ready(self, device: str | torch.device | None = None) -> Iterator[None]:
        """In evaluation mode, on a device and without gradients for a while; then everything is as it was.

        Args:
            device: None: where the model is. Quantised models, and those placed by a device map, are never moved.
        """
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(evaluating(member))
                if device is not None and not is_placed(member):
                    stack.callback(member.to, next(member.parameters()).device)
                    member.to(device)
            stack.enter_context(torch.inference_mode())
            yield


def predict_logits(predictor: Predictor, dataset: Dataset, *, name: str, batch_size: int = 32) -> np.ndarray:
    """The logits of a ready model on every row, in the order of the rows.

    Args:
        predictor: within its `ready`.
        dataset: tokenised.
        name: of the model, for the error.
        batch_size: rows read together; they are of similar length, and the result does not depend on it.
    Returns:
        (examples, classes) float32
    Raises:
        ValueError: a logit is NaN.
    """
    answers = list(_answers(predictor, dataset, np.arange(len(dataset)), batch_size, name))
    logits = np.empty((len(dataset), *answers[0][1].shape[1:]), dtype=np.float32)
    logits[np.concatenate([rows for rows, _ in answers])] = np.concatenate([values for _, values in answers])
    check_finite(logits, name)
    return logits


def predict_word_logits(predictor: Predictor, dataset: Dataset, *, name: str, batch_size: int = 32) -> list[np.ndarray]:
    """The logits of a ready model on every word that it reads, sentence by sentence.

    Args:
        predictor: one `word_level`, within its `ready`.
        dataset: tokenised.
        name: of the model, for the error.
        batch_size: see `predict_logits`.
    Returns:
        (words, classes) float32 for each row; words that were cut off are missing at its end.
    Raises:
        ValueError: a logit is NaN, or no row has a word.
    """
    positions = predictor.word_positions(dataset)
    lengths = predictor.lengths(dataset)
    with_words = np.array([row for row, starts in enumerate(positions) if len(starts)], dtype=np.int64)
    if not len(with_words):
        raise ValueError(f"None of the {len(positions)} rows has a word: `{predictor.starts}` marks no position.")
    found: dict[int, np.ndarray] = {}
    for rows, values in _answers(predictor, dataset, with_words, batch_size, name):
        for row, of_positions in zip(rows, values, strict=True):
            before = len(of_positions) - lengths[row] if predictor.pads_left else 0
            found[int(row)] = of_positions[before + positions[row]]
    nothing = np.empty((0, next(iter(found.values())).shape[-1]), dtype=np.float32)
    logits = [found.get(row, nothing) for row in range(len(positions))]
    check_finite(np.concatenate(logits), name, "words")
    return logits


def _answers(
    predictor: Predictor, dataset: Dataset, rows: np.ndarray, batch_size: int, name: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some row numbers and their logits at a time, the longest first."""
    order = rows[np.argsort(-predictor.lengths(dataset)[rows], kind="stable")]
    for start in trange(0, len(order), batch_size, desc=f"Predictions: {name}", unit=" batches", delay=5, leave=False):
        batch = order[start : start + batch_size]
        yield batch, predictor(predictor.inputs(dataset, batch)).float().cpu().numpy()


def check_finite(logits: np.ndarray, name: str, unit: str = "examples") -> None:
    """Raise where logits are NaN.

    Args:
        logits: (items, classes).
        name: of the model or control.
        unit: what the items are.
    Raises:
        ValueError: with how many items are concerned.
    """
    broken = int(np.isnan(logits).any(axis=-1).sum())
    if broken:
        raise ValueError(
            f"The {name} gives NaN logits on {broken} of {len(logits)} {unit}, so no metric of it means anything. "
            "Usual causes: training diverged (lower the learning rate), or float16 overflowed (use bfloat16)."
        )


def _starts_column(names: Sequence[str], own: bool) -> str:
    """The column that says where a model's words start."""
    wanted = columns.TEACHER_WORD_STARTS if own else columns.WORD_STARTS
    if wanted in names:
        return wanted
    if own or "labels" not in names:
        raise ValueError(
            f"Expected the column {wanted} (1 a word's first piece, 0 further pieces, -100 special tokens), got "
            f"{list(names)}: without it no column marks where words start."
        )
    return "labels"


def predict_classes(model: PreTrainedModel, dataset: Dataset, tokenizer: Any) -> np.ndarray:
    """The class that a model gives each row: (examples,) int."""
    predictor = Predictor(model, dataset, tokenizer)
    with predictor.ready():
        return predict_logits(predictor, dataset, name="model").argmax(axis=-1)


def predict_tags(
    model: PreTrainedModel, dataset: Dataset, tokenizer: Any, *, as_teacher: bool = False
) -> list[list[int]]:
    """The class that a model gives each word it reads, sentence by sentence.

    Args:
        model: a tagger.
        dataset: tokenised, see `Predictor`.
        tokenizer: the model's.
        as_teacher: whether it reads the `teacher_` columns.
    """
    predictor = Predictor(model, dataset, tokenizer, as_teacher=as_teacher, word_level=True)
    with predictor.ready():
        return [logits.argmax(axis=-1).tolist() for logits in predict_word_logits(predictor, dataset, name="model")]
