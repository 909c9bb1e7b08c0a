"""Controls on texts whose classes can be read off their words."""

import numpy as np
import pytest

from hf_distill.controls import majority_class, tfidf_logistic_regression

WORDS = {0: ["bad", "awful", "poor"], 1: ["good", "great", "fine"]}


def texts(count, seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=count)
    return [f"{generator.choice(WORDS[label])} thing number {generator.integers(5)}" for label in labels], labels


def test_the_majority_is_that_of_the_labels():
    assert majority_class([2, 2, 1, -100, -100, -100], 3).tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match="at least one label"):
        majority_class([-100], 3)


def test_bag_of_words_learns_from_labels():
    (train, labels), (validation, checked), (test, true) = texts(80, 0), texts(30, 1), texts(30, 2)
    assert (tfidf_logistic_regression(train, labels, validation, checked, test) == true).all()


def test_unlabelled_texts_are_left_out_and_soft_labels_use_them():
    (train, labels), (validation, checked), (test, true) = texts(80, 0), texts(30, 1), texts(30, 2)
    hidden = np.where(np.arange(80) < 60, -100, labels)
    wrong = tfidf_logistic_regression(train, np.where(hidden == -100, 0, hidden), validation, checked, test)
    right = tfidf_logistic_regression(train, hidden, validation, checked, test)
    assert (right == true).mean() > (wrong == true).mean()
    soft = np.eye(2)[labels] * 0.8 + 0.1
    assert (tfidf_logistic_regression(train, None, validation, checked, test, soft_labels=soft) == true).all()


def test_soft_labels_weigh_as_probabilities():
    # Each word is seen with both classes: only the weights tell them apart.
    train, soft = ["good", "bad"] * 10, np.array([[0.3, 0.7], [0.7, 0.3]] * 10)
    assert tfidf_logistic_regression(train, None, ["good"], [1], ["bad", "good"], soft_labels=soft).tolist() == [0, 1]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="train_labels or soft_labels"):
        tfidf_logistic_regression(["a"], None, ["a"], [0], ["a"])
    with pytest.raises(ValueError, match="a label for each of 2"):
        tfidf_logistic_regression(["a", "b"], [0], ["a"], [0], ["a"])
    with pytest.raises(ValueError, match="apply a softmax"):
        tfidf_logistic_regression(["a", "b"], None, ["a"], [0], ["a"], soft_labels=np.array([[2.0, -1.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"shape \(2, classes\)"):
        tfidf_logistic_regression(["a", "b"], None, ["a"], [0], ["a"], soft_labels=np.array([[0.5, 0.5]]))
    with pytest.raises(ValueError, match="all of them are -100"):
        tfidf_logistic_regression(["a", "b"], [0, 1], ["a"], [-100], ["a"])
