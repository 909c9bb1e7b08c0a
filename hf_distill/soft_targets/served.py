"""The top-k columns of a language model behind a server, as a local pass would write them."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from tqdm.auto import tqdm

from hf_distill import columns
from hf_distill.redaction import without_secrets
from hf_distill.soft_targets import provenance
from hf_distill.soft_targets.cache import CachePass
from hf_distill.soft_targets.checks import check_columns, check_options, input_columns, names_read, output_folder
from hf_distill.soft_targets.layout import Layout, Values
from hf_distill.soft_targets.shards import Processes
from hf_distill.teachers.identity import short_hash, tokenizer_hash
from hf_distill.teachers.requests import Endpoint, RefusedRequestError
from hf_distill.teachers.text import check_options as check_plain
from hf_distill.teachers.text import logger, quoted
from hf_distill.teachers.token_texts import OtherTokenizerError, TokenTexts

TASK = "text-generation"
TOP_K = 64  # asked for where none is chosen; the server's own limit decides
ALLOWED = re.compile(r"max(?:imum)? allowed[^0-9]*(\d+)")
REMEDY = "vLLM raises its limit with --max-logprobs"
FORMS = ("prompt_logprobs", "echo")
SLACK = 0.01  # how much more than 1 rounded probabilities may sum to
RULED_OUT = -9000.0  # JSON has no infinity: servers write -9999
OWN_OPTIONS = {"temperature", "top_p", "top_k", "min_p", "logprobs", "echo", "n", "stream", "max_tokens", "prompt"}


class ServedLogits:
    """The log-probabilities of a causal language model behind an OpenAI-compatible server, token by token.

    Token ids are sent to `/v1/completions`, and the server's `prompt_logprobs` (vLLM), or `echo` with `logprobs`, are
    read. The ids and the texts of the tokens that it returns are compared with those of the tokenizer, in every row.

    Args:
        model: the name of the model on the server.
        tokenizer: that made the rows, which must be the server's.
        base_url: None: `OPENAI_BASE_URL` or OpenAI's.
        api_key: None: `OPENAI_API_KEY`, or none for a server that does not need one.
        requests_in_flight: maximum number of concurrent requests.
        max_retries: per request.
        timeout: seconds per request.
        options: further arguments of each request, `extra_body={...}` for instance.
    Raises:
        ImportError: the client is not installed.
        ValueError: options that the log-probabilities depend on, or that are not plain values.

    >>> served = ServedLogits("Qwen/Qwen3-8B", tokenizer, base_url="http://localhost:8000/v1")  # doctest: +SKIP
    >>> rows = served.cache(rows, output_dir="outputs/cache", top_k=20)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str,
        tokenizer: Any,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        requests_in_flight: int = 8,
        max_retries: int = 5,
        timeout: float = 120.0,
        **options: Any,
    ) -> None:
        check_plain({name: value for name, value in options.items() if name not in OWN_OPTIONS}, refused=set())
        own = sorted(OWN_OPTIONS & options.keys())
        if own:
            raise ValueError(f"The log-probabilities are those at temperature 1: leave {', '.join(own)} out.")
        self.endpoint = Endpoint(model, base_url, api_key, requests_in_flight, max_retries, timeout)
        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.texts = TokenTexts(tokenizer)
        self.form: str | None = None  # found out by the first request
        self.limit: float = float("inf")  # tokens that the server reads, where it says so

    def cache(
        self,
        dataset: datasets.Dataset | datasets.IterableDataset,
        *,
        output_dir: str | Path,
        top_k: int | None = None,
        dtype: str = "float16",
        shard_size: int = 1024,
    ) -> datasets.Dataset:
        """Ask for the log-probabilities of every row once, and keep the top k beside the rows.

        Columns, tail, provenance, resuming and the sharing of shards among processes are those of
        `cache_teacher_outputs`. The logits are log-probabilities: those of a local pass differ by one number a
        position, which changes no divergence. A killed pass loses the shard that it was writing, so shards are small.

        Args:
            dataset: rows with `input_ids` (or `teacher_input_ids`) of the server's tokenizer.
            output_dir: where the shards are, or will be.
            top_k: tokens to keep a position. None: as many as the server gives, at most 64.
            dtype: see `cache_teacher_outputs`.
            shard_size: rows a file.
        Returns:
            The rows in their order with the teacher's columns.
        Raises:
            ValueError: another tokenizer than the server's, rows longer than it reads, more of the top k than it
                gives (the flag that raises its limit is named), or a server without log-probabilities of a prompt.
            ConnectionError: a server that fails at every attempt; finished shards are kept.
        """
        folder = output_folder(output_dir)
        names, dataset = input_columns(dataset)
        layout = Layout(TOP_K if top_k is None else top_k, 1.0, dtype, ())
        check_options(TASK, layout, 1, shard_size)
        check_columns(names, TASK, layout)
        if top_k is not None and top_k > self.texts.number:
            raise ValueError(f"top_k={top_k} is more than the tokenizer's {self.texts.number} tokens.")
        self._read_limit()
        if top_k is None:
            first = next(iter(dataset))
            ids = first[columns.PREFIX + "input_ids"] if columns.PREFIX + "input_ids" in first else first["input_ids"]
            if len(ids) == 0:
                raise ValueError("Row 0 has no tokens: the teacher has nothing to read. Remove such rows.")
            layout = Layout(_top_k_there(folder) or self._found_out(ids, None), 1.0, dtype, ())
        read = [name for name in names_read(names, TASK) if name.endswith("input_ids")]
        origin = self._provenance(layout, shard_size, isinstance(dataset, datasets.IterableDataset), read)
        work = CachePass(
            Path(output_dir),
            Processes.assembled("cpu"),
            _ServedPass(self, layout),
            read,
            shard_size,
            origin,
            self.texts.number,
        )
        return work.over_stream(dataset) if isinstance(dataset, datasets.IterableDataset) else work.over_rows(dataset)

    def row(self, ids: Sequence[int], top_k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The most likely tokens after each of a row's.

        Args:
            ids: (length,) token ids.
            top_k: how many are kept.
        Returns:
            (length, top_k) float32 log-probabilities, the highest first; (length, top_k) their ids; and (length,) the
            log-probability of all others. After the last token, where the server has no place left to write one, all
            tokens are equally likely.
        Raises:
            ValueError: the server returns other tokens than were sent, or fewer of the most likely ones.
        """
        if self.form is None:
            self._found_out(ids, top_k)
        entries, words = self._entries(ids, top_k), self.texts.number
        kept = np.empty((len(ids), top_k), dtype=np.float32)
        kept_ids = np.empty((len(ids), top_k), dtype=np.int64)
        tail = np.empty(len(ids), dtype=np.float32)
        for place, found in enumerate(entries):
            if found is None:
                kept[place], kept_ids[place] = -np.log(self.texts.number), np.arange(top_k)
                tail[place] = (
                    np.log(self.texts.number - top_k) - np.log(self.texts.number)
                    if self.texts.number > top_k
                    else -np.inf
                )
                continue
            if len(found) < top_k:
                raise ValueError(
                    f"{self.endpoint.where} returned {len(found)} tokens at a position of {quoted(str(list(ids)))}, "
                    f"and {top_k} are asked for. Choose top_k={len(found)}, or raise the server's limit ({REMEDY})."
                )
            best = sorted(found.items(), key=lambda pair: -pair[1])[:top_k]
            kept_ids[place] = [token for token, _ in best]
            kept[place] = [-np.inf if logprob <= RULED_OUT else logprob for _, logprob in best]
            rest = 1.0 - np.exp(kept[place].astype(np.float64)).sum()
            if not rest > -SLACK:  # nor NaN
                raise ValueError(
                    f"{self.endpoint.where} returned no log-probabilities at position {place + 1} of "
                    f"{quoted(str(list(ids)))}: they sum to a probability of {1 - rest:.3g}."
                )
            tail[place] = np.log(rest) if rest > 0 and words > top_k else -np.inf
        return kept, kept_ids, tail

    def _found_out(self, ids: Sequence[int], top_k: int | None) -> int:
        """How the server is asked and for how many tokens, by a first request about a row.

        Raises:
            ValueError: it has no log-probabilities of a prompt, or gives fewer than `top_k`.
        """
        reasons = []
        for form in FORMS:
            self.form, wanted = form, top_k or min(TOP_K, self.texts.number)
            try:
                try:
                    entries = self._entries(ids, wanted)
                except RefusedRequestError as error:
                    allowed = ALLOWED.search(str(error))
                    if allowed is None:
                        raise
                    wanted = min(wanted, int(allowed[1]))
                    if top_k is not None or wanted < 1:
                        raise ValueError(self._too_many(top_k or 1, int(allowed[1]))) from None
                    entries = self._entries(ids, wanted)
                if form == "echo":
                    self._check_spelling(ids)
            except (RefusedRequestError, _NoLogprobsError) as error:
                if isinstance(error, RefusedRequestError) and error.status in (401, 403):
                    raise
                reasons.append(f"{form}: {getattr(error, 'reason', error)}")
                continue
            fewest = min((len(found) for found in entries if found is not None), default=wanted)
            if top_k is not None and fewest < top_k:
                raise ValueError(self._too_many(top_k, fewest))
            given = min(wanted, fewest)
            if top_k is None and given < TOP_K:
                logger.warning(
                    f"{self.endpoint.where} gives {given} tokens a position at most: top_k={given}. {REMEDY}."
                )
            return given
        self.form = None
        raise ValueError(f"{self.endpoint.where} gives no log-probabilities of a prompt. {'; '.join(reasons)}.")

    def _too_many(self, top_k: int, limit: int) -> str:
        return (
            f"{self.endpoint.where} gives {limit} tokens a position at most, and top_k={top_k} is asked for. Choose "
            f"top_k={limit}, or start the server with a higher limit ({REMEDY} {top_k})."
        )

    def _read_limit(self) -> None:
        """How many tokens the server reads, where its list of models says so."""
        import openai

        try:
            listed = self.endpoint.client.with_options(max_retries=0).models.list().data
        except (openai.APIError, json.JSONDecodeError):  # no such list, or a fault that the first request tells
            return
        for each in listed or ():
            if each.id == self.model and getattr(each, "max_model_len", None):
                self.limit = int(each.max_model_len)  # type: ignore[attr-defined]

    # What a server returns

    def _entries(self, ids: Sequence[int], top_k: int) -> list[dict[int, float] | None]:
        """(length,) of the log-probabilities of the most likely tokens after each of a row's, by their ids."""
        ids = [int(each) for each in ids]
        if len(ids) > self.limit:
            raise ValueError(
                f"A row has {len(ids)} tokens and {self.endpoint.where} reads {self.limit:.0f}. Cut the rows when they "
                f"are tokenized (max_length={self.limit:.0f}), or leave them out."
            )
        full = len(ids) >= self.limit  # no place is left to write a token
        body: dict[str, Any] = {"return_token_ids": True, "return_tokens_as_token_ids": True}
        arguments: dict[str, Any] = {"max_tokens": 0 if full else 1, "temperature": 1, "logprobs": top_k}
        if self.form == "echo" or full:
            arguments["echo"] = True
        if self.form == "prompt_logprobs":
            body["prompt_logprobs"] = top_k
        options = {**self.options, **arguments, "extra_body": {**self.options.get("extra_body", {}), **body}}
        create = self.endpoint.client.completions.create
        response = self.endpoint.send(create, str(ids), model=self.model, prompt=ids, **options)
        choice = response.choices[0]
        echoed = getattr(choice, "prompt_token_ids", None)
        if echoed is not None and list(echoed) != ids:
            raise self._other_tokens(ids, f"it read {len(echoed)} tokens that are not those that were sent")
        found = self._of_prompt(ids, choice) if self.form == "prompt_logprobs" else self._of_echo(ids, choice)
        return [*found, None if full else self._written(ids, choice)]

    def _of_prompt(self, ids: list[int], choice: Any) -> list[dict[int, float] | None]:
        """From vLLM's `prompt_logprobs`: (length - 1,)."""
        rows = getattr(choice, "prompt_logprobs", None)
        if not rows:
            raise _NoLogprobsError("it returns no prompt_logprobs")
        if len(rows) != len(ids):
            raise self._other_tokens(ids, f"it returned {len(rows)} positions for {len(ids)} tokens")
        found: list[dict[int, float] | None] = []
        for place in range(1, len(ids)):
            entries = rows[place]
            if not entries:
                raise ValueError(
                    f"{self.endpoint.where} returned no log-probabilities at position {place} of "
                    f"{quoted(str(ids))}. vLLM leaves them out where it caches prefixes: start it with "
                    "--no-enable-prefix-caching."
                )
            own = entries.get(str(ids[place]))
            if own is None:
                raise self._other_tokens(ids, f"the token at position {place} is not among those that it returned")
            for token, entry in entries.items():
                self._check_text(ids, int(token), entry.get("decoded_token"))
            found.append({int(token): float(entry["logprob"]) for token, entry in entries.items()})
        return found

    def _of_echo(self, ids: list[int], choice: Any) -> list[dict[int, float] | None]:
        """From `echo` with `logprobs`: (length - 1,)."""
        logprobs = choice.logprobs
        if logprobs is None or not logprobs.tokens or not logprobs.top_logprobs:
            raise _NoLogprobsError("it returns no log-probabilities of a prompt")
        if len(logprobs.tokens) < len(ids):
            raise self._other_tokens(ids, f"it returned {len(logprobs.tokens)} tokens for {len(ids)}")
        for place, token in enumerate(logprobs.tokens[: len(ids)]):
            if ids[place] not in self.texts.ids(token):
                raise self._other_tokens(ids, f"it calls the token at position {place} {token!r}")
        return [self._by_id(ids, entries) for entries in logprobs.top_logprobs[1 : len(ids)]]

    def _check_spelling(self, ids: Sequence[int]) -> None:
        """Compare the texts of a row's tokens once, since the ids that are sent come back whatever they stand for."""
        options = {**self.options, "echo": True, "max_tokens": 1, "temperature": 1, "logprobs": 1}
        create = self.endpoint.client.completions.create
        response = self.endpoint.send(create, str(list(ids)), model=self.model, prompt=list(ids), **options)
        for token, text in zip(ids, response.choices[0].logprobs.tokens, strict=False):
            self._check_text(list(ids), token, text)

    def _written(self, ids: list[int], choice: Any) -> dict[int, float] | None:
        """After the last token, from the one that the server wrote."""
        top = getattr(choice.logprobs, "top_logprobs", None) if choice.logprobs is not None else None
        return self._by_id(ids, top[-1]) if top and top[-1] else None

    def _by_id(self, ids: list[int], entries: Mapping[str, float] | None) -> dict[int, float]:
        found: dict[int, float] = {}
        for text, logprob in (entries or {}).items():
            candidates = self.texts.ids(text)
            if not candidates:
                raise self._other_tokens(ids, f"it returned {text!r}, which is no token of the tokenizer")
            if len(candidates) > 1:
                raise ValueError(
                    f"{self.endpoint.where} returned {text!r}, which {len(candidates)} tokens of the tokenizer decode "
                    "to: it does not say which. A server is needed that returns token ids (vLLM's "
                    "return_tokens_as_token_ids), or another top_k, in which such tokens are not."
                )
            found[candidates[0]] = float(logprob)
        return found

    def _check_text(self, ids: list[int], token: int, text: str | None) -> None:
        difference = self.texts.difference(token, text)
        if difference is not None:
            raise self._other_tokens(ids, difference)

    def _other_tokens(self, ids: Sequence[int], what: str) -> OtherTokenizerError:
        return OtherTokenizerError(
            f"{self.endpoint.where} has another tokenizer, or reads other tokens than it is sent: {what}. The row is "
            f"{quoted(str(list(ids)))}. Tokenize the rows with the tokenizer of the served model "
            f"(as {columns.PREFIX}input_ids where the student has another one), and pass it."
        )

    def _provenance(self, layout: Layout, shard_size: int, keeps_rows: bool, read: list[str]) -> dict[str, Any]:
        return {
            "teacher": {
                "name": self.model,
                "revision": None,
                "weights": short_hash(repr((self.model, without_secrets(self.options))).encode()),
                "config": None,
            },
            "tokenizer": {"hash": tokenizer_hash(self.tokenizer)},
            "options": {
                "task": TASK,
                "top_k": layout.top_k,
                "temperature": layout.temperature,
                "dtype": layout.dtype,
                "hidden_layers": [],
                "bf16": False,
                "shard_size": shard_size,
                "keeps_rows": keeps_rows,
                "tokens": self.texts.number,
                "served": True,
            },
            "columns": read,
            "versions": {"transformers": transformers.__version__, "datasets": datasets.__version__},
        }


class _NoLogprobsError(Exception):
    """A server that returns no log-probabilities of a prompt, with the reason."""


class _ServedPass:
    """The top-k columns of some rows, several requests in flight."""

    task = TASK

    def __init__(self, served: ServedLogits, layout: Layout) -> None:
        self.served, self.layout = served, layout
        self.batch_size = served.endpoint.requests_in_flight
        self.teacher = SimpleNamespace(limits=(served.limit, served.texts.number))

    def __call__(self, rows: datasets.Dataset, first: int, progress: tqdm) -> dict[str, Values]:
        name = columns.PREFIX + "input_ids" if columns.PREFIX + "input_ids" in rows.column_names else "input_ids"
        ids = rows.with_format(None)[name]
        masked = name.replace("input_ids", "attention_mask")
        if masked in rows.column_names and any(0 in mask for mask in rows.with_format(None)[masked]):
            raise ValueError(
                f"The rows from {first} on are padded ({masked} has a 0), and a server reads padding as tokens. "
                "Tokenize them without padding: the collator pads."
            )
        top_k = int(self.layout.top_k or 0)
        if self.served.form is None:
            self.served._found_out(ids[0], top_k)
        found: dict[int, Any] = {}
        for number, row in self.served.endpoint.in_flight(lambda row: self.served.row(row, top_k), ids):
            found[number] = row
            progress.update()
        kept, kept_ids, tail = (np.concatenate([found[n][part] for n in range(len(ids))]) for part in range(3))
        made = self.layout.top_k_logits(
            torch.from_numpy(kept), torch.from_numpy(kept_ids), torch.from_numpy(tail), self.served.texts.number
        )
        lengths = np.array([len(row) for row in ids])
        values = {name: self.layout.values(name, array, lengths) for name, array in made.items()}
        temperature = np.full(len(ids), self.layout.temperature, dtype=np.float32)
        return {**values, columns.TEMPERATURE: Values(temperature, None)}


def _top_k_there(folder: Path) -> int | None:
    """The top k of the cache in a folder, if there is one."""
    record = provenance.check(folder, {})
    return None if record is None else record["options"].get("top_k")
