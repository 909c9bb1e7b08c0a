"""What a language model's answers say of the classes: log-probabilities, and what is known of each."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp

from hf_distill.teachers.text import logger, quoted

# A single answer says which class it names and nothing of the others: they share this probability.
UNNAMED = 1e-6
FEWEST = 0.5  # samples that a class counts for that none of them names
METHODS = {
    "answers": "likelihood of each class's whole answer (local)",
    "letters": "log-probabilities of the first token, a letter for each class",
    "scoring": "likelihood of each class's whole answer, by prompt log-probabilities",
    "structured": "share of samples that name a class, by structured output",
    "hard": "one answer for each text (hard labels)",
}


@dataclass
class ClassTargets:
    """A teacher's log-probabilities of the classes, conditional on naming one.

    Attributes:
        classes: names in the order of their numbers.
        log_probabilities: (texts, classes) float32, normalised; NaN where a text has no target.
        outside: (texts,) float32, the probability of answers that name no class: for `letters` at most, since
            spellings that were not returned are in it; of samples the share.
        unreturned: (texts, classes) bool, where a log-probability is the smallest that was returned, because the
            server did not return the class; of samples, where no sample names it.
        method: a key of `METHODS`: where the log-probabilities come from.
        counts: of `texts`, `distinct` ones, those `asked` now and those that were `answered` before, `without_target`,
            with an `unreturned` class; `requests`, `retries`, the `samples` that shares are of, and the `probes` that
            found no way of asking; `tokens_in` and `tokens_out` of all distinct texts, as far as the server told.
        seconds: that asking took now.
        notes: what was decided and why, for a report.
    """

    classes: list[str]
    log_probabilities: np.ndarray
    outside: np.ndarray
    unreturned: np.ndarray
    method: str
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def has_target(self) -> np.ndarray:
        """(texts,) bool, whether the answer named a class at all."""
        return ~np.isnan(self.log_probabilities).any(axis=1)

    @property
    def labels(self) -> np.ndarray:
        """(texts,) int64, the most likely class; -100 where there is no target."""
        best = np.nan_to_num(self.log_probabilities, nan=-np.inf).argmax(axis=1)
        return np.where(self.has_target, best, -100).astype(np.int64)

    def corrected(self, prior: "ClassTargets") -> "ClassTargets":
        """The log-probabilities without the classes' prior, as the answers to content-free texts show it.

        Args:
            prior: targets of content-free texts ("N/A", for instance), whose mean probability is divided by.
        Raises:
            ValueError: none of them has a target.
        Source:
            Zhao et al. 2021, arXiv:2102.09690, with the mean over several content-free texts.
        """
        known = prior.log_probabilities[prior.has_target].astype(np.float64)
        if not len(known):
            raise ValueError("None of the content-free texts was answered with a class: there is no prior to correct.")
        mean = logsumexp(known, axis=0) - np.log(len(known))
        made = log_softmax(self.log_probabilities.astype(np.float64) - mean, axis=1).astype(np.float32)
        shares = ", ".join(f"{name} {share:.3f}" for name, share in zip(self.classes, np.exp(mean), strict=True))
        notes = [*self.notes, f"Corrected by the prior that {len(known)} content-free texts show: {shares}."]
        return ClassTargets(
            self.classes, made, self.outside, self.unreturned, self.method, self.counts, self.seconds, notes
        )


def read_answers(answers: Sequence[str], classes: Sequence[str], method: str) -> ClassTargets:
    """Targets from the JSON answers that a ledger holds; see `scores_answer` and `counts_answer`.

    Args:
        answers: one a text.
        classes: in the order of their numbers.
        method: see `ClassTargets`.
    Raises:
        ValueError: none of the answers names a class.
    """
    read = [_parsed(answer, len(classes)) for answer in answers]
    made = [_target(each, len(classes)) for each in read]
    targets = ClassTargets(
        list(classes),
        np.array([scores for scores, _, _ in made], dtype=np.float32).reshape(len(read), len(classes)),
        np.array([outside for _, outside, _ in made], dtype=np.float32),
        np.array([unreturned for _, _, unreturned in made], dtype=bool).reshape(len(read), len(classes)),
        method,
    )
    without = int((~targets.has_target).sum())
    targets.counts = {
        "texts": len(read),
        "without_target": without,
        "unreturned": int(targets.unreturned[targets.has_target].any(axis=1).sum()),
    }
    if without:
        silent = zip(read, targets.has_target, strict=True)
        often = Counter(
            str(each["said"]) for each, has_target in silent if each["said"] and not has_target
        ).most_common(3)
        said = f" Most often: {', '.join(repr(text) for text, _ in often)}." if often else ""
        message = f"{without} of {len(read)} answers name none of the classes {list(classes)}.{said}"
        if without == len(read):
            raise ValueError(f"{message} That leaves no target: change the instruction, or choose another model.")
        logger.warning(f"{message} Their texts have no target.")
    return targets


def scores_answer(scores: Sequence[float | None], floor: float, usage: Sequence[int], said: str | None = None) -> str:
    """An answer for the ledger: log-probabilities of naming each class.

    Args:
        scores: (classes,), None where the server did not return one.
        floor: the smallest log-probability that was returned.
        usage: tokens read and written.
        said: what was most likely where no class was returned.
    """
    return json.dumps({"scores": list(scores), "floor": floor, "tokens": list(usage), "said": said})


def counts_answer(counts: Sequence[int], samples: int, usage: Sequence[int], said: str | None = None) -> str:
    """An answer for the ledger: how many of some samples name each class.

    Args:
        counts: (classes,).
        samples: of which the counts are.
        usage: tokens read and written.
        said: one that names none.
    """
    return json.dumps({"counts": list(counts), "samples": samples, "tokens": list(usage), "said": said})


def tokens_of(answers: Sequence[str]) -> tuple[int, int]:
    """The tokens read and written for some answers."""
    read = [json.loads(answer)["tokens"] for answer in answers]
    return sum(each[0] for each in read), sum(each[1] for each in read)


def _parsed(answer: str, classes: int) -> dict[str, Any]:
    """An answer of a ledger, if it is one of a prompt's."""
    try:
        read = json.loads(answer)
        values = read["scores"] if "scores" in read else read["counts"]
        kept = {"scores": "floor", "counts": "samples"}["scores" if "scores" in read else "counts"]
        if len(values) == classes and isinstance(read[kept], int | float) and len(read["tokens"]) == 2:
            return {"said": None, **read}
    except (ValueError, TypeError, KeyError):
        pass
    raise ValueError(
        f"The ledger holds an answer that is not one about {classes} classes: {quoted(answer)}. Was it edited? Delete "
        "its line; the text is then asked again."
    )


def _target(answer: dict[str, Any], classes: int) -> tuple[np.ndarray, float, np.ndarray]:
    """Conditional log-probabilities (classes,), the mass outside, and which classes were not returned (classes,)."""
    nothing = np.full(classes, np.nan), 1.0, np.zeros(classes, dtype=bool)
    if "scores" in answer:
        scores = np.array([np.nan if score is None else score for score in answer["scores"]], dtype=np.float64)
        missing = np.isnan(scores)
        if missing.all():
            return nothing
        outside = max(0.0, 1.0 - float(np.exp(scores[~missing]).sum()))
        return log_softmax(np.where(missing, answer["floor"], scores)), outside, missing
    counts = np.array(answer["counts"], dtype=np.float64)
    if not counts.sum():
        return nothing
    outside = 1.0 - float(counts.sum()) / answer["samples"]
    missing = counts == 0
    if answer["samples"] == 1:
        return np.log(np.where(missing, UNNAMED / max(1, classes - 1), 1 - UNNAMED)), outside, missing
    filled = np.where(missing, FEWEST, counts)
    return np.log(filled / filled.sum()), outside, missing
