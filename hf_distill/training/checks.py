"""What the trainer refuses: settings, columns and batches that would train on something else than was meant."""

import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from hf_distill import columns
from hf_distill.matching.base import Matching
from hf_distill.models import shared_tokens, tokens_of_one_tokenizer
from hf_distill.problems import Task
from hf_distill.soft_targets.vocabulary import of_shared_tokens
from hf_distill.teachers.live import LiveTeacher
from hf_distill.training.arguments import Objective, Weights
from hf_distill.training.attached_matchings import check_cached_states
from hf_distill.training.objective import TWO_VOCABULARIES

OTHER_TOKENS = (
    "The rows hold the teacher's own tokens: with two tokenizers the positions of {} do not line up, and its outputs "
    "there are about other words. {}, use one tokenizer for both, or soft_target_weight=0 with a matching of "
    'granularity="word".'
)
WORD_LEVEL = "Add the columns word_starts and teacher_word_starts"
OF_VOCABULARIES = (
    "Add the columns teacher_input_ids, teacher_attention_mask and teacher_labels (the teacher's tokens that are "
    'targets, -100 elsewhere) and set soft_target_loss="universal_logit_distance", which compares two vocabularies '
    "(any other loss needs one tokenizer on both sides: pass it as processing_class and as teacher_processing_class)"
)
# Each matching is logged as <name>_loss, beside these.
LOGGED = ("hard", "soft", "train", "eval", "test")


def named_datasets(train: Any, evaluation: Any) -> dict[str, Any]:
    """The data sets of a trainer by how its caller names them; evaluation may be a dict of several."""
    several = evaluation if isinstance(evaluation, dict) else {None: evaluation}
    found = {"train_dataset": train}
    found |= {"eval_dataset" if name is None else f"eval_dataset[{name!r}]": rows for name, rows in several.items()}
    return {name: rows for name, rows in found.items() if rows is not None}


class Alignment:
    """Whether a teacher's outputs belong to the student's items: by their positions, words or targets.

    Args:
        task: of both.
        student: config.
        teachers: configs of the teacher's members; none where its outputs are cached.
        tokenizers: the student's and the teacher's, None where unknown.
    """

    def __init__(self, task: Task, student: Any, teachers: Sequence[Any], tokenizers: tuple[Any, Any]) -> None:
        self.task = task
        self.student = student
        self.teachers = teachers
        self.tokenizers = tokenizers
        self._shared: list[int | None] = []

    def shared_tokens(self) -> int | None:
        """How many tokens both models share that are given the same ids; None: all of them. See `models.shared_tokens`.

        Raises:
            ValueError: their tokens differ, or may differ.
        """
        if not self._shared:
            numbers = [shared_tokens(self.student, teacher, *self.tokenizers) for teacher in self.teachers]
            self._shared.append(min((number for number in numbers if number is not None), default=None))
        return self._shared[0]

    def check(self, names: Container[str], loss: str) -> None:
        """Raise where the soft targets of a data set or a batch would stand beside other words than they are about.

        Args:
            names: of its columns.
            loss: the name of the soft target loss.
        Raises:
            ValueError: the teacher reads other tokens and nothing says which of them belong to the student's, or it
                would read the student's tokens in a vocabulary of its own.
        """
        own = columns.PREFIX + "input_ids" in names
        cached = any(name in names for name in columns.SOFT_TARGETS)
        if self.task.writes and columns.TEACHER_LABELS in names:
            if not (own or cached):
                raise self._other_tokens()
            if loss != TWO_VOCABULARIES:
                self._check_one_vocabulary()
            return
        if self.task.word_level:
            aligned = columns.WORD_STARTS in names and columns.TEACHER_WORD_STARTS in names
            misplaced = own and not cached and not aligned
        else:
            # Cached translations are of the positions of the target, which two encoders may share.
            misplaced = self.task.writes and own and not (cached and self.task.in_decoder)
        if misplaced:
            raise self._other_tokens()
        if self.teachers and not own and not cached:
            self.shared_tokens()

    def _other_tokens(self) -> ValueError:
        return ValueError(OTHER_TOKENS.format(self.task.name, WORD_LEVEL if self.task.word_level else OF_VOCABULARIES))

    def _check_one_vocabulary(self) -> None:
        """Raise unless both sides are known to have one vocabulary, as with a longer prompt for the teacher."""
        if not self.teachers:
            if tokens_of_one_tokenizer(*self.tokenizers) is None:
                raise self._other_tokens()
            return
        try:
            self.shared_tokens()
        except ValueError as error:
            raise self._other_tokens() from error

    def is_aligned(self, names: Container[str], loss: str) -> bool:
        """Whether `check` raises nothing."""
        try:
            self.check(names, loss)
        except ValueError:
            return False
        return True

    def common(
        self, soft_targets: Mapping[str, Tensor], size: int, inputs: Mapping[str, Any], loss: str
    ) -> tuple[dict[str, Tensor], int | None]:
        """The soft targets of the classes that student and teacher are compared on.

        Rows of a vocabulary table that only pad it stand for no token, and the other table may lack them.

        Args:
            soft_targets: cached columns, or the live teacher's logits.
            size: of the student's table.
            inputs: the batch.
            loss: the name of the soft target loss.
        Returns:
            The targets, and how many of the student's logits are compared with them; None: all.
        Raises:
            ValueError: cached targets over a table of another size, and nothing tells which tokens both have.
        """
        targets = dict(soft_targets)
        own, cached = columns.PREFIX + "input_ids" in inputs, any(name in inputs for name in columns.SOFT_TARGETS)
        if not self.task.writes or (loss == TWO_VOCABULARIES and (own or cached)):
            return targets, None
        if cached:
            return of_shared_tokens(targets, size, tokens_of_one_tokenizer(*self.tokenizers))
        if own and columns.TEACHER_LABELS not in inputs:
            return targets, None
        shared = self.shared_tokens()
        return {name: value[..., :shared] for name, value in targets.items()}, shared


class PlainCollator:
    """Any collator of a training without a teacher; refuses rows of unknown columns that hold a teacher's outputs.

    Args:
        collator: makes a batch of rows.
    Raises:
        ValueError: the outputs would be dropped, as columns that the model does not read.
    """

    def __init__(self, collator: Callable[[list[Any]], Any]) -> None:
        self.collator = collator

    def __call__(self, rows: list[Any]) -> Any:
        outputs = [name for name in rows[0] if columns.is_output(name)] if isinstance(rows[0], Mapping) else []
        if outputs:
            raise ValueError(
                f"The rows have {', '.join(outputs)}, which could not be known beforehand, and with TrainingArguments "
                "this is Trainer, which would drop them. Pass DistillationArguments to learn from them, or remove them."
            )
        return self.collator(rows)


def check_alignment(named: Mapping[str, Any], alignment: Alignment, loss: str) -> None:
    """Raise where the teacher's outputs would not belong to the items of a data set.

    Args:
        named: see `named_datasets`. A set whose columns are unknown is judged by its batches.
        alignment: of student and teacher.
        loss: the name of the soft target loss.
    """
    if not named and alignment.teachers:
        alignment.check((), loss)
    for name, dataset in named.items():
        known = columns.column_names([dataset])
        if known and (alignment.teachers or any(columns.is_output(each) for each in known)):
            try:
                alignment.check(known, loss)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error


def check_teacher(settings: Objective, teacher: LiveTeacher | None, train_columns: set[str]) -> None:
    """Raise where soft targets are wanted and there are none.

    Args:
        settings: of the objective.
        teacher: the live one.
        train_columns: of the training rows, empty where unknown.
    """
    cached = any(columns.is_output(name) for name in train_columns)
    if train_columns and settings.wants_soft_targets and teacher is None and not cached:
        raise ValueError(
            "soft_target_weight is above 0 but there is no teacher: pass teacher_model=..., or a train_dataset "
            "with a teacher_logits column (cache_teacher_outputs makes it), or set soft_target_weight=0 and "
            "hard_label_weight=1 for a student without a teacher."
        )


def check_matchings(matchings: Sequence[Matching], teacher: LiveTeacher | None, train_columns: set[str]) -> None:
    """Raise where matchings have no states to compare with, or names that something else is logged as.

    Args:
        matchings: of the trainer.
        teacher: the live one.
        train_columns: of the training rows.
    """
    if teacher is None and any(name.startswith(columns.HIDDEN) for name in train_columns):
        check_cached_states(matchings, train_columns)
    elif matchings and (teacher is None or len(teacher.members) > 1):
        raise ValueError(
            "matching compares the student's inner states with one live teacher's, and there is "
            f"{'none' if teacher is None else 'an ensemble'}. Pass teacher_model=... with one model."
        )
    twice = {name for name, number in Counter(each.name for each in matchings).items() if number > 1}
    if twice:
        raise ValueError(f"Two matchings are called {', '.join(sorted(twice))}: give each its own name=... to log.")
    taken = [each.name for each in matchings if each.name in LOGGED or not each.name]
    if taken:
        raise ValueError(
            f"A matching is logged as <name>_loss, and name={taken[0]!r} gives {taken[0]}_loss, which stands for "
            "something else. Give it another name=..."
        )


def check_router(student: Any) -> None:
    """Raise where a model adds a loss of its own, which has no place in the objective."""
    if getattr(student.config, "output_router_logits", False):
        raise ValueError(
            f"{type(student).__name__} adds an auxiliary router loss (output_router_logits=True), which has "
            "no place in the objective. Set config.output_router_logits=False."
        )


def check_cached_temperatures(named: Mapping[str, Any], settings: Objective) -> None:
    """Raise where the tails of a top-k cache are of another temperature than they will be used at.

    Args:
        named: see `named_datasets`; streams are judged batch by batch.
        settings: of the objective. An evaluation uses the settings of the last step.
    """
    for name, dataset in named.items():
        if isinstance(dataset, datasets.Dataset) and columns.TEMPERATURE in dataset.column_names:
            cached_at = torch.tensor(dataset.unique(columns.TEMPERATURE))
            for progress in (0.0, 1.0) if name == "train_dataset" else (1.0,):
                check_temperature(cached_at, settings.at(progress), name)


def check_temperature(cached: Tensor, weights: Weights, where: str = "the batch") -> None:
    """Raise where the tail of a top-k cache is of another temperature.

    Args:
        cached: the temperatures of some rows.
        weights: at one step.
        where: the rows are from.
    """
    at = torch.tensor(weights.temperature, device=cached.device).double()
    if weights.soft > 0 and not torch.isclose(cached.double(), at).all():
        raise ValueError(
            f"The top-k cache was made at temperature {cached.max().item():g} ({where}), and its tail cannot be "
            f"tempered later; the training is at {weights.temperature:g}. Set temperature={cached.max().item():g} and "
            "no temperature_end, or cache all logits (top_k=None), which can be tempered."
        )


def check_labels(settings: Objective, batch: Iterable[str], dataset: Iterable[str]) -> None:
    """Raise where the loss on the labels would be 0 for ever, since there are none.

    Args:
        settings: of the objective.
        batch: the columns of the first batch. A column `labels` that is all -100 is fine: so unlabelled rows are
            written.
        dataset: the columns of the training rows, as far as they are known.
    """
    names = sorted(batch)
    if not settings.wants_labels or "labels" in names:
        return
    raise ValueError(
        f"hard_label_weight is above 0, and the first batch has no `labels`: it has {names}, made of rows with "
        f"{sorted(dataset) or 'columns that are not known'}. The loss on the labels would be 0 for ever. Rename the "
        'column that holds them (dataset.rename_column("...", "labels"); a collator must keep or make `labels`; rows '
        "without a label have -100 there), or set hard_label_weight=0 to learn from the teacher alone."
    )


def nothing_counted(counts: Tensor) -> str | None:
    """A warning where no item of an optimizer step counts for any term of the objective.

    Args:
        counts: how many items each term counts in the step, all processes together.
    """
    if counts.any():
        return None
    return (
        "The first step has nothing to learn from: every label of its rows is -100, and without a target no position "
        "has a soft target either. If all rows are like that, the loss is 0 for ever. Look at the labels: is each "
        "target masked, or cut off by max_length?"
    )


def check_length(length: int, places: float) -> None:
    """Raise where the teacher has fewer places than a batch has tokens.

    Args:
        length: of a row as the teacher reads it.
        places: how many positions the teacher has.
    """
    if length > places:
        raise ValueError(
            f"A row of {length} tokens is longer than the {places:g} positions that the teacher has. Cut the rows "
            f"(truncation=True, max_length={places:g} at most, the teacher's own tokens likewise), or take a teacher "
            "that reads longer texts."
        )


def check_lengths(named: Mapping[str, Any], collate: Callable[[list[Any]], Mapping[str, Any]], places: float) -> None:
    """Raise where a row of a known data set is longer than the teacher's positions, before any step is made.

    Args:
        named: see `named_datasets`; streams are judged batch by batch.
        collate: makes a batch of rows; the longest one is collated, since a collator may cut rows.
        places: how many positions the teacher has.
    """
    for dataset in named.values() if places < math.inf else ():
        known = dataset.column_names if isinstance(dataset, datasets.Dataset) else ()
        own = columns.PREFIX + "input_ids"
        name = next((name for name in (own, "input_ids") if name in known), None)
        if name is None or any(column in known for column in columns.SOFT_TARGETS):
            continue
        parts = dataset.with_format("arrow").select_columns([name]).iter(batch_size=10_000)
        lengths = [pc.list_value_length(part.column(name)).to_numpy(zero_copy_only=False) for part in parts]
        row = int(np.concatenate(lengths).argmax()) if lengths else 0
        if lengths and len(dataset.with_format(None)[row][name]) > places:
            with torch.random.fork_rng():
                batch = collate([dataset[row]])
            check_length(batch.get(name, torch.empty(1, 0)).shape[1], places)


def few_labels(share: float, rows: int, settings: Objective) -> str | None:
    """A warning where a step has so few labelled rows that one of them carries much of the loss on the labels.

    Args:
        share: of labelled rows.
        rows: in an optimizer step, all processes together.
        settings: of the objective.
    """
    if not 0 < share * rows < 4 or share == 1 or not settings.at(0.5).hard > 0:
        return None
    return (
        f"A step of {rows} rows has {share * rows:.1f} labelled ones on average: a lone one carries the whole "
        "loss on the labels. Raise labelled_fraction, the batch size or the accumulation."
    )


def without_counterpart(numbers: Tensor, loss: str) -> str | None:
    """A warning of targets of two sequences without a counterpart.

    Args:
        numbers: see `Task.unmatched`.
        loss: the name of the soft target loss.
    """
    beyond, own, teacher_beyond, theirs = numbers.tolist()
    if not beyond + teacher_beyond:
        return None
    return (
        f"{beyond / max(1, own):.1%} of the student's targets had no teacher target at the same position, and "
        f"{teacher_beyond / max(1, theirs):.1%} of the teacher's no target of the student's: {loss} compares the k-th "
        "target with the k-th, up to the end of the shorter sequence."
    )
