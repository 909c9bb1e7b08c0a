"""A classifier's teacher that is a language model behind a prompt, on this machine or on a server."""

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.teachers.ask import ask, checked_texts
from hf_distill.teachers.class_requests import WAYS, UnavailableError, Way, is_fatal
from hf_distill.teachers.class_targets import METHODS, ClassTargets, read_answers, scores_answer, tokens_of
from hf_distill.teachers.identity import tokenizer_hash, weights_hash
from hf_distill.teachers.ledger import answer_key, open_ledger
from hf_distill.teachers.likelihoods import AnswerLikelihoods
from hf_distill.teachers.live import LiveTeacher
from hf_distill.teachers.prompts import ClassPrompt
from hf_distill.teachers.served import ServedTeacher
from hf_distill.teachers.text import Answers, TextTeacher, logger, quoted

DECISION = "How does this teacher answer?"  # the text of a ledger's entry about the method
CONTENT_FREE = ("N/A", "[MASK]", "-")
LOCAL, SERVED = ("answers", "letters"), ("letters", "scoring", "structured", "hard")
# What the log-probabilities of the classes at temperature 1 depend on.
OWN_OPTIONS = ("temperature", "top_p", "top_k", "min_p", "logprobs", "top_logprobs", "response_format", "echo")


@dataclass(frozen=True)
class Questions:
    """What asking would take, before anything is sent.

    Attributes:
        prompt: the rendered prompt of the first text.
        texts: all of them.
        distinct: the different ones, each of which is asked once.
        answered: of those, how many the ledger holds.
        requests: the most that would be sent, retries and the first text's trials of other methods aside.
        method: how answers would be read; None where the first request decides.
    """

    prompt: str
    texts: int
    distinct: int
    answered: int
    requests: int
    method: str | None

    def __str__(self) -> str:
        how = "decided by the first request" if self.method is None else METHODS[self.method]
        return (
            f"{self.prompt}\n\n{self.texts} texts, {self.distinct} different ones, {self.answered} of them answered "
            f"before; at most {self.requests} requests. Answers: {how}."
        )


class PromptedTeacher:
    """A language model that is asked for a text's class, and answers with log-probabilities of the classes.

    Of a local model they are the likelihoods of each class's whole answer. Of a server they come from the first of
    these that it offers, decided on once, by its answer to the longest text, and kept in the ledger:

    - `letters`: the log-probabilities of the first token, where each class is a letter;
    - `scoring`: the likelihood of each class's whole answer, by `prompt_logprobs` (vLLM) or `echo` with `logprobs`;
    - `structured`: the share of `samples` answers that name a class, by a JSON schema;
    - `hard`: one answer.

    They are conditional on naming a class, at temperature 1; the probability of everything else is kept beside them.

    Args:
        model: a causal or sequence-to-sequence model, or a `ServedTeacher`, whose concurrency, retries and options
            count; its `system` is put before the instruction.
        tokenizer: the model's. A served model's is needed only for `scoring` by its chat template.
        prompt: a `ClassPrompt`, or an instruction.
        classes: names, or names with what each means, where `prompt` is an instruction.
        method: one of those above; for a local model `answers` (the default: names) or `letters`. None: as said.
        samples: answers a text, for `structured`.
        batch_size: answers a forward of a local model.
    Raises:
        TypeError: neither a model that writes nor a `ServedTeacher`.
        ValueError: a prompt without classes, an unknown method, or options that the log-probabilities depend on.

    >>> from hf_distill.teachers import ServedTeacher
    >>> served = ServedTeacher("Qwen/Qwen3-8B", base_url="http://localhost:8000/v1", api_key="none")
    >>> teacher = PromptedTeacher(served, prompt="How does the writer feel?", classes=["negative", "positive"])
    >>> print(teacher.describe(["What a day!"]).prompt)
    [system]
    How does the writer feel?
    <BLANKLINE>
    A: negative
    B: positive
    <BLANKLINE>
    Answer with one letter and nothing else: A or B.
    <BLANKLINE>
    [user]
    Text: What a day!
    <BLANKLINE>
    Answer with one letter and nothing else: A or B.
    """

    def __init__(
        self,
        model: PreTrainedModel | ServedTeacher,
        tokenizer: PreTrainedTokenizerBase | None = None,
        prompt: ClassPrompt | str | None = None,
        classes: Sequence[str] | Mapping[str, str | None] | None = None,
        *,
        method: str | None = None,
        samples: int = 8,
        batch_size: int = 32,
    ) -> None:
        if not isinstance(model, PreTrainedModel | ServedTeacher):
            raise TypeError(f"Expected a PreTrainedModel or a ServedTeacher, got {type(model).__name__}.")
        self.is_served = isinstance(model, ServedTeacher)
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.prompt = _prompt(prompt, classes)
        methods = SERVED if self.is_served else LOCAL
        if method is not None and method not in methods:
            raise ValueError(f"method: expected one of {', '.join(methods)}, or None; got {method!r}.")
        if samples < 1 or batch_size < 1:
            raise ValueError(f"samples and batch_size must be at least 1, got {samples} and {batch_size}.")
        if isinstance(model, PreTrainedModel) and not model.can_generate():
            raise TypeError(
                f"A {type(model).__name__} writes no answers: expected a causal or sequence-to-sequence one. A "
                "classifier needs no prompt: see cache_teacher_outputs."
            )
        if not self.is_served and tokenizer is None:
            raise ValueError("A local model needs its tokenizer.")
        own = [name for name in OWN_OPTIONS if isinstance(model, ServedTeacher) and name in model.options]
        if own:
            raise ValueError(
                f"The log-probabilities of the classes are those at temperature 1 and need options of their own: leave "
                f"{', '.join(own)} out of the ServedTeacher."
            )
        self.method = method if self.is_served else method or "answers"
        self.samples, self.batch_size = samples, batch_size
        self._identity: dict[str, Any] | None = None
        self._decision: dict[str, Any] | None = None

    def describe(self, texts: Sequence[str], *, ledger: str | Path | None = None) -> Questions:
        """The prompt of the first text and the number of questions; nothing is sent, and no model is called.

        Args:
            texts: to ask for the classes of.
            ledger: whose answers are not asked for again.
        """
        texts = self._checked(texts)
        distinct = list(dict.fromkeys(texts))
        decision, answered = self._known(distinct, ledger)
        method = self.method or (decision or {}).get("method")
        missing = len(distinct) - answered
        per_text = self.samples if method in (None, "structured") else 1
        return Questions(
            self._rendered(texts[0], method),
            len(texts),
            len(distinct),
            answered,
            missing * per_text if self.is_served else 0,
            method,
        )

    def __call__(
        self, texts: Sequence[str], *, ledger: str | Path | None = None, prior: Sequence[str] = ()
    ) -> ClassTargets:
        """The classes' log-probabilities of texts. Each distinct text is asked once, and never again with a ledger.

        Args:
            texts: none may be blank.
            ledger: file of answers; see `ask`.
            prior: content-free texts (`CONTENT_FREE`, for instance) whose answers show a prior of the classes, which is
                taken out.
        Returns:
            Targets in the order of the texts.
        Raises:
            ValueError: a prompt that is longer than the model reads, a request that the server refuses, no method
                that it offers, or no answer that names a class.
            ConnectionError: a server that fails at every attempt. Earlier answers are in the ledger.
        """
        texts, prior = self._checked(texts), checked_texts(prior)
        started = time.perf_counter()
        before = self._sent
        settings, first, probes = self._decided([*texts, *prior], ledger)
        reader = self._reader(settings, first)
        answers = ask(reader, [*texts, *prior], ledger=ledger)
        targets = read_answers(answers[: len(texts)], self.prompt.names, settings["method"])
        distinct = dict(zip([*texts, *prior], answers, strict=True))
        read, written = tokens_of(list(distinct.values()))
        requests, attempts = (now - then for now, then in zip(self._sent, before, strict=True))
        targets.counts |= {
            "distinct": len(distinct),
            "asked": reader.asked,
            "answered": len(distinct) - reader.asked,
            "samples": reader.asked * {"structured": self.samples, "hard": 1}.get(settings["method"], 0),
            "requests": requests - probes,
            "probes": probes,
            "retries": attempts - requests,
            "tokens_in": read,
            "tokens_out": written,
        }
        targets.seconds = time.perf_counter() - started
        targets.notes = [METHODS[settings["method"]], *settings.get("notes", [])]
        if not prior:
            return targets
        return targets.corrected(read_answers(answers[len(texts) :], self.prompt.names, settings["method"]))

    def record(self, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What an answer depends on: the model, the prompt and the method."""
        if self._identity is None:
            self._identity = _identity(self.model)
        method = None if settings is None else settings["method"]
        reads = self.tokenizer is not None and (not self.is_served or method == "scoring")
        return {
            "teacher": self._identity,
            "tokenizer": [tokenizer_hash(self.tokenizer), self.tokenizer.chat_template] if reads else None,
            "prompt": self.prompt.record(),
            "method": method,
            "samples": self.samples if method == "structured" else None,
        }

    def _checked(self, texts: Sequence[str]) -> list[str]:
        found = checked_texts(texts)
        if not found:
            raise ValueError("There are no texts to ask for the classes of.")
        return found

    @property
    def _sent(self) -> tuple[int, int]:
        """The requests that were sent until now, and how often."""
        return (self.model.endpoint.requests, self.model.endpoint.attempts) if self.is_served else (0, 0)

    def _rendered(self, text: str, method: str | None) -> str:
        by_letter = method == "letters" or (method is None and self.is_served)
        if not self.is_served or (method == "scoring" and self.tokenizer is not None):
            if self.is_served or not self.model.config.is_encoder_decoder:
                return self.prompt.rendered(text, by_letter, self.tokenizer)[0]
            return self.prompt.plain(text, by_letter)
        if method == "scoring":
            return self.prompt.plain(text, by_letter)
        return "\n\n".join(
            f"[{message['role']}]\n{message['content']}" for message in self.prompt.messages(text, by_letter)
        )

    # The method

    def _decision_name(self) -> str:
        return json.dumps({**self.record(), "decision": self.method, "samples": self.samples}, sort_keys=True)

    def _known(self, distinct: list[str], ledger: str | Path | None) -> tuple[dict[str, Any] | None, int]:
        """The ledger's decision on the method, and how many of the texts it answers."""
        if ledger is None or not Path(ledger).exists():
            return None, 0
        with contextlib.suppress(Timeout), open_ledger(Path(ledger), timeout=0) as (saved, _):
            found = saved.get(answer_key(self._decision_name(), DECISION)) if self.is_served else None
            decision: dict[str, Any] | None = None if self.is_served else {"method": self.method}
            if found is not None:
                decision = json.loads(found)
            if decision is None:
                return None, 0
            name = self._answers_name(decision)
            return decision, sum(answer_key(name, text) in saved for text in distinct)
        return None, 0  # another process is asking

    def _decided(self, texts: list[str], ledger: str | Path | None) -> tuple[dict[str, Any], dict[str, str], int]:
        """How answers are read, the answer that was given in finding out, and the requests that found nothing."""
        if not self.is_served:
            return {"method": self.method}, {}, 0
        decider = _Decider(self, texts)
        (decision,) = ask(decider, [DECISION], ledger=ledger)
        self._decision = json.loads(decision)
        return self._decision, decider.answered, decider.probes

    def _answers_name(self, settings: Mapping[str, Any]) -> str:
        return json.dumps(self.record(settings), sort_keys=True)

    def _reader(self, settings: dict[str, Any], first: dict[str, str]) -> Any:
        if self.is_served:
            ways = {way.method: way for way in WAYS}
            return _ServedReader(self, ways[settings["method"]](*self._way_arguments, settings), first)
        return _LocalReader(self)

    @property
    def _way_arguments(self) -> tuple[ServedTeacher, ClassPrompt, Any]:
        return self.model, self.prompt, self.tokenizer


class _Decider(TextTeacher):
    """Finds out how a server's answers can be read, by asking about the longest text.

    The longest one, since a prompt that is too long is then told before any other is sent.
    """

    def __init__(self, teacher: PromptedTeacher, texts: list[str]) -> None:
        self.teacher = teacher
        self.text = max(texts, key=lambda text: len(text.encode())) if texts else ""
        self.answered: dict[str, str] = {}
        self.probes = 0

    @property
    def name(self) -> str:
        return self.teacher._decision_name()

    def answers(self, texts: list[str]) -> Answers:
        if texts:
            yield 0, json.dumps(self.teacher._decision or self._found())

    def _found(self) -> dict[str, Any]:
        teacher, endpoint = self.teacher, self.teacher.model.endpoint
        before = endpoint.requests
        reasons: list[str] = []
        for kind in WAYS:
            if teacher.method not in (None, kind.method):
                continue
            settings: dict[str, Any] = {"method": kind.method, "samples": teacher.samples}
            way = kind(*teacher._way_arguments, settings)
            try:
                self.answered[self.text] = way.probe(self.text)
            except (UnavailableError, ValueError) as error:
                if is_fatal(error):
                    raise
                reasons.append(f"{kind.method}: {getattr(error, 'reason', error)}")
                continue
            self.probes = endpoint.requests - before - way.sent
            settings["notes"] = [f"Not available: {reason}" for reason in reasons]
            if reasons:
                notes = " ".join(settings["notes"])
                logger.warning(f"{endpoint.where} answers by {kind.method}: {METHODS[kind.method]}. {notes}")
            return settings
        raise ValueError(
            f"{endpoint.where} cannot be asked for classes. {'; '.join(reasons)}. No text was asked or counted."
        )


class _ServedReader(TextTeacher):
    """Answers of a server, read in the way that was decided on."""

    def __init__(self, teacher: PromptedTeacher, way: Way, first: dict[str, str]) -> None:
        self.teacher, self.way, self.first = teacher, way, first
        self.asked = 0

    @property
    def name(self) -> str:
        return self.teacher._answers_name(self.way.settings)

    def answers(self, texts: list[str]) -> Answers:
        endpoint = self.teacher.model.endpoint
        self.asked = len(texts)
        known = [number for number, text in enumerate(texts) if text in self.first]
        for number in known:
            yield number, self.first[texts[number]]
        unknown = [number for number in range(len(texts)) if number not in known]
        for place, answer in endpoint.in_flight(self._answer, [texts[number] for number in unknown]):
            yield unknown[place], answer

    def _answer(self, text: str) -> str:
        try:
            return self.way.answer(text)
        except UnavailableError as error:
            raise ValueError(
                f"{self.teacher.model.endpoint.where} answered earlier texts by {self.way.method}, and for "
                f"{quoted(text)} {error}. Earlier answers are in the ledger, if there is one."
            ) from error


class _LocalReader(TextTeacher):
    """Answers of a local model: how likely it finds each."""

    def __init__(self, teacher: PromptedTeacher) -> None:
        self.teacher = teacher
        self.asked = 0

    @property
    def name(self) -> str:
        return self.teacher._answers_name({"method": self.teacher.method})

    def answers(self, texts: list[str]) -> Answers:
        teacher = self.teacher
        self.asked = len(texts)
        by_letter = teacher.method == "letters"
        likelihoods = AnswerLikelihoods(teacher.model, teacher.tokenizer, teacher.prompt, by_letter, teacher.batch_size)
        questions = likelihoods.questions(texts)
        for numbers, summed in likelihoods(questions):
            for number, scores in zip(numbers, summed.tolist(), strict=True):
                usage = len(questions[number].prefix), sum(map(len, questions[number].answers))
                yield number, scores_answer(scores, min(scores), usage)


def _prompt(prompt: ClassPrompt | str | None, classes: Any) -> ClassPrompt:
    if isinstance(prompt, ClassPrompt):
        if classes is not None:
            raise ValueError("The classes are in the ClassPrompt: leave classes out.")
        return prompt
    if classes is None:
        raise ValueError("Which classes? Pass classes=[...], or a ClassPrompt.")
    return ClassPrompt(classes) if prompt is None else ClassPrompt(classes, prompt)


def _identity(model: Any) -> dict[str, Any]:
    """What stands for a model in a ledger."""
    if isinstance(model, ServedTeacher):
        return {"served": json.loads(model.name)}
    return {"model": type(model).__name__, "weights": weights_hash(LiveTeacher(model, model.device))}
