"""Start of an episode: reset options, the puzzle that is drawn from a seed, and the first text.

It follows from the options alone: nothing in it, the worked example included, depends on photograph or solution.
"""

from __future__ import annotations

import json
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.dialects import Dialect, write_answer
from agile_gym.actions.primitives import Answer, Crop, Observe, Primitive, RotatePiece, Swap
from agile_gym.actions.prompt import IMAGE_MARK, PromptTemplate, state_text
from agile_gym.actions.workspace import Workspace
from agile_gym.envs.jigsaw.config import JigsawRules
from agile_gym.envs.turns import given_options
from agile_gym.errors import ConfigurationError, ImageError, plain
from agile_gym.images.decode import decode_image
from agile_gym.images.formats import size_problem
from agile_gym.images.items import hash_pixels
from agile_gym.images.sources import ImageSource
from agile_gym.puzzle.board import JigsawPuzzle, Looks, kinds_of, looks_of, parse_level, sample_puzzle
from agile_gym.puzzle.pixels import BoardLayout, Window, choose_window, cut_cells, cut_pieces, draw_labels, resize

__all__ = [
    "EqualPiecesWarning",
    "Photo",
    "ResetOptions",
    "Start",
    "check_reset_options",
    "draw_start",
    "task_text",
    "worked_example",
]

_ROTATIONS = (
    "The pieces were also turned by 0, 90, 180 or 270 degrees. Each entry of state is a pair [piece, angle]; angle is "
    "how far you have turned the piece clockwise."
)
_ROTATIONS_BRIEF = "turned"


def task_text(
    template: PromptTemplate, workspace: Workspace, dialect: Dialect, max_turns: int, captions: Sequence[str]
) -> str:
    """Return the text of the first observation.

    Args:
        template: Template of the text.
        workspace: The episode at its start.
        dialect: Dialect of the turns.
        max_turns: Number of turns.
        captions: Caption of each image shown, such as ``"Image A"``.

    Returns:
        The text, with one image mark a caption.
    """
    names = workspace.names
    rotations = _ROTATIONS_BRIEF if template.brief else _ROTATIONS
    fields: dict[str, Callable[[], str]] = {
        "rows": lambda: str(workspace.layout.rows),
        "cols": lambda: str(workspace.layout.cols),
        "pieces": lambda: str(len(names)),
        "names": lambda: f"{names[0]} and {names[1]}" if len(names) == 2 else f"{names[0]} to {names[-1]}",
        "state": lambda: state_text(workspace),
        "rotations": lambda: rotations if workspace.rotations else "",
        "turns": lambda: "1 turn" if max_turns == 1 else f"{max_turns} turns",
        "action": lambda: f"<{dialect.action_tag}>...</{dialect.action_tag}>",
        "functions": lambda: dialect.instructions(workspace),
        "example": lambda: "\n".join(line for turn in worked_example(workspace, dialect, max_turns) for line in turn),
        "answer": lambda: json.dumps(workspace.state_list(_swapped(workspace), _turned(workspace))),
        "images": lambda: "\n".join([f"{caption}: {IMAGE_MARK}" for caption in captions]),
    }
    return template.render(fields)


def worked_example(workspace: Workspace, dialect: Dialect, max_turns: int) -> list[tuple[str, ...]]:
    """Write a few turns that the environment can carry out, in any grid.

    The first and the last piece change places, which is a fixed choice: it has nothing to do with the solution.

    Args:
        workspace: The episode at its start.
        dialect: Dialect of the turns. A turn that it cannot write is left out.
        max_turns: Number of turns; a longer example is cut, and ends with its answer all the same.

    Returns:
        For each turn its text and, but for the answer, a line on the image shown then.
    """
    first, last = workspace.names[0], workspace.names[-1]
    move: list[Primitive] = [Swap(0, len(workspace.names) - 1), Observe()]
    look: list[Primitive] = [Crop("observation_image_1", (0.0, 0.0, 1.0, 0.5))]
    change = "swap them and look"
    if workspace.rotations:
        move.insert(1, RotatePiece(0, 90))  # the last piece, which lies there now
        change = f"swap them, turn {last} upright, and look"
    answer = Answer(
        tuple(workspace.names[piece] for piece in _swapped(workspace)),
        tuple(_turned(workspace)[piece] for piece in _swapped(workspace)) if workspace.rotations else None,
    )
    moves: list[tuple[list[Primitive], str, str]] = [
        (move, f"Perhaps {first} and {last} belong in each other's place: {change}.", "the board"),
        (look, "Look closer at the upper half of the board.", "the upper half of the board"),
    ]
    turns: list[tuple[str, ...]] = []
    for primitives, think, shown in moves[: max_turns - 1]:
        try:
            text = dialect.write(primitives, workspace, think)
        except (ValueError, NotImplementedError):
            break
        turns.append((text, f"(You are shown {shown}.)"))
    turns.append((write_answer(answer, "The borders fit everywhere."),))
    return turns


def _swapped(workspace: Workspace) -> tuple[int, ...]:
    """Return the piece at each place after the worked example."""
    order = workspace.order
    return (order[-1], *order[1:-1], order[0])


def _turned(workspace: Workspace) -> tuple[int, ...]:
    """Return the turn of each piece after the worked example."""
    return (*workspace.turns[:-1], 90) if workspace.rotations else workspace.turns


_NAMES = ("image", "level", "permutation", "turns")
_MAX_REDRAWS = 100
_MAX_PHOTOS = 8
_MAX_PARTS = 16
"""Photographs, and parts of each, that are drawn in search of one whose pieces all differ."""
_WARNED: set[tuple[str, int, int]] = set()


class EqualPiecesWarning(UserWarning):
    """A photograph gives pieces that look alike."""


class Photo(NamedTuple):
    """A photograph.

    Attributes:
        pixels: (H, W, 3) uint8.
        image_id: Its content hash; "" for one that was given to a reset.
        name: Name of it in messages.
    """

    pixels: NDArray[np.uint8]
    image_id: str
    name: str


@dataclass(frozen=True)
class ResetOptions:
    """Values that a reset fixes instead of drawing them.

    Attributes:
        photo: The photograph, or None.
        levels: Levels to draw from, or None for any unsolved permutation.
        home: The permutation, or None.
        turns: The degrees by which pieces must be turned, or None.
    """

    photo: Photo | None
    levels: tuple[int, ...] | None
    home: tuple[int, ...] | None
    turns: tuple[int, ...] | None


@dataclass(frozen=True)
class Start:
    """Start of an episode.

    Attributes:
        layout: Sizes of the board.
        puzzle: The permutation to be undone.
        pieces: (pieces, piece_height, piece_width, 3) uint8, read-only.
        reference: (H, W, 3) uint8, the whole picture, read-only; None if it is not shown.
        image_id: SHA-256 of the photograph; "" for an array given to the reset.
    """

    layout: BoardLayout
    puzzle: JigsawPuzzle
    pieces: NDArray[np.uint8]
    reference: NDArray[np.uint8] | None
    image_id: str


def check_reset_options(rules: JigsawRules, source: ImageSource, options: Mapping[str, Any] | None) -> ResetOptions:
    """Check the options of a reset before anything is drawn or changed.

    Args:
        rules: The checked options of the environment.
        source: Its photographs.
        options: ``image`` (an index or an array), ``level``, ``permutation`` (the place where each piece belongs) and
            ``turns`` (degrees for each piece).

    Returns:
        The values that they fix.

    Raises:
        ConfigurationError: For an unknown or unsuitable option.
    """
    given = given_options(options, _NAMES)
    count = rules.rows * rules.cols
    home = _whole_numbers("permutation", given["permutation"]) if "permutation" in given else None
    turns = _whole_numbers("turns", given["turns"]) if "turns" in given else None
    if turns is not None and any(turns) and not rules.config.rotations:
        raise ConfigurationError("turns can be given only to an environment made with rotations=True.")
    JigsawPuzzle(rules.rows, rules.cols, home or tuple(range(count)), turns or (0,) * count)
    levels = parse_level(plain(given["level"]), count) if "level" in given else rules.levels
    photo = _given_photo(rules, source, given["image"]) if given.get("image") is not None else None
    return ResetOptions(photo, levels, home, turns)


def draw_start(rules: JigsawRules, source: ImageSource, rng: np.random.Generator, given: ResetOptions) -> Start:
    """Draw a puzzle: photograph, crop and permutation, all from one stream of random numbers.

    Where pieces look alike, another part of the photograph is drawn, and at last another photograph.

    Args:
        rules: The checked options of the environment.
        source: Its photographs.
        rng: Source of all randomness.
        given: Values that are fixed.

    Returns:
        The puzzle.

    Raises:
        ImageError: If no photograph can be read.
    """
    config = rules.config
    cut = _draw_cut(rules, source, rng, given)
    drawn = sample_puzzle(rng, rules.rows, rules.cols, given.levels, rotations=config.rotations, looks=cut.looks)
    puzzle = JigsawPuzzle(rules.rows, rules.cols, given.home or drawn.home, given.turns or drawn.turns, cut.looks)
    pieces = cut_pieces(cut.cells, puzzle)
    if config.labels:
        draw_labels(pieces)
    pieces.setflags(write=False)
    reference = _reference(cut.photo.pixels, cut.window, cut.layout) if config.reference_image else None
    return Start(cut.layout, puzzle, pieces, reference, cut.photo.image_id)


def _given_photo(rules: JigsawRules, source: ImageSource, image: object) -> Photo:
    if isinstance(image, int | np.integer) and not isinstance(image, bool):
        index = int(cast(int, image))
        if not 0 <= index < len(source):
            raise ConfigurationError(f"image={index} does not exist; there are images 0 to {len(source) - 1}.")
        return _load(rules, source, index)
    pixels = decode_image(image)  # pyright: ignore[reportArgumentType] -- it checks its argument itself
    _check_size(rules, pixels, "given")
    return Photo(pixels, "", "given")


def _load(rules: JigsawRules, source: ImageSource, index: int) -> Photo:
    pixels, name = source.load(index), repr(source.name(index))
    _check_size(rules, pixels, name)
    return Photo(pixels, source.content_hash(index), name)


def _check_size(rules: JigsawRules, pixels: NDArray[np.uint8], name: str) -> None:
    height, width = pixels.shape[:2]
    problem = size_problem((width, height), height * width, rules.smallest_photo)
    if problem is not None:
        raise ImageError(f"The image {name} cannot be cut into {rules.rows}x{rules.cols} pieces: {problem}.")


def _drawn_photo(rules: JigsawRules, source: ImageSource, rng: np.random.Generator) -> Photo:
    problem: ImageError | None = None
    for _ in range(_MAX_REDRAWS):
        index = int(rng.integers(len(source)))
        try:
            return _load(rules, source, index)
        except ImageError as error:
            problem = error
    raise ImageError(f"None of {_MAX_REDRAWS} images drawn could be read. The last: {problem}")


@dataclass(frozen=True, slots=True)
class _Cut:
    """A part of a photograph: its window, the cells of its solved board, and the numbers of those alike."""

    photo: Photo
    layout: BoardLayout
    window: Window
    cells: list[NDArray[np.uint8]]
    looks: Looks | None

    @property
    def kinds(self) -> int:
        """The number of pieces that can be distinguished."""
        return len(self.cells) if self.looks is None else len(set(kinds_of(self.looks)))


def _draw_cut(rules: JigsawRules, source: ImageSource, rng: np.random.Generator, given: ResetOptions) -> _Cut:
    """Draw a part of a photograph whose pieces all differ, or else one of those drawn that have the most kinds."""
    best: _Cut | None = None
    tried: set[str] = set()
    for _ in range(_MAX_PHOTOS if given.photo is None and len(source) > 1 else 1):
        photo = given.photo or _drawn_photo(rules, source, rng)
        if photo.image_id in tried:
            continue
        tried.add(photo.image_id)
        parts = 1 if rules.crop_scale is None else _MAX_PARTS
        for _ in range(parts):
            cut = _cut(rules, photo, rng)
            if cut.kinds == len(cut.cells):
                return cut
            if best is None or cut.kinds > best.kinds:
                best = cut
        _warn_of_equal_pieces(rules, photo, parts)
    return cast(_Cut, best)


def _cut(rules: JigsawRules, photo: Photo, rng: np.random.Generator) -> _Cut:
    size = (photo.pixels.shape[0], photo.pixels.shape[1])
    layout = rules.layout_for(size)
    aspect = (layout.piece_width * rules.cols) / (layout.piece_height * rules.rows)
    window = choose_window(rng, size, aspect, rules.crop_scale)
    cells = cut_cells(photo.pixels, window, layout, erode=rules.config.erode)
    by_picture = rules.config.equal_pieces == "picture"
    return _Cut(photo, layout, window, cells, looks_of(cells, rotations=rules.config.rotations) if by_picture else None)


def _warn_of_equal_pieces(rules: JigsawRules, photo: Photo, parts: int) -> None:
    """Warn of a photograph, once for each grid."""
    key = (photo.image_id or hash_pixels(photo.pixels), rules.rows, rules.cols)
    if key in _WARNED:
        return
    _WARNED.add(key)
    grid = f"{rules.rows}x{rules.cols}"
    what = "it has" if parts == 1 else f"{parts} parts drawn of it have"
    warnings.warn(
        f"The image {photo.name} makes no good {grid} puzzle: {what} pieces that look alike. They count as right at "
        "each other's places, and some levels may not exist. Leave it out, or cut it with another grid or crop.",
        EqualPiecesWarning,
        stacklevel=2,
    )


def _reference(photo: NDArray[np.uint8], window: Window, layout: BoardLayout) -> NDArray[np.uint8]:
    top, left, rows, cols = window
    part = photo[top : top + rows, left : left + cols]
    reference = resize(part, layout.rows * layout.piece_height, layout.cols * layout.piece_width)
    reference.setflags(write=False)
    return reference


def _whole_numbers(name: str, values: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(operator.index(value) for value in values)
    except TypeError:
        raise ConfigurationError(f"{name}={values!r} is not a list of whole numbers, one a piece.") from None
