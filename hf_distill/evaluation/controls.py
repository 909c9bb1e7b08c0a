"""Controls without a neural network, which a student must beat to be worth its teacher."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from hf_distill.data.scripts import is_spaceless
from hf_distill.environment import optional
from hf_distill.metrics import IGNORE_INDEX

INVERSE_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
TAGGERS: dict[str, list[dict[str, float]]] = {
    "lbfgs": [{"c1": 0.0, "c2": penalty, "max_iterations": 60} for penalty in (0.03, 0.1, 0.3)],
    "ap": [{"max_iterations": 10}],
}


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

    Of texts in a script without spaces (Chinese, Japanese, Thai, ...) it reads one to three neighbouring characters.

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
    read: dict[str, Any] = {"ngram_range": (1, 2), "token_pattern": r"\w+|[^\w\s]+"}
    if is_spaceless(train_texts):
        read = {"ngram_range": (1, 3), "analyzer": "char"}
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=rare, **read)
    features = csr_matrix(vectorizer.fit_transform(train_texts))[rows]
    validation_features = csr_matrix(vectorizer.transform(validation_texts))[counted]

    if len(np.unique(targets)) == 1:
        return np.full(len(test_texts), targets[0])
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


def most_frequent_tag(
    train_words: Sequence[Sequence[str]], train_tags: Sequence[Sequence[int]], test_words: Sequence[Sequence[str]]
) -> list[list[int]]:
    """The tag that each word has most often in training, as it is spelled; of unseen words the commonest of all.

    Args:
        train_words: sentences.
        train_tags: a class number for each word; -100 is not counted. Of equally frequent tags the first seen wins.
        test_words: sentences.
    Returns:
        A class number for each word of `test_words`.
    Raises:
        ValueError: no tag, or tags that do not fit the words.

    >>> most_frequent_tag([["the", "run"], ["run", "run"]], [[0, 2], [1, 1]], [["the", "run", "slept"]])
    [[0, 1, 1]]
    """
    _check_tags(train_words, train_tags, "train")
    counts: dict[str, Counter[int]] = {}
    everywhere: Counter[int] = Counter()
    for words, tags in zip(train_words, train_tags, strict=True):
        for word, tag in zip(words, tags, strict=True):
            if tag != IGNORE_INDEX:
                counts.setdefault(word, Counter())[int(tag)] += 1
                everywhere[int(tag)] += 1
    if not everywhere:
        raise ValueError("most_frequent_tag needs at least one tag that is not -100, got none.")
    commonest = everywhere.most_common(1)[0][0]
    known = {word: tags.most_common(1)[0][0] for word, tags in counts.items()}
    return [[known.get(word, commonest) for word in words] for words in test_words]


def crf_tagger(
    train_words: Sequence[Sequence[str]],
    train_tags: Sequence[Sequence[int]],
    validation_words: Sequence[Sequence[str]],
    validation_tags: Sequence[Sequence[int]],
    test_words: Sequence[Sequence[str]],
    algorithm: str = "lbfgs",
) -> list[list[int]]:
    """CRFsuite's linear-chain tagger on the spelling of a word and of its neighbours.

    With a teacher's decisions as `train_tags` the same function is the control that learns from hard labels.

    Args:
        train_words: sentences.
        train_tags: a class number for each word; a sentence with a -100 is left out, for a chain needs all its tags.
        validation_words: sentences.
        validation_tags: likewise; a -100 is not counted.
        test_words: sentences.
        algorithm: "lbfgs" is a conditional random field, its penalty chosen by validation accuracy; "ap" an averaged
            perceptron, ten passes, in a fraction of the time.
    Returns:
        A class number for each word of `test_words`.
    Raises:
        ValueError: another algorithm, no sentence with tags, no validation tag, or tags that do not fit the words.
        ImportError: python-crfsuite is not installed.
    """
    if algorithm not in TAGGERS:
        raise ValueError(f"crf_tagger has the algorithms {', '.join(TAGGERS)}; got {algorithm!r}.")
    crfsuite = optional("pycrfsuite", "tagging")
    _check_tags(train_words, train_tags, "train")
    _check_tags(validation_words, validation_tags, "validation")
    whole = [
        (words, tags)
        for words, tags in zip(train_words, train_tags, strict=True)
        if len(words) and IGNORE_INDEX not in tags
    ]
    if not whole:
        raise ValueError("crf_tagger needs a sentence in which every word has a tag that is not -100, got none.")
    sequences = [(crfsuite.ItemSequence(_spellings(words)), [str(int(tag)) for tag in tags]) for words, tags in whole]
    validation, test = (
        [crfsuite.ItemSequence(_spellings(words)) for words in sentences]
        for sentences in (validation_words, test_words)
    )
    true = np.array([tag for tags in validation_tags for tag in tags], dtype=np.int64)
    counted = true != IGNORE_INDEX
    if not counted.any():
        raise ValueError("crf_tagger chooses its penalty on validation tags, and all of them are -100.")

    best: list[list[int]] = []
    best_accuracy = -1.0
    for settings in TAGGERS[algorithm]:
        tagger = _trained(crfsuite, algorithm, settings, sequences)
        predicted = np.array([int(tag) for items in validation for tag in tagger.tag(items)], dtype=np.int64)
        accuracy = float((predicted == true)[counted].mean())
        if accuracy > best_accuracy:
            best_accuracy = accuracy
            best = [[int(tag) for tag in tagger.tag(items)] for items in test]
    return best


def _trained(crfsuite: Any, algorithm: str, settings: dict[str, float], sequences: Sequence[Any]) -> Any:
    trainer = crfsuite.Trainer(algorithm=algorithm, params=settings, verbose=False)
    for items, tags in sequences:
        trainer.append(items, tags)
    tagger = crfsuite.Tagger()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tagger"
        trainer.train(str(file))
        # Not `open_inmemory`: as of python-crfsuite 0.9.12 it keeps no reference to the bytes that it goes on reading.
        tagger.open(str(file))
    return tagger


def _spellings(words: Sequence[str]) -> list[list[str]]:
    """What a tagger looks at: the usual features of Ratnaparkhi's tagger (1996, ACL W96-0213) and their kin."""
    lower = [word.lower() for word in words]
    around = ["<s>", "<s>", *lower, "</s>", "</s>"]
    features = []
    for i, word in enumerate(words):
        small = lower[i]
        items = ["bias", f"word={word}", f"lower={small}", f"shape={_shape(word)}"]
        items += [f"prefix{length}={small[:length]}" for length in (1, 2, 3)]
        items += [f"suffix{length}={small[-length:]}" for length in (1, 2, 3)]
        items += [f"{place - 2:+d}={around[i + place]}" for place in (0, 1, 3, 4)]
        items += [f"{place - 2:+d}suffix={around[i + place][-3:]}" for place in (1, 3)]
        items += [
            name
            for name, present in (
                ("digit", any(character.isdigit() for character in word)),
                ("hyphen", "-" in word),
                ("capital", word[:1].isupper()),
            )
            if present
        ]
        features.append(items)
    return features


def _shape(word: str) -> str:
    return "".join(
        "X" if character.isupper() else "x" if character.islower() else "9" if character.isdigit() else character
        for character in word
    )


def _check_tags(words: Sequence[Sequence[str]], tags: Sequence[Sequence[int]], name: str) -> None:
    counts = [[len(row) for row in rows] for rows in (words, tags)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"Expected a tag for each word: {name}_words are {len(words)} sentences of {sum(counts[0])} words, "
            f"{name}_tags {len(tags)} of {sum(counts[1])}."
        )
