"""Boards that are shown as thumbnails, whose crops show the details."""

import numpy as np
import pytest

from agile_gym.coldstart import ExpertPolicy
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ConfigurationError
from agile_gym.policies import EdgePolicy
from agile_gym.puzzle.pixels import resize

CROP = "<think>t</think><code>b = observation(state)\nc = crop(b, [0.25, 0.25, 0.75, 0.75])</code>"
OBSERVE = "<think>t</think><code>b = observation(state)</code>"


@pytest.fixture
def pair():
    """Return the same puzzle shown at its full size and at a quarter."""
    made = [
        JigsawVisionEnv(image_size=64, initial_view="both", board_scale=scale, reveal=True) for scale in (1.0, 0.25)
    ]
    yield made
    for env in made:
        env.close()


def test_boards_are_small_and_all_else_is_as_it_was(pair):
    (full, full_info), (small, small_info) = (env.reset(seed=3) for env in pair)
    assert full["image_size"].tolist() == [64, 64]
    assert small["image_size"].tolist() == [16, 16]
    assert (small["image"][:16, :16] == resize(full["image"], 16, 16)).all()
    assert not small["image"][16:].any()
    assert not small["image"][:, 16:].any()
    assert small["text"] == full["text"]
    for first, second in zip(full_info["images"][:4], small_info["images"][:4], strict=True):
        assert (first == second).all()
    assert small_info["images"][4].shape == (16, 16, 3)
    assert small_info["task"].board_size == full_info["task"].board_size == (64, 64)
    # An observation is small again; a crop of it has the pixels of the full board.
    seen = [env.step(OBSERVE)[4]["images"][0] for env in pair]
    assert (seen[1] == resize(seen[0], 16, 16)).all()
    cropped = [env.step(CROP)[4]["images"][0] for env in pair]
    assert cropped[1].shape == (32, 32, 3)
    assert (cropped[0] == cropped[1]).all()
    assert (cropped[0] == seen[0][16:48, 16:48]).all()


@pytest.mark.parametrize("scale", [0, -1, 1.5, 0.001, "small", float("nan"), True])
def test_scales_that_are_not_allowed(scale):
    with pytest.raises(ConfigurationError, match="board_scale"):
        JigsawVisionEnv(board_scale=scale)


def test_a_scale_of_almost_nothing_shows_one_pixel():
    env = JigsawVisionEnv(image_size=64, initial_view="board", board_scale=0.01)
    observation, info = env.reset(seed=0)
    assert observation["image_size"].tolist() == [1, 1]
    assert info["images"][0].shape == (1, 1, 3)


@pytest.mark.parametrize("policy", [EdgePolicy(), ExpertPolicy(moves="single", turns=(3, 8), looks=["crop"])])
def test_policies_that_read_the_board_do_so_off_a_thumbnail(policy):
    env = JigsawVisionEnv(image_size=64, gap=0.1, initial_view="board", board_scale=0.5, max_turns=8, reveal=True)
    observation, info = env.reset(seed=5)
    over = False
    while not over:
        (text,) = policy.act([observation], [info])
        observation, _, terminated, truncated, info = env.step(text)
        over = terminated or truncated
    assert terminated
    assert info["error"] is None
    assert np.isfinite(info["reward"]["total"])
    if isinstance(policy, ExpertPolicy):
        assert info["solved"]
