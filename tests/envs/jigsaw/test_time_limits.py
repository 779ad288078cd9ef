"""A limit on the steps from outside ends an episode as the environment's own limit does."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

import agile_gym
from agile_gym.actions.primitives import Observe
from agile_gym.envs.jigsaw import JigsawVisionEnv, JigsawVisionVectorEnv
from agile_gym.envs.jigsaw.wrappers import DiscreteActions, JigsawVisionDiscreteEnv
from agile_gym.errors import ConfigurationError
from agile_gym.rollout import EpisodeRecorder
from tests.helpers.comparing import same

IDS = list(agile_gym.load_catalogue())
SMALL = {"image_size": 64}
OBSERVE = "<think>t</think><code>o = observation(state)</code>"


def play(env, actions):
    """Return everything that an episode of some actions gives."""
    seen = [env.reset(seed=1)]
    for action in actions:
        seen.append(env.step(action))
        if seen[-1][2] or seen[-1][3]:
            break
    return seen


LIMITED = {
    "make": lambda: gymnasium.make("JigsawVision-v0", max_episode_steps=3, **SMALL),
    "wrapper": lambda: TimeLimit(JigsawVisionEnv(**SMALL), 3),
    "wrapper around make": lambda: TimeLimit(gymnasium.make("JigsawVision-v0", **SMALL), 3),
    "the lower of two": lambda: TimeLimit(TimeLimit(JigsawVisionEnv(**SMALL), 3), 4),
    "the lower of two, outside": lambda: TimeLimit(TimeLimit(JigsawVisionEnv(**SMALL), 4), 3),
}


@pytest.mark.parametrize("make", LIMITED.values(), ids=LIMITED)
@pytest.mark.parametrize("text", [OBSERVE, "nonsense"])
def test_a_limit_from_outside_is_the_same_as_max_turns(make, text):
    expected = play(JigsawVisionEnv(max_turns=3, **SMALL), [text] * 5)
    assert expected[-1][3]
    assert expected[-1][1] == pytest.approx(-0.15)  # unsolved: the penalty of each turn there was
    assert "3 turns" in expected[0][0]["text"]
    assert same(play(make(), [text] * 5), expected)


def test_a_limit_that_is_not_reached_changes_nothing():
    expected = play(JigsawVisionEnv(**SMALL), [OBSERVE] * 9)
    for env in (
        TimeLimit(JigsawVisionEnv(**SMALL), 50),
        gymnasium.make("JigsawVision-v0", max_episode_steps=-1, **SMALL),
        gymnasium.make("JigsawVision-v0", max_episode_steps=5, **SMALL),
    ):
        assert same(play(env, [OBSERVE] * 9), expected)


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("reward", ["paper", "official_code"])
def test_every_environment_pays_for_an_episode_that_is_cut(env_id, reward):
    env = gymnasium.make(env_id, max_episode_steps=2, reward=reward)
    env.reset(seed=0)
    if env_id == "JigsawVisionDiscrete-v0":
        action = np.int64(env.action_space.n - 2)
    else:
        action = env.unwrapped.dialect.write([Observe()], env.unwrapped.episode.workspace)
    assert env.step(action)[1:4] == (0.0, False, False)
    _, paid, terminated, truncated, info = env.step(action)
    assert (terminated, truncated) == (False, True)
    assert paid == info["reward"]["total"] == pytest.approx(-0.1 if reward == "paper" else -0.25)
    env.reset()
    assert env.step(action)[1:4] == (0.0, False, False)  # and again


def test_wrappers_of_numbers_are_limited_too():
    for env in (
        TimeLimit(DiscreteActions(JigsawVisionEnv(**SMALL)), 2),
        DiscreteActions(TimeLimit(JigsawVisionEnv(**SMALL), 2)),
        TimeLimit(JigsawVisionDiscreteEnv(**SMALL), 2),
    ):
        last = play(env, [np.int64(6)] * 5)[-1]
        assert last[3]
        assert last[1] == pytest.approx(-0.1)


@pytest.mark.parametrize("mode", ["sync", "async", "vector_entry_point"])
def test_vectors_made_with_a_limit(mode):
    env = gymnasium.make_vec("JigsawVision-v0", num_envs=2, vectorization_mode=mode, max_episode_steps=2, **SMALL)
    try:
        observations, _ = env.reset(seed=0)
        assert all("2 turns" in text for text in observations["text"])
        env.step([OBSERVE] * 2)
        _, rewards, _, truncated, infos = env.step([OBSERVE, "nonsense"])
        assert truncated.all()
        np.testing.assert_allclose(rewards, -0.1)
        np.testing.assert_allclose(infos["reward"]["total"], -0.1)
    finally:
        env.close()


def test_a_registered_limit_counts_in_every_way_of_making():
    gymnasium.register(
        "LimitedJigsaw-v0",
        entry_point="agile_gym.envs.jigsaw:JigsawVisionEnv",
        vector_entry_point="agile_gym.envs.jigsaw:JigsawVisionVectorEnv",
        max_episode_steps=2,
        kwargs=SMALL,
    )
    try:
        assert play(gymnasium.make("LimitedJigsaw-v0"), ["a"] * 3)[-1][1] == pytest.approx(-0.1)
        env = gymnasium.make_vec("LimitedJigsaw-v0", num_envs=2)
        assert isinstance(env, JigsawVisionVectorEnv)
        env.reset(seed=0)
        env.step(["a", "b"])
        np.testing.assert_allclose(env.step(["a", "b"])[1], -0.1)
    finally:
        del gymnasium.registry["LimitedJigsaw-v0"]


def test_copies_keep_their_limit_and_lose_it_with_the_wrapper():
    env = TimeLimit(JigsawVisionEnv(**SMALL), 2)
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert same(play(twin, [OBSERVE] * 3), play(env, [OBSERVE] * 3))
    assert len(play(env.unwrapped, [OBSERVE] * 9)) == 6


def test_a_transcript_says_how_many_turns_there_were():
    recorder = EpisodeRecorder(gymnasium.make("JigsawVision-v0", max_episode_steps=2, **SMALL))
    recorder.reset(seed=0)
    for _ in range(2):
        recorder.step(OBSERVE)
    transcript = recorder.finish("fixed")
    assert transcript.task["max_turns"] == 2
    assert transcript.truncated
    assert transcript.reward["total"] == pytest.approx(-0.1)


@pytest.mark.parametrize("given", [0, -1, 2.5, "3", True])
def test_bad_limits_are_refused(given):
    with pytest.raises(ConfigurationError, match="max_episode_steps="):
        JigsawVisionVectorEnv(2, max_episode_steps=given)
