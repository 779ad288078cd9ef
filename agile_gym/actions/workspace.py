"""State of an episode (board, images as recipes, variables) and the effect of each primitive on it.

A recipe holds its size before any pixel exists, so that a result that is too large is refused at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.primitives import (
    ActionError,
    Arrange,
    Crop,
    Observe,
    Primitive,
    Rotate,
    RotatePiece,
    Swap,
    Zoom,
    quote,
)
from agile_gym.actions.reading import piece_reader
from agile_gym.puzzle.board import piece_names
from agile_gym.puzzle.pixels import BoardLayout, compose_into, crop_box, rotate, rotated_size, zoom, zoomed_size

__all__ = [
    "MAX_DEPTH",
    "MAX_IMAGES",
    "NO_BOARD",
    "Board",
    "ImageRecipe",
    "PixelBox",
    "Workspace",
    "draw_into",
    "render_into",
    "render_recipe",
]


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
    """Recipe of an image.

    Attributes:
        height: Rows of the result.
        width: Columns of the result.
        operation: Source of the pixels: a piece's number, a board, ``"reference"``, or the operation on
            ``source``.
        source: The recipe that the operation is applied to; None for pieces and boards.
        depth: Number of operations between this image and a piece or board.
    """

    height: int
    width: int
    operation: int | Literal["reference"] | Board | PixelBox | Zoom | Rotate
    source: ImageRecipe | None = None
    depth: int = 0


def render_recipe(
    recipe: ImageRecipe,
    pieces: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
    layout: BoardLayout,
    reference: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Make the pixels of an image.

    Args:
        recipe: The image.
        pieces: (pieces, piece_height, piece_width, 3) uint8; or pictures without a board, each (h, w, 3) uint8.
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
            compose_into(board, np.asarray(pieces), layout, order, turns)
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
    """Write an image to the top left of a canvas, with zeros (black) in the rest of it.

    Args:
        out: (H, W, 3) uint8, at least as large as the image.
        recipe: The image.
        pieces: (pieces, piece_height, piece_width, 3) uint8.
        layout: Sizes of board and pieces.
        reference: The reference image, where the puzzle has one.

    Returns:
        Height and width of the image.
    """
    if not isinstance(recipe.operation, Board):
        return draw_into(out, render_recipe(recipe, pieces, layout, reference))
    compose_into(out, pieces, layout, *recipe.operation)
    return _blacken(out, recipe.height, recipe.width)


def draw_into(out: NDArray[np.uint8], image: NDArray[np.uint8]) -> tuple[int, int]:
    """Write an image, (h, w, 3) uint8, to the top left of a canvas, with zeros in the rest; return its h and w."""
    height, width = image.shape[:2]
    out[:height, :width] = image
    return _blacken(out, height, width)


def _blacken(out: NDArray[np.uint8], height: int, width: int) -> tuple[int, int]:
    if height < out.shape[0]:
        out[height:] = 0
    if width < out.shape[1]:
        out[:height, width:] = 0
    return height, width


MAX_IMAGES = 64
"""Images that a turn may make, and an episode, unless it has many turns."""
MAX_DEPTH = 6
"""Largest number of operations one after the other on an image."""
NO_BOARD = (
    "There is no board here, only pictures: look closer with crop, zoom or rotate, or give your answer in answer tags."
)
"""Message of an action on a board where there is none."""
_OF_BOARDS = (Swap, Arrange, RotatePiece, Observe)


class Workspace:
    """State, images and variables of one episode.

    Attributes:
        names: Names of the pieces, or, without a board, of the pictures.
        board: True if there is a board; without one, pictures are only looked at.
        order: The piece at each place, row by row.
        turns: Degrees by which each piece (not place) is turned clockwise.
        images: Every image that exists, by key: pieces under their names, results under the names they were given.
        variables: Variables of the code dialect that outlive a turn.
        rotations: True if pieces can be turned.
    """

    __slots__ = (
        "_free",
        "board",
        "canvas",
        "images",
        "layout",
        "made",
        "max_images",
        "names",
        "order",
        "rotations",
        "turns",
        "variables",
    )

    def __init__(
        self,
        layout: BoardLayout,
        canvas: tuple[int, int],
        *,
        rotations: bool = False,
        reference: tuple[int, int] | None = None,
        max_images: int = MAX_IMAGES,
    ) -> None:
        """Start an episode.

        Args:
            layout: Sizes of board and pieces.
            canvas: Largest height and width of an image.
            rotations: True if pieces can be turned.
            reference: Height and width of the reference image, if there is one.
            max_images: Largest number of images that can be made.
        """
        count = layout.rows * layout.cols
        self.board = True
        self.layout = layout
        self.canvas = canvas
        self.names = piece_names(count)
        self.order: tuple[int, ...] = tuple(range(count))
        self.turns: tuple[int, ...] = (0,) * count
        self.rotations = rotations
        self.images: dict[str, ImageRecipe] = {
            name: ImageRecipe(layout.piece_height, layout.piece_width, piece) for piece, name in enumerate(self.names)
        }
        if reference is not None:
            self.images["reference"] = ImageRecipe(reference[0], reference[1], "reference")
        self.made = 0
        self.max_images = max_images
        self._free: dict[str, int] = {}
        self.variables: dict[str, Any] = {}

    @classmethod
    def of_pictures(
        cls, sizes: Sequence[tuple[int, int]], canvas: tuple[int, int], *, max_images: int = MAX_IMAGES
    ) -> Workspace:
        """Start an episode without a board, with pictures named ``image_1``, ``image_2`` and so on.

        Args:
            sizes: Height and width of each picture; they may be larger than the canvas.
            canvas: Largest height and width of a scaled or turned image.
            max_images: Largest number of images that can be made.
        """
        workspace = cls(BoardLayout(1, len(sizes), 1, 1), canvas, max_images=max_images)
        workspace.board = False
        workspace.names = tuple(f"image_{number}" for number in range(1, len(sizes) + 1))
        workspace.images = {
            name: ImageRecipe(height, width, number)
            for number, (name, (height, width)) in enumerate(zip(workspace.names, sizes, strict=True))
        }
        return workspace

    def state_list(self, order: Sequence[int] | None = None, turns: Sequence[int] | None = None) -> list[Any]:
        """Return a state as a model writes it: names, or [name, angle] pairs where pieces can be turned.

        Args:
            order: The piece at each place; the current order by default.
            turns: Degrees by which each piece is turned; the current ones by default.
        """
        order = self.order if order is None else order
        if not self.rotations:
            return [self.names[piece] for piece in order]
        angles = self.turns if turns is None else turns
        return [[self.names[piece], angles[piece]] for piece in order]

    def fresh_key(self, stem: str, taken: Container[str] = ()) -> str:
        """Return the first of ``stem_1``, ``stem_2``, ... that is neither an image's key nor in ``taken``."""
        number = self._free.get(stem, 1)
        while f"{stem}_{number}" in self.images:
            number += 1
        self._free[stem] = number  # images stay, so the search never has to begin before it again
        while f"{stem}_{number}" in taken or f"{stem}_{number}" in self.images:
            number += 1
        return f"{stem}_{number}"

    def image_key(self, name: str, new: Container[str] = ()) -> str | None:
        """Return the key of the image that a model names, or None if there is none.

        Args:
            name: An image's key, perhaps with blanks around it, or a piece in any form that `PieceNames` reads; the
                image of just this name comes first.
            new: Keys of images that the turn makes before.
        """
        if name in self.images or name in new:
            return name
        bare = name.strip()
        if bare in self.images or bare in new:
            return bare
        piece = piece_reader(self.names).find(bare if self.board else bare.replace(" ", "_"))
        return None if piece is None else self.names[piece]

    def check_room(self, new: int) -> None:
        """Check that a turn may make so many images.

        Raises:
            ActionError: If they are too many for a turn, or for the rest of the episode.
        """
        limit = min(MAX_IMAGES, self.max_images - self.made)
        if new > limit:
            raise ActionError("too_many_images", f"At most {limit} images can be made in this turn.")

    def execute(self, primitives: Sequence[Primitive]) -> str | None:
        """Carry out the primitives of a turn, in order, wholly or not at all.

        Args:
            primitives: Any primitives but `Answer`.

        Returns:
            The key of the last image made, or None if none was.

        Raises:
            ActionError: If one of them cannot be carried out; then nothing has changed.
        """
        if not self.board and any(isinstance(primitive, _OF_BOARDS) for primitive in primitives):
            raise ActionError("unknown_function", NO_BOARD)
        order, turns = self.order, self.turns
        new: dict[str, ImageRecipe] = {}
        shown: str | None = None
        for primitive in primitives:
            match primitive:
                case Swap(first, second):
                    changed = list(order)
                    changed[first], changed[second] = changed[second], changed[first]
                    order = tuple(changed)
                case Arrange(new_order, new_turns):
                    order = new_order
                    turns = turns if new_turns is None else new_turns
                case RotatePiece(place, angle):
                    turned = list(turns)
                    turned[order[place]] = (turned[order[place]] + angle) % 360
                    turns = tuple(turned)
                case Observe(name, other_order, other_turns):
                    board = Board(other_order or order, other_turns or turns)
                    shown = name or self.fresh_key("observation_image", new)
                    new[shown] = ImageRecipe(self.layout.height, self.layout.width, board)
                case Crop(image, box, name):
                    recipe = self._crop(self._find(image, new), box)
                    shown = name or self.fresh_key("crop_image", new)
                    new[shown] = recipe
                case Zoom(image, factor, name):
                    recipe = self._zoom(self._find(image, new), primitive, factor)
                    shown = name or self.fresh_key("zoom_image", new)
                    new[shown] = recipe
                case Rotate(image, angle, name):
                    recipe = self._rotate(self._find(image, new), primitive, angle)
                    shown = name or self.fresh_key("rotate_image", new)
                    new[shown] = recipe
                case _:
                    raise TypeError(f"{primitive!r} is not a primitive that the workspace carries out")
        self.check_room(len(new))
        self.order, self.turns = order, turns
        self.made += len(new)
        self.images.update(new)
        return shown

    def _find(self, key: str, new: dict[str, ImageRecipe]) -> ImageRecipe:
        recipe = new.get(key) or self.images.get(key)
        if recipe is None:
            made = [name for name in self.images if name not in self.names]
            first, last = self.names[0], self.names[-1]
            pieces = f"There are the pieces {first} to {last}"
            if not self.board:
                pieces = f"There is {first}" if first == last else f"There are {first} to {last}"
            raise ActionError(
                "unknown_image",
                f"There is no image {quote(key)}. {pieces}" + (f" and {', '.join(made[-4:])}." if made else "."),
            )
        if recipe.depth >= MAX_DEPTH:
            start = "a piece" if self.board else self.names[0]
            raise ActionError(
                "too_deep",
                f"This image was already made by {MAX_DEPTH} operations one after the other; start again from {start}.",
            )
        return recipe

    def _crop(self, source: ImageRecipe, box: tuple[float, float, float, float]) -> ImageRecipe:
        if not all(math.isfinite(value) and abs(value) <= 1e6 for value in box):
            raise ActionError("bad_number", "The box of crop must hold numbers from 0 to 1.")
        x1, y1, x2, y2 = crop_box(source.height, source.width, box)
        if x1 >= x2 or y1 >= y2:
            raise ActionError(
                "bad_box",
                "The box of crop is empty. It is [x1, y1, x2, y2] in shares of the image from 0 to 1, with x1 < x2 and "
                f"y1 < y2, and must cover at least one pixel of this image ({source.width} x {source.height}).",
            )
        return ImageRecipe(y2 - y1, x2 - x1, PixelBox(x1, y1, x2, y2), source, source.depth + 1)

    def _zoom(self, source: ImageRecipe, primitive: Zoom, factor: float) -> ImageRecipe:
        if not (math.isfinite(factor) and factor > 0):
            raise ActionError("bad_number", "The factor of zoom must be a number above 0, such as 1.5.")
        largest = min(self.canvas[0] / source.height, self.canvas[1] / source.width)
        # Compared before it is multiplied, so that no factor can overflow.
        if factor > largest + 1:
            raise self._too_large(f"zoom up to a factor of {math.floor(largest * 100) / 100:.2f}")
        height, width = zoomed_size(source.height, source.width, factor)
        if height > self.canvas[0] or width > self.canvas[1]:
            raise self._too_large(f"zoom up to a factor of {math.floor(largest * 100) / 100:.2f}")
        return ImageRecipe(height, width, primitive, source, source.depth + 1)

    def _rotate(self, source: ImageRecipe, primitive: Rotate, angle: float) -> ImageRecipe:
        if not (math.isfinite(angle) and abs(angle) <= 1e6):
            raise ActionError("bad_number", "The angle of rotate must be a number of degrees, such as 90.")
        height, width = rotated_size(source.height, source.width, angle)
        if height > self.canvas[0] or width > self.canvas[1]:
            raise self._too_large("rotate a smaller crop of it")
        return ImageRecipe(height, width, primitive, source, source.depth + 1)

    def _too_large(self, advice: str) -> ActionError:
        return ActionError(
            "image_too_large",
            f"The result would be larger than {self.canvas[1]} x {self.canvas[0]} pixels. Crop first, or {advice}.",
        )
