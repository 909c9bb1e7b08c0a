"""Requests to an OpenAI-compatible server: several in flight, retried by the official client, told without secrets."""

import base64
import json
import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from hf_distill.redaction import presentable, redacted
from hf_distill.teachers.text import quoted

Item = TypeVar("Item")
Result = TypeVar("Result")
TEMPORARY = (408, 409, 429)


class RefusedRequestError(ValueError):
    """A request that the server will not answer, with the status and the reason that it gave."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class Endpoint:
    """A model on a server, and how it is asked.

    Args:
        model: the name of the model on the server.
        base_url: None: `OPENAI_BASE_URL` or OpenAI's.
        api_key: None: `OPENAI_API_KEY`, or none for a server that does not need one.
        requests_in_flight: maximum number of concurrent requests.
        max_retries: per request.
        timeout: seconds per request.
    Raises:
        ImportError: the client is not installed.
        ValueError: no request may be in flight.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None,
        api_key: str | None,
        requests_in_flight: int,
        max_retries: int,
        timeout: float,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise ImportError(
                "ServedTeacher needs openai, which is not installed. Run: pip install 'hf-distill[served]'"
            ) from error
        if requests_in_flight < 1:
            raise ValueError(f"requests_in_flight must be at least 1, got {requests_in_flight}.")
        self.model, self.requests_in_flight = model, requests_in_flight
        self._requests, self._attempts = _Counter(), _Counter()
        key = api_key or os.environ.get("OPENAI_API_KEY") or "none"  # the client requires a key
        # In the address they would stand in the client's logs, its errors and its representation.
        address, auth = _without_user(base_url or os.environ.get("OPENAI_BASE_URL"))
        basic = None if auth is None else f"Basic {base64.b64encode(':'.join(auth).encode()).decode()}"
        self._secrets = (key, auth and auth[1], basic)
        # The hook counts every attempt: the client does not tell how often it retried.
        http_client = openai.DefaultHttpxClient(event_hooks={"request": [self._attempts.add]})
        weakref.finalize(self, http_client.close)  # the client closes only connections of its own
        self.client = openai.OpenAI(
            base_url=address,
            api_key=key,
            max_retries=max_retries,
            timeout=timeout,
            http_client=http_client,
            default_headers=None if basic is None else {"Authorization": basic},
        )

    @property
    def requests(self) -> int:
        """How many were sent, each counted once."""
        return self._requests.number

    @property
    def attempts(self) -> int:
        """How often they were sent, retries included."""
        return self._attempts.number

    @property
    def where(self) -> str:
        """The model and the address, without a password."""
        return self.public(f"{self.model} at {self.client.base_url}")

    def public(self, text: str) -> str:
        """A text without the key, and without user names and passwords in addresses."""
        return redacted(text, *self._secrets)

    def send(self, create: Callable[..., Any], asked: str, /, **arguments: Any) -> Any:
        """The response to one request.

        Args:
            create: a method of the client, `client.chat.completions.create` for instance.
            asked: what is asked, to name it in errors.
            arguments: of the method.
        Raises:
            RefusedRequestError: the server refuses the request.
            ConnectionError: the server fails at every attempt, or does not answer as such a server does.
        """
        import openai

        self._requests.add()
        cause: BaseException | None = None
        try:
            response: Any = create(**arguments)
        except (openai.APIError, json.JSONDecodeError) as error:
            # The reason of a lost connection is only in the cause.
            because = f" ({error.__cause__})" if error.__cause__ else ""
            headers = getattr(getattr(error, "response", None), "headers", {})
            wait = f" (it asks to wait for {headers['retry-after']} s)" if headers.get("retry-after") else ""
            failure = self._failure(asked, f"{error}{because}{wait}", getattr(error, "status_code", None))
            cause = presentable(error, *self._secrets)
        else:
            if getattr(response, "choices", None):
                return response
            what = "a chat completion" if "messages" in arguments else "a completion"
            failure = ConnectionError(
                f"{self.where} did not answer {quoted(asked)} with {what} but with "
                f"{quoted(self.public(str(response)))}. Is base_url the address of its OpenAI-compatible interface? It "
                "usually ends in /v1."
            )
        raise failure from cause

    def in_flight(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Generator[tuple[int, Result], None, None]:
        """Pairs of an item's number and its result, as they arrive; several items are worked on at a time.

        After a failure no more items are begun. The results of those that are under way are still given, and then the
        error is raised.

        Args:
            function: sends the requests of one item.
            items: what to ask.
        """
        unsent = iter(enumerate(items))
        waiting: dict[Future[Result], int] = {}
        failed: BaseException | None = None
        with ThreadPoolExecutor(self.requests_in_flight) as pool:
            while True:
                if failed is None:
                    for number, item in islice(unsent, self.requests_in_flight - len(waiting)):
                        waiting[pool.submit(function, item)] = number
                if not waiting:
                    break
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    number = waiting.pop(future)
                    if error := future.exception():
                        failed = failed or error
                    else:
                        yield number, future.result()
        if failed is not None:
            raise failed

    def _failure(self, asked: str, reason: str, status: int | None) -> Exception:
        refused = status is not None and status < 500 and status not in TEMPORARY
        then, reason = "correct the request" if refused else "try again later", self.public(reason)
        if status in (401, 403):
            then = "correct the key, and the name of the environment variable that it is read from"
        message = (
            f"{self.where} did not answer {quoted(asked)}: {reason}. Earlier answers are in the ledger, "
            f"if there is one: {then}, and only the missing texts are sent."
        )
        return RefusedRequestError(message, status, reason) if refused and status else ConnectionError(message)


class _Counter:
    """A number that several threads count up."""

    def __init__(self) -> None:
        self.number = 0
        self._lock = threading.Lock()

    def add(self, _: Any = None) -> None:
        with self._lock:
            self.number += 1


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
