"""Permutations, levels, names and look-alike places of a jigsaw.

Pieces are numbered 0, 1, 2, ... in the order in which they are shown at the start and are named A, B, C, ...; places
are numbered row by row from the top left. ``home[k]`` is the place where piece ``k`` belongs. Level LN means that
exactly N pieces start in their place (AGILE, arXiv 2510.01304, section 4). Where pieces look alike (``looks``), a piece
is in its place wherever the board looks right, so that a board is solved if and only if it shows the right picture.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import ConfigurationError

__all__ = [
    "MAX_SIDE",
    "JigsawPuzzle",
    "Looks",
    "allowed_levels",
    "count_permutations",
    "kinds_of",
    "looks_of",
    "parse_grid",
    "parse_level",
    "piece_names",
    "piece_numbers",
    "sample_alike",
    "sample_permutation",
    "sample_puzzle",
]

Looks = tuple[tuple[int, ...], ...]
"""For each place, numbers for the pixels of its part of the picture upright and, where pieces are turned, after each
quarter turn clockwise. Equal numbers stand for equal pixels."""

_SAMPLES = 8
_MIXING = 8


def looks_of(cells: Sequence[NDArray[np.uint8]], *, rotations: bool = False) -> Looks | None:
    """Compare the parts of a picture, pixel for pixel.

    Args:
        cells: The part of each place, (h, w, 3) uint8, as it is shown but for labels.
        rotations: True if they may be turned; they are square then.

    Returns:
        Their numbers; None if no two look alike, however they are turned, and none looks the same when turned.
    """
    high, wide = cells[0].shape[:2]
    step_y, step_x = max(high // _SAMPLES, 1), max(wide // _SAMPLES, 1)
    known: dict[bytes, list[tuple[int, NDArray[np.uint8]]]] = {}
    count = 0

    def number_of(face: NDArray[np.uint8]) -> int:
        nonlocal count
        like = known.setdefault(face[::step_y, ::step_x].tobytes(), [])  # a few pixels distinguish nearly all
        for number, other in like:
            if np.array_equal(face, other):
                return number
        like.append((count, face))
        count += 1
        return count - 1

    quarters = range(4 if rotations else 1)
    looks = tuple(tuple(number_of(np.rot90(cell, -quarter)) for quarter in quarters) for cell in cells)
    return looks if count < len(cells) * len(quarters) else None


def kinds_of(looks: Looks) -> tuple[int, ...]:
    """Return for each place a number that equals that of another place if a piece of one can stand at the other."""
    return tuple(min(faces) for faces in looks)


def sample_alike(
    rng: np.random.Generator, kinds: Sequence[int], levels: Sequence[int] | None
) -> tuple[int, ...] | None:
    """Draw a starting permutation of a picture in which some places look alike.

    A piece counts as in its place where the board looks right. A level is drawn, uniformly among those of ``levels``
    that exist for this picture (or the nearest to one of them that does), then the places that look right, then a
    permutation of the other pieces that leaves none of them at a place that looks like its own.

    Args:
        rng: Source of randomness.
        kinds: Number of each place's look, see `kinds_of`.
        levels: Levels to draw from; None draws uniformly among the permutations whose board does not look solved.

    Returns:
        ``home``, as from `agile_gym.puzzle.sample_permutation`: pieces that look right are in their place by name
        as well. None if all places look alike.
    """
    count, sizes = len(kinds), Counter(kinds)
    if len(sizes) == 1:
        return None
    if levels is None:
        while True:
            home: list[int] = rng.permutation(count).tolist()
            if any(kinds[place] != kinds[piece] for piece, place in enumerate(home)):
                return _settled(home, kinds)
    exist = [level for level in range(count - 1) if _is_possible(count - level, sizes)]
    wanted = [level for level in levels if level in exist]
    if wanted:
        level = wanted[int(rng.integers(len(wanted)))]
    else:
        asked = levels[int(rng.integers(len(levels)))]
        level = min(exist, key=lambda other: abs(other - asked))
    return _mixed(rng, _moving(rng, kinds, count - level), kinds)


def _is_possible(moved: int, sizes: Counter[int]) -> bool:
    """Return whether some pieces can all be misplaced: no kind may make up more than half of them."""
    return sum(min(size, moved // 2) for size in sizes.values()) >= moved


def _moving(rng: np.random.Generator, kinds: Sequence[int], moved: int) -> list[int]:
    """Draw places whose pieces can all be misplaced."""
    moving: list[int] = []
    taken: Counter[int] = Counter()
    for place in rng.permutation(len(kinds)).tolist():
        if len(moving) < moved and taken[kinds[place]] < moved // 2:
            taken[kinds[place]] += 1
            moving.append(place)
    return moving


def _mixed(rng: np.random.Generator, moving: Sequence[int], kinds: Sequence[int]) -> tuple[int, ...]:
    """Misplace the pieces of some places: shift them past those of their kind, then exchange pieces where possible."""
    moved = len(moving)
    ordered = sorted(moving, key=lambda place: kinds[place])
    shift = max(Counter(kinds[place] for place in moving).values())
    shift = moved - shift if rng.integers(2) else shift
    home = list(range(len(kinds)))
    for index, place in enumerate(ordered):
        home[place] = ordered[(index + shift) % moved]
    pairs: list[list[int]] = rng.integers(moved, size=(_MIXING * moved, 2)).tolist()
    for a, b in ((moving[first], moving[second]) for first, second in pairs):
        if kinds[home[a]] != kinds[b] and kinds[home[b]] != kinds[a]:
            home[a], home[b] = home[b], home[a]
    return tuple(home)


def _settled(home: list[int], kinds: Sequence[int]) -> tuple[int, ...]:
    """Give each piece that looks right its own place, in exchange with the piece of its kind that belongs there."""
    for piece, place in enumerate(home):
        if place != piece and kinds[place] == kinds[piece]:
            other = home.index(piece)
            home[other], home[piece] = place, piece
    return tuple(home)


MAX_SIDE = 10
"""Largest number of rows or columns of a grid."""

Grid = int | str | Sequence[int]
Level = int | str | Sequence[int] | None


@lru_cache(maxsize=128)
def piece_names(count: int) -> tuple[str, ...]:
    """Return the names of the first ``count`` pieces: A ... Z, then AA, AB, ... as the columns of a spreadsheet."""
    names: list[str] = []
    for number in range(1, count + 1):
        letters = ""
        while number:
            number, digit = divmod(number - 1, 26)
            letters = chr(ord("A") + digit) + letters
        names.append(letters)
    return tuple(names)


@lru_cache(maxsize=128)
def piece_numbers(count: int) -> Mapping[str, int]:
    """Return the number of each of the first ``count`` pieces, by name."""
    return MappingProxyType({name: piece for piece, name in enumerate(piece_names(count))})


def parse_grid(grid: Grid) -> tuple[int, int]:
    """Read a grid given as ``3`` (3 x 3), ``(2, 3)`` (rows, columns) or ``"2x3"``.

    Args:
        grid: The grid in any of these forms.

    Returns:
        Rows and columns.

    Raises:
        ConfigurationError: If it is none of these, or not between 1x2 and 10x10.
    """
    rows = cols = 0
    if isinstance(grid, str):
        match = re.fullmatch(r"(\d{1,3})(?:x(\d{1,3}))?", grid.strip().lower())
        if match:
            rows = int(match[1])
            cols = int(match[2] or match[1])
    elif isinstance(grid, int) and not isinstance(grid, bool):
        rows = cols = grid
    elif isinstance(grid, Sequence) and len(grid) == 2 and all(isinstance(side, int | np.integer) for side in grid):
        rows, cols = int(grid[0]), int(grid[1])
    if not (1 <= rows <= MAX_SIDE and 1 <= cols <= MAX_SIDE and rows * cols >= 2):
        raise ConfigurationError(
            f"grid={grid!r} is not a grid. Give a side such as 3, (rows, columns) such as (2, 3), or '2x3', "
            f"with 1 to {MAX_SIDE} rows and columns and at least 2 pieces."
        )
    return rows, cols


def allowed_levels(pieces: int) -> range:
    """Return the levels that exist for a number of pieces: L0 ... L(n-2), since n-1 right pieces leave no wrong one."""
    return range(max(pieces - 1, 0))


def parse_level(level: Level, pieces: int) -> tuple[int, ...] | None:
    """Read a level given as ``1``, ``"L1"``, a range, a list of levels, ``"0-2"``, ``"all"`` or ``None``.

    Args:
        level: The level in any of these forms. ``None`` means any unsolved permutation, all equally likely.
        pieces: Number of pieces of the puzzle.

    Returns:
        The levels to draw from, ascending, or ``None``.

    Raises:
        ConfigurationError: If it is none of these forms, or a level that cannot exist for this many pieces.
    """
    if level is None:
        return None
    allowed = allowed_levels(pieces)
    wanted: list[int] = []
    if isinstance(level, str):
        text = level.strip().lower()
        match = re.fullmatch(r"l?(\d{1,3})(?:\s*-\s*l?(\d{1,3}))?", text)
        if text == "all":
            wanted = list(allowed)
        elif match:
            wanted = list(range(int(match[1]), int(match[2] or match[1]) + 1))
    elif isinstance(level, int | np.integer) and not isinstance(level, bool):
        wanted = [int(level)]
    elif isinstance(level, Sequence) and all(isinstance(entry, int | np.integer) for entry in level):
        wanted = sorted({int(entry) for entry in level})
    if not wanted or any(entry not in allowed for entry in wanted):
        raise ConfigurationError(
            f"level={level!r} does not exist for {pieces} pieces. Allowed: {', '.join(f'L{n}' for n in allowed)} "
            "(exactly that many pieces start in their place), as a number, a list, a range, '0-2', 'all', or None for "
            "any unsolved permutation."
        )
    return tuple(wanted)


def count_permutations(pieces: int, level: int) -> int:
    """Return the number of permutations of ``pieces`` with exactly ``level`` fixed points (rencontres numbers)."""
    moved = pieces - level
    derangements = sum((-1) ** k * math.factorial(moved) // math.factorial(k) for k in range(moved + 1))
    return math.comb(pieces, level) * derangements


def sample_permutation(rng: np.random.Generator, pieces: int, levels: Sequence[int] | None = None) -> tuple[int, ...]:
    """Draw a starting permutation.

    Args:
        rng: Source of randomness.
        pieces: Number of pieces, at least 2.
        levels: Levels to draw from: first a level, uniformly, then a permutation, uniformly among all that have exactly
            that many fixed points. ``None`` draws uniformly among all permutations but the solved one.

    Returns:
        ``home``: the place where each piece belongs, in the order of the pieces.
    """
    if levels is None:
        while True:
            permutation = rng.permutation(pieces)
            if np.any(permutation != np.arange(pieces)):
                return tuple(permutation.tolist())
    level = levels[int(rng.integers(len(levels)))]
    moving = np.sort(rng.permutation(pieces)[level:])
    places = np.arange(len(moving))
    while True:  # a random permutation has no fixed point with probability of about 1/e, at least 1/3 for 3 and more
        shuffled = rng.permutation(len(moving))
        if not np.any(shuffled == places):
            break
    home = np.arange(pieces)
    home[moving] = moving[shuffled]
    return tuple(home.tolist())


@dataclass(frozen=True, slots=True)
class JigsawPuzzle:
    """One shuffled jigsaw.

    Attributes:
        rows: Number of rows, 1 to 10.
        cols: Number of columns, 1 to 10.
        home: The place where each piece belongs; piece ``k`` is shown at place ``k`` at the start.
        turns: Degrees, clockwise, by which each piece must be turned to be upright: 0, 90, 180 or 270.
        looks: Look of each place in the right picture, see `agile_gym.puzzle.board`; None if no two places look
            alike, or if pieces are distinguished by their names alone.
    """

    rows: int
    cols: int
    home: tuple[int, ...]
    turns: tuple[int, ...]
    looks: Looks | None = None

    def __post_init__(self) -> None:
        """Check the permutation.

        Raises:
            ConfigurationError: If ``home`` is not a permutation, or ``turns`` is not one right angle a piece.
        """
        count = self.rows * self.cols
        if sorted(self.home) != list(range(count)):
            raise ConfigurationError(
                f"permutation={list(self.home)} is not a permutation of the places 0 to {count - 1} of a "
                f"{self.rows}x{self.cols} grid; give each place once."
            )
        if len(self.turns) != count or any(turn not in (0, 90, 180, 270) for turn in self.turns):
            raise ConfigurationError(
                f"turns={list(self.turns)} must hold 0, 90, 180 or 270 for each of {count} pieces."
            )

    @property
    def solution(self) -> tuple[int, ...]:
        """The pieces, row by row, that restore the image."""
        order = [0] * len(self.home)
        for piece, place in enumerate(self.home):
            order[place] = piece
        return tuple(order)

    @property
    def level(self) -> int:
        """Number of pieces that are in their place at the start, whatever their orientation."""
        kinds = range(len(self.home)) if self.looks is None else kinds_of(self.looks)
        return sum(kinds[place] == kinds[piece] for piece, place in enumerate(self.home))

    def pieces_right(self, order: Sequence[int], turns: Sequence[int]) -> int:
        """Count the pieces that stand in their place and upright: with ``looks``, the places that look right.

        Args:
            order: The piece at each place, row by row; numbers that name no piece count as wrong.
            turns: Degrees by which each piece (not place) has been turned clockwise.

        Returns:
            The number of right pieces, each counted once; 0 if ``order`` has the wrong length.
        """
        if len(order) != len(self.home):
            return 0
        right: set[int] = set()
        for place, piece in enumerate(order):
            if 0 <= piece < len(self.home) and self._looks_right(piece, turns[piece] - self.turns[piece], place):
                right.add(piece)
        return len(right)

    def _looks_right(self, piece: int, angle: int, place: int) -> bool:
        """Return whether a piece, so many degrees from upright, looks right at a place."""
        if self.looks is None:
            return self.home[piece] == place and angle % 360 == 0
        quarter, rest = divmod(angle % 360, 90)
        faces = self.looks[self.home[piece]]
        return rest == 0 and quarter < len(faces) and faces[quarter] == self.looks[place][0]


def sample_puzzle(
    rng: np.random.Generator,
    rows: int,
    cols: int,
    levels: Sequence[int] | None = None,
    *,
    rotations: bool = False,
    looks: Looks | None = None,
) -> JigsawPuzzle:
    """Draw a puzzle: a permutation of the given level and, with ``rotations``, a right angle for each piece.

    Args:
        rng: Source of randomness.
        rows: Number of rows.
        cols: Number of columns.
        levels: Levels to draw from; see `sample_permutation`.
        rotations: True if pieces are turned.
        looks: Look of each place. Where no two places look alike, the permutation is the same as without; else
            see `agile_gym.puzzle.board.sample_alike`.
    """
    count = rows * cols
    kinds = range(count) if looks is None else kinds_of(looks)
    home = sample_alike(rng, kinds, levels) if len(set(kinds)) < count else None
    if home is None:
        home = sample_permutation(rng, count, levels)
    turns = tuple((rng.integers(4, size=count) * 90).tolist()) if rotations else (0,) * count
    return JigsawPuzzle(rows, cols, home, turns, looks)
