"""GRPO with RLlib's own means: a configuration, a loop, held-out evaluation, and a reward of one's own.

    python examples/rllib_grpo.py [MODEL] [ITERATIONS]

MODEL is a folder or a name on the hub; without one, the untrained tiny model is used.
"""

import sys

from agile_gym.learner import GRPOConfig
from agile_gym.transcripts import Transcript


def reward(episode: Transcript) -> float:
    """Pay for right pieces as well as for solved puzzles, and for looking closely once."""
    looked = any("Crop" in turn.primitives for turn in episode.turns)
    return float(episode.solved) + 0.2 * episode.score + 0.05 * looked


def main(model: str = "tiny", iterations: int = 2) -> None:
    """Train, and save the model."""
    puzzles = {"image_size": 64, "prompt": "short"} if model == "tiny" else {"image_size": 224}
    config = (
        GRPOConfig()
        .environment("JigsawVision-v0", env_config={**puzzles, "split": "train"})
        .vlm(path=model)
        .env_runners(num_env_runners=1)
        .learners(num_learners=1)
        .evaluation(
            evaluation_interval=iterations,
            evaluation_duration=8,
            evaluation_config={"env_config": {"split": "test"}},
        )
        .training(lr=1e-4, group_size=4, groups_per_iteration=4, max_new_tokens=32, reward_fn=reward)
    )
    algorithm = config.build_algo()
    for _ in range(iterations):
        result = algorithm.train()
        figures = result["grpo"]
        print(
            f"iteration {result['training_iteration']}: return {figures['return']:.3f}, Acc {figures['acc']:.2f}, "
            f"turns {figures['turns']:.1f}, groups trained {figures['groups_trained']:.0f}"
        )
    held_out = result["evaluation"]
    print(f"held out: Acc {held_out['acc']:.2f} ({held_out['acc_low']:.2f} to {held_out['acc_high']:.2f})")
    print("saved:", algorithm.save_pretrained("grpo-model"))
    algorithm.stop()


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
