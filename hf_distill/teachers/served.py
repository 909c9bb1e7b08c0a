"""A teacher behind an OpenAI-compatible server."""

import json
from typing import Any

from hf_distill.redaction import without_secrets
from hf_distill.teachers.requests import Endpoint
from hf_distill.teachers.text import Answers, TextTeacher, chat_messages, check_options, logger


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
        self.endpoint = Endpoint(model, base_url, api_key, requests_in_flight, max_retries, timeout)
        check_options(options, refused={"n", "stream"})
        self.model, self.system, self.requests_in_flight, self.options = model, system, requests_in_flight, options
        self.client = self.endpoint.client

    @property
    def name(self) -> str:
        """The model, the system message and the options; not the address, since a server may move, and no secrets."""
        options = without_secrets(self.options)
        return json.dumps({"model": self.model, "system": self.system, "options": options}, sort_keys=True)

    def answers(self, texts: list[str]) -> Answers:
        """Pairs of a text's number and its answer, as they arrive."""
        cut = 0
        try:
            for number, (answer, reason) in self.endpoint.in_flight(self._answer, texts):
                cut += reason == "length"
                yield number, answer
        finally:
            if cut:
                logger.warning(f"{cut} of {len(texts)} answers were truncated by the server at its maximum length.")

    def _answer(self, text: str) -> tuple[str, str]:
        """The answer to a text, and the reason why it ended."""
        create = self.client.chat.completions.create
        response = self.endpoint.send(
            create, text, model=self.model, messages=chat_messages(text, self.system), **self.options
        )
        return response.choices[0].message.content or "", response.choices[0].finish_reason
