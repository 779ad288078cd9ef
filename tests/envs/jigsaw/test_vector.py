import copy
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import agile_gym  # noqa: F401 -- registers the environments
from agile_gym.envs.jigsaw import JigsawVisionEnv, JigsawVisionVectorEnv
from agile_gym.errors import ConfigurationError
from tests.helpers.comparing import same

OPTIONS = {"image_size": 32, "level": None, "reveal": True, "max_turns": 3}
OBSERVE = "<think>t</think><code>observe()</code>"


def make_single():
    return gymnasium.make("agile_gym:JigsawVision-v0", **OPTIONS)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_it_equals_single_environments_element_for_element(mode):
    ours = JigsawVisionVectorEnv(5, autoreset_mode=mode, **OPTIONS)
    theirs = SyncVectorEnv([make_single] * 5, autoreset_mode=mode)
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert same(ours.reset(seed=11), theirs.reset(seed=11))
    ours.action_space.seed(5)
    ends = 0
    for _ in range(25):
        actions = ours.action_space.sample()
        mine, reference = ours.step(actions), theirs.step(actions)
        assert mine[0] in ours.observation_space
        for one, other in zip(mine, reference, strict=True):
            assert same(one, other)
        ends += int((mine[2] | mine[3]).sum())
    assert ends > 10
    assert same(ours.reset(seed=[3, 1, 4, 1, 5]), theirs.reset(seed=[3, 1, 4, 1, 5]))


def test_same_seeds_give_the_episodes_of_single_environments():
    vector = JigsawVisionVectorEnv(3, **OPTIONS)
    observations, infos = vector.reset(seed=40)
    for i in range(3):
        observation, info = JigsawVisionEnv(**OPTIONS).reset(seed=40 + i)
        np.testing.assert_array_equal(observations["image"][i], observation["image"])
        assert observations["text"][i] == observation["text"]
        assert infos["solution"][i] == info["solution"]
        assert same(infos["images"][i], info["images"])


def test_without_autoreset_only_the_masked_are_reset():
    env = JigsawVisionVectorEnv(3, autoreset_mode=AutoresetMode.DISABLED, **OPTIONS)
    env.reset(seed=0)
    observations, _, terminated, _, _ = env.step([OBSERVE, '<answer>["A"]</answer>', OBSERVE])
    assert terminated.tolist() == [False, True, False]
    with pytest.raises(ResetNeeded):
        env.step([OBSERVE] * 3)
    env.reset(seed=0)
    observations, *_ = env.step([OBSERVE, '<answer>["A"]</answer>', OBSERVE])
    before = copy.deepcopy(observations)
    after, infos = env.reset(options={"reset_mask": np.array([False, True, False])})
    assert infos["_task"].tolist() == [False, True, False]
    for i in (0, 2):
        np.testing.assert_array_equal(after["image"][i], before["image"][i])
        assert after["text"][i] == before["text"][i]
    assert after["image"][1].any()
    assert env.step([OBSERVE] * 3)[4]["turn"].tolist() == [2, 1, 2]


def test_observations_that_are_kept_never_change():
    env = JigsawVisionVectorEnv(2, **{**OPTIONS, "max_turns": 50})
    kept = [env.reset(seed=0)[0]]
    copies = [copy.deepcopy(kept[0])]
    for turn in range(12):
        kept.append(env.step([f"<code>swap({turn % 3}, 3)\nobserve()</code>"] * 2)[0])
        copies.append(copy.deepcopy(kept[-1]))
    assert all(map(same, kept, copies))


def test_make_vec_uses_this_class_and_single_ones_on_demand():
    env = gymnasium.make_vec("JigsawVision-v0", num_envs=4, **OPTIONS)
    assert isinstance(env, JigsawVisionVectorEnv)
    assert env.num_envs == 4
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    sync = gymnasium.make_vec("JigsawVision-v0", num_envs=2, vectorization_mode="sync", **OPTIONS)
    assert same(env.reset(seed=1)[0]["image"][:2], sync.reset(seed=1)[0]["image"])


@pytest.mark.slow
@pytest.mark.parametrize("shared_memory", [True, False])
def test_worker_processes_that_are_spawned_give_the_same(shared_memory):
    workers = AsyncVectorEnv([make_single] * 2, shared_memory=shared_memory, context="spawn")
    ours = JigsawVisionVectorEnv(2, **OPTIONS)
    try:
        assert same(workers.reset(seed=8)[0], ours.reset(seed=8)[0])
        for actions in ([OBSERVE, "n\u00f6 \U0001f9e9"], ["<code>swap(0, 1)\nobserve()</code>"] * 2):
            mine, theirs = ours.step(actions), workers.step(actions)
            assert same(mine[0], theirs[0])
            assert same(mine[1:4], theirs[1:4])
    finally:
        workers.close()


def test_pickling_and_copying():
    env = JigsawVisionVectorEnv(2, **OPTIONS)
    env.reset(seed=2)
    env.step([OBSERVE] * 2)
    for twin in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        again = copy.deepcopy(env)
        assert same(again.step([OBSERVE] * 2), twin.step([OBSERVE] * 2))
        assert same(again.reset(), twin.reset())


def test_rendering():
    env = JigsawVisionVectorEnv(2, render_mode="rgb_array", **OPTIONS)
    observations, _ = env.reset(seed=0)
    assert same(list(env.render()), list(observations["image"]))
    ansi = JigsawVisionVectorEnv(2, render_mode="ansi", **OPTIONS)
    ansi.reset(seed=0)
    assert all("\u2580" in text for text in ansi.render())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs=0"),
        ({"num_envs": 2.0}, "num_envs=2.0"),
        ({"num_envs": True}, "num_envs=True"),
        ({"render_mode": "human"}, "render_mode='human'"),
        ({"autoreset_mode": "never"}, "autoreset_mode='never'"),
        ({"gird": 2}, "Did you mean 'grid'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        JigsawVisionVectorEnv(**arguments)


def test_a_bad_batch_of_actions_changes_nothing():
    env, twin = (JigsawVisionVectorEnv(3, **OPTIONS) for _ in range(2))
    env.reset(seed=0)
    twin.reset(seed=0)
    with pytest.raises(ConfigurationError, match="give the text of a turn"):
        env.step([OBSERVE, OBSERVE, 3])
    assert same(env.step([OBSERVE] * 3), twin.step([OBSERVE] * 3))


def test_bad_calls_are_refused():
    env = JigsawVisionVectorEnv(2, **OPTIONS)
    with pytest.raises(ConfigurationError, match="3 seeds were given for 2"):
        env.reset(seed=[1, 2, 3])
    for seed in (1.5, "ab", -1, [1, -1]):
        with pytest.raises(ConfigurationError, match=r"whole number of at least 0|seeds were given"):
            env.reset(seed=seed)
    with pytest.raises(ConfigurationError, match="not a dictionary"):
        env.reset(options=5)
    with pytest.raises(ConfigurationError, match="reset_mask"):
        env.reset(options={"reset_mask": [True, False]})
    with pytest.raises(ConfigurationError, match="reset_mask"):
        env.reset(options={"reset_mask": np.zeros(2, bool)})
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match="1 actions were given for 2"):
        env.step([OBSERVE])
    for actions in ([OBSERVE, 3], None, 5, "ab", {"a": 1, "b": 2}):
        with pytest.raises(ConfigurationError, match=r"give the text of a turn|give a list or tuple"):
            env.step(actions)
    assert same(env.reset(seed=np.int64(3)), JigsawVisionVectorEnv(np.int64(2), **OPTIONS).reset(seed=3))
