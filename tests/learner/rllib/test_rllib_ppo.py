"""RLlib's own PPO on the jigsaw with discrete actions: the seed alone decides what is played."""

import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

PUZZLES = {
    "grid": "2x2", "level": 2, "image_size": 32, "gap": 0.0, "max_turns": 4, "observation_range": (-1, 1),
    "split": "train", "reveal": True,
}  # fmt: skip
FRAGMENT = 24


def sampled(runners, seed):
    """Return the episodes that the runners play: photograph, permutation, observations, actions and rewards of each."""
    config = (
        PPOConfig()
        .environment("agile_gym:JigsawVisionDiscrete-v0", env_config=PUZZLES)
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=2)
        .training(train_batch_size=FRAGMENT, minibatch_size=FRAGMENT, num_epochs=1)
        .rl_module(model_config=DefaultModelConfig(head_fcnet_hiddens=[8], conv_filters=[[4, 4, 4], [4, 4, 4]]))
        .debugging(seed=seed)
    )
    algorithm = config.build_algo()
    try:
        played = algorithm.env_runner_group.foreach_env_runner(
            lambda runner: runner.sample(num_timesteps=FRAGMENT, random_actions=False),
            local_env_runner=not runners,
        )
    finally:
        algorithm.stop()
    return [
        {
            "start": [(info["image_id"], info["solution"]) for info in episode.get_infos()[:1]],
            "scores": [info["score"] for info in episode.get_infos()],
            "observations": np.stack(episode.get_observations()),
            "actions": np.stack(episode.get_actions()).tolist(),
            "rewards": list(episode.get_rewards()),
        }
        for episodes in played
        for episode in episodes
    ]


def same(first, second):
    """Return whether two episodes are the same, to the last bit of their observations."""
    return np.array_equal(first.pop("observations"), second.pop("observations")) and first == second


@pytest.mark.parametrize("runners", [0, 1])
def test_the_same_seed_gives_the_same_episodes(runners):
    first, again, other = sampled(runners, 5), sampled(runners, 5), sampled(runners, 6)
    assert len(first) == len(again) > 2
    assert [episode["start"] for episode in first] != [episode["start"] for episode in other]
    assert len({str(episode["start"]) for episode in first}) > 2
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
