"""What an iteration of GRPO is trained on, and what its episodes have earned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import ConfigurationError
from agile_gym.learner.groups import Group
from agile_gym.rollout.transcript import Transcript

__all__ = ["GroupBatch", "returns_of"]


@dataclass
class GroupBatch:
    """What an iteration is trained on.

    Attributes:
        groups: The groups that are trained on.
        returns: (N,) the return of each of their episodes.
        advantages: (N,) float32.
        played: All groups that were played.
        constant: Groups without variance that were left out.
        metrics: What was counted on the way.
    """

    groups: list[Group] = field(default_factory=list[Group])
    returns: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    advantages: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    played: list[Group] = field(default_factory=list[Group])
    constant: int = 0
    metrics: dict[str, float] = field(default_factory=dict[str, float])


def returns_of(
    episodes: Sequence[Transcript], function: Callable[[Transcript], float] | None = None
) -> NDArray[np.float64]:
    """Return what each episode has earned.

    Args:
        episodes: The episodes.
        function: Gives the return of an episode; by default it is the environment's reward.

    Returns:
        (N,) float64.

    Raises:
        ConfigurationError: If the function does not return a finite number.
    """
    if function is None:
        return np.array([e.reward["total"] for e in episodes], np.float64)
    values: list[float] = []
    for episode in episodes:
        given = function(episode)
        try:
            values.append(float(given))
        except (TypeError, ValueError):
            values.append(np.nan)
        if not np.isfinite(values[-1]):
            raise ConfigurationError(
                f"reward_fn returned {given!r:.100} for the episode {episode.id!r}; it must return a finite number."
            )
    return np.array(values, np.float64)
