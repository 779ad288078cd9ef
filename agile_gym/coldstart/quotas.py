"""Balance: how many episodes of each kind are wanted, and which are still missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agile_gym.coldstart.steps import LOOKS, Cell, Looks
from agile_gym.errors import ConfigurationError, did_you_mean
from agile_gym.rollout.transcript import Transcript

__all__ = ["BALANCES", "Kind", "Quotas", "kind_of", "share_out"]

BALANCES = ("both", "turns", "looks", "none")
"""What episodes are balanced over: numbers of turns and ways of looking, one of the two, or only grids."""


class Kind(NamedTuple):
    """What an episode is counted as.

    Attributes:
        grid: Such as ``"2x2"``.
        turns: Number of turns, the answer included.
        looks: How it looks closer.
    """

    grid: str
    turns: int
    looks: Looks


def kind_of(transcript: Transcript) -> Kind:
    """Return the kind of an episode, from what was carried out."""
    done = {primitive for turn in transcript.turns for primitive in turn.primitives}
    looks = LOOKS[("Crop" in done) + 2 * ("Zoom" in done)]
    return Kind(transcript.task["grid"], len(transcript.turns), looks)


def share_out(count: int, parts: int, shift: int = 0) -> list[int]:
    """Divide a number into parts that differ by at most 1; ``shift`` says which part gets one more first."""
    base, rest = divmod(count, parts)
    return [base + ((index - shift) % parts < rest) for index in range(parts)]


class Quotas:
    """How many episodes of each kind are wanted, and how many there are.

    Grids get equal shares; within a grid numbers of turns, and within these the ways of looking that there is room for.

    Attributes:
        wanted: Episodes wanted by key: a kind, with 0 turns or no way of looking where it is not balanced over these.
        found: Those that there are, by kind.
    """

    def __init__(self, count: int, grids: Sequence[str], cells: Mapping[str, Sequence[Cell]], balance: str) -> None:
        """Share out the episodes.

        Args:
            count: How many episodes are wanted.
            grids: The grids.
            cells: The kinds of episode that each grid has.
            balance: One of `BALANCES`.

        Raises:
            ConfigurationError: If the balance is unknown.
        """
        if balance not in BALANCES:
            raise ConfigurationError(f"balance={balance!r} is not allowed. {did_you_mean(balance, BALANCES)}")
        self._balance = balance
        self._allowed = {(grid, cell) for grid in grids for cell in cells[grid]}
        self.wanted: Counter[tuple[str, int, str]] = Counter()
        self.found: Counter[Kind] = Counter()
        for grid, part in zip(grids, share_out(count, len(grids)), strict=True):
            self._share_grid(grid, part, cells[grid])

    def _share_grid(self, grid: str, count: int, cells: Sequence[Cell]) -> None:
        if self._balance == "looks":
            ways = list(dict.fromkeys(cell.looks for cell in cells))
            for way, part in zip(ways, share_out(count, len(ways)), strict=True):
                self.wanted[grid, 0, way] = part
            return
        if self._balance == "none":
            self.wanted[grid, 0, ""] = count
            return
        numbers = sorted({cell.turns for cell in cells})
        for shift, (turns, part) in enumerate(zip(numbers, share_out(count, len(numbers)), strict=True)):
            ways = [cell.looks for cell in cells if cell.turns == turns] if self._balance == "both" else [""]
            for way, share in zip(ways, share_out(part, len(ways), shift), strict=True):
                self.wanted[grid, turns, way] = share

    def key_of(self, kind: Kind) -> tuple[str, int, str]:
        """Return what an episode of a kind counts for."""
        turns = kind.turns if self._balance in ("both", "turns") else 0
        return kind.grid, turns, kind.looks if self._balance in ("both", "looks") else ""

    def knows(self, kind: Kind) -> bool:
        """Tell whether a kind is one of those that are wanted at all."""
        return (kind.grid, Cell(kind.turns, kind.looks)) in self._allowed

    def missing(self, kind: Kind) -> bool:
        """Tell whether an episode of a kind is still missing."""
        key = self.key_of(kind)
        return self._count(key) < self.wanted[key]

    def add(self, kind: Kind) -> None:
        """Count an episode that is kept."""
        self.found[kind] += 1

    @property
    def total(self) -> int:
        """How many episodes are wanted."""
        return self.wanted.total()

    @property
    def complete(self) -> bool:
        """Whether there are as many as are wanted."""
        return self.found.total() >= self.total

    def short(self) -> dict[tuple[str, int, str], int]:
        """Return how many are missing, by key, where any are."""
        missing = {key: count - self._count(key) for key, count in self.wanted.items()}
        return {key: count for key, count in missing.items() if count > 0}

    def _count(self, key: tuple[str, int, str]) -> int:
        return sum(count for kind, count in self.found.items() if self.key_of(kind) == key)
