"""Controls: what can be had without a neural student, which a student must beat to be worth its teacher."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from hf_distill.metrics import IGNORE_INDEX

INVERSE_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)


def majority_class(train_labels: Sequence[int], examples: int) -> np.ndarray:
    """The class that is most frequent in training, for every example.

    Args:
        train_labels: class numbers; -100 is not counted. Of equally frequent classes the smallest number wins.
        examples: how many predictions to make.
    Returns:
        (examples,) class numbers
    Raises:
        ValueError: no label.

    >>> majority_class([1, 0, 1, -100, -100, -100], 2)
    array([1, 1])
    """
    labels = np.asarray(train_labels)
    labels = labels[labels != IGNORE_INDEX]
    if not len(labels):
        raise ValueError("majority_class needs at least one label that is not -100, got none.")
    return np.full(examples, np.bincount(labels).argmax())


def tfidf_logistic_regression(
    train_texts: Sequence[str],
    train_labels: Sequence[int] | None,
    validation_texts: Sequence[str],
    validation_labels: Sequence[int],
    test_texts: Sequence[str],
    soft_labels: np.ndarray | None = None,
) -> np.ndarray:
    """Logistic regression on the words and word pairs of a text, its penalty chosen by validation accuracy.

    With soft labels, a text counts once for each class, weighted by the class's probability: that is cross-entropy with
    the teacher's distribution.

    Args:
        train_texts: texts.
        train_labels: class numbers; texts labelled -100 are left out. Not read where soft labels are given.
        validation_texts: texts.
        validation_labels: class numbers; -100 is not counted.
        test_texts: texts.
        soft_labels: (train texts, classes) probabilities of a teacher.
    Returns:
        (test texts,) class numbers
    Raises:
        ValueError: lengths differ, neither kind of labels, or soft labels that are not probabilities.
    """
    if soft_labels is not None:
        rows, targets, weights = _one_row_a_class(np.asarray(soft_labels, dtype=np.float64), len(train_texts))
    elif train_labels is not None:
        labels = np.asarray(train_labels)
        if len(labels) != len(train_texts):
            raise ValueError(f"Expected a label for each of {len(train_texts)} train_texts, got {len(labels)}.")
        rows = np.flatnonzero(labels != IGNORE_INDEX)
        targets, weights = labels[rows], np.ones(len(rows))
    else:
        raise ValueError("tfidf_logistic_regression needs train_labels or soft_labels, got neither.")

    validation = np.asarray(validation_labels)
    counted = np.flatnonzero(validation != IGNORE_INDEX)
    if not len(counted):
        raise ValueError(
            "tfidf_logistic_regression chooses its penalty on validation labels, and all of them are -100."
        )

    # Single letters and emoticons carry sentiment too, hence the token pattern: words, or runs of punctuation.
    # Words seen once are half of a large collection and say nothing there; in a small one they may be all there is.
    rare = 2 if len(train_texts) >= 1000 else 1
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=rare, token_pattern=r"\w+|[^\w\s]+")
    features = csr_matrix(vectorizer.fit_transform(train_texts))[rows]
    validation_features = csr_matrix(vectorizer.transform(validation_texts))[counted]

    best, best_accuracy = LogisticRegression(), -1.0
    for inverse_penalty in INVERSE_PENALTIES:
        model = LogisticRegression(C=inverse_penalty, max_iter=1000)
        model.fit(features, targets, sample_weight=weights)
        accuracy = float((model.predict(validation_features) == validation[counted]).mean())
        if accuracy > best_accuracy:
            best, best_accuracy = model, accuracy
    return best.predict(vectorizer.transform(test_texts))


def _one_row_a_class(probabilities: np.ndarray, texts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if probabilities.ndim != 2 or len(probabilities) != texts:
        raise ValueError(f"Expected soft_labels of shape ({texts}, classes), got {probabilities.shape}.")
    if probabilities.min() < 0 or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise ValueError(
            "Expected soft_labels to be probabilities that sum to 1 in each row; apply a softmax to logits."
        )
    # Rows of negligible weight would only cost time.
    rows, targets = np.nonzero(probabilities > 1e-3)
    return rows, targets, probabilities[rows, targets]
