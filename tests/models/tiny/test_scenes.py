"""Made-up scenes, and puzzles that are varied."""

import numpy as np
import pytest

pytest.importorskip("torch")

from agile_gym.images import open_images
from agile_gym.models.tiny.puzzles import PuzzleBatch, PuzzleDrawer, draw_scene, vary, with_scenes


def test_scenes_are_pictures_that_continue_and_differ():
    scenes = [draw_scene(np.random.default_rng(seed)) for seed in range(8)]
    for scene in scenes:
        assert scene.shape == (256, 256, 3)
        assert scene.dtype == np.uint8
        shown = scene.astype(float)
        beside = np.abs(shown[:, 127] - shown[:, 128]).mean()
        apart = np.abs(shown[:, 64] - shown[:, 192]).mean()
        assert beside < 0.7 * apart  # what is near is alike
    assert np.array_equal(scenes[3], draw_scene(np.random.default_rng(3)))
    assert len({scene.tobytes() for scene in scenes}) == 8


@pytest.mark.slow
def test_scenes_join_photographs_half_and_half():
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (40, 60, 3), np.uint8) for _ in range(3)]
    joined = with_scenes(open_images(photos), 12, 5)
    assert len(joined) == 24
    shown = [joined.load(index) for index in range(24)]
    assert all(np.array_equal(one, other) for one, other in zip(shown[:3], photos, strict=True))
    for number, part in enumerate(shown[3:12]):
        height, width = part.shape[:2]
        assert 20 <= height <= 40
        assert 30 <= width <= 60
        windows = np.lib.stride_tricks.sliding_window_view(photos[number % 3], part.shape)
        assert (windows == part).all((-3, -2, -1)).any()
    assert all(scene.shape == (256, 256, 3) for scene in shown[12:])
    again = with_scenes(open_images(photos), 12, 5)
    assert all(np.array_equal(shown[index], again.load(index)) for index in range(24))
    other = with_scenes(open_images(photos), 12, 6)
    assert not np.array_equal(shown[12], other.load(12))


def steps_of_grey(count, rng):
    """Return puzzles of one picture: its places, from first to last, are lighter and lighter."""
    home = np.stack([rng.permutation(4) for _ in range(count)]).astype(np.int64)
    pieces = np.empty((count, 4, 32, 32, 3), np.uint8)
    pieces[:] = (40 + 50 * home)[:, :, None, None, None]
    return PuzzleBatch(pieces, home)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_varied_puzzles_keep_their_solutions(share):
    rng = np.random.default_rng(0)
    puzzles = steps_of_grey(40, rng)
    before = puzzles.pieces.copy()
    varied = vary(puzzles, rng, share)
    assert np.array_equal(puzzles.pieces, before)
    assert np.array_equal(varied.home, puzzles.home)
    # A blend of a picture with itself is the picture, and colours change alike in all pieces, dark to light.
    lightness = varied.pieces.reshape(40, 4, -1).astype(float).mean(2)
    assert np.array_equal(np.argsort(lightness, 1), puzzles.solution)
    changed = (varied.pieces != before).any((1, 2, 3, 4)).mean()
    assert changed > 0.3 if share < 1 else changed > 0.9
    assert np.array_equal(vary(puzzles, rng, 0.0).pieces, before)


def test_a_blend_is_of_two_whole_pictures():
    first, second = np.zeros((1, 4, 32, 32, 3), np.uint8), np.zeros((1, 4, 32, 32, 3), np.uint8)
    first[0, :, :, :, :] = np.arange(4)[:, None, None, None] * 60  # in the order of the places
    second[0, :, 3] = 240  # a line in each place
    home = np.array([[2, 0, 3, 1], [1, 3, 0, 2]])
    solved = np.concatenate([first, second])
    puzzles = PuzzleBatch(np.take_along_axis(solved, home[..., None, None, None], 1), home)
    for seed in range(20):
        varied = vary(puzzles, np.random.default_rng(seed), 0.5)
        shown = np.take_along_axis(varied.pieces, varied.solution[..., None, None, None], 1).astype(float)
        line = shown[0, :, 3].mean((1, 2)) - shown[0, :, 9].mean((1, 2))
        if (line > 1).any():
            assert (line > 0).all()  # the other picture shows in every place
            break
    else:
        pytest.fail("never blended")


def test_varied_puzzles_repeat_themselves():
    drawn = PuzzleDrawer(open_images(), (2, 2), 3).draw(12)
    one, two = (vary(drawn, np.random.default_rng(4), 0.5).pieces for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, drawn.pieces)
