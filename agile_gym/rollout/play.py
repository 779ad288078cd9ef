"""Plays episodes side by side, so that a policy can work on them together."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from agile_gym.errors import ConfigurationError
from agile_gym.policies.base import GivenUp, Policy, RecordingPolicy
from agile_gym.rollout.pool import EnvironmentPool
from agile_gym.rollout.recorder import EpisodeRecorder
from agile_gym.rollout.transcript import Transcript, TurnUsage

__all__ = ["EpisodeSpec", "play_episodes"]


@dataclass(frozen=True)
class EpisodeSpec:
    """An episode to be played.

    Attributes:
        env: Key of the environment that it is played in.
        seed: Seed of the environment.
        options: Options of its reset, such as ``{"level": 0}``.
        policy_seed: Seed of what the policy draws in this episode; None lets the policy choose.
        name: Id of the transcript, unique in a run; made of grid, level and seed by default.
        keep_images: Whether the transcript holds the images.
    """

    env: str
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    policy_seed: int | None = None
    name: str | None = None
    keep_images: bool = True


def play_episodes(
    policy: Policy,
    specs: Iterable[EpisodeSpec],
    makers: Mapping[str, Callable[[], gymnasium.Env[Any, Any]]] | EnvironmentPool,
    *,
    batch: int = 8,
    policy_name: str = "policy",
    on_error: Callable[[EpisodeSpec, Exception], None] | None = None,
) -> Iterator[tuple[EpisodeSpec, Transcript]]:
    """Play episodes, ``batch`` at a time; a slot takes the next one as soon as it is free.

    An episode that the policy gives up (`agile_gym.policies.GivenUp`) ends there, unsolved, and the others go on.
    Puzzles do not depend on the size of the batch, and neither do results, for a policy that keeps to its contract.

    Args:
        policy: Plays. Its ``reset`` is the caller's.
        specs: The episodes; taken one by one, as slots become free.
        makers: What makes the environment of each key; environments are used again, and closed at the end. An
            `EnvironmentPool` keeps them for another call.
        batch: How many are played side by side, at least 1.
        policy_name: For the record.
        on_error: Is told of an episode whose environment raised, which is then left out; such environments are made
            anew. By default the error is raised.

    Yields:
        Each episode as soon as it is over, with its transcript.

    Raises:
        ConfigurationError: If the policy does not return a text for each observation, or ``batch`` is not allowed.
    """
    if batch < 1:
        raise ConfigurationError(f"batch={batch} is not allowed; give at least 1.")
    waiting = iter(specs)
    pool = makers if isinstance(makers, EnvironmentPool) else EnvironmentPool(makers)
    slots = [_Slot(number, pool) for number in range(batch)]
    active = [slot for slot in slots if _begin(slot, waiting, on_error)]
    try:
        while active:
            start = time.perf_counter()
            texts = policy.act([slot.recorder.observation for slot in active], [slot.recorder.info for slot in active])
            usage = TurnUsage(time.perf_counter() - start)
            if len(texts) != len(active) or not all(isinstance(text, str) for text in texts):
                raise ConfigurationError(
                    f"The policy returned {texts!r:.200} for {len(active)} observations; act() must return a text for "
                    "each."
                )
            over = [slot for slot, text in zip(active, texts, strict=True) if _step(slot, text, usage, on_error)]
            for slot in over:
                record = policy.finish(slot.number) if isinstance(policy, RecordingPolicy) else None
                if not slot.failed:
                    spec, transcript = slot.spec, slot.recorder.finish(policy_name, record)
                    yield spec, transcript
                _begin(slot, waiting, on_error)
            active = [slot for slot in active if slot.playing]
    finally:
        for slot in slots:
            slot.leave()
        if pool is not makers:
            pool.close()


def _begin(
    slot: _Slot, waiting: Iterator[EpisodeSpec], on_error: Callable[[EpisodeSpec, Exception], None] | None
) -> bool:
    """Begin the next episode that can be begun, and tell whether there is one."""
    for spec in waiting:
        try:
            slot.begin(spec)
        except Exception as error:
            slot.discard()
            if on_error is None or isinstance(error, ConfigurationError):
                raise
            on_error(spec, error)
        else:
            return True
    slot.playing = False
    return False


def _step(slot: _Slot, text: str, usage: TurnUsage, on_error: Callable[[EpisodeSpec, Exception], None] | None) -> bool:
    """Play a turn, and tell whether the episode is over, be it with an error."""
    try:
        return slot.step(text, usage)
    except Exception as error:
        if on_error is None:
            raise
        slot.discard()
        on_error(slot.spec, error)
        return True


class _Slot:
    """One of the episodes that are played side by side, with its environments."""

    spec: EpisodeSpec
    recorder: EpisodeRecorder
    playing = False
    failed = False

    def __init__(self, number: int, pool: EnvironmentPool) -> None:
        self.number = number
        self._pool = pool
        self._recorders: dict[str, EpisodeRecorder] = {}

    def begin(self, spec: EpisodeSpec) -> None:
        """Begin an episode."""
        recorder = self._recorders.get(spec.env)
        if recorder is None:
            recorder = self._recorders[spec.env] = self._pool.take(spec.env)
        recorder.keep_images = spec.keep_images
        recorder.reset(seed=spec.seed, options=spec.options, policy_seed=spec.policy_seed, name=spec.name)
        self.spec, self.recorder = spec, recorder
        recorder.info["slot"] = self.number
        self.playing, self.failed = True, False

    def discard(self) -> None:
        """Forget an episode whose environment raised, and the environments."""
        self.failed = True
        with contextlib.suppress(Exception):  # it is broken already
            for recorder in self._recorders.values():
                recorder.env.close()
        self._recorders.clear()

    def step(self, text: str, usage: TurnUsage) -> bool:
        """Play a turn, and tell whether the episode is over."""
        if isinstance(text, GivenUp):
            self.recorder.give_up(text, usage)
            return True
        self.recorder.step(text, usage)
        self.recorder.info["slot"] = self.number
        return self.recorder.done

    def leave(self) -> None:
        """Give the environments back."""
        for key, recorder in self._recorders.items():
            self._pool.give(key, recorder)
        self._recorders.clear()
