"""Text classification: one class, several, or a quantity, of a text or a pair of texts."""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
from scipy.special import softmax
from transformers import DataCollatorWithPadding

from hf_distill.columns import LOGITS
from hf_distill.data.labelled import TEXTS, Splits, texts_of
from hf_distill.evaluation.controls import majority_class, tfidf_logistic_regression
from hf_distill.evaluation.predictor import predict_classes
from hf_distill.problems import IGNORE_INDEX
from hf_distill.reports.comparison import SINGLE_LABEL
from hf_distill.tasks.base import Loaded
from hf_distill.tasks.labelling import Control, LabellingTask


class TextClassification(LabellingTask):
    """A student that labels texts."""

    soft_control = "tfidf_on_teacher_soft_labels"

    def collator(self, tokenizer: Any, model: Any) -> Any:
        """Pads the tokens."""
        return DataCollatorWithPadding(tokenizer)

    @property
    def own_controls(self) -> Mapping[str, Control]:
        """The majority class, and TF-IDF with logistic regression."""
        return {"majority_class": _majority_class, "tfidf_logistic_regression": _tfidf}

    @property
    def known_controls(self) -> list[str]:
        """Controls are for a single label."""
        return super().known_controls if self.splits.problem_type == SINGLE_LABEL else []

    def soft_control_predictions(self, rows: datasets.Dataset) -> Any:
        """TF-IDF and logistic regression on the teacher's probabilities."""
        soft = softmax(np.array(list(rows[LOGITS]), dtype=np.float64), axis=-1)
        texts = list(texts_of(self.all_texts))
        return tfidf_logistic_regression(texts, None, *_judged(self.splits), soft_labels=soft)

    def decisions(self, loaded: Loaded, rows: datasets.Dataset) -> Any:
        """A model's class for each row."""
        model, tokenizer = loaded
        return predict_classes(model, rows, tokenizer)

    def relabelled(self, row: dict[str, Any], answer: Any, keep_known: bool) -> Any:
        """The class number that a row gets."""
        known = row["labels"]
        return known if keep_known and known != IGNORE_INDEX else int(answer)

    @property
    def raw_texts(self) -> list[Any]:
        """Texts, or the two of each pair."""
        columns = [self.splits.test[name] for name in TEXTS[: len(self.settings.data.text_columns)]]
        return list(columns[0]) if len(columns) == 1 else [list(pair) for pair in zip(*columns, strict=True)]

    @property
    def example(self) -> list[str]:
        """A text or a pair."""
        made = {"text": "Some text", "text_pair": "Another text"}
        row = self.splits.test[0] if self.settings.compare.quote else made
        return [row[name] for name in TEXTS[: len(self.settings.data.text_columns)]]


def _majority_class(splits: Splits) -> Any:
    return majority_class(splits.train["label"], len(splits.test))


def _tfidf(splits: Splits) -> Any:
    return tfidf_logistic_regression(list(texts_of(splits.train)), splits.train["label"], *_judged(splits))


def _judged(splits: Splits) -> tuple[list[str], list[int], list[str]]:
    return list(texts_of(splits.validation)), splits.validation["label"], list(texts_of(splits.test))
