# pyright: reportUnknownMemberType=false
# The types of ray are incomplete.
"""Makes GRPO known to Ray Tune by its name.

`register` is called when `agile_gym.learner.rllib` is imported, or `GRPO` or `GRPOConfig` taken from
`agile_gym.learner`; from then on ``tune.Tuner("AgileGRPO", ...)`` works. Ray has no entry points, so a script that uses
the name alone, without the class, must import one of them first. The processes that Tune starts need not: they look the
name up in the cluster.
"""

from __future__ import annotations

from ray.tune.registry import TRAINABLE_CLASS, _global_registry, register_trainable

__all__ = ["NAME", "register"]

NAME = "AgileGRPO"
"""The name."""


def register() -> None:
    """Register the algorithm, once in a process."""
    if not _global_registry.contains(TRAINABLE_CLASS, NAME):
        from agile_gym.learner.algorithm import GRPO

        register_trainable(NAME, GRPO)
