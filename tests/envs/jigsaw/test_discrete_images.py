"""The observations of the discrete environment: one image, at any size and in any range of values."""

import pickle

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.envs.jigsaw.wrappers import ImageObservation, JigsawVisionDiscreteEnv
from agile_gym.errors import ConfigurationError

ID = "agile_gym:JigsawVisionDiscrete-v0"
ANSWER = 7  # of a 2x2 puzzle


def episode(actions=(0, 6, 3), seed=5, **options):
    """Return the observations of one episode, in order."""
    env = JigsawVisionDiscreteEnv(**{"image_size": 64, "initial_view": "board"} | options)
    seen = [env.reset(seed=seed)[0]]
    for action in actions:
        seen.append(env.step(np.int64(action))[0])
        assert seen[-1] in env.observation_space
    return seen


@pytest.mark.parametrize("low_high", [(0, 1), (-1, 1), [-0.5, 0.5], np.array([0, 255])])
def test_floats_are_the_same_picture_on_another_scale(low_high):
    low, high = low_high
    plain = episode((0, 6, ANSWER))
    for image, scaled in zip(plain, episode((0, 6, ANSWER), observation_range=low_high), strict=True):
        assert scaled.dtype == np.float32
        np.testing.assert_allclose(scaled, low + (high - low) * (image / 255.0), atol=1e-4)
    assert (plain[-1] == 0).all()
    assert (scaled == low).all()  # black


@pytest.mark.parametrize("size", [42, 96, (30, 50)])
def test_images_are_scaled_to_the_size_asked_for(size):
    height, width = (size, size) if isinstance(size, int) else size
    for image, scaled in zip(episode(), episode(observation_size=size), strict=True):
        assert scaled.shape == (height, width, 3)
        assert scaled.dtype == np.uint8
        method = cv2.INTER_AREA if height * width < 64 * 64 else cv2.INTER_CUBIC
        np.testing.assert_array_equal(scaled, cv2.resize(image, (width, height), interpolation=method))


def test_boards_of_any_grid_come_at_the_size_asked_for():
    for grid in ("1x3", "3x3", "4x5"):  # none divides 64
        observation = episode(actions=[0], grid=grid, observation_size=64)[0]
        assert observation.shape == (64, 64, 3)


def test_only_the_part_of_the_canvas_in_use_is_scaled():
    white = np.full((40, 80, 3), 255, np.uint8)  # twice as wide as high: the canvas has room below or beside it
    options = {"equal_pieces": "names", "images": [white], "max_pixels": 40 * 80, "image_size": None, "gap": 0}
    whole, scaled = episode([], **options)[0], episode([], **options, observation_size=32)[0]
    assert (whole == 0).any()
    assert (scaled == 255).all()
    assert (episode([ANSWER], **options, observation_size=32)[-1] == 0).all()


def test_scaled_observations_do_not_change_later():
    seen = episode(observation_size=32, observation_range=(0, 1))
    assert len({image.tobytes() for image in seen}) == 3  # the start, a swap, nothing, another swap
    np.testing.assert_array_equal(seen[1], seen[2])


@pytest.mark.parametrize(
    "options", [{}, {"observation_size": 32}, {"observation_range": (-1, 1), "observation_size": [20, 30]}]
)
def test_gymnasium_agrees_and_spaces_and_environments_can_be_pickled(options):
    env = gymnasium.make(ID, **options)
    check_env(env.unwrapped, skip_render_check=True)
    assert pickle.loads(pickle.dumps(env.observation_space)) == env.observation_space
    twin = pickle.loads(pickle.dumps(env.unwrapped))
    np.testing.assert_array_equal(env.reset(seed=9)[0], twin.reset(seed=9)[0])
    np.testing.assert_array_equal(env.step(np.int64(2))[0], twin.step(np.int64(2))[0])


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vectors_have_the_episodes_of_single_environments(mode):
    options = {"observation_size": 32, "observation_range": (-1, 1)}
    vector = gymnasium.make_vec(ID, num_envs=2, vectorization_mode=mode, **options)
    singles = [gymnasium.make(ID, **options) for _ in range(2)]
    observations = vector.reset(seed=3)[0]
    for index, single in enumerate(singles):
        np.testing.assert_array_equal(observations[index], single.reset(seed=3 + index)[0])
    observations = vector.step(np.array([1, 4]))[0]
    for index, single in enumerate(singles):
        np.testing.assert_array_equal(observations[index], single.step(np.int64([1, 4][index]))[0])
    vector.close()


@pytest.mark.parametrize("given", [(1, 0), (0, 0), (0, 1, 2), 1, "01", (0, float("nan")), (0, 256), (None, 1), {0: 1}])
def test_bad_ranges_are_refused(given):
    with pytest.raises(ConfigurationError, match=r"observation_range=.*give \(0, 1\)"):
        JigsawVisionDiscreteEnv(observation_range=given)


@pytest.mark.parametrize("given", [3, 9000, (32,), (32, 32, 3), "64", 1.5, True])
def test_bad_sizes_are_refused(given):
    with pytest.raises(ConfigurationError, match="observation_size="):
        JigsawVisionDiscreteEnv(observation_size=given)


def test_the_wrapper_alone_takes_the_same_arguments():
    env = ImageObservation(JigsawVisionEnv(image_size=64), observation_size=42, observation_range=(0, 1))
    image, info = env.reset(seed=0)
    assert image in env.observation_space
    assert image.shape == (42, 42, 3)
    assert len(info["images"]) == 4  # what a policy that reads texts would see
    with pytest.raises(ConfigurationError, match="'image'"):
        ImageObservation(env)
