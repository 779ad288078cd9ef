"""Groups of episodes of one puzzle each, drawn from tasks with a curriculum."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from agile_gym.envs.contract import JIGSAW, env_name
from agile_gym.errors import ConfigurationError, did_you_mean, is_number
from agile_gym.policies.base import Policy
from agile_gym.rollout.play import EnvironmentPool, EpisodeSpec, play_episodes
from agile_gym.transcripts.record import ImageTable, Transcript

__all__ = ["Curriculum", "Group", "GroupPlay", "GroupSpec", "TaskMix", "make_group", "play_groups"]

_EXAMPLE = """{"grid": "2x2", "level": 0, "weight": 1}"""
_NAME = re.compile(r"(?!\d+x\d+$)[A-Za-z0-9._-]{1,64}")
_OTHER = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class TaskMix:
    """A kind of puzzle, or another environment, and its weight.

    Attributes:
        grid: As in `JigsawConfig`, such as ``"2x2"``; None for that of the environment.
        level: Pieces in place at the start; as in `JigsawConfig`, or None for that of the environment.
        weight: Its weight among the tasks; one of weight 0 is not trained on.
        options: Further options of the environment; of another environment than the training's, all of them.
        env: Another environment than the training's, as `agile_gym.envs.contract.find_env` reads it; None for that.
        images: Photographs to train on, as the environment takes them; None for those of the training, or, of another
            environment, its own.
        test_images: Photographs to test on. None for the test split of ``images``, or, where it is not the jigsaw that
            is played, for ``images``.
        name: Name in tables and figures: letters, digits, ``.``, ``_`` and ``-``. By default it is made of the other
            settings, such as ``"2x2-L0"``.
    """

    grid: str | None = None
    level: Any = None
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    env: str | None = None
    images: Any = None
    test_images: Any = None
    name: str = ""

    def __post_init__(self) -> None:
        """Check the settings, and make a name unless there is one.

        Raises:
            ConfigurationError: If a value is not allowed.
        """
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        if not isinstance(given["options"], Mapping):
            raise ConfigurationError(f"tasks: options={self.options!r:.100} must be a mapping of options.")
        if not is_number(self.weight, 0, 1e9):
            raise ConfigurationError(f"tasks: weight={self.weight!r} must be a number from 0 to 1e9.")
        if not (self.env is None or (isinstance(given["env"], str) and self.env)):
            raise ConfigurationError(f"tasks: env={self.env!r:.100} must be a text: 'module:Class', or an id.")
        if not self.name:
            object.__setattr__(self, "name", self._made_name())
        elif not (isinstance(given["name"], str) and _NAME.fullmatch(self.name)):
            raise ConfigurationError(
                f"tasks: name={self.name!r:.100} is not allowed; give up to 64 letters, digits, '.', '_' and '-', and "
                "no grid such as '2x2'."
            )

    def _made_name(self) -> str:
        given = "".join(f"-{key}={value}" for key, value in self.options.items())
        board = f"{self.grid or 'default'}{'' if self.level is None else f'-L{self.level}'}"
        if self.env is None:
            return f"{board}{given}"
        board = "" if self.grid is self.level is None else f"-{board}"
        return _OTHER.sub("-", f"{env_name(self.env)}{board}{given}")[:100]

    @classmethod
    def from_mappings(cls, entries: Sequence[TaskMix | Mapping[str, Any]]) -> tuple[TaskMix, ...]:
        """Make tasks of mappings.

        Raises:
            ConfigurationError: If a key or value is not allowed, or two tasks have the same name; there must be one
                task of a weight above 0.
        """
        tasks: dict[str, TaskMix] = {}
        if isinstance(entries, str | Mapping) or not isinstance(entries, Sequence):
            raise ConfigurationError(
                f"tasks={entries!r:.100} is not allowed; give a list of mappings such as {_EXAMPLE}."
            )
        keys = [field.name for field in fields(cls)]
        for entry in entries:
            if isinstance(entry, Mapping):
                for key in entry:
                    if key not in keys:
                        raise ConfigurationError(f"tasks: a task has no key {key!r}. {did_you_mean(key, keys)}")
                entry = cls(**entry)
            if not isinstance(entry, TaskMix):
                raise ConfigurationError(f"tasks: {entry!r:.100} is not a task; give a mapping such as {_EXAMPLE}.")
            if entry.name in tasks:
                raise ConfigurationError(f"tasks: two tasks have the name {entry.name!r}; give each a name of its own.")
            tasks[entry.name] = entry
        if not any(task.weight > 0 for task in tasks.values()):
            raise ConfigurationError("tasks: give at least one task with a weight above 0.")
        return tuple(tasks.values())

    def is_separate(self, env: object) -> bool:
        """Return whether it has an environment or photographs of its own.

        Args:
            env: The training's environment.
        """
        return self._has_env(env) or self.images is not None or self.test_images is not None

    def _has_env(self, env: object) -> bool:
        return self.env is not None and self.env != env

    def resolve(self, env: Any, options: Mapping[str, Any], *, test: bool) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401 -- any environment of RLlib
        """Return the environment that plays it, and its options.

        Args:
            env: The training's environment.
            options: Options of that; another environment does not get them.
            test: True to test; photographs of its own are then the others.
        """
        chosen, found = (self.env, {}) if self._has_env(env) else (env, dict(options))
        if self.is_separate(env):
            images = self.test_images if test and self.test_images is not None else self.images
            if chosen == JIGSAW:
                split = ("test" if test else "train") if self.test_images is None else None
                found |= {"images": images, "split": split}
            elif images is not None:
                found["images"] = images
        return chosen, found | self.env_options()

    def env_options(self) -> dict[str, Any]:
        """Return the options of its own, but for photographs."""
        options = {"grid": self.grid, "level": self.level}
        return {key: value for key, value in options.items() if value is not None} | dict(self.options)


@dataclass(frozen=True)
class GroupSpec:
    """A group: one puzzle, played several times.

    Attributes:
        index: Its number in the whole training; its draws follow from it.
        task: Index of its task.
        seed: Seed of the environment, which fixes photograph, crop and permutation.
        policy_seeds: One an episode.
    """

    index: int
    task: int
    seed: int
    policy_seeds: tuple[int, ...]


def make_group(index: int, *, seed: int, size: int, shares: Sequence[float], stream: int = 0) -> GroupSpec:
    """Draw a group.

    Args:
        index: Its number.
        seed: Seed of the training.
        size: Number of episodes.
        shares: Probability of each task.
        stream: Keeps the puzzles of training and evaluation apart.

    Returns:
        The group; it follows from the arguments alone.
    """
    words = np.random.SeedSequence([seed, stream, index]).generate_state(size + 2)
    edges: NDArray[np.float64] = np.cumsum(shares)
    task = int(np.count_nonzero(edges <= words[0] / 2**32 * sum(shares)))
    return GroupSpec(index, min(task, len(shares) - 1), int(words[1]), tuple(int(word) for word in words[2:]))


class Curriculum:
    """Curriculum that plays tasks more often the more of their groups have variance: only those have an advantage.

    Attributes:
        informative: For each task, the running fraction of groups with variance.
    """

    def __init__(self, tasks: Sequence[TaskMix], *, adaptive: bool, memory: float = 0.9, least: float = 0.1) -> None:
        """Begin with the weights of the tasks.

        Args:
            tasks: The tasks.
            adaptive: True if probabilities follow the variance of groups; else they follow the weights.
            memory: Weight of the former running fraction at each iteration.
            least: A task is never played less often than this fraction of its weight.
        """
        self._weights = np.array([task.weight for task in tasks], np.float64)
        self._adaptive, self._memory, self._least = adaptive, memory, least
        self.informative = np.ones(len(tasks))

    def shares(self) -> list[float]:
        """Return the probability of each task."""
        weights = self._weights * np.maximum(self.informative, self._least) if self._adaptive else self._weights
        return (weights / weights.sum()).tolist()

    def learn(self, tasks: Sequence[int], varied: Sequence[bool]) -> None:
        """Take note of groups.

        Args:
            tasks: The task of each group.
            varied: True for each group with variance.
        """
        for task in set(tasks):
            mine = [flag for number, flag in zip(tasks, varied, strict=True) if number == task]
            share = sum(mine) / len(mine)
            self.informative[task] = self._memory * self.informative[task] + (1 - self._memory) * share

    def get_state(self) -> list[float]:
        """Return the state: the running fractions."""
        return self.informative.tolist()

    def set_state(self, state: Sequence[float]) -> None:
        """Take over a state.

        Raises:
            ConfigurationError: If it is of another number of tasks.
        """
        if len(state) != len(self.informative):
            raise ConfigurationError(
                f"The curriculum of {len(state)} tasks does not fit {len(self.informative)} tasks."
            )
        self.informative = np.array(state, np.float64)


@dataclass(frozen=True, eq=False)
class Group:
    """A group that was played.

    Attributes:
        spec: The group's specification.
        episodes: Its episodes, in the order of the policy seeds.
        weights: Number of the weights that it was played with.
    """

    spec: GroupSpec
    episodes: tuple[Transcript, ...]
    weights: int = 0


@dataclass(frozen=True, eq=False)
class GroupPlay:
    """Result of playing groups.

    Attributes:
        groups: Those that were played to the end, in the order of the request.
        failures: For each of the others, its index and the error that its environment raised, or the reason that the
            policy gave for giving it up.
    """

    groups: tuple[Group, ...]
    failures: Mapping[int, str] = field(default_factory=dict[int, str])


def play_groups(
    policy: Policy,
    groups: Sequence[GroupSpec],
    makers: Mapping[int, Callable[[], gymnasium.Env[Any, Any]]] | EnvironmentPool,
    *,
    batch: int,
    weights: int = 0,
    keep_images: bool = True,
    policy_name: str = "policy",
) -> GroupPlay:
    """Play groups. An environment that raises costs its own group only.

    Episodes that show equal images share one array of each. An episode that the policy gives up counts as one that was
    not solved, unless nothing was written in any of its group: then the group has failed.

    Args:
        policy: Plays.
        groups: The groups, with different indices.
        makers: Factories of each task's environment, by the task's number; or a pool of environments.
        batch: Episodes that are played in one batch.
        weights: Number of the weights, for the record.
        keep_images: True if transcripts hold their images.
        policy_name: For the record.

    Returns:
        The groups, and failures.

    Raises:
        ConfigurationError: If the environment or the policy cannot be used at all.
    """
    specs = [
        EpisodeSpec(
            env=group.task,
            seed=group.seed,
            policy_seed=seed,
            name=f"{group.index}-{number}",
            keep_images=keep_images,
        )
        for group in groups
        for number, seed in enumerate(group.policy_seeds)
    ]
    owners = dict(zip((spec.name for spec in specs), (g for g in groups for _ in g.policy_seeds), strict=True))
    episodes: dict[int, dict[str | None, Transcript]] = {group.index: {} for group in groups}
    failures: dict[int, str] = {}
    table = ImageTable()

    def fail(spec: EpisodeSpec, error: Exception) -> None:
        failures[owners[spec.name].index] = f"{type(error).__name__}: {error}"[:500]

    for spec, transcript in play_episodes(
        policy, specs, makers, batch=min(batch, len(specs)) or 1, policy_name=policy_name, on_error=fail
    ):
        episodes[owners[spec.name].index][spec.name] = table.share(transcript)
    played: list[Group] = []
    for group in groups:
        if group.index in failures:
            continue
        mine = tuple(episodes[group.index][f"{group.index}-{number}"] for number in range(len(group.policy_seeds)))
        if all(len(episode.turns) == 1 and "given_up" in episode.details for episode in mine):
            given_up = mine[-1].details["given_up"]
            failures[group.index] = f"{given_up['kind']}: {given_up['reason']}"[:500]
        else:
            played.append(Group(group, mine, weights))
    return GroupPlay(tuple(played), failures)
