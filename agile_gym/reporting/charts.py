"""Curves as SVG, with escaped markup; colours come from the page's style sheet."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from agile_gym.terminal import printable

__all__ = [
    "KEY_FIGURES",
    "STAGE_TITLES",
    "Axis",
    "Figure",
    "Markup",
    "Point",
    "Series",
    "bars",
    "duration",
    "element",
    "join",
    "line_chart",
    "shown",
    "text",
]

STAGE_TITLES = {"eyes": "eyes", "sft": "cold start", "grpo": "GRPO"}
"""What the stages are called."""
_MINUTE, _HOUR = 60, 3600


class Figure(NamedTuple):
    """A figure of a record.

    Attributes:
        key: Its name in the record.
        label: What it is called.
        form: ``"percent"``, ``"signed"``, or a format of Python's.
    """

    key: str
    label: str
    form: str


KEY_FIGURES = (
    Figure("return", "return", "signed"),
    Figure("acc", "Acc", "percent"),
    Figure("score", "Score", "percent"),
    Figure("turns", "turns", ".2f"),
    Figure("valid", "valid", "percent"),
    Figure("learner/loss", "loss", ".4f"),
    Figure("learner/entropy", "entropy", ".3f"),
    Figure("share_constant", "constant", "percent"),
    Figure("learner/grad_norm", "grad norm", ".3g"),
    Figure("episodes_per_second", "episodes/s", ".3g"),
)
"""What is shown of an iteration, in this order, where it is known. The loss is that of supervised stages."""


def shown(figure: Figure, record: Mapping[str, float]) -> str | None:
    """Return a figure of a record as a text, or None if the record does not have it.

    GRPO's loss is left out: it says nothing about progress.
    """
    value = record.get(figure.key)
    if value is None or (figure.key == "learner/loss" and "return" in record):
        return None
    if figure.form == "percent":
        return f"{100 * value:.1f}%"
    return f"{value:+.3f}" if figure.form == "signed" else format(value, figure.form)


def duration(seconds: float) -> str:
    """Return a time as minutes and seconds, such as ``"4:05"``, or hours, such as ``"1:04:05"``."""
    whole = max(0, round(seconds))
    minutes = f"{whole // _MINUTE % _MINUTE:02d}:{whole % _MINUTE:02d}"
    return f"{whole // _HOUR}:{minutes}" if whole >= _HOUR else minutes.removeprefix("0")


_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)
_VOID = frozenset(("br", "img", "meta", "path", "rect", "line", "circle", "use", "image", "polyline"))


class Markup(str):
    """Markup that is ready to stand in a page."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Return a text as markup; characters that cannot be seen, or that reorder others, stand as their numbers."""
    if isinstance(value, Markup):
        return value
    escaped = html.escape(str(value), quote=True)
    return Markup(_UNSEEN.sub(lambda found: f'<span class="unseen">U+{ord(found[0]):04X}</span>', escaped))


def element(name: str, *children: str | None, **attributes: object) -> Markup:
    """Return an element.

    Args:
        name: Its name, with classes after dots, such as ``"p.quiet"``.
        *children: What is in it; texts are escaped, None is left out.
        **attributes: Its attributes. A trailing ``_`` is dropped and other ``_`` become ``-``; True has no value, None
            and False are left out.
    """
    tag, *classes = name.split(".")
    parts = [tag]
    if classes:
        parts.append(f'class="{" ".join(classes)}"')
    for key, value in attributes.items():
        key = key.removesuffix("_").replace("_", "-").replace("viewbox", "viewBox")
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
            parts.append(f'{key}="{html.escape(printable(shown), quote=True)}"')
    head = " ".join(parts)
    if tag in _VOID:
        return Markup(f"<{head}/>")
    return Markup(f"<{head}>{join(*children)}</{tag}>")


def join(*children: str | None) -> Markup:
    """Return markup of several parts, one after the other; texts are escaped, None is left out."""
    return Markup("".join(text(child) for child in children if child is not None))


WIDTH, HEIGHT = 400.0, 210.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 22.0, 24.0
_MOST = 400
"""Points of a line at most; more are averaged."""
_MANY = 40
"""From so many on, a line is drawn with a smoother one over it."""
_LEAST_SHARE = 0.22
"""Least share of the width that a stage takes."""


_Scale = Callable[[float, float], tuple[float, float]]
"""Returns the place in the drawing of a place on the axis and a value."""


class Point(NamedTuple):
    """A point of a curve.

    Attributes:
        x: Place along the axis, 0 to 1.
        y: Value.
        low: Lower end of its interval, or None.
        high: Upper end.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None


class Series(NamedTuple):
    """A curve.

    Attributes:
        label: What it is called.
        colour: Number of its colour, from 1.
        points: Its points, in order of x.
        dots: Draws each point, and its interval as a band.
    """

    label: str
    colour: int
    points: Sequence[Point]
    dots: bool = False


class Axis:
    """The iterations of one or several stages, one stage after the other.

    Attributes:
        spans: For each stage its start and end on the axis, 0 to 1, and its first and last iteration.
    """

    def __init__(self, records: Iterable[Mapping[str, float]]) -> None:
        """Lay out the stages of records, by their number of iterations, but none too narrow."""
        ranges: dict[str, tuple[int, int]] = {}
        for record in records:
            stage, number = str(record.get("stage", "")), int(record["iteration"])
            low, high = ranges.get(stage, (number, number))
            ranges[stage] = min(low, number), max(high, number)
        lengths = {stage: high - low + 1 for stage, (low, high) in ranges.items()}
        total = sum(lengths.values())
        weights = {stage: max(length / total, _LEAST_SHARE) for stage, length in lengths.items()}
        whole, start = sum(weights.values()), 0.0
        self.spans: dict[str, tuple[float, float, int, int]] = {}
        for stage, weight in weights.items():
            end = start + weight / whole
            self.spans[stage] = start, end, *ranges[stage]
            start = end

    def place(self, record: Mapping[str, float]) -> float:
        """Return where a record is on the axis, 0 to 1."""
        start, end, low, high = self.spans[str(record.get("stage", ""))]
        return start + (end - start) * _share(record["iteration"], low, high)

    def points(self, records: Iterable[Mapping[str, float]], key: str) -> list[Point]:
        """Return a figure of records as points, with the interval ``KEY_low`` to ``KEY_high`` where it is there."""
        return [
            Point(self.place(record), record[key], record.get(f"{key}_low"), record.get(f"{key}_high"))
            for record in records
            if key in record
        ]


def line_chart(
    title: str,
    axis: Axis,
    series: Sequence[Series],
    *,
    percent: bool = False,
    marks: Sequence[tuple[str, float]] = (),
    from_zero: bool = False,
) -> Markup:
    """Draw curves over iterations.

    Args:
        title: What the chart shows.
        axis: Where iterations are.
        series: The curves; those without points are left out.
        percent: Whether values are shares.
        marks: Labels and values of dashed level lines.
        from_zero: Whether the vertical axis begins at 0.

    Returns:
        A ``figure``; empty if no curve has a point.
    """
    series = [one for one in series if one.points]
    if not series:
        return Markup("")
    low, high = _range(series, [value for _, value in marks], percent=percent, from_zero=from_zero)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + x * (WIDTH - _LEFT - _RIGHT)
        return across, HEIGHT - _BOTTOM - (y - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    parts = [*_grid(ticks, at, percent=percent), *_stages(axis, at, low)]
    for label, value in marks:
        (x1, y), (x2, _) = at(0, value), at(1, value)
        parts.append(element("line.mark", x1=x1, x2=x2, y1=y, y2=y))
        parts.append(element("text.mark-label", label, x=x2 - 3, y=y - 3, text_anchor="end"))
    for one in series:
        for start, end, *_ in axis.spans.values():  # curves do not run on from one stage to the next
            points = [point for point in one.points if start < point.x < end]
            if points:
                parts += _curve(one._replace(points=points), at)
    last = "; ".join(f"{one.label} {_number(one.points[-1].y, percent=percent)} at last" for one in series)
    drawing = element("svg", *parts, viewbox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}", role="img", aria_label=f"{title}: {last}")
    return element("figure.chart", element("figcaption", title, _legend(series, percent=percent)), drawing)


def bars(parts: Sequence[tuple[str, int, float]], *, label: str) -> Markup:
    """Draw a bar that is divided into parts.

    Args:
        parts: Name, number of the colour, and share (0 to 1) of each part.
        label: What it shows, for those who do not see it.
    """
    shapes: list[Markup] = []
    start = 0.0
    for name, colour, share in parts:
        width = 100 * max(0.0, share)
        hint = element("title", f"{name}: {100 * share:.0f}%")
        shapes.append(element(f"g.fill-{colour}", hint, element("rect", x=start, y=0, width=width, height=8)))
        start += width
    return element("svg.bars", *shapes, viewbox="0 0 100 8", preserveAspectRatio="none", role="img", aria_label=label)


def _share(number: float, low: int, high: int) -> float:
    """Return where an iteration is within its stage, between 0 and 1."""
    return (number - low + 0.5) / (high - low + 1)


def _curve(series: Series, at: _Scale) -> list[Markup]:
    colour = series.colour
    points = _averaged(series.points)
    parts: list[Markup] = []
    if series.dots:
        band = [point for point in points if point.low is not None and point.high is not None]
        if len(band) > 1:
            upper = [at(point.x, point.high or 0.0) for point in band]
            lower = [at(point.x, point.low or 0.0) for point in reversed(band)]
            parts.append(element(f"path.band-{colour}", d=f"{_path([*upper, *lower])}Z"))
        else:
            for point in band:
                (x, y1), (_, y2) = at(point.x, point.low or 0.0), at(point.x, point.high or 0.0)
                parts.append(element(f"line.stroke-{colour}", x1=x, x2=x, y1=y1, y2=y2))
        parts.append(element(f"path.stroke-{colour}", d=_path([at(point.x, point.y) for point in points])))
        for point in points:
            x, y = at(point.x, point.y)
            parts.append(element(f"circle.dot-{colour}", cx=x, cy=y, r=2.6))
        return parts
    line = [at(point.x, point.y) for point in points]
    if len(points) < 2:
        return [element(f"circle.dot-{colour}", cx=x, cy=y, r=2.6) for x, y in line]
    if len(points) >= _MANY:
        smooth = [at(point.x, point.y) for point in _smoothed(points)]
        return [
            element(f"path.stroke-{colour}.faint", d=_path(line)),
            element(f"path.stroke-{colour}", d=_path(smooth)),
        ]
    return [element(f"path.stroke-{colour}", d=_path(line))]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _averaged(points: Sequence[Point]) -> list[Point]:
    """Return at most `_MOST` points: means of neighbours."""
    size = -(-len(points) // _MOST)
    if size == 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [Point(fmean(p.x for p in group), fmean(p.y for p in group)) for group in groups]


def _smoothed(points: Sequence[Point]) -> list[Point]:
    """Return moving averages over a twentieth of the points."""
    half = max(1, len(points) // 40)
    return [
        Point(point.x, fmean(p.y for p in points[max(0, place - half) : place + half + 1]))
        for place, point in enumerate(points)
    ]


def _grid(ticks: Sequence[float], at: _Scale, *, percent: bool) -> list[Markup]:
    parts: list[Markup] = []
    for tick in ticks:
        (x1, y), (x2, _) = at(0, tick), at(1, tick)
        parts.append(element("line.grid", x1=x1, x2=x2, y1=y, y2=y))
        label = _tick_label(tick, ticks, percent=percent)
        parts.append(element("text.tick", label, x=x1 - 6, y=y + 3.5, text_anchor="end"))
    return parts


def _stages(axis: Axis, at: _Scale, bottom: float) -> list[Markup]:
    """Return the numbers of iterations below, and, where there are several stages, their names above."""
    parts: list[Markup] = []
    several = len(axis.spans) > 1
    for stage, (start, end, low, high) in axis.spans.items():
        (x1, y), (x2, _) = at(start, bottom), at(end, bottom)
        if several:
            if start > 0:
                parts.append(element("line.divider", x1=x1, x2=x1, y1=_TOP - 12, y2=y))
            parts.append(element("text.stage", STAGE_TITLES.get(stage, stage), x=x1 + 4, y=_TOP - 5))
        numbers = [high] if several else [tick for tick in _ticks(low, high) if low <= tick <= high and tick % 1 == 0]
        for number in numbers:
            share = _share(number, low, high)
            anchor = "end" if number == high and high > low else "middle"
            label = f"{number:,.0f}"
            parts.append(element("text.tick", label, x=x1 + share * (x2 - x1), y=y + 15, text_anchor=anchor))
    return parts


def _range(series: Sequence[Series], marks: Sequence[float], *, percent: bool, from_zero: bool) -> tuple[float, float]:
    values = [*marks]
    for one in series:
        for point in one.points:
            values.append(point.y)
            if one.dots:
                values += [end for end in (point.low, point.high) if end is not None]
    low, high = min(values), max(values)
    if from_zero or percent:
        low = min(low, 0.0)
    if percent and high > 0.5:
        high = max(high, 1.0)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low = low if low == 0.0 and (from_zero or percent) else low - max(0.05, abs(low) * 0.1)
        high += max(0.05, abs(high) * 0.1)
    return low, high


def _ticks(low: float, high: float) -> list[float]:
    """Return about four round numbers that a range is divided by, both ends included or exceeded."""
    if high <= low:
        return [low]
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _tick_label(tick: float, ticks: Sequence[float], *, percent: bool) -> str:
    scale = 100 if percent else 1
    step = min((after - before for before, after in pairwise(ticks)), default=1.0) * scale
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    digits += abs(step * 10**digits - round(step * 10**digits)) > 1e-6  # a step of 2.5
    value = tick * scale
    if digits > 3 or abs(value) >= 1e6:
        return f"{value:.3g}" if value == 0 or abs(value) >= 0.01 else f"{value:.1e}".replace("e-0", "e-")
    label = f"{value:,.{digits}f}"
    return f"{label}%" if percent else label


def _number(value: float, *, percent: bool) -> str:
    if percent:
        return f"{100 * value:.1f}%"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _legend(series: Sequence[Series], *, percent: bool) -> Markup:
    entries = [
        element(
            "span.key",
            element("svg.swatch", element(f"rect.fill-{one.colour}", width=10, height=10), viewbox="0 0 10 10"),
            one.label,
            " ",
            element("b", _number(one.points[-1].y, percent=percent)),
        )
        for one in series
    ]
    return element("span.legend", join(*entries))
