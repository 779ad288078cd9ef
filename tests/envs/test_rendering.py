"""Frames have one size, whatever the turns show, so that videos can be made of them."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import AddRenderObservation, RecordVideo, RenderCollection

import agile_gym

IDS = list(agile_gym.load_catalogue())
TALL_AND_WIDE = [
    np.random.default_rng(n).integers(0, 256, (*size, 3), np.uint8) for n, size in enumerate([(40, 90), (90, 40)])
]
TURNS = [
    "<code>crop(image_list[0], [0, 0, 0.5, 0.25])</code>",
    "<code>zoom(image_list[1], 0.3)</code>",
    "<code>zoom(image_list[1], 1.6)</code>",
    "nothing that can be read",
    "<code>swap(0, 1)\nobserve()</code>",
]
OPTIONS = {
    "usual": {"image_size": 64},
    "one size for boards of any shape": {"max_pixels": 64 * 64, "images": TALL_AND_WIDE},
    "3x3": {"image_size": 63, "grid": 3},
    "a larger canvas": {"image_size": 64, "canvas_size": (100, 150)},
    "a reference": {"image_size": 64, "reference_image": True},
    "turned": {"image_size": 64, "rotations": True},
}


def play(env, episodes=3):
    """Play episodes of looks at parts, and yield after every reset and step."""
    for seed in range(episodes):
        env.reset(seed=seed)
        yield
        for text in TURNS:
            env.step(text)
            yield


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_frames_of_all_episodes_have_one_size(options):
    env = gymnasium.make("JigsawVision-v0", render_mode="rgb_array", **options)
    frames = [env.render() for _ in play(env)]
    assert {(frame.shape, frame.dtype) for frame in frames} == {
        (env.observation_space["image"].shape, np.dtype("uint8"))
    }
    assert len({frame.tobytes() for frame in frames}) > 6


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("pop_frames", [True, False])
def test_collected_frames_have_one_size(env_id, pop_frames):
    env = gymnasium.make(env_id, render_mode="rgb_array")
    env = RenderCollection(env, pop_frames=pop_frames, reset_clean=False)
    env.action_space.seed(4)
    frames = []
    for seed in range(3):
        env.reset(seed=seed)
        done = False
        while not done:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            done = terminated or truncated
        frames += env.render()
    assert len(frames) > 6
    assert len({frame.shape for frame in frames}) == 1


def test_the_list_mode_of_make_collects_frames_of_one_size():
    env = gymnasium.make("JigsawVision-v0", render_mode="rgb_array_list", image_size=64)
    for _ in play(env, 1):
        pass
    assert [frame.shape for frame in env.render()] == [env.observation_space["image"].shape] * (len(TURNS) + 1)


def test_the_frame_is_the_canvas():
    env = gymnasium.make("JigsawVision-v0", render_mode="rgb_array", image_size=64)
    env.reset(seed=0)
    observation, *_, info = env.step(TURNS[0])
    frame, (height, width) = env.render(), observation["image_size"]
    np.testing.assert_array_equal(frame, observation["image"])
    np.testing.assert_array_equal(frame[:height, :width], info["images"][0])
    frame[:] = 7
    assert not (observation["image"] == 7).all()


def test_vectors_give_frames_of_one_size():
    options = {"render_mode": "rgb_array", "max_pixels": 64 * 64, "images": TALL_AND_WIDE}
    for env in (
        gymnasium.make_vec("JigsawVision-v0", num_envs=3, **options),
        SyncVectorEnv([lambda: gymnasium.make("JigsawVision-v0", **options)] * 3),
    ):
        env.reset(seed=0)
        shapes = {frame.shape for frame in env.render()}
        for text in TURNS * 2:
            env.step([text, TURNS[0], "nothing"])
            shapes |= {frame.shape for frame in env.render()}
        assert shapes == {env.single_observation_space["image"].shape}


def test_frames_can_be_observations():
    env = AddRenderObservation(gymnasium.make("JigsawVision-v0", render_mode="rgb_array", image_size=64))
    env.reset(seed=0)
    for text in TURNS[:3]:
        assert env.step(text)[0] in env.observation_space


@pytest.mark.parametrize("env_id", IDS)
def test_videos_can_be_recorded(env_id, tmp_path):
    pytest.importorskip("moviepy")
    options = {"max_pixels": 64 * 64, "images": TALL_AND_WIDE, "image_size": None}
    env = gymnasium.make(env_id, render_mode="rgb_array", **options)
    folder = str(tmp_path / "videos")
    env = RecordVideo(env, folder, episode_trigger=lambda _: True, video_length=10, disable_logger=True)
    env.action_space.seed(3)
    env.reset(seed=0)
    for _ in range(9):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    env.close()
    sizes = [path.stat().st_size for path in tmp_path.glob("videos/*.mp4")]
    assert sizes
    assert min(sizes) > 1000
