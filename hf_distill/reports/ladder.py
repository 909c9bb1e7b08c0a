"""What a report tells of a ladder: a table of the card, and the front of quality against latency."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_distill.hub.markdown import code, table
from hf_distill.metrics import display_name, three_digits
from hf_distill.reports.plot import COLORS, GRAY

PICTURE = "ladder.png"
OTHERS = ("tfidf_logistic_regression", "tfidf_on_teacher_soft_labels")


def section(ladder: Mapping[str, Any]) -> str | None:
    """The section of a card, in Markdown; None without a ladder.

    Args:
        ladder: see `Report.ladder`.
    """
    if not ladder:
        return None
    shown = f"shown to keep {ladder['floor']:g} of the teacher's {display_name(ladder['metric'])}"
    lead = f"The cheapest rung {shown}" if ladder["held"] else f"No rung was {shown}; the best"
    text = (
        f"{lead} is {code(ladder['chosen'])}, this student. Rungs were tested on the validation rows from the most "
        "costly down, by the lower end of the 95 % interval, up to the first that does not hold; the other figures are "
        "those of the test rows. Times are medians of one text, from text to label."
    )
    rows, before = [], None
    for rung in ladder["rungs"]:
        rows.append(_row(rung, ladder, before))
        before = rung
    header = [
        *("rung", display_name(ladder["metric"]), "kept", "kept on validation", "holds"),
        *("ms a text", "bytes", "a step up costs"),
    ]
    return f"{text}\n\n{table(header, rows)}"


def _row(rung: Mapping[str, Any], ladder: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[str]:
    name, metric = rung["name"], ladder["metric"]
    step = ""
    if before is not None:
        gained = rung["quality"][metric]["value"] - before["quality"][metric]["value"]
        step = (
            f"{_ms(rung) / _ms(before):.3g}× the time, {rung['bytes'] / before['bytes']:.3g}× the bytes, {gained:+.4f}"
        )
    return [
        f"**{code(name)}**" if name == ladder["chosen"] else code(name),
        _interval(rung["quality"][metric]),
        _interval(rung["quality_kept"]),
        _interval(rung["validation"]),
        "yes" if rung["holds"] else "no" if rung["tested"] else "not tested",
        three_digits(_ms(rung)),
        f"{rung['bytes']:,}",
        step,
    ]


def _ms(timed: Mapping[str, Any]) -> float:
    return timed["end_to_end_ms"]["batch_1"]["p50"]


def _interval(found: Mapping[str, float]) -> str:
    if "value" not in found:
        return ""
    ends = f" [{found['low']:.4f}, {found['high']:.4f}]" if "low" in found else ""
    return f"{found['value']:.4f}{ends}"


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The numbers of the points that no other one beats in both: a lower time and a higher quality.

    Args:
        points: times and qualities.

    >>> front([(1.0, 0.8), (2.0, 0.7), (3.0, 0.9)])
    [0, 2]
    """
    chosen: list[int] = []
    for number in sorted(range(len(points)), key=lambda each: (points[each][0], -points[each][1])):
        if not chosen or points[number][1] > points[chosen[-1]][1]:
            chosen.append(number)
    return chosen


def save(file: str | Path, ladder: Mapping[str, Any], controls: Mapping[str, Any]) -> None:
    """Draw quality against latency: all rungs, their int8 files, the teacher, and TF-IDF as lines.

    Args:
        file: of the picture.
        ladder: see `Report.ladder`.
        controls: qualities by name.
    """
    metric = ladder["metric"]
    figure = Figure(figsize=(9, 5.2), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    points = []
    for rung in ladder["rungs"]:
        quality, x = rung["quality"][metric], _ms(rung)
        chosen = rung["name"] == ladder["chosen"]
        color = COLORS["student"] if chosen else GRAY
        axes.vlines(x, quality.get("low", quality["value"]), quality.get("high", quality["value"]), color=color)
        axes.scatter([x], [quality["value"]], color=color, zorder=4)
        weight = "bold" if chosen else "normal"
        axes.annotate(
            f"{rung['name']} {quality['value']:.3f}", (x, quality["value"]), xytext=(6, 5), textcoords="offset points",
            color=color, fontsize=9, fontweight=weight,
        )  # fmt: skip
        points.append((x, quality["value"]))
        if "int8" in rung.get("onnx", {}):
            part = rung["onnx"]["int8"]
            points.append((_ms(part), part["quality"][metric]["value"]))
            axes.scatter([points[-1][0]], [points[-1][1]], facecolors="none", edgecolors=color, zorder=4)
    best = [points[number] for number in front(points)]
    axes.step(*zip(*best, strict=True), where="post", color=COLORS["student"], linewidth=1, alpha=0.6, label="front")
    teacher = ladder["teacher"]
    if teacher["quality"] is not None:
        value = teacher["quality"]["value"]
        axes.scatter([_ms(teacher)], [value], color=COLORS["teacher"], zorder=4)
        axes.annotate(f"teacher {value:.3f}", (_ms(teacher), value), xytext=(-6, 6), textcoords="offset points",
                      color=COLORS["teacher"], fontsize=9, ha="right")  # fmt: skip
        axes.axhline(
            ladder["floor"] * value, color=COLORS["teacher"], linestyle=(0, (1, 3)), linewidth=1, label="floor"
        )
    for name in OTHERS:
        if metric in controls.get(name, {}):
            axes.axhline(controls[name][metric]["value"], linestyle=(0, (5, 3)), linewidth=1, color="#c98a1b")
            axes.annotate(name.replace("_", " "), (0.995, controls[name][metric]["value"]), fontsize=8, ha="right",
                          xycoords=("axes fraction", "data"), va="bottom", color="#c98a1b")  # fmt: skip
    axes.set_xlabel("milliseconds a text, from text to label, median (log scale); hollow: int8")
    axes.set_ylabel(display_name(metric))
    axes.set_title("ladder: bars are 95 % intervals on the test rows", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    figure.savefig(file)
