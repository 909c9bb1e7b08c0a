"""Token classification: a tag for each word of a sentence, entities for instance."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from transformers import DataCollatorForTokenClassification, PreTrainedModel

from hf_distill.columns import LOGITS, TEACHER_WORD_STARTS, WORD_STARTS
from hf_distill.data.labelled import Splits
from hf_distill.data.tokenization import words_cut_off
from hf_distill.evaluation.controls import crf_tagger, most_frequent_tag
from hf_distill.evaluation.predictions import UNREAD, WORD_LABELS
from hf_distill.evaluation.predictor import predict_tags
from hf_distill.problems import IGNORE_INDEX
from hf_distill.tasks.base import Loaded
from hf_distill.tasks.labelling import Control, LabellingTask

MANY_SENTENCES = 10_000


class TokenClassification(LabellingTask):
    """A student that tags words."""

    soft_control = "crf_on_teacher_tags"

    def collator(self, tokenizer: Any, model: Any) -> Any:
        """Pads the tokens and their labels."""
        return DataCollatorForTokenClassification(tokenizer)

    def counted(self, predicted: np.ndarray, labels: np.ndarray, metric: str) -> tuple[Any, Any]:
        """The labelled positions; for entities the tags of each sentence by name."""
        if metric != "seqeval":
            return predicted[labels != IGNORE_INDEX], labels[labels != IGNORE_INDEX]
        counted = [(row, labels[number] != IGNORE_INDEX) for number, row in enumerate(predicted)]
        tags = [[self.classes[number] for number in row[keep]] for row, keep in counted]
        true = [[self.classes[number] for number in labels[row][keep]] for row, (_, keep) in enumerate(counted)]
        return tags, true

    @property
    def own_controls(self) -> Mapping[str, Control]:
        """The most frequent tag of each word, and a conditional random field."""
        return {"most_frequent_tag": _most_frequent_tag, "crf_tagger": _crf}

    def soft_control_predictions(self, rows: datasets.Dataset) -> Any:
        """A conditional random field on the teacher's tags of the sentences that it read whole."""
        tags = [np.argmax(row, axis=-1).tolist() for row in rows[LOGITS]]
        pairs = zip(self.all_texts["words"], tags, strict=True)
        words, found = [
            list(part) for part in zip(*(pair for pair in pairs if len(pair[0]) == len(pair[1])), strict=True)
        ]
        validation = self.splits.validation["words"], self.splits.validation["label"]
        return crf_tagger(words, found, *validation, self.splits.test["words"], algorithm="ap")

    def decisions(self, model: PreTrainedModel, rows: datasets.Dataset, tokenizer: Any) -> Any:
        """A model's class for each word."""
        return predict_tags(model, rows, tokenizer)

    def test_decisions(self, loaded: Loaded) -> Any:
        """A model's class for each word of the test sentences; words that it does not read are marked."""
        pairs = zip(super().test_decisions(loaded), self.splits.test["words"], strict=True)
        return [[*found, *[UNREAD] * (len(words) - len(found))] for found, words in pairs]

    def relabelled(self, row: dict[str, Any], answer: Any, keep_known: bool) -> Any:
        """The class numbers of a row's tokens, one at each word's first piece."""
        known = row["labels"]
        if keep_known and any(each != IGNORE_INDEX for each in known):
            return known
        tags = iter(answer)
        return [int(next(tags, IGNORE_INDEX)) if mark == 1 else IGNORE_INDEX for mark in row[WORD_STARTS]]

    @property
    def groups(self) -> dict[str, Sequence[Any]]:
        """The recipe's columns, and whether a word is among the labelled training sentences."""
        shown = {word for words in self.splits.train["words"] for word in words}
        made = dict(super().groups)
        made["word"] = [
            ["in the labelled sentences" if word in shown else "unseen" for word in words]
            for words in self.splits.test["words"]
        ]
        return made

    def for_comparison(self, rows: datasets.Dataset) -> datasets.Dataset:
        """Rows as `compare` reads them, with the labels of all words, those that a model cuts off among them."""
        return super().for_comparison(rows).add_column(WORD_LABELS, rows["label"])

    @property
    def raw_texts(self) -> list[Any]:
        """The words of each sentence."""
        return list(self.splits.test["words"])

    @property
    def example(self) -> list[str]:
        """The words of a sentence."""
        return self.splits.test[0]["words"] if self.settings.compare.quote else ["Some", "words", "."]

    def final_counts(self) -> dict[str, int]:
        """The rows by what became of them, and the words of the training sentences that were cut off."""
        counts = dict(super().final_counts())
        rows = self.distillation_rows()
        for name, column in (("student", WORD_STARTS), ("teacher", TEACHER_WORD_STARTS)):
            if column in rows.column_names:
                counts[f"training words cut off for the {name}"] = words_cut_off(self.all_texts, rows[column])
        return counts


def _most_frequent_tag(splits: Splits) -> Any:
    return most_frequent_tag(splits.train["words"], splits.train["label"], splits.test["words"])


def _crf(splits: Splits) -> Any:
    validation = splits.validation["words"], splits.validation["label"]
    # The averaged perceptron takes a thirtieth of the time.
    algorithm = "lbfgs" if len(splits.train) <= MANY_SENTENCES else "ap"
    return crf_tagger(splits.train["words"], splits.train["label"], *validation, splits.test["words"], algorithm)
