"""The learner: from played episodes to better weights.

ratios       ratios and divergences from log-probabilities, counts and statistics of tokens (torch)
losses       `grpo`, `dr_grpo`, `dapo`, `gspo` and `sft` as pure functions (torch)
data         advantages, samples, minibatches and micro-batches; numpy only
grpo         `GRPO`, `GRPOConfig` and their parts, which run on RLlib (ray, torch)

Importing this package imports none of them, and neither torch nor ray: names are looked up when they are first used.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from agile_gym.errors import MissingDependencyError

if TYPE_CHECKING:
    from agile_gym.learner.data import (
        GroupAdvantages,
        count_trained,
        group_advantages,
        returns_to_go,
        spread_advantages,
        turn_advantages,
        turn_rewards,
    )
    from agile_gym.learner.grpo import GRPO, GRPOConfig, TokenLearner, VLMEnvRunner, VLMModule

__all__ = [
    "GRPO",
    "GRPOConfig",
    "GroupAdvantages",
    "TokenLearner",
    "VLMEnvRunner",
    "VLMModule",
    "count_trained",
    "group_advantages",
    "returns_to_go",
    "spread_advantages",
    "turn_advantages",
    "turn_rewards",
]

_ON_RLLIB = ("GRPO", "GRPOConfig", "TokenLearner", "VLMEnvRunner", "VLMModule")


def __getattr__(name: str) -> Any:  # noqa: ANN401 -- any of the names above
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _ON_RLLIB:
        return getattr(importlib.import_module("agile_gym.learner.data"), name)
    for package in ("ray", "torch"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                f"The package {package!r} is needed to train on RLlib. Install it with: pip install 'agile-gym[train]'"
            )
    return getattr(importlib.import_module("agile_gym.learner.grpo"), name)
