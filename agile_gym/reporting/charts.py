"""Curves of a run and other charts as SVG, whose colours are those of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import import_optional, printable
from agile_gym.evaluation.estimates import Estimate
from agile_gym.reporting.figures import STAGE_TITLES

__all__ = [
    "Chart",
    "Series",
    "draw_chart",
    "draw_points",
    "draw_rows",
    "draw_values",
    "require_matplotlib",
]

WIDTH, HEIGHT = 400, 210
"""Size of a drawing in its own units, which the page scales to its column."""
_MARGINS = {"left": 50 / WIDTH, "right": 1 - 10 / WIDTH, "top": 1 - 22 / HEIGHT, "bottom": 24 / HEIGHT, "wspace": 0.06}
_LINE = 14
"""Height of a line of text below an axis."""
_MOST = 400
"""Points of a line at most; more are averaged."""
_MANY = 40
"""From so many on, a line is drawn with a smoother one over it."""
_LEAST_SHARE = 0.22
"""Least fraction of the width that a stage takes."""
_FURTHEST = 1e300
_COLOURS = ("#2457c5", "#c2570c", "#14804a", "#8a3fb0")
_QUIET, _GRID = "#5a5f66", "#e4e4de"
_VARIABLES = {_QUIET: "var(--quiet)", _GRID: "var(--grid)"} | {
    colour: f"var(--c{number})" for number, colour in enumerate(_COLOURS, 1)
}
"""Colours of drawings, and their names in the page's style sheet, which has others for the dark."""
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 11.5,
    "text.color": _QUIET,
    "axes.edgecolor": _QUIET,
    "axes.grid.axis": "y",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.bottom": False,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.5,
    "axes.titlepad": 5,
    "grid.color": _GRID,
    "grid.linewidth": 1,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "xtick.labelcolor": _QUIET,
    "ytick.labelcolor": _QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 6,
    "ytick.major.pad": 5,
}


class Series(NamedTuple):
    """A curve.

    Attributes:
        label: Its label.
        key: The figure of the records that it shows, and the ends of its intervals: ``KEY_low`` and ``KEY_high``.
        dots: Draws each point, and its interval as a band.
    """

    label: str
    key: str
    dots: bool = False


class Chart(NamedTuple):
    """A drawing of curves.

    Attributes:
        title: Its title.
        legend: Number of the colour (from 1), label and last value of each curve.
        svg: The drawing as an ``svg`` element.
    """

    title: str
    legend: list[tuple[int, str, str]]
    svg: str


def require_matplotlib() -> Any:  # noqa: ANN401 -- a module
    """Make sure that pictures can be drawn.

    Returns:
        The module ``matplotlib.figure``.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    return import_optional("matplotlib.figure", extra="plots", purpose="draw pictures")


def draw_chart(
    title: str,
    stages: Mapping[str, Sequence[Mapping[str, float]]],
    series: Sequence[Series],
    *,
    percent: bool = False,
    marks: Sequence[tuple[str, float]] = (),
    from_zero: bool = False,
) -> Chart | None:
    """Draw curves over the iterations of one or several stages, one stage after the other.

    Args:
        title: Title of the chart.
        stages: The records of each stage.
        series: The curves; those without points are left out.
        percent: True if values are fractions, shown as percentages.
        marks: Labels and values of dashed level lines.
        from_zero: True if the vertical axis begins at 0.

    Returns:
        The drawing, the same bytes for the same figures; None if no curve has a point.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    figures = require_matplotlib()
    from matplotlib import style, ticker

    records = [record for mine in stages.values() for record in mine]
    last = {one.key: [record[one.key] for record in records if one.key in record][-1:] for one in series}
    if not any(last.values()):
        return None
    form = ticker.PercentFormatter(1) if percent else ticker.StrMethodFormatter("{x:,.10g}")
    file = io.StringIO()
    with style.context(["default", {**_STYLE, "svg.hashsalt": title}]):
        figure = figures.Figure(figsize=(WIDTH / 72, HEIGHT / 72))
        ends = [[end(record["iteration"] for record in mine) for end in (min, max)] for mine in stages.values()]
        total = sum(high - low + 1 for low, high in ends)
        shares = [max((high - low + 1) / total, _LEAST_SHARE) for low, high in ends]
        panes = figure.subplots(1, len(stages), sharey=True, squeeze=False, width_ratios=shares)[0]
        figure.subplots_adjust(**_MARGINS)
        for pane, (stage, mine), (low, high) in zip(panes, stages.items(), ends, strict=True):
            for colour, one in zip(_COLOURS, series, strict=False):
                _draw_curve(pane, one, colour, mine)
            for _, value in marks:
                pane.axhline(value, color=_QUIET, linewidth=1, linestyle=(0, (5, 4)))
            pane.yaxis.set_major_formatter(form)
            pane.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
            pane.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
            if len(stages) > 1:
                pane.set_title(printable(STAGE_TITLES.get(stage, stage)), parse_math=False)
                pane.set_xticks([high])
            pane.set_xlim(low - 0.5, high + 0.5)
        for pane in panes[1:]:
            pane.spines["left"].set(visible=True, linestyle=(0, (2, 3)))
        _set_range(panes, percent=percent, from_zero=from_zero)
        for label, value in marks:
            across = panes[-1].get_yaxis_transform()
            panes[-1].text(1, value, label, ha="right", va="bottom", transform=across, parse_math=False)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    legend = [
        (number, one.label, _number(last[one.key][0], percent=percent))
        for number, one in enumerate(series, 1)
        if last[one.key]
    ]
    told = "; ".join(f"{label} {value} at last" for _, label, value in legend)
    return Chart(title, legend, _inline(file.getvalue(), f"{title}: {told}"))


def draw_points(title: str, series: Mapping[str, Mapping[str, Mapping[str, float]]], across: str) -> Chart:
    """Draw fractions with their intervals over a few numbers, and below each the number of episodes.

    Args:
        title: Title of the chart.
        series: For each label the fractions by number, such as ``"3"`` or ``"8+"``, each with ``value``, ``low``,
            ``high`` and ``of``.
        across: Title of the numbers.

    Returns:
        The drawing, the same bytes for the same figures. The legend has the number of episodes of each series.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    figures = require_matplotlib()
    from matplotlib import style, ticker

    names = sorted({name for entries in series.values() for name in entries}, key=lambda name: int(name.rstrip("+")))
    file = io.StringIO()
    height = HEIGHT + _LINE * len(series)
    with style.context(["default", {**_STYLE, "svg.hashsalt": title}]):
        figure = figures.Figure(figsize=(WIDTH / 72, height / 72))
        pane = figure.subplots()
        bottom = (42 + _LINE * len(series)) / height
        left = max(50, 16 + 6.5 * max(map(len, series)))
        figure.subplots_adjust(left=left / WIDTH, right=_MARGINS["right"], top=1 - 10 / height, bottom=bottom)
        for row, (colour, (label, entries)) in enumerate(zip(_COLOURS, series.items(), strict=False)):
            places = [names.index(name) + 0.12 * (row - (len(series) - 1) / 2) for name in entries]
            values, low, high = (_numbers(entry[key] for entry in entries.values()) for key in ("value", "low", "high"))
            pane.vlines(places, low, high, color=colour, clip_on=False)
            pane.plot(places, values, color=colour, marker="o", linestyle="-" if len(values) > 1 else "", clip_on=False)
            below = {"xycoords": pane.get_xaxis_transform(), "textcoords": "offset points", "va": "top"}
            down = -22 - _LINE * row
            pane.annotate(printable(label), (-0.5, 0), (-9, down), ha="right", parse_math=False, **below)
            for name, entry in entries.items():
                pane.annotate(f"{entry['of']:,.0f}", (names.index(name), 0), (0, down), ha="center", **below)
        pane.set_xlim(-0.5, len(names) - 0.5)
        pane.set_xticks(range(len(names)), names)
        pane.set_xlabel(across, labelpad=4 + _LINE * len(series), color=_QUIET)
        pane.set_yticks([0, 0.25, 0.5, 0.75, 1])
        pane.set_ylim(0, 1)
        pane.yaxis.set_major_formatter(ticker.PercentFormatter(1))
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    totals = {label: f"{sum(entry['of'] for entry in entries.values()):,.0f}" for label, entries in series.items()}
    legend = [(number, label, total) for number, (label, total) in enumerate(totals.items(), 1)]
    told = "; ".join(f"{label}, {total} episodes" for label, total in totals.items())
    return Chart(title, legend, _inline(file.getvalue(), f"{title}: {told}"))


def draw_rows(title: str, series: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Chart:
    """Draw fractions of episodes with their intervals, a row for each name.

    Args:
        title: Title of the chart.
        series: For each label the fractions by name, each with ``value``, ``low``, ``high`` and ``of``.

    Returns:
        The drawing, the same bytes for the same figures. The legend has the number of episodes of each series.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    figures = require_matplotlib()
    from matplotlib import style, ticker

    names = list(dict.fromkeys(name for entries in series.values() for name in entries))
    file = io.StringIO()
    height = 34 + (18 + 8 * len(series)) * len(names)
    with style.context(["default", {**_STYLE, "svg.hashsalt": title}]):
        figure = figures.Figure(figsize=(WIDTH / 72, height / 72))
        pane = figure.subplots()
        left = max(50, 16 + 6 * max(map(len, names)))
        figure.subplots_adjust(left=left / WIDTH, right=1 - 18 / WIDTH, top=1 - 8 / height, bottom=24 / height)
        for row, (colour, entries) in enumerate(zip(_COLOURS, series.values(), strict=False)):
            places = [names.index(name) + 0.22 * (row - (len(series) - 1) / 2) for name in entries]
            values, low, high = (_numbers(entry[key] for entry in entries.values()) for key in ("value", "low", "high"))
            pane.hlines(places, low, high, color=colour, clip_on=False)
            pane.plot(values, places, color=colour, marker="o", linestyle="", clip_on=False)
        pane.set_ylim(len(names) - 0.5, -0.5)
        pane.set_yticks(range(len(names)), names)
        pane.set_xticks([0, 0.25, 0.5, 0.75, 1])
        pane.set_xlim(0, 1)
        pane.grid(visible=True, axis="x")
        pane.grid(visible=False, axis="y")
        pane.xaxis.set_major_formatter(ticker.PercentFormatter(1))
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    most = {label: max(entry["of"] for entry in entries.values()) for label, entries in series.items()}
    legend = [(number, label, f"{of:,.0f}") for number, (label, of) in enumerate(most.items(), 1)]
    told = "; ".join(
        f"{label}: " + ", ".join(f"{name} {100 * entry['value']:.0f}%" for name, entry in entries.items())
        for label, entries in series.items()
    )
    return Chart(title, legend, _inline(file.getvalue(), f"{title}. {told}"))


def draw_values(title: str, series: Mapping[str, Mapping[str, Estimate]], *, ordered: bool, across: str = "") -> Chart:
    """Draw fractions with their intervals: over names in an order as curves, others one below the other.

    Args:
        title: Title of the chart.
        series: For each label the fractions by name; the names of the first one give the order.
        ordered: True if the names are in an order, such as numbers of photographs.
        across: Title of ordered names.

    Returns:
        The drawing, the same bytes for the same figures.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    figures = require_matplotlib()
    from matplotlib import style, ticker

    names = list(dict.fromkeys(name for entries in series.values() for name in entries))
    file = io.StringIO()
    height = HEIGHT if ordered else 46 + 22 * max(2, len(names))
    with style.context(["default", {**_STYLE, "svg.hashsalt": title}]):
        figure = figures.Figure(figsize=(WIDTH / 72, height / 72))
        pane = figure.subplots()
        left = _MARGINS["left"] if ordered else min(0.5, (24 + 6.2 * max(map(len, names))) / WIDTH)
        bottom = (42 if across and ordered else 26) / height
        figure.subplots_adjust(left=left, right=1 - 16 / WIDTH, top=1 - 10 / height, bottom=bottom)
        for row, (colour, entries) in enumerate(zip(_COLOURS, series.values(), strict=False)):
            shift = 0.1 * (row - (len(series) - 1) / 2)
            places = [names.index(name) + shift for name in entries]
            values, low, high = (_numbers(entry[part] for entry in entries.values()) for part in range(3))
            (pane.vlines if ordered else pane.hlines)(places, low, high, color=colour, clip_on=False)
            points, line = (places, values) if ordered else (values, places), "-" if ordered and len(values) > 1 else ""
            pane.plot(*points, color=colour, marker="o", linestyle=line, clip_on=False)
        most = max(entry.high for entries in series.values() for entry in entries.values())
        ticks = ticker.MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0, min(1.0, max(most, 0.05)))
        axis, other = (pane.yaxis, pane.xaxis) if ordered else (pane.xaxis, pane.yaxis)
        axis.set_ticks([tick for tick in ticks if tick <= 1])
        axis.set_major_formatter(ticker.PercentFormatter(1))
        other.set_ticks(range(len(names)), names, parse_math=False)
        if ordered:
            pane.set(xlim=(-0.4, len(names) - 0.6), ylim=(0, axis.get_ticklocs()[-1]))
            pane.set_xlabel(across, labelpad=4, color=_QUIET, parse_math=False)
        else:
            pane.set(ylim=(len(names) - 0.5, -0.5), xlim=(0, axis.get_ticklocs()[-1]))
            pane.grid(visible=False)
            pane.grid(axis="x")
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    legend = [(number, label, "") for number, label in enumerate(series, 1)] if len(series) > 1 else []
    told = "; ".join(f"{name} {100 * at.value:.1f}%" for entries in series.values() for name, at in entries.items())
    return Chart(title, legend, _inline(file.getvalue(), f"{title}: {told}"))


def _draw_curve(pane: Any, series: Series, colour: str, records: Sequence[Mapping[str, float]]) -> None:  # noqa: ANN401 -- matplotlib has no types
    """Draw a curve of one stage into its pane."""
    found = [record for record in records if series.key in record]
    x, y = (_numbers(record[key] for record in found) for key in ("iteration", series.key))
    if series.dots:
        ends = [(record.get(f"{series.key}_low"), record.get(f"{series.key}_high")) for record in found]
        known = [place for place, (low, high) in enumerate(ends) if low is not None and high is not None]
        low, high = (_numbers(ends[place][side] or 0.0 for place in known) for side in (0, 1))
        if len(known) > 1:
            pane.fill_between(x[known], low, high, color=colour, alpha=0.18, linewidth=0, clip_on=False)
        else:
            pane.vlines(x[known], low, high, color=colour, clip_on=False)
        pane.plot(x, y, color=colour, marker="o", clip_on=False)
        return
    x, y = _averaged(x), _averaged(y)
    if len(x) >= _MANY:
        ndimage: Any = import_module("scipy.ndimage")
        pane.plot(x, y, color=colour, alpha=0.35, linewidth=1, clip_on=False)
        y = np.asarray(ndimage.uniform_filter1d(y, 2 * (len(y) // 40) + 1, mode="nearest"), np.float64)
    pane.plot(x, y, color=colour, marker="o" if len(x) == 1 else "", clip_on=False)


def _numbers(values: Iterable[float]) -> NDArray[np.float64]:
    """Return values as an array; none is so large that the axis could not go beyond it."""
    return np.clip(np.array(list(values), np.float64), -_FURTHEST, _FURTHEST)


def _averaged(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return at most `_MOST` values: means of neighbours."""
    size = max(1, -(-len(values) // _MOST))
    return np.array([values[start : start + size].mean() for start in range(0, len(values), size)])


def _set_range(panes: Any, *, percent: bool, from_zero: bool) -> None:  # noqa: ANN401 -- untyped
    """Set the vertical axis to begin at 0, and end at 100%, where it should, with round numbers at both ends."""
    from matplotlib.ticker import MaxNLocator

    least, most = min(pane.dataLim.ymin for pane in panes), max(pane.dataLim.ymax for pane in panes)
    level = most - least < 1e-9 * max(1.0, abs(most))
    margin = max(0.05, 0.1 * abs(most)) if level else 0.0
    low, high = least - margin, most + margin
    if percent or from_zero:
        low = min(least, 0.0)
    if percent and high > 0.5:
        high = max(high, 1.0)
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    panes[0].set_yticks(ticks)
    panes[0].set_ylim(ticks[0], ticks[-1])


def _number(value: float, *, percent: bool) -> str:
    if percent:
        return f"{100 * value:.1f}%"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _inline(svg: str, label: str) -> str:
    """Return a drawing of matplotlib's as an element of a page.

    The page's policy blocks style attributes, so they become attributes of their own; colours become the page's.
    """
    root, used = ElementTree.fromstring(svg), set(re.findall(r"#(\w+)", svg))
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag.endswith(("}metadata", "}style"))]:
            parent.remove(child)
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        given, node.attrib = node.attrib, {}
        for name, value in given.items():
            node.attrib |= dict(re.findall(r"([\w-]+): ([^;]+)", value)) if name == "style" else {name: value}
        node.attrib = {
            name.rpartition("}")[2]: _VARIABLES.get(value, value)
            for name, value in node.attrib.items()
            if name != "font-family" and (name != "id" or value in used)
        }
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")
