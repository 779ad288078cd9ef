"""How much better than its group each episode was, and what each of its tokens is trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from agile_gym.transcripts.record import Segment, Transcript

__all__ = ["GroupAdvantages", "count_trained", "group_advantages", "returns_to_go", "spread_advantages", "turn_rewards"]


@dataclass(frozen=True, eq=False, slots=True)
class GroupAdvantages:
    """The advantages of episodes, and which of their groups teach nothing.

    Attributes:
        advantages: (N,) float32, one an episode; exactly 0 in a group without variance.
        constant: (N,) bool, True where the episode's group has no variance.
        groups: Number of groups.
        constant_groups: Number of those without variance.
    """

    advantages: NDArray[np.float32]
    constant: NDArray[np.bool_]
    groups: int
    constant_groups: int


def group_advantages(
    returns: ArrayLike,
    groups: ArrayLike,
    *,
    scale: Literal["group", "batch", "none"] = "group",
    leave_one_out: bool = False,
    epsilon: float = 1e-4,
    tolerance: float = 1e-6,
) -> GroupAdvantages:
    """Compare each episode's return with the mean of its group, the episodes of the same puzzle.

    Standard deviations are those of a sample (n - 1). A group of one episode counts as one without variance.

    Args:
        returns: (N,) the reward of each episode.
        groups: (N,) integers or strings, the group of each episode, in any order; groups may differ in size.
        scale: What divides the difference: the standard deviation of the group (GRPO), that of the returns of the
            whole batch, or nothing (Dr. GRPO).
        leave_one_out: Compare with the mean of the group's other episodes (RLOO): n / (n - 1) times the difference.
        epsilon: Added to the standard deviation, so that tiny differences are not blown up.
        tolerance: A group whose largest and smallest return differ by no more than this has no variance.

    Returns:
        The advantages, and the groups without variance.

    Raises:
        ValueError: If the shapes differ, a return is not finite, or an option is not allowed.
    """
    values = np.asarray(returns, np.float64)
    names: NDArray[Any] = np.asarray(groups)
    if values.ndim != 1 or values.shape != names.shape:
        raise ValueError(f"returns {values.shape} and groups {names.shape} must both have shape (N,).")
    if not np.isfinite(values).all():
        wrong = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"returns[{wrong}] is {values[wrong]}; returns must be finite.")
    if scale not in ("group", "batch", "none"):
        raise ValueError(f"scale={scale!r} is not allowed; give 'group', 'batch' or 'none'.")
    if not (epsilon >= 0 and tolerance >= 0):
        raise ValueError(f"epsilon={epsilon} and tolerance={tolerance} must be at least 0.")
    inverse: NDArray[np.intp]
    _, inverse = np.unique(names, return_inverse=True)
    sizes = np.bincount(inverse)  # (K,)
    lowest, highest = np.full(len(sizes), np.inf), np.full(len(sizes), -np.inf)
    np.minimum.at(lowest, inverse, values)
    np.maximum.at(highest, inverse, values)
    constant = highest - lowest <= tolerance  # (K,)
    differences = values - (np.bincount(inverse, values) / sizes)[inverse]  # (N,)
    others = np.maximum(sizes - 1, 1)  # (K,)
    advantages = differences * (sizes / others)[inverse] if leave_one_out else differences
    if scale == "group":
        divisors = np.sqrt(np.bincount(inverse, differences**2) / others)[inverse] + epsilon  # (N,)
    elif scale == "batch" and len(values) > 1:
        divisors = np.full(len(values), values.std(ddof=1) + epsilon)
    else:
        divisors = np.ones(len(values))
    flat = constant[inverse]
    advantages = np.where(flat, 0.0, advantages / np.where(flat, 1.0, divisors)).astype(np.float32)
    return GroupAdvantages(advantages, flat, len(sizes), int(constant.sum()))


def turn_rewards(transcript: Transcript) -> NDArray[np.float32]:
    """Return the reward of each turn of an episode.

    Returns:
        (turns,) float32, whose sum is the episode's return.
    """
    return np.array([turn.reward["total"] for turn in transcript.turns], np.float32)


def returns_to_go(rewards: ArrayLike, discount: float = 1.0) -> NDArray[np.float32]:
    """Return what an episode still earned from each turn on: a turn is not credited with what came before it.

    Args:
        rewards: (turns,) the reward of each turn.
        discount: What a reward is worth one turn earlier, 0 to 1.

    Returns:
        (turns,) float32.

    Raises:
        ValueError: If ``rewards`` has another shape or ``discount`` is out of range.
    """
    values = np.asarray(rewards, np.float64)
    if values.ndim != 1:
        raise ValueError(f"rewards {values.shape} must have shape (turns,).")
    if not 0 <= discount <= 1:
        raise ValueError(f"discount={discount} is not allowed; give a number from 0 to 1.")
    sums = np.zeros(len(values) + 1)
    for turn in reversed(range(len(values))):
        sums[turn] = values[turn] + discount * sums[turn + 1]
    return sums[:-1].astype(np.float32)


def count_trained(segments: Sequence[Segment]) -> int:
    """Return how many tokens of an episode are trained on: those that the model wrote, in all of its segments."""
    return sum(int(segment.loss_mask.sum()) for segment in segments)


def spread_advantages(segments: Sequence[Segment], advantages: ArrayLike) -> tuple[Segment, ...]:
    """Give each token that was sampled in an episode its advantage.

    Args:
        segments: All segments of one episode.
        advantages: () one for the whole episode, or (turns,) one a turn.

    Returns:
        The segments with their ``advantages``: (T,) float32, 0 where the model did not write.

    Raises:
        ValueError: If ``advantages`` has another shape or too few turns, if a marked token belongs to no turn, or if
            two segments mark tokens of the same turn, so that they would be trained on twice.
    """
    values = np.asarray(advantages, np.float32)
    if values.ndim > 1:
        raise ValueError(f"advantages {values.shape} must have shape () or (turns,).")
    seen: dict[int, int] = {}  # turn -> the segment that marks it
    spread: list[Segment] = []
    for number, segment in enumerate(segments):
        turns = segment.turns[segment.loss_mask]
        for turn in np.unique(turns).tolist():
            if turn < 0:
                raise ValueError(f"Segment {number} marks a token that belongs to no turn.")
            if turn in seen:
                raise ValueError(f"The tokens of turn {turn} are marked in the segments {seen[turn]} and {number}.")
            if values.ndim == 1 and turn >= len(values):
                raise ValueError(f"advantages {values.shape} has none for turn {turn}, which segment {number} holds.")
            seen[turn] = number
        tokens = np.zeros(len(segment.ids), np.float32)
        tokens[segment.loss_mask] = values[turns] if values.ndim == 1 else values
        spread.append(replace(segment, advantages=tokens))
    return tuple(spread)
