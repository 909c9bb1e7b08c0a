"""What a teacher behind a prompt answered and cost, and from how many texts on its student is cheaper."""

import math
from collections.abc import Mapping
from typing import Any

from hf_distill.hub.markdown import table, text
from hf_distill.reports.report import Report

MILLION, HOUR = 1_000_000, 3600
SHOWN = {
    "questions": "distinct texts asked",
    "requests": "requests, in the last run",
    "retries": "of them sent again",
    "probes": "requests to find a way of asking",
    "samples": "answers sampled",
    "tokens_in": "tokens read",
    "tokens_out": "tokens written",
    "teacher_seconds_per_text": "seconds a text, teacher",
    "teacher_seconds": "seconds for all, teacher",
    "training_seconds": "seconds to train the student",
    "student_seconds_per_million": "seconds a million texts, student",
    "price": "price of the answers",
    "teacher_price_per_million": "price a million texts, teacher",
    "student_price_per_million": "price a million texts, student",
}


def costs(
    counts: Mapping[str, int],
    seconds: float,
    texts_per_second: float,
    training_seconds: float,
    price: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What the teacher's answers took, what the student takes, and the break-even.

    Args:
        counts: `distinct` texts, those `asked` in this run, `requests`, `retries`, `probes`, `samples`, `tokens_in` and
            `tokens_out` of all distinct texts.
        seconds: in which the texts of this run were asked.
        texts_per_second: of the student, in batches, on this machine.
        training_seconds: of the student.
        price: `input` and `output`, of a million tokens; `machine_hour`. None: not known.
    Returns:
        The counts, `teacher_seconds_per_text` and `teacher_seconds` for all distinct texts (missing where none was
        asked in this run), `training_seconds`, `student_seconds_per_million`; with a price `price` of all answers, and
        `teacher_price_per_million` and `student_price_per_million` texts; `break_even_texts`, the number of texts from
        which asking the teacher for its targets, training the student and running it is cheaper than asking the teacher
        for each: in `seconds`, and in `price`. None where the student never is.

    >>> counts = {"distinct": 100, "asked": 50, "tokens_in": 10_000, "tokens_out": 100}
    >>> found = costs(counts, 5.0, 1000.0, 89.0, {"input": 10.0, "output": 100.0, "machine_hour": 0.0})
    >>> found["teacher_seconds"], found["price"], found["break_even_texts"]
    (10.0, 0.11, {'seconds': 1001, 'price': 101})
    """
    distinct, asked = counts["distinct"], counts.get("asked", 0)
    names = ("requests", "retries", "probes", "samples", "tokens_in", "tokens_out")
    found: dict[str, Any] = {"questions": distinct, **{name: counts.get(name, 0) for name in names}}
    student = 1 / texts_per_second
    found |= {"training_seconds": training_seconds, "student_seconds_per_million": MILLION * student}
    found["break_even_texts"] = {}
    waited = 0.0
    if asked:
        each = seconds / asked
        waited = each * distinct
        found |= {"teacher_seconds_per_text": each, "teacher_seconds": waited}
        found["break_even_texts"]["seconds"] = break_even(waited + training_seconds, each, student)
    if price is not None:
        paid = (found["tokens_in"] * price["input"] + found["tokens_out"] * price["output"]) / MILLION
        of_machine = price["machine_hour"] / HOUR
        found |= {
            "price": paid,
            "teacher_price_per_million": MILLION * paid / distinct,
            "student_price_per_million": MILLION * student * of_machine,
        }
        once = paid + (waited + training_seconds) * of_machine
        found["break_even_texts"]["price"] = break_even(once, paid / distinct, student * of_machine)
    return found


def break_even(once: float, dear: float, cheap: float) -> int | None:
    """The fewest texts for which paying once and then the cheap rate is less than paying the dear rate for each.

    Args:
        once: what is paid before the first text.
        dear: a text, without it.
        cheap: a text, with it.

    >>> break_even(10.0, 0.5, 0.0), break_even(10.0, 0.5, 0.25), break_even(10.0, 0.1, 0.1)
    (21, 41, None)
    """
    return math.floor(once / (dear - cheap)) + 1 if dear > cheap else None


def first_line(report: Report) -> str:
    """What a reader has to know first where no text had a label; an empty text elsewhere."""
    told = report.answers.get("without_labels")
    return f"{text(told)} " if told else ""


def answers_told(report: Report) -> str | None:
    """How a teacher behind a prompt was asked, in Markdown; None of any other."""
    found = report.answers
    if not found:
        return None
    told = [
        f"The teacher is the language model {text(found['model'])}, which was asked for the class of "
        f"{found['distinct']:,} different texts. Its answers were read as: {text(found['told'])}.",
        f"The probability of answers that name no class is {found['outside']:.4f} on average, and left out.",
    ]
    if found["without_target"]:
        told.append(f"{found['without_target']:,} answers named no class.")
    if found["unreturned"]:
        told.append(
            f"For {found['unreturned']:,} texts a class was not returned; it counts with the smallest probability of "
            "those that were."
        )
    return " ".join([*told, *map(text, found["notes"])])


def costs_told(report: Report) -> str | None:
    """What the teacher's answers and the student cost, as a table; None without a teacher behind a prompt."""
    if not report.cost:
        return None
    rows = [[name, _digits(report.cost[key])] for key, name in SHOWN.items() if report.cost.get(key) is not None]
    for unit, number in report.cost["break_even_texts"].items():
        told = "never" if number is None else f"from {number:,} texts on"
        rows.append([f"the student is cheaper, by {unit}", told])
    return table(["what it took", ""], rows)


def _digits(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
