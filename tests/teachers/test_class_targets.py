"""Targets from answers: conditional on naming a class, and what is known of each."""

import numpy as np
import pytest

from hf_distill.teachers.class_targets import counts_answer, read_answers, scores_answer, tokens_of

CLASSES = ["a", "b", "c"]
LOG = np.log


def read(*answers, method="letters"):
    return read_answers(answers, CLASSES, method)


def test_log_probabilities_are_conditional_and_the_rest_is_kept():
    targets = read(scores_answer([LOG(0.4), LOG(0.2), LOG(0.2)], LOG(0.01), (5, 1)))
    assert np.exp(targets.log_probabilities) == pytest.approx(np.array([[0.5, 0.25, 0.25]]))
    assert targets.outside == pytest.approx([0.2]) and not targets.unreturned.any()
    assert targets.labels.tolist() == [0] and targets.counts["without_target"] == 0


def test_a_class_that_was_not_returned_gets_the_smallest_that_was():
    targets = read(scores_answer([LOG(0.6), None, LOG(0.2)], LOG(0.1), (5, 1)))
    assert np.exp(targets.log_probabilities) == pytest.approx(np.array([[0.6, 0.1, 0.2]]) / 0.9)
    assert targets.unreturned.tolist() == [[False, True, False]] and targets.counts["unreturned"] == 1
    assert targets.outside == pytest.approx([0.2])  # at most


def test_samples_are_shares_and_a_class_without_one_counts_half():
    targets = read(counts_answer([3, 5, 0], 10, (5, 9)), method="structured")
    assert np.exp(targets.log_probabilities) == pytest.approx(np.array([[3, 5, 0.5]]) / 8.5)
    assert targets.unreturned.tolist() == [[False, False, True]]
    assert targets.outside == pytest.approx([0.2])
    all_drawn = read(counts_answer([3, 5, 2], 10, (5, 9)), method="structured")
    assert np.exp(all_drawn.log_probabilities) == pytest.approx(np.array([[0.3, 0.5, 0.2]]))


def test_one_answer_is_a_hard_label():
    targets = read(counts_answer([0, 1, 0], 1, (5, 9)), method="hard")
    assert np.exp(targets.log_probabilities) == pytest.approx(np.array([[0, 1, 0]]), abs=1e-5)
    assert np.isfinite(targets.log_probabilities).all() and targets.labels.tolist() == [1]


def test_answers_that_name_no_class_have_no_target(caplog):
    none = counts_answer([0, 0, 0], 1, (5, 9), "I cannot say")
    targets = read(none, counts_answer([1, 0, 0], 1, (5, 9)), scores_answer([None] * 3, -3.0, (5, 1), "Well"))
    assert targets.has_target.tolist() == [False, True, False]
    assert targets.labels.tolist() == [-100, 0, -100] and targets.counts["without_target"] == 2
    assert targets.outside.tolist() == [1.0, 0.0, 1.0]
    assert "2 of 3 answers name none of the classes" in caplog.text and "I cannot say" in caplog.text
    with pytest.raises(ValueError, match=r"2 of 2 answers name none .*'I cannot say'.* leaves no target"):
        read(none, none)


def test_the_prior_of_content_free_texts_is_taken_out():
    def scores(*shares):
        return scores_answer([float(LOG(share)) for share in shares], -9.0, (1, 1))

    prior = read(scores(0.6, 0.3, 0.1), scores(0.4, 0.3, 0.3))
    targets = read(scores(0.5, 0.3, 0.2)).corrected(prior)
    expected = np.array([0.5 / 0.5, 0.3 / 0.3, 0.2 / 0.2])
    assert np.exp(targets.log_probabilities[0]) == pytest.approx(expected / expected.sum())
    assert "prior that 2 content-free texts show: a 0.500, b 0.300, c 0.200" in targets.notes[-1]


def test_tokens_are_summed():
    assert tokens_of([counts_answer([1, 0, 0], 1, (5, 9)), scores_answer([-1.0] * 3, -9.0, (2, 1))]) == (7, 10)
