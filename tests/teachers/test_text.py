"""Teachers that only speak text: asked once, through a real server and a real client, killed and gone on with."""

import json
import logging
import signal
import subprocess
import sys
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from hf_distill.teachers.ask import ask, teacher_labels
from hf_distill.teachers.generating import GeneratingTeacher
from hf_distill.teachers.served import ServedTeacher
from hf_distill.teachers.text import TextTeacher
from tests import cases

SPECIAL = ["[PAD]", "[BOS]", "[EOS]", "[UNK]"]
ROLES = ["system", "user", "assistant"]
WORDS = [f"w{number}" for number in range(50 - len(SPECIAL) - len(ROLES))]
TEXTS = ["w1 w2", "w3 w4 w5 w6 w7 w8", "w9", "w2 w4 w6 w8", "w5 w5 w5", "w40 w41 w42 w43 w44", "w7"]
TEMPLATE = (
    "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


class Shouting:
    """A teacher that is a function, and remembers what it was asked."""

    def __init__(self, missing=()):
        self.asked, self.calls, self.missing = [], 0, missing

    def __call__(self, texts):
        self.calls += 1
        self.asked += texts
        return [text.upper() for text in texts if text not in self.missing]


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
            server.meet.wait(timeout=30)
        time.sleep(server.delay)
        with server.lock:
            server.active -= 1
        if fault == "cut":
            self.close_connection = True
            return
        if isinstance(fault, int):
            self.reply(fault, {"error": {"message": f"planted {fault}"}})
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


def lines(ledger):
    return [json.loads(line) for line in ledger.read_text().splitlines()]


def word_tokenizer(**options):
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate([*SPECIAL, *ROLES, *WORDS])}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    special = {"pad_token": "[PAD]", "eos_token": "[EOS]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **(special | options))


def llama(seed=0):
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=40,
        initializer_range=0.5,
        attention_dropout=0.5,
    )
    return LlamaForCausalLM(config).double().eval()


def translator():
    model = cases.models("seq2seq", "")[1].eval()
    for parameter in model.parameters():
        parameter.data *= 30  # as it is made it says the same to everybody
    return model


# Any function, and what is kept of its answers


def test_order_is_kept_and_equal_texts_are_asked_once():
    teacher = Shouting()
    texts = [f"text {number % 7}" for number in range(20)]
    assert ask(teacher, texts, batch_size=3) == [text.upper() for text in texts]
    assert teacher.asked == texts[:7] and teacher.calls == 3
    assert ask(teacher, datasets.Dataset.from_dict({"text": ["a", "b"]})["text"]) == ["A", "B"]
    assert ask(teacher, []) == []


def test_a_ledger_is_asked_before_the_teacher(tmp_path):
    ledger, texts = tmp_path / "new" / "ledger.jsonl", ["one", "dos", "ñandú \u2028 ☂", "one"]
    first, second, other = Shouting(), Shouting(), Shouting()
    expected = [text.upper() for text in texts]
    assert ask(first, texts, ledger=ledger, name="loud") == expected
    assert ask(second, [*texts, "more"], ledger=ledger, name="loud") == [*expected, "MORE"]
    assert second.asked == ["more"]
    assert ask(other, texts, ledger=ledger, name="other") == expected
    assert other.asked == texts[:3], "another teacher's answers were taken for this one's"
    rows = datasets.load_dataset("json", data_files=str(ledger), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["text"][:3] == texts[:3] and rows["answer"][:3] == expected[:3]


def test_a_teacher_that_returns_fewer_texts_loses_nothing_answered(tmp_path):
    ledger, texts = tmp_path / "ledger.jsonl", [f"text {number}" for number in range(10)]
    with pytest.raises(
        ValueError, match=r"given 3 texts, from 'text 6' on, and returned 2: expected a list of one answer"
    ):
        ask(Shouting(missing={"text 7"}), texts, ledger=ledger, name="loud", batch_size=3)
    assert [entry["text"] for entry in lines(ledger)] == texts[:6]
    mended = Shouting()
    assert ask(mended, texts, ledger=ledger, name="loud") == [text.upper() for text in texts]
    assert mended.asked == texts[6:]


def test_a_torn_last_line_is_dropped_wherever_it_was_cut(tmp_path):
    ledger, texts = tmp_path / "ledger.jsonl", ["one", "two", "three"]
    ask(Shouting(), texts, ledger=ledger, name="loud")
    whole = ledger.read_bytes()
    last = whole.rstrip(b"\n").rindex(b"\n") + 1
    for cut in range(last, len(whole) - 1):
        ledger.write_bytes(whole[:cut])
        teacher = Shouting()
        assert ask(teacher, texts, ledger=ledger, name="loud") == ["ONE", "TWO", "THREE"]
        assert teacher.asked == ["three"] and ledger.read_bytes() == whole


@pytest.mark.parametrize("order", [("key", "text", "answer"), ("answer", "text", "key")])
def test_a_ledger_without_a_final_newline_keeps_its_last_answer(tmp_path, order):
    ledger = tmp_path / "ledger.jsonl"
    ask(Shouting(), ["one", "two"], ledger=ledger, name="loud")
    written = [{name: entry[name] for name in order} for entry in lines(ledger)]
    ledger.write_text("\n".join(map(json.dumps, written)))
    teacher = Shouting()
    assert ask(teacher, ["one", "two", "three"], ledger=ledger, name="loud") == ["ONE", "TWO", "THREE"]
    assert teacher.asked == ["three"]
    assert lines(ledger)[:2] == written
    assert [entry["text"] for entry in lines(ledger)] == ["one", "two", "three"]


@pytest.mark.parametrize(
    "content", ['{"rows": 3}\n', '{"text": "no newline"}', "1,2\n", '{"key": "a", "answer": "b"}\n[]\n']
)
def test_a_file_that_is_no_ledger_is_left_alone(tmp_path, content):
    ledger = tmp_path / "rows.jsonl"
    ledger.write_text(content)
    with pytest.raises(ValueError, match=r"line \d is not a line of a ledger"):
        ask(Shouting(), ["one"], ledger=ledger, name="loud")
    assert ledger.read_text() == content


class Own(TextTeacher):
    """A teacher of somebody's own."""

    name = "own"

    def __init__(self, pairs):
        self.pairs = pairs

    def answers(self, texts):
        yield from self.pairs


def test_a_teacher_of_ones_own_answers_every_text_once(tmp_path):
    assert ask(Own([(1, " TWO "), (0, "ONE")]), ["one", "two"]) == ["ONE", "TWO"]
    assert Own([(1, "TWO"), (0, "ONE")])(["one", "two"]) == ["ONE", "TWO"]
    few = Own([(1, "TWO")])
    message = "Own was given 3 texts and left 2 without an answer, number 0 first: 'one'"
    ledger = tmp_path / "ledger.jsonl"
    with pytest.raises(ValueError, match=message):
        ask(few, ["one", "two", "three"], ledger=ledger)
    assert [entry["answer"] for entry in lines(ledger)] == ["TWO"]
    with pytest.raises(ValueError, match=message):
        few(["one", "two", "three"])
    for pairs in ([(2, "THREE")], [(-1, "TWO")], [("one", "ONE")]):
        with pytest.raises(ValueError, match=f"Own was given 2 texts and answered number {pairs[0][0]!r}: its answers"):
            ask(Own(pairs), ["one", "two"])
    with pytest.raises(TypeError, match="must answer with texts, got NoneType: None"):
        ask(Own([(0, None)]), ["one"])


def test_two_that_share_a_ledger_ask_once(tmp_path):
    inside, answers, asked = threading.Event(), {}, []

    def slow(texts):
        inside.set()
        time.sleep(0.02)
        asked.extend(texts)
        return [text.upper() for text in texts]

    def run(number):
        answers[number] = ask(slow, TEXTS, ledger=tmp_path / "ledger.jsonl", name="slow", batch_size=1)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    threads[0].start()
    assert inside.wait(timeout=30)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert asked == TEXTS and answers[0] == answers[1] == [text.upper() for text in TEXTS]


def test_empty_answers_are_counted(caplog):
    assert ask(lambda texts: ["" if text == "b" else " \n" for text in texts], ["a", "b", "a"]) == ["", "", ""]
    assert "3 of 3 answers are empty" in caplog.text


def test_what_cannot_be_asked(tmp_path):
    teacher = Shouting()
    with pytest.raises(ValueError, match="2 of 3 texts are blank, number 1 first"):
        ask(teacher, ["a", " ", ""])
    with pytest.raises(TypeError, match="a list of texts, got one text: 'abc'"):
        ask(teacher, "abc")
    with pytest.raises(TypeError, match="got NoneType as number 1"):
        ask(teacher, ["a", None])
    with pytest.raises(ValueError, match="Pass name="):
        ask(teacher, ["a"], ledger=tmp_path / "ledger.jsonl")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        ask(teacher, ["a"], batch_size=0)
    assert not teacher.asked
    with pytest.raises(ValueError, match="given 1 texts, from 'a' on, and returned a str"):
        ask(lambda texts: "A", ["a"])
    with pytest.raises(TypeError, match="must answer with texts, got NoneType"):
        ask(lambda texts: [None], ["a"])


# A model that generates


def alone(model, tokenizer, texts, chat=False, **options):
    """Each text generated by itself, straight through transformers."""
    answers = []
    for text in texts:
        prompt = f"user {text} assistant" if chat else text
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            written = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)[0]
        answers.append(tokenizer.decode(written[ids.shape[1] if chat else 1 :], skip_special_tokens=True).strip())
    return answers


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": False}])
def test_translations_in_batches_are_those_of_single_texts(options):
    model, tokenizer = translator(), word_tokenizer()
    expected = alone(model, tokenizer, TEXTS, max_new_tokens=8, **options)
    teacher = GeneratingTeacher(model, tokenizer, max_new_tokens=8, batch_size=3, **options)
    assert ask(teacher, TEXTS) == teacher(TEXTS) == expected
    assert len(set(expected)) > 3


@pytest.mark.parametrize("pad_token", ["[PAD]", None])
def test_replies_through_the_chat_template(pad_token):
    model, tokenizer = llama(), word_tokenizer(pad_token=pad_token, chat_template=TEMPLATE)
    expected = alone(model, tokenizer, TEXTS, chat=True, max_new_tokens=8)
    assert ask(GeneratingTeacher(model.train(), tokenizer, max_new_tokens=8, batch_size=3), TEXTS) == expected
    assert len(set(expected)) > 3
    told = GeneratingTeacher(model, tokenizer, max_new_tokens=8, system="w11 w12")
    assert ask(told, TEXTS) != expected
    assert tokenizer.padding_side == "right" and tokenizer.pad_token == pad_token


def test_longest_first_with_little_padding():
    model, shapes = translator(), []
    generate = model.generate
    model.generate = lambda input_ids, **options: (
        shapes.append(tuple(input_ids.shape)) or generate(input_ids, **options)
    )
    GeneratingTeacher(model, word_tokenizer(), max_new_tokens=2, batch_size=2)(TEXTS)
    assert shapes == [(2, 6), (2, 4), (2, 2), (1, 1)]


def test_sampled_answers_repeat_and_leave_everything_as_it_was():
    model, tokenizer = llama().train(), word_tokenizer(chat_template=TEMPLATE)
    options = {"max_new_tokens": 8, "do_sample": True, "batch_size": 3}
    before = torch.get_rng_state()
    first = GeneratingTeacher(model, tokenizer, **options)(TEXTS)
    assert torch.equal(torch.get_rng_state(), before) and model.training
    torch.rand(3)
    assert GeneratingTeacher(model, tokenizer, **options)(TEXTS) == first
    assert GeneratingTeacher(model, tokenizer, seed=1, **options)(TEXTS) != first


def test_a_generating_teacher_is_known_by_whatever_changes_its_answers():
    model, tokenizer = llama(), word_tokenizer(chat_template=TEMPLATE)

    def name(model=model, tokenizer=tokenizer, **options):
        return GeneratingTeacher(model, tokenizer, **{"max_new_tokens": 8, **options}).name

    assert name() == name(llama(), batch_size=2, seed=3)
    others = [
        name(llama(seed=1)),
        name(tokenizer=word_tokenizer(chat_template=TEMPLATE + " ")),
        name(num_beams=2),
        name(max_new_tokens=9),
        name(system="w1"),
        name(do_sample=True),
        name(do_sample=True, seed=1),
    ]
    assert len({name(), *others}) == 1 + len(others)
    model.generation_config.num_beams = 2
    assert name() not in {GeneratingTeacher(llama(), tokenizer, max_new_tokens=8).name}


def test_what_a_model_cannot_generate(caplog):
    model, tokenizer = llama(), word_tokenizer(chat_template=TEMPLATE)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM is causal .* Set tokenizer.chat_template"):
        GeneratingTeacher(model, word_tokenizer())
    with pytest.raises(ValueError, match=r"below the 40 tokens .* got 256"):
        GeneratingTeacher(model, tokenizer)
    with pytest.raises(ValueError, match="system is for chats"):
        GeneratingTeacher(translator(), tokenizer, system="w1")
    with pytest.raises(ValueError, match="leave out num_return_sequences"):
        GeneratingTeacher(model, tokenizer, num_return_sequences=2)
    with pytest.raises(ValueError, match="must be plain JSON values"):
        GeneratingTeacher(model, tokenizer, max_new_tokens=8, stopping_criteria=[object()])
    room = 40 - 8 - 2  # the roles take two
    teacher = GeneratingTeacher(model, tokenizer, max_new_tokens=8)
    assert len(ask(teacher, [" ".join(["w1"] * room)])) == 1
    with pytest.raises(ValueError, match=r"1 of 2 texts are longer than the 32 tokens .* of 33 tokens: 'w1 w1"):
        ask(teacher, ["w2", " ".join(["w1"] * (room + 1))])
    with pytest.raises(ValueError, match="1 of 1 texts are longer than the 40 tokens"):
        ask(GeneratingTeacher(translator(), tokenizer, max_new_tokens=8), [" ".join(["w1"] * 41)])
    caplog.clear()
    written = GeneratingTeacher(model, tokenizer, max_new_tokens=8, eos_token_id=None)(TEXTS)
    assert all(len(answer.split()) <= 8 for answer in written)
    assert "7 of 7 answers are max_new_tokens=8 tokens long and may be truncated" in caplog.text


# A server


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


def test_killed_run_asks_again_only_what_was_in_flight(server, tmp_path):
    server.delay = 0.02
    ledger, texts = tmp_path / "ledger.jsonl", [f"text {number}" for number in range(300)]
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(KILLED), server.url, str(ledger)])
    deadline = time.time() + 120
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


# Labels


def test_labels_from_answers(caplog):
    classes = ["negative", "very positive", "+"]
    answers = ["Negative", ' "Very  positive."\n', "**negative**", "+", "", "positive", "not negative", " ", "negativ"]
    labels, counts = teacher_labels(answers, classes)
    assert labels.tolist() == [0, 1, 0, 2, -100, -100, -100, -100, -100] and labels.dtype == "int64"
    assert counts == {"valid": 4, "invalid": 3, "empty": 2}
    assert "Of 9 answers 3 name none of the classes" in caplog.text and "'not negative'" in caplog.text
    caplog.clear()
    rows = datasets.Dataset.from_dict({"text": answers}).add_column("label", labels)
    assert rows["label"][:4] == [0, 1, 0, 2]
    caplog.set_level(logging.WARNING)
    assert teacher_labels(["+"], classes)[1] == {"valid": 1, "invalid": 0, "empty": 0} and not caplog.text
    assert teacher_labels([], classes)[0].tolist() == []


def test_labels_that_are_none():
    with pytest.raises(ValueError, match="names that differ in more than case and space"):
        teacher_labels(["a"], ["A", "a "])
    with pytest.raises(
        ValueError, match=r"Of 2 answers 1 name none of the classes .*; 1 are empty. That leaves no label"
    ):
        teacher_labels(["maybe", ""], ["yes", "no"])


def test_what_a_class_begins_or_ends_with_is_no_punctuation():
    labels, counts = teacher_labels(["-1.", "'-1'", "**-1**", "1", "- 1 -", "x"], ["-1", "0", "1"])
    assert labels.tolist() == [0, 0, 0, 2, -100, -100]
    labels, _ = teacher_labels(["c++.", "C.", "(c++)"], ["c", "c++"])
    assert labels.tolist() == [1, 0, 1]
    assert counts["invalid"] == 2
