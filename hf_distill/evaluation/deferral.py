"""Which texts a student hands to its teacher: a threshold on its confidence, fitted without labels.

The promise is about new texts of the same kind. Let *differ* be the event that the student answers a text itself and
its answer is not the teacher's. With agreement 0.99 and confidence 0.95, at least 95 of 100 fits give a threshold at
which P(differ) is at most 0.01. Lowering a threshold can only add texts that the student answers, so P(differ) grows as
thresholds fall. Thresholds are tested from the strictest on, each by the exact upper bound of Clopper and Pearson, up
to the first that fails. A threshold that breaks the promise can only be reached if the test of the last threshold that
keeps it errs, so no correction for the number of tests is needed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

LEVEL = 0.95  # of the intervals of a curve
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# Beyond log-odds of 36 probabilities are rounded to 1, and thresholds cannot tell the texts apart.
DISTINCT = 30.0
CALIBRATION_SHARE, FEWEST, MOST = 0.2, 20, 500  # of the texts that the temperature is fitted on
ON_EITHER_SIDE = 10  # texts below and above a threshold that hands over a given share


@dataclass(frozen=True)
class Target:
    """What a threshold is fitted for: one of the two.

    Attributes:
        agreement: 1 minus the largest P(the student answers and differs from its teacher).
        defer: share of the texts that is handed to the teacher.
        confidence: with which the promise of `agreement` holds.
    Raises:
        ValueError: none or both were given, or a number is not between 0 and 1.
    """

    agreement: float | None = None
    defer: float | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if (self.agreement is None) == (self.defer is None):
            raise ValueError(
                f"Expected agreement (0.99, for instance) or defer (0.1), got agreement={self.agreement} and "
                f"defer={self.defer}. Set one of them."
            )
        for name in ("agreement", "defer", "confidence"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and 0 < value < 1):
                raise ValueError(f"{name}: expected a number between 0 and 1, both excluded; got {value!r}.")

    @property
    def tested_texts(self) -> int:
        """The fewest texts on which any threshold can pass."""
        if self.agreement is not None:
            return math.ceil(round(math.log1p(-self.confidence) / math.log(self.agreement), 9))
        return math.ceil(round(ON_EITHER_SIDE / min(self.defer or 0, 1 - (self.defer or 0)), 9))

    @property
    def texts(self) -> int:
        """The fewest texts that a fit needs, those that the temperature is fitted on included."""
        tested = self.tested_texts
        return next(
            number for number in range(tested, 2 * tested + FEWEST + 1) if number - calibrating(number) >= tested
        )

    def as_dict(self) -> dict[str, float]:
        """Plain data."""
        named = {"agreement": self.agreement, "defer": self.defer, "confidence": self.confidence}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class Fit:
    """A fitted threshold.

    Attributes:
        target: what it was fitted for.
        threshold: the student answers where its confidence is at least this; 0: everywhere; None: no threshold keeps
            the promise.
        temperature: of the confidence, see `confidences`.
        calibration_texts: on which the temperature was fitted.
        tested_texts: on which the threshold was.
        disagreements: how many of these the student answers with another class than its teacher.
        handed_over: how many of these go to the teacher.
        unanswered: texts that were left out, because the teacher named no class.
        curve: rows as `curve_of` makes them, on the tested texts.
    """

    target: Target
    threshold: float | None
    temperature: float
    calibration_texts: int
    tested_texts: int
    disagreements: int
    handed_over: int
    unanswered: int
    curve: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, without the curve."""
        names = ("threshold", "temperature", "calibration_texts", "tested_texts", "disagreements", "handed_over")
        return {**self.target.as_dict(), **{name: getattr(self, name) for name in (*names, "unanswered")}}


def calibrating(texts: int) -> int:
    """How many of some held-out texts the temperature is fitted on; the others test thresholds.

    >>> calibrating(374), calibrating(100_000)
    (75, 500)
    """
    return min(MOST, max(FEWEST, math.ceil(round(CALIBRATION_SHARE * texts, 9))))


def confidences(probabilities: np.ndarray, temperature: float = 1.0, several: bool = False) -> np.ndarray:
    """How sure a student is of its answers.

    Args:
        probabilities: (texts, classes), of a softmax or, with several labels, of sigmoids.
        temperature: that the logits would be divided by.
        several: whether a text may have several labels. The confidence is then that of the least certain one.
    Returns:
        (texts,) float64, the probability of the answer at this temperature.

    >>> confidences(np.array([[0.9, 0.1], [0.5, 0.5]])).tolist()
    [0.9, 0.5]
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    sides = np.stack([scores, 1 - scores]) if several else scores.T[..., None]
    if temperature == 1:
        return sides.max(axis=0).min(axis=-1)
    powers = sides ** (1 / temperature)
    return (powers.max(axis=0) / powers.sum(axis=0)).min(axis=-1)


def greatest_log_odds(probabilities: np.ndarray, several: bool = False) -> float:
    """The log-odds of the answer that a student is most sure of, against its second choice.

    Args:
        probabilities: as of `confidences`.
        several: likewise.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    sides = np.stack([scores, 1 - scores]) if several else scores.T[..., None]
    logs = np.sort(np.log(np.maximum(sides, np.finfo(np.float64).tiny)), axis=0)
    return float((logs[-1] - logs[-2]).max())


def named(answers: np.ndarray) -> np.ndarray:
    """(texts,) bool, whether an answer names a class.

    Args:
        answers: (texts,) class numbers or, with several labels, (texts, classes) of 0 and 1; -100 where it does not.
    """
    return np.all(np.atleast_2d(answers.T).T >= 0, axis=1)


def most_disagreements(texts: int, target: Target) -> int:
    """How many texts a student may answer with another class than its teacher's for a threshold to pass.

    Args:
        texts: that are tested, handed over or not.
        target: with an `agreement`.
    Returns:
        The largest count whose upper bound (Clopper-Pearson, one-sided) is at most 1 - agreement; -1 if not even 0 is.

    >>> [most_disagreements(number, Target(agreement=0.99)) for number in (298, 299, 473)]
    [-1, 0, 1]
    """
    if target.agreement is None:
        raise ValueError("A number of disagreements follows from an agreement, and the target is a share to hand over.")
    counts = np.arange(min(texts, int(texts * (1 - target.agreement)) + 1))
    bounds = scipy.stats.beta.ppf(target.confidence, counts + 1, texts - counts)
    return int((bounds <= 1 - target.agreement).sum()) - 1


def threshold_of(confidence: np.ndarray, same: np.ndarray, target: Target) -> float | None:
    """The lowest threshold that keeps the promise, or the one that hands over a share; see `Fit.threshold`.

    Args:
        confidence: (texts,) of the student.
        same: (texts,) bool, whether its answer is the teacher's.
        target: what it is fitted for.
    Raises:
        ValueError: too few texts.
    """
    if len(confidence) < target.tested_texts:
        raise ValueError(too_few(len(confidence), target.tested_texts, target))
    if target.defer is not None:
        return float(np.sort(confidence)[round(target.defer * len(confidence))])
    allowed = most_disagreements(len(confidence), target)
    differing = np.sort(confidence[~same])[::-1]
    if len(differing) <= allowed:
        return 0.0
    above = confidence[confidence > differing[allowed]]
    return float(above.min()) if len(above) else None


def too_few(found: int, needed: int, target: Target) -> str:
    """The error about too few held-out texts.

    Args:
        found: how many there are.
        needed: how many there must be.
        target: what for.
    """
    aim = f"agreement={target.agreement}" if target.defer is None else f"defer={target.defer}"
    return (
        f"Expected at least {needed:,} held-out texts for {aim} with confidence {target.confidence}, got {found:,}. "
        "Give more texts (they need no labels), or "
        + ("ask for less agreement." if target.defer is None else "choose a share nearer to a half.")
    )


def interval(hits: int, of: int) -> dict[str, float]:
    """A share with its exact (Clopper-Pearson) 95 % interval.

    >>> {name: round(value, 3) for name, value in interval(98, 100).items()}
    {'value': 0.98, 'low': 0.93, 'high': 0.998}
    """
    found = scipy.stats.binomtest(hits, of).proportion_ci(LEVEL, method="exact")
    return {"value": hits / of, "low": float(found.low), "high": float(found.high)}


Quality = Callable[[np.ndarray], Mapping[str, float]]


def row_of(
    handed_over: np.ndarray, same: np.ndarray, quality: Quality | None, milliseconds: tuple[float, float] | None
) -> dict[str, Any]:
    """What a cascade is worth that hands over these texts.

    Args:
        handed_over: (texts,) bool.
        same: (texts,) bool, whether the student's answer is the teacher's.
        quality: gives `value`, `low` and `high` for `handed_over`. None: no labels.
        milliseconds: a text, of student and teacher. None: not measured.
    Returns:
        `handed_over` and `agreement` with intervals (texts that are handed over agree), `quality`, and `cost`: the time
        of student and teacher in shares of the teacher's time for all texts.
    """
    number = len(handed_over)
    row: dict[str, Any] = {
        "handed_over": interval(int(handed_over.sum()), number),
        "agreement": interval(int((same | handed_over).sum()), number),
    }
    if quality is not None:
        row["quality"] = dict(quality(handed_over))
    if milliseconds is not None:
        student, teacher = milliseconds
        row["cost"] = student / teacher + float(handed_over.mean())
    return row


def curve_of(
    confidence: np.ndarray,
    same: np.ndarray,
    quality: Quality | None = None,
    milliseconds: tuple[float, float] | None = None,
) -> list[dict[str, Any]]:
    """The deferral curve: what a cascade is worth for each share that is handed over, the least confident first.

    Args:
        confidence: (texts,).
        same: see `row_of`.
        quality: see `row_of`.
        milliseconds: see `row_of`.
    Returns:
        Rows of `row_of`, with the `threshold` of each; 1 hands over all but those of which the student is certain.
    """
    order, ranks = np.sort(confidence), np.argsort(np.argsort(confidence, kind="stable"), kind="stable")
    rows = []
    for number in dict.fromkeys(round(share * len(confidence)) for share in SHARES):
        threshold = 1.0 if number == len(confidence) else float(order[number]) if number else 0.0
        rows.append({"threshold": threshold, **row_of(ranks < number, same, quality, milliseconds)})
    return rows


def fitted(
    probabilities: np.ndarray,
    decisions: np.ndarray,
    answers: np.ndarray,
    target: Target,
    temperature_of: Callable[[np.ndarray, np.ndarray], float],
    *,
    several: bool = False,
    seed: int = 0,
) -> Fit:
    """Fit the temperature on some texts and the threshold on the others.

    Args:
        probabilities: (texts, classes) of the student.
        decisions: (texts,) its class numbers; with several labels (texts, classes) of 0 and 1.
        answers: likewise the teacher's; a row with -100 names no class and is left out.
        target: what for.
        temperature_of: gives the temperature for probabilities and answers.
        several: whether a text may have several labels.
        seed: of the choice of the calibration texts.
    Raises:
        ValueError: too few texts with an answer.
    """
    known = named(answers)
    unanswered = int((~known).sum())
    if known.sum() < target.texts:
        left_out = f" {unanswered:,} more have no answer of the teacher." if unanswered else ""
        raise ValueError(too_few(int(known.sum()), target.texts, target) + left_out)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(known))
    calibration, tested = order[: calibrating(len(order))], order[calibrating(len(order)) :]
    fitted_to = temperature_of(probabilities[calibration], answers[calibration])
    temperature = max(fitted_to, greatest_log_odds(probabilities, several) / DISTINCT)
    confidence = confidences(probabilities[tested], temperature, several)
    same = (decisions == answers).reshape(len(answers), -1).all(axis=1)[tested]
    threshold = threshold_of(confidence, same, target)
    answered = confidence >= threshold if threshold is not None else np.zeros(len(tested), dtype=bool)
    return Fit(
        target=target,
        threshold=threshold,
        temperature=temperature,
        calibration_texts=len(calibration),
        tested_texts=len(tested),
        disagreements=int((answered & ~same).sum()),
        handed_over=int((~answered).sum()),
        unanswered=unanswered,
        curve=curve_of(confidence, same),
    )
