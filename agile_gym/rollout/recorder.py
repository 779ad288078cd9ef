"""Records one episode while it is played."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ConfigurationError
from agile_gym.policies.base import GivenUp
from agile_gym.rollout.transcript import Image, PolicyRecord, Transcript, Turn, TurnUsage

__all__ = ["EpisodeRecorder"]


class EpisodeRecorder:
    """Plays an environment and keeps what a `Transcript` needs.

    Attributes:
        env: The environment, perhaps wrapped.
        observation: The last observation.
        info: The last ``info``.
        done: Whether the episode is over, or has not begun.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], *, keep_images: bool = True) -> None:
        """Wrap an environment.

        Args:
            env: A `JigsawVisionEnv`, perhaps wrapped by wrappers that leave observations and actions as they are.
            keep_images: Whether transcripts hold the images; without them they are small.

        Raises:
            ConfigurationError: If it is another environment.
        """
        jigsaw = env.unwrapped
        if not isinstance(jigsaw, JigsawVisionEnv):
            raise ConfigurationError(f"EpisodeRecorder records a JigsawVision environment; this is {jigsaw}.")
        self.env = env
        self.keep_images = keep_images
        self.done = True
        self.observation: dict[str, Any] = {}
        self.info: dict[str, Any] = {}
        self._jigsaw = jigsaw
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
            policy_seed: Seed of what the policy draws in this episode, for the record and for ``info``.
            name: The transcript's id; made of grid, level and seed by default.
        """
        self.observation, self.info = self.env.reset(seed=seed, options=None if options is None else dict(options))
        if policy_seed is not None:
            self.info["policy_seed"] = policy_seed
        episode = self._jigsaw.episode
        rules, task = self._jigsaw.rules, self.info["task"]
        self._turns = []
        self._truncated = False
        self._given_up: GivenUp | None = None
        self._prompt: str = self.observation["text"]
        self._prompt_images = self._kept(self.info["images"])
        puzzle, workspace = episode.puzzle, episode.workspace
        self._solution = tuple(workspace.state_list(puzzle.solution, puzzle.turns))
        grid = f"{rules.rows}x{rules.cols}"
        self._name = name or f"{grid}-L{puzzle.level}-{seed}"
        self._task: dict[str, Any] = {
            "grid": grid,
            "level": puzzle.level,
            "names": list(task.names),
            "dialect": task.dialect,
            "initial_view": task.initial_view,
            "piece_size": list(task.piece_size),
            "rotations": task.rotations,
            "max_turns": episode.max_turns,
            "seed": seed,
            "policy_seed": policy_seed,
            "image_id": self.info["image_id"],
        }
        self.done = False

    def step(self, text: str, usage: TurnUsage | None = None) -> None:
        """Play a turn.

        Args:
            text: What the model wrote.
            usage: What the policy spent on it, if it is known already.
        """
        start = time.perf_counter()
        self.observation, _, terminated, truncated, self.info = self.env.step(text)
        seconds = time.perf_counter() - start
        info = self.info
        self._turns.append(
            Turn(
                text=text,
                feedback=self.observation["text"],
                images=self._kept(info["images"]),
                primitives=tuple(type(primitive).__name__ for primitive in info["primitives"]),
                error=info["error"],
                state=tuple(self._jigsaw.episode.workspace.state_list()),
                reward=info["reward"],
                env_seconds=seconds,
                usage=usage or TurnUsage(0.0),
            )
        )
        self.done, self._truncated = terminated or truncated, truncated
        if self._task["policy_seed"] is not None:
            info["policy_seed"] = self._task["policy_seed"]

    def give_up(self, given_up: GivenUp, usage: TurnUsage | None = None) -> None:
        """End the episode unsolved, as its policy cannot go on. A last turn without a text tells why.

        Args:
            given_up: The kind of error, and the reason.
            usage: What the policy spent on it, if that is known.
        """
        self._turns.append(
            Turn(
                text="",
                feedback=given_up.reason,
                images=(),
                primitives=(),
                error=given_up.kind,
                state=tuple(self._jigsaw.episode.workspace.state_list()),
                reward=self._jigsaw.episode.give_up(),
                env_seconds=0.0,
                usage=usage or TurnUsage(0.0),
            )
        )
        self.info = {**self.info, "reward": self._turns[-1].reward, "solved": False, "score": 0.0}
        self.done, self._given_up = True, given_up

    def finish(self, policy: str, record: PolicyRecord | None = None) -> Transcript:
        """Return the transcript of the episode, which must be over.

        Args:
            policy: Name of the policy.
            record: What the policy tells of the episode.

        Raises:
            ConfigurationError: If the episode is not over, or the record does not tell of each of its turns.
        """
        if not self.done or not self._turns:
            raise ConfigurationError("The episode is not over, so there is no transcript of it yet.")
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
        return Transcript(
            id=self._name,
            policy=policy,
            task=self._task,
            prompt=self._prompt,
            prompt_images=self._prompt_images,
            turns=tuple(turns),
            solution=self._solution,
            solved=bool(self.info["solved"]),
            score=float(self.info["score"]),
            reward=self.info["reward"],
            truncated=self._truncated,
            system=details.pop("system", None),
            segments=record.segments,
            details=details,
        )

    def _kept(self, images: tuple[Image, ...]) -> tuple[Image, ...]:
        return tuple(images) if self.keep_images else ()
