"""Costs of a teacher behind a prompt, against their closed forms."""

import pytest

from hf_distill.reports.costs import answers_told, break_even, costs, costs_told, first_line
from hf_distill.reports.report import Report

COUNTS = {"distinct": 200, "asked": 50, "requests": 60, "retries": 3, "tokens_in": 40_000, "tokens_out": 400}


def test_seconds_and_prices_are_those_of_all_texts():
    found = costs(COUNTS, 5.0, 500.0, 30.0, {"input": 3.0, "output": 15.0, "machine_hour": 3.6})
    assert found["teacher_seconds_per_text"] == 0.1 and found["teacher_seconds"] == 20.0  # 150 were asked before
    assert found["student_seconds_per_million"] == 2000.0
    assert found["price"] == pytest.approx(0.04 * 3 + 0.0004 * 15)
    assert found["teacher_price_per_million"] == pytest.approx(0.126 / 200 * 1e6)
    assert found["student_price_per_million"] == pytest.approx(2000 / 3600 * 3.6)
    assert (found["questions"], found["retries"], found["probes"]) == (200, 3, 0)


def test_from_the_break_even_on_the_student_is_cheaper():
    price = {"input": 3.0, "output": 15.0, "machine_hour": 3.6}
    found = costs(COUNTS, 5.0, 500.0, 30.0, price)["break_even_texts"]
    paid, hourly = 0.126, 3.6 / 3600

    def seconds(texts):
        return 0.1 * texts, 20.0 + 30.0 + texts / 500

    def money(texts):
        return paid / 200 * texts, paid + (20.0 + 30.0) * hourly + texts / 500 * hourly

    for spent, texts in ((seconds, found["seconds"]), (money, found["price"])):
        asked, student = spent(texts)
        assert student < asked
        asked, student = spent(texts - 1)
        assert student >= asked


def test_what_is_not_known_is_left_out():
    again = costs({**COUNTS, "asked": 0}, 0.2, 500.0, 30.0)
    assert not {"teacher_seconds", "teacher_seconds_per_text", "price"} & again.keys()
    assert again["break_even_texts"] == {}
    slow = costs(COUNTS, 0.05, 500.0, 30.0, {"input": 0.0, "output": 0.0, "machine_hour": 1.0})
    assert slow["break_even_texts"] == {"seconds": None, "price": None}  # the teacher is faster, and costs nothing
    assert break_even(0.0, 1.0, 0.5) == 1


def test_a_reader_is_told():
    answers = {
        "model": "tiny",
        "told": "one answer",
        "distinct": 200,
        "outside": 0.25,
        "without_target": 3,
        "unreturned": 2,
        "notes": ["Not available: letters."],
        "without_labels": "No text had a label.",
    }
    report = Report("text-classification", ["accuracy"], 10, {}, answers=answers, cost=costs(COUNTS, 5.0, 500.0, 30.0))
    told = answers_told(report)
    assert "asked for the class of 200 different texts" in told and "0.2500 on average" in told
    assert "3 answers named no class" in told and "For 2 texts a class was not returned" in told
    assert first_line(report) == "No text had a label. "
    table = costs_told(report)
    assert "| distinct texts asked | 200 |" in table and "price" not in table
    assert f"from {report.cost['break_even_texts']['seconds']:,} texts on" in table
    plain = Report("text-classification", ["accuracy"], 10, {})
    assert answers_told(plain) is None and costs_told(plain) is None and first_line(plain) == ""
