"""Messages between the driver and the runners: what groups are played with, and what a runner answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ray

    from agile_gym.learner.groups import GroupPlay

__all__ = ["RunnerReply", "Weights"]


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
