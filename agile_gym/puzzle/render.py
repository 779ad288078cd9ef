"""Pure image operations of a jigsaw: compose, crop, zoom and rotate, as AGILE defines them.

Images are (H, W, 3) uint8 RGB arrays. Sizes can be computed before any pixel is made, so that what is too large is
refused before it costs anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agile_gym.puzzle.layout import BoardLayout

__all__ = ["WHITE", "compose_into", "crop_box", "rotate", "rotated_size", "zoom", "zoomed_size"]

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
        box: x1, y1, x2, y2, finite, as shares of the image from its top left.

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
