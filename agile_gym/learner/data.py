"""Training data: group-relative advantages, samples of episodes, and their minibatches and micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agile_gym.errors import ConfigurationError
from agile_gym.learner.groups import Group
from agile_gym.transcripts.record import Image, PickledByFields, Segment, Transcript

__all__ = [
    "GroupAdvantages",
    "GroupBatch",
    "Sample",
    "assign_minibatches",
    "count_trained",
    "group_advantages",
    "make_samples",
    "micro_batches",
    "returns_of",
    "returns_to_go",
    "shard_samples",
    "spread_advantages",
    "turn_advantages",
    "turn_rewards",
]


@dataclass(frozen=True, eq=False, slots=True)
class GroupAdvantages:
    """Advantages of episodes, and the groups without variance.

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
        scale: Divisor of the difference: the standard deviation of the group (GRPO), that of the returns of the
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


def turn_rewards(transcript: Transcript, total: float | None = None) -> NDArray[np.float32]:
    """Return the reward of each turn of an episode.

    Args:
        transcript: The episode.
        total: Its return, if it is another than the environment's; the difference is paid in the last turn.

    Returns:
        (turns,) float32, whose sum is the episode's return.
    """
    rewards = np.array([turn.reward["total"] for turn in transcript.turns], np.float64)
    if total is not None and len(rewards):
        rewards[-1] += total - rewards.sum()
    return rewards.astype(np.float32)


def returns_to_go(rewards: ArrayLike, discount: float = 1.0) -> NDArray[np.float32]:
    """Return the sum of an episode's rewards from each turn on: a turn is not credited with earlier rewards.

    Args:
        rewards: (turns,) the reward of each turn.
        discount: Value of a reward one turn earlier, as a fraction of it, 0 to 1.

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


def turn_advantages(
    rewards: Sequence[ArrayLike],
    groups: ArrayLike,
    *,
    discount: float = 1.0,
    scale: Literal["group", "batch", "none"] = "group",
    leave_one_out: bool = False,
) -> list[NDArray[np.float32]]:
    """Compare each turn's return-to-go with the mean of its group's at the same turn.

    A turn that no other episode of the group has reached has the advantage 0.

    Args:
        rewards: For each of N episodes, (turns,) the reward of each turn.
        groups: (N,) integers, the group of each episode, in any order.
        discount: As of `returns_to_go`. Where all is paid in the last turn, late turns get more of it below 1.
        scale: As of `group_advantages`; ``"group"`` is the deviation at the same turn.
        leave_one_out: As of `group_advantages`.

    Returns:
        For each episode, (turns,) float32.

    Raises:
        ValueError: If shapes differ, a reward is not finite, or an option is not allowed.
    """
    sums = [returns_to_go(episode, discount) for episode in rewards]
    names: NDArray[np.int64] = np.asarray(groups, np.int64)
    if names.shape != (len(sums),):
        raise ValueError(f"groups {names.shape} must have one entry for each of {len(sums)} episodes.")
    lengths = [len(episode) for episode in sums]
    turns = [turn for length in lengths for turn in range(length)]
    keys = np.repeat(names, lengths) * max([1, *lengths]) + np.array(turns, np.int64)
    flat = np.concatenate([*sums, np.zeros(0, np.float32)])
    compared = group_advantages(flat, keys, scale=scale, leave_one_out=leave_one_out)
    return np.split(compared.advantages, np.cumsum(lengths)[:-1]) if sums else []


def count_trained(segments: Sequence[Segment]) -> int:
    """Return the number of tokens of an episode that are trained on: those that the model wrote, in all segments."""
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


@dataclass(frozen=True, eq=False, slots=True)
class Sample(PickledByFields):
    """A segment to train on.

    Attributes:
        segment: Its tokens; with advantages, unless training is supervised.
        images: Its images, in order of their placeholders.
        length: Trained tokens of the whole episode that it is part of.
        minibatches: The minibatch that it belongs to, in each epoch.
    """

    segment: Segment
    images: tuple[Image, ...]
    length: int
    minibatches: tuple[int, ...] = (0,)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.segment.ids)

    @property
    def trained(self) -> int:
        """Tokens that are trained on."""
        return int(self.segment.loss_mask.sum())

    def env_steps(self) -> int:
        """Return the turns that it holds, as RLlib counts them."""
        return len(np.unique(self.segment.turns[self.segment.loss_mask]))

    agent_steps = env_steps

    @classmethod
    def nothing(cls) -> Sample:
        """Return a sample without tokens, which is in no minibatch: for a learner that gets no other."""
        empty = np.zeros(0, np.int32)
        segment = Segment(empty, empty.astype(np.bool_), empty.astype(np.float32), empty.astype(np.int16), ())
        return cls(segment, (), 0, ())


def make_samples(
    transcript: Transcript,
    advantages: ArrayLike | None,
    *,
    minibatches: Sequence[int] = (0,),
    segments: Sequence[Segment] | None = None,
) -> list[Sample]:
    """Cut an episode into training samples.

    Args:
        transcript: The episode, with its images.
        advantages: () one for the episode, or (turns,) one a turn; None for supervised training.
        minibatches: The minibatch that the episode belongs to, in each epoch.
        segments: Its tokens, if the transcript itself does not hold them.

    Returns:
        One for each segment with trained tokens.

    Raises:
        ValueError: If the advantages do not fit the segments.
    """
    chosen = transcript.segments if segments is None else tuple(segments)
    length = count_trained(chosen)
    if advantages is not None:
        chosen = spread_advantages(chosen, advantages)
    images = transcript.images
    return [
        Sample(segment, tuple(images[number] for number in segment.images), length, tuple(minibatches))
        for segment in chosen
        if segment.loss_mask.any()
    ]


def assign_minibatches(episodes: int, minibatches: int, epochs: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the minibatch of each episode, anew in each epoch.

    Args:
        episodes: Number of episodes.
        minibatches: Number of minibatches, whose sizes differ by at most one.
        epochs: Number of epochs.
        rng: Source of randomness.

    Returns:
        (episodes, epochs) int64.
    """
    chosen = np.empty((episodes, epochs), np.int64)
    for epoch in range(epochs):
        for number, part in enumerate(np.array_split(rng.permutation(episodes), minibatches)):
            chosen[part, epoch] = number
    return chosen


def shard_samples(samples: Sequence[Sample], learners: int) -> list[list[Sample]]:
    """Divide samples among learners: in each minibatch, about as many tokens for each.

    The minibatch of a sample does not depend on the number of learners.

    Args:
        samples: The samples.
        learners: Number of learners.

    Returns:
        The samples of each.
    """
    shards: list[list[Sample]] = [[] for _ in range(learners)]
    loads: dict[tuple[int, ...], list[int]] = {}
    for sample in sorted(samples, key=lambda sample: -len(sample)):  # stable, so that equal lengths keep their order
        load = loads.setdefault(sample.minibatches, [0] * learners)
        lightest = load.index(min(load))
        shards[lightest].append(sample)
        load[lightest] += len(sample)
    return shards


def micro_batches(samples: Sequence[Sample], max_tokens: int, *, packing: bool = False) -> list[list[Sample]]:
    """Put samples together, as many as fit into a number of tokens.

    Padded samples are put together with those of like lengths; packed ones each where it fits first, longest first.

    Args:
        samples: The samples.
        max_tokens: Rows times the length of the longest, or, packed, the sum of the lengths; a single sample may have
            more.
        packing: True if samples are packed, False if they are padded.

    Returns:
        The micro-batches, longest samples first.
    """
    batches: list[list[Sample]] = []
    room: list[int] = []
    for sample in sorted(samples, key=lambda sample: -len(sample)):
        if packing:
            fitting = next((number for number, left in enumerate(room) if len(sample) <= left), None)
            if fitting is None:
                batches.append([sample])
                room.append(max_tokens - len(sample))
            else:
                batches[fitting].append(sample)
                room[fitting] -= len(sample)
        elif batches and (len(batches[-1]) + 1) * len(batches[-1][0]) <= max_tokens:
            batches[-1].append(sample)
        else:
            batches.append([sample])
    return batches


@dataclass
class GroupBatch:
    """Training data of an iteration.

    Attributes:
        groups: The groups that are trained on.
        returns: (N,) the return of each of their episodes.
        advantages: The advantage of each of their episodes, () or, one a turn, (turns,) float32.
        played: All groups that were played.
        constant: Groups without variance that were left out.
        metrics: Counts made while it was collected.
    """

    groups: list[Group] = field(default_factory=list[Group])
    returns: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    advantages: list[NDArray[np.float32]] = field(default_factory=list[NDArray[np.float32]])
    played: list[Group] = field(default_factory=list[Group])
    constant: int = 0
    metrics: dict[str, float] = field(default_factory=dict[str, float])


def returns_of(
    episodes: Sequence[Transcript], function: Callable[[Transcript], float] | None = None
) -> NDArray[np.float64]:
    """Return the return of each episode.

    Args:
        episodes: The episodes.
        function: Computes the return of an episode; by default it is the environment's reward.

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
