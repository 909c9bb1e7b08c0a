"""The picture of a report: quality against latency, size as area, controls as lines; and how it was learned."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from hf_distill.metrics import display_name, three_digits

COLORS = {"teacher": "#33507a", "student": "#d1495b", "baseline": "#7a7f87"}
GRAY, WITH_TEACHER = "#8a8f98", "#c98a1b"
TRIVIAL = ("majority_class", "most_frequent_tag")  # far below, they would press all else together
LARGEST, SMALLEST = 2400.0, 36.0  # marker areas in points²


def save(
    file: str | Path,
    *,
    task: str,
    metrics: Sequence[str],
    examples: int,
    models: Mapping[str, Any],
    controls: Mapping[str, Any],
    controls_with_teacher: Sequence[str] = (),
    scored_words: int | None = None,
    seeds: int = 1,
    curves: Mapping[str, Any] | None = None,
    curves_of: str | None = None,
) -> None:
    """Draw a report; the fields are those of `Report`.

    Args:
        file: of the picture.
        task: name of the task.
        metrics: names, the first one is drawn.
        examples: number of test examples.
        models: by name.
        controls: qualities by name.
        controls_with_teacher: which of the controls used the teacher.
        scored_words: of a tagged test set.
        seeds: number of trainings that the qualities are means of.
        curves: name -> `[[step, value], ...]` on the validation rows.
        curves_of: what the curves are of. None: the first metric.
    """
    metric = metrics[0]
    scored = f"{examples:,} test examples"
    if scored_words is not None:
        scored += f", {scored_words:,} words"
    if seeds > 1:
        scored += f", means of {seeds} seeds"
    title = f"{task}: {scored}\nbars are 95 % intervals, areas are file sizes"
    # Without pyplot nothing global changes: a notebook keeps its own backend and figures.
    curves = {name: points for name, points in (curves or {}).items() if len(points) > 1}
    figure = Figure(figsize=(13.5 if curves else 9, 5.2), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    if curves:
        left, right = figure.subplots(1, 2, width_ratios=(2, 1))
        _draw_models_and_controls(left, metric, models, controls, controls_with_teacher, title)
        _draw_curves(right, curves, curves_of or metric)
    else:
        _draw_models_and_controls(figure.add_subplot(), metric, models, controls, controls_with_teacher, title)
    figure.savefig(file)


def _draw_models_and_controls(
    axes: Any,
    metric: str,
    models: Mapping[str, Any],
    controls: Mapping[str, Any],
    controls_with_teacher: Sequence[str],
    title: str,
) -> None:
    # A teacher of other classes has no quality here: only its speed is drawn.
    quality = {name: model["quality"][metric] for name, model in models.items() if metric in model["quality"]}
    control_values = {name: values[metric]["value"] for name, values in controls.items() if metric in values}

    unseen = {name for name, model in models.items() if "latency_ms" not in model}  # a teacher that is not here
    control_values |= {name: quality.pop(name)["value"] for name in unseen & quality.keys()}
    models = {name: model for name, model in models.items() if name not in unseen}
    low, high = _range(quality, [value for name, value in control_values.items() if name not in TRIVIAL])
    axes.set_ylim(low, high)
    axes.set_xscale("log")
    latencies = [milliseconds(model) for model in models.values()]
    unit = "token that is written" if all("tokens_a_second" in model for model in models.values()) else "text"
    beside = max(3.2, (max(latencies) / min(latencies)) ** 0.45)  # room for the labels
    axes.set_xlim(min(latencies) / beside, max(latencies) * beside)

    _draw_controls(axes, control_values, controls_with_teacher)
    _draw_models(axes, models, quality)
    for name in models.keys() - quality.keys():
        _draw_speed_alone(axes, name, models[name])
    axes.set_xlabel(f"milliseconds a {unit}, batch 1, median (log scale)")
    axes.set_ylabel(display_name(metric))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    # Models of like speed may have one power of ten among them, or none.
    between = "235" if max(latencies) < 3 * min(latencies) else ""
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in between else "")
    _finish(axes, title)


def _draw_curves(axes: Any, curves: Mapping[str, Any], metric: str) -> None:
    for name, points in curves.items():
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=COLORS.get(name, GRAY), linewidth=1.6, marker="o", markersize=3, label=name)
    axes.legend(frameon=False, fontsize=9.5, loc="best", labelcolor="linecolor")
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel(f"{display_name(metric)} on validation")
    _finish(axes, "learning curves")


def _finish(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions moved apart as little as needed to be a gap away from each other.

    Args:
        positions: in any order, which is kept.
        gap: the least distance; less where there is not enough room.
        low: bound.
        high: bound.

    >>> spread([0.5, 0.5, 0.9], gap=0.2, low=0.0, high=1.0)
    [0.4, 0.6, 0.9]
    """
    order = np.argsort(positions, kind="stable")
    gap = min(gap, (high - low) / max(1, len(order) - 1))
    wanted = np.asarray(positions, dtype=float)[order] - gap * np.arange(len(order))
    # Nearest non-decreasing sequence (pool adjacent violators) of the positions with the gaps taken out.
    pools: list[list[float]] = []
    for value in wanted:
        pools.append([value])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    flat = np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools]) if pools else np.empty(0)
    moved = np.clip(flat, low, high - gap * max(0, len(order) - 1)) + gap * np.arange(len(order))
    result = np.empty(len(order))
    result[order] = moved
    return [round(float(value), 12) for value in result]


def _range(quality: dict[str, Any], controls: Sequence[float]) -> tuple[float, float]:
    lows = [value["low"] for value in quality.values()] + list(controls)
    highs = [value["high"] for value in quality.values()] + list(controls)
    margin = max(0.18 * (max(highs) - min(lows)), 0.004)
    return min(lows) - margin, max(highs) + margin


def _draw_controls(axes: Any, controls: dict[str, float], with_teacher: Sequence[str]) -> None:
    low, high = axes.get_ylim()
    inside = {name: value for name, value in controls.items() if value >= low}
    top = high - 0.1 * (high - low)  # the heading's place
    places = spread(list(inside.values()), 0.045 * (high - low), low, top)
    for (name, value), place in zip(inside.items(), places, strict=True):
        color = WITH_TEACHER if name in with_teacher else GRAY
        axes.axhline(value, color=color, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
        axes.annotate(
            f"{name.replace('_', ' ')} {value:.3f}",
            xy=(1, value),
            xytext=(1.02, (place - low) / (high - low)),
            xycoords=("axes fraction", "data"),
            textcoords="axes fraction",
            color=color,
            fontsize=8.5,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.6,
                "shrinkA": 0,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )
    for line, (text, color, shown) in enumerate(
        (("controls, without the teacher", GRAY, controls), ("and with it", WITH_TEACHER, with_teacher))
    ):
        if shown:
            axes.text(
                1.02, 1.0 - 0.05 * line, text, transform=axes.transAxes, color=color, fontsize=8.5, style="italic"
            )
    below = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in controls.items() if value < low]
    if below:
        axes.text(0.99, 0.015, "↓ " + ", ".join(below), transform=axes.transAxes, ha="right", color=GRAY, fontsize=8.5)


def _draw_models(axes: Any, models: Mapping[str, Any], quality: dict[str, Any]) -> None:
    low, high = axes.get_ylim()
    largest = max(model["bytes"] for model in models.values())
    places = spread([value["value"] for value in quality.values()], 0.1 * (high - low), low, high)
    speeds = {name: milliseconds(model) for name, model in models.items()}
    slowest = max(speeds, key=lambda name: speeds[name])
    # The baseline is as fast as the student: their labels go to either side of the one column of markers, if there is
    # room between it and the slowest.
    on_the_right = "student" if speeds[slowest] > 4 * min(speeds.values()) else slowest
    for (name, value), place in zip(quality.items(), places, strict=True):
        model, x = models[name], speeds[name]
        area = max(SMALLEST, LARGEST * model["bytes"] / largest)
        color = COLORS.get(name, GRAY)
        axes.scatter([x], [value["value"]], s=area, color=color, alpha=0.85, linewidths=0, zorder=3)
        bar = axes.vlines(x, value["low"], value["high"], color=color, linewidth=1.6, zorder=4)
        bar.set_path_effects([withStroke(linewidth=3.6, foreground="white")])  # seen in front of the marker
        left = name != on_the_right
        away = (area**0.5 / 2 + 8) * (-1 if left else 1)
        shift = (place - value["value"]) / (high - low) * axes.get_window_extent().height * 72 / axes.figure.dpi
        axes.annotate(
            f"{name.replace('_', ' ')} {value['value']:.3f}\n{three_digits(x)} ms, {_size(model['bytes'])}",
            xy=(x, value["value"]),
            xytext=(away, shift),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            color=color,
            fontsize=9.5,
            fontweight="bold" if name == "student" else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            zorder=5,
        )


def _draw_speed_alone(axes: Any, name: str, model: dict[str, Any]) -> None:
    x = milliseconds(model)
    # From above the line of controls that are off the scale.
    axes.axvline(x, ymin=0.06, color=COLORS[name], linewidth=1, linestyle=(0, (1, 3)), zorder=1)
    axes.annotate(
        f"{name}, not scored\n{three_digits(x)} ms, {_size(model['bytes'])}",
        xy=(x, 0.5),
        xycoords=("data", "axes fraction"),
        xytext=(-8, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        color=COLORS[name],
        fontsize=9.5,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        zorder=5,
    )


def milliseconds(model: Mapping[str, Any]) -> float:
    """The median time of a text at batch size 1; of a language model, whose replies differ in length, of a token.

    >>> milliseconds({"latency_ms": {"batch_1": {"p50": 40.0}}, "tokens_a_second": {"batch_1": 250.0}})
    4.0
    """
    if "tokens_a_second" in model:
        return 1000 / float(model["tokens_a_second"]["batch_1"])
    return float(model["latency_ms"]["batch_1"]["p50"])


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"
