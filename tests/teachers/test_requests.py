"""Requests to a server: waits that it asks for, what is counted, and answers that are no answers."""

import time

import pytest

from hf_distill.teachers.requests import Endpoint, RefusedRequestError
from tests.teachers.test_served import Handler, Server, server  # noqa: F401


def endpoint(url, key="a-long-secret-key", retries=2):
    return Endpoint("tiny", url, key, 4, retries, 30.0)


def ask(endpoint, text="hello"):
    messages = [{"role": "user", "content": text}]
    return endpoint.send(endpoint.client.chat.completions.create, text, model="tiny", messages=messages)


class Waiting(Handler):
    """Asks to wait for a second at its first answer."""

    def reply(self, status, content, half=False):
        if status == 429:
            self.send_response(429)
            self.send_header("Retry-After", self.server.wait)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            super().reply(status, content, half)


def test_a_server_that_asks_to_wait_is_waited_for(server):  # noqa: F811
    server.RequestHandlerClass, server.wait = Waiting, "1"
    server.faults = {"hello": [429]}
    asked = endpoint(server.url)
    started = time.perf_counter()
    assert ask(asked).choices[0].message.content == "HELLO"
    assert time.perf_counter() - started > 0.99  # without the header it would be half a second at most
    assert (asked.requests, asked.attempts) == (1, 2)


def test_a_wait_that_is_too_long_is_told(server):  # noqa: F811
    server.RequestHandlerClass, server.wait = Waiting, "3600"
    server.faults = {"hello": [429] * 9}
    with pytest.raises(ConnectionError, match=r"asks to wait for 3600 s.* try again later"):
        ask(endpoint(server.url, retries=0))


@pytest.mark.parametrize("status", [400, 401])
def test_refusals_carry_their_status_and_no_key(server, status):  # noqa: F811
    server.faults = {"a-long-secret-key": [status]}
    with pytest.raises(RefusedRequestError, match=f"planted {status}") as caught:
        ask(endpoint(server.url), "a-long-secret-key")
    assert caught.value.status == status and "planted" in caught.value.reason
    assert "secret" not in caught.value.reason


def test_secrets_are_left_out_of_texts():
    asked = endpoint("http://me:pass-word@127.0.0.1:9/v1")
    told = asked.public("a-long-secret-key at http://me:pass-word@127.0.0.1:9/v1/")
    assert told == "... at http://127.0.0.1:9/v1/" == f"... at{asked.where.removeprefix('tiny at')}"


def test_results_come_as_they_arrive_and_a_failure_ends_the_sending():
    asked = endpoint("http://127.0.0.1:9/v1")
    begun = []

    def work(item):
        begun.append(item)
        if item == 3:
            raise ValueError("three")
        return item * item

    found = {}
    with pytest.raises(ValueError, match="three"):
        for number, result in asked.in_flight(work, range(50)):
            found[number] = result
    assert 3 not in found and len(begun) <= 4 + 4 and all(found[number] == number**2 for number in found)
    assert {*found} == {*begun} - {3}
