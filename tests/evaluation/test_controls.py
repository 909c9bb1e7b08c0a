"""Controls on texts whose classes can be read off their words."""

import numpy as np
import pytest

from hf_distill.evaluation import controls
from hf_distill.evaluation.controls import crf_tagger, majority_class, most_frequent_tag, tfidf_logistic_regression

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


VERBS, NOUNS = ["see", "find", "take", "hold"], ["dog", "cat", "bird", "tree", "house", "stone"]


def sentences(count, seed, plural=True):
    """Determiner, noun in -s, verb, noun: 0 1 2 1. `run` is a noun after a determiner and a verb elsewhere."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        noun = generator.choice([*NOUNS, "run"])
        verb = generator.choice([*VERBS, "run"])
        made.append(["the", str(noun), str(verb), f"{generator.choice(NOUNS)}s" if plural else "dogs"])
    return made, [[0, 1, 2, 1]] * count


def test_the_most_frequent_tag_is_that_of_the_word_or_of_all():
    train = [["the", "run"], ["run", "run"], ["dog", "cat", "odd"]]
    tags = [[0, 2], [1, 1], [2, 2, -100]]
    assert most_frequent_tag(train, tags, [["run", "the"], [], ["odd", "The"]]) == [[1, 0], [], [2, 2]]
    with pytest.raises(ValueError, match="at least one tag"):
        most_frequent_tag([["a"]], [[-100]], [["a"]])
    with pytest.raises(ValueError, match="train_words are 1 sentences of 2 words, train_tags 1 of 1"):
        most_frequent_tag([["a", "b"]], [[0]], [["a"]])


@pytest.mark.parametrize("algorithm", ["lbfgs", "ap"])
def test_the_tagger_reads_neighbours_and_endings(algorithm):
    pytest.importorskip("pycrfsuite")
    (train, tags), (validation, checked) = sentences(80, 0), sentences(20, 1)
    test = [["the", "run", "run", "zebras"], [], ["the", "dog", "see", "gnus"]]
    assert crf_tagger(train, tags, validation, checked, test, algorithm) == [[0, 1, 2, 1], [], [0, 1, 2, 1]]
    # A word's own commonest tag cannot tell the two runs apart.
    assert most_frequent_tag(train, tags, test[:1])[0][1:3] in ([1, 1], [2, 2])


def test_the_penalty_is_chosen_on_validation(monkeypatch):
    pytest.importorskip("pycrfsuite")
    # One is left with no features at all, the other learns.
    settings = [{"max_iterations": 30, "feature.minfreq": minimum} for minimum in (1000.0, 0.0)]
    (train, tags), (validation, checked) = sentences(40, 0), sentences(10, 1)
    for order in (settings, settings[::-1]):
        monkeypatch.setitem(controls.TAGGERS, "lbfgs", order)
        assert crf_tagger(train, tags, validation, checked, validation) == checked
    monkeypatch.setitem(controls.TAGGERS, "lbfgs", settings[:1])
    assert crf_tagger(train, tags, validation, checked, validation) != checked
    with pytest.raises(ValueError, match="all of them are -100"):
        crf_tagger(train, tags, validation, [[-100] * 4] * 10, validation)


def test_sentences_without_all_tags_are_left_out():
    pytest.importorskip("pycrfsuite")
    (train, tags), (validation, checked) = sentences(40, 0), sentences(10, 1)
    wrong = [[2, 2, -100, 0]] * 200
    said = crf_tagger(train + [train[0]] * 200, tags + wrong, validation, checked, validation, "ap")
    assert said == checked
    with pytest.raises(ValueError, match="every word has a tag"):
        crf_tagger(train[:1], [[0, -100, 2, 1]], validation, checked, validation)
    with pytest.raises(ValueError, match="lbfgs, ap; got 'arow'"):
        crf_tagger(train, tags, validation, checked, validation, "arow")
    with pytest.raises(ValueError, match="validation_words are 10 sentences"):
        crf_tagger(train, tags, validation, checked[:9], validation)


def test_scripts_without_spaces_are_read_by_their_characters():
    """Each text is one run of characters, and no two are alike: read as words, none of them is known."""
    generator = np.random.default_rng(0)
    words = {0: ["太烂了", "很差"], 1: ["太好了", "喜欢"]}
    filler = "的一是不在人有我他这中大来上个国到说们为子和你地出道也时年得就那要下"

    def made(count):
        labels = generator.integers(2, size=count)
        around = ["".join(generator.choice(list(filler), 6)) for _ in range(2 * count)]
        return [
            f"{around[i]}{generator.choice(words[label])}{around[-i - 1]}" for i, label in enumerate(labels)
        ], labels

    (train, labels), (validation, checked), (test, true) = made(120), made(40), made(40)
    assert (tfidf_logistic_regression(train, labels, validation, checked, test) == true).mean() > 0.95
