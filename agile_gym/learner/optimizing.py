# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch are incomplete.
"""The optimiser, and how its learning rate changes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

__all__ = ["SCHEDULES", "learning_rate_share", "make_optimizer"]

SCHEDULES = ("constant", "linear", "cosine")
"""How the learning rate falls after the warm-up: not, or to its lowest value along a line or half a cosine."""


def make_optimizer(
    parameters: Iterable[tuple[str, Any]],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Make AdamW for a model's trainable parameters; those with one dimension, such as biases, do not decay.

    Args:
        parameters: Names and parameters.
        lr: Learning rate.
        betas: Decay of the averages of gradients and of their squares.
        weight_decay: Weight decay.
    """
    named = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [parameter for _, parameter in named if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for _, parameter in named if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=betas)


def learning_rate_share(step: int, *, warmup: int, total: int | None, schedule: str, lowest: float) -> float:
    """Return the share of the peak learning rate at a step.

    Args:
        step: The step, from 0.
        warmup: Steps over which the rate rises along a line.
        total: Steps in all; None for a constant rate.
        schedule: One of `SCHEDULES`.
        lowest: Share at the last step.

    Returns:
        Above 0, at most 1.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant" or total is None or total <= warmup:
        return 1.0
    progress = min(1.0, (step - warmup) / (total - warmup))
    shape = 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return lowest + (1 - lowest) * shape
