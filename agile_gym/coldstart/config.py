"""Settings of a cold start, checked, and the attempts that follow from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np

from agile_gym.coldstart.expert import MISTAKES, cells_of, check_turns
from agile_gym.coldstart.filters import Quotas
from agile_gym.coldstart.knowledge import FACTORS, zoom_factors
from agile_gym.coldstart.steps import LOOKS, Cell, check_looks, expert_cells
from agile_gym.envs.contract import env_name, make_env, probe_env
from agile_gym.envs.jigsaw.config import JigsawConfig, JigsawRules, resolve
from agile_gym.envs.jigsaw.env import JigsawVisionEnv, open_source
from agile_gym.errors import ConfigurationError, check_fields, is_number, is_whole, require, require_seed
from agile_gym.evaluation.plan import EnvironmentEntry, EvaluationPlan, SuiteEntry, Task, grid_name
from agile_gym.evaluation.run import PreparedPlan
from agile_gym.images.opening import ImagesLike
from agile_gym.puzzle.board import allowed_levels, count_permutations

__all__ = ["EXPERT", "ColdStartConfig", "attempts_of", "prepare"]

EXPERT = "expert"
"""Name of the teacher that plays from the solution, `ExpertPolicy`."""
_EXPERT_MAKER = "agile_gym.coldstart:ExpertPolicy"
MAX_COUNT = 1_000_000
MAX_TURNS = 1000
AGILE_TURNS = (4, 8)
ATTEMPTS_EACH = 10
"""Attempts for each episode wanted, unless a limit is given."""
_SET_HERE = {
    "grid": "grid (--grid)",
    "level": "level (--level)",
    "images": "images (--images)",
    "split": "split (--split)",
    "reveal": "nothing: a teacher may have the solution",
}


@dataclass(frozen=True)
class ColdStartConfig:
    """The settings of a cold start.

    Attributes:
        count: Number of episodes to make.
        teacher: ``"expert"``, which plays the jigsaw only, or the name of a policy, as
            `agile_gym.policies.make_policy` reads it.
        teacher_options: Options of the teacher; of the expert, those of `ExpertPolicy` but ``turns``. ``style`` is
            ``"short"`` where the prompt is short, unless given.
        grid: A grid such as ``"2x3"``, or a list of several, which get equal shares.
        level: Number of pieces that start in their place; as for the environment.
        turns: Smallest and largest number of turns, the answer included; 4 to 8 by default, as AGILE's, and any number
            in another environment than the jigsaw.
        balance: Balance of the episodes: ``"both"`` over numbers of turns and kinds of closer looks, ``"turns"``,
            ``"looks"``, or ``"none"``.
        looks: Kinds of closer looks that may occur: one or more of ``"board"`` (none), ``"crop"``, ``"zoom"`` and
            ``"both"``.
        images: Source of the photographs; as for `JigsawConfig`.
        split: ``"train"``, or None for all images, where none of them are for tests.
        seed: Seed of puzzles and episodes, 0 to `agile_gym.errors.MAX_SEED`.
        options: Further options of the environment. ``crop`` is ``"random"`` and ``max_turns`` the largest number of
            turns unless given.
        distinct_texts: True if the same text is kept once only; None means so for a jigsaw, unless the prompt is short,
            when texts are too short to differ.
        allow_errors: True if episodes with a turn that was an error are kept; of the expert, those with planned ones.
        max_attempts: Number of episodes that are played at most; None means 10 for each one wanted.
        env: Another environment than the jigsaw, as `agile_gym.envs.contract.find_env` reads it. Then ``grid``,
            ``level``, ``looks`` and ``split`` do not count, and episodes are balanced over turns at most.
    """

    count: int = 1600
    teacher: str = EXPERT
    teacher_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    grid: Any = 2
    level: int | str | Sequence[int] | None = 0
    turns: int | Sequence[int] | None = None
    balance: str = "both"
    looks: str | Sequence[str] = LOOKS
    images: ImagesLike = None
    split: str | None = "train"
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    distinct_texts: bool | None = None
    allow_errors: bool = False
    max_attempts: int | None = None
    env: str | None = None

    def __post_init__(self) -> None:
        """Check the settings without opening anything.

        Raises:
            ConfigurationError: If a setting is not allowed.
        """
        check_fields(self)
        require(is_whole(self.count, MAX_COUNT), "count", self.count, f"at least 1, up to {MAX_COUNT:,}")
        most = self.max_attempts
        require(most is None or is_whole(most, 1000 * MAX_COUNT), "max_attempts", most, "at least 1, or None")
        if self.split not in ("train", None):
            raise ConfigurationError(
                f"split={self.split!r} is not allowed: a cold start is made from training images only. Give 'train', "
                "or None if all images are for training."
            )
        object.__setattr__(self, "seed", require_seed(self.seed))
        if self.turns is not None:
            low, high = check_turns(self.turns)
        else:
            low, high = AGILE_TURNS if self.env is None else (1, MAX_TURNS)
        object.__setattr__(self, "turns", (low, high))
        object.__setattr__(self, "looks", check_looks(self.looks))
        if self.env is not None:
            self._check_other(self.env)
            return
        object.__setattr__(self, "grid", self._grids())
        for name in self.options:
            if name in _SET_HERE:
                raise ConfigurationError(f"The option {name!r} is set by a cold start itself: use {_SET_HERE[name]}.")
        limit = self.options.get("max_turns", high)
        if is_number(limit, -math.inf, math.inf) and limit < high:  # of another type: for `JigsawConfig` to refuse
            raise ConfigurationError(
                f"max_turns={self.options['max_turns']!r} is fewer than the {high} turns that episodes may have; "
                "give turns (--turns) that fit."
            )
        for name in ("turns", "looks"):
            if self.is_expert and name in self.teacher_options:
                raise ConfigurationError(f"The expert's {name} are those of the cold start: give {name} (--{name}).")
        if self.is_expert and self.teacher_options.get("moves") == "single" and self.balance in ("both", "turns"):
            raise ConfigurationError(
                f"balance={self.balance!r}: with moves='single' the puzzle sets the number of turns. Give balance "
                "(--balance) 'none' or 'looks'."
            )
        if self.is_expert and self.teacher_options.get("slips") and not self.allow_errors:
            raise ConfigurationError(
                "slips: the expert is to make errors, and episodes with errors are not kept. Set allow_errors "
                "(--allow-errors), too."
            )

    def _check_other(self, env: str) -> None:
        """Check the settings for another environment than the jigsaw, and put its name where the grid stands."""
        if self.is_expert:
            raise ConfigurationError(
                f"The expert plays the jigsaw only: give a teacher (--teacher) that plays {env}, such as "
                "'module:Class' or 'api:MODEL'."
            )
        object.__setattr__(self, "grid", (env_name(env),))
        if self.balance in ("both", "looks"):
            object.__setattr__(self, "balance", "none")

    def _grids(self) -> tuple[str, ...]:
        given: Any = self.grid
        several = isinstance(given, Sequence) and not isinstance(given, str)
        items: list[Any] = [given]
        if several and not (len(self.grid) == 2 and all(isinstance(side, int) for side in self.grid)):
            items = list(self.grid)
        grids = tuple(dict.fromkeys(grid_name(grid) for grid in items))
        if not grids:
            raise ConfigurationError("A cold start needs at least one grid, such as 2x2.")
        return grids

    @property
    def grids(self) -> tuple[str, ...]:
        """The grids, each once; of another environment, its name."""
        return self.grid

    @property
    def is_expert(self) -> bool:
        """Return whether the teacher is the expert."""
        return self.teacher == EXPERT

    @property
    def turn_range(self) -> tuple[int, int]:
        """Smallest and largest number of turns."""
        low, high = cast("tuple[int, int]", self.turns)
        return low, high

    @property
    def limit(self) -> int:
        """Largest number of episodes that are played."""
        return ATTEMPTS_EACH * self.count if self.max_attempts is None else self.max_attempts

    @property
    def wants_distinct_texts(self) -> bool:
        """Return whether the same text is kept once only."""
        if self.distinct_texts is None:
            return self.env is None and self.options.get("prompt") != "short"
        return self.distinct_texts

    def policy_call(self) -> tuple[str, dict[str, Any]]:
        """Return name and options of the policy, for `agile_gym.policies.make_policy`."""
        if not self.is_expert:
            return self.teacher, dict(self.teacher_options)
        style = "short" if self.options.get("prompt") == "short" else "full"
        given = {"turns": self.turn_range, "looks": self.looks}
        return _EXPERT_MAKER, {"style": style, **self.teacher_options, **given}

    def to_json(self) -> dict[str, Any]:
        """Return the settings that fix the episodes, as plain values; any other value becomes its ``repr``."""
        settings = asdict(self)
        del settings["max_attempts"]
        if self.env is None:
            del settings["env"]
        return {key: _plain(value) for key, value in settings.items()}


def _plain(value: Any) -> Any:  # noqa: ANN401 -- any value
    given = value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in given.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(entry) for entry in given]
    return given if given is None or isinstance(given, bool | int | float | str) else repr(given)[:200]


def prepare(config: ColdStartConfig) -> tuple[PreparedPlan, Quotas]:
    """Open the photographs and check everything that does not need the teacher.

    Args:
        config: The settings.

    Returns:
        The means to play, and the episodes wanted.

    Raises:
        ConfigurationError: If an option is not allowed.
        ImageError: If no photographs are found.
    """
    name, policy_options = config.policy_call()
    if config.env is not None:
        options = dict(config.options) if config.images is None else {**config.options, "images": config.images}
        probe_env(config.env, options)
        (grid,) = config.grids
        low, high = config.turn_range
        cells = {grid: [Cell(turns, looks) for turns in range(low, high + 1) for looks in LOOKS]}
        plan = EvaluationPlan(name, [EnvironmentEntry(config.env)], seed=config.seed, policy_options=policy_options)
        makers = {grid: partial(make_env, config.env, options)}
        return PreparedPlan(plan, None, makers), Quotas(config.count, config.grids, cells, config.balance)
    return _prepare_jigsaw(config, name, policy_options)


def _prepare_jigsaw(
    config: ColdStartConfig, name: str, policy_options: Mapping[str, Any]
) -> tuple[PreparedPlan, Quotas]:
    options: dict[str, Any] = {"crop": "random", "max_turns": config.turn_range[1], **config.options}
    shared = JigsawConfig.from_options({"images": config.images, "split": config.split, **options})
    source = open_source(shared)
    makers = {
        grid: partial(
            JigsawVisionEnv,
            **{**options, "grid": grid, "level": config.level, "images": source, "split": None, "reveal": True},
        )
        for grid in config.grids
    }
    cells: dict[str, Sequence[Cell]] = {}
    entries: list[SuiteEntry] = []
    for grid, make in makers.items():
        make().close()  # its mistakes show now
        rules = resolve(JigsawConfig.from_options(make.keywords))
        cells[grid] = _cells(config, rules)
        entries.append(SuiteEntry(grid, rules.levels, 1))
    images = config.images if isinstance(config.images, str) else None
    plan = EvaluationPlan(name, entries, seed=config.seed, images=images, policy_options=policy_options)
    return PreparedPlan(plan, source, makers), Quotas(config.count, config.grids, cells, config.balance)


def _cells(config: ColdStartConfig, rules: JigsawRules) -> list[Cell]:
    """Return the kinds of episode of a grid: of the expert, those that it can play."""
    layout, looks = rules.layout, check_looks(config.looks)
    if layout is None:
        factors = list(FACTORS) if rules.rows > 1 and rules.cols > 1 else []
    else:
        factors = zoom_factors(layout.piece_height, layout.piece_width, rules.canvas)
    if not config.is_expert:
        return expert_cells(config.turn_range, zoomable=bool(factors), looks=looks)
    mistakes = config.teacher_options.get("mistakes", MISTAKES)
    return cells_of(config.turn_range, rules.rows * rules.cols, factors, mistakes, looks)


def attempts_of(config: ColdStartConfig, start: int) -> Iterator[Task]:
    """Yield the attempts from number ``start`` on, up to the limit; each depends on its number and the settings alone.

    Grids take turns. Within a grid the seeds of the policy are consecutive, so that the expert goes through all kinds
    of episode.
    """
    first = int(np.random.SeedSequence([config.seed, len(config.grids)]).generate_state(1)[0])
    levels = {grid: ([0], [1.0]) if config.env else _level_weights(config, grid) for grid in config.grids}
    for number in range(start, config.limit):
        round_, place = divmod(number, len(config.grids))
        grid = config.grids[place]
        entropy = np.random.SeedSequence([config.seed, number])
        seed, draw = (int(word) for word in entropy.generate_state(2))
        rng = np.random.default_rng(draw)
        choices, weights = levels[grid]
        yield Task(grid, int(rng.choice(choices, p=weights)), number, 0, seed, first + round_)


def _level_weights(config: ColdStartConfig, grid: str) -> tuple[list[int], list[float]]:
    """Return the levels of a grid with their probabilities; None means any unsolved permutation, all equally likely."""
    rules = resolve(JigsawConfig(grid=grid, level=config.level, image_size=8000))
    count = rules.rows * rules.cols
    if rules.levels is not None:
        return list(rules.levels), [1 / len(rules.levels)] * len(rules.levels)
    levels = list(allowed_levels(count))
    weights = [count_permutations(count, level) for level in levels]
    total = sum(weights)
    return levels, [weight / total for weight in weights]
