"""What an evaluation plays: a list of puzzles that follows from a few settings, each with a seed of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from agile_gym.errors import ConfigurationError
from agile_gym.puzzle.board import parse_grid, parse_level

__all__ = ["EvaluationPlan", "Task", "grid_name"]


_SET_HERE = {
    "grid": "grids (--grid)",
    "level": "levels (--levels)",
    "images": "images (--images)",
    "render_mode": "a loop of your own",
}


class Task(NamedTuple):
    """One puzzle of an evaluation.

    Attributes:
        grid: Such as ``"3x3"``.
        level: How many pieces start in their place.
        episode: Number within grid and level, from 0.
        seed: Seed of the environment.
    """

    grid: str
    level: int
    episode: int
    seed: int


def grid_name(grid: int | str | Sequence[int]) -> str:
    """Return a grid in the form ``"2x3"``."""
    rows, cols = parse_grid(grid)
    return f"{rows}x{cols}"


@dataclass(frozen=True)
class EvaluationPlan:
    """Settings that fix every puzzle of an evaluation, but for the photographs.

    Attributes:
        policy: Name of the policy, for the record.
        grids: Grids, such as ``("2x2", "3x3")``.
        levels: Levels to be played in every grid that has them; None for all.
        episodes: Puzzles a level, at least 1.
        seed: Seed of all puzzles, at least 0.
        images: What the photographs come from, for the record and for the environment.
        options: Further options of the environment.
    """

    policy: str
    grids: tuple[str, ...] = ("2x2", "3x3")
    levels: tuple[int, ...] | None = None
    episodes: int = 300
    seed: int = 0
    images: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigurationError: If one is not allowed.
        """
        if self.episodes < 1 or self.seed < 0 or not self.grids:
            raise ConfigurationError(
                f"grids={list(self.grids)}, episodes={self.episodes}, seed={self.seed}: at least one grid, one episode "
                "and a seed of 0 or more are needed."
            )
        for name, flag in _SET_HERE.items():
            if name in self.options:
                raise ConfigurationError(f"The option {name!r} is set by an evaluation itself: use {flag}.")
        every = [level for grid in self.grids for level in self.levels_of(grid)]
        for level in self.levels or ():
            if level not in every:
                rows, cols = parse_grid(max(self.grids, key=lambda grid: math.prod(parse_grid(grid))))
                parse_level(level, rows * cols)  # raises, and says which there are

    def levels_of(self, grid: str) -> tuple[int, ...]:
        """Return the levels to be played in a grid."""
        rows, cols = parse_grid(grid)
        allowed = parse_level("all", rows * cols) or ()
        if self.levels is None:
            return allowed
        return tuple(level for level in allowed if level in self.levels)

    def tasks(self) -> Iterator[Task]:
        """Yield every puzzle, grid by grid and level by level; a puzzle's seed depends on nothing but itself."""
        for grid in self.grids:
            rows, cols = parse_grid(grid)
            for level in self.levels_of(grid):
                for episode in range(self.episodes):
                    entropy = np.random.SeedSequence([self.seed, rows, cols, level, episode])
                    yield Task(grid, level, episode, int(entropy.generate_state(1)[0]))

    def to_json(self) -> dict[str, Any]:
        """Return the settings in JSON's types."""
        return asdict(self)
