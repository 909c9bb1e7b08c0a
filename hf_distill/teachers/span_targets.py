"""Spans of a text as tags of its words: aligned, checked, counted, and made into log-probabilities of IOB2 tags."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from tokenizers.pre_tokenizers import BertPreTokenizer

from hf_distill.problems import IGNORE_INDEX
from hf_distill.teachers.ask import class_finder
from hf_distill.teachers.text import logger

OUTSIDE = "O"
LABELS = ("label", "entity_group", "entity")
# Of each word's probability, spread evenly over all tags: a span without a score is not certain, and no log is -inf.
SMOOTHING = 1e-6
ROUNDING = 1e-6  # a softmax in float32 may end this much above 1
# What can be wrong with an answer or a span of it, and the one rule for it.
RULES = {
    "unreadable": "answers hold no JSON list of spans: their texts have no target",
    "malformed": "spans have no label, or neither offsets nor a text: left out",
    "unknown_label": "spans have a label that is no class: left out",
    "out_of_text": "spans have offsets that hold no word of the text: left out",
    "not_found": "spans have a text that is not in the text: left out",
    "relocated": "spans have offsets of another text than theirs: the text counts",
    "repeated": "spans have a text that is found several times: each of its places is tagged",
    "widened": "spans begin or end within a word: widened to the whole word",
    "bad_score": "scores are no probability: left out, and their spans kept without one",
    "overlapping": "spans share a word with one of a higher score, of more words or before them: left out",
}

Places = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Sentence:
    """A text, and where its words stand in it.

    Attributes:
        text: what a teacher reads.
        places: of each word, the first character and the one after the last.
    """

    text: str
    places: Places

    @classmethod
    def of_words(cls, words: Sequence[str]) -> "Sentence":
        """Words with a space between them.

        >>> Sentence.of_words(["Fulton", "County"])
        Sentence(text='Fulton County', places=[(0, 6), (7, 13)])
        """
        starts = accumulate((len(word) + 1 for word in words[:-1]), initial=0)
        return cls(" ".join(words), [(start, start + len(word)) for start, word in zip(starts, words, strict=False)])

    @classmethod
    def of_text(cls, text: str) -> "Sentence":
        """A text, split at spaces and around each punctuation mark, as BERT's tokenizers split it.

        >>> Sentence.of_text("In Paris.").words
        ['In', 'Paris', '.']
        """
        return cls(text, [place for _, place in BertPreTokenizer().pre_tokenize_str(text)])

    @property
    def words(self) -> list[str]:
        """The words."""
        return [self.text[start:end] for start, end in self.places]


@dataclass
class SpanTargets:
    """What a teacher's spans tell of each word's tag.

    Attributes:
        tags: names in the order of their numbers: O, and B- and I- of each class.
        log_probabilities: of each text (words, tags) float32, normalised; NaN where it has no target.
        counts: of `texts`, `distinct` ones, those `asked` now and those that were `answered` before, texts
            `without_target`, the `spans_given`, the `spans` that became tags, and how often each of `RULES` applied.
        seconds: that asking took now.
    """

    tags: list[str]
    log_probabilities: list[np.ndarray]
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def has_target(self) -> np.ndarray:
        """(texts,) bool, whether the answer could be read at all."""
        return np.array([not np.isnan(each).any() for each in self.log_probabilities], dtype=bool)

    @property
    def labels(self) -> list[np.ndarray]:
        """Of each text (words,) int64, the most likely tag; -100 where there is no target."""
        pairs = zip(self.log_probabilities, self.has_target, strict=True)
        return [each.argmax(axis=1) if known else np.full(len(each), IGNORE_INDEX) for each, known in pairs]

    def tell(self, classes: Sequence[str]) -> None:
        """Log what was wrong with the answers.

        Args:
            classes: of the spans.
        Raises:
            ValueError: no answer can be read, or none of the spans in them is of use.
        """
        counts, texts, given = self.counts, self.counts["texts"], self.counts["spans_given"]
        told = "; ".join(f"{counts[name]} {rule}" for name, rule in RULES.items() if counts[name])
        message = f"Of {texts} answers with {given} spans for the classes {list(classes)}: {told}."
        if texts and (counts["unreadable"] == texts or (given and not counts["spans"])):
            raise ValueError(
                f'{message} That leaves nothing. Expected of each text a list of spans as {{"start": 0, "end": 5, '
                '"label": "PER"} or {"text": "Maria", "label": "PER"}: change the instruction or the function.'
            )
        if told:
            logger.warning(message)
        if texts and not given:
            logger.warning(f"None of {texts} answers has a span: every word is tagged {OUTSIDE}.")


def iob2_tags(classes: Iterable[str]) -> list[str]:
    """The tags of some classes of entities.

    >>> iob2_tags(["PER", "LOC"])
    ['O', 'B-PER', 'I-PER', 'B-LOC', 'I-LOC']
    """
    return [OUTSIDE, *(f"{letter}-{name}" for name in classes for letter in "BI")]


def read_spans(
    answers: Sequence[str], sentences: Sequence[Sentence], classes: Sequence[str], tags: Sequence[str]
) -> SpanTargets:
    """Targets from answers that are JSON lists of spans; see `SpanTeacher` for the rules.

    Args:
        answers: one a sentence.
        sentences: that were asked about.
        classes: of the spans.
        tags: those of `iob2_tags(classes)`, in any order.
    """
    reader = _Reader(classes, tags)
    pairs = zip(answers, sentences, strict=True)
    targets = SpanTargets(list(tags), [reader.target(answer, sentence) for answer, sentence in pairs])
    counts = reader.counts
    targets.counts = {"texts": len(answers), "without_target": counts["unreadable"], "spans_given": reader.given}
    targets.counts |= {name: counts[name] for name in ("spans", *RULES)}
    return targets


def parsed(answer: str) -> list[Any] | None:
    """The list of spans in a model's answer; None where it holds none.

    Reasoning before it, a fence around it, prose beside it and an object with it as its only list are no part of it. A
    list that was cut short, or several, are none.

    >>> parsed('Here they are: {"entities": [{"text": "Maria", "label": "PER"}]}')
    [{'text': 'Maria', 'label': 'PER'}]
    >>> parsed('[{"text": "Maria", "label"') is None
    True
    """
    answer = answer.rpartition("</think>")[2]
    start = re.search(r"[\[{]", answer)
    if start is None or "<think>" in answer:  # without its end
        return None
    try:
        found, end = json.JSONDecoder().raw_decode(answer, start.start())
    except (ValueError, RecursionError):  # not JSON, or nested too deeply for its parser
        return None
    if re.search(r"[\[{]", answer[end:]):
        return None
    if isinstance(found, list):
        return found
    lists = [value for value in found.values() if isinstance(value, list)]
    return [found] if label_of(found) is not None else lists[0] if len(lists) == 1 else None


def label_of(span: Mapping[str, Any]) -> Any:
    """The label of a span, under the first of its names that is there."""
    return next((span[name] for name in LABELS if span.get(name) is not None), None)


class _Reader:
    """Reads answers, and counts what is wrong with them."""

    def __init__(self, classes: Sequence[str], tags: Sequence[str]) -> None:
        self.number_of = class_finder(classes)
        numbers = {name: number for number, name in enumerate(tags)}
        self.outside, self.number_of_tags = numbers[OUTSIDE], len(tags)
        self.pairs = [(numbers[f"B-{name}"], numbers[f"I-{name}"]) for name in classes]
        self.counts: Counter[str] = Counter()
        self.given = 0  # spans

    def target(self, answer: str, sentence: Sentence) -> np.ndarray:
        """(words, tags) log-probabilities; NaN where the answer cannot be read."""
        items = parsed(answer)
        shape = len(sentence.places), self.number_of_tags
        if items is None:
            self.counts["unreadable"] += 1
            return np.full(shape, np.nan, dtype=np.float32)
        self.given += len(items)
        probabilities = np.zeros(shape)
        probabilities[:, self.outside] = 1
        for (first, last, number), score in self._chosen(self._aligned(self._located(items, sentence.text), sentence)):
            begin, inside = self.pairs[number]
            words = np.arange(first, last + 1)
            probabilities[words, self.outside] = 1 - score
            probabilities[words, np.where(words == first, begin, inside)] = score
            self.counts["spans"] += 1
        return np.log((1 - SMOOTHING) * probabilities + SMOOTHING / self.number_of_tags).astype(np.float32)

    def _located(self, items: list[Any], text: str) -> list[tuple[int, int, int, float]]:
        """The spans that have a place: its first character, the one after the last, the class and the score."""
        found: list[tuple[int, int, int, float]] = []
        mentions: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for item in items:
            label = label_of(item) if isinstance(item, dict) else None
            quoted = item.get("text") if label is not None else None
            quoted = quoted if isinstance(quoted, str) and quoted.strip() else None
            ends = [item.get(name) for name in ("start", "end")] if label is not None else [None]
            if not isinstance(label, str) or (None in ends and quoted is None):
                self.counts["malformed"] += 1
                continue
            number = self.number_of(label)
            if number == IGNORE_INDEX:
                self.counts["unknown_label"] += 1
                continue
            score = self._score(item.get("score"))
            place = _within(ends, text)
            if place is not None and (quoted is None or _squeezed(text[slice(*place)]) == _squeezed(quoted)):
                found.append((*place, number, score))
            elif quoted is None:
                self.counts["out_of_text"] += 1
            else:
                self.counts["relocated"] += None not in ends
                mentions[" ".join(quoted.split())].append((number, score))
        for quoted, those in mentions.items():
            places = _places(quoted, text)
            self.counts["not_found"] += 0 if places else len(those)
            if len(places) == len(those):  # in the order of the text
                found += [(*place, *mention) for place, mention in zip(places, those, strict=True)]
            else:
                self.counts["repeated"] += len(those) if len(places) > 1 else 0
                found += [(*place, *mention) for mention in those for place in places]
        return found

    def _score(self, score: Any) -> float:
        if score is None:
            return 1.0
        if isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 1 + ROUNDING:
            return min(float(score), 1.0)
        self.counts["bad_score"] += 1
        return 1.0

    def _aligned(self, spans: list[tuple[int, int, int, float]], sentence: Sentence) -> dict[tuple, float]:
        """The score of each first word, last word and class; the higher one of spans that are the same."""
        found: dict[tuple, float] = {}
        for start, end, number, score in spans:
            inside = sentence.text[start:end]
            start, end = end - len(inside.lstrip()), start + len(inside.rstrip())
            words = [at for at, (begin, stop) in enumerate(sentence.places) if begin < end and stop > start]
            if not (words and inside.strip()):
                self.counts["out_of_text"] += 1
                continue
            first, last = words[0], words[-1]
            self.counts["widened"] += sentence.places[first][0] < start or sentence.places[last][1] > end
            found[first, last, number] = max(score, found.get((first, last, number), 0.0))
        return found

    def _chosen(self, spans: dict[tuple, float]) -> list[tuple[tuple, float]]:
        """The spans that share no word; where some do, the one of the highest score, most words, and given first."""
        kept: list[tuple[tuple, float]] = []
        taken: set[int] = set()
        for (first, last, number), score in sorted(spans.items(), key=lambda each: (-each[1], each[0][0] - each[0][1])):
            words = {*range(first, last + 1)}
            if words & taken:
                self.counts["overlapping"] += 1
            else:
                taken |= words
                kept.append(((first, last, number), score))
        return kept


def _within(ends: Sequence[Any], text: str) -> tuple[int, int] | None:
    """The offsets of a span; None where they are none, or hold no character of the text."""
    if any(not isinstance(end, int) or isinstance(end, bool) for end in ends):
        return None
    start, end = ends
    return (start, end) if 0 <= start < end <= len(text) else None


def _places(quoted: str, text: str) -> list[tuple[int, int]]:
    """Where a text stands in another, between whole runs of letters and digits.

    Spaces may be of any width; where that finds nothing, they are ignored: "U.N." is found in "U . N .".
    """
    before = r"(?<!\w)" if re.match(r"\w", quoted) else ""
    after = r"(?!\w)" if re.match(r"\w", quoted[-1]) else ""
    for space, parts in ((r"\s+", quoted.split()), (r"\s*", [*_squeezed(quoted)])):
        found = [match.span() for match in re.finditer(before + space.join(map(re.escape, parts)) + after, text)]
        if found:
            return found
    return []


def _squeezed(text: str) -> str:
    return "".join(text.split())
