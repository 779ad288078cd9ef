"""What an expert knows of a puzzle: its solution, and what the pieces' borders really show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agile_gym.coldstart.colours import name_colour
from agile_gym.errors import ConfigurationError
from agile_gym.policies.edge_costs import edge_costs
from agile_gym.policies.edge_solver import arrange
from agile_gym.puzzle.board import piece_numbers
from agile_gym.puzzle.looks import kinds_of, looks_of

__all__ = ["SOURCES", "Joint", "Knowledge", "Side", "joints_of", "know_puzzle"]

SOURCES = ("oracle", "edges")
"""Where an expert's knowledge comes from: the environment's ``info["solution"]``, or the solver of `EdgePolicy`."""
Side = Literal["right", "below"]

CLEAR_FIT = 2.0
"""Up to this cost, two neighbours fit clearly: each is likely (over 1 in 3) the other's neighbour, of all pieces."""
CLEAR_MISFIT = 5.0
"""From this cost, two pieces that are no neighbours clearly do not fit."""
STRIP = 0.06
"""Depth of a border whose colour is named, as a share of the piece's side."""
FEW = 4
"""Below so many pieces, borders are also judged against those of the pieces turned by 180 degrees."""

_Costs = NDArray[np.float64]


class Joint(NamedTuple):
    """Two pieces side by side.

    Attributes:
        first: The left or upper piece.
        side: Where the other one is, seen from it.
        second: The right or lower piece.
    """

    first: int
    side: Side
    second: int


def joints_of(order: Sequence[int], rows: int, cols: int) -> list[Joint]:
    """List the joints of a board, row by row: that to the right of each place, then that below it."""
    joints: list[Joint] = []
    for place, piece in enumerate(order):
        if place % cols < cols - 1:
            joints.append(Joint(piece, "right", order[place + 1]))
        if place < (rows - 1) * cols:
            joints.append(Joint(piece, "below", order[place + cols]))
    return joints


@dataclass(frozen=True)
class Knowledge:
    """What an expert knows.

    Attributes:
        rows: Number of rows.
        cols: Number of columns.
        goal: The piece at each place of the solved board.
        turns: Degrees by which each piece (not place) must be turned clockwise to be upright.
        right: Costs (N, N) of the upright pieces as left and right neighbours; see `edge_costs`.
        below: Costs (N, N) of the upright pieces as upper and lower neighbours.
        pieces: (N, h, w, 3) uint8, the upright pieces.
        kinds: A number for each piece; pieces that look alike have the same.
    """

    rows: int
    cols: int
    goal: tuple[int, ...]
    turns: tuple[int, ...]
    right: _Costs
    below: _Costs
    pieces: NDArray[np.uint8]
    kinds: tuple[int, ...]

    def kinds_at(self, order: Sequence[int]) -> tuple[int, ...]:
        """Return what each place of a board looks like."""
        return tuple(self.kinds[piece] for piece in order)

    def neighbours(self, piece: int) -> list[Joint]:
        """Return the joints of a piece in the solved board."""
        return [joint for joint in joints_of(self.goal, self.rows, self.cols) if piece in (joint.first, joint.second)]

    def fits(self, joint: Joint) -> bool:
        """Tell whether two pieces, or two that look like them, are neighbours in the solved board, in this way."""
        return (self.kinds[joint.first], joint.side, self.kinds[joint.second]) in self._fitting

    @cached_property
    def _fitting(self) -> frozenset[tuple[int, Side, int]]:
        joints = joints_of(self.goal, self.rows, self.cols)
        return frozenset((self.kinds[first], side, self.kinds[second]) for first, side, second in joints)

    def is_clear(self, joint: Joint) -> bool:
        """Tell whether the borders show clearly whether two pieces fit: what is measured agrees with what is true."""
        table = self.right if joint.side == "right" else self.below
        cost = float(table[joint.first, joint.second])
        return cost <= CLEAR_FIT if self.fits(joint) else cost >= CLEAR_MISFIT

    def colours(self, joint: Joint) -> tuple[str, str] | None:
        """Return the colour of each of the two borders that meet, or None if one of them has no single colour."""
        first, second = self.pieces[joint.first], self.pieces[joint.second]
        if joint.side == "below":
            first, second = first.swapaxes(0, 1), second.swapaxes(0, 1)
        depth = max(1, round(STRIP * first.shape[1]))
        before, after = name_colour(first[:, -depth:]), name_colour(second[:, :depth])
        return None if before is None or after is None else (before, after)


def know_puzzle(
    info: dict[str, Any], pieces: NDArray[np.uint8], rows: int, cols: int, source: str = "oracle"
) -> Knowledge:
    """Find out about a puzzle.

    Args:
        info: The first ``info`` of an episode.
        pieces: (N, h, w, 3) uint8, the pieces as they are shown, in the order of their names.
        rows: Number of rows.
        cols: Number of columns.
        source: One of `SOURCES`.

    Returns:
        The knowledge. From ``"edges"`` it may be wrong.

    Raises:
        ConfigurationError: If the environment does not tell its solution, or the solver cannot be used.
    """
    count = rows * cols
    if source == "edges":
        if info["task"].rotations:
            raise ConfigurationError(
                "The solver knows puzzles of upright pieces only: make the environment without rotations, or use "
                "knowledge='oracle'."
            )
        right, below = _measure(pieces)
        goal = arrange(right, below, rows, cols)
        return Knowledge(rows, cols, goal, (0,) * count, right, below, pieces, _kinds(pieces))
    if "solution" not in info:
        raise ConfigurationError(
            "The expert needs the solution: make the environment with reveal=True, or use knowledge='edges'."
        )
    numbers = piece_numbers(count)
    solution: list[Any] = info["solution"]
    rotated: bool = info["task"].rotations
    goal = tuple(numbers[entry[0] if rotated else entry] for entry in solution)
    turns = [0] * count
    if rotated:
        for piece, entry in zip(goal, solution, strict=True):
            turns[piece] = int(entry[1])
    upright = np.stack([np.rot90(piece, -turn // 90) for piece, turn in zip(pieces, turns, strict=True)])
    return Knowledge(rows, cols, goal, tuple(turns), *_measure(upright), upright, _kinds(upright))


def _kinds(upright: NDArray[np.uint8]) -> tuple[int, ...]:
    looks = looks_of(list(upright))
    return tuple(range(len(upright))) if looks is None else kinds_of(looks)


def _measure(pieces: NDArray[np.uint8]) -> tuple[_Costs, _Costs]:
    """Return the costs of all pairs; where there are few pieces, further candidates for each border are made."""
    count = len(pieces)
    if count >= FEW:
        return edge_costs(list(pieces))
    right, below = edge_costs([*pieces, *pieces[:, ::-1, ::-1]])
    return right[:count, :count], below[:count, :count]
