"""Answers are kept as they come, through torn lines and by two at once."""

import json
import threading
import time

import datasets
import pytest

from hf_distill.teachers.ask import ask
from tests.teachers.cases import TEXTS, Shouting, lines


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
    assert inside.wait(timeout=800)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert asked == TEXTS and answers[0] == answers[1] == [text.upper() for text in TEXTS]
