"""Made-up scenes, and parts of photographs that are varied."""

import numpy as np
import pytest

pytest.importorskip("torch")

from agile_gym.models.tiny.puzzles import draw_scene, vary, with_scenes


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
    shown = with_scenes(photos, 12, 5)
    assert len(shown) == 24
    assert all(np.array_equal(one, other) for one, other in zip(shown[:3], photos, strict=True))
    for number, part in enumerate(shown[3:12]):
        height, width = part.shape[:2]
        assert 20 <= height <= 40
        assert 30 <= width <= 60
        windows = np.lib.stride_tricks.sliding_window_view(photos[number % 3], part.shape)
        assert (windows == part).all((-3, -2, -1)).any()
    assert all(scene.shape == (256, 256, 3) for scene in shown[12:])
    again = with_scenes(photos, 12, 5)
    assert all(np.array_equal(one, other) for one, other in zip(shown, again, strict=True))
    assert not np.array_equal(shown[12], with_scenes(photos, 12, 6)[12])
    assert len(with_scenes(photos, 2, 5)) == 5  # more photographs than scenes: none of their parts


def ramps(count, rng):
    """Return parts that become lighter from left to right."""
    start = rng.integers(0, 60, (count, 1, 1, 3))
    return np.broadcast_to(start + np.arange(0, 192, 3)[None, None, :, None], (count, 64, 64, 3)).astype(np.uint8)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_varied_parts_continue_where_the_parts_did(share):
    rng = np.random.default_rng(0)
    parts = ramps(40, rng)
    before = parts.copy()
    varied = vary(parts, rng, share)
    assert np.array_equal(parts, before)
    assert (np.diff(varied.astype(int), axis=2) >= 0).all()  # a blend of ramps is one, and colours change alike
    assert (varied == varied[:, :1]).all()
    changed = (varied != before).any((1, 2, 3)).mean()
    assert changed > 0.3 if share < 1 else changed > 0.9
    assert np.array_equal(vary(parts, rng, 0.0), before)


def test_a_blend_is_of_two_whole_pictures():
    parts = np.zeros((2, 64, 64, 3), np.uint8)
    parts[0] = 60
    parts[1, :, ::16] = 240  # lines everywhere
    for seed in range(20):
        shown = vary(parts, np.random.default_rng(seed), 0.5)[0].astype(float)
        lines = shown[:, ::16].mean((0, 2)) - shown[:, 8::16].mean((0, 2))
        if (lines > 1).any():
            assert (lines > 0).all()  # the other picture shows in every place
            break
    else:
        pytest.fail("never blended")


def test_varied_parts_repeat_themselves():
    drawn = ramps(12, np.random.default_rng(3))
    one, two = (vary(drawn, np.random.default_rng(4), 0.5) for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, drawn)
