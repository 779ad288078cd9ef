"""Playing of batched episodes in pooled environments, each recorded as a transcript."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import gymnasium

from agile_gym.envs.contract import (
    REWARD_PARTS,
    RewardParts,
    check_start,
    complete_reward,
    describe_episode,
    described,
    env_name,
    give_up,
)
from agile_gym.errors import ConfigurationError
from agile_gym.images.items import hash_pixels
from agile_gym.images.opening import opening_once
from agile_gym.images.sources import ImageSource
from agile_gym.policies.base import GivenUp, Policy, RecordingPolicy, blank_look
from agile_gym.transcripts.record import Image, PolicyRecord, Transcript, Turn, TurnUsage

__all__ = ["EnvironmentPool", "EpisodeRecorder", "EpisodeSpec", "play_episodes"]


class EpisodeRecorder:
    """Recorder of an environment's episodes as `Transcript`.

    Attributes:
        env: The environment, perhaps wrapped.
        observation: The last observation.
        info: The last ``info``.
        done: True if the episode has ended, or has not begun.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], *, keep_images: bool = True, blank_looks: bool = False) -> None:
        """Wrap an environment.

        Args:
            env: An environment that keeps the contract (`agile_gym.envs.contract`), perhaps wrapped by wrappers that
                leave observations and actions as they are.
            keep_images: True to store the images in transcripts; without them they are small.
            blank_looks: True for images of feedback that are uniform grey (`agile_gym.policies.blank_look`), in the
                observation, ``info`` and the transcript, whose ``details["blank_looks"]`` is then true.

        Raises:
            ConfigurationError: If it is no environment.
        """
        if not isinstance(cast(object, env), gymnasium.Env):
            raise ConfigurationError(f"EpisodeRecorder records a gymnasium.Env; this is {env!r:.200}.")
        self.env = env
        self.keep_images = keep_images
        self.blank_looks = blank_looks
        self.done = True
        self.observation: dict[str, Any] = {}
        self.info: dict[str, Any] = {}
        self._described = described(env)
        self._checked = False
        self._turns: list[Turn] = []

    def reset(
        self,
        *,
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
        policy_seed: int | None = None,
        name: str | None = None,
    ) -> None:
        """Begin an episode.

        Args:
            seed: Seed of the environment.
            options: Options of its reset.
            policy_seed: Seed of the policy's random numbers in this episode, for the record and for ``info``.
            name: The transcript's id; made of grid, level and seed, or of the environment's name and the seed, by
                default.

        Raises:
            ConfigurationError: If the first observation of all does not keep the contract.
        """
        self.observation, self.info = self.env.reset(seed=seed, options=None if options is None else dict(options))
        if not self._checked:  # once, as it is too slow for every episode
            check_start(self.env, self.observation, self.info)
            self._checked = True
        self.info.setdefault("turn", 0)
        if policy_seed is not None:
            self.info["policy_seed"] = policy_seed
        self._turns = []
        self._earned = 0.0
        self._truncated = False
        self._given_up: GivenUp | None = None
        self._prompt: str = self.observation["text"]
        self._prompt_images = self._kept(self.info["images"])
        about = describe_episode(self.env, self._described, self.info)
        self._solution = tuple(about.solution)
        self._name = name or f"{about.label if 'grid' in about.task else env_name(self.env)}-{seed}"
        image_id = self.info.get("image_id")
        if image_id is None:
            image_id = hash_pixels(self.info["images"][0] if self.info["images"] else self.observation["image"])
        self._task: dict[str, Any] = {**about.task, "seed": seed, "policy_seed": policy_seed, "image_id": image_id}
        self.done = False

    def step(self, text: str, usage: TurnUsage | None = None) -> None:
        """Play a turn.

        Args:
            text: The model's text.
            usage: Usage of the policy, if it is known already.
        """
        start = time.perf_counter()
        self.observation, reward, terminated, truncated, self.info = self.env.step(text)
        seconds = time.perf_counter() - start
        try:
            if self.blank_looks:
                self.observation, self.info = blank_look(self.observation, self.info)
            feedback, images = self.observation["text"], self.info["images"]
        except (KeyError, TypeError) as error:
            raise ConfigurationError(
                f"The environment {env_name(self.env)} does not keep the contract: the result of step() has no {error}."
            ) from error
        info = self.info
        self.done, self._truncated = terminated or truncated, truncated
        self._earned += cast(float, reward)
        parts: RewardParts | None = info.get("reward")
        if parts is None or len(parts) < len(REWARD_PARTS):
            parts = complete_reward(info, cast(float, reward), over=self.done)
        self._turns.append(
            Turn(
                text=text,
                feedback=feedback,
                images=self._kept(images),
                primitives=tuple(
                    primitive if isinstance(primitive, str) else type(primitive).__name__
                    for primitive in info.get("primitives", ())
                ),
                error=info.get("error"),
                state=() if self._described is None else tuple(self._described.describe_state()),
                reward=parts,
                env_seconds=seconds,
                usage=usage or TurnUsage(0.0),
            )
        )
        if "turn" not in info:
            info["turn"] = len(self._turns)
        if self._task["policy_seed"] is not None:
            info["policy_seed"] = self._task["policy_seed"]

    def give_up(self, given_up: GivenUp, usage: TurnUsage | None = None) -> None:
        """End the episode unsolved, as its policy cannot go on. A last turn without a text holds the reason.

        Args:
            given_up: The kind of error, and the reason.
            usage: Usage of the policy, if it is known.
        """
        last, whole = give_up(self.env, self._earned)
        self._turns.append(
            Turn(
                text="",
                feedback=given_up.reason,
                images=(),
                primitives=(),
                error=given_up.kind,
                state=() if self._described is None else tuple(self._described.describe_state()),
                reward=last,
                env_seconds=0.0,
                usage=usage or TurnUsage(0.0),
            )
        )
        self.info = {**self.info, "reward": whole, "solved": False, "score": 0.0}
        self.done, self._given_up = True, given_up

    def finish(self, policy: str, record: PolicyRecord | None = None) -> Transcript:
        """Return the transcript of the episode, which must have ended.

        Args:
            policy: Name of the policy.
            record: The policy's record of the episode.

        Raises:
            ConfigurationError: If the episode has not ended, or the record does not have each of its turns.
        """
        if not self.done or not self._turns:
            raise ConfigurationError("The episode has not ended, so there is no transcript of it yet.")
        record = record or PolicyRecord()
        turns = self._turns
        if record.usage:
            usages = [*record.usage]
            if self._given_up is not None and len(usages) == len(turns) - 1:
                usages.append(turns[-1].usage)  # the policy wrote nothing in the turn that it gave up
            if len(usages) != len(turns):
                raise ConfigurationError(
                    f"The record of the policy {policy!r} has {len(record.usage)} entries for {len(turns)} turns; "
                    "PolicyRecord.usage must have one a turn, or none at all."
                )
            turns = [replace(turn, usage=usage) for turn, usage in zip(turns, usages, strict=True)]
        details = dict(record.details)
        if self._given_up is not None:
            details["given_up"] = {"kind": self._given_up.kind, "reason": self._given_up.reason}
        if self.blank_looks:
            details["blank_looks"] = True
        solved = bool(self.info.get("solved", False))
        return Transcript(
            id=self._name,
            policy=policy,
            task=self._task,
            prompt=self._prompt,
            prompt_images=self._prompt_images,
            turns=tuple(turns),
            solution=self._solution,
            solved=solved,
            score=float(self.info.get("score", solved)),
            reward=complete_reward(self.info, float(self._earned), over=True),
            truncated=self._truncated,
            system=details.pop("system", None),
            segments=record.segments,
            details=details,
        )

    def _kept(self, images: tuple[Image, ...]) -> tuple[Image, ...]:
        return tuple(images) if self.keep_images else ()


Makers = Mapping[Any, Callable[[], gymnasium.Env[Any, Any]]]  # invariant in its keys, which are texts or numbers
"""Functions that make the environment of each key."""


class EnvironmentPool:
    """Environments that are not in use, and functions that make more of them.

    Given to several calls of `play_episodes`, it keeps the environments from one to the next. A folder of photographs
    that several of them name is searched once. Not for several threads.
    """

    def __init__(self, makers: Makers) -> None:
        """Start with no environment.

        Args:
            makers: Function that makes the environment of each key.
        """
        self._makers: dict[str | int, Callable[[], gymnasium.Env[Any, Any]]] = dict(makers)
        self._idle: dict[str | int, list[EpisodeRecorder]] = {}
        self._images: dict[Hashable, ImageSource] = {}

    def take(self, key: str | int) -> EpisodeRecorder:
        """Return an environment with its recorder: one that was given back, or else a new one.

        Raises:
            ConfigurationError: If there is no such key.
        """
        if key not in self._makers:
            raise ConfigurationError(f"There is no environment {key!r}; there are {sorted(self._makers, key=str)}.")
        idle = self._idle.get(key)
        if idle:
            return idle.pop()
        with opening_once(self._images):
            return EpisodeRecorder(self._makers[key]())

    def give(self, key: str | int, recorder: EpisodeRecorder) -> None:
        """Take back an environment that works; the next episode resets it."""
        self._idle.setdefault(key, []).append(recorder)

    def close(self) -> None:
        """Close the environments that were given back, and drop them."""
        self._images = {}
        with contextlib.ExitStack() as stack:  # closes all, even if one raises
            for recorders in self._idle.values():
                for recorder in recorders:
                    stack.callback(recorder.env.close)
            self._idle = {}


@dataclass(frozen=True)
class EpisodeSpec:
    """An episode to be played.

    Attributes:
        env: Key of the environment that it is played in.
        seed: Seed of the environment.
        options: Options of its reset, such as ``{"level": 0}``.
        policy_seed: Seed of the policy's random numbers in this episode; None leaves it to the policy.
        name: Id of the transcript, unique in a run; made of grid, level and seed by default.
        keep_images: True to store the images in the transcript.
        blank_looks: True for images of feedback that are uniform grey; see `EpisodeRecorder`.
    """

    env: str | int
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    policy_seed: int | None = None
    name: str | None = None
    keep_images: bool = True
    blank_looks: bool = False


def play_episodes(
    policy: Policy,
    specs: Iterable[EpisodeSpec],
    makers: Makers | EnvironmentPool,
    *,
    batch: int = 8,
    policy_name: str = "policy",
    on_error: Callable[[EpisodeSpec, Exception], None] | None = None,
) -> Iterator[tuple[EpisodeSpec, Transcript]]:
    """Play episodes, ``batch`` at a time; a slot takes the next one as soon as it is free.

    An episode that the policy gives up (`agile_gym.policies.GivenUp`) ends there, unsolved, and the others go on.
    Puzzles do not depend on the size of the batch, and neither do results, for a policy that keeps to its contract.

    Args:
        policy: The policy. Its ``reset`` is the caller's.
        specs: The episodes; taken one by one, as slots become free.
        makers: Function that makes the environment of each key; environments are used again, and closed at the end. An
            `EnvironmentPool` keeps them for another call.
        batch: Number of episodes played at a time, at least 1.
        policy_name: For the record.
        on_error: Called with an episode whose environment raised, which is then left out; such environments are made
            anew. By default the error is raised.

    Yields:
        Each episode as soon as it has ended, with its transcript.

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
    """Begin the next episode that can be begun, and return whether there is one."""
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
    """Play a turn, and return whether the episode has ended, be it with an error."""
    try:
        return slot.step(text, usage)
    except Exception as error:
        if on_error is None:
            raise
        slot.discard()
        on_error(slot.spec, error)
        return True


class _Slot:
    """Slot of the batch: an episode that is played, with its environments."""

    spec: EpisodeSpec
    recorder: EpisodeRecorder
    playing = False
    failed = False

    def __init__(self, number: int, pool: EnvironmentPool) -> None:
        self.number = number
        self._pool = pool
        self._recorders: dict[str | int, EpisodeRecorder] = {}

    def begin(self, spec: EpisodeSpec) -> None:
        """Begin an episode."""
        recorder = self._recorders.get(spec.env)
        if recorder is None:
            recorder = self._recorders[spec.env] = self._pool.take(spec.env)
        recorder.keep_images, recorder.blank_looks = spec.keep_images, spec.blank_looks
        recorder.reset(seed=spec.seed, options=spec.options, policy_seed=spec.policy_seed, name=spec.name)
        self.spec, self.recorder = spec, recorder
        recorder.info["slot"] = self.number
        self.playing, self.failed = True, False

    def discard(self) -> None:
        """Drop an episode whose environment raised, and the environments."""
        self.failed = True
        with contextlib.suppress(Exception):  # it is broken already
            for recorder in self._recorders.values():
                recorder.env.close()
        self._recorders.clear()

    def step(self, text: str, usage: TurnUsage) -> bool:
        """Play a turn, and return whether the episode has ended."""
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
