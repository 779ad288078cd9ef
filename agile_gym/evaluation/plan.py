"""Evaluation plans: lists of puzzles that follow from settings or from a suite, each with a seed of its own.

Of another environment than the jigsaw, a plan has episodes with seeds alone. Its name then stands where the grid does,
all levels are 0, and results are grouped by the labels that the environment gives. A plan can have both.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np

from agile_gym.envs.contract import env_name
from agile_gym.errors import ConfigurationError, is_whole, require, require_seed
from agile_gym.puzzle.board import parse_grid, parse_level

__all__ = [
    "EnvironmentEntry",
    "EvaluationPlan",
    "PuzzleKey",
    "SuiteEntry",
    "Task",
    "choose_entries",
    "grid_name",
    "names_result",
    "pieces_of",
]

DEFAULT_EPISODES = 300
"""Puzzles a level, as in the paper."""
MAX_EPISODES = 1_000_000
MAX_SAMPLES = 10_000

_SET_HERE = {
    "grid": "grids (--grid)",
    "level": "levels (--levels)",
    "images": "images (--images)",
    "render_mode": "a loop of your own",
}

PuzzleKey = tuple[str, int, int, int]
"""Grid, level, episode and sample: the name of an episode within a plan."""


class Task(NamedTuple):
    """One episode of an evaluation.

    Attributes:
        grid: Such as ``"3x3"``.
        level: Number of pieces that start in their place.
        episode: Number of the puzzle within grid and level, from 0.
        sample: Number of times that the puzzle was played before, from 0.
        seed: Seed of the environment; the same for all samples of a puzzle.
        policy_seed: Seed of the policy; another for each sample.
    """

    grid: str
    level: int
    episode: int
    sample: int
    seed: int
    policy_seed: int

    @property
    def key(self) -> PuzzleKey:
        """Its name within the plan."""
        return self.grid, self.level, self.episode, self.sample

    @property
    def name(self) -> str:
        """Its name in files, such as ``"3x3-L0-17"``; a second sample is ``"3x3-L0-17-s1"``."""
        level = f"-L{self.level}" if pieces_of(self.grid) else ""
        return f"{self.grid}{level}-{self.episode}" + (f"-s{self.sample}" if self.sample else "")


def grid_name(grid: int | str | Sequence[int]) -> str:
    """Return a grid in the form ``"2x3"``."""
    rows, cols = parse_grid(grid)
    return f"{rows}x{cols}"


_GRID = re.compile(r"(\d+)x(\d+)")


def pieces_of(grid: str) -> int:
    """Return the number of pieces of a grid such as ``"2x3"``; 0 for the name of another environment."""
    match = _GRID.fullmatch(grid)
    return int(match[1]) * int(match[2]) if match else 0


def names_result(grid: object, label: object) -> bool:
    """Return whether a result can be of this grid, if it has no label, or of this environment, if it has one."""
    if label is None:
        return isinstance(grid, str) and bool(pieces_of(grid))
    return isinstance(label, str) and isinstance(grid, str) and not pieces_of(grid) and env_name(grid) == grid != ""


def _all_levels(grid: str) -> tuple[int, ...]:
    rows, cols = parse_grid(grid)
    return parse_level("all", rows * cols) or ()


@dataclass(frozen=True)
class SuiteEntry:
    """Puzzles of one grid.

    Attributes:
        grid: Such as ``"3x3"``; any argument of `grid_name` is accepted.
        levels: The levels, or None for all that the grid has.
        episodes: Puzzles a level, at least 1.
    """

    grid: str
    levels: tuple[int, ...] | None = None
    episodes: int = DEFAULT_EPISODES

    def __post_init__(self) -> None:
        """Check the settings, and fill in the levels.

        Raises:
            ConfigurationError: If one is not allowed.
        """
        grid = grid_name(self.grid)
        rows, cols = parse_grid(grid)
        object.__setattr__(self, "grid", grid)
        levels = _all_levels(grid) if self.levels is None else tuple(self.levels)
        if not levels:
            raise ConfigurationError(f"levels={self.levels!r} of the grid {grid}: give at least one, or None for all.")
        for level in levels:
            if not isinstance(level, int) or isinstance(level, bool):
                raise ConfigurationError(f"level {level!r} of the grid {grid} is not a whole number.")
            parse_level(level, rows * cols)  # raises, and names those that there are
        object.__setattr__(self, "levels", levels)
        if not is_whole(self.episodes, MAX_EPISODES):
            raise ConfigurationError(
                f"episodes={self.episodes!r} of the grid {grid} is not allowed; give at least one, up to "
                f"{MAX_EPISODES:,}, a level."
            )


@dataclass(frozen=True)
class EnvironmentEntry:
    """Episodes of another environment than the jigsaw, all of one kind.

    Attributes:
        env: Its id, or ``"module:Class"``; see `agile_gym.envs.contract.find_env`.
        episodes: Number of episodes, at least 1.
        name: Name that stands where the grid of a jigsaw does; the environment's short name by default.
        options: Its options, photographs among them; None for those of the plan.
        numbered: True for an environment whose ``reset`` takes the number of the episode, as ``options["episode"]``.
    """

    env: str
    episodes: int = DEFAULT_EPISODES
    name: str = ""
    options: Mapping[str, Any] | None = None
    numbered: bool = False
    levels: ClassVar[tuple[int, ...]] = (0,)

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigurationError: If the number of episodes is not allowed.
        """
        if not is_whole(self.episodes, MAX_EPISODES):
            raise ConfigurationError(
                f"episodes={self.episodes!r} of the environment {self.env} is not allowed; give at least one, up to "
                f"{MAX_EPISODES:,}."
            )

    @property
    def grid(self) -> str:
        """Its name, which stands where the grid of a jigsaw does."""
        return self.name or env_name(self.env)

    def to_json(self) -> dict[str, Any]:
        """Return the settings in JSON's types, if the options are of these types."""
        values = asdict(self)
        return {key: value for key, value in values.items() if value not in ("", None, False)}


def choose_entries(
    grids: Iterable[int | str | Sequence[int]],
    levels: Iterable[int] | None = None,
    episodes: int = DEFAULT_EPISODES,
) -> tuple[SuiteEntry, ...]:
    """List the same levels of several grids, of which not every one need have them all.

    Args:
        grids: Such as ``[2, "3x3"]``.
        levels: To be played in every grid that has them; None for all.
        episodes: Puzzles a level.

    Returns:
        One entry for each grid that has one of the levels.

    Raises:
        ConfigurationError: If there are no grids, or none of them has one of the levels.
    """
    names = tuple(dict.fromkeys(grid_name(grid) for grid in grids))
    if not names:
        raise ConfigurationError("An evaluation needs at least one grid, such as 2x2.")
    entries = tuple(SuiteEntry(name, None, episodes) for name in names)
    return entries if levels is None else restrict_levels(entries, levels)


def restrict_levels(entries: Sequence[SuiteEntry], levels: Iterable[int]) -> tuple[SuiteEntry, ...]:
    """Keep only some levels of a list of entries.

    Raises:
        ConfigurationError: If a level is in none of them.
    """
    wanted = tuple(dict.fromkeys(levels))
    there = {level for entry in entries for level in entry.levels or ()}
    missing = [level for level in wanted if level not in there]
    if missing or not wanted:
        allowed = ", ".join(f"L{level}" for level in sorted(there))
        which = " ".join(entry.grid for entry in entries)
        raise ConfigurationError(f"levels={list(wanted)}: {which} cannot be played so. Allowed: {allowed}.")
    kept = [(entry, tuple(level for level in entry.levels or () if level in wanted)) for entry in entries]
    return tuple(SuiteEntry(entry.grid, chosen, entry.episodes) for entry, chosen in kept if chosen)


@dataclass(frozen=True)
class EvaluationPlan:
    """Settings that fix every puzzle of an evaluation, but for the photographs.

    Attributes:
        policy: Name of the policy, for the record; where worker processes play, they make it by this name.
        entries: The puzzles; by default the paper's: 300 at every level of 2x2 and 3x3. Of another environment than
            the jigsaw, an `EnvironmentEntry`, which has ``options`` of its own unless it is the only entry.
        samples: Number of times that each puzzle is played, at least 1, each time with another seed of the policy.
        seed: Seed of all puzzles, 0 to `agile_gym.errors.MAX_SEED`.
        images: Source of the photographs, for the record and for the environment.
        options: Further options of the environment.
        policy_options: Options of the policy, for the record and for worker processes.
        blank_looks: True for episodes whose images of feedback are uniform grey; see `agile_gym.policies.blank_look`.
    """

    policy: str
    entries: Sequence[SuiteEntry | EnvironmentEntry] = (SuiteEntry("2x2"), SuiteEntry("3x3"))
    samples: int = 1
    seed: int = 0
    images: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    policy_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    blank_looks: bool = False

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigurationError: If one is not allowed.
        """
        object.__setattr__(self, "entries", tuple(self.entries))
        object.__setattr__(self, "seed", require_seed(self.seed))
        require(isinstance(cast(object, self.blank_looks), bool), "blank_looks", self.blank_looks, "True or False")
        require(bool(self.entries), "entries", self.entries, "at least one grid")
        require(is_whole(self.samples, MAX_SAMPLES), "samples", self.samples, f"a number from 1 to {MAX_SAMPLES:,}")
        if len(self.entries) > 1 and any(isinstance(e, EnvironmentEntry) and e.options is None for e in self.entries):
            raise ConfigurationError(
                "An evaluation of another environment than the jigsaw has one entry, its own, or each environment has "
                "options of its own."
            )
        for name, flag in _SET_HERE.items():
            if name in self.options and self.plays_jigsaw:
                raise ConfigurationError(f"The option {name!r} is set by an evaluation itself: use {flag}.")
        columns = Counter((entry.grid, level) for entry in self.entries for level in entry.levels or ())
        twice = [f"{grid} L{level}" for (grid, level), count in columns.items() if count > 1]
        if twice:
            raise ConfigurationError(f"{', '.join(twice)}: named more than once; each level is played once.")

    @property
    def env(self) -> str | None:
        """The environment whose options are those of the plan, or None for the jigsaw."""
        alone = (entry for entry in self.entries if isinstance(entry, EnvironmentEntry) and entry.options is None)
        return next((entry.env for entry in alone), None)

    @property
    def plays_jigsaw(self) -> bool:
        """True if there are puzzles by grid and level."""
        return any(isinstance(entry, SuiteEntry) for entry in self.entries)

    @property
    def grids(self) -> tuple[str, ...]:
        """The grids, each once, in order; of another environment, its name."""
        return tuple(dict.fromkeys(entry.grid for entry in self.entries))

    def __len__(self) -> int:
        """Return the number of episodes."""
        return self.samples * sum(entry.episodes * len(entry.levels or ()) for entry in self.entries)

    def __contains__(self, key: PuzzleKey) -> bool:
        """Return whether an episode of this name is played."""
        grid, level, episode, sample = key
        return 0 <= sample < self.samples and any(
            entry.grid == grid and level in (entry.levels or ()) and 0 <= episode < entry.episodes
            for entry in self.entries
        )

    def tasks(self) -> Iterator[Task]:
        """Yield every episode, grid by grid and level by level; its seeds depend on nothing but itself."""
        for entry in self.entries:
            size = parse_grid(entry.grid) if isinstance(entry, SuiteEntry) else (0, 0)
            for level in entry.levels or ():
                for episode in range(entry.episodes):
                    entropy = [self.seed, *size, level, episode]
                    seed = _draw(entropy, ())
                    for sample in range(self.samples):
                        yield Task(entry.grid, level, episode, sample, seed, _draw(entropy, (sample,)))

    def to_json(self) -> dict[str, Any]:
        """Return the settings in JSON's types, if the options are of these types."""
        settings = asdict(self)
        settings["entries"] = [
            {"grid": entry.grid, "levels": list(entry.levels or ()), "episodes": entry.episodes}
            if isinstance(entry, SuiteEntry)
            else entry.to_json()
            for entry in self.entries
        ]
        if not self.blank_looks:  # as before there was this setting
            del settings["blank_looks"]
        return settings


def _draw(entropy: Sequence[int], spawn_key: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(entropy, spawn_key=spawn_key).generate_state(1)[0])
