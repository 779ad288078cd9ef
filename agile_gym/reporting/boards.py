"""Boards of a transcript: its pieces, the images that are boards made of them, and the answer given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.primitives import ActionError
from agile_gym.actions.reading import read_whole
from agile_gym.actions.tags import answer_span, read_answer
from agile_gym.errors import ConfigurationError, is_whole
from agile_gym.puzzle.pixels import MAX_SIDE_PIXELS, WHITE
from agile_gym.transcripts.record import Image, Transcript, Turn

__all__ = ["BoardImage", "PieceReader", "Puzzle", "Tile", "answer_tiles", "puzzle_of", "tiles_of"]


class Tile(NamedTuple):
    """A piece at a place of a board.

    Attributes:
        piece: Number of the piece, from 0.
        angle: Degrees by which it is turned clockwise: 0, 90, 180 or 270.
    """

    piece: int
    angle: int


class BoardImage(NamedTuple):
    """An image that is nothing but pieces laid out on white.

    Attributes:
        tiles: The piece at each place, row by row.
        gap: White pixels between two columns, and between two rows.
    """

    tiles: tuple[Tile, ...]
    gap: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Puzzle:
    """The board of an episode; of another environment than the jigsaw, one without pieces.

    Attributes:
        rows: Number of rows.
        cols: Number of columns.
        names: Names of the pieces, in the order of the first state.
        pieces: Their images, each (piece_height, piece_width, 3) uint8; empty where the transcript holds no images.
        solution: The right tile at each place, or None if the solution is no state of this board.
    """

    rows: int
    cols: int
    names: tuple[str, ...]
    pieces: tuple[Image, ...]
    solution: tuple[Tile, ...] | None

    @property
    def start(self) -> tuple[Tile, ...]:
        """The first state."""
        return tuple(Tile(piece, 0) for piece in range(len(self.names)))


def puzzle_of(transcript: Transcript) -> Puzzle:
    """Read the puzzle of a transcript.

    Raises:
        ConfigurationError: If its task has a grid that is none, or not a name for each piece.
    """
    task = transcript.task
    if "env" in task and "grid" not in task:
        return Puzzle(0, 0, (), (), None)
    grid = re.fullmatch(r"([0-9]{1,2})x([0-9]{1,2})", str(task.get("grid")))
    given: object = task.get("names")
    names = tuple(str(name) for name in cast(Sequence[object], given)) if isinstance(given, list | tuple) else ()
    if grid is None or not names or int(grid[1]) * int(grid[2]) != len(names) or len(set(names)) != len(names):
        raise ConfigurationError(
            f"The transcript {transcript.id!r} has the grid {task.get('grid')!r:.80} and the names {given!r:.200}; a "
            "grid is written like '2x2', and every piece of it has a name of its own."
        )
    rows, cols = int(grid[1]), int(grid[2])
    pieces = _pieces(transcript, rows, cols)
    return Puzzle(rows, cols, names, pieces, tiles_of(transcript.solution, names))


def tiles_of(state: Sequence[Any], names: Sequence[str]) -> tuple[Tile, ...] | None:
    """Read a state as a model writes it, names or [name, angle] pairs, as tiles.

    Args:
        state: The state, or any value given as an answer.
        names: Names of the pieces.

    Returns:
        The tiles, or None if they are not every piece exactly once.
    """
    if not names:
        return None
    numbers = {name: piece for piece, name in enumerate(names)}
    tiles: list[Tile] = []
    for entry in state:
        pair = cast(Sequence[object], entry) if isinstance(entry, list | tuple) else (entry, 0)
        name, given = pair if len(pair) == 2 else (None, 0)
        angle = read_whole(given)
        if not isinstance(name, str) or name not in numbers or angle is None or angle % 90:
            return None
        tiles.append(Tile(numbers[name], angle % 360))
    return tuple(tiles) if sorted(tile.piece for tile in tiles) == list(range(len(names))) else None


def answer_tiles(turn: Turn, puzzle: Puzzle, *, rotations: bool) -> tuple[Tile, ...] | None:
    """Return the board that a turn gave as its answer, or None if it gave none or no whole board."""
    if turn.primitives != ("Answer",):
        return None
    span = answer_span(turn.text)
    if span is None:
        return None
    try:
        answer = read_answer(turn.text[slice(*span)], puzzle.names, rotations=rotations)
    except ActionError:
        return None
    state = answer.order if answer.turns is None else list(zip(answer.order, answer.turns, strict=True))
    return tiles_of(state, puzzle.names)


class PieceReader:
    """Recognition of images that are boards made of given pieces, pixel by pixel."""

    def __init__(self, puzzle: Puzzle) -> None:
        """Prepare for a puzzle; without pieces nothing is recognised."""
        self._puzzle = puzzle
        self._tiles: dict[bytes, list[Tile]] = {}
        for piece, image in enumerate(puzzle.pieces):
            angles = (0, 90, 180, 270) if image.shape[0] == image.shape[1] else (0, 180)
            for angle in angles:
                key = np.ascontiguousarray(np.rot90(image, -angle // 90)).tobytes()
                self._tiles.setdefault(key, []).append(Tile(piece, angle))

    def read(self, image: Image, expected: Sequence[Tile] | None = None) -> BoardImage | None:
        """Return the board that an image shows, or None if it is not exactly a board.

        Args:
            image: The image.
            expected: The tiles to prefer where pieces look the same.
        """
        puzzle = self._puzzle
        if not puzzle.pieces:
            return None
        height, width = puzzle.pieces[0].shape[:2]
        gap_y, gap_x = _gap(image.shape[0], puzzle.rows, height), _gap(image.shape[1], puzzle.cols, width)
        if gap_y is None or gap_x is None or image.shape[2] != puzzle.pieces[0].shape[2]:
            return None
        rest = np.ones(image.shape[:2], np.bool_)
        tiles: list[Tile] = []
        for row in range(puzzle.rows):
            for col in range(puzzle.cols):
                y, x = row * (height + gap_y), col * (width + gap_x)
                cell = image[y : y + height, x : x + width]
                fitting = self._tiles.get(np.ascontiguousarray(cell).tobytes())
                if fitting is None:
                    return None
                hint = expected[len(tiles)] if expected else fitting[0]
                tiles.append(hint if hint in fitting else fitting[0])
                rest[y : y + height, x : x + width] = False
        if bool(rest.any()) and not bool((image[rest] == WHITE).all()):
            return None
        return BoardImage(tuple(tiles), (gap_x, gap_y))


def _gap(length: int, count: int, side: int) -> int | None:
    """Return the pixels between ``count`` pieces that together have a length, or None if they do not fit."""
    rest = length - count * side
    if count == 1 or rest < 0:
        return 0 if rest == 0 else None
    return rest // (count - 1) if rest % (count - 1) == 0 else None


def _pieces(transcript: Transcript, rows: int, cols: int) -> tuple[NDArray[np.uint8], ...]:
    """Find the pieces among the images of the prompt, or cut them from the first board."""
    images, count = transcript.prompt_images, rows * cols
    if transcript.task.get("initial_view") != "board":
        same = len({image.shape for image in images[:count]}) == 1
        return images[:count] if len(images) >= count and same else ()
    size: object = transcript.task.get("piece_size")
    sides = cast(Sequence[object], size) if isinstance(size, list | tuple) else ()
    if not images or len(sides) != 2 or not all(is_whole(side, MAX_SIDE_PIXELS) for side in sides):
        return ()
    height, width = cast(tuple[int, int], sides)
    gap_y, gap_x = _gap(images[0].shape[0], rows, height), _gap(images[0].shape[1], cols, width)
    if gap_y is None or gap_x is None:
        return ()
    return tuple(
        images[0][y : y + height, x : x + width]
        for y in range(0, rows * (height + gap_y), height + gap_y)
        for x in range(0, cols * (width + gap_x), width + gap_x)
    )
