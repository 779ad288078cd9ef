"""Environments that are kept for later, as making one can take longer than an episode in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium

from agile_gym.errors import ConfigurationError
from agile_gym.rollout.recorder import EpisodeRecorder

__all__ = ["EnvironmentPool"]


class EnvironmentPool:
    """Environments that nobody plays at the moment, and what makes more of them.

    Given to several calls of `play_episodes`, it keeps the environments from one to the next: a folder of photographs
    is then searched once for each episode that is played side by side, and not in every call. Not for several threads.
    """

    def __init__(self, makers: Mapping[str, Callable[[], gymnasium.Env[Any, Any]]]) -> None:
        """Begin with no environment.

        Args:
            makers: What makes the environment of each key.
        """
        self._makers = dict(makers)
        self._idle: dict[str, list[EpisodeRecorder]] = {}

    def take(self, key: str) -> EpisodeRecorder:
        """Return an environment with its recorder: one that was given back, or else a new one.

        Raises:
            ConfigurationError: If there is no such key.
        """
        if key not in self._makers:
            raise ConfigurationError(f"There is no environment {key!r}; there are {sorted(self._makers)}.")
        idle = self._idle.get(key)
        return idle.pop() if idle else EpisodeRecorder(self._makers[key]())

    def give(self, key: str, recorder: EpisodeRecorder) -> None:
        """Take back an environment that works; the next episode resets it."""
        self._idle.setdefault(key, []).append(recorder)

    def close(self) -> None:
        """Close the environments that were given back, and forget them."""
        with contextlib.ExitStack() as stack:  # closes all, even if one raises
            for recorders in self._idle.values():
                for recorder in recorders:
                    stack.callback(recorder.env.close)
            self._idle = {}
