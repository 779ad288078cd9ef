"""Images as recipes: how each is made, how large it is, and, only when it is shown, its pixels.

A recipe knows its size before any pixel exists, so that a result that is too large is refused before it costs anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.primitives import Rotate, Zoom
from agile_gym.puzzle.layout import BoardLayout
from agile_gym.puzzle.render import compose_into, rotate, zoom

__all__ = ["Board", "ImageRecipe", "PixelBox", "render_into", "render_recipe"]


class Board(NamedTuple):
    """A board: the piece at each place, and the degrees by which each piece is turned clockwise."""

    order: tuple[int, ...]
    turns: tuple[int, ...]


class PixelBox(NamedTuple):
    """A rectangle in pixels; right and lower ends exclusive."""

    x1: int
    y1: int
    x2: int
    y2: int


@dataclass(frozen=True, slots=True)
class ImageRecipe:
    """How an image is made.

    Attributes:
        height: Rows of the result.
        width: Columns of the result.
        operation: Where the pixels come from: a piece's number, a board, ``"reference"``, or what is done to
            ``source``.
        source: The recipe that the operation is applied to; None for pieces and boards.
        depth: How many operations lie between this image and a piece or board.
    """

    height: int
    width: int
    operation: int | Literal["reference"] | Board | PixelBox | Zoom | Rotate
    source: ImageRecipe | None = None
    depth: int = 0


def render_recipe(
    recipe: ImageRecipe, pieces: NDArray[np.uint8], layout: BoardLayout, reference: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Make the pixels of an image.

    Args:
        recipe: The image.
        pieces: (pieces, piece_height, piece_width, 3) uint8.
        layout: Sizes of board and pieces.
        reference: (H, W, 3) uint8, the reference image, where the puzzle has one.

    Returns:
        (H, W, 3) uint8; it may share memory with ``pieces`` or ``reference``.
    """
    operation = recipe.operation
    match operation:
        case int():
            return pieces[operation]
        case Board(order, turns):
            board = np.empty((recipe.height, recipe.width, 3), np.uint8)
            compose_into(board, pieces, layout, order, turns)
            return board
        case "reference":
            if reference is None:
                raise ValueError("this episode has no reference image")
            return reference
        case _:
            pass
    if recipe.source is None:
        raise ValueError(f"{operation!r} needs an image to work on")
    source = render_recipe(recipe.source, pieces, layout, reference)
    match operation:
        case PixelBox(x1, y1, x2, y2):
            return source[y1:y2, x1:x2]
        case Zoom():
            return zoom(source, operation.factor)
        case Rotate():
            return rotate(source, operation.angle)


def render_into(
    out: NDArray[np.uint8],
    recipe: ImageRecipe,
    pieces: NDArray[np.uint8],
    layout: BoardLayout,
    reference: NDArray[np.uint8] | None = None,
) -> tuple[int, int]:
    """Write an image to the top left of a canvas, with zeros (black) in what is left of it.

    Args:
        out: (H, W, 3) uint8, at least as large as the image.
        recipe: The image.
        pieces: (pieces, piece_height, piece_width, 3) uint8.
        layout: Sizes of board and pieces.
        reference: The reference image, where the puzzle has one.

    Returns:
        Height and width of the image.
    """
    if isinstance(recipe.operation, Board):
        height, width = recipe.height, recipe.width
        compose_into(out, pieces, layout, *recipe.operation)
    else:
        image = render_recipe(recipe, pieces, layout, reference)
        height, width = image.shape[:2]
        out[:height, :width] = image
    if height < out.shape[0]:
        out[height:] = 0
    if width < out.shape[1]:
        out[:height, width:] = 0
    return height, width
