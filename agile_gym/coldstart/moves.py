"""Moves on a board as numbers: which swaps lead to the solution, and which lead away from it.

A board is an order: the piece at each place, row by row. The goal is the order of the solved board.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["Pair", "right_swap", "swap_places", "swaps_needed", "wrong_swaps"]

Pair = tuple[int, int]
"""Two places."""


def swap_places(order: Sequence[int], places: Pair) -> tuple[int, ...]:
    """Return a board with the pieces at two places exchanged."""
    changed = list(order)
    first, second = places
    changed[first], changed[second] = changed[second], changed[first]
    return tuple(changed)


def swaps_needed(order: Sequence[int], goal: Sequence[int]) -> int:
    """Return the least number of swaps that lead to the goal: the number of pieces less the number of cycles."""
    home = {piece: place for place, piece in enumerate(goal)}
    seen: set[int] = set()
    cycles = 0
    for start in range(len(order)):
        cycles += start not in seen
        place = start
        while place not in seen:
            seen.add(place)
            place = home[order[place]]
    return len(order) - cycles


def right_swap(rng: np.random.Generator, order: Sequence[int], goal: Sequence[int]) -> Pair:
    """Draw a swap that brings a piece home, so that one swap less is needed.

    Args:
        rng: Source of randomness.
        order: The board, which is not solved.
        goal: The solved board.

    Returns:
        The place where the piece lies, and the one where it belongs.
    """
    wrong = [place for place, piece in enumerate(order) if piece != goal[place]]
    target = wrong[int(rng.integers(len(wrong)))]
    return order.index(goal[target]), target


def wrong_swaps(order: Sequence[int], goal: Sequence[int]) -> list[Pair]:
    """List the swaps that somebody may try who is mistaken: neither piece comes home, and the board changes.

    Args:
        order: The board; pieces that look alike may have the same number.
        goal: The solved board, with the same numbers.

    Returns:
        Pairs of places, the lower first. Where there are swaps of two misplaced pieces, only these, else those of a
        misplaced piece with one that is in its place. Empty where every swap brings a piece home.
    """
    wrong = [place for place, piece in enumerate(order) if piece != goal[place]]
    for others in (wrong, range(len(order))):
        pairs = {(min(a, b), max(a, b)) for a in wrong for b in others if a != b}
        found = sorted((a, b) for a, b in pairs if order[a] not in (order[b], goal[b]) and order[b] != goal[a])
        if found:
            return found
    return []
