"""Teachers behind a server: a real server and a real client, killed and gone on with."""

import base64
import json
import logging
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hf_distill.teachers.ask import ask
from hf_distill.teachers.served import ServedTeacher
from tests.teachers.cases import TEXTS, lines


class Server(ThreadingHTTPServer):
    """Answers chat completions with the upper-case text, after the faults that were planted for it.

    A fault is a status, the content of another answer, "cut" for a connection closed without an answer, or "half" for
    one closed within it.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.requests, self.faults, self.lock = [], {}, threading.Lock()
        self.active = self.most = 0
        self.delay = 0.0
        self.meet: threading.Barrier | None = None
        self.content = str.upper
        self.finish = "stop"
        self.echo = False  # whether errors repeat the key

    def handle_error(self, request, client_address):
        pass  # a killed client's connection


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = request["messages"][-1]["content"]
        with server.lock:
            server.requests.append({"path": self.path, "key": self.headers["Authorization"], **request})
            server.active += 1
            server.most = max(server.most, server.active)
            faults = server.faults.get(text, [])
            fault = faults.pop(0) if faults else None
        if server.meet is not None:
            server.meet.wait(timeout=800)
        time.sleep(server.delay)
        with server.lock:
            server.active -= 1
        if fault == "cut":
            self.close_connection = True
            return
        if isinstance(fault, int):
            said = self.headers["Authorization"] if server.echo else ""
            self.reply(fault, {"error": {"message": f"planted {fault}{said}"}})
            return
        if isinstance(fault, dict):
            self.reply(200, fault)
            return
        message = {"role": "assistant", "content": server.content(text)}
        choice = {"index": 0, "message": message, "finish_reason": server.finish}
        self.reply(
            200,
            {"id": "1", "object": "chat.completion", "created": 1, "model": request["model"], "choices": [choice]},
            half=fault == "half",
        )

    def reply(self, status, content, half=False):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if half else body)
        self.close_connection = half

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


def served(server, **options):
    return ServedTeacher("tiny", base_url=server.url, **options)


def test_a_server_is_asked_what_was_said(server):
    teacher = served(server, system="Shout.", api_key="secret", temperature=0, extra_body={"top_k": 1})
    assert ask(teacher, TEXTS) == [text.upper() for text in TEXTS]
    assert len(server.requests) == len(TEXTS)
    request = next(request for request in server.requests if request["messages"][-1]["content"] == "w9")
    assert request == {
        "path": "/v1/chat/completions",
        "key": "Bearer secret",
        "model": "tiny",
        "messages": [{"role": "system", "content": "Shout."}, {"role": "user", "content": "w9"}],
        "temperature": 0,
        "top_k": 1,
    }


def test_what_fails_for_a_while_is_asked_again(server):
    server.faults = {"w1 w2": [429], "w9": [500, 429], "w7": ["cut"], "w5 w5 w5": ["half"]}
    teacher = served(server, max_retries=2)
    assert ask(teacher, TEXTS) == [text.upper() for text in TEXTS]
    assert len(server.requests) == len(TEXTS) + 5 and not any(server.faults.values())


def test_requests_in_flight_are_bounded(server):
    server.meet = threading.Barrier(3)  # nobody is answered before three are there together
    texts = [f"text {number}" for number in range(12)]
    assert ask(served(server, requests_in_flight=3), texts) == [text.upper() for text in texts]
    assert server.most == 3


@pytest.mark.parametrize(
    ("faults", "error", "message"),
    [
        ([500] * 3, ConnectionError, "did not answer 'w9': .*planted 500.* try again later"),
        ([400], ValueError, "did not answer 'w9': .*planted 400.* correct the request"),
    ],
)
def test_what_fails_for_good_loses_no_other_answer(server, tmp_path, faults, error, message):
    ledger = tmp_path / "ledger.jsonl"
    server.faults = {"w9": list(faults)}
    teacher = served(server, max_retries=2, requests_in_flight=2)
    with pytest.raises(error, match=message):
        ask(teacher, TEXTS, ledger=ledger)
    sent = {request["messages"][-1]["content"] for request in server.requests}
    kept = {entry["text"] for entry in lines(ledger)}
    assert kept == sent - {"w9"} and kept
    server.requests.clear()
    assert ask(teacher, TEXTS, ledger=ledger) == [text.upper() for text in TEXTS]
    assert len(server.requests) == len(TEXTS) - len(kept)


def test_after_a_failure_no_more_is_sent(server):
    server.faults = {TEXTS[2]: [400]}
    with pytest.raises(ValueError, match="correct the request"):
        ask(served(server, requests_in_flight=1), TEXTS)
    assert [request["messages"][-1]["content"] for request in server.requests] == TEXTS[:3]


def test_a_served_teacher_is_known_by_its_model_and_options_wherever_it_is(server, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    ask(served(server, temperature=0), TEXTS, ledger=ledger)
    moved = ServedTeacher("tiny", base_url="http://127.0.0.1:9/v1", temperature=0, max_retries=0)
    assert ask(moved, TEXTS, ledger=ledger) == [text.upper() for text in TEXTS]
    with pytest.raises(ConnectionError, match=r"tiny at http://127.0.0.1:9/v1/ did not answer 'w10': .*refused"):
        ask(moved, ["w10"])
    ask(served(server, temperature=1), TEXTS, ledger=ledger)
    ask(served(server, temperature=0, system="Shout."), TEXTS, ledger=ledger)
    assert len(server.requests) == 3 * len(TEXTS)


def test_strange_answers_of_a_server(server, caplog):
    server.content, server.finish = lambda text: None, "length"
    assert ask(served(server), ["a", "b"]) == ["", ""]
    assert "2 of 2 answers are empty" in caplog.text and "2 of 2 answers were truncated by the server" in caplog.text
    server.faults = {"a": [{"detail": "hello"}]}
    with pytest.raises(ConnectionError, match=r"with a chat completion but with .* usually ends in /v1"):
        ask(served(server), ["a"])


def test_bad_options_of_a_server(monkeypatch):
    with pytest.raises(ValueError, match="leave out stream"):
        ServedTeacher("tiny", stream=True)
    with pytest.raises(ValueError, match="requests_in_flight must be at least 1, got 0"):
        ServedTeacher("tiny", requests_in_flight=0)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=r"pip install 'hf-distill\[served\]'"):
        ServedTeacher("tiny")


KILLED = """
    import sys
    from hf_distill.teachers import ServedTeacher, ask

    ask(ServedTeacher("tiny", base_url=sys.argv[1], requests_in_flight=4), [f"text {n}" for n in range(300)],
        ledger=sys.argv[2])
"""


@pytest.mark.faults
def test_killed_run_asks_again_only_what_was_in_flight(server, tmp_path):
    server.delay = 0.02
    ledger, texts = tmp_path / "ledger.jsonl", [f"text {number}" for number in range(300)]
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(KILLED), server.url, str(ledger)])
    deadline = time.time() + 800
    while (not ledger.exists() or ledger.read_bytes().count(b"\n") < 20) and time.time() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = ledger.read_bytes().count(b"\n")
    assert 20 <= kept < len(texts)
    server.delay = 0.0
    assert ask(served(server), texts, ledger=ledger) == [text.upper() for text in texts]
    twice = len(server.requests) - len(texts)
    assert 0 <= twice <= 4
    assert sorted(entry["text"] for entry in lines(ledger)) == sorted(texts)


# Passwords and keys


PASSWORD = "planted/p@ss word"
IN_URL = "planted%2Fp%40ss%20word"


@pytest.mark.parametrize("door", ["argument", "environment"])
def test_a_password_in_the_address_is_sent_and_shown_nowhere(server, monkeypatch, caplog, door):
    caplog.set_level(logging.DEBUG)
    address = server.url.replace("://", f"://me:{IN_URL}@")
    if door == "environment":
        monkeypatch.setenv("OPENAI_BASE_URL", address)
    teacher = ServedTeacher("tiny", base_url=address if door == "argument" else None, max_retries=0)
    assert ask(teacher, ["a"]) == ["A"]
    assert server.requests[0]["key"] == f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}"
    server.faults = {"b": [400], "c": ["cut"], "d": [{"detail": f"as {PASSWORD}"}]}
    told = [caplog.text, repr(vars(teacher.client)), str(teacher.client.base_url), teacher.name]
    for text in "bcd":
        with pytest.raises(
            (ValueError, ConnectionError), match=r"tiny at http://127\.0\.0\.1:\d+/v1/ did not"
        ) as caught:
            ask(teacher, [text])
        told.append("".join(traceback.format_exception(caught.value)))
    for text in [*told, caplog.text]:
        assert PASSWORD not in text and IN_URL not in text


@pytest.mark.parametrize("door", ["argument", "environment"])
def test_a_key_that_a_server_repeats_is_not_shown(server, monkeypatch, door):
    key = "planted-key-of-a-user"
    if door == "environment":
        monkeypatch.setenv("OPENAI_API_KEY", key)
    teacher = ServedTeacher("tiny", base_url=server.url, api_key=key if door == "argument" else None, max_retries=0)
    server.echo = True
    server.faults = {"a": [400], "b": [{"detail": f"you sent {key}"}]}
    for text in "ab":
        with pytest.raises((ValueError, ConnectionError)) as caught:
            ask(teacher, [text])
        assert key not in "".join(traceback.format_exception(caught.value))
    assert all(request["key"] == f"Bearer {key}" for request in server.requests)


def test_a_ledger_is_read_with_another_key(server, tmp_path):
    """The name of a teacher holds no secret, so that a new key asks nothing again."""
    ledger = tmp_path / "ledger.jsonl"
    for key in ("one", "two"):
        teacher = ServedTeacher("tiny", base_url=server.url, extra_headers={"x-api-key": f"planted-{key}"})
        assert "planted" not in teacher.name
        ask(teacher, TEXTS, ledger=ledger)
    assert len(server.requests) == len(TEXTS)
    assert "planted" not in ledger.read_text()
