"""What a reader should know before using a report's numbers, in plain words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_distill.data.near_duplicates import near_duplicates
from hf_distill.evaluation.seeds import BASELINE
from hf_distill.metrics import lower_is_better
from hf_distill.reports.report import Report

FEW_TESTED = 100  # test rows below which intervals are too wide to rank models
FEW_JUDGED = 30  # validation rows below which the choice of the best checkpoint is mostly chance


def sample_warnings(report: Report, validation_rows: int | None = None) -> list[str]:
    """Too few rows to judge by, and a teacher that is no better than what needs no teacher.

    Args:
        report: with everything but its warnings.
        validation_rows: how many labelled rows chose the models. None: not known.
    """
    warnings = []
    row = "text" if report.metrics[0] == "agreement_with_teacher" else "labelled row"
    few = {"the test set": report.examples, **{name: of["examples"] for name, of in report.test_sets.items()}}
    for name, examples in few.items():
        if examples < FEW_TESTED:
            warnings.append(
                f"Only {count(examples, row)} in {name}: fewer than {FEW_TESTED} cannot tell models apart "
                "that differ by some points. Read the intervals, not the values, and test on more rows."
            )
    if validation_rows is not None and validation_rows < FEW_JUDGED:
        warnings.append(
            f"Only {count(validation_rows, 'labelled validation row')}: with fewer than {FEW_JUDGED} it is mostly "
            "chance which checkpoint, penalty or temperature was chosen. Validate on more rows."
        )
    lead = report.differences.get("teacher_over_best_control")
    metric = report.metrics[0]
    if lead and lead["value"] <= 0:
        warnings.append(
            f"The teacher is no better than {lead['control']}, which needs no teacher: its lead on {metric} is "
            f"{lead['value']:+.4f}. There is nothing to distil from it here."
        )
    elif lead and lead["low"] <= 0:
        warnings.append(
            f"The teacher's lead over {lead['control']}, which needs no teacher, is not certain: "
            f"{lead['value']:+.4f} {metric}, between {lead['low']:+.4f} and {lead['high']:+.4f}."
        )
    tuned = report.differences.get("teacher_gain_over_untuned")
    if tuned and tuned["value"] <= 0:
        warnings.append(
            f"The teacher is no better than before its fine-tuning: it saved {tuned['value']:+.4f} {metric}."
        )
    return warnings


def count(number: int, unit: str) -> str:
    """A number with its unit.

    >>> count(1, "row"), count(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def report_warnings(
    report: Report, teacher_floor: float | None = None, validation_rows: int | None = None
) -> list[str]:
    """What the figures of a report call for, with what limits all of them first.

    Args:
        report: with everything but its warnings.
        teacher_floor: what the teacher should reach on the first metric.
        validation_rows: how many labelled rows chose the models. None: not known.
    """
    metric = report.metrics[0]
    value = {
        name: quality[metric]["value"]
        for name, quality in {**{n: m["quality"] for n, m in report.models.items()}, **report.controls}.items()
        if metric in quality
    }
    warnings = sample_warnings(report, validation_rows)
    if report.words.get("lost_words"):
        warnings.append(words_lost(report.words))
    lost = {name: report.words.get(f"cut_off_{name}", 0) for name in ("teacher", "student")}
    if lost["teacher"] > lost["student"] and "lost_words" in report.words:
        warnings.append(
            f"Of {report.words['words']:,} words the teacher did not read {lost['teacher']:,} and the student "
            f"{lost['student']:,}: those with a label are scored as wrong, so the teacher looks worse beside the "
            "student than it is. Give it longer rows (teacher_max_length)."
        )
    if any(lost.values()) and "lost_words" not in report.words:
        warnings.append(
            f"Of {report.words['words']} words {lost['teacher']} were cut off for the teacher and {lost['student']} "
            f"for the student, at the longest that each reads; all are scored on the {report.words['scored']} labelled "
            "ones that all read."
        )
    missed = 0 if teacher_floor is None else teacher_floor - value.get("teacher", teacher_floor)
    side, missed = ("above", -missed) if lower_is_better(metric) else ("below", missed)
    if missed > 0:
        warnings.append(
            f"The teacher's {metric} of {value['teacher']:.4f} is {side} its floor of {teacher_floor:g}: it is too "
            "weak to judge distillation by."
        )
    gain = report.differences.get("gain_over_best_control")
    if gain is None:
        warnings.append(
            "There is no control without a teacher, so this report cannot say whether the teacher was worth it."
        )
    elif gain["value"] <= 0:
        warnings.append(
            f"The student does not beat the best control without a teacher: {metric} {value['student']:.4f} against "
            f"{value[gain['control']]:.4f} of {gain['control']}. It is not worth its teacher."
        )
    elif gain["low"] <= 0:
        warnings.append(
            f"The student's gain over {gain['control']} is not certain on {report.examples} test examples: "
            f"{gain['value']:+.4f}, between {gain['low']:+.4f} and {gain['high']:+.4f}."
        )
    fair = report.differences.get("baseline_over_best_other_control")
    if fair and fair["high"] < 0:
        warnings.append(
            f"The baseline is a weak one: {metric} {value[BASELINE]:.4f}, below the {value[fair['control']]:.4f} of "
            f"{fair['control']}. A gain over it alone says little about the teacher."
        )
    ahead = [name for name in report.controls_with_teacher if value[name] >= value["student"]]
    if ahead:
        do = "does" if len(ahead) == 1 else "do"
        warnings.append(f"With the same teacher, {' and '.join(ahead)} {do} at least as well as the student.")
    for ratio, fault in (("smaller", "has no fewer parameters than"), ("faster", "is no faster than")):
        if report.ratios.get(ratio, 2) <= 1:
            warnings.append(f"The student {fault} the teacher.")
    return warnings


def words_lost(words: Mapping[str, int]) -> str:
    """What the student did not read of a tagged test set.

    Args:
        words: of the report.

    >>> words_lost({"words": 90, "scored": 80, "lost_words": 8, "entities": 9, "lost_entities": 2}).partition(':')[0]
    'Of 80 labelled words the student did not read 8, nor 2 of 9 entities whole'
    """
    entities = ""
    if "entities" in words:
        entities = f", nor {words['lost_entities']:,} of {words['entities']:,} entities whole"
    return (
        f"Of {words['scored']:,} labelled words the student did not read {words['lost_words']:,}{entities}: they lie "
        "beyond the longest sentence that it reads, and are scored as wrong."
    )


def leak(texts: Sequence[Any], training_texts: Iterable[Any]) -> str | None:
    """A warning where test texts were trained on; None where none was.

    Args:
        texts: of the test set, see `near_duplicates`.
        training_texts: likewise.
    """
    found = near_duplicates(texts, training_texts)
    if not found:
        return None
    return (
        f"Of {len(texts)} test texts {found} ({found / len(texts):.1%}) stand in the training texts too, or nearly so: "
        "all figures are inflated by memorised texts. Split the data so that near-duplicates stay on one "
        "side."
    )
