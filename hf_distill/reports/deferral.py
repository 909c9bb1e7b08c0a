"""What a report tells of a cascade: a section of the card, and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_distill.hub.markdown import table
from hf_distill.metrics import display_name
from hf_distill.reports.plot import COLORS, GRAY

PICTURE = "deferral.png"
SHOWN = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)  # of the curve's shares, in a card


def section(deferral: Mapping[str, Any]) -> str | None:
    """The section of a card, in Markdown; None without a cascade.

    Args:
        deferral: see `Report.deferral`.
    """
    if not deferral:
        return None
    rows = [row for row in deferral["curve"] if any(abs(row["handed_over"]["value"] - share) < 5e-3 for share in SHOWN)]
    at = deferral.get("at_threshold")
    named = [(_percent(row["handed_over"]["value"]), row) for row in rows]
    if at is not None:
        named.append((f"**at the threshold: {_percent(at['handed_over']['value'])}**", at))
    header = ["handed over", "agreement with the teacher"]
    header += [display_name(deferral["metric"])] if any("quality" in row for row in rows) else []
    cells = [
        [
            name,
            _interval(row["agreement"]),
            *([_interval(row["quality"])] if "quality" in row else []),
            _percent(row["cost"]),
        ]
        for name, row in named
    ]
    return f"{_promise(deferral)}\n\n{table([*header, 'time, of the teacher alone'], cells)}"


def _promise(deferral: Mapping[str, Any]) -> str:
    fit = deferral["fit"]
    texts = f"{fit['tested_texts']:,} held-out texts ({fit['rows']})"
    if fit["threshold"] is None:
        return (
            f"No threshold on the student's confidence keeps an agreement of {fit['agreement']} with its teacher, with "
            f"confidence {fit['confidence']}, on {texts}: there is no cascade. What one would be worth on "
            f"{deferral['texts']:,} test examples:"
        )
    at = f"Where the student's confidence (at temperature {fit['temperature']:.3g}) is below {fit['threshold']:.4g}"
    if "agreement" in fit:
        promised = (
            f"{at}, a text should go to the teacher. Then the probability that the student answers and differs from "
            f"its teacher is at most {1 - fit['agreement']:.3g}, with confidence {fit['confidence']:g} over the choice "
            f"of the {texts} on which this was tested, for texts like these."
        )
        if fit["rows"] == "validation":
            promised += " They also chose among the student's checkpoints, which the promise does not account for."
    else:
        promised = f"{at}, a text should go to the teacher: {fit['defer']:.0%} of {texts}. This promises no agreement."
    return f"{promised} On {deferral['texts']:,} test examples:"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _interval(found: Mapping[str, float]) -> str:
    if "low" not in found:
        return f"{found['value']:.4f}"
    return f"{found['value']:.4f} [{found['low']:.4f}, {found['high']:.4f}]"


def save(file: str | Path, deferral: Mapping[str, Any]) -> None:
    """Draw the deferral curve.

    Args:
        file: of the picture.
        deferral: see `Report.deferral`.
    """
    figure = Figure(figsize=(7.5, 4.6), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows: Sequence[Any] = deferral["curve"]
    shares = [100 * row["handed_over"]["value"] for row in rows]
    lines = {"agreement": ("agreement with the teacher", COLORS["teacher"])}
    if all("quality" in row for row in rows):
        lines["quality"] = (display_name(deferral["metric"]), COLORS["student"])
    for name, (label, color) in lines.items():
        axes.plot(shares, [row[name]["value"] for row in rows], color=color, marker="o", markersize=3, label=label)
        if all("low" in row[name] for row in rows):
            low, high = ([row[name][end] for row in rows] for end in ("low", "high"))
            axes.fill_between(shares, low, high, color=color, alpha=0.15, linewidth=0)
    at = deferral.get("at_threshold")
    if at is not None:
        axes.axvline(
            100 * at["handed_over"]["value"], color=GRAY, linestyle=(0, (5, 3)), linewidth=1, label="threshold"
        )
    axes.set_xlabel("% of the texts handed to the teacher, the least confident first")
    axes.set_title(f"deferral: {deferral['texts']:,} test examples\nbands are 95 % intervals", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=9.5, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.8)
    figure.savefig(file)
