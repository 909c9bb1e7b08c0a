"""Texts without labels, read as rows whose label a teacher will give."""

from collections.abc import Callable, Sequence
from typing import Any

import datasets

from hf_distill.data.splits import Row
from hf_distill.problems import IGNORE_INDEX


class NoLabels:
    """Stands for `Labels` where no text has a label: every row counts as one with the label -100.

    Args:
        classes: that the teacher chooses among.
    """

    problem_type = "single_label_classification"
    scheme: str | None = None
    feature = datasets.Value("int64")

    def __init__(self, classes: Sequence[Any]) -> None:
        self.classes = list(map(str, classes))

    def reader(self, dataset: datasets.Dataset) -> Callable[[Row, dict[str, Any]], Any]:
        """What makes a row's label."""
        return lambda row, text: IGNORE_INDEX

    def none_for(self, text: dict[str, Any]) -> int:
        """How it is written that a text has no label."""
        return IGNORE_INDEX

    def count_unseen_classes(self, train: Sequence[Row]) -> None:
        """None of them is seen, and nothing is learned from labels."""
