"""A cascade's student and teacher, whatever they are: texts in, probabilities or classes out."""

import json
import shutil
import sys
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit, softmax
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    TextClassificationPipeline,
)

from hf_distill.evaluation.deferral import confidences
from hf_distill.models import base_model, evaluating, forward_arguments, input_limits, position_ids, problem_type
from hf_distill.problems import IGNORE_INDEX, has_default_names, task_of
from hf_distill.teachers.ask import FunctionTeacher, class_finder
from hf_distill.teachers.identity import weights_hash
from hf_distill.teachers.ledger import answer_key, open_ledger
from hf_distill.teachers.live import LiveTeacher
from hf_distill.teachers.prompted import DECISION, PromptedTeacher
from hf_distill.teachers.text import TextTeacher

SEVERAL = "multi_label_classification"
SEPARATOR = "; "  # between the classes of one answer in a ledger
PADDED_ALONE = ("convbert", "xlnet")  # their logits depend on the amount of padding
UNLIMITED = 10**9  # tokenizers without a limit have a larger model_max_length


class Classifier(ABC):
    """What gives the probabilities of the classes of texts.

    Attributes:
        classes: names, in order.
        several: whether a text may have several labels.
        named: whether the names are more than LABEL_0 and so on.
    """

    classes: list[str]
    several: bool
    named: bool

    @abstractmethod
    def __call__(self, texts: Sequence[Any]) -> np.ndarray:
        """(texts, classes) float64 probabilities.

        Args:
            texts: texts, or pairs of them as tuples.
        """

    def decided(self, probabilities: np.ndarray) -> np.ndarray:
        """(texts,) class numbers; with several labels (texts, classes) of 0 and 1."""
        return (probabilities > 0.5).astype(np.int64) if self.several else probabilities.argmax(axis=-1)


class TorchClassifier(Classifier):
    """A sequence classification model with its tokenizer.

    Args:
        model: single-label or multi-label.
        tokenizer: the model's.
        batch_size: texts that are read together.
        role: what errors call it.
    Raises:
        ValueError: another kind of model, or a regression.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, batch_size: int, role: str) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        config: Any = base_model(model).config
        if task_of(model).name != "text-classification" or problem_type(config, None) == "regression":
            raise ValueError(
                f"A cascade needs a classifier of texts as {role}, with two or more classes; got "
                f"{type(base_model(model)).__name__} with {config.num_labels} outputs and problem_type="
                f"{config.problem_type!r}."
            )
        self.classes = [config.id2label[number] for number in sorted(config.id2label)]
        self.several = config.problem_type == SEVERAL
        self.named = not has_default_names(config)
        self.size = 1 if config.model_type in PADDED_ALONE else batch_size
        self.limit = int(min(tokenizer.model_max_length, input_limits(model)[0], UNLIMITED))
        self.arguments = forward_arguments(model)

    def __call__(self, texts: Sequence[Any]) -> np.ndarray:
        found = np.empty((len(texts), len(self.classes)))
        order = sorted(range(len(texts)), key=lambda number: -len(str(texts[number])))
        with evaluating(self.model), torch.inference_mode():
            for start in range(0, len(order), self.size):
                rows = order[start : start + self.size]
                found[rows] = self._logits([texts[row] for row in rows])
        if not np.isfinite(found).all():
            raise ValueError(f"{type(base_model(self.model)).__name__} gives logits that are not finite.")
        return expit(found) if self.several else softmax(found, axis=-1)

    def _logits(self, texts: list[Any]) -> np.ndarray:
        sides = [texts] if isinstance(texts[0], str) else [list(side) for side in zip(*texts, strict=True)]
        options = {"truncation": True, "max_length": self.limit} if self.limit < UNLIMITED else {}
        encoded = self.tokenizer(*sides, padding=True, return_tensors="pt", verbose=False, **options)
        inputs = {name: value.to(self.model.device) for name, value in encoded.items() if name in self.arguments}
        positions = position_ids(self.model, inputs.get("attention_mask"))
        if positions is not None:
            inputs["position_ids"] = positions
        return self.model(**inputs)["logits"].float().cpu().numpy()


class RuntimeClassifier(Classifier):
    """An exported student, read by `hf_distill.runtime`."""

    def __init__(self, student: Any, batch_size: int) -> None:
        if student.tags or student.problem == "regression":
            raise ValueError(
                "A cascade needs a classifier of texts as student; this one tags words or is a regression."
            )
        self.student, self.batch_size = student, batch_size
        self.classes, self.several = list(student.labels), student.problem == SEVERAL
        self.named = self.classes != [f"LABEL_{number}" for number in range(len(self.classes))]

    def __call__(self, texts: Sequence[Any]) -> np.ndarray:
        if not texts:
            return np.empty((0, len(self.classes)))
        answers = self.student(list(texts), top_k=None, batch_size=self.batch_size)
        scores = ({each["label"]: each["score"] for each in answer} for answer in answers)
        return np.array([[score[name] for name in self.classes] for score in scores], dtype=np.float64)


def classifier_of(given: Any, batch_size: int, role: str) -> Classifier | None:
    """A classifier as it is given; None for anything else.

    Args:
        given: a folder or Hub id, (model, tokenizer), a pipeline of transformers, or a `runtime.Student`.
        batch_size: texts that are read together.
        role: what errors call it.
    Raises:
        ValueError: a model that does not classify texts.
    """
    runtime = sys.modules.get("hf_distill.runtime")  # not there: then nothing of it was given
    if runtime is not None and isinstance(given, runtime.Student):
        return RuntimeClassifier(given, batch_size)
    if isinstance(given, TextClassificationPipeline):
        given = given.model, given.tokenizer
    if isinstance(given, str | Path):
        given = (
            AutoModelForSequenceClassification.from_pretrained(given, dtype=torch.float32),
            AutoTokenizer.from_pretrained(given),
        )
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], torch.nn.Module):
        return TorchClassifier(*given, batch_size, role)
    return None


class Answers:
    """A teacher's answers to some texts.

    Args:
        numbers: (texts,) class numbers of the student, -100 where no class is named; with several labels (texts,
            classes) of 0 and 1.
        scores: (texts,) the probability of each answer; NaN where the teacher gives none.
        texts: what it answered, as a ledger keeps it. None: the teacher keeps its own.
    """

    def __init__(self, numbers: np.ndarray, scores: np.ndarray, texts: list[str] | None) -> None:
        self.numbers, self.scores, self.texts = numbers, scores, texts


class Teacher(ABC):
    """What answers the texts that a student hands over."""

    @abstractmethod
    def __call__(self, texts: Sequence[Any]) -> Answers:
        """The answers to some texts."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Under which a ledger keeps its answers.

        Raises:
            ValueError: a function has none.
        """

    def harvested(self, texts: Mapping[str, str], path: Path, name: str | None) -> int:
        """Add answers to a ledger.

        Args:
            texts: with their answers.
            path: of the ledger.
            name: of the teacher. None: `name`.
        Returns:
            How many were new to it.
        """
        keys = {answer_key(name or self.name, text): text for text in texts}
        entries = {key: {"key": key, "text": text, "answer": texts[text]} for key, text in keys.items()}
        return _added(entries, path)


class ClassifierTeacher(Teacher):
    """A classifier with the student's classes, in any order.

    Args:
        classifier: of the teacher.
        student: whose classes count.
    Raises:
        ValueError: other classes.
    """

    def __init__(self, classifier: Classifier, student: Classifier) -> None:
        self.classifier, self.classes = classifier, student.classes
        self.order = same_classes(student, classifier.classes, classifier.named)
        if classifier.several != student.several:
            raise ValueError(
                "The student and its teacher have other problem types: one gives a text one label, the other several. "
                "Give both the same problem_type."
            )

    def __call__(self, texts: Sequence[Any]) -> Answers:
        probabilities = self.classifier(texts)[:, self.order]
        numbers = self.classifier.decided(probabilities)
        scores = confidences(probabilities, several=self.classifier.several)
        return Answers(numbers, scores, [SEPARATOR.join(names_of(row, self.classes)) for row in numbers])

    @property
    def name(self) -> str:
        if not isinstance(self.classifier, TorchClassifier):
            raise ValueError("An exported model has no name that changes with its answers: pass name=... to harvest.")
        model = self.classifier.model
        return json.dumps(
            {"model": type(base_model(model)).__name__, "weights": weights_hash(LiveTeacher(model, model.device))}
        )


class AskedTeacher(Teacher):
    """A `TextTeacher` (a server, for instance), or a function from texts to names of classes.

    Args:
        teacher: what is asked.
        student: whose classes count.
        batch_size: texts of a call of a function.
    """

    def __init__(self, teacher: Any, student: Classifier, batch_size: int) -> None:
        if student.several:
            raise ValueError("A student of several labels needs a classifier of the same labels as its teacher.")
        self.find = class_finder(student.classes)
        asked = teacher if isinstance(teacher, TextTeacher) else FunctionTeacher(_named_answers(teacher), batch_size)
        self.teacher: TextTeacher = asked

    def __call__(self, texts: Sequence[Any]) -> Answers:
        unique = list(dict.fromkeys(texts))
        answers = dict(zip(unique, self.teacher(unique), strict=True)) if unique else {}
        said = [answers[text].strip() for text in texts]
        numbers = np.array([self.find(answer) for answer in said], dtype=np.int64)
        return Answers(numbers, np.full(len(said), np.nan), said)

    @property
    def name(self) -> str:
        return self.teacher.name


def _named_answers(function: Callable[[list[str]], Any]) -> Callable[[list[str]], list[str]]:
    """A function whose answers may also be dicts with a `label`, as pipelines give them."""

    def answered(texts: list[str]) -> Any:
        answers = function(texts)
        if not isinstance(answers, list | tuple):
            return answers  # `ask` refuses it
        return [each["label"] if isinstance(each, Mapping) and "label" in each else each for each in answers]

    return answered


class Prompted(Teacher):
    """A language model behind a prompt. Its own ledger, in a temporary folder, keeps what it answered.

    Args:
        teacher: the model.
        student: whose classes count.
    Raises:
        ValueError: other classes.
    """

    def __init__(self, teacher: PromptedTeacher, student: Classifier) -> None:
        if student.several:
            raise ValueError("A student of several labels needs a classifier of the same labels as its teacher.")
        self.teacher, self.order = teacher, same_classes(student, teacher.prompt.names, named=True)
        folder = tempfile.mkdtemp(prefix="hf_distill-")
        weakref.finalize(self, shutil.rmtree, folder, True)
        self.ledger = Path(folder) / "answers.jsonl"

    def __call__(self, texts: Sequence[Any]) -> Answers:
        if not texts:
            return Answers(np.empty(0, dtype=np.int64), np.empty(0), None)
        targets = self.teacher(list(texts), ledger=self.ledger)
        numbers = np.argsort(self.order)[targets.labels.clip(min=0)]
        sure = np.exp(np.nan_to_num(targets.log_probabilities, nan=-np.inf).max(axis=1))
        return Answers(
            np.where(targets.has_target, numbers, IGNORE_INDEX), np.where(targets.has_target, sure, np.nan), None
        )

    @property
    def name(self) -> str:
        return type(self.teacher.model).__name__

    def harvested(self, texts: Mapping[str, str], path: Path, name: str | None) -> int:
        """Add the handed-over texts of its own ledger to another one, under the prompt's own name."""
        if name is not None:
            raise ValueError("A PromptedTeacher's answers are kept under its prompt and model: leave name out.")
        lines = [json.loads(line) for line in _lines(self.ledger)]
        kept = {entry["key"]: entry for entry in lines if entry["text"] in (*texts, DECISION)}
        return _added(kept, path)


def _lines(path: Path) -> Iterator[str]:
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from file


def _added(entries: Mapping[str, Mapping[str, str]], path: Path) -> int:
    """Append entries to a ledger that it does not have; how many texts were new."""
    with open_ledger(path) as (saved, file):
        new = [entry for key, entry in entries.items() if key not in saved]
        file.writelines(json.dumps(entry).encode() + b"\n" for entry in new)
    return sum(entry["text"] != DECISION for entry in new)


def teacher_of(given: Any, student: Classifier, batch_size: int) -> Teacher:
    """A teacher as it is given.

    Args:
        given: what `classifier_of` takes, a `PromptedTeacher`, a `TextTeacher`, or a function.
        student: whose classes count.
        batch_size: texts that are read together.
    Raises:
        TypeError: something else.
        ValueError: other classes than the student's.
    """
    if isinstance(given, PromptedTeacher):
        return Prompted(given, student)
    classifier = None if isinstance(given, TextTeacher) else classifier_of(given, batch_size, "teacher")
    if classifier is not None:
        return ClassifierTeacher(classifier, student)
    if callable(given) and not isinstance(given, torch.nn.Module):
        return AskedTeacher(given, student, batch_size)
    raise TypeError(
        f"The teacher is a {type(given).__name__}: expected a folder or Hub id, (model, tokenizer), a pipeline, a "
        "PromptedTeacher, a ServedTeacher, or a function from a list of texts to a list of class names."
    )


def same_classes(student: Classifier, teacher: Sequence[str], named: bool) -> list[int]:
    """The teacher's number of each of the student's classes.

    Args:
        student: with its classes.
        teacher: names, in the teacher's order.
        named: whether these are more than LABEL_0 and so on, which are compared by their numbers.
    Raises:
        ValueError: other classes.
    """
    if sorted(student.classes) == sorted(teacher) and len(set(teacher)) == len(teacher):
        return [list(teacher).index(name) for name in student.classes]
    if len(teacher) == len(student.classes) and not (named and student.named):
        return list(range(len(teacher)))
    raise ValueError(
        f"The student's classes are {student.classes} and the teacher's {list(teacher)}: an answer of one would mean "
        "nothing to the other. Give both the same classes (id2label), or let a function translate the teacher's."
    )


def names_of(decided: Any, classes: Sequence[str]) -> list[str]:
    """The names of a decision: one class, or with several labels all that apply.

    >>> names_of(1, ["a", "b"]), names_of([1, 1], ["a", "b"])
    (['b'], ['a', 'b'])
    """
    if np.ndim(decided) == 0:
        return [classes[int(decided)]]
    return [name for name, applies in zip(classes, decided, strict=True) if applies]
