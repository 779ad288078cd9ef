"""Exercises are drawn beside the steps of the training, and are the same as if each were drawn when it is needed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers", reason="the tiny model needs the extra vlm")

from agile_gym.errors import ImageError
from agile_gym.images import open_images
from agile_gym.models.tiny import build_processor
from agile_gym.models.tiny.exercises import Exercise, ExerciseDrawer, VisionPretrainingConfig
from agile_gym.models.tiny.puzzles import Lesson

CONFIG = VisionPretrainingConfig(seed=5, grids=((2, 2), (2, 3)), few=4)


def _drawer() -> ExerciseDrawer:
    photo = np.random.default_rng(0).integers(0, 256, (80, 96, 3), np.uint8)
    processor = build_processor()
    return ExerciseDrawer(open_images([photo]), CONFIG, [[Lesson(processor, grid, 2)] for grid in CONFIG.grids])


def _same(one: Exercise, other: Exercise) -> bool:
    return (
        one.grid == other.grid
        and np.array_equal(one.batch.pieces, other.batch.pieces)
        and np.array_equal(one.batch.home, other.batch.home)
        and np.array_equal(one.boards, other.boards)
        and np.array_equal(one.arranged, other.arranged)
        and np.array_equal(one.thoughts, other.thoughts)
        and one.state == other.state
    )


def test_exercises_drawn_ahead_are_those_drawn_one_by_one():
    alone = _drawer()
    expected = [alone.draw("answers", 5) for _ in range(6)]
    assert {exercise.grid for exercise in expected} == {0, 1}
    drawn = list(_drawer().draw_ahead("answers", 5, 6))
    assert all(map(_same, drawn, expected))
    assert not _same(drawn[0], drawn[1])


@pytest.mark.slow
def test_the_draws_go_on_from_the_state_of_an_exercise_though_the_next_was_drawn_already():
    expected = list(_drawer().draw_ahead("matching", 4, 4))
    ahead = _drawer().draw_ahead("matching", 4, 4)
    second = [next(ahead), next(ahead)][1]
    ahead.close()
    other = _drawer()
    other.set_state(second.state)
    assert all(map(_same, other.draw_ahead("matching", 4, 2), expected[2:]))


def test_a_photograph_that_cannot_be_read_is_an_error_of_the_step_that_needs_it(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (80, 96, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    config = VisionPretrainingConfig(few=0)
    drawer = ExerciseDrawer(open_images(tmp_path), config, [[Lesson(build_processor(), (2, 2), 2)]])
    (tmp_path / "photo.png").unlink()
    with pytest.raises(ImageError, match="photo"):
        list(drawer.draw_ahead("answers", 2, 2))
