# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray are incomplete.
"""Spreads groups over the runners that are alive; what is lost with one is played again by another."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import ray
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from agile_gym.errors import ConfigurationError
from agile_gym.learner.env_runner import RunnerReply, VLMEnvRunner
from agile_gym.learner.groups import Group
from agile_gym.learner.tasks import GroupSpec

__all__ = ["Outcome", "play_on_runners"]

PATIENCE = 300.0
"""Seconds to wait for a runner to come back where none is left."""
_logger = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What came of groups.

    Attributes:
        groups: Those that were played, by index.
        failures: The last error of those that were given up, by index.
        retries: How often a group was played again.
        metrics: What the runners logged.
    """

    groups: list[Group] = field(default_factory=list[Group])
    failures: dict[int, str] = field(default_factory=dict[int, str])
    retries: int = 0
    metrics: list[Any] = field(default_factory=list[Any])


def play_on_runners(
    runners: EnvRunnerGroup,
    specs: Sequence[GroupSpec],
    *,
    retries: int,
    timeout: float,
    restore: Callable[[], object],
    explore: bool,
    evaluation: bool,
) -> Outcome:
    """Play groups.

    A group is played again if its runner died or did not answer in time, or its environment raised. It is drawn from
    the same seeds, so that nothing depends on which runner plays it, or when.

    Args:
        runners: The runners.
        specs: The groups.
        retries: How often a group is played again.
        timeout: Seconds after which a runner counts as hung; it is killed, and another one started.
        restore: Brings runners back that have died.
        explore: Whether tokens are drawn.
        evaluation: Whether the environments are those of the evaluation.

    Returns:
        The groups and what went wrong.

    Raises:
        ConfigurationError: If a runner says that its environment or policy cannot be used.
        RuntimeError: If no runner comes back.
    """
    outcome = Outcome()
    pending = {spec.index: spec for spec in specs}
    attempts: Counter[int] = Counter()
    played: dict[int, Group] = {}
    while pending:
        replies = _ask(runners, list(pending.values()), timeout, restore, explore=explore, evaluation=evaluation)
        errors: dict[int, str] = {}
        for reply in replies:
            if reply.mistake is not None:
                raise ConfigurationError(reply.mistake)
            outcome.metrics.append(reply.metrics)
            errors |= reply.play.failures
            for group in reply.play.groups:
                played[group.spec.index] = group
                pending.pop(group.spec.index, None)
        for index in list(pending):
            attempts[index] += 1
            if attempts[index] > retries:
                outcome.failures[index] = errors.get(index, "The runner that played it died or did not answer.")
                del pending[index]
        outcome.retries += len(pending)
    outcome.groups = [played[index] for index in sorted(played)]
    return outcome


def _ask(
    runners: EnvRunnerGroup,
    specs: Sequence[GroupSpec],
    timeout: float,
    restore: Callable[[], object],
    **options: bool,
) -> list[RunnerReply]:
    """Let all runners play a part each, and return what came back."""
    if runners.num_remote_env_runners() == 0:
        local = cast(VLMEnvRunner, runners.local_env_runner)
        return [local.sample_groups(specs, **options)]
    ids = _alive(runners, restore)
    parts = {number: list(specs[place :: len(ids)]) for place, number in enumerate(ids)}
    parts = {number: part for number, part in parts.items() if part}
    replies: list[RunnerReply] = runners.foreach_env_runner(
        "sample_groups",
        kwargs=[{"groups": part, **options} for part in parts.values()],
        local_env_runner=False,
        remote_worker_ids=list(parts),
        timeout_seconds=timeout,
    )
    silent = set(parts) - {reply.runner for reply in replies}
    for number in silent & set(runners.healthy_env_runner_ids()):
        _logger.warning("Runner %d did not answer in %.0f s; it is stopped, and another one started.", number, timeout)
        manager = runners._worker_manager  # pyright: ignore[reportPrivateUsage] -- RLlib has no other way
        ray.kill(manager.actors()[number], no_restart=False)
        manager.set_actor_state(number, healthy=False)
    return replies


def _alive(runners: EnvRunnerGroup, restore: Callable[[], object]) -> list[int]:
    """Return the numbers of the runners that are alive, at least one."""
    deadline = time.monotonic() + PATIENCE
    while True:
        if len(runners.healthy_env_runner_ids()) < runners.num_remote_env_runners():
            restore()
        ids = sorted(runners.healthy_env_runner_ids())
        if ids:
            return ids
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"All {runners.num_remote_env_runners()} runners are dead, and none came back in {PATIENCE:.0f} s. "
                "Look at Ray's logs for the reason: memory and missing packages are the most frequent ones."
            )
        time.sleep(0.5)
