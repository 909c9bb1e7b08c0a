"""How a server is asked for a text's class: ways from the most informative to one that every server has."""

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from hf_distill.teachers.ask import class_finder
from hf_distill.teachers.class_targets import counts_answer, scores_answer
from hf_distill.teachers.likelihoods import shared_length
from hf_distill.teachers.prompts import ClassPrompt
from hf_distill.teachers.requests import RefusedRequestError
from hf_distill.teachers.served import ServedTeacher
from hf_distill.teachers.text import quoted
from hf_distill.teachers.token_texts import OtherTokenizerError, TokenTexts

TOP = (20, 5)  # the most first tokens that servers return: OpenAI's and vLLM's limit, and smaller ones
LEAST_MASS = 1e-3  # of all letters in the first answer; below it the model begins its answers with something else
MOST_MASS = 1.05  # that rounded probabilities of different tokens sum to
RULED_OUT = -9000.0  # JSON has no infinity: servers write -9999
AROUND_LETTER = " \t\n\r▁ĠĊ()[]{}.,:;*_`'\"“”-"
REASONING = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|$)", re.DOTALL)
PROMPT_END = 20  # characters by which the end of an echoed prompt is found
NEWER = "max_completion_tokens"  # in place of max_tokens, which some models refuse
FATAL = re.compile(
    r"model_not_found|model\b.*does not exist|context_length_exceeded|maximum context length|available context size"
)
ALLOWED = re.compile(r"max(?:imum)? allowed[^0-9]*(\d+)|less than or equal to (\d+)|<= ?(\d+)")


class UnavailableError(Exception):
    """A way of asking that a server or its model does not offer, with the reason."""


class Way(ABC):
    """One way of asking a server for a text's class.

    Args:
        served: the teacher behind the server.
        prompt: what is asked.
        tokenizer: the model's, if it is here.
        settings: what `probe` found.
    """

    method = ""
    by_letter = False

    def __init__(self, served: ServedTeacher, prompt: ClassPrompt, tokenizer: Any, settings: dict[str, Any]) -> None:
        self.served, self.prompt, self.tokenizer, self.settings = served, prompt, tokenizer, settings
        self.sent = 0  # requests for the answer that is tried in `probe`

    @abstractmethod
    def answer(self, text: str) -> str:
        """The answer to a text as the ledger keeps it."""

    def probe(self, text: str) -> str:
        """The answer to the first text, after finding out how to ask; `settings` are set.

        Raises:
            UnavailableError: this way of asking is not offered.
        """
        return self._tried(text)

    def _tried(self, text: str) -> str:
        self.sent = 0
        return self.answer(text)

    def _chat(self, text: str, **arguments: Any) -> Any:
        create = self.served.client.chat.completions.create
        messages = self.prompt.messages(text, self.by_letter)
        if self.served.system is not None:
            messages[0]["content"] = f"{self.served.system}\n\n{messages[0]['content']}"
        return self._sent(create, text, messages=messages, **arguments)

    def _sent(self, create: Any, text: str, **arguments: Any) -> Any:
        options = {**self.served.options, **arguments}
        if NEWER in arguments:
            options.pop("max_tokens", None)
        if "extra_body" in self.served.options and "extra_body" in arguments:
            options["extra_body"] = {**self.served.options["extra_body"], **arguments["extra_body"]}
        self.sent += 1
        return self.served.endpoint.send(create, text, model=self.served.model, **options)


class Letters(Way):
    """A letter for each class, read from the log-probabilities of the first token."""

    method, by_letter = "letters", True
    returned = 0  # first tokens with a log-probability, in the last answer

    def probe(self, text: str) -> str:
        self.prompt.answers(by_letter=True)  # refuses more classes than letters
        tops = [*TOP]
        while tops:
            self.settings["top"] = tops.pop(0)
            try:
                answer = self._tried(text)
            except RefusedRequestError as error:
                if NEWER in str(error) and self.settings.get("length") != NEWER:
                    self.settings["length"] = NEWER
                    tops.insert(0, self.settings["top"])
                    continue
                allowed = ALLOWED.search(str(error))
                if "logprobs" not in str(error) or (allowed is None and not tops):
                    raise
                if allowed is not None:
                    limit = int(next(filter(None, allowed.groups())))
                    tops = [limit] if 0 < limit < self.settings["top"] else []
                continue
            read = json.loads(answer)
            if self.returned < min(len(read["scores"]), self.settings["top"]):
                raise UnavailableError(f"it returns {self.returned} first tokens, of {self.settings['top']} asked for")
            mass = sum(math.exp(score) for score in read["scores"] if score is not None)
            if mass < LEAST_MASS:
                raise UnavailableError(
                    f"its first token is a class's letter with probability {mass:.1e} only; it begins with "
                    f"{quoted(read['said'] or '')}"
                )
            return answer
        raise UnavailableError("it returns no log-probabilities of the first token")

    def answer(self, text: str) -> str:
        length = {self.settings.get("length", "max_tokens"): 1}
        response = self._chat(text, logprobs=True, top_logprobs=self.settings["top"], temperature=1, **length)
        choice = response.choices[0]
        content = getattr(choice.logprobs, "content", None) if choice.logprobs is not None else None
        if not content:
            raise UnavailableError("it returns no log-probabilities")
        returned = [*(content[0].top_logprobs or ()), content[0]]
        entries = {each.token: each.logprob for each in returned if each.logprob is not None}
        entries = {token: logprob for token, logprob in entries.items() if logprob > RULED_OUT}  # and no NaN
        total = sum(map(math.exp, entries.values()))
        if not 0 < total < MOST_MASS:
            raise UnavailableError(
                f"what it returns are no log-probabilities: they sum to a probability of {total:.3g}"
            )
        self.returned = len(entries)
        scores, floor = self._scores(entries)
        return scores_answer(scores, floor, _usage(response), max(entries, key=entries.__getitem__))

    def _scores(self, entries: dict[str, float]) -> tuple[list[float | None], float]:
        """The log-probability of each class's letter, all of its spellings summed, and the smallest of all tokens."""
        letters = [letter for (letter,) in self.prompt.answers(by_letter=True)]
        found: dict[str, float] = {}
        for token, logprob in entries.items():
            letter = token.strip(AROUND_LETTER)
            if letter in letters:
                found[letter] = _log_sum([found.get(letter, -math.inf), logprob])
        return [found.get(letter) for letter in letters], min(entries.values())


class Scoring(Way):
    """Every class's whole answers, scored by the log-probabilities of a prompt that ends with them."""

    method = "scoring"
    FORMS = ("prompt_logprobs", "echo")

    @cached_property
    def texts(self) -> TokenTexts | None:
        return None if self.tokenizer is None else TokenTexts(self.tokenizer)

    def probe(self, text: str) -> str:
        reasons = []
        for form in self.FORMS:
            self.settings["form"] = form
            try:
                return self._tried(text)
            except (RefusedRequestError, UnavailableError) as error:
                if is_fatal(error):
                    raise
                reasons.append(f"{form}: {getattr(error, 'reason', error)}")
        raise UnavailableError("; ".join(reasons))

    def answer(self, text: str) -> str:
        prompts, class_of = self._prompts(text)
        if self.settings["form"] == "echo":
            arguments: dict[str, Any] = {"echo": True, "logprobs": 1}
        else:
            arguments = {"extra_body": {"prompt_logprobs": 1}}
        create = self.served.client.completions.create
        response = self._sent(create, text, prompt=prompts, max_tokens=1, temperature=1, **arguments)
        choices = sorted(response.choices, key=lambda choice: choice.index)
        if len(choices) != len(prompts):
            raise UnavailableError(f"it answers {len(prompts)} prompts of one request with {len(choices)} choices")
        read = _echoed if self.settings["form"] == "echo" else _scored
        rows = [read(choice, each, self.texts) for choice, each in zip(choices, prompts, strict=True)]
        common = shared_length([[token for token, _ in row] for row in rows])
        scores = [-math.inf] * len(self.prompt.names)
        for row, number in zip(rows[1:], class_of, strict=True):
            rest = [logprob for _, logprob in row[common:] if logprob is not None]
            if not rest or len(rest) < len(row) - common:
                raise UnavailableError("it returns no log-probability for some tokens of an answer")
            scores[number] = _log_sum([scores[number], sum(rest)])
        return scores_answer(scores, min(scores), _usage(response))

    def _prompts(self, text: str) -> tuple[list[Any], list[int]]:
        """The question alone, then with each answer; and each answer's class."""
        if self.tokenizer is None:
            question, space = self.prompt.plain(text, self.by_letter), " "
            end = "\n"
        else:
            question, space = self.prompt.rendered(text, self.by_letter, self.tokenizer)
            end = self.tokenizer.eos_token if self.tokenizer.chat_template else "\n"
        answers = self.prompt.answers(self.by_letter)
        texts = [question, *(question + space + answer + end for of_class in answers for answer in of_class)]
        class_of = [number for number, of_class in enumerate(answers) for _ in of_class]
        if self.tokenizer is None:
            return texts, class_of
        chat = bool(self.tokenizer.chat_template)
        return self.tokenizer(texts, add_special_tokens=not chat, verbose=False)["input_ids"], class_of


class Structured(Way):
    """Samples of one JSON object that names a class; the share of each class."""

    method = "structured"

    def probe(self, text: str) -> str:
        self.settings["n"] = self.settings["samples"]
        try:
            answer = self._tried(text)
        except RefusedRequestError as error:  # of more than one answer a request, perhaps
            if is_fatal(error) or self.settings["n"] == 1:
                raise
            self.settings["n"] = 1
            answer = self._tried(text)
        read = json.loads(answer)
        if not sum(read["counts"]):
            raise UnavailableError(f"its answers are not JSON that names a class, but {quoted(read['said'] or '')}")
        return answer

    def answer(self, text: str) -> str:
        schema = {
            "type": "object",
            "properties": {"class": {"type": "string", "enum": self.prompt.names}},
            "required": ["class"],
            "additionalProperties": False,
        }
        form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
        wanted = int(self.settings["samples"])
        contents: list[str] = []
        usage = [0, 0]
        while len(contents) < wanted:  # some servers return one answer whatever n is
            left = wanted - len(contents)
            # Another seed for each request, since one seed would draw the same answer each time.
            seed = {"seed": self.served.options["seed"] + len(contents)} if "seed" in self.served.options else {}
            number = min(left, self.settings["n"])
            response = self._chat(text, response_format=form, n=number, temperature=1, **seed)
            contents += [content_of(choice) for choice in response.choices][:left]
            usage = [before + now for before, now in zip(usage, _usage(response), strict=True)]
        named = [self._class(content) for content in contents]
        counts = [named.count(number) for number in range(len(self.prompt.names))]
        strange = next((content for content, number in zip(contents, named, strict=True) if number is None), None)
        return counts_answer(counts, len(contents), usage, None if strange is None else strange[:80])

    def _class(self, content: str) -> int | None:
        try:
            name = json.loads(content)["class"]
        except (ValueError, TypeError, KeyError):
            return None
        return self.prompt.names.index(name) if name in self.prompt.names else None


class Hard(Way):
    """One answer: the name of a class."""

    method = "hard"

    def answer(self, text: str) -> str:
        response = self._chat(text, **({} if self.settings.get("default_temperature") else {"temperature": 0}))
        content = content_of(response.choices[0])
        number = class_finder(self.prompt.names)(content)
        counts = [int(number == each) for each in range(len(self.prompt.names))]
        return counts_answer(counts, 1, _usage(response), None if number >= 0 else content[:80])

    def probe(self, text: str) -> str:
        try:
            return self._tried(text)
        except RefusedRequestError as error:  # models that reason take no temperature
            if "temperature" not in str(error):
                raise
        self.settings["default_temperature"] = True
        return self._tried(text)


WAYS: tuple[type[Way], ...] = (Letters, Scoring, Structured, Hard)


def is_fatal(error: Exception) -> bool:
    """Whether other ways of asking would fail too: a wrong key or tokenizer, no such model, or too long a prompt."""
    refused = isinstance(error, RefusedRequestError) and (error.status in (401, 403) or FATAL.search(error.reason))
    return bool(refused) or isinstance(error, OtherTokenizerError)


def content_of(choice: Any) -> str:
    """What a model answered, without its reasoning."""
    return REASONING.sub("", choice.message.content or "").strip()


def _scored(choice: Any, prompt: Any, texts: TokenTexts | None) -> list[tuple[Any, float | None]]:
    """The tokens of a prompt and their log-probabilities, from vLLM's `prompt_logprobs`."""
    rows = getattr(choice, "prompt_logprobs", None)
    if not rows:
        raise UnavailableError("it returns no prompt_logprobs")
    found: list[tuple[Any, float | None]] = []
    for entries in rows:
        if not entries:
            found.append((None, None))
            continue
        # The most likely token, and after it the prompt's own where that is another one.
        token = max(entries, key=lambda each: entries[each].get("rank") or math.inf)
        found.append((token, entries[token]["logprob"]))
    if texts is not None:
        named = [
            (int(token), row[token].get("decoded_token")) for (token, _), row in zip(found, rows, strict=True) if row
        ]
        _compare(prompt, len(found), named, texts)
    return found


def _echoed(choice: Any, prompt: Any, texts: TokenTexts | None) -> list[tuple[Any, float | None]]:
    """The tokens of an echoed prompt and their log-probabilities, without what was written after it."""
    if choice.logprobs is None or not choice.logprobs.tokens or choice.logprobs.token_logprobs is None:
        raise UnavailableError("it returns no log-probabilities of a prompt")
    tokens = choice.logprobs.tokens
    pairs = list(zip(tokens, choice.logprobs.token_logprobs, strict=True))
    if texts is not None:
        named = list(zip(prompt, tokens, strict=False))
        _compare(prompt, min(len(tokens), len(prompt)), named[1:], texts)
        return pairs[: len(prompt)]
    for count in (len(tokens) - 1, len(tokens)):  # one token was asked for, which may be an end that is not told
        if "".join(tokens[:count]).endswith(prompt[-PROMPT_END:]):
            return pairs[:count]
    raise UnavailableError("the tokens that it echoes are not the text of the prompt")


def _compare(prompt: list[int], number: int, named: list[tuple[int, str | None]], texts: TokenTexts) -> None:
    """Raise an OtherTokenizerError unless a server read the tokens that it was sent, as the tokenizer means them."""
    found = [texts.difference(token, text) for token, text in named]
    what = next((each for each in found if each is not None), None)
    if number != len(prompt) or [token for token, _ in named] != prompt[1:]:
        what = what or f"it was sent {len(prompt)} tokens, and read {number} or others"
    if what is not None:
        raise OtherTokenizerError(
            f"The server has another tokenizer, or reads other tokens than it is sent: {what}. Pass the tokenizer of "
            "the served model, or none: the server then reads the prompt as a text."
        )


def _usage(response: Any) -> Sequence[int]:
    usage = getattr(response, "usage", None)
    return (0, 0) if usage is None else (usage.prompt_tokens or 0, usage.completion_tokens or 0)


def _log_sum(values: Sequence[float]) -> float:
    greatest = max(values)
    return greatest if greatest == -math.inf else greatest + math.log(sum(math.exp(each - greatest) for each in values))
