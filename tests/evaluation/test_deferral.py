"""Thresholds of a cascade: the promise holds as often as stated, and everything is counted."""

import numpy as np
import pytest
import scipy.stats

from hf_distill.evaluation.cascade import temperature_of
from hf_distill.evaluation.deferral import (
    Target,
    calibrating,
    confidences,
    curve_of,
    fitted,
    most_disagreements,
    threshold_of,
)


def population(generator, texts: int, hardness: float):
    """Confidences, and whether student and teacher agree: rarely where the confidence is low; no probability is 0."""
    confidence = generator.beta(4, 1, texts) / 2 + 0.5
    return confidence, generator.random(texts) > hardness * (1 - confidence)


class Truth:
    """P(the student answers and differs) at a threshold, from a very large sample."""

    def __init__(self, generator, hardness: float):
        confidence, same = population(generator, 2_000_000, hardness)
        order = np.argsort(confidence)
        self.confidence, self.above = confidence[order], np.r_[np.cumsum(~same[order][::-1])[::-1], 0] / len(order)

    def differing(self, threshold: float) -> float:
        return float(self.above[np.searchsorted(self.confidence, threshold)])

    def answered(self, threshold: float) -> float:
        return 1 - np.searchsorted(self.confidence, threshold) / len(self.confidence)


@pytest.mark.parametrize(
    ("agreement", "confidence", "hardness"), [(0.95, 0.9, 1.0), (0.99, 0.95, 0.3), (0.9, 0.8, 1.9)]
)
def test_the_promise_is_kept_at_least_as_often_as_stated(agreement, confidence, hardness):
    generator = np.random.default_rng(7)
    target, truth = Target(agreement=agreement, confidence=confidence), Truth(generator, hardness)
    found = [threshold_of(*population(generator, 600, hardness), target) for _ in range(1000)]
    thresholds = [2.0 if threshold is None else threshold for threshold in found]
    kept = sum(truth.differing(threshold) <= 1 - agreement for threshold in thresholds)
    # The true share is at least the confidence; a count that far below it would be a chance of one in a million.
    assert kept >= scipy.stats.binom.ppf(1e-6, len(found), confidence)
    # Handing everything over would keep any promise.
    assert np.mean([truth.answered(threshold) for threshold in thresholds]) > 0.3
    assert truth.differing(0) > 1 - agreement, "nothing needs to be handed over here"


def test_without_the_bound_the_promise_would_be_broken():
    """The simulation can fail: a threshold at which the sample just agrees enough breaks the promise half the time."""
    generator = np.random.default_rng(7)
    truth, kept = Truth(generator, 1.0), 0
    for _ in range(300):
        confidence, same = population(generator, 600, 1.0)
        threshold = np.sort(confidence[~same])[::-1][29]  # 30 of 600 are 5 %
        kept += truth.differing(threshold) <= 0.05
    assert kept < 0.75 * 300


def test_the_bound_is_that_of_clopper_and_pearson():
    for texts, agreement, confidence in ((299, 0.99, 0.95), (1000, 0.98, 0.9), (73, 0.9, 0.99)):
        target = Target(agreement=agreement, confidence=confidence)
        allowed = most_disagreements(texts, target)
        one_sided = 2 * confidence - 1
        bounds = [
            scipy.stats.binomtest(count, texts).proportion_ci(one_sided, method="exact").high
            for count in (allowed, allowed + 1)
        ]
        assert bounds[0] <= 1 - agreement < bounds[1]


@pytest.mark.parametrize("agreement", [0.9, 0.95, 0.99, 0.995])
def test_the_number_of_texts_needed_is_exact(agreement):
    target = Target(agreement=agreement)
    assert most_disagreements(target.tested_texts, target) == 0
    assert most_disagreements(target.tested_texts - 1, target) == -1
    assert target.texts - calibrating(target.texts) >= target.tested_texts
    assert target.texts - 1 - calibrating(target.texts - 1) < target.tested_texts


def test_the_threshold_is_the_lowest_that_passes():
    confidence = np.linspace(0.5, 1, 500)
    target = Target(agreement=0.99)
    allowed = most_disagreements(500, target)
    assert allowed == 1
    same = np.ones(500, dtype=bool)
    assert threshold_of(confidence, same, target) == 0  # no text needs to be handed over
    same[[100, 250, 300]] = False
    assert threshold_of(confidence, same, target) == confidence[251]  # one above it may differ
    tied = np.round(confidence, 1)
    assert threshold_of(tied, same, target) == pytest.approx(0.9)  # the two at 0.8 are tested together
    assert threshold_of(np.ones(500), same, target) is None


def test_a_share_is_handed_over():
    generator = np.random.default_rng(0)
    confidence = generator.random(1000)
    threshold = threshold_of(confidence, np.ones(1000, dtype=bool), Target(defer=0.1))
    assert (confidence < threshold).sum() == 100
    assert Target(defer=0.1).tested_texts == Target(defer=0.9).tested_texts == 100


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Expected agreement .0.99, for instance. or defer .0.1., got agreement=None and defer=None"),
        ({"agreement": 0.9, "defer": 0.1}, "Set one of them"),
        ({"agreement": 1.0}, "agreement: expected a number between 0 and 1, both excluded; got 1.0"),
        ({"agreement": "0.9"}, "got '0.9'"),
        ({"agreement": float("nan")}, "got nan"),
        ({"defer": 0}, "defer: expected a number"),
        ({"defer": True}, "got True"),
        ({"agreement": 0.9, "confidence": 1}, "confidence: expected"),
    ],
)
def test_targets_out_of_range(given, message):
    with pytest.raises(ValueError, match=message):
        Target(**given)


def test_too_few_texts_tell_how_many_are_needed():
    probabilities = np.full((373, 2), 0.5)
    answers = np.zeros(373, dtype=int)
    with pytest.raises(
        ValueError, match=r"at least 374 held-out texts for agreement=0.99 with confidence 0.95, got 373"
    ):
        fitted(probabilities, answers, answers, Target(agreement=0.99), lambda *_: 1.0)
    with pytest.raises(
        ValueError, match=r"at least 125 held-out texts for defer=0.1 .*got 120.* 5 more have no answer"
    ):
        fitted(
            np.full((125, 2), 0.5), np.zeros(125), np.r_[np.zeros(120), [-100] * 5], Target(defer=0.1), lambda *_: 1.0
        )


def test_confidence_is_that_of_divided_logits():
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(50, 4)) * 3
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    cooler = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(confidences(softmax, 2.5), cooler.max(axis=1))
    sigmoid, cooled = 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-logits / 2.5))
    np.testing.assert_allclose(confidences(sigmoid, 2.5, several=True), np.maximum(cooled, 1 - cooled).min(axis=1))
    assert (confidences(sigmoid, several=True) == np.maximum(sigmoid, 1 - sigmoid).min(axis=1)).all()


def test_a_fit_uses_other_texts_for_the_temperature_and_counts():
    generator = np.random.default_rng(2)
    probabilities = generator.dirichlet([1, 1, 1], size=1000)
    decisions = probabilities.argmax(axis=1)
    answers = np.where(generator.random(1000) < 0.05, (decisions + 1) % 3, decisions)
    answers[:40] = -100
    seen = []

    def temperature_of(some, theirs):
        seen.append(len(some))
        assert len(theirs) == len(some) and (theirs >= 0).all()
        return 2.0

    found = fitted(probabilities, decisions, answers, Target(agreement=0.9), temperature_of, seed=3)
    assert seen == [192] and found.calibration_texts == 192 and found.tested_texts == 768
    assert found.unanswered == 40 and found.temperature == 2.0
    assert found.disagreements <= most_disagreements(768, found.target)
    described = found.as_dict()
    assert described["agreement"] == 0.9 and "defer" not in described and "curve" not in described
    assert found.threshold == fitted(probabilities, decisions, answers, found.target, lambda *_: 2.0, seed=3).threshold


def test_the_curve_goes_from_the_student_to_the_teacher():
    generator = np.random.default_rng(3)
    confidence, same = population(generator, 500, 1.0)
    right = generator.random(500) < 0.9

    def quality(handed_over):
        return {"value": float((right | handed_over).mean()), "low": 0.0, "high": 1.0}

    rows = curve_of(confidence, same, quality, (1.0, 20.0))
    assert rows[0]["handed_over"]["value"] == 0 and rows[0]["agreement"]["value"] == same.mean()
    assert rows[0]["cost"] == pytest.approx(0.05) and rows[0]["quality"]["value"] == right.mean()
    assert rows[-1]["handed_over"]["value"] == 1 == rows[-1]["agreement"]["value"] == rows[-1]["quality"]["value"]
    assert rows[-1]["cost"] == pytest.approx(1.05)
    for name in ("agreement", "handed_over", "quality"):
        values = [row[name]["value"] for row in rows]
        assert values == sorted(values)
        assert all(row[name]["low"] <= row[name]["value"] <= row[name]["high"] for row in rows)
    for row in rows[1:-1]:
        assert (confidence < row["threshold"]).mean() == row["handed_over"]["value"]


@pytest.mark.parametrize("several", [False, True])
def test_a_student_that_always_agrees_has_confidences_that_differ(several):
    """Its best temperature is near 0, where all probabilities would be rounded to 1 and no share could be chosen."""
    logits = np.random.default_rng(0).normal(0.0, 3.0, (400, 2))
    if several:
        probabilities = 1 / (1 + np.exp(-logits))
        decisions = (probabilities >= 0.5).astype(int)
    else:
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        decisions = probabilities.argmax(axis=1)
    found = fitted(
        probabilities, decisions, decisions, Target(defer=0.2), temperature_of(several), several=several, seed=1
    )
    confidence = confidences(probabilities, found.temperature, several)
    assert len(np.unique(confidence)) == 400
    assert abs(found.handed_over / found.tested_texts - 0.2) < 0.01
