"""Plays the groups that a learner learns from: every episode of a group is the same puzzle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from agile_gym.learner.tasks import GroupSpec
from agile_gym.policies.base import Policy
from agile_gym.rollout.play import EpisodeSpec, play_episodes
from agile_gym.rollout.pool import EnvironmentPool
from agile_gym.rollout.transcript import Transcript

__all__ = ["Group", "GroupPlay", "play_groups"]


@dataclass(frozen=True, eq=False)
class Group:
    """A group that was played.

    Attributes:
        spec: What was to be played.
        episodes: Its episodes, in the order of the policy seeds.
        weights: Number of the weights that it was played with.
    """

    spec: GroupSpec
    episodes: tuple[Transcript, ...]
    weights: int = 0


@dataclass(frozen=True, eq=False)
class GroupPlay:
    """What came of some groups.

    Attributes:
        groups: Those that were played to the end, in the order they were asked for.
        failures: For each of the others, its index and the error that its environment raised, or why the policy gave
            it up.
    """

    groups: tuple[Group, ...]
    failures: Mapping[int, str] = field(default_factory=dict[int, str])


def play_groups(
    policy: Policy,
    groups: Sequence[GroupSpec],
    makers: Mapping[str, Callable[[], gymnasium.Env[Any, Any]]] | EnvironmentPool,
    *,
    batch: int,
    weights: int = 0,
    keep_images: bool = True,
    policy_name: str = "policy",
) -> GroupPlay:
    """Play groups. An environment that raises costs its own group only.

    An episode that the policy gives up counts as one that was not solved, unless nothing was written in any of its
    group: then the group has failed.

    Args:
        policy: Plays.
        groups: The groups, with different indices.
        makers: What makes the environment of each task, by the task's number as a text; or a pool of environments.
        batch: Episodes that are played side by side.
        weights: Number of the weights, for the record.
        keep_images: Whether transcripts hold their images.
        policy_name: For the record.

    Returns:
        The groups, and failures.

    Raises:
        ConfigurationError: If the environment or the policy cannot be used at all.
    """
    specs = [
        EpisodeSpec(
            env=str(group.task),
            seed=group.seed,
            policy_seed=seed,
            name=f"{group.index}-{number}",
            keep_images=keep_images,
        )
        for group in groups
        for number, seed in enumerate(group.policy_seeds)
    ]
    failures: dict[int, str] = {}

    def fail(spec: EpisodeSpec, error: Exception) -> None:
        index = int(str(spec.name).partition("-")[0])
        failures[index] = f"{type(error).__name__}: {error}"[:500]

    episodes: dict[str, Transcript] = {}
    for spec, transcript in play_episodes(
        policy, specs, makers, batch=min(batch, len(specs)) or 1, policy_name=policy_name, on_error=fail
    ):
        episodes[str(spec.name)] = transcript
    for group in groups:
        if group.index not in failures:
            names = [f"{group.index}-{number}" for number in range(len(group.policy_seeds))]
            if all(len(episodes[name].turns) == 1 and "given_up" in episodes[name].details for name in names):
                given_up = episodes[names[-1]].details["given_up"]
                failures[group.index] = f"{given_up['kind']}: {given_up['reason']}"[:500]
    played = [
        Group(
            group,
            tuple(episodes[f"{group.index}-{number}"] for number in range(len(group.policy_seeds))),
            weights,
        )
        for group in groups
        if group.index not in failures
    ]
    return GroupPlay(tuple(played), failures)
