"""Which places of a picture look alike, so that their pieces may stand for each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Looks", "kinds_of", "looks_of", "sample_alike"]

Looks = tuple[tuple[int, ...], ...]
"""For each place, numbers for what its part of the picture looks like upright and, where pieces are turned, after each
quarter turn clockwise. Equal numbers stand for equal pixels."""

_SAMPLES = 8
_MIXING = 8


def looks_of(cells: Sequence[NDArray[np.uint8]], *, rotations: bool = False) -> Looks | None:
    """Compare the parts of a picture, pixel for pixel.

    Args:
        cells: The part of each place, (h, w, 3) uint8, as it is shown but for labels.
        rotations: Whether they may be turned; they are square then.

    Returns:
        What they look like; None if no two look alike, however they are turned, and none looks the same when turned.
    """
    high, wide = cells[0].shape[:2]
    step_y, step_x = max(high // _SAMPLES, 1), max(wide // _SAMPLES, 1)
    known: dict[bytes, list[tuple[int, NDArray[np.uint8]]]] = {}
    count = 0

    def number_of(face: NDArray[np.uint8]) -> int:
        nonlocal count
        like = known.setdefault(face[::step_y, ::step_x].tobytes(), [])  # a few pixels tell nearly all apart
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
        kinds: What each place looks like, see `kinds_of`.
        levels: Levels to draw from; None draws uniformly among the permutations whose board does not look solved.

    Returns:
        ``home``, as from `agile_gym.puzzle.board.sample_permutation`: pieces that look right are in their place by name
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
    """Tell whether some pieces can all be misplaced: no kind may make up more than half of them."""
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
    """Misplace the pieces of some places: shift them past those of their kind, then exchange what can be exchanged."""
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
