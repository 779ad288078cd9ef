"""The figures of an iteration, from what RLlib tells of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, cast

from agile_gym.arguments import plain

__all__ = ["flatten_result", "numbers_of"]

_TRAINED = ("loss", "grad_norm", "entropy", "ratio", "kl_old", "kl_ref", "max_log_ratio")
"""Figures of the learner that are always finite, if nothing is wrong."""
_BOOKKEEPING = re.compile(
    r"default_optimizer_learning_rate|num_module_steps_trained.*|module_train_batch_size_mean|weights_seq_no|total_loss|"
    r"num_(non_)?trainable_parameters|diff_num_grad_updates.*|.*_throughput"
)
"""Figures of RLlib's own that say nothing more."""


def flatten_result(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of an iteration from RLlib's result.

    Args:
        result: What ``algorithm.train()`` returned.

    Returns:
        The algorithm's own metrics by their names, the learner's as ``learner/NAME``, the held-out evaluation's as
        ``eval/NAME``; and, where they can be told, ``episodes_per_second`` (of the whole iteration),
        ``tokens_per_second`` (written, while playing), ``trained_tokens_per_second`` (while updating),
        ``share_constant`` (of the groups that were played, those without variance) and ``learner/not_finite`` (how
        many of loss, gradient and the like were no finite number). NaN is left out, and what RLlib counts for itself.
    """
    figures = numbers_of(_part(result, "grpo"))
    learner = numbers_of(_part(_part(result, "learners"), "default_policy"))
    figures |= {f"learner/{name}": value for name, value in learner.items() if not _BOOKKEEPING.fullmatch(name)}
    figures |= {f"eval/{name}": value for name, value in numbers_of(_part(result, "evaluation")).items()}
    if learner:
        figures["learner/not_finite"] = float(sum(not math.isfinite(learner.get(name, 0.0)) for name in _TRAINED))
    rollout, update = figures.get("seconds_rollout", 0.0), figures.get("seconds_update", 0.0)
    for name, amount, divisor in (
        ("episodes_per_second", "episodes", rollout + update + figures.get("seconds_sync", 0.0)),
        ("tokens_per_second", "tokens_written", rollout),
        ("trained_tokens_per_second", "learner/tokens", update),
        ("share_constant", "groups_constant", figures.get("groups_played", 0.0)),
    ):
        if amount in figures and divisor > 0:
            figures[name] = figures[amount] / divisor
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def _part(result: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value: object = result.get(key)
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a number as a float; bools, texts and tables are none."""
    numbers: dict[str, float] = {}
    for name, value in values.items():
        number = _plain_number(value)
        if number is not None:
            numbers[str(name)] = number
    return numbers


def _plain_number(value: Any) -> float | None:  # noqa: ANN401 -- any value
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a scalar of numpy or torch
        value = value.item()
    number = plain(value)
    return float(number) if isinstance(number, int | float) and not isinstance(number, bool) else None
