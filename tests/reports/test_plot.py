"""The picture of a report: what is drawn, and that its labels can be read."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure

from hf_distill.reports import plot
from hf_distill.reports.report import Report


def measured(value, milliseconds):
    return {
        "quality": {"accuracy": {"value": value, "low": value - 0.02, "high": value + 0.02}} if value else {},
        "parameters": 1000,
        "bytes": 4000,
        "latency_ms": {"batch_1": {"p50": milliseconds, "p95": milliseconds}},
        "throughput": {"batch_32": 1000.0},
        "tokens_per_text": 5.0,
    }


def report(teacher=0.9, **fields):
    return Report(
        task="text-classification",
        metrics=["accuracy"],
        examples=1234,
        models={
            "teacher": measured(teacher, 12.0),
            "student": measured(0.85, 0.5),
            "baseline": measured(0.8, 0.5),
        },
        controls={"majority_class": {"accuracy": {"value": 0.3, "low": 0.3, "high": 0.3}}},
        **fields,
    )


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws a report; the axes, and the texts on them."""

    def draw(made):
        figures = []
        savefig = Figure.savefig
        monkeypatch.setattr(
            Figure, "savefig", lambda figure, *a, **k: (figures.append(figure), savefig(figure, *a, **k))
        )
        made.save(tmp_path)
        assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
        axes = figures[-1].axes[0]
        return axes, [text.get_text() for text in axes.texts]

    return draw


def test_labels_of_a_picture_do_not_overlap():
    places = plot.spread([0.3, 0.1, 0.31, 0.305], gap=0.1, low=0.0, high=1.0)
    assert np.diff(sorted(places)).min() >= 0.1 - 1e-9
    assert np.argsort(places).tolist() == np.argsort([0.3, 0.1, 0.31, 0.305]).tolist()
    crowded = plot.spread([0.5] * 30, gap=0.1, low=0.0, high=1.0)
    assert min(crowded) >= 0
    assert max(crowded) <= 1 + 1e-9
    assert plot.spread([], gap=0.1, low=0.0, high=1.0) == []


def test_every_model_stands_at_its_quality_and_speed(drawn):
    axes, texts = drawn(report(seeds=3))
    places = [tuple(marks.get_offsets()[0]) for marks in axes.collections if len(marks.get_offsets()) == 1]
    assert {(12.0, 0.9), (0.5, 0.85), (0.5, 0.8)} <= set(places)
    assert "teacher 0.900\n12 ms, 4 kB" in texts
    assert "↓ majority class 0.300" in texts
    assert "1,234 test examples, means of 3 seeds" in axes.get_title(loc="left")


def test_a_metric_that_falls_says_so(drawn):
    axes, _ = drawn(report())
    assert axes.get_ylabel() == "accuracy"
    told = report()
    for model in told.models.values():
        model["quality"] = {"bits_per_byte": model["quality"]["accuracy"]}
    told.metrics[:] = ["bits_per_byte"]
    axes, _ = drawn(told)
    assert axes.get_ylabel() == "bits per byte (less is better)"


def test_of_a_teacher_of_other_classes_only_the_speed_is_drawn(drawn):
    axes, texts = drawn(report(teacher=None))
    assert "teacher, not scored\n12 ms, 4 kB" in texts
    assert "student 0.850\n0.5 ms, 4 kB" in texts
    places = [tuple(marks.get_offsets()[0]) for marks in axes.collections if len(marks.get_offsets()) == 1]
    assert not any(x == 12.0 for x, _ in places)
    assert any(np.allclose(line.get_xdata(), 12.0) for line in axes.lines)
    low, high = axes.get_xlim()
    assert low < 0.5 < 12 < high


def test_labels_stay_on_the_picture(drawn):
    """However far apart the models are."""
    axes, _ = drawn(report())
    axes.figure.canvas.draw()
    left = axes.get_window_extent().x0
    for text in axes.texts:
        assert text.get_window_extent().x0 >= left - 1, text.get_text()


def test_learning_curves_stand_beside(drawn):
    points = {"student": [[100, 0.7], [200, 0.8], [300, 0.75]], "baseline": [[100, 0.65], [200, 0.7]]}
    axes, texts = drawn(report(run={"curves": points}))
    assert "student 0.850\n0.5 ms, 4 kB" in texts
    _, curves = axes.figure.axes
    assert {line.get_label(): line.get_xydata().tolist() for line in curves.lines} == points
    assert curves.get_ylabel() == "accuracy on validation"
    axes, _ = drawn(report(run={"curves": points, "curves_of": "loss, nats a token"}))
    assert axes.figure.axes[1].get_ylabel() == "loss, nats a token on validation"


@pytest.mark.parametrize("curves", [{}, {"student": []}, {"student": [[10, 0.5]]}])
def test_one_point_is_no_curve(drawn, curves):
    axes, _ = drawn(report(run={"curves": curves}))
    assert axes.figure.axes == [axes]


def test_language_models_stand_at_their_time_a_token(drawn):
    made = report()
    for model, speed in zip(made.models.values(), (10.0, 250.0, 200.0), strict=True):
        model["tokens_a_second"] = {"batch_1": speed}
    axes, texts = drawn(made)
    assert axes.get_xlabel().startswith("milliseconds a token that is written")
    assert any("100 ms" in text for text in texts) and any("4 ms" in text for text in texts)


def test_intervals_stand_in_front_of_markers(drawn):
    axes, _ = drawn(report())
    bars, markers = (
        [each for each in axes.collections if isinstance(each, kind)] for kind in (LineCollection, PathCollection)
    )
    assert len(bars) == len(markers) == 3
    assert min(bar.get_zorder() for bar in bars) > max(marker.get_zorder() for marker in markers)
