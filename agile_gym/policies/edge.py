"""The honest baseline without learning: solves puzzles from pixels alone, by matching the pieces' borders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.dialects import write_answer
from agile_gym.actions.primitives import Answer
from agile_gym.envs.episode import JigsawTask
from agile_gym.errors import ConfigurationError
from agile_gym.policies.base import Observation
from agile_gym.policies.edge_solver import solve_by_edges

__all__ = ["EdgePolicy"]


class EdgePolicy:
    """Looks at the pieces once, solves the puzzle with `solve_by_edges`, and answers in its first turn.

    It uses nothing but what a model sees: the images of the first observation. Pieces must be upright.
    """

    def reset(self, seed: int | None = None) -> None:
        """Do nothing: there is no memory, and nothing is random."""

    def act(self, observations: Sequence[Observation], infos: Sequence[dict[str, Any]]) -> list[str]:
        """Write an answer for each episode.

        Raises:
            ConfigurationError: If pieces are turned, or the first observation of an episode was not given.
        """
        return [_answer(*pair) for pair in zip(observations, infos, strict=True)]


def _answer(observation: Observation, info: dict[str, Any]) -> str:
    task: JigsawTask = info["task"]
    if task.rotations:
        raise ConfigurationError(
            "EdgePolicy solves puzzles with upright pieces: make the environment without rotations."
        )
    if info["turn"] != 0:
        raise ConfigurationError("EdgePolicy needs the first observation of an episode; it was given a later one.")
    rows, cols = task.grid
    if task.initial_view == "board":
        pieces = _cut_board(observation, rows, cols, task.piece_size)
    else:
        pieces = list(info["images"][: rows * cols])
    order = solve_by_edges(pieces, rows, cols)
    return write_answer(Answer(tuple(task.names[piece] for piece in order)), "I compared the borders of all pieces.")


def _cut_board(observation: Observation, rows: int, cols: int, piece_size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Cut the image of a board into its pieces, leaving out the gaps."""
    (height, width), (high, wide) = observation["image_size"], piece_size
    step_y = high if rows == 1 else (height - high) // (rows - 1)
    step_x = wide if cols == 1 else (width - wide) // (cols - 1)
    image: NDArray[np.uint8] = observation["image"]
    return [
        image[row * step_y : row * step_y + high, col * step_x : col * step_x + wide]
        for row in range(rows)
        for col in range(cols)
    ]
