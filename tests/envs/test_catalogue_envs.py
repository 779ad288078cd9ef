"""Requirements that every environment of the catalogue meets."""

import os
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import agile_gym
import agile_gym.testing
from agile_gym.envs.jigsaw import JigsawVisionEnv, JigsawVisionVectorEnv
from agile_gym.envs.jigsaw.wrappers import DiscreteActions, ImageObservation
from agile_gym.errors import ConfigurationError

IDS = list(agile_gym.load_catalogue())


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasiums_checker_has_nothing_to_say(env_id, monkeypatch, capsys):
    monkeypatch.delenv("DISPLAY", raising=False)  # "human" then draws on the terminal
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id).unwrapped)


@pytest.mark.parametrize("env_id", IDS)
def test_those_of_texts_and_images_keep_the_contract(env_id):
    env = gymnasium.make(env_id)
    if isinstance(env.action_space, gymnasium.spaces.Text):
        agile_gym.testing.check_env(env)
        return
    with pytest.raises(ConfigurationError, match="must be a dictionary, and is of type ndarray"):
        agile_gym.testing.check_env(env)


@pytest.mark.parametrize("env_id", IDS)
def test_same_seeds_same_episodes(env_id):
    runs = []
    for _ in range(2):
        env = gymnasium.make(env_id)
        env.action_space.seed(1)
        observation, _ = env.reset(seed=1)
        run = [observation]
        for _ in range(12):
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            run += [observation, reward, terminated, truncated]
            if terminated or truncated:
                run.append(env.reset()[0])
        runs.append(run)
    for one, other in zip(*runs, strict=True):
        if isinstance(one, dict):
            assert one["text"] == other["text"]
            one, other = one["image"], other["image"]
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", IDS)
def test_a_process_that_imported_nothing_can_make_it(env_id):
    code = f"import gymnasium; print(gymnasium.make('agile_gym:{env_id}').reset(seed=0)[1]['turn'])"
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert result.stdout == "0\n", result.stderr


@pytest.mark.parametrize("env_id", IDS)
def test_vectors_of_it(env_id):
    env = gymnasium.make_vec(env_id, num_envs=2)
    observations, _ = env.reset(seed=0)
    assert observations in env.observation_space
    observations, rewards, *_ = env.step(env.action_space.sample())
    assert observations in env.observation_space
    assert rewards.shape == (2,)
    env.close()


@pytest.mark.parametrize("env_id", IDS)
def test_steps_and_frames_before_a_reset_and_steps_after_the_end_are_refused(env_id):
    env = gymnasium.make(env_id, render_mode="rgb_array")
    action = env.action_space.sample()
    for call in (env.unwrapped.render, lambda: env.unwrapped.step(action), lambda: env.step(action), env.render):
        with pytest.raises(ResetNeeded):
            call()
    env.reset(seed=0)
    while not any(env.unwrapped.step(action)[2:4]):
        pass
    with pytest.raises(ResetNeeded, match="has ended"):
        env.unwrapped.step(action)
    assert env.render() is not None
    env.reset()
    env.step(action)


def test_wrappers_refuse_steps_before_a_reset():
    for wrap in (DiscreteActions, ImageObservation, lambda env: ImageObservation(DiscreteActions(env))):
        for env in (wrap(JigsawVisionEnv()), wrap(gymnasium.make("JigsawVision-v0"))):
            with pytest.raises(ResetNeeded):
                env.step(env.action_space.sample())


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vectors_refuse_steps_and_frames_before_a_reset(mode):
    env = JigsawVisionVectorEnv(2, render_mode="rgb_array", autoreset_mode=mode)
    for call in (env.render, lambda: env.step(["a", "b"])):
        with pytest.raises(ResetNeeded):
            call()
    env.reset(seed=0, options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded):
        env.step(["a", "b"])
    assert env.episodes[0].turn == 0  # nothing was played
    env.reset(seed=0, options={"reset_mask": np.array([False, True])})
    assert env.step(["a", "b"])[4]["turn"].tolist() == [1, 1]
    env = JigsawVisionVectorEnv(2)
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None
