"""Curves: axes that cover the data, stages one after the other, points where they belong, the page's colours."""

import re
from xml.etree import ElementTree

import matplotlib
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agile_gym.reporting import curves as drawings
from agile_gym.reporting.charts import HEIGHT, WIDTH, Series, draw_chart

finite = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-6)
S = [Series("s", "x")]


def records(values, stage="grpo", first=1):
    return {stage: [{"stage": stage, "iteration": n, "x": value} for n, value in enumerate(values, first)]}


def parsed(chart):
    """Parse a drawing as XML, which is stricter than a browser."""
    return ElementTree.fromstring(chart.svg)


def places(path):
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.-]+) ([\d.-]+)", path.get("d"))]


def curves(svg, colour=1):
    """Return the points of the lines of a colour; a marker is drawn where it is used."""
    name = f"var(--c{colour})"
    bands = {f"#{path.get('id')}" for path in svg.iter("path") if path.get("id") and not path.get("stroke")}
    lines = [places(path) for path in svg.iter("path") if path.get("stroke") == name and path.get("id") is None]
    dots = [[(float(use.get("x")), float(use.get("y")))] for use in svg.iter("use")
            if use.get("fill") == name and use.get("href") not in bands]  # fmt: skip
    return lines, dots


def ticks(svg):
    """Return the label and height of each tick of the vertical axis."""
    return [
        (text.text.replace("\u2212", "-"), float(text.get("y")))
        for text in svg.iter("text")
        if text.get("text-anchor") == "end" and float(text.get("x")) < 50
    ]


@settings(max_examples=12, deadline=None)
@given(st.lists(finite, min_size=1, max_size=30), st.booleans(), st.booleans())
@example([0.0], True, True)
@example([-3.0], True, False)
@example([5.0] * 3, False, False)
@example([125001.0, 225001.0], False, False)
@example([1e308, 1e308], False, True)
@example([-1.7e308, 1.7e308], False, False)
def test_any_values_stay_within_the_drawing(values, percent, from_zero):
    svg = parsed(draw_chart("T", records(values), S, percent=percent, from_zero=from_zero))
    assert 2 <= len({label for label, _ in ticks(svg)}) == len(ticks(svg)) <= 8
    lines, dots = curves(svg)
    points = [point for part in (*lines, *dots) for point in part]
    assert points
    heights = [y for _, y in ticks(svg)]
    assert all(49 <= x <= WIDTH - 9 and min(heights) - 9 <= y <= max(heights) + 9 for x, y in points)
    assert 0 < min(heights) < max(heights) < HEIGHT


@pytest.mark.parametrize(
    ("values", "percent", "labels"),
    [
        ((0.0, 0.7), True, ["0%", "25%", "50%", "75%", "100%"]),
        ((0.0, 0.02), True, ["0.00%", "0.50%", "1.00%", "1.50%", "2.00%"]),
        ((-0.25, 0.6), False, ["-0.25", "0", "0.25", "0.5", "0.75"]),
        ((0, 4300), False, ["0", "2,000", "4,000", "6,000"]),
        ((0, 1e-3), False, ["0", "0.00025", "0.0005", "0.00075", "0.001"]),
    ],
)
def test_ticks_are_round(values, percent, labels):
    svg = parsed(draw_chart("T", records(values), S, percent=percent))
    assert [label for label, _ in ticks(svg)] == labels


def test_a_value_is_drawn_at_its_height():
    svg = parsed(draw_chart("T", records([n / 4 for n in range(5)]), S, percent=True))
    heights = [y for _, y in ticks(svg)]
    ((line,), _) = curves(svg)
    off = heights[0] - line[0][1]  # a label stands lower than its line by half of its own height
    assert len(line) in (2, 5)  # points on a straight line may be left out
    step = (line[0][1] - line[-1][1]) / 4
    assert heights == pytest.approx([line[0][1] + off - n * step for n in range(5)], abs=0.1)
    assert 2 < off < 6


def test_stages_follow_one_another_and_curves_do_not_cross_them():
    stages = records([1.0] * 1000, "vision") | records([0.0] * 10, "grpo")
    svg = parsed(draw_chart("T", stages, S))
    titles = {
        text.text: float(text.get("x")) for text in svg.iter("text") if text.text in ("vision pretraining", "GRPO")
    }
    lines, _ = curves(svg)
    assert all(len({y for _, y in line}) == 1 for line in lines)  # each is level: none joins 1 and 0
    spans = sorted({(min(x for x, _ in line), max(x for x, _ in line)) for line in lines})
    assert len(spans) == 2
    assert titles["vision pretraining"] < spans[0][1] < titles["GRPO"] < spans[1][1]
    assert spans[1][1] - spans[1][0] > 0.12 * WIDTH  # the short stage is not too narrow
    assert [text.text for text in svg.iter("text") if text.text in ("1,000", "10")] == ["1,000", "10"]


def test_a_long_run_is_averaged():
    lines, _ = curves(parsed(draw_chart("T", records([n % 7 for n in range(10_000)]), S)))
    assert all(20 < len(line) <= 400 for line in lines)


def test_intervals_become_a_band():
    stages = {"grpo": [{"iteration": n, "a": 0.5, "a_low": 0.4, "a_high": 0.6} for n in (10, 20)]}
    svg = parsed(draw_chart("T", stages, [Series("r", "b"), Series("s", "a", dots=True)], percent=True))
    heights = [y for _, y in ticks(svg)]
    (band,) = [path for path in svg.iter("path") if path.get("id") and not path.get("stroke")]
    step = (heights[0] - heights[-1]) / 100
    _, dots = curves(svg, 2)
    (height,) = {y for ((_, y),) in dots}
    assert len(dots) == 2
    ys = sorted({round(HEIGHT + y, 2) for _, y in places(band)})
    assert ys == pytest.approx([height - 10 * step, height + 10 * step], abs=0.1)
    one = {"grpo": stages["grpo"][:1]}
    svg = parsed(draw_chart("T", one, [Series("r", "b"), Series("s", "a", dots=True)], percent=True))
    lines, dots = curves(svg, 2)
    (bar,) = [line for line in lines if len(line) > 1]
    assert abs(bar[0][1] - bar[1][1]) == pytest.approx(20 * step, abs=0.1)
    assert len(dots) == 1


def test_marks_have_labels_and_the_legend_the_last_values():
    chart = draw_chart("Acc", records([0.25, 0.5]), [Series("a", "x"), Series("none", "y")], percent=True,
                       marks=[("before $1$ <b>", 0.3)])  # fmt: skip
    assert chart.legend == [(1, "a", "50.0%")]
    assert "before $1$ <b>" in [text.text for text in parsed(chart).iter("text")]
    assert parsed(chart).get("aria-label") == "Acc: a 50.0% at last"


def test_nothing_is_drawn_of_nothing():
    assert draw_chart("T", {"grpo": [{"iteration": 1}]}, S) is None
    assert draw_chart("T", {}, S) is None


def test_drawings_are_the_same_bytes_and_fit_the_policy_of_a_page():
    stages = records([1.0, 2.0, 1.5])
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.fonttype": "path", "svg.hashsalt": None}):  # a user's own
        other = draw_chart("T", stages, [Series("s", "x", dots=True)])
    chart = draw_chart("T", stages, [Series("s", "x", dots=True)])
    assert chart == other
    assert "style" not in chart.svg
    assert not re.search(r"#(?![0-9a-z]+[\")])", chart.svg)
    assert not re.search(r"(#[0-9a-f]{6})\b", chart.svg)  # colours are the page's, in the light and in the dark
    ids = {node.get("id") for node in parsed(chart).iter() if node.get("id")}
    assert set(re.findall(r"#(\w+)", chart.svg)) == ids
    elsewhere = draw_chart("U", stages, [Series("s", "x", dots=True)])
    assert not ids & {node.get("id") for node in parsed(elsewhere).iter()}  # one page holds many drawings


def test_tasks_have_charts_of_their_own_in_colours_of_their_own():
    tasks = [f"t{number}" for number in range(6)]
    log = [
        {"stage": "grpo", "iteration": n, "seconds": n, "acc": 0.5}
        | {f"acc/{task}": k / 10 for k, task in enumerate(tasks)}
        for n in (1, 2)
    ]
    charts = {chart.title: chart.legend for chart in drawings.curves(log, [])}
    assert charts == {
        "Acc": [(1, "training", "50.0%")],
        "Acc by task (1)": [(1, "t0", "0.0%"), (2, "t1", "10.0%"), (3, "t2", "20.0%"), (4, "t3", "30.0%")],
        "Acc by task (2)": [(1, "t4", "40.0%"), (2, "t5", "50.0%")],
    }
