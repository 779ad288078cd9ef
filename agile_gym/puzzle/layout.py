"""Sizes in pixels: how large pieces, board and canvas are, and where each piece lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from agile_gym.errors import ConfigurationError

__all__ = [
    "MAX_ASPECT",
    "MIN_PIECE",
    "BoardLayout",
    "fixed_layout",
    "parse_size",
    "scaled_layout",
    "scaled_layout_bound",
]

MIN_PIECE = 4
"""Smallest side of a piece, in pixels."""
MAX_SIDE_PIXELS = 8192
MAX_ASPECT = 2.0
"""Photographs longer than this are cropped to it when the aspect ratio is kept."""


@dataclass(frozen=True)
class BoardLayout:
    """The geometry of a board, in pixels.

    Attributes:
        rows: Number of rows.
        cols: Number of columns.
        piece_height: Height of a piece.
        piece_width: Width of a piece.
        gap: White space between pieces, as a share of the piece's width (and height), rounded down (AGILE: 0.02).
    """

    rows: int
    cols: int
    piece_height: int
    piece_width: int
    gap: float = 0.02

    @cached_property
    def gap_height(self) -> int:
        """Pixels between two rows."""
        return int(self.gap * self.piece_height)

    @cached_property
    def gap_width(self) -> int:
        """Pixels between two columns."""
        return int(self.gap * self.piece_width)

    @cached_property
    def height(self) -> int:
        """Height of the board, gaps included."""
        return self.rows * self.piece_height + (self.rows - 1) * self.gap_height

    @cached_property
    def width(self) -> int:
        """Width of the board, gaps included."""
        return self.cols * self.piece_width + (self.cols - 1) * self.gap_width

    @cached_property
    def cells(self) -> tuple[tuple[slice, slice], ...]:
        """Rows and columns of the board that each place covers, row by row."""
        step_y, step_x = self.piece_height + self.gap_height, self.piece_width + self.gap_width
        return tuple(
            (slice(r * step_y, r * step_y + self.piece_height), slice(c * step_x, c * step_x + self.piece_width))
            for r in range(self.rows)
            for c in range(self.cols)
        )

    @cached_property
    def gaps(self) -> tuple[tuple[slice, slice], ...]:
        """The white strips of the board: full-width rows, then full-height columns."""
        strips: list[tuple[slice, slice]] = []
        if self.gap_height:
            step = self.piece_height + self.gap_height
            strips += [(slice(r * step - self.gap_height, r * step), slice(0, self.width)) for r in range(1, self.rows)]
        if self.gap_width:
            step = self.piece_width + self.gap_width
            strips += [(slice(0, self.height), slice(c * step - self.gap_width, c * step)) for c in range(1, self.cols)]
        return tuple(strips)


def parse_size(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    """Read a size given as a side or as (height, width), in pixels.

    Raises:
        ConfigurationError: If it is neither, or not between 4 and 8192 pixels.
    """
    pair = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(pair) != 2 or not all(
        isinstance(side, int) and not isinstance(side, bool) and MIN_PIECE <= side <= MAX_SIDE_PIXELS for side in pair
    ):
        raise ConfigurationError(
            f"{name}={size!r} is not a size. Give a side or (height, width): {MIN_PIECE} to {MAX_SIDE_PIXELS} pixels."
        )
    return pair[0], pair[1]


def _layout(rows: int, cols: int, height: int, width: int, gap: float, square: bool) -> BoardLayout:
    piece_height, piece_width = max(height // rows, 1), max(width // cols, 1)
    if square:
        piece_height = piece_width = min(piece_height, piece_width)
    return BoardLayout(rows, cols, piece_height, piece_width, gap)


def fixed_layout(
    rows: int, cols: int, image_size: int | Sequence[int], *, gap: float = 0.02, square: bool = False
) -> BoardLayout:
    """Lay out a board whose pieces together have a given size, rounded down to whole pieces.

    Args:
        rows: Number of rows.
        cols: Number of columns.
        image_size: Side, or (height, width), of the photograph that is cut, in pixels.
        gap: Share of a piece's side that is left white between pieces.
        square: Make the pieces square, as turning them by 90 degrees needs.

    Returns:
        The layout.

    Raises:
        ConfigurationError: If pieces would be smaller than 4 pixels.
    """
    height, width = parse_size("image_size", image_size)
    layout = _layout(rows, cols, height, width, gap, square)
    if min(layout.piece_height, layout.piece_width) < MIN_PIECE:
        raise ConfigurationError(
            f"image_size={image_size!r} is too small for a {rows}x{cols} grid: pieces would be {height // rows} x "
            f"{width // cols} pixels. Each side of a piece needs {MIN_PIECE} or more, so use an image_size of at least "
            f"({rows * MIN_PIECE}, {cols * MIN_PIECE})."
        )
    return layout


def scaled_layout(
    rows: int, cols: int, photo_size: tuple[int, int], max_pixels: int, *, gap: float = 0.02, square: bool = False
) -> BoardLayout:
    """Lay out a board that keeps the photograph's aspect ratio (between 1:2 and 2:1) and has at most ``max_pixels``.

    Smaller photographs keep their size; tiny ones are enlarged until a piece has 4 pixels a side.

    Args:
        rows: Number of rows.
        cols: Number of columns.
        photo_size: Height and width of the photograph, in pixels.
        max_pixels: Largest number of pixels of all pieces together.
        gap: Share of a piece's side that is left white between pieces.
        square: Make the pieces square.

    Returns:
        The layout.

    Raises:
        ConfigurationError: If ``max_pixels`` cannot hold the grid.
    """
    smallest = _smallest_pixels(rows, cols)
    if max_pixels < smallest:
        raise ConfigurationError(
            f"max_pixels={max_pixels!r} is too small for a {rows}x{cols} grid; give at least {smallest}."
        )
    height, width = photo_size
    height, width = min(height, int(width * MAX_ASPECT)), min(width, int(height * MAX_ASPECT))
    scale = min(1.0, math.sqrt(max_pixels / (height * width)))
    scale = max(scale, rows * MIN_PIECE / height, cols * MIN_PIECE / width)
    limit = math.isqrt(int(max_pixels * MAX_ASPECT))
    board_height = min(math.floor(height * scale + 1e-9), limit)
    board_width = min(math.floor(width * scale + 1e-9), limit)
    return _layout(rows, cols, max(board_height, rows * MIN_PIECE), max(board_width, cols * MIN_PIECE), gap, square)


def scaled_layout_bound(rows: int, cols: int, max_pixels: int, gap: float) -> tuple[int, int]:
    """Return the height and width that no board of `scaled_layout` exceeds, gaps included."""
    scaled_layout(rows, cols, (1, 1), max_pixels)
    side = math.isqrt(int(max_pixels * MAX_ASPECT))
    return side + int(side / rows * gap) * (rows - 1), side + int(side / cols * gap) * (cols - 1)


def _smallest_pixels(rows: int, cols: int) -> int:
    longest = max(rows, cols) * MIN_PIECE
    return max(rows * cols * MIN_PIECE**2, math.ceil(longest**2 / MAX_ASPECT))
