"""Metrics that work offline: `evaluate.Metric` subclasses around scikit-learn, scipy, seqeval and sacrebleu.

Each returns its number under its own name, takes what the wrapped function takes as keyword arguments of `compute`, and
leaves out examples without a label (-100). `load` finds them by name, and whatever else `evaluate` knows.
"""

import difflib
import math
import re
from typing import Any, ClassVar

import evaluate
import numpy as np
import scipy.stats
import sklearn.metrics
from datasets import Features, Sequence, Value

from hf_distill.environment import optional
from hf_distill.redaction import presentable, redacted
from hf_distill.remote_code import how_to_allow, suggest_revision
from hf_distill.tag_schemes import BILOU, IOBES, in_letters, tag_scheme

IGNORE_INDEX = -100


def _pair(kind: Any, reference_kind: Any = None) -> Features:
    return Features({"predictions": kind, "references": kind if reference_kind is None else reference_kind})


# Rows come first: a lone number cannot pass for a row, while a row of one might pass for a number.
LABELS = [_pair(Sequence(Value("int64"))), _pair(Value("int64"))]
NUMBERS = [_pair(Value("float64"))]
LOGITS = [_pair(Sequence(Value("float64")))]
TAGS = [_pair(Sequence(Value("string")))]
TEXTS = [_pair(Value("string"), Sequence(Value("string"))), _pair(Value("string"))]


class OfflineMetric(evaluate.Metric):
    """A number about predictions and references, computed in memory without any download.

    Attributes:
        inputs: the shapes of predictions and references that are understood, as `datasets` features.
        larger_is_better: the direction.
        reads_logits: whether predictions are logits rather than decisions.
        limits: the least and the greatest value; None where there is none.
    """

    inputs: ClassVar[list[Features]] = LABELS
    larger_is_better: ClassVar[bool] = True
    reads_logits: ClassVar[bool] = False
    limits: ClassVar[tuple[float, float] | None] = None

    def __init__(self, config_name: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("keep_in_memory", True)
        super().__init__(config_name=config_name, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        description = type(self).__doc__ or ""
        return evaluate.MetricInfo(description=description, citation="", inputs_description="", features=self.inputs)

    def _compute(self, predictions: Any, references: Any, **settings: Any) -> dict[str, float]:
        predictions, references = labelled(np.asarray(predictions), np.asarray(references))
        return {self.name: float(self.score(predictions, references, **settings))}

    def score(self, predictions: np.ndarray, references: np.ndarray, **settings: Any) -> float:
        """The number itself, of arrays in which every example counts.

        Args:
            predictions: (examples,) or (examples, classes).
            references: likewise.
            settings: of the wrapped function.
        """
        raise NotImplementedError


def labelled(predictions: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The examples that have a reference: one of -100, or a row that holds one, is not counted.

    Args:
        predictions: (examples, ...).
        references: (examples,) or (examples, classes).
    Raises:
        ValueError: no example is left.
    """
    counts = references != IGNORE_INDEX
    counts = counts if counts.ndim == 1 else counts.all(axis=-1)
    if not counts.any():
        raise ValueError(
            f"None of the {len(references)} references is a label (all are -100): there is nothing to score."
        )
    return predictions[counts], references[counts]


class Accuracy(OfflineMetric):
    """Share of examples predicted exactly; with rows of 0/1, of rows without any mistake."""

    limits = (0.0, 1.0)

    def score(self, predictions: np.ndarray, references: np.ndarray, **settings: Any) -> float:
        """See `sklearn.metrics.accuracy_score`."""
        return sklearn.metrics.accuracy_score(references, predictions, **settings)


class F1(OfflineMetric):
    """F1 of the positive class; `compute(average=...)` for more than two classes."""

    limits = (0.0, 1.0)

    def score(self, predictions: np.ndarray, references: np.ndarray, **settings: Any) -> float:
        """See `sklearn.metrics.f1_score`; a class that is never predicted scores 0."""
        return sklearn.metrics.f1_score(references, predictions, **{"zero_division": 0.0} | settings)


class MacroF1(OfflineMetric):
    """Mean over the classes of their F1, each class counting the same."""

    limits = (0.0, 1.0)

    def score(self, predictions: np.ndarray, references: np.ndarray, **settings: Any) -> float:
        """See `sklearn.metrics.f1_score`; the classes are those among predictions and references."""
        return sklearn.metrics.f1_score(
            references, predictions, **{"average": "macro", "zero_division": 0.0} | settings
        )


class MatthewsCorrelation(OfflineMetric):
    """Correlation between predicted and true classes, -1 to 1; 0 where either is constant."""

    limits = (-1.0, 1.0)

    def score(self, predictions: np.ndarray, references: np.ndarray, **settings: Any) -> float:
        """See `sklearn.metrics.matthews_corrcoef`."""
        return sklearn.metrics.matthews_corrcoef(references, predictions, **settings)


class Pearson(OfflineMetric):
    """Linear correlation of numbers, -1 to 1; 0 where either side is constant."""

    limits = (-1.0, 1.0)
    inputs = NUMBERS

    def score(self, predictions: np.ndarray, references: np.ndarray, **settings: Any) -> float:
        """See `scipy.stats.pearsonr`."""
        if _constant(predictions) or _constant(references):
            return 0.0
        return scipy.stats.pearsonr(predictions, references, **settings).statistic


class Spearman(OfflineMetric):
    """Rank correlation of numbers, -1 to 1; 0 where either side is constant."""

    limits = (-1.0, 1.0)
    inputs = NUMBERS

    def score(self, predictions: np.ndarray, references: np.ndarray, **settings: Any) -> float:
        """See `scipy.stats.spearmanr`."""
        if _constant(predictions) or _constant(references):
            return 0.0
        return scipy.stats.spearmanr(predictions, references, **settings).statistic


def _constant(values: np.ndarray) -> bool:
    # scipy would warn and return NaN, which no report can hold; scikit-learn's Matthews correlation says 0 here too.
    return bool(np.ptp(values) == 0)


class AgreementWithTeacher(Accuracy):
    """Share of examples on which a model chooses the teacher's class, where the teacher's choices are the references
    because there are no labels."""


class TeacherAgreement(OfflineMetric):
    """Share of examples on which student (predictions) and teacher (references) choose the same class.

    Both are rows of logits, or both are class numbers.
    """

    limits = (0.0, 1.0)
    inputs: ClassVar[list[Features]] = [*LOGITS, _pair(Value("int64"))]
    reads_logits = True

    def score(self, predictions: np.ndarray, references: np.ndarray, **settings: Any) -> float:
        """No settings."""
        if predictions.ndim == 2:
            predictions, references = predictions.argmax(axis=-1), references.argmax(axis=-1)
        return sklearn.metrics.accuracy_score(references, predictions, **settings)


class TeacherKL(OfflineMetric):
    """KL(teacher ‖ student) in nats an example, from rows of logits, the teacher's as references; 0 is a perfect
    copy."""

    inputs = LOGITS
    larger_is_better = False
    reads_logits = True

    def score(  # type: ignore[override]  # the settings are spelled out
        self, predictions: np.ndarray, references: np.ndarray, temperature: float = 1.0
    ) -> float:
        """Temperature softens both sides; the result is not multiplied by its square."""
        return float(kl_to_teacher(predictions / temperature, references / temperature).mean())


def kl_to_teacher(student_logits: np.ndarray, teacher_logits: np.ndarray) -> np.ndarray:
    """KL(teacher ‖ student) of each row.

    Args:
        student_logits: (items, classes).
        teacher_logits: likewise.
    Returns:
        (items,) nats
    """
    student = scipy.special.log_softmax(student_logits, axis=-1)
    teacher = scipy.special.log_softmax(teacher_logits, axis=-1)
    probability = np.exp(teacher)
    # A class that the teacher rules out (-inf) adds nothing, where plain arithmetic would give 0 * inf = NaN.
    difference = np.subtract(teacher, student, out=np.zeros_like(teacher), where=probability > 0)
    return (probability * difference).sum(axis=-1)


class CalibrationError(OfflineMetric):
    """Expected calibration error: how far confidence lies from accuracy, averaged over bins of confidence; 0 is best.

    Predictions are rows of logits, references class numbers. Source: Guo et al. 2017, arXiv:1706.04599, section 2.
    """

    limits = (0.0, 1.0)
    inputs: ClassVar[list[Features]] = [_pair(Sequence(Value("float64")), Value("int64"))]
    larger_is_better = False
    reads_logits = True

    def score(  # type: ignore[override]  # the settings are spelled out
        self, predictions: np.ndarray, references: np.ndarray, bins: int = 15
    ) -> float:
        """`bins` of equal width, each closed on the right."""
        probability = scipy.special.softmax(predictions, axis=-1)
        confidence = probability.max(axis=-1)
        correct = probability.argmax(axis=-1) == references
        number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
        # A bin's weight times its gap is |sum of confidence - sum of correct| / examples.
        gaps = np.bincount(number, weights=confidence - correct, minlength=bins)
        return float(np.abs(gaps).sum() / len(references))


class BitsPerByte(OfflineMetric):
    """Bits a language model needs for each UTF-8 byte of the text, comparable across tokenizers; smaller is better.

    Predictions are the texts' negative log-likelihoods in nats, summed over their tokens; references are the texts, or
    their numbers of UTF-8 bytes.
    """

    inputs: ClassVar[list[Features]] = [_pair(Value("float64"), Value("string")), *NUMBERS]
    larger_is_better = False

    def score(self, predictions: np.ndarray, references: np.ndarray, **settings: Any) -> float:
        """No settings."""
        sizes = [len(text.encode()) if isinstance(text, str) else text for text in references.tolist()]
        if not sum(sizes):
            raise ValueError(f"The {len(sizes)} references have no byte between them: there is nothing to divide by.")
        return float(predictions.sum() / math.log(2) / sum(sizes))


class DistinctN(OfflineMetric):
    """Share of the n-grams in all texts together that differ from each other: 1 where nothing is written twice.

    Predictions are texts, references are not needed. Words are lowercased runs of letters, digits and underscores; any
    other character that is not white space is a word of its own. No n-gram reaches from one text into the next; where
    no text has n words the share is 0. `compute(n=...)`, 2 by default.

    Source: Li et al. 2016, arXiv:1510.03055, section 5.2; they divide by the number of words, which for n = 1 is the
    same.
    """

    limits = (0.0, 1.0)
    inputs: ClassVar[list[Features]] = [Features({"predictions": Value("string")})]

    def _compute(  # type: ignore[override]  # the settings are spelled out
        self, predictions: Any, references: Any = None, n: int = 2
    ) -> dict[str, float]:
        if n < 1:
            raise ValueError(f"n: expected the number of words in an n-gram, 1 or more, got {n}.")
        words = [re.findall(r"\w+|[^\w\s]", text.lower()) for text in predictions]
        grams = [gram for each in words for gram in zip(*(each[start:] for start in range(n)), strict=False)]
        return {self.name: len(set(grams)) / len(grams) if grams else 0.0}


class Sacrebleu(OfflineMetric):
    """Corpus BLEU, 0 to 100, with sacrebleu's own tokenisation; references are one text an example, or several."""

    limits = (0.0, 100.0)
    inputs = TEXTS

    def _compute(self, predictions: Any, references: Any, **settings: Any) -> dict[str, float]:
        score = optional("sacrebleu", "generation").corpus_bleu(predictions, _streams(references), **settings)
        return {self.name: score.score}


class Chrf(OfflineMetric):
    """Character n-gram F-score of the corpus, 0 to 100; references are one text an example, or several."""

    limits = (0.0, 100.0)
    inputs = TEXTS

    def _compute(self, predictions: Any, references: Any, **settings: Any) -> dict[str, float]:
        score = optional("sacrebleu", "generation").corpus_chrf(predictions, _streams(references), **settings)
        return {self.name: score.score}


def _streams(references: Any) -> list[list[str | None]]:
    # sacrebleu wants the first reference of every text, then the second of every text, None where there is none.
    rows = [[row] if isinstance(row, str) else row for row in references]
    return [[row[i] if i < len(row) else None for row in rows] for i in range(max(map(len, rows)))]


class Seqeval(OfflineMetric):
    """F1 of whole entities in tagged sentences (rows of tag names), with precision and recall beside it.

    Positions whose reference is "-100" are not counted. Tags of IOBES (BIOES) and BILOU are read strictly: an entity is
    one from its beginning to its end. IOB1 and IOB2 are read as seqeval's default and `conlleval` read them.
    """

    limits = (0.0, 1.0)
    inputs = TAGS

    def _compute(self, predictions: Any, references: Any, **settings: Any) -> dict[str, float]:
        scores = optional("seqeval.metrics", "tagging")
        ignored = str(IGNORE_INDEX)
        counted = [
            [(predicted, true) for predicted, true in zip(*rows, strict=True) if true != ignored]
            for rows in zip(predictions, references, strict=True)
        ]
        predicted = [[pair[0] for pair in row] for row in counted]
        true = [[pair[1] for pair in row] for row in counted]
        scheme = tag_scheme({tag for row in [*predicted, *true] for tag in row})
        if scheme in (IOBES, BILOU) and not settings.keys() & {"mode", "scheme", "suffix"}:
            settings |= {"mode": "strict", "scheme": getattr(optional("seqeval.scheme", "tagging"), scheme)}
            predicted, true = ([in_letters(row, scheme) for row in rows] for rows in (predicted, true))
        settings = {"zero_division": 0} | settings
        return {
            self.name: float(scores.f1_score(true, predicted, **settings)),
            "precision": float(scores.precision_score(true, predicted, **settings)),
            "recall": float(scores.recall_score(true, predicted, **settings)),
        }


METRICS: dict[str, type[OfflineMetric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "macro_f1": MacroF1,
    "matthews_correlation": MatthewsCorrelation,
    "pearson": Pearson,
    "spearman": Spearman,
    "seqeval": Seqeval,
    "sacrebleu": Sacrebleu,
    "chrf": Chrf,
    "bits_per_byte": BitsPerByte,
    "distinct_n": DistinctN,
    "agreement_with_teacher": AgreementWithTeacher,
    "teacher_agreement": TeacherAgreement,
    "teacher_kl": TeacherKL,
    "calibration_error": CalibrationError,
}


OF_CLASSES = ("accuracy", "f1", "macro_f1", "matthews_correlation", "calibration_error")


def unfit(name: str, problem: str | None, tags: bool = False) -> str | None:
    """Why a metric cannot judge the labels of texts or words; None where it can, or where it is not among `METRICS`.

    Args:
        name: of the metric.
        problem: type of the problem, see `models.problem_type`; None for tags.
        tags: whether each word has a label.

    >>> unfit("pearson", "single_label_classification"), unfit("seqeval", None, tags=True)
    ('quantities, and the label is a class. Use accuracy.', None)
    """
    if name in OF_CLASSES and problem == "regression":
        return "classes, and the label is a quantity. Use pearson."
    if name in ("pearson", "spearman") and problem != "regression":
        return "quantities, and the label is a class. Use accuracy."
    if name == "seqeval" and not tags:
        return "the tags of words, and a text has labels as a whole. Use macro_f1."
    if name in ("sacrebleu", "chrf", "distinct_n", "bits_per_byte"):
        return "texts that a model writes, and here it labels them. Use accuracy."
    return None


def lower_is_better(name: str) -> bool:
    """Whether less of a metric is better; of one that is not among `METRICS`, more is taken to be.

    >>> lower_is_better("bits_per_byte"), lower_is_better("accuracy")
    (True, False)
    """
    return name in METRICS and not METRICS[name].larger_is_better


def display_name(name: str) -> str:
    """A metric's name in words, with its direction if less is better.

    >>> display_name("bits_per_byte"), display_name("macro_f1")
    ('bits per byte (less is better)', 'macro f1')
    """
    return name.replace("_", " ") + (" (less is better)" if lower_is_better(name) else "")


def three_digits(value: float) -> str:
    """A measured number, without the digits that another run would not repeat.

    >>> three_digits(0.04561), three_digits(27.11), three_digits(1033.2)
    ('0.0456', '27.1', '1,030')
    """
    return f"{float(f'{value:.3g}'):,g}"


def load(name: str, trust_remote_code: bool = False, revision: str | None = None) -> evaluate.EvaluationModule:
    """A metric by its name: one of `METRICS`; where code from elsewhere may run, also a script or one of the Hub.

    Args:
        name: what recipes call it.
        trust_remote_code: whether a local script, or one of the Hub, may run here.
        revision: the commit of a metric of the Hub. None: the newest, and a warning.
    Raises:
        ValueError: it is not known, its code may not run, or the Hub cannot be reached.

    >>> load("accuracy").compute(predictions=[1, 0, 1], references=[1, 1, -100])
    {'accuracy': 0.5}
    """
    if name in METRICS:
        return METRICS[name]()
    near = difflib.get_close_matches(name, METRICS, n=1)
    unknown = f"No metric {name!r}{f', did you mean {near[0]!r}?' if near else '.'} Offline there are "
    unknown += f"{', '.join(METRICS)}."
    if not trust_remote_code:
        raise ValueError(
            f"{unknown} Any other metric is a script, local or on the Hub, and it is not run unless you ask for it. "
            f"{how_to_allow('compare.trust_remote_code', name)} In Python, pass trust_remote_code=True."
        )
    if revision is None:
        suggest_revision("compare.revision", name)
    try:
        return evaluate.load(name, revision=revision)
    except (OSError, ImportError) as error:
        raise ValueError(
            f"{unknown} A folder with a metric script, or a metric on the Hub, works too. evaluate said: "
            f"{redacted(str(error))}"
        ) from presentable(error)
