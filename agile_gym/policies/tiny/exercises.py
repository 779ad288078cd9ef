"""What the steps of the eyes' training learn from, each drawn in a thread beside the step before it."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agile_gym.images import ImageSource
from agile_gym.policies.tiny.eyes_config import EyesConfig, Stage
from agile_gym.policies.tiny.puzzles import Lesson, PuzzleBatch, PuzzleDrawer, random_state, set_random_state
from agile_gym.policies.tiny.scenes import vary, with_scenes

__all__ = ["Exercise", "ExerciseDrawer"]

BOARDS_AMONG = 4
"""Of so many puzzles one is also shown as a board in the second stage; in the first, all are."""
VARIED = 0.5
"""Share of the puzzles that are blended, and of those that are recoloured, where there are few images."""
THINKING = 0.5
"""Share of the steps of the second stage in which something may stand in the thought before the answer."""


@dataclass(frozen=True)
class Exercise:
    """What one step learns from.

    Attributes:
        grid: Index of the grid.
        batch: The puzzles.
        boards: (M, 32, 32, 3) uint8, boards of the first M puzzles.
        arranged: (M, P) int64, for each place of a board the place where its piece belongs.
        turns: Index of the lesson: the turns that the first text speaks of.
        thoughts: (N, T) int64, ids that stand in the thoughts; T may be 0.
        state: Where the draws are after this one, for `ExerciseDrawer.set_state`.
    """

    grid: int
    batch: PuzzleBatch
    boards: NDArray[np.uint8]
    arranged: NDArray[np.int64]
    turns: int
    thoughts: NDArray[np.int64]
    state: dict[str, Any]


class ExerciseDrawer:
    """Draws exercises, all from the seed of the configuration."""

    def __init__(self, images: ImageSource, config: EyesConfig, lessons: list[list[Lesson]]) -> None:
        """Prepare.

        Args:
            images: The photographs, as `agile_gym.policies.tiny.puzzles.training_images` gives them.
            config: How the eyes are trained.
            lessons: For every grid the conversations that answers may belong to.
        """
        self._varied = len(images) < config.few
        self._images = with_scenes(images, config.few, config.seed) if self._varied else images
        self._config, self._lessons = config, lessons
        self._choices = np.random.default_rng([config.seed, 0])
        self.begin(0)

    def begin(self, stage: int) -> None:
        """Begin a stage, which is numbered from 0, with puzzles of its own."""
        seeds = [self._config.seed, stage + 1]
        grids = enumerate(self._config.grids)
        self._drawers = [PuzzleDrawer(self._images, grid, [*seeds, index]) for index, grid in grids]

    def get_state(self) -> dict[str, Any]:
        """Return where the draws are."""
        return {"choices": random_state(self._choices), "drawers": [drawer.get_state() for drawer in self._drawers]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on with the draws of a stage from where others were."""
        set_random_state(self._choices, state["choices"])
        for drawer, drawn in zip(self._drawers, state["drawers"], strict=True):
            drawer.set_state(drawn)

    def draw(self, stage: Stage, size: int) -> Exercise:
        """Draw an exercise of a number of puzzles."""
        choices = self._choices
        grid = int(choices.integers(len(self._drawers)))
        drawer = self._drawers[grid]
        batch = drawer.draw(size)
        if self._varied:
            batch = vary(batch, choices, VARIED)
        answers = stage == "answers"
        boards, arranged = drawer.boards(batch.first(-(-size // BOARDS_AMONG)) if answers else batch)
        turns, long = 0, 0
        if answers:
            turns = int(choices.integers(len(self._lessons[grid])))
            long = int(choices.integers(self._config.thought + 1)) if choices.random() < THINKING else 0
        thoughts = choices.choice(self._lessons[grid][turns].words, (size, long))
        return Exercise(grid, batch, boards, arranged, turns, thoughts, self.get_state())

    def draw_ahead(self, stage: Stage, size: int, count: int) -> Generator[Exercise]:
        """Draw some exercises, always the next one in a thread while the one before it is in use.

        Until the iterator is used up or closed, nothing else may draw.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="exercises") as threads:
            coming = threads.submit(self.draw, stage, size) if count else None
            for left in range(count - 1, -1, -1):
                exercise = coming.result() if coming else self.draw(stage, size)
                coming = threads.submit(self.draw, stage, size) if left else None
                yield exercise
