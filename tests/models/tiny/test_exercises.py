"""Exercises are drawn beside the steps of the training, and are the same as if each were drawn when it is needed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers", reason="the tiny model needs the extra vlm")

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ConfigurationError
from agile_gym.images import open_images
from agile_gym.models.tiny.exercises import Exercise, ExerciseDrawer, VisionPretrainingConfig
from agile_gym.models.tiny.puzzles import BoardDrawer, arrange, joints, puzzle_config, small_photographs, sound

CONFIG = VisionPretrainingConfig(seed=5, grids=((2, 2), (2, 3)), few=4, batch=10, seams=0.5, pieces=0.4)
GRIDS = [(2, 2), (1, 3), (3, 1), (3, 3), (2, 4)]


def noise(seed=0, size=(80, 96, 3)):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def unique(rows, cols):
    """A photograph whose every pixel is another one, exactly as large as a board."""
    count = 32 * rows * 32 * cols
    values = np.arange(count)
    return np.stack([values % 251, values // 251 % 251, values // 63001], -1).astype(np.uint8).reshape(32 * rows, -1, 3)


def _same(one: Exercise, other: Exercise) -> bool:
    return (
        one.grid == other.grid
        and np.array_equal(one.boards.images, other.boards.images)
        and np.array_equal(one.boards.arranged, other.boards.arranged)
        and np.array_equal(one.boards.pieces, other.boards.pieces)
        and np.array_equal(one.boards.home, other.boards.home)
        and len(one.boards.seams) == len(other.boards.seams)
        and all(
            np.array_equal(a.images, b.images) and np.array_equal(a.sound, b.sound)
            for a, b in zip(one.boards.seams, other.boards.seams, strict=True)
        )
        and one.state == other.state
    )


def _drawer() -> ExerciseDrawer:
    return ExerciseDrawer([noise()], CONFIG)


def test_exercises_drawn_ahead_are_those_drawn_one_by_one():
    alone = _drawer()
    expected = [alone.draw() for _ in range(6)]
    assert {exercise.grid for exercise in expected} == {0, 1}
    drawn = list(_drawer().draw_ahead(6))
    assert all(map(_same, drawn, expected))
    assert not _same(drawn[0], drawn[1])


def test_the_draws_go_on_from_the_state_of_an_exercise_though_the_next_was_drawn_already():
    expected = list(_drawer().draw_ahead(4))
    ahead = _drawer().draw_ahead(4)
    second = [next(ahead), next(ahead)][1]
    ahead.close()
    other = _drawer()
    other.set_state(second.state)
    assert all(map(_same, other.draw_ahead(2), expected[2:]))


def test_an_exercise_has_as_many_boards_seams_and_pieces_as_the_settings_say():
    for exercise in _drawer().draw_ahead(4):
        boards, places = exercise.boards, (4, 6)[exercise.grid]
        assert len(boards.images) == len(boards.arranged) == 10
        assert sum(len(view.images) for view in boards.seams) == 5
        assert boards.pieces.shape == (1, places, 32, 32, 3)
    none = VisionPretrainingConfig(few=0, batch=3, seams=0, pieces=0)
    boards = ExerciseDrawer([noise()], none).draw().boards
    assert (len(boards.images), boards.seams, len(boards.pieces)) == (3, (), 0)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_board_shows_at_each_place_the_piece_that_belongs_where_it_is_said_to(grid):
    rows, cols = grid
    photo = unique(rows, cols)
    boards = BoardDrawer([photo], grid, 3).draw(80, seams=80, pieces=4 * rows * cols)
    whole = {}
    for image, arranged in zip(boards.images, boards.arranged, strict=True):
        cells = image.reshape(rows, 32, cols, 32, 3).swapaxes(1, 2).reshape(rows * cols, 32, 32, 3)
        solved = np.empty_like(cells)
        solved[arranged] = cells
        solved = solved.reshape(rows, cols, 32, 32, 3).swapaxes(1, 2).reshape(image.shape)
        whole.setdefault(solved.tobytes(), []).append(arranged)
    assert all(len(shown) == 4 for shown in whole.values())  # four arrangements of each part
    parts = [np.frombuffer(part, np.uint8).reshape(photo.shape) for part in whole]
    rough = [np.abs(np.diff(part[..., 2].astype(int), axis=0)).max() for part in parts]
    assert max(rough) <= 3  # the parts are whole: rows follow each other everywhere
    for shown, home in zip(boards.pieces, boards.home, strict=True):
        solved = np.empty_like(shown)
        solved[home] = shown
        solved = solved.reshape(rows, cols, 32, 32, 3).swapaxes(1, 2).reshape(photo.shape)
        assert solved.tobytes() in whole
    for view in boards.seams:
        assert view.images.shape[1] <= 64
        assert view.images.shape[2] <= 64


@pytest.mark.parametrize("grid", GRIDS)
def test_seams_are_sound_where_neighbours_are_neighbours(grid):
    rows, cols = grid
    arranged = arrange(np.random.default_rng(0), 50, rows * cols)
    pairs = joints(rows, cols)
    assert pairs.shape == (2, rows * (cols - 1) + (rows - 1) * cols)
    expected = []
    for row in arranged.tolist():
        where = [divmod(home, cols) for home in row]
        steps = [(divmod(b, cols)[0] - divmod(a, cols)[0], divmod(b, cols)[1] - divmod(a, cols)[1]) for a, b in pairs.T]
        told = [(where[b][0] - where[a][0], where[b][1] - where[a][1]) for a, b in pairs.T]
        expected.append([step == seen for step, seen in zip(steps, told, strict=True)])
    assert sound(arranged, rows, cols).tolist() == expected


@pytest.mark.parametrize("pieces", [2, 4, 9])
def test_arrangements_are_right_or_have_pieces_moved(pieces):
    arranged = arrange(np.random.default_rng(1), 4000, pieces)
    assert (np.sort(arranged, 1) == np.arange(pieces)).all()
    moved = np.bincount((arranged != np.arange(pieces)).sum(1), minlength=pieces + 1) / 4000
    assert 0.17 < moved[0] < 0.23
    assert moved[1] == 0
    assert (moved[2:] > 0.02).all()  # all kinds are there


def test_a_seam_is_called_sound_as_its_pixels_are():
    photo = np.repeat(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], 96, 0).repeat(3, 2)  # darker to lighter
    boards = BoardDrawer([photo], (1, 3), 0).draw(400, seams=400)
    seen = []
    for view in boards.seams:
        middle = np.abs(np.diff(view.images[:, 0, :, 0].astype(int), axis=1)).max(1)
        for jump, fits in zip(middle, view.sound, strict=True):
            assert (jump < 20) == fits
            seen.append(bool(fits))
    assert 0.2 < np.mean(seen) < 0.8


def test_a_board_is_what_an_observation_shows():
    photo = noise(1, (64, 64, 3))
    env = JigsawVisionEnv(**(vars(puzzle_config((2, 2))) | {"images": [photo], "crop": "center"}))
    env.reset(seed=3)
    _, _, _, _, shown = env.step("<think></think><code>\nobservation_image_1 = observation(state)\n</code>")
    drawer = BoardDrawer([photo], (2, 2), 0)
    drawer._scale = None  # the whole photograph, as the environment shows it
    board = shown["images"][0]
    assert board.shape == (64, 64, 3)
    boards = drawer.draw(600)
    mirrored = photo[:, ::-1]
    quarters = photo.reshape(2, 32, 2, 32, 3).swapaxes(1, 2).reshape(4, 32, 32, 3)
    seen = board.reshape(2, 32, 2, 32, 3).swapaxes(1, 2).reshape(4, 32, 32, 3)
    arranged = [next(k for k in range(4) if np.array_equal(quarters[k], piece)) for piece in seen]
    same = [image for image, row in zip(boards.images, boards.arranged, strict=True) if row.tolist() == arranged]
    assert any(np.array_equal(image, board) for image in same)
    right = [image for image, row in zip(boards.images, boards.arranged, strict=True) if row.tolist() == [0, 1, 2, 3]]
    assert {image.tobytes() for image in right} == {photo.tobytes(), mirrored.tobytes()}


def test_photographs_are_shrunk_and_kept():
    photos = [noise(0, (600, 300, 3)), noise(1, (40, 60, 3))]
    small = small_photographs(open_images(photos))
    assert [photo.shape for photo in small] == [(512, 256, 3), (40, 60, 3)]
    assert np.array_equal(small[1], photos[1])


def test_refuses_more_pieces_than_have_names_of_one_token():
    with pytest.raises(ConfigurationError, match="more than 26 pieces"):
        BoardDrawer([noise()], (6, 5), 0)


def test_a_photograph_that_cannot_be_read_is_told_at_the_start(tmp_path):
    from agile_gym.errors import ImageError

    Image.fromarray(noise()).save(tmp_path / "photo.png")
    images = open_images(tmp_path)
    (tmp_path / "photo.png").unlink()
    with pytest.raises(ImageError, match="photo"):
        small_photographs(images)
