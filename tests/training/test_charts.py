"""Curves: round ticks that cover the data, stages one after the other, points where they belong."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agile_gym.reporting.charts import Axis, Point, Series, bars, line_chart

finite = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-6)


def drawn(markup):
    """Parse a figure as XML, which is stricter than a browser; return its drawing."""
    return ElementTree.fromstring(markup).find("svg")


def ticks_of(svg):
    return [(text.text, float(text.get("y"))) for text in svg.iter("text") if text.get("text-anchor") == "end"
            and float(text.get("x")) < 46]  # fmt: skip


@given(st.lists(finite, min_size=1, max_size=30), st.booleans(), st.booleans())
def test_any_values_get_a_few_ticks_and_stay_within_the_drawing(values, percent, from_zero):
    records = [{"stage": "grpo", "iteration": n, "x": value} for n, value in enumerate(values, 1)]
    axis = Axis(records)
    chart = line_chart("T", axis, [Series("s", 1, axis.points(records, "x"))], percent=percent, from_zero=from_zero)
    svg = drawn(chart)
    ticks = ticks_of(svg)
    assert 2 <= len(ticks) <= 8
    assert [y for _, y in ticks] == sorted((y for _, y in ticks), reverse=True)
    shapes = [path.get("d") for path in svg.iter("path")]
    points = [(float(x), float(y)) for d in shapes for x, y in re.findall(r"([\d.-]+) ([\d.-]+)", d)]
    points += [(float(circle.get("cx")), float(circle.get("cy"))) for circle in svg.iter("circle")]
    assert points
    top, bottom = ticks[-1][1] - 3.6, ticks[0][1] - 3.4
    assert all(46 <= x <= 390 and top - 0.1 <= y <= bottom + 0.1 for x, y in points)


@pytest.mark.parametrize(
    ("values", "percent", "labels"),
    [
        ((0.0, 0.7), True, ["0%", "25%", "50%", "75%", "100%"]),
        ((0.0, 0.02), True, ["0.0%", "0.5%", "1.0%", "1.5%", "2.0%"]),
        ((-0.25, 0.6), False, ["-0.25", "0.00", "0.25", "0.50", "0.75"]),
        ((0, 4300), False, ["0", "2,000", "4,000", "6,000"]),
        ((0, 1e-3), False, ["0", "2.5e-4", "5.0e-4", "7.5e-4", "1.0e-3"]),
        ((0, 0), True, ["0%", "2%", "4%", "6%"]),
    ],
)
def test_ticks_are_round(values, percent, labels):
    points = [Point(0.25, values[0]), Point(0.75, values[1])]
    axis = Axis([{"stage": "grpo", "iteration": n} for n in (1, 2)])
    assert [
        label for label, _ in ticks_of(drawn(line_chart("T", axis, [Series("s", 1, points)], percent=percent)))
    ] == labels


def test_a_value_is_drawn_at_its_height():
    records = [{"stage": "grpo", "iteration": n, "x": n / 4} for n in range(5)]
    axis = Axis(records)
    svg = drawn(line_chart("T", axis, [Series("s", 1, axis.points(records, "x"))], percent=True))
    heights = dict(ticks_of(svg))
    line = [float(y) for _, y in re.findall(r"([\d.-]+) ([\d.-]+)", next(svg.iter("path")).get("d"))]
    assert line == pytest.approx([heights[f"{25 * n}%"] - 3.5 for n in range(5)], abs=0.1)


def test_stages_follow_one_another_and_curves_do_not_cross_them():
    records = [{"stage": "eyes", "iteration": n, "x": 1.0} for n in range(1, 1001)]
    records += [{"stage": "grpo", "iteration": n, "x": 0.0} for n in range(1, 11)]
    axis = Axis(records)
    (eyes, grpo) = axis.spans.values()
    assert (eyes[0], grpo[1], eyes[1]) == (0.0, pytest.approx(1.0), grpo[0])
    assert grpo[1] - grpo[0] >= 0.18
    places = [axis.place(record) for record in records]
    assert places == sorted(places)
    svg = drawn(line_chart("T", axis, [Series("s", 1, axis.points(records, "x"))]))
    assert [text.text for text in svg.iter("text") if text.get("class") == "stage"] == ["eyes", "GRPO"]
    levels = [{y for _, y in re.findall(r"([\d.-]+) ([\d.-]+)", path.get("d"))} for path in svg.iter("path")]
    assert all(len(ys) == 1 for ys in levels)  # each curve is level: none joins 1 and 0


def test_intervals_become_a_band():
    records = [{"iteration": n, "stage": "grpo", "a": 0.5, "a_low": 0.4, "a_high": 0.6} for n in (10, 20)]
    axis = Axis(records)
    svg = drawn(line_chart("T", axis, [Series("s", 2, axis.points(records, "a"), dots=True)], percent=True))
    heights = dict(ticks_of(svg))
    band = next(path for path in svg.iter("path") if path.get("class") == "band-2")
    ys = {float(y) for _, y in re.findall(r"([\d.-]+) ([\d.-]+)", band.get("d"))}
    step = (heights["0%"] - heights["100%"]) / 100
    assert sorted(ys) == pytest.approx([heights["0%"] - 3.5 - 60 * step, heights["0%"] - 3.5 - 40 * step], abs=0.1)
    assert len(list(svg.iter("circle"))) == 2


def test_nothing_is_drawn_of_nothing():
    axis = Axis([{"stage": "grpo", "iteration": 1}])
    assert line_chart("T", axis, [Series("s", 1, [])]) == ""


def test_a_bar_is_divided_by_its_parts():
    svg = ElementTree.fromstring(bars([("a <b>", 1, 0.25), ("c", 2, 0.75)], label="Time"))
    assert [(float(r.get("x")), float(r.get("width"))) for r in svg.iter("rect")] == [(0, 25), (25, 75)]
    assert [title.text for title in svg.iter("title")] == ["a <b>: 25%", "c: 75%"]
