"""True facts of a puzzle for an expert: solution, borders, colours, seams, and boxes that cover them.

Boxes are fractions of an image with as few digits as will do, as a model would write them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import ConfigurationError
from agile_gym.policies.edge import arrange
from agile_gym.policies.edge_costs import edge_costs
from agile_gym.puzzle.board import kinds_of, looks_of, piece_numbers
from agile_gym.puzzle.pixels import BoardLayout, zoomed_size

__all__ = [
    "BORDERS",
    "COLOURS",
    "FACTORS",
    "SOURCES",
    "Border",
    "Box",
    "Joint",
    "Knowledge",
    "Side",
    "border_box",
    "differ_clearly",
    "joints_of",
    "know_puzzle",
    "name_colour",
    "seam_box",
    "zoom_factors",
]

COLOURS = ("black", "white", "grey", "red", "orange", "brown", "yellow", "green", "blue", "purple", "pink")
_ALIKE = {
    "grey": ("white", "black", "blue", "brown", "purple"),
    "brown": ("black", "orange", "red", "yellow"),
    "orange": ("red", "yellow"),
    "yellow": ("green", "white"),
    "pink": ("red", "purple", "white"),
    "purple": ("blue",),
}
MOST = 0.7
"""Fraction of the pixels that must have the colour."""

_HUES = ((8, "red"), (22, "orange"), (34, "yellow"), (84, "green"), (130, "blue"), (150, "purple"), (170, "pink"))
"""Upper ends of hues, in steps of 2 degrees; the rest is red again."""


def name_colour(strip: NDArray[np.uint8]) -> str | None:
    """Name the colour that most pixels have.

    Args:
        strip: (h, w, 3) uint8, RGB.

    Returns:
        One of `COLOURS`, or None if less than 70% of the pixels have one and the same.
    """
    hue, saturation, value = np.moveaxis(cv2.cvtColor(np.ascontiguousarray(strip), cv2.COLOR_RGB2HSV), -1, 0)
    ends = np.array([end for end, _ in _HUES])
    names = np.array([COLOURS.index(name) for _, name in _HUES] + [COLOURS.index("red")])
    found = names[np.searchsorted(ends, hue, side="right")]
    dull = (value < 160) & np.isin(found, [COLOURS.index("orange"), COLOURS.index("red"), COLOURS.index("yellow")])
    found[dull & (hue >= 5) & (hue < 30)] = COLOURS.index("brown")
    found[saturation < 45] = COLOURS.index("grey")
    found[(saturation < 45) & (value >= 200)] = COLOURS.index("white")
    found[value < 45] = COLOURS.index("black")
    counts = np.bincount(found.ravel(), minlength=len(COLOURS))
    best = int(counts.argmax())
    return COLOURS[best] if counts[best] >= MOST * found.size else None


def differ_clearly(first: str, second: str) -> bool:
    """Return whether two colours are more than two names for nearly the same."""
    return first != second and second not in _ALIKE.get(first, ()) and first not in _ALIKE.get(second, ())


SOURCES = ("oracle", "edges")
"""Sources of an expert's knowledge: the environment's ``info["solution"]``, or the solver of `EdgePolicy`."""
Side = Literal["right", "below"]

CLEAR_FIT = 2.0
"""Up to this cost, two neighbours fit clearly: each is likely (over 1 in 3) the other's neighbour, of all pieces."""
CLEAR_MISFIT = 5.0
"""From this cost, two pieces that are no neighbours clearly do not fit."""
STRIP = 0.06
"""Depth of a border whose colour is named, as a fraction of the piece's side."""
FEW = 4
"""Below so many pieces, borders are also judged against those of the pieces turned by 180 degrees."""

_Costs = NDArray[np.float64]


class Joint(NamedTuple):
    """Two neighbouring pieces of a board.

    Attributes:
        first: The left or upper piece.
        side: Side of the first piece that the second one is on.
        second: The right or lower piece.
    """

    first: int
    side: Side
    second: int


def joints_of(order: Sequence[int], rows: int, cols: int) -> list[Joint]:
    """List the joints of a board, row by row: that to the right of each place, then that below it."""
    joints: list[Joint] = []
    for place, piece in enumerate(order):
        if place % cols < cols - 1:
            joints.append(Joint(piece, "right", order[place + 1]))
        if place < (rows - 1) * cols:
            joints.append(Joint(piece, "below", order[place + cols]))
    return joints


@dataclass(frozen=True)
class Knowledge:
    """An expert's knowledge of a puzzle.

    Attributes:
        rows: Number of rows.
        cols: Number of columns.
        goal: The piece at each place of the solved board.
        turns: Degrees by which each piece (not place) must be turned clockwise to be upright.
        right: Costs (N, N) of the upright pieces as left and right neighbours; see `edge_costs`.
        below: Costs (N, N) of the upright pieces as upper and lower neighbours.
        pieces: (N, h, w, 3) uint8, the upright pieces.
        kinds: A number for each piece; pieces that look alike have the same.
    """

    rows: int
    cols: int
    goal: tuple[int, ...]
    turns: tuple[int, ...]
    right: _Costs
    below: _Costs
    pieces: NDArray[np.uint8]
    kinds: tuple[int, ...]

    def kinds_at(self, order: Sequence[int]) -> tuple[int, ...]:
        """Return the kind of piece, by its appearance, at each place of a board."""
        return tuple(self.kinds[piece] for piece in order)

    def neighbours(self, piece: int) -> list[Joint]:
        """Return the joints of a piece in the solved board."""
        return [joint for joint in joints_of(self.goal, self.rows, self.cols) if piece in (joint.first, joint.second)]

    def fits(self, joint: Joint) -> bool:
        """Return whether two pieces, or two that look like them, are neighbours in the solved board, in this way."""
        return (self.kinds[joint.first], joint.side, self.kinds[joint.second]) in self._fitting

    @cached_property
    def _fitting(self) -> frozenset[tuple[int, Side, int]]:
        joints = joints_of(self.goal, self.rows, self.cols)
        return frozenset((self.kinds[first], side, self.kinds[second]) for first, side, second in joints)

    def is_clear(self, joint: Joint) -> bool:
        """Return whether the borders show clearly whether two pieces fit: measured costs agree with the solution."""
        table = self.right if joint.side == "right" else self.below
        cost = float(table[joint.first, joint.second])
        return cost <= CLEAR_FIT if self.fits(joint) else cost >= CLEAR_MISFIT

    def colours(self, joint: Joint) -> tuple[str, str] | None:
        """Return the colour of each of the two borders that meet, or None if one of them has no single colour."""
        first, second = self.pieces[joint.first], self.pieces[joint.second]
        if joint.side == "below":
            first, second = first.swapaxes(0, 1), second.swapaxes(0, 1)
        depth = max(1, round(STRIP * first.shape[1]))
        before, after = name_colour(first[:, -depth:]), name_colour(second[:, :depth])
        return None if before is None or after is None else (before, after)


def know_puzzle(
    info: dict[str, Any], pieces: NDArray[np.uint8], rows: int, cols: int, source: str = "oracle"
) -> Knowledge:
    """Collect the facts about a puzzle.

    Args:
        info: The first ``info`` of an episode.
        pieces: (N, h, w, 3) uint8, the pieces as they are shown, in the order of their names.
        rows: Number of rows.
        cols: Number of columns.
        source: One of `SOURCES`.

    Returns:
        The knowledge. From ``"edges"`` it may be wrong.

    Raises:
        ConfigurationError: If the environment does not reveal its solution, or the solver cannot be used.
    """
    count = rows * cols
    if source == "edges":
        if info["task"].rotations:
            raise ConfigurationError(
                "The solver plays puzzles of upright pieces only: make the environment without rotations, or use "
                "knowledge='oracle'."
            )
        right, below = _measure(pieces)
        goal = arrange(right, below, rows, cols)
        return Knowledge(rows, cols, goal, (0,) * count, right, below, pieces, _kinds(pieces))
    if "solution" not in info:
        raise ConfigurationError(
            "The expert needs the solution: make the environment with reveal=True, or use knowledge='edges'."
        )
    numbers = piece_numbers(count)
    solution: list[Any] = info["solution"]
    rotated: bool = info["task"].rotations
    goal = tuple(numbers[entry[0] if rotated else entry] for entry in solution)
    turns = [0] * count
    if rotated:
        for piece, entry in zip(goal, solution, strict=True):
            turns[piece] = int(entry[1])
    upright = np.stack([np.rot90(piece, -turn // 90) for piece, turn in zip(pieces, turns, strict=True)])
    return Knowledge(rows, cols, goal, tuple(turns), *_measure(upright), upright, _kinds(upright))


def _kinds(upright: NDArray[np.uint8]) -> tuple[int, ...]:
    looks = looks_of(list(upright))
    return tuple(range(len(upright))) if looks is None else kinds_of(looks)


def _measure(pieces: NDArray[np.uint8]) -> tuple[_Costs, _Costs]:
    """Return the costs of all pairs; where there are few pieces, further candidates for each border are made."""
    count = len(pieces)
    if count >= FEW:
        return edge_costs(list(pieces))
    right, below = edge_costs([*pieces, *pieces[:, ::-1, ::-1]])
    return right[:count, :count], below[:count, :count]


Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 as fractions of an image, from its top left."""
Border = Literal["left", "right", "top", "bottom"]
BORDERS: tuple[Border, ...] = ("left", "right", "top", "bottom")
FACTORS = (1.5, 2.0, 3.0, 4.0)
"""Factors that an expert zooms by."""

_SHARES = (0.0, 0.1, 0.2, 0.25, 0.3, 0.33, 0.4, 0.5, 0.6, 0.67, 0.7, 0.75, 0.8, 0.9, 1.0)
_DEPTH = 0.45
"""Fraction of each of the two pieces' sides that a seam's box covers."""
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
        side: Side of it that the other piece is on.
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
    """Return the fraction with the fewest digits whose pixel is within a span."""
    for shares in _tables():
        inside = [share for share in shares if span.low <= int(share * length) <= span.high]
        if inside:
            return min(inside, key=lambda share: (abs(share * length - span.best), share))
    return min(max(span.best / length, 0.0), 1.0)


def _tables() -> Iterator[tuple[float, ...]]:
    yield _SHARES
    for digits, steps in ((2, 20), (2, 100), (3, 1000)):
        yield tuple(round(step / steps, digits) for step in range(steps + 1))
