"""Where to look: boxes that cover the seam between two pieces of a board, or one border of a piece; and zoom factors.

Boxes are shares of an image with as few digits as will do, as a model would write them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from agile_gym.coldstart.knowledge import Side
from agile_gym.puzzle.layout import BoardLayout
from agile_gym.puzzle.render import zoomed_size

__all__ = ["BORDERS", "FACTORS", "Border", "Box", "border_box", "seam_box", "zoom_factors"]

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 as shares of an image, from its top left."""
Border = Literal["left", "right", "top", "bottom"]
BORDERS: tuple[Border, ...] = ("left", "right", "top", "bottom")
FACTORS = (1.5, 2.0, 3.0, 4.0)
"""Factors that an expert zooms by."""

_SHARES = (0.0, 0.1, 0.2, 0.25, 0.3, 0.33, 0.4, 0.5, 0.6, 0.67, 0.7, 0.75, 0.8, 0.9, 1.0)
_DEPTH = 0.45
"""How much of each of the two pieces a seam's box covers, as a share of its side."""
_STRIPS: dict[Border, tuple[Box, ...]] = {
    "left": ((0.0, 0.0, 0.25, 1.0), (0.0, 0.0, 0.3, 1.0), (0.0, 0.0, 0.5, 1.0)),
    "right": ((0.75, 0.0, 1.0, 1.0), (0.7, 0.0, 1.0, 1.0), (0.5, 0.0, 1.0, 1.0)),
    "top": ((0.0, 0.0, 1.0, 0.25), (0.0, 0.0, 1.0, 0.3), (0.0, 0.0, 1.0, 0.5)),
    "bottom": ((0.0, 0.75, 1.0, 1.0), (0.0, 0.7, 1.0, 1.0), (0.0, 0.5, 1.0, 1.0)),
}


class _Span(NamedTuple):
    """Whole pixels that one end of a box may fall on, and where it is best."""

    low: float
    high: float
    best: float


def seam_box(layout: BoardLayout, place: int, side: Side, part: Literal["whole", "first", "second"] = "whole") -> Box:
    """Return a box of the board that shows a seam, with about half of the piece on either side.

    Args:
        layout: Sizes of the board.
        place: Place of the left or upper piece.
        side: Where the other piece is.
        part: The whole seam, or about the first or second half of it, which leaves more room to zoom.

    Returns:
        The box. Along the seam it may leave out up to a fifth of a piece at either end, or show as much of the next.
    """
    step = 1 if side == "right" else layout.cols
    ys, xs = layout.cells[place]
    next_ys, next_xs = layout.cells[place + step]
    if side == "right":
        x1, x2 = _across(xs.stop, next_xs.start, layout.piece_width, layout.width)
        y1, y2 = _along(ys.start, ys.stop, layout.height, part)
    else:
        x1, x2 = _along(xs.start, xs.stop, layout.width, part)
        y1, y2 = _across(ys.stop, next_ys.start, layout.piece_height, layout.height)
    return x1, y1, x2, y2


def border_box(border: Border, choice: int) -> Box:
    """Return a box of a piece's image that shows one of its borders; ``choice``, any number, chooses how deep."""
    strips = _STRIPS[border]
    return strips[choice % len(strips)]


def zoom_factors(height: int, width: int, canvas: tuple[int, int]) -> list[float]:
    """Return the factors by which an image of this size can be enlarged on a canvas (height, width), in pixels."""
    sizes = {factor: zoomed_size(height, width, factor) for factor in FACTORS}
    return [factor for factor, (high, wide) in sizes.items() if high <= canvas[0] and wide <= canvas[1]]


def _across(end: int, start: int, side: int, length: int) -> tuple[float, float]:
    """Return the ends of a box across a seam, from within one piece, which ends at ``end``, to within the next."""
    least, most = max(1.0, 0.2 * side), max(1.0, 0.8 * side)
    low = _share(_Span(end - most, end - least, end - _DEPTH * side), length)
    return low, _share(_Span(start + least, start + most, start + _DEPTH * side), length)


def _along(start: int, stop: int, length: int, part: str) -> tuple[float, float]:
    """Return the ends of a box along a seam that goes from ``start`` to ``stop``."""
    middle, slack = (start + stop) / 2, 0.2 * (stop - start)
    first = middle if part == "second" else start
    last = middle if part == "first" else stop
    low = _share(_Span(first - slack, first + slack, first), length)
    return low, _share(_Span(last - slack, last + slack, last), length)


def _share(span: _Span, length: int) -> float:
    """Return the share with the fewest digits whose pixel is within a span."""
    for shares in _tables():
        inside = [share for share in shares if span.low <= int(share * length) <= span.high]
        if inside:
            return min(inside, key=lambda share: (abs(share * length - span.best), share))
    return min(max(span.best / length, 0.0), 1.0)


def _tables() -> Iterator[tuple[float, ...]]:
    yield _SHARES
    for digits, steps in ((2, 20), (2, 100), (3, 1000)):
        yield tuple(round(step / steps, digits) for step in range(steps + 1))
