"""Sizes and pixels of a jigsaw: layout, cutting, composing, crop, zoom and rotation, as AGILE defines them.

Images are (H, W, 3) uint8 RGB arrays. Sizes are computed before any pixel, so that one that is too large is refused at
no cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agile_gym.errors import ConfigurationError
from agile_gym.puzzle.board import JigsawPuzzle, piece_names

__all__ = [
    "MAX_ASPECT",
    "MIN_PIECE",
    "WHITE",
    "BoardLayout",
    "choose_window",
    "compose_into",
    "crop_box",
    "cut_cells",
    "cut_pieces",
    "draw_labels",
    "erosion_margin",
    "fit_window",
    "fixed_layout",
    "parse_size",
    "resize",
    "rotate",
    "rotated_size",
    "scaled_layout",
    "scaled_layout_bound",
    "zoom",
    "zoomed_size",
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
        gap: White space between pieces, as a fraction of the piece's width (and height), rounded down (AGILE: 0.02).
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
        gap: Fraction of a piece's side that is left white between pieces.
        square: Make the pieces square, as turning them by 90 degrees requires.

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
        gap: Fraction of a piece's side that is left white between pieces.
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


Window = tuple[int, int, int, int]
"""A part of a photograph: top, left, height, width, in pixels."""


def choose_window(
    rng: np.random.Generator, photo_size: tuple[int, int], aspect: float, scale: tuple[float, float] | None
) -> Window:
    """Choose the part of a photograph that becomes the puzzle, without distorting it.

    Args:
        rng: Source of randomness; not used where ``scale`` is None.
        photo_size: Height and width of the photograph, in pixels.
        aspect: Width over height of the part.
        scale: Range of the side of the part, as a fraction of the largest part that fits: drawn uniformly, then placed
            uniformly. ``None`` takes the largest part, centred.

    Returns:
        Top, left, height and width of the part, in pixels, at least 1 x 1.
    """
    height, width = photo_size
    window_height = min(height, width / aspect)
    window_width = window_height * aspect
    if scale is not None:
        share = float(rng.uniform(*scale))
        window_height, window_width = window_height * share, window_width * share
    rows, cols = fit_window(window_height, height), fit_window(window_width, width)
    if scale is None:
        return (height - rows) // 2, (width - cols) // 2, rows, cols
    return int(rng.integers(height - rows + 1)), int(rng.integers(width - cols + 1)), rows, cols


def fit_window(length: float, available: int) -> int:
    """Round a length to whole pixels, between 1 and the length available."""
    return min(max(round(length), 1), available)


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize an RGB image: area averaging where it shrinks, bicubic where it grows.

    Args:
        image: (H, W, 3) uint8.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        A new C-contiguous (height, width, 3) uint8 array.
    """
    if image.shape[:2] == (height, width):
        return np.array(image, order="C")
    shrinks = height * width < image.shape[0] * image.shape[1]
    result = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.asarray(result, dtype=np.uint8)


def erosion_margin(side: int, erode: float) -> int:
    """Return the number of pixels to cut from each side of a piece that must keep ``side`` pixels."""
    return round(side * erode / (1 - 2 * erode))


def cut_cells(
    photo: NDArray[np.uint8], window: Window, layout: BoardLayout, *, erode: float = 0.0
) -> list[NDArray[np.uint8]]:
    """Cut a part of a photograph into the cells of the solved board.

    Args:
        photo: (H, W, 3) uint8.
        window: The part to use.
        layout: Sizes of board and pieces.
        erode: Fraction of a piece that is cut away at each of its four sides, 0 up to 0.4. The photograph is enlarged
            first, so that pieces keep the layout's size.

    Returns:
        One (piece_height, piece_width, 3) uint8 a place, row by row: views of one picture.
    """
    top, left, rows, cols = window
    high, wide = layout.piece_height, layout.piece_width
    margin_y, margin_x = erosion_margin(high, erode), erosion_margin(wide, erode)
    cell_high, cell_wide = high + 2 * margin_y, wide + 2 * margin_x
    picture = resize(photo[top : top + rows, left : left + cols], cell_high * layout.rows, cell_wide * layout.cols)
    return [
        picture[y : y + high, x : x + wide]
        for y in range(margin_y, layout.rows * cell_high, cell_high)
        for x in range(margin_x, layout.cols * cell_wide, cell_wide)
    ]


def cut_pieces(cells: Sequence[NDArray[np.uint8]], puzzle: JigsawPuzzle) -> NDArray[np.uint8]:
    """Make the pieces of a puzzle.

    Args:
        cells: Pixels of each place of the solved board, see `cut_cells`.
        puzzle: The permutation, and each piece's turn.

    Returns:
        (pieces, piece_height, piece_width, 3) uint8, C-contiguous, in the order of the names: piece ``k`` shows the
        cell ``puzzle.home[k]``, turned counter-clockwise by ``puzzle.turns[k]``.
    """
    pieces = np.empty((len(cells), *cells[0].shape), np.uint8)
    for piece, (place, turn) in enumerate(zip(puzzle.home, puzzle.turns, strict=True)):
        pieces[piece] = np.rot90(cells[place], turn // 90) if turn else cells[place]
    return pieces


def draw_labels(pieces: NDArray[np.uint8], names: Sequence[str] | None = None) -> None:
    """Draw each piece's name into its top left corner, in place: black on a white tab.

    Args:
        pieces: (pieces, height, width, 3) uint8, changed in place.
        names: One name a piece; A, B, C, ... by default.
    """
    high, wide = pieces.shape[1:3]
    for piece, name in zip(pieces, names or piece_names(len(pieces)), strict=True):
        scale = max(min(high, wide) / 200, 0.25)
        thickness = max(round(scale * 1.5), 1)
        (text_wide, text_high), baseline = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
        pad = max(round(scale * 4), 1)
        cv2.rectangle(piece, (0, 0), (text_wide + 2 * pad, text_high + baseline + pad), (255, 255, 255), cv2.FILLED)
        cv2.putText(
            piece, name, (pad, text_high + pad), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), thickness, cv2.LINE_AA
        )


WHITE = 255


def compose_into(
    out: NDArray[np.uint8],
    pieces: NDArray[np.uint8],
    layout: BoardLayout,
    order: Sequence[int],
    turns: Sequence[int] | None = None,
) -> None:
    """Lay pieces out as a board, with white gaps between them.

    Args:
        out: (H, W, 3) uint8, at least as large as the board, which is written to its top left.
        pieces: (pieces, piece_height, piece_width, 3) uint8.
        layout: Sizes of board and pieces.
        order: The piece at each place, row by row.
        turns: Degrees, multiples of 90, by which each piece (not place) is turned clockwise; None turns none.
    """
    for ys, xs in layout.gaps:
        out[ys, xs] = WHITE
    if turns is None or not any(turns):
        for piece, cell in zip(order, layout.cells, strict=True):
            out[cell] = pieces[piece]
    else:
        for piece, cell in zip(order, layout.cells, strict=True):
            out[cell] = np.rot90(pieces[piece], -turns[piece] // 90)


def crop_box(height: int, width: int, box: Sequence[float]) -> tuple[int, int, int, int]:
    """Turn a normalised box into pixels: truncated, then clamped to the last pixel, as AGILE does.

    The right and lower ends are exclusive, so that a box that reaches 1.0 leaves out the last column or row.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        box: x1, y1, x2, y2, finite, as fractions of the image from its top left.

    Returns:
        x1, y1, x2, y2 in pixels; empty where x1 >= x2 or y1 >= y2.
    """
    x1, y1, x2, y2 = box
    return (
        min(max(int(x1 * width), 0), width - 1),
        min(max(int(y1 * height), 0), height - 1),
        min(max(int(x2 * width), 0), width - 1),
        min(max(int(y2 * height), 0), height - 1),
    )


def zoomed_size(height: int, width: int, factor: float) -> tuple[int, int]:
    """Return the height and width of an image scaled by a finite factor, rounded down, at least 1 x 1."""
    return max(int(height * factor), 1), max(int(width * factor), 1)


def zoom(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Scale an image by a factor with a Lanczos filter; see `zoomed_size` for the size of the result."""
    height, width = zoomed_size(image.shape[0], image.shape[1], factor)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def rotated_size(height: int, width: int, angle: float) -> tuple[int, int]:
    """Return the height and width of the canvas that holds an image rotated by a finite angle in degrees."""
    turn = angle % 360
    if turn in (0, 180):
        return height, width
    if turn in (90, 270):
        return width, height
    # Pillow's own rule, with its rounding: rotate the corners about the centre, then round outwards.
    radians = -math.radians(turn)
    cosine, sine = round(math.cos(radians), 15), round(math.sin(radians), 15)
    centre_x, centre_y = width / 2, height / 2
    left = cosine * -centre_x + sine * -centre_y + centre_x
    top = -sine * -centre_x + cosine * -centre_y + centre_y
    corners = ((0, 0), (width, 0), (width, height), (0, height))
    xs = [cosine * x + sine * y + left for x, y in corners]
    ys = [-sine * x + cosine * y + top for x, y in corners]
    return math.ceil(max(ys)) - math.floor(min(ys)), math.ceil(max(xs)) - math.floor(min(xs))


def rotate(image: NDArray[np.uint8], angle: float) -> NDArray[np.uint8]:
    """Rotate an image counter-clockwise by degrees (bicubic); the canvas expands, white around the image."""
    rotated = Image.fromarray(image).rotate(
        angle, Image.Resampling.BICUBIC, expand=True, fillcolor=(WHITE, WHITE, WHITE)
    )
    height, width = rotated_size(image.shape[0], image.shape[1], angle)
    return np.asarray(rotated)[:height, :width]  # should a version of Pillow round otherwise
