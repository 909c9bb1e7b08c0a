"""A teacher behind an OpenAI-compatible server."""

import base64
import json
import os
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from hf_distill.redaction import presentable, redacted, without_secrets
from hf_distill.teachers.text import Answers, TextTeacher, chat_messages, check_options, logger, quoted


class ServedTeacher(TextTeacher):
    """A model behind an OpenAI-compatible server (vLLM, TGI, llama.cpp, OpenAI, ...), through the official client.

    The client retries a request with increasing delays after a temporary error (408, 409, 429, 5xx), a timeout or a
    lost connection. When a request fails for good, no further requests are sent. The answers of requests in flight
    are still collected, and then the error is raised.

    Args:
        model: the name of the model on the server.
        base_url: of the server, for example `http://localhost:8000/v1`. None: `OPENAI_BASE_URL` or OpenAI's. A user
            and a password in it (`https://user:password@host/v1`) are sent, and shown nowhere.
        api_key: None: `OPENAI_API_KEY`, or none for a server that does not need one.
        system: the system message.
        requests_in_flight: maximum number of concurrent requests.
        max_retries: per request.
        timeout: seconds per request.
        options: arguments of each request, for example `temperature=0`, `max_tokens=200`, `seed=0` or
            `extra_body={...}`. The server decides on all others.
    Raises:
        ImportError: the client is not installed.
        ValueError: options that are not plain values, or that ask for several answers or a stream. On use: a request
            that the server refuses.
        ConnectionError: on use: a server that fails at every attempt.
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
        check_options(options, refused={"n", "stream"})
        if requests_in_flight < 1:
            raise ValueError(f"requests_in_flight must be at least 1, got {requests_in_flight}.")
        self.model, self.system, self.requests_in_flight, self.options = model, system, requests_in_flight, options
        key = api_key or os.environ.get("OPENAI_API_KEY") or "none"  # the client requires a key
        # In the address they would stand in the client's logs, its errors and its representation.
        address, auth = _without_user(base_url or os.environ.get("OPENAI_BASE_URL"))
        basic = None if auth is None else f"Basic {base64.b64encode(':'.join(auth).encode()).decode()}"
        self._secrets = (key, auth and auth[1], basic)
        self.client = openai.OpenAI(
            base_url=address,
            api_key=key,
            max_retries=max_retries,
            timeout=timeout,
            default_headers=None if basic is None else {"Authorization": basic},
        )

    @property
    def name(self) -> str:
        """The model, the system message and the options; not the address, since a server may move, and no secrets."""
        options = without_secrets(self.options)
        return json.dumps({"model": self.model, "system": self.system, "options": options}, sort_keys=True)

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
            logger.warning(f"{cut} of {len(texts)} answers were truncated by the server at its maximum length.")
        if failed is not None:
            raise failed

    def _answer(self, text: str) -> tuple[str, str]:
        """The answer to a text, and the reason why it ended."""
        import openai

        where = f"{self.model} at {redacted(str(self.client.base_url), *self._secrets)}"
        try:
            response: Any = self.client.chat.completions.create(
                model=self.model,
                messages=chat_messages(text, self.system),  # type: ignore[arg-type]
                **self.options,
            )
        except (openai.APIError, json.JSONDecodeError) as error:
            status = getattr(error, "status_code", 500)
            temporary = status >= 500 or status in (408, 409, 429)
            kind, then = (ConnectionError, "try again later") if temporary else (ValueError, "correct the request")
            # The reason of a lost connection is only in the cause.
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            raise kind(
                f"{where} did not answer {quoted(text)}: {redacted(f'{error}{cause}', *self._secrets)}. Earlier "
                f"answers are in the ledger, if there is one: {then}, and only the missing texts are sent."
            ) from presentable(error, *self._secrets)
        if not getattr(response, "choices", None):
            raise ConnectionError(
                f"{where} did not answer {quoted(text)} with a chat completion but with "
                f"{quoted(redacted(str(response), *self._secrets))}. Is base_url the address of its OpenAI-compatible "
                "interface? It usually ends in /v1."
            )
        return response.choices[0].message.content or "", response.choices[0].finish_reason


def _without_user(url: str | None) -> tuple[str | None, tuple[str, str] | None]:
    """An address without the user and the password in it, and these two, as they are sent.

    >>> _without_user("http://me:p%40w@host:8000/v1"), _without_user("http://host/v1")
    (('http://host:8000/v1', ('me', 'p@w')), ('http://host/v1', None))
    """
    parts = urlsplit(url or "")
    user, _, host = parts.netloc.rpartition("@")
    if not user:
        return url, None
    name, _, password = user.partition(":")
    return urlunsplit(parts._replace(netloc=host)), (unquote(name), unquote(password))
