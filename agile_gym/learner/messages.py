# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray are incomplete.
"""Messages between the driver and the runners: groups that are sent, and answers, fetched while others still play.

The driver spends about as much on each message however many runners there are: RLlib's `foreach_env_runner` pickles a
function for each, looks each answer up in a list of all, and fetches them one by one after the last has come.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, TaskCancelledError

if TYPE_CHECKING:
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

    from agile_gym.learner.groups import GroupPlay, GroupSpec

__all__ = ["Answers", "RunnerReply", "Weights", "gather", "send_groups"]


@dataclass(frozen=True, eq=False)
class RunnerReply:
    """Answer of a runner.

    Attributes:
        runner: Its number.
        play: The groups that it played.
        metrics: Its metrics.
        mistake: Error of the environment or the policy, if they cannot be used at all.
        lacks_weights: True if nothing was played, as the runner was not there when the weights were sent.
    """

    runner: int
    play: GroupPlay
    metrics: Any
    mistake: str | None = None
    lacks_weights: bool = False


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights that groups are to be played with; a runner fetches them unless it has taken them before.

    Attributes:
        state: Reference to the learners' state, in Ray's object store; None if they were sent another way.
        name: Name of the weights.
    """

    state: ray.ObjectRef[Any] | None
    name: str


@dataclass(frozen=True)
class Answers:
    """Answers to requests.

    Attributes:
        replies: Those that came, in no order.
        dead: Runners that died over their request.
        silent: Runners that have not answered in time.
    """

    replies: list[RunnerReply] = field(default_factory=list[RunnerReply])
    dead: list[int] = field(default_factory=list[int])
    silent: list[int] = field(default_factory=list[int])


def send_groups(
    runners: EnvRunnerGroup,
    parts: Mapping[int, Sequence[GroupSpec]],
    **options: Any,  # noqa: ANN401 -- of VLMEnvRunner.sample_groups
) -> dict[ray.ObjectRef[RunnerReply], int]:
    """Send runners their groups, and return at once.

    Args:
        runners: The runners.
        parts: The groups of each, by its number.
        **options: Of `VLMEnvRunner.sample_groups`.

    Returns:
        For each answer to come, the number of its runner.
    """
    actors: Any = runners._worker_manager.actors()  # pyright: ignore[reportPrivateUsage] -- RLlib has no other way
    return {actors[number].sample_groups.remote(part, **options): number for number, part in parts.items()}


def gather(requests: Mapping[ray.ObjectRef[RunnerReply], int], timeout: float) -> Answers:
    """Fetch answers.

    They are fetched in batches, a quarter of those that are missing at a time: the first ones while others still play,
    and all with a number of waits that grows with the logarithm of that of the requests.

    Args:
        requests: The requests of `send_groups`. Those that were withdrawn are left out of the answers.
        timeout: Seconds to wait for them.
    """
    answers = Answers()
    deadline = time.monotonic() + timeout
    waiting = list(requests)
    while waiting:
        left = max(0.0, deadline - time.monotonic())
        ready, waiting = ray.wait(waiting, num_returns=(len(waiting) + 3) // 4, timeout=left)
        if not ready:
            break
        try:
            answers.replies.extend(ray.get(ready))
        except RayError:  # of at least one
            for reply in ready:
                try:
                    answers.replies.append(ray.get(reply))
                except TaskCancelledError:
                    continue
                except RayError:
                    answers.dead.append(requests[reply])
    answers.silent.extend(requests[reply] for reply in waiting)
    return answers
