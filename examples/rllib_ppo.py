"""RLlib's own PPO on the jigsaw with discrete actions and images: no language, no model of ours.

    python examples/rllib_ppo.py [ITERATIONS] [SEED]

100 iterations take some minutes on a processor. Puzzles are 2x2 with two pieces in place (level 2), small enough for a
small network; the 39 built-in photographs of the training split are few, so that it does better on new crops of them
than on the photographs that it has never seen.
"""

import sys

import gymnasium
import numpy as np
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from agile_gym.evaluation import wilson

ENVIRONMENT = "agile_gym:JigsawVisionDiscrete-v0"
PUZZLES = {
    "grid": "2x2",
    "level": 2,
    "image_size": 48,
    "gap": 0.0,
    "max_turns": 6,
    "observation_range": (-1, 1),  # RLlib's networks take floats
}


def solved_share(module, split, episodes, seed):
    """Return the fraction of puzzles solved, with its 95% interval; without a module, by random actions."""
    env = gymnasium.make(ENVIRONMENT, **PUZZLES, split=split)
    rng, solved = np.random.default_rng(seed), 0
    for number in range(episodes):
        image, _ = env.reset(seed=seed + number)
        over, info = False, {}
        while not over:
            if module is None:
                action = rng.integers(env.action_space.n)
            else:
                with torch.no_grad():
                    output = module.forward_inference({"obs": torch.from_numpy(image[None])})
                logits = output["action_dist_inputs"][0].numpy().astype(np.float64)
                chances = np.exp(logits - logits.max())
                action = rng.choice(len(chances), p=chances / chances.sum())
            image, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
        solved += info["solved"]
    return wilson(solved, episodes)


def main(iterations: int = 100, seed: int = 0) -> None:
    """Train, and compare with random actions."""
    config = (
        PPOConfig()
        .environment(ENVIRONMENT, env_config={**PUZZLES, "split": "train"})
        .env_runners(num_env_runners=0, num_envs_per_env_runner=64)
        .training(
            train_batch_size=2048,
            minibatch_size=256,
            num_epochs=3,
            lr=1e-3,
            entropy_coeff=0.01,
            gamma=1.0,
            use_kl_loss=False,
            clip_param=0.2,
            grad_clip=0.5,
            grad_clip_by="global_norm",
        )
        .rl_module(
            model_config=DefaultModelConfig(
                vf_share_layers=True, head_fcnet_hiddens=[128], conv_filters=[[16, 4, 2], [32, 4, 2], [64, 4, 2]]
            )
        )
        .debugging(seed=seed)
    )
    algorithm = config.build_algo()
    print("iteration   steps  return")
    for number in range(1, iterations + 1):
        figures = algorithm.train()["env_runners"]
        if number % 10 == 0 or number == iterations:
            steps = int(figures["num_env_steps_sampled_lifetime"])
            print(f"{number:9} {steps:7} {figures['episode_return_mean']:7.3f}", flush=True)
    for name, split in (("new crops of the training photographs", "train"), ("a photograph never seen", "test")):
        for player, module in (("PPO", algorithm.get_module()), ("random", None)):
            share = solved_share(module, split, 300, 10**6 + seed)
            print(f"{name}, {player}: {share.value:.1%} solved ({share.low:.1%} to {share.high:.1%})")
    algorithm.stop()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
