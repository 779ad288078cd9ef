# pyright: reportUnknownMemberType=false
# The types of ray are incomplete.
"""Makes GRPO known to Ray Tune by its name.

`register` is called when `agile_gym.learner.rllib` is imported, or `GRPO` or `GRPOConfig` taken from
`agile_gym.learner`; from then on ``tune.Tuner("AgileGRPO", ...)`` works. Ray has no entry points, so a script that uses
the name alone, without the class, must import one of them first. The processes that Tune starts need not: they look the
name up in the cluster.
"""

from __future__ import annotations

from ray.tune import registry

__all__ = ["NAME", "register"]

NAME = "AgileGRPO"
"""The name."""


def register() -> None:
    """Register the algorithm, once in a process."""
    if not registry._global_registry.contains(registry.TRAINABLE_CLASS, NAME):  # pyright: ignore[reportPrivateUsage] -- no public look-up
        from agile_gym.learner.algorithm import GRPO

        registry.register_trainable(NAME, GRPO)
