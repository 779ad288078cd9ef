"""A sweep with Ray Tune: concurrent learning rates, the worst ones stopped early.

python examples/tune_sweep.py [ITERATIONS]
"""

import sys
from pathlib import Path

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from agile_gym.learner import GRPOConfig


def main(iterations: int = 2) -> None:
    """Try two learning rates."""
    config = (
        GRPOConfig()
        .environment("JigsawVision-v0", env_config={"image_size": 64, "prompt": "short", "split": "train"})
        .vlm(path="tiny")
        .env_runners(num_env_runners=0)
        .learners(num_learners=0)
        .training(
            lr=tune.grid_search([1e-4, 1e-3]),
            group_size=4,
            groups_per_iteration=2,
            max_new_tokens=16,
            entropy_coef=0.01,
        )
    )
    tuner = tune.Tuner(
        "AgileGRPO",
        param_space=config,
        tune_config=tune.TuneConfig(
            metric="grpo/return", mode="max", scheduler=ASHAScheduler(max_t=iterations, grace_period=1)
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=str(Path("tune").resolve()),
            stop={"training_iteration": iterations},
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
            verbose=0,
        ),
    )
    best = tuner.fit().get_best_result()
    print(f"best learning rate: {best.config['lr']:g}, return {best.metrics['grpo']['return']:.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
