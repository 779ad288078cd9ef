"""What every environment of the catalogue must do."""

import os
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import agile_gym

IDS = list(agile_gym.load_catalogue())


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasiums_checker_has_nothing_to_say(env_id, monkeypatch, capsys):
    monkeypatch.delenv("DISPLAY", raising=False)  # "human" then draws on the terminal
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id).unwrapped)


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
