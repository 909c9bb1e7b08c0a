"""Teachers that only speak text: any function, a model that generates, or a server; asked once, their answers kept.

Their answers are targets of translation and dialogue (sequence-level distillation, Kim & Rush 2016, arXiv:1606.07947)
or, through `teacher_labels`, hard labels.
"""

import contextlib
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from hf_distill.provenance import tokenizer_hash, weights_hash
from hf_distill.tasks import IGNORE_INDEX
from hf_distill.teacher import LiveTeacher, evaluating

logger = logging.get_logger(__name__)

Answers = Generator[tuple[int, str], None, None]
LINE_START = b'{"key": "'


class TextTeacher(ABC):
    """A teacher that gives its answers as they come, so that each can be kept at once."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Who answers and how: whatever changes an answer changes the name, and so what a ledger knows of it."""

    @abstractmethod
    def answers(self, texts: list[str]) -> Answers:
        """Pairs of a text's number and its answer, in any order: one a text, empty where there is no answer."""

    def __call__(self, texts: list[str]) -> list[str]:
        """One answer a text, in the order of the texts."""
        said = dict(_complete(self, texts))
        return [said[number] for number in range(len(texts))]


class GeneratingTeacher(TextTeacher):
    """A model that writes: sequence-to-sequence from the text, causal as a reply to it through its chat template.

    Texts are sorted by length, the longest first, so that little padding is computed and too little memory shows at
    once. The model stays on its device and in its precision; neither it nor the state of random numbers is changed.

    Args:
        model: with `generate`.
        tokenizer: of the model. A causal model's needs a chat template.
        system: the system message of a chat.
        max_new_tokens: the longest answer, in tokens. Answers as long as that may be cut; they are counted and told.
        batch_size: texts generated at a time.
        seed: of sampled answers; the same texts in the same batches are answered the same way.
        options: of `generate`, `num_beams=4` or `do_sample=False` for instance, before the model's generation config.
    Raises:
        ValueError: no chat template, no room for `max_new_tokens`, or options that are not plain values; when asked,
            texts longer than the model reads.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        system: str | None = None,
        max_new_tokens: int = 256,
        batch_size: int = 32,
        seed: int = 0,
        **options: Any,
    ) -> None:
        _check_options(options, refused={"num_return_sequences", "return_dict_in_generate"})
        self.model, self.tokenizer, self.system = model, tokenizer, system
        self.max_new_tokens, self.batch_size, self.seed, self.options = max_new_tokens, batch_size, seed, options
        self.writes_after_reading = not model.config.is_encoder_decoder
        if self.writes_after_reading and not tokenizer.chat_template:
            raise ValueError(
                f"{type(model).__name__} is causal and answers through its tokenizer's chat template, which this "
                "tokenizer does not have. Set tokenizer.chat_template; to continue the bare texts, to "
                '"{% for message in messages %}{{ message.content }}{% endfor %}".'
            )
        if not self.writes_after_reading and system is not None:
            raise ValueError(f"system is for chats, but {type(model).__name__} reads bare texts.")
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.limit = min(positions or tokenizer.model_max_length, tokenizer.model_max_length)
        if not 0 < max_new_tokens < self.limit:
            raise ValueError(
                f"max_new_tokens must be at least 1 and below the {self.limit} tokens that {type(model).__name__} and "
                f"its tokenizer have room for; got {max_new_tokens}."
            )

    @property
    def name(self) -> str:
        """Its class, hashes of its weights and its tokenizer, and the options in force."""
        generation = {**self.model.generation_config.to_diff_dict(), **self.options}
        about_the_file = {"_from_model_config", "transformers_version"}
        return json.dumps(
            {
                "model": type(self.model).__name__,
                "weights": weights_hash(LiveTeacher(self.model, self.model.device)),
                "tokenizer": [tokenizer_hash(self.tokenizer), self.tokenizer.chat_template],
                "system": self.system,
                "max_new_tokens": self.max_new_tokens,
                "seed": self.seed if generation.get("do_sample") else None,
                "generation": {key: generation[key] for key in generation.keys() - about_the_file},
            },
            sort_keys=True,
        )

    def answers(self, texts: list[str]) -> Answers:
        """Pairs of a text's number and its answer, a batch at a time."""
        rows = self._tokenised(texts)
        order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
        full = 0
        for start in range(0, len(order), self.batch_size):
            numbers = order[start : start + self.batch_size]
            with evaluating(self.model), torch.random.fork_rng(self._devices()):
                torch.manual_seed(self.seed + start)
                written = self._generated([rows[number] for number in numbers])
            full += self._full(written)
            yield from zip(numbers, self.tokenizer.batch_decode(written, skip_special_tokens=True), strict=True)
        if full:
            logger.warning(
                f"{full} of {len(texts)} answers are max_new_tokens={self.max_new_tokens} tokens long and may be cut."
            )

    def _tokenised(self, texts: list[str]) -> list[list[int]]:
        read: Any = self.tokenizer
        if self.writes_after_reading:
            rows = [as_prompt(text, read, self.system) for text in texts]
        else:
            rows = read(texts)["input_ids"] if texts else []
        room = self.limit - self.max_new_tokens if self.writes_after_reading else self.limit
        long = [number for number, row in enumerate(rows) if len(row) > room]
        if long:
            raise ValueError(
                f"{len(long)} of {len(texts)} texts are longer than the {room} tokens that {type(self.model).__name__} "
                f"and its tokenizer have room for{' before an answer' if self.writes_after_reading else ''}. The "
                f"first, of {len(rows[long[0]])} tokens: {_short(texts[long[0]])}. Shorten them or leave them out: an "
                "answer to half a text would teach that half."
            )
        return rows

    def _devices(self) -> list[int]:
        return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []

    def _generated(self, rows: list[list[int]]) -> torch.Tensor:
        """New tokens alone: (batch, new tokens)."""
        config = self.model.generation_config
        choices = (self.tokenizer.pad_token_id, config.pad_token_id, self.tokenizer.eos_token_id)
        pad = next((token for token in choices if token is not None), 0)
        # What is written continues what was read, so a causal model is padded on the left.
        side = "left" if self.writes_after_reading else "right"

        def padded(values: list[torch.Tensor], fill: int) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill, padding_side=side).to(
                self.model.device
            )

        ids = padded([torch.tensor(row) for row in rows], pad)
        mask = padded([torch.ones(len(row), dtype=torch.long) for row in rows], 0)
        options = {"pad_token_id": pad, "max_length": None, **self.options, "max_new_tokens": self.max_new_tokens}
        generate: Any = self.model.generate
        written = generate(input_ids=ids, attention_mask=mask, **options)
        # A sequence-to-sequence model's answer starts with decoder_start_token_id, which is not its own.
        return written[:, ids.shape[1] if self.writes_after_reading else 1 :].cpu()

    def _full(self, written: torch.Tensor) -> int:
        ends = self.options.get("eos_token_id", self.model.generation_config.eos_token_id)
        if written.shape[1] < self.max_new_tokens:
            return 0
        before_last = torch.isin(written[:, : self.max_new_tokens - 1], torch.tensor(-1 if ends is None else ends))
        return int((~before_last.any(dim=1)).sum())


class ServedTeacher(TextTeacher):
    """A model behind an OpenAI-compatible server (vLLM, TGI, llama.cpp, OpenAI, ...), through the official client.

    A request that is turned away for a while (408, 409, 429, 5xx), runs out of time or loses its connection is sent
    again by the client, later and later. When one fails for good, no more are sent, those in flight are waited for and
    their answers kept, and then it is an error.

    Args:
        model: as the server calls it.
        base_url: of the server, `http://localhost:8000/v1` for instance. None: `OPENAI_BASE_URL` or OpenAI's.
        api_key: None: `OPENAI_API_KEY`, or none for a server that does not ask for one.
        system: the system message.
        requests_in_flight: at most, at any time.
        max_retries: of each request.
        timeout: seconds of a request.
        options: of each request, `temperature=0`, `max_tokens=200`, `seed=0` or `extra_body={...}` for instance. What
            is not given is the server's choice.
    Raises:
        ImportError: the client is not installed.
        ValueError: options that are not plain values or not for one answer read whole; when asked, a request that the
            server refuses.
        ConnectionError: when asked, a server that fails at every try.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        system: str | None = None,
        requests_in_flight: int = 8,
        max_retries: int = 5,
        timeout: float = 120.0,
        **options: Any,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise ImportError(
                "ServedTeacher needs openai, which is not installed. Run: pip install 'hf-distill[served]'"
            ) from error
        _check_options(options, refused={"n", "stream"})
        if requests_in_flight < 1:
            raise ValueError(f"requests_in_flight must be at least 1, got {requests_in_flight}.")
        self.model, self.system, self.requests_in_flight, self.options = model, system, requests_in_flight, options
        key = api_key or os.environ.get("OPENAI_API_KEY") or "none"  # the client refuses to go without one
        self.client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=max_retries, timeout=timeout)

    @property
    def name(self) -> str:
        """The model, the system message and the options; not the address, where a server need not stay."""
        return json.dumps({"model": self.model, "system": self.system, "options": self.options}, sort_keys=True)

    def answers(self, texts: list[str]) -> Answers:
        """Pairs of a text's number and its answer, as they arrive."""
        unsent = iter(enumerate(texts))
        waiting: dict[Future[tuple[str, str]], int] = {}
        failed: BaseException | None = None
        cut = 0
        with ThreadPoolExecutor(self.requests_in_flight) as pool:
            while True:
                if failed is None:
                    for number, text in islice(unsent, self.requests_in_flight - len(waiting)):
                        waiting[pool.submit(self._answer, text)] = number
                if not waiting:
                    break
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    number = waiting.pop(future)
                    if error := future.exception():
                        failed = failed or error
                    else:
                        answer, reason = future.result()
                        cut += reason == "length"
                        yield number, answer
        if cut:
            logger.warning(f"{cut} of {len(texts)} answers were cut by the server at the longest that it writes.")
        if failed is not None:
            raise failed

    def _answer(self, text: str) -> tuple[str, str]:
        import openai

        where = f"{self.model} at {self.client.base_url}"
        try:
            said: Any = self.client.chat.completions.create(
                model=self.model,
                messages=_messages(text, self.system),  # type: ignore[arg-type]
                **self.options,
            )
        except (openai.APIError, json.JSONDecodeError) as error:
            status = getattr(error, "status_code", 500)
            passing = status >= 500 or status in (408, 409, 429)
            kind, then = (ConnectionError, "ask again later") if passing else (ValueError, "mend the request")
            cause = f" ({error.__cause__})" if error.__cause__ else ""  # a lost connection's reason is only there
            raise kind(
                f"{where} did not answer {_short(text)}: {error}{cause}. What was answered before is in the ledger, if "
                f"there is one: {then}, and only the rest is asked."
            ) from error
        if not getattr(said, "choices", None):
            raise ConnectionError(
                f"{where} did not answer {_short(text)} with a chat completion but with {_short(str(said))}. Is "
                "base_url the address of its OpenAI-compatible interface? It mostly ends in /v1."
            )
        return said.choices[0].message.content or "", said.choices[0].finish_reason


class _Function(TextTeacher):
    """Any function from texts to texts, asked a batch at a time."""

    def __init__(self, function: Callable[[list[str]], list[str]], batch_size: int) -> None:
        self.function, self.batch_size = function, batch_size

    @property
    def name(self) -> str:
        raise ValueError(
            "A ledger keeps answers under their teacher's name, and a function has none that would change with its "
            "answers. Pass name=..., and another one whenever the function answers differently."
        )

    def answers(self, texts: list[str]) -> Answers:
        for start in range(0, len(texts), self.batch_size):
            batch = texts[start : start + self.batch_size]
            said: Any = self.function(list(batch))
            if not isinstance(said, list | tuple) or len(said) != len(batch):
                got = f"{len(said)}" if isinstance(said, list | tuple) else f"a {type(said).__name__}"
                raise ValueError(
                    f"The teacher was given {len(batch)} texts, from {_short(batch[0])} on, and returned {got}: "
                    "expected a list of one answer a text, in order (an empty one where it has none), or nobody knows "
                    "whose is whose. The answers to earlier texts are in the ledger, if there is one."
                )
            yield from enumerate(said, start)


def _complete(teacher: TextTeacher, texts: list[str]) -> Answers:
    """A teacher's answers, each checked when it comes, and their number at the end."""
    missing = set(range(len(texts)))
    with contextlib.closing(teacher.answers(texts)) as pairs:
        for number, answer in pairs:
            if number not in range(len(texts)):
                raise ValueError(
                    f"{type(teacher).__name__} was given {len(texts)} texts and answered number {number!r}: its "
                    "answers must be pairs of a text's number, from 0 on, and a text."
                )
            if not isinstance(answer, str):
                raise TypeError(f"The teacher must answer with texts, got {type(answer).__name__}: {answer!r}.")
            missing.discard(number)
            yield number, answer
    if missing:
        first = min(missing)
        raise ValueError(
            f"{type(teacher).__name__} was given {len(texts)} texts and left {len(missing)} without an answer, number "
            f"{first} first: {_short(texts[first])}. Its answers must be one pair a text, with an empty text where it "
            "has no answer. Those that it gave are in the ledger, if there is one."
        )


def ask(
    teacher: TextTeacher | Callable[[list[str]], list[str]],
    texts: Iterable[str],
    *,
    ledger: str | Path | None = None,
    name: str | None = None,
    batch_size: int = 32,
) -> list[str]:
    """A teacher's answers to texts, each different text asked once.

    With a ledger every answer is written down when it comes, and no text is asked again that it has an answer to, by
    the same teacher with the same options: a run that was killed at any moment asks again only what was in flight then.
    Of several processes with one ledger, the first asks and the others wait for it.

    Args:
        teacher: a `TextTeacher`, or any function from a list of texts to a list of as many, in order.
        texts: none of them blank.
        ledger: file of one JSON object a line (`key`, `text`, `answer`), made if missing; several teachers may share
            it. `datasets.load_dataset("json", data_files=...)` reads it.
        name: what the ledger knows the teacher by. None: the teacher's own name; a function has none.
        batch_size: texts a call, of a function. A killed run loses at most one call's answers.
    Returns:
        (texts,) answers, stripped. Empty ones are counted and told.
    Raises:
        TypeError: texts or answers that are not texts.
        ValueError: blank texts; a teacher that returns fewer or more texts than it was given; a function that has a
            ledger and no name; a ledger that is none; and what the teachers raise.

    >>> ask(lambda texts: [text.upper() for text in texts], ["hola", "adiós"])
    ['HOLA', 'ADIÓS']
    """
    texts = _checked(texts)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    if not isinstance(teacher, TextTeacher):
        teacher = _Function(teacher, batch_size)
    unique = list(dict.fromkeys(texts))
    keys: dict[str, str] = {}
    said: dict[str, str] = {}
    file: BinaryIO | None = None
    with contextlib.ExitStack() as stack:
        if ledger is not None:
            name = name or teacher.name
            keys = {text: _digest(name, text) for text in unique}
            kept, file = stack.enter_context(_opened(Path(ledger)))
            said = {text: kept[key] for text, key in keys.items() if key in kept}
        waiting = [text for text in unique if text not in said]
        progress = stack.enter_context(tqdm(total=len(unique), initial=len(said), desc="Teacher", unit=" texts"))
        for number, answer in stack.enter_context(contextlib.closing(_complete(teacher, waiting))):
            text = waiting[number]
            said[text] = answer.strip()
            if file is not None:
                file.write(json.dumps({"key": keys[text], "text": text, "answer": said[text]}).encode() + b"\n")
                file.flush()
            progress.update()
    empty = sum(not said[text] for text in texts)
    if empty:
        logger.warning(f"{empty} of {len(texts)} answers are empty. They teach nothing: leave them out.")
    return [said[text] for text in texts]


def teacher_labels(answers: Sequence[str], classes: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
    """Class numbers from a teacher's answers.

    An answer counts where it is the name of a class and nothing else, but for case, space, and punctuation around it: a
    name inside a sentence may be denied there.

    Args:
        answers: one a row.
        classes: names, in the order of their numbers.
    Returns:
        (answers,) int64, -100 where an answer names no class, and how many answers are `valid`, `invalid` and `empty`.
    Raises:
        ValueError: two classes of the same name, an unnamed one, or no answer that names a class.

    >>> labels, counts = teacher_labels(["Positive.", "negative", "", "not positive"], ["negative", "positive"])
    >>> labels.tolist(), counts
    ([1, 0, -100, -100], {'valid': 2, 'invalid': 1, 'empty': 1})
    """
    numbers = {_plain(name): number for number, name in enumerate(classes)}
    if len(numbers) < len(classes) or "" in numbers:
        raise ValueError(f"Classes need names that differ in more than case and space, got {list(classes)}.")

    def number_of(answer: str) -> int:
        plain = _plain(answer)
        around = {character for character in plain if not character.isalnum()}
        # What a class begins or ends with is no punctuation around it: -1 is not 1, and c++ is not c.
        bare = plain.lstrip("".join(around - {name[0] for name in numbers}))
        bare = bare.rstrip("".join(around - {name[-1] for name in numbers}))
        return numbers.get(plain, numbers.get(bare, IGNORE_INDEX))

    labels = np.fromiter((number_of(answer) for answer in answers), dtype=np.int64, count=len(answers))
    empty = sum(not answer.strip() for answer in answers)
    valid = int((labels != IGNORE_INDEX).sum())
    counts = {"valid": valid, "invalid": len(answers) - valid - empty, "empty": empty}
    if valid < len(answers):
        strange = Counter(
            answer for answer, label in zip(answers, labels, strict=True) if label == IGNORE_INDEX and answer.strip()
        )
        often = f", most often {', '.join(_short(answer) for answer, _ in strange.most_common(3))}" if strange else ""
        message = (
            f"Of {len(answers)} answers {counts['invalid']} name none of the classes {list(classes)}{often}; {empty} "
            "are empty."
        )
        if not valid:
            raise ValueError(f"{message} That leaves no label: ask for the name of a class and nothing else.")
        logger.warning(f"{message} Their label is {IGNORE_INDEX}.")
    return labels, counts


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, str], BinaryIO]]:
    """The answers in a ledger by their keys, and the file to append more to; for one process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        answers = _read(path) if path.exists() else {}
        with path.open("ab") as file:
            yield answers, file


def _read(path: Path) -> dict[str, str]:
    answers = {}
    whole = 0
    with path.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            torn = not line.endswith(b"\n")
            try:
                entry = json.loads(line)
                answers[entry["key"]] = str(entry["answer"])
            except (ValueError, KeyError, TypeError) as error:
                if torn and (line.startswith(LINE_START) or LINE_START.startswith(line)):
                    file.truncate(whole)  # the last line of a run that was killed while it wrote
                    break
                raise ValueError(
                    f"{path}, line {number} is not a line of a ledger: {_short(line.decode(errors='replace'))}. Choose "
                    "another file, or, if it was one, delete this line and its answer is asked again."
                ) from error
            whole += len(line)
            if torn:  # or the next answer would stand on this line
                file.seek(whole)
                file.write(b"\n")
    return answers


def _checked(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise TypeError(f"Expected a list of texts, got one text: {_short(texts)}.")
    texts = list(texts)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"Expected texts, got {type(text).__name__} as number {number}: {text!r}.")
    blank = [number for number, text in enumerate(texts) if not text.strip()]
    if blank:
        raise ValueError(
            f"{len(blank)} of {len(texts)} texts are blank, number {blank[0]} first: there is nothing to ask. Leave "
            "them out."
        )
    return texts


def _check_options(options: dict[str, Any], refused: set[str]) -> None:
    if refused & options.keys():
        raise ValueError(f"A teacher gives one answer a text, leave out {', '.join(refused & options.keys())}.")
    try:
        json.dumps(options)
    except TypeError as error:
        raise ValueError(
            f"Options must be plain values, as JSON has them, since they name the teacher: {error}. Got {options}."
        ) from error


def as_prompt(text: str, tokenizer: Any, system: str | None = None) -> list[int]:
    """What a causal model reads before it replies to a text.

    Args:
        text: a user's message.
        tokenizer: with a chat template.
        system: the system message.
    """
    chat = _messages(text, system)
    ids: list[int] = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    return ids


def _messages(text: str, system: str | None) -> list[dict[str, str]]:
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": text}]


def _digest(*parts: Any) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
