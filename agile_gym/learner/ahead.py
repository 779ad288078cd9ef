# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray are incomplete.
"""Groups played ahead: runners play the next iterations' groups while the learners train on the last ones.

A group is begun with the weights of that time, and keeps them if it has to be played again, so that a runner that dies
changes nothing. Groups are taken in the order of their numbers, each once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from agile_gym.learner.groups import GroupSpec
from agile_gym.learner.messages import RunnerReply, Weights, send_groups
from agile_gym.learner.recovery import Outcome, alive_runners, answers_of, play_on_runners, split_groups

__all__ = ["PlayedAhead"]

GRACE = 10.0
"""Seconds that runners have to end what they play when an algorithm stops."""


@dataclass(eq=False)
class _Shipment:
    """Groups that were sent to the runners together.

    Attributes:
        specs: Those that were not taken yet, in the order of their numbers.
        weights: Weights that they are played with.
        updates: Number of updates that the weights have had.
        requests: Number of the runner that each answer comes from.
        begun: Time of `time.monotonic` when they were sent.
        outcome: The groups that were played and not taken yet, and their failures, as soon as there are no others.
    """

    specs: list[GroupSpec]
    weights: Weights
    updates: int
    requests: dict[ray.ObjectRef[RunnerReply], int]
    begun: float
    outcome: Outcome | None = None


class PlayedAhead:
    """Groups that runners in processes of their own play, or have played, and that no iteration has taken yet."""

    def __init__(self, runners: EnvRunnerGroup, *, retries: int, timeout: float, restore: Callable[[], object]) -> None:
        """Begin with no group.

        Args:
            runners: The runners.
            retries: As of `play_on_runners`.
            timeout: Seconds after which a runner counts as hung, from when it could begin.
            restore: As of `play_on_runners`.
        """
        self._runners = runners
        self._options: dict[str, Any] = {"retries": retries, "timeout": timeout, "restore": restore}
        self._shipments: list[_Shipment] = []
        self._free = 0.0

    def __len__(self) -> int:
        """Return the number of groups that were begun and not taken."""
        return sum(len(shipment.specs) for shipment in self._shipments)

    def begin(self, specs: Sequence[GroupSpec], weights: Weights, *, updates: int) -> None:
        """Send groups to the runners, and return at once.

        Args:
            specs: The groups, with higher numbers than those begun before.
            weights: The weights to play with.
            updates: Number of updates that the weights have had.
        """
        if not specs:
            return
        parts = split_groups(specs, alive_runners(self._runners, self._options["restore"]))
        requests = send_groups(self._runners, parts, weights=weights, explore=True, evaluation=False)
        self._shipments.append(_Shipment(list(specs), weights, updates, requests, time.monotonic()))

    def take(self, count: int, *, updates: int) -> Outcome:
        """Return the next groups that were begun, at most some number of them, and wait for them if need be.

        Args:
            count: The largest number of groups, be they played or given up.
            updates: Number of updates that the learners' weights have had.

        Returns:
            The groups with their lags, and the failures. Metrics and retries are those of groups that were sent
            together, and come with the first of them.

        Raises:
            ConfigurationError: If a runner reports that its environment or policy cannot be used.
            RuntimeError: If no runner comes back.
        """
        taken = Outcome()
        while count and self._shipments:
            shipment = self._shipments[0]
            outcome = self._resolve(shipment)
            wanted = {spec.index for spec in shipment.specs[:count]}
            groups = [group for group in outcome.groups if group.spec.index in wanted]
            taken.groups += groups
            taken.lags += [updates - shipment.updates] * len(groups)
            taken.failures |= {index: text for index, text in outcome.failures.items() if index in wanted}
            taken.metrics += outcome.metrics
            taken.retries += outcome.retries
            outcome.groups = [group for group in outcome.groups if group.spec.index not in wanted]
            outcome.metrics, outcome.retries = [], 0
            del shipment.specs[:count]
            count -= len(wanted)
            if not shipment.specs:
                del self._shipments[0]
        return taken

    def settle(self) -> None:
        """Wait until the runners have played all groups that were begun, as they are needed for something else."""
        for shipment in self._shipments:
            self._resolve(shipment)

    def drop(self) -> None:
        """Drop all groups; those that no runner plays yet are not played at all."""
        requests = {reply: number for shipment in self._shipments for reply, number in shipment.requests.items()}
        self._cancel(requests)
        if requests:
            self._replies(requests, time.monotonic())
            self._free = time.monotonic()
        self._shipments = []

    def stop(self) -> None:
        """Drop all groups, and end runners that play on for longer than some seconds."""
        requests = {reply: number for shipment in self._shipments for reply, number in shipment.requests.items()}
        self._shipments = []
        self._cancel(requests)
        _, busy = ray.wait(list(requests), num_returns=len(requests), timeout=GRACE) if requests else ([], [])
        for number in {requests[reply] for reply in busy}:
            manager = self._runners._worker_manager  # pyright: ignore[reportPrivateUsage] -- RLlib has no other way
            ray.kill(manager.remove_actor(number))

    def _resolve(self, shipment: _Shipment) -> Outcome:
        """Wait for the groups of a shipment, have those that were lost played again, and return the result."""
        if shipment.outcome is None:
            replies = self._replies(shipment.requests, shipment.begun)
            shipment.outcome = play_on_runners(
                self._runners,
                shipment.specs,
                weights=shipment.weights,
                stored=lambda: shipment.weights,
                explore=True,
                evaluation=False,
                replies=replies,
                **self._options,
            )
            shipment.requests = {}
            self._free = time.monotonic()
        return shipment.outcome

    def _replies(self, requests: dict[ray.ObjectRef[RunnerReply], int], begun: float) -> list[RunnerReply]:
        """Return the answers to requests, but for those of runners that died or hang, which are marked as dead."""
        timeout = self._options["timeout"]
        left = max(begun, self._free) + timeout - time.monotonic()  # before, a runner may have played other groups
        return answers_of(self._runners, requests, timeout, left=max(0.0, left))

    def _cancel(self, requests: dict[ray.ObjectRef[RunnerReply], int]) -> None:
        """Withdraw requests that no runner has begun."""
        for reply in requests:
            ray.cancel(reply)
