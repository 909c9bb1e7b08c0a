"""Metrics computed from counts that are added over the examples: hits, predictions and labels of each class.

Such a metric is resampled by weighting the examples' counts, which is one matrix product; calling the metric on every
resample would take minutes. A metric is added by a function of its counts and a function of their total.
scikit-learn and seqeval define the values: the tests compare with them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from hf_distill.environment import optional
from hf_distill.tag_schemes import spans_of


@dataclass(frozen=True)
class Items:
    """What a metric counts, and which example each belongs to: the example itself or, in tagging, its words.

    Attributes:
        owners: (items,) number of the example that an item belongs to, ascending.
        examples: how many examples there are, those without an item included.
        names: of the classes.
    """

    owners: np.ndarray
    examples: int
    names: Sequence[str] = ()

    @classmethod
    def one_an_example(cls, examples: int, names: Sequence[str] = ()) -> "Items":
        """Every example is an item."""
        return cls(np.arange(examples), examples, names)

    @property
    def counts(self) -> np.ndarray:
        """(examples,) items of each."""
        return np.bincount(self.owners, minlength=self.examples)

    def where(self, chosen: np.ndarray) -> "Items":
        """Some of the items; the examples stay the same.

        Args:
            chosen: (items,) bool.
        """
        return Items(self.owners[chosen], self.examples, self.names)


@dataclass(frozen=True)
class Counted:
    """A metric by its counts.

    Attributes:
        counts: takes predictions (items,), references (items,) and the items; returns (examples, width), which add up.
        value: takes (totals, width); returns (totals,). A quotient 0/0 is 0, as in scikit-learn.
    """

    counts: Callable[[np.ndarray, np.ndarray, Items], csr_matrix]
    value: Callable[[np.ndarray], np.ndarray]


def class_counts(predictions: np.ndarray, references: np.ndarray, items: Items) -> csr_matrix:
    """For each example and class: how many of its items are right, predicted to be of the class, and of the class.

    Args:
        predictions: (items,) class numbers, -1 for none.
        references: likewise.
        items: the examples they belong to.
    Returns:
        (examples, 3 x classes): hits, predicted, true.
    """
    predictions, references = predictions.astype(np.int64), references.astype(np.int64)
    named = predictions >= 0  # a word that was not read is predicted to be of no class
    classes = int(max(predictions.max(initial=0), references.max(initial=0))) + 1
    hits = predictions == references
    rows = np.concatenate([items.owners[hits], items.owners[named], items.owners])
    cells = np.concatenate([references[hits], classes + predictions[named], 2 * classes + references])
    # A cell that is named several times holds the sum.
    return csr_matrix((np.ones(len(rows)), (rows, cells)), shape=(items.examples, 3 * classes))


def row_counts(predictions: np.ndarray, references: np.ndarray, items: Items) -> csr_matrix:
    """The same for multi-label rows, and whether all classes of the row are right.

    Args:
        predictions: (items, classes) of 0/1.
        references: likewise.
        items: each one an example.
    Returns:
        (examples, 3 x classes + 2): hits, predicted, true; faultless, all.
    """
    predicted, true = predictions > 0, references > 0
    faultless = (predicted == true).all(axis=1, keepdims=True)
    return csr_matrix(
        np.concatenate([predicted & true, predicted, true, faultless, faultless | True], axis=1).astype(np.float64)
    )


def span_counts(predictions: np.ndarray, references: np.ndarray, items: Items) -> csr_matrix:
    """How many entities each sentence gets right, is said to have and has.

    Args:
        predictions: (words,) class numbers, -1 for none.
        references: likewise.
        items: the words; their `names` are tags of entities, see `spans_of`.
    Returns:
        (sentences, 3): hits, predicted, true.
    Raises:
        ImportError: seqeval is not installed.
    """
    spans = spans_of(items.names)
    names = np.asarray(items.names, dtype=object)
    names, ends = np.append(names, "O"), np.cumsum(items.counts)[:-1]  # -1, a word that was not read: no entity
    rows = []
    for said, true in zip(np.split(names[predictions], ends), np.split(names[references], ends), strict=True):
        found, wanted = spans(said.tolist()), spans(true.tolist())
        rows.append((len(found & wanted), len(found), len(wanted)))
    return csr_matrix(np.array(rows, dtype=np.float64).reshape(-1, 3))


def of_texts(kind: str) -> "Counted":
    """A corpus metric of sacrebleu by the statistics of each text, as its own significance tests resample them.

    Args:
        kind: `BLEU` or `CHRF`.
    """

    def metric() -> Any:
        return getattr(optional("sacrebleu.metrics", "generation"), kind)()

    def counts(predictions: np.ndarray, references: np.ndarray, items: Items) -> csr_matrix:
        found = metric()._extract_corpus_statistics(predictions.tolist(), [references.tolist()])
        return csr_matrix(np.array(found, dtype=np.float64))

    def value(totals: np.ndarray) -> np.ndarray:
        score = metric()._compute_score_from_stats
        return np.array([score(total).score for total in totals.round().astype(np.int64).tolist()])

    return Counted(counts, value)


def bit_counts(predictions: np.ndarray, references: np.ndarray, items: Items) -> csr_matrix:
    """The bits and the UTF-8 bytes of each text.

    Args:
        predictions: (texts,) nats.
        references: (texts,) of str, or their numbers of bytes.
        items: each one an example.
    """
    sizes = [len(text.encode()) if isinstance(text, str) else text for text in references.tolist()]
    return csr_matrix(np.stack([predictions / np.log(2), np.array(sizes, dtype=np.float64)], axis=1))


def by_class(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, predicted and true counts apart.

    Args:
        totals: (..., 3 x classes) of `class_counts`.
    Returns:
        three of (..., classes)
    """
    hits, predicted, true = np.split(totals, 3, axis=-1)
    return hits, predicted, true


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, 0 where there is nothing to divide by."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator, dtype=float), where=denominator > 0)


def _accuracy(totals: np.ndarray) -> np.ndarray:
    hits, _, true = by_class(totals)
    return divide(hits.sum(axis=-1), true.sum(axis=-1))


def _f1(totals: np.ndarray) -> np.ndarray:
    hits, predicted, true = (counts[:, 1] if counts.shape[1] > 1 else 0 * counts[:, 0] for counts in by_class(totals))
    return divide(2 * hits, predicted + true)


def _macro_f1(totals: np.ndarray) -> np.ndarray:
    hits, predicted, true = by_class(totals)
    present = predicted + true > 0
    return divide(divide(2 * hits, predicted + true).sum(axis=-1), present.sum(axis=-1))


def _matthews_correlation(totals: np.ndarray) -> np.ndarray:
    hits, predicted, true = by_class(totals)
    right, total = hits.sum(axis=-1), true.sum(axis=-1)
    covariance = right * total - (true * predicted).sum(axis=-1)
    none = total - predicted.sum(axis=-1)  # predicted to be of no class, which is as a class of its own
    spread = np.sqrt((total**2 - (predicted**2).sum(axis=-1) - none**2) * (total**2 - (true**2).sum(axis=-1)))
    return divide(covariance, spread)


def _span_f1(totals: np.ndarray) -> np.ndarray:
    hits, predicted, true = by_class(totals)
    return divide(2 * hits, predicted + true)[:, 0]


def _bits_per_byte(totals: np.ndarray) -> np.ndarray:
    return divide(totals[:, 0], totals[:, 1])


def _faultless(totals: np.ndarray) -> np.ndarray:
    return divide(totals[:, -2], totals[:, -1])


def _macro_f1_of_rows(totals: np.ndarray) -> np.ndarray:
    hits, predicted, true = by_class(totals[:, :-2])
    return divide(2 * hits, predicted + true).mean(axis=-1)  # of all classes: rows name each of them


FROM_COUNTS: dict[str, Counted] = {
    "accuracy": Counted(class_counts, _accuracy),
    "agreement_with_teacher": Counted(class_counts, _accuracy),
    "f1": Counted(class_counts, _f1),
    "macro_f1": Counted(class_counts, _macro_f1),
    "matthews_correlation": Counted(class_counts, _matthews_correlation),
    "seqeval": Counted(span_counts, _span_f1),
    "sacrebleu": of_texts("BLEU"),
    "chrf": of_texts("CHRF"),
    "bits_per_byte": Counted(bit_counts, _bits_per_byte),
}
FROM_ROWS: dict[str, Counted] = {
    "accuracy": Counted(row_counts, _faultless),
    "macro_f1": Counted(row_counts, _macro_f1_of_rows),
}
