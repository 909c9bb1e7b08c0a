"""A tagger's teacher that marks spans of a text: a function, a pipeline, or a language model that answers with JSON."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from transformers import Pipeline, TokenClassificationPipeline
from transformers.pipelines.token_classification import AggregationStrategy

from hf_distill.tag_schemes import BILOU, IOBES, tag_scheme
from hf_distill.teachers.ask import FunctionTeacher, ask, checked_texts, class_finder
from hf_distill.teachers.identity import tokenizer_hash, weights_hash
from hf_distill.teachers.live import LiveTeacher
from hf_distill.teachers.prompted import PromptedTeacher
from hf_distill.teachers.span_targets import LABELS, Sentence, SpanTargets, iob2_tags, label_of, read_spans
from hf_distill.teachers.text import Answers, TextTeacher, quoted

INSTRUCTION = "Which parts of the text are mentions of these classes?"
KEPT = ("start", "end", "text", "score")  # of a span, beside its label

Function = Callable[[list[str]], Sequence[Sequence[Mapping[str, Any]]]]


class SpanTeacher(TextTeacher):
    """A teacher that is given texts and marks spans of them, from which each word gets a tag.

    Its answer is the spans of a text as JSON: a list of objects with a `label` (or `entity_group`, `entity`), `start`
    and `end` in characters or the marked `text` itself, and perhaps a probability as `score`.

    A word's target is the tag of the span that it is in. The span's score is its probability, and the rest is on O,
    since what a teacher does not mark is O. Words outside of spans and spans without a score are certain, but for a
    millionth of the probability, which all tags share. What can be wrong with an answer has one rule each, `RULES` in
    `hf_distill.teachers.span_targets`; counts and a warning tell how often each was applied.

    Args:
        teacher: a function from a list of texts to as many lists of spans, in order; a pipeline of transformers for
            token classification, with an `aggregation_strategy`; or a `TextTeacher` (a `ServedTeacher`, for instance),
            which is asked the `question`.
        classes: of the spans: names, or names with what each means. None: a pipeline's.
        instruction: what a `TextTeacher` is asked, in a sentence or two. None: `INSTRUCTION`.
        name: of a function, in ledgers and caches: another one whenever it marks differently.
        batch_size: texts of a call of a function or pipeline.
    Raises:
        TypeError: a model, another pipeline, or a teacher that answers with something else.
        ValueError: a pipeline that answers with pieces of words or without offsets, classes that are missing, the same
            or not the pipeline's, or an option that the teacher does not have.

    >>> def cities(texts):
    ...     return [[{"text": "Paris", "label": "LOC", "score": 0.9}] if "Paris" in text else [] for text in texts]
    >>> teacher = SpanTeacher(cities, ["LOC"], name="cities 1")
    >>> targets = teacher.targets([Sentence.of_words(["In", "Paris", "today"])])
    >>> [targets.tags[number] for number in targets.labels[0]], targets.log_probabilities[0][1].round(2).tolist()
    (['O', 'B-LOC', 'O'], [-2.299999952316284, -0.10999999940395355, -14.90999984741211])
    """

    def __init__(
        self,
        teacher: TextTeacher | Pipeline | Function,
        classes: Sequence[str] | Mapping[str, str | None] | None = None,
        *,
        instruction: str | None = None,
        name: str | None = None,
        batch_size: int = 32,
    ) -> None:
        self.is_asked = isinstance(teacher, TextTeacher)
        if isinstance(teacher, PromptedTeacher | nn.Module) or not (self.is_asked or callable(teacher)):
            raise TypeError(
                f"A {type(teacher).__name__} marks no spans: expected a function from texts to lists of spans, a "
                "token-classification pipeline or a TextTeacher. A token classifier's own logits are those of "
                "cache_teacher_outputs."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        own_name = self.is_asked or isinstance(teacher, Pipeline)
        for option, foreign in (("instruction", instruction and not self.is_asked), ("name", name and own_name)):
            if foreign:
                raise ValueError(f"{option}: a {type(teacher).__name__} does not take one. Leave it out.")
        self.teacher: Any = teacher
        known = _pipeline_classes(teacher) if isinstance(teacher, Pipeline) else None
        self.meanings = _meanings(known if classes is None else classes)
        if known is not None and {*known} != {*self.classes}:
            raise ValueError(f"classes: the pipeline marks {known}, got {self.classes}. Leave classes out.")
        self.instruction, self._name, self.batch_size = instruction or INSTRUCTION, name, batch_size
        self._asked = 0  # texts, until now

    @property
    def classes(self) -> list[str]:
        """The classes of spans."""
        return [*self.meanings]

    @property
    def tags(self) -> list[str]:
        """O, and B- and I- of each class, in order."""
        return iob2_tags(self.classes)

    @property
    def name(self) -> str:
        """Of a model: its name, its question and the classes; of a pipeline: hashes and options; a function's own."""
        if self.is_asked:
            return json.dumps({"teacher": self.teacher.name, "question": self.question("{text}")}, sort_keys=True)
        if isinstance(self.teacher, Pipeline):
            return _pipeline_name(self.teacher)
        if self._name is None:
            return FunctionTeacher(self.teacher, self.batch_size).name  # raises
        return self._name

    @property
    def shown(self) -> str:
        """A name for people: of a served model or a function its own, else the class of the model."""
        if isinstance(self.teacher, Pipeline | TextTeacher):
            model = getattr(self.teacher, "model", self.teacher)
            return model if isinstance(model, str) else type(model).__name__
        return self.name

    def question(self, text: str) -> str:
        """What a `TextTeacher` is asked about a text; nothing is sent."""
        lines = [f"- {name} ({meaning})" if meaning else f"- {name}" for name, meaning in self.meanings.items()]
        names = ", ".join(json.dumps(name, ensure_ascii=False) for name in self.classes)
        form = (
            "Answer with a JSON list and nothing else, with an object for each mention in the order of the text: "
            f'{{"text": the mention as it stands in the text, "label": one of {names}}}. Answer [] if there is none.'
        )
        return "\n\n".join([self.instruction, "\n".join(lines), form, f"Text: {text}\n\nAnswer:"])

    def answers(self, texts: list[str]) -> Answers:
        """Pairs of a text's number and its spans as JSON, or what a model answered in their place."""
        self._asked += len(texts)
        if self.is_asked:
            return self.teacher.answers([self.question(text) for text in texts])
        if isinstance(self.teacher, Pipeline):
            _check_lengths(self.teacher, texts)
        return FunctionTeacher(self._marked, self.batch_size).answers(texts)

    def targets(
        self, sentences: Sequence[Sentence], *, tags: Sequence[str] | None = None, ledger: Any = None
    ) -> SpanTargets:
        """The tags of sentences' words. Each distinct text is asked about once, and never again with a ledger.

        Args:
            sentences: none may be blank.
            tags: the student's, in the order of their numbers. None: `tags` of the teacher.
            ledger: file of answers; see `ask`.
        Raises:
            ValueError: tags that are not the teacher's in another order, told before anything is asked; no answer that
                is of use, and the errors of `ask`.
        """
        tags = self.checked_tags(tags)
        texts = checked_texts([sentence.text for sentence in sentences])
        started, distinct, before = time.perf_counter(), len({*texts}), self._asked
        answers = ask(self, texts, ledger=ledger)
        targets = read_spans(answers, sentences, self.classes, tags)
        targets.tell(self.classes)
        asked = self._asked - before
        targets.counts |= {"distinct": distinct, "asked": asked, "answered": distinct - asked}
        targets.seconds = time.perf_counter() - started
        return targets

    def checked_tags(self, tags: Sequence[str] | None, whose: str = "tags") -> list[str]:
        """Tags in the order of the student's numbers.

        Args:
            tags: None: the teacher's.
            whose: they are, for the error.
        Raises:
            ValueError: they are not those of the teacher's classes.
        """
        own = self.tags
        tags = own if tags is None else list(tags)
        if sorted(map(str, tags)) != sorted(own):
            missing, foreign = ([*dict.fromkeys(a for a in b if a not in c)] for b, c in ((own, tags), (tags, own)))
            raise ValueError(
                f"{whose}: expected the IOB2 tags of the teacher's classes {self.classes} in any order, got {tags} "
                f"(missing: {missing}; unknown: {foreign}). Rename the classes of one of them, or leave out spans of "
                "other classes in a function around the teacher."
            )
        return tags

    def _marked(self, texts: list[str]) -> Any:
        """The spans of some texts as JSON."""
        if isinstance(self.teacher, Pipeline):
            pads = getattr(self.teacher.tokenizer, "pad_token", None) is not None
            found: Any = self.teacher(texts, batch_size=self.batch_size if pads else 1)
        else:
            found = self.teacher(texts)
        if not isinstance(found, list | tuple) or len(found) != len(texts):
            return found  # which FunctionTeacher refuses
        return [json.dumps(self._spans(spans, text), default=str) for spans, text in zip(found, texts, strict=True)]

    def _spans(self, spans: Any, text: str) -> list[dict[str, Any]]:
        if not isinstance(spans, list | tuple) or not all(isinstance(span, Mapping) for span in spans):
            raise TypeError(
                f"Expected a list of spans of each text, each a mapping with {' or '.join(LABELS)}, with start and end "
                f"or text, and perhaps with score; got {spans!r:.200} of {quoted(text)}."
            )
        return [_plain(span) for span in spans]


def _plain(span: Mapping[str, Any]) -> dict[str, Any]:
    """A span as JSON holds it, with the scalars of numpy and torch as Python's."""
    kept = {"label": label_of(span), **{name: span[name] for name in KEPT if span.get(name) is not None}}
    return {name: value.item() if hasattr(value, "item") else value for name, value in kept.items()}


def _meanings(classes: Any) -> dict[str, str | None]:
    """Each class and what it means, if that is given."""
    if classes is None or isinstance(classes, str) or not len(classes):
        raise ValueError(
            f"classes: expected the names of the spans' classes, ['PER', 'LOC'] for instance; got {classes!r}."
        )
    made = dict(classes) if isinstance(classes, Mapping) else dict.fromkeys(classes)
    texts = [*made, *(meaning for meaning in made.values() if meaning is not None)]
    if len(made) < len(classes) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"classes: expected different names, and texts of what they mean; got {classes!r}.")
    class_finder([*made])  # which raises for names that differ in case alone
    return made


# Pipelines


def _pipeline_classes(pipeline: Any) -> list[str]:
    """The classes of a pipeline's spans."""
    if not isinstance(pipeline, TokenClassificationPipeline):
        raise TypeError(f"A {type(pipeline).__name__} marks no spans: expected one for token-classification.")
    options: Any = pipeline._postprocess_params
    model, tokenizer = pipeline.model, pipeline.tokenizer
    if options.get("aggregation_strategy", AggregationStrategy.NONE) == AggregationStrategy.NONE:
        raise ValueError(
            "This pipeline answers with pieces of words, and spans are whole mentions: make it with "
            'aggregation_strategy="simple".'
        )
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"{type(tokenizer).__name__} gives no offsets: the pipeline needs a fast tokenizer.")
    labels = [str(label) for _, label in sorted(dict(model.config.id2label or {}).items())]
    if tag_scheme(labels) in (IOBES, BILOU):
        raise ValueError(
            f"The pipeline groups B- and I- tags alone, and its model's are {labels}. Wrap it in a function that puts "
            "its spans together, or use cache_teacher_outputs for a student with the same tags."
        )
    ignored = options.get("ignore_labels") or ["O"]
    names = [label[2:] if label[:2] in ("B-", "I-") else label for label in labels if label not in ignored]
    return [name for name in dict.fromkeys(names) if name not in ignored]


def _pipeline_name(pipeline: Any) -> str:
    """Hashes of the model and the tokenizer, and the options that an answer depends on."""
    return json.dumps(
        {
            "model": type(pipeline.model).__name__,
            "weights": weights_hash(LiveTeacher(pipeline.model, pipeline.model.device)),
            "tokenizer": tokenizer_hash(pipeline.tokenizer),
            "labels": sorted(pipeline.model.config.id2label.items()),
            "options": [pipeline._preprocess_params, pipeline._postprocess_params],
        },
        sort_keys=True,
        default=str,
    )


def _check_lengths(pipeline: Any, texts: list[str]) -> None:
    """Raise a ValueError for texts that the pipeline would cut without a word."""
    options = pipeline._preprocess_params.get("tokenizer_params", {})
    limit = min(pipeline.tokenizer.model_max_length, LiveTeacher(pipeline.model, pipeline.model.device).limits[0])
    if "stride" in options or not texts:
        return
    lengths = [len(ids) for ids in pipeline.tokenizer(texts, verbose=False)["input_ids"]]
    long = [number for number, length in enumerate(lengths) if length > limit]
    if long:
        raise ValueError(
            f"{len(long)} of {len(texts)} texts are longer than the {limit} tokens that the pipeline reads, the first "
            f"of {lengths[long[0]]}: {quoted(texts[long[0]])}. It would cut them, and the rest would be taught as "
            "O. Make the pipeline with stride=..., split the texts, or leave them out."
        )
