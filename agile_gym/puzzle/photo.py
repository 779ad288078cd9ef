"""From a photograph to pieces: crop window, resize, cut, turn, label."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from agile_gym.puzzle.board import JigsawPuzzle, piece_names
from agile_gym.puzzle.layout import BoardLayout

__all__ = ["choose_window", "cut_cells", "cut_pieces", "draw_labels", "erosion_margin", "fit_window", "resize"]

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
        scale: Range of the side of the part, as a share of the largest part that fits: drawn uniformly, then placed
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
    """Round a length to whole pixels, between 1 and what is available."""
    return min(max(round(length), 1), available)


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize an RGB image: area averaging where it shrinks, bicubic where it grows.

    Args:
        image: (H, W, 3) uint8.
        height: Rows wanted.
        width: Columns wanted.

    Returns:
        A new C-contiguous (height, width, 3) uint8 array.
    """
    if image.shape[:2] == (height, width):
        return np.array(image, order="C")
    shrinks = height * width < image.shape[0] * image.shape[1]
    result = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.asarray(result, dtype=np.uint8)


def erosion_margin(side: int, erode: float) -> int:
    """Return how many pixels are cut from each side of a piece that must keep ``side`` pixels."""
    return round(side * erode / (1 - 2 * erode))


def cut_cells(
    photo: NDArray[np.uint8], window: Window, layout: BoardLayout, *, erode: float = 0.0
) -> list[NDArray[np.uint8]]:
    """Cut a part of a photograph into what each place of the board shows when it is solved.

    Args:
        photo: (H, W, 3) uint8.
        window: The part to use.
        layout: Sizes of board and pieces.
        erode: Share of a piece that is cut away at each of its four sides, 0 up to 0.4. The photograph is enlarged
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
        cells: What each place shows when the puzzle is solved, see `cut_cells`.
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
