"""Two reference points: a policy that guesses, and one that knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from agile_gym.actions.dialects import write_answer
from agile_gym.actions.primitives import Answer
from agile_gym.envs.episode import JigsawTask
from agile_gym.errors import ConfigurationError
from agile_gym.policies.base import Observation

__all__ = ["OraclePolicy", "RandomPolicy"]


class RandomPolicy:
    """Answers at once with a uniform permutation: right with probability 1/n! (times 1/4^n for turned pieces)."""

    def __init__(self, seed: int | None = None) -> None:
        """Make the policy.

        Args:
            seed: Seed of the answers.
        """
        self.reset(seed)

    def reset(self, seed: int | None = None) -> None:
        """Seed the answers."""
        self._rng = np.random.default_rng(seed)

    def act(self, observations: Sequence[Observation], infos: Sequence[dict[str, Any]]) -> list[str]:
        """Write an answer for each episode."""
        texts: list[str] = []
        for info in infos:
            task: JigsawTask = info["task"]
            names = task.names
            places: list[int] = self._rng.permutation(len(names)).tolist()
            order = tuple(names[place] for place in places)
            turns = tuple((self._rng.integers(4, size=len(names)) * 90).tolist()) if task.rotations else None
            texts.append(write_answer(Answer(order, turns), "I guess."))
        return texts


class OraclePolicy:
    """Answers at once with the solution, which the environment must tell: make it with ``reveal=True``."""

    def reset(self, seed: int | None = None) -> None:
        """Do nothing: the solution comes with every step."""

    def act(self, observations: Sequence[Observation], infos: Sequence[dict[str, Any]]) -> list[str]:
        """Write the right answer for each episode.

        Raises:
            ConfigurationError: If the environment does not tell the solution.
        """
        texts: list[str] = []
        for info in infos:
            if "solution" not in info:
                raise ConfigurationError("OraclePolicy needs the solution: make the environment with reveal=True.")
            solution: list[Any] = info["solution"]
            rotated = not isinstance(solution[0], str)
            names = tuple(entry[0] for entry in solution) if rotated else tuple(solution)
            answer = Answer(names, tuple(entry[1] for entry in solution) if rotated else None)
            texts.append(write_answer(answer, "I know the solution."))
        return texts
