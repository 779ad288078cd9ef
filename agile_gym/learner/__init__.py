"""The learner: what turns played episodes into better weights.

advantages   what each episode, and each of its tokens, is trained with; numpy only
ratios       ratios, divergences and entropies from log-probabilities (torch)
batch        the tokens of a micro-batch, the counts of a whole batch, and statistics that add up (torch)
loss         `grpo`, `dr_grpo`, `dapo`, `gspo` and `sft` as pure functions (torch)

Importing this package does not import torch.
"""

from agile_gym.learner.advantages import (
    GroupAdvantages,
    count_trained,
    group_advantages,
    returns_to_go,
    spread_advantages,
    turn_rewards,
)

__all__ = [
    "GroupAdvantages",
    "count_trained",
    "group_advantages",
    "returns_to_go",
    "spread_advantages",
    "turn_rewards",
]
