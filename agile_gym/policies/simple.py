"""Two reference points: a policy that guesses, and one that knows."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.dialects import write_answer
from agile_gym.actions.primitives import Answer
from agile_gym.arguments import check_seed
from agile_gym.envs.episode import JigsawTask
from agile_gym.errors import ConfigurationError
from agile_gym.policies.base import Observation

__all__ = ["OraclePolicy", "RandomPolicy"]


class RandomPolicy:
    """Answers at once with a uniform permutation: right with probability 1/n! (times 1/4^n for turned pieces).

    The answer to a puzzle depends on the puzzle's image and on the seed only: that of the episode,
    ``info["policy_seed"]``, if there is one, else that of the policy. So it is the same in every batch, on every worker
    and after an interruption.
    """

    def __init__(self, seed: int | None = None) -> None:
        """Make the policy.

        Args:
            seed: Seed of the answers, at least 0; None draws one.
        """
        self.reset(seed)

    def reset(self, seed: int | None = None) -> None:
        """Seed the answers.

        Raises:
            ConfigurationError: If the seed is not a whole number of at least 0, or None.
        """
        self._seed = int(np.random.SeedSequence(check_seed(seed)).generate_state(1)[0])

    def act(self, observations: Sequence[Observation], infos: Sequence[dict[str, Any]]) -> list[str]:
        """Write an answer for each episode."""
        texts: list[str] = []
        for observation, info in zip(observations, infos, strict=True):
            task: JigsawTask = info["task"]
            image: NDArray[np.uint8] = observation["image"]
            seed: int = info.get("policy_seed", self._seed)
            rng = np.random.default_rng([seed, zlib.crc32(np.ascontiguousarray(image).data)])
            names = task.names
            places: list[int] = rng.permutation(len(names)).tolist()
            order = tuple(names[place] for place in places)
            turns = tuple((rng.integers(4, size=len(names)) * 90).tolist()) if task.rotations else None
            texts.append(write_answer(Answer(order, turns), "I guess."))
        return texts


class OraclePolicy:
    """Answers at once with the solution, which the environment must tell: make it with ``reveal=True``."""

    def __init__(self, *, think: str = "I know the solution.") -> None:
        """Choose what it writes as its thought.

        Args:
            think: The thought, perhaps empty.
        """
        self._think = think

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
            texts.append(write_answer(answer, self._think))
        return texts
