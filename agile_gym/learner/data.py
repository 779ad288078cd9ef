"""Training data: samples of episodes, and their division into minibatches and micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agile_gym.errors import ConfigurationError
from agile_gym.learner.advantages import count_trained, spread_advantages
from agile_gym.learner.groups import Group
from agile_gym.transcripts.record import Image, Segment, Transcript

__all__ = ["GroupBatch", "Sample", "assign_minibatches", "make_samples", "micro_batches", "returns_of", "shard_samples"]


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
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
    """Cut an episode into what a learner trains on.

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
    """Draw which minibatch each episode belongs to, anew in each epoch.

    Args:
        episodes: Number of episodes.
        minibatches: Number of minibatches, whose sizes differ by at most one.
        epochs: Number of epochs.
        rng: Source of what is drawn.

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

    Which minibatch a sample belongs to does not depend on the number of learners.

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


def micro_batches(samples: Sequence[Sample], max_tokens: int) -> list[list[Sample]]:
    """Put samples of like lengths together, as many as fit into a number of tokens, padding included.

    Args:
        samples: The samples.
        max_tokens: Rows times the length of the longest; a single sample may have more.

    Returns:
        The micro-batches, longest samples first.
    """
    batches: list[list[Sample]] = []
    for sample in sorted(samples, key=lambda sample: -len(sample)):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0]) <= max_tokens:
            batches[-1].append(sample)
        else:
            batches.append([sample])
    return batches


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
