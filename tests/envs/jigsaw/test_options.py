"""The options of the environment and of its reset: what they do, and which are refused."""

import json

import numpy as np
import pytest

from agile_gym.envs.jigsaw import JigsawConfig, JigsawVisionEnv, RewardConfig
from agile_gym.errors import ConfigurationError
from tests.helpers.comparing import same

OBSERVE = "<think>t</think><code>o = observation(state)</code>"
SMALL = {"image_size": 64}


def answer(names):
    return f"<think>t</think><answer>{json.dumps(names)}</answer>"


def photo(seed=0, height=80, width=100):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_reset_options_fix_what_would_be_drawn():
    pictures = [photo(seed) for seed in range(3)]
    env = JigsawVisionEnv(images=pictures, level=None, reveal=True, gap=0, **SMALL)
    _, info = env.reset(seed=0, options={"permutation": [1, 0, 3, 2]})
    assert info["solution"] == ["B", "A", "D", "C"]
    _, info = env.reset(seed=0, options={"level": 2})
    assert info["level"] == 2
    by_index = env.reset(seed=0, options={"image": 2, "permutation": [0, 1, 2, 3]})[0]
    by_array = env.reset(seed=0, options={"image": pictures[2], "permutation": [0, 1, 2, 3]})[0]
    assert np.array_equal(by_index["image"], by_array["image"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imgae": 1}, "Did you mean 'image'"),
        ({"image": 9}, "there are images 0 to 0"),
        ({"level": 3}, "Allowed: L0, L1, L2"),
        ({"permutation": [0, 0, 1, 2]}, "give each place once"),
        ({"permutation": [0, 1]}, "give each place once"),
        ({"permutation": "solved"}, "permutation"),
        ({"permutation": 3}, "permutation"),
        ({"turns": [90, 0, 0, 0]}, "rotations=True"),
        ({"image": np.zeros((3, 80, 80), np.uint8)}, "transpose"),
    ],
)
def test_bad_reset_options_are_refused(options, message):
    env = JigsawVisionEnv(images=[photo()], **SMALL)
    with pytest.raises(ConfigurationError, match=message):
        env.reset(seed=0, options=options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gird": 3}, "Did you mean 'grid'"),
        ({"grid": 1}, "is not a grid"),
        ({"level": 3}, "Allowed: L0, L1, L2"),
        ({"gap": -0.1}, "gap=-0.1"),
        ({"gap": float("nan")}, "gap=nan"),
        ({"erode": 0.5}, "erode=0.5"),
        ({"max_turns": 0}, "max_turns=0"),
        ({"max_turns": 2.5}, "max_turns=2.5"),
        ({"initial_view": "all"}, "initial_view='all'"),
        ({"labels": 1}, "labels=1"),
        ({"image_size": 6, "grid": 3}, "too small"),
        ({"image_size": 64, "max_pixels": 5000}, "exclude each other"),
        ({"max_pixels": 10, "image_size": None}, "too small"),
        ({"max_pixels": 0.5, "image_size": None}, "max_pixels=0.5"),
        ({"max_pixels": 10**9, "image_size": None}, "up to 33554432"),
        ({"initial_view": np.array(["pieces", "board"])}, "initial_view="),
        ({"render_mode": ["ansi"]}, "render_mode="),
        ({"reward": {"preset": ["x"]}}, "no reward preset"),
        ({"reward": {1: 2}}, "no reward setting 1"),
        ({"canvas_size": 20}, "cannot hold the board"),
        ({"crop": "middle"}, "crop='middle'"),
        ({"crop": (0.5, 0.2)}, "low <= high"),
        ({"crop": 3}, "crop=3"),
        ({"dialect": "jason"}, "There is no dialect"),
        ({"dialect": 3}, "dialect"),
        ({"reward": "x"}, "There is no reward preset"),
        ({"reward": 3}, "reward"),
        ({"images": "no such folder"}, "neither a folder"),
        ({"images": []}, "image"),
        ({"split": "val"}, "split='val'"),
        ({"test_fraction": 2}, "test_fraction=2"),
        ({"render_mode": "x"}, "render_mode='x'"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(ConfigurationError, match=message):
        JigsawVisionEnv(**{"image_size": 64, **options})


def test_numpy_values_are_as_good_as_pythons():
    plainly = JigsawVisionEnv(
        grid=(2, 3), level=[0, 1], image_size=64, max_turns=3, gap=0.25, labels=True, crop=(0.5, 1)
    )
    numpily = JigsawVisionEnv(
        grid=np.array([2, 3]),
        level=np.array([0, 1]),
        image_size=np.int64(64),
        max_turns=np.int32(3),
        gap=np.float64(0.25),
        labels=np.bool_(True),
        crop=np.array([0.5, 1]),
        reward={"step_penalty": np.float32(0.5)},
    )
    options = {"level": np.int64(1), "permutation": np.array([0, 2, 1, 4, 5, 3]), "image": np.int64(0)}
    assert same(plainly.reset(seed=np.int64(4)), numpily.reset(seed=4))
    assert same(plainly.reset(seed=4, options=options), numpily.reset(seed=np.uint8(4), options=options))


@pytest.mark.parametrize("seed", [-1, 1.5, "a", True, [1]])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(ConfigurationError, match="whole number of at least 0"):
        JigsawVisionEnv(**SMALL).reset(seed=seed)


def test_a_refused_reset_leaves_the_episode_as_it_was():
    tall, wide = photo(0, 200, 100), photo(1, 100, 200)
    env, twin = (JigsawVisionEnv(images=[tall, wide], max_pixels=20_000, level=None) for _ in range(2))
    for each in (env, twin):
        each.reset(seed=3, options={"image": 0})
    for options in ({"image": 1, "permutation": [0]}, {"image": 1, "level": 9}, {"image": 7}, 5, [1], "x", {1: 2}):
        with pytest.raises(ConfigurationError):
            env.reset(seed=99, options=options)
    assert same(env.step(OBSERVE), twin.step(OBSERVE))
    assert same(env.reset(), twin.reset())


def test_a_dialect_of_ones_own():
    from agile_gym.actions.dialects import CodeDialect

    class Act(CodeDialect):
        name = "act"
        action_tag = "act"

        def instructions(self, workspace):
            return "Write swap(a, b) and observe()."

    env = JigsawVisionEnv(dialect=Act(), **SMALL)
    observation, _ = env.reset(seed=0)
    assert "<act>...</act>" in observation["text"]
    assert "Write swap(a, b) and observe()." in observation["text"]
    assert env.step("<think>x</think><act>swap(0, 1)</act>")[4]["error"] is None
    with pytest.raises(ConfigurationError, match="nor an object"):
        JigsawVisionEnv(dialect=Act, **SMALL)


def test_max_pixels_keeps_the_aspect_on_a_fixed_canvas():
    env = JigsawVisionEnv(images=[photo(0, 300, 400), photo(1, 400, 300)], max_pixels=10_000, gap=0.02)
    shapes = set()
    for seed in range(10):
        observation, _info = env.reset(seed=seed)
        assert observation in env.observation_space
        shapes.add(tuple(observation["image_size"].tolist()))
        height, width = observation["image_size"]
        assert not observation["image"][height:].any()
        assert not observation["image"][:, width:].any()
    assert len(shapes) == 2
    assert {height < width for height, width in shapes} == {True, False}


def test_a_larger_canvas_lets_larger_zooms_through():
    env = JigsawVisionEnv(canvas_size=(100, 140), **SMALL)
    observation, _ = env.reset(seed=0)
    assert observation["image"].shape == (100, 140, 3)
    observation, _, _, _, _info = env.step("<code>zoom('A', 3)</code>")
    assert tuple(observation["image_size"]) == (96, 96)
    assert observation in env.observation_space


def test_erode_and_labels_change_the_pieces():
    plain = JigsawVisionEnv(images=[photo()], **SMALL).reset(seed=0)[1]["images"]
    for options in ({"labels": True}, {"erode": 0.1}):
        other = JigsawVisionEnv(images=[photo()], **SMALL, **options).reset(seed=0)[1]["images"]
        assert other[0].shape == plain[0].shape
        assert not np.array_equal(other[0], plain[0])


def test_reward_settings_and_dialect_objects_are_accepted():
    from agile_gym.actions.dialects import ToolDialect

    env = JigsawVisionEnv(reward=RewardConfig(format_weight=0.5), dialect=ToolDialect(), reveal=True, **SMALL)
    _, info = env.reset(seed=0)
    _, reward, _, _, _ = env.step(answer(info["solution"]))
    assert reward == pytest.approx(1.3)


def test_the_documented_options_are_the_options():
    import dataclasses

    documented = JigsawConfig.__doc__
    for field in dataclasses.fields(JigsawConfig):
        assert f"{field.name}:" in documented
