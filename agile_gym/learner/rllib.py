# pyright: reportUnknownMemberType=false
# The types of ray are incomplete.
"""Public names that need RLlib; importing it registers the algorithm with Ray Tune as ``"AgileGRPO"``.

`register` is called when `agile_gym.learner.rllib` is imported, or `GRPO` or `GRPOConfig` taken from
`agile_gym.learner`; from then on ``tune.Tuner("AgileGRPO", ...)`` works. Ray has no entry points, so a script that uses
the name alone, without the class, must import one of them first. The processes that Tune starts need not: they look the
name up in the cluster.
"""

from __future__ import annotations

from ray.tune import registry

from agile_gym.learner.config import GRPOConfig
from agile_gym.learner.env_runner import VLMEnvRunner
from agile_gym.learner.grpo import GRPO
from agile_gym.learner.module import VLMModule
from agile_gym.learner.torch_learner import TokenLearner

__all__ = ["GRPO", "NAME", "GRPOConfig", "TokenLearner", "VLMEnvRunner", "VLMModule", "register"]

NAME = "AgileGRPO"
"""The name."""


def register() -> None:
    """Register the algorithm, once in a process."""
    if not registry._global_registry.contains(registry.TRAINABLE_CLASS, NAME):  # pyright: ignore[reportPrivateUsage] -- no public look-up
        from agile_gym.learner.grpo import GRPO

        registry.register_trainable(NAME, GRPO)


register()
