"""Figures of an iteration's episodes and of an evaluation, of all tasks and of each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agile_gym.evaluation.estimates import bootstrap_mean, wilson
from agile_gym.transcripts.record import Transcript

__all__ = ["episode_metrics", "evaluation_metrics", "task_metrics"]


def episode_metrics(episodes: Sequence[Transcript], returns: ArrayLike) -> dict[str, float]:
    """Describe the episodes of an iteration.

    Args:
        episodes: The episodes, at least one.
        returns: (N,) the returns that they are trained on.

    Returns:
        Means over episodes: ``return``, ``acc``, ``score``, ``turns``, ``reward_accuracy``, ``reward_format``,
        ``reward_step``, ``crop`` and ``zoom`` (fractions of episodes that use them), ``truncated`` (fraction whose
        turns ran out), ``given_up`` (fraction that the policy gave up), ``tokens`` written; ``valid`` and
        ``cut_short``, fractions of turns without an error, and of those cut off by the limit of tokens; and the counts
        ``episodes``, ``turns_played`` and ``tokens_written``.
    """
    turns = [turn for episode in episodes for turn in episode.turns]
    used = [{name for turn in episode.turns for name in turn.primitives} for episode in episodes]
    tokens = sum(turn.usage.new_tokens or 0 for turn in turns)
    cut = sum(int(episode.details.get("turns_cut_short", 0)) for episode in episodes)
    count = len(episodes)
    means = {
        "return": float(np.mean(np.asarray(returns, np.float64))),
        "acc": sum(episode.solved for episode in episodes) / count,
        "score": sum(episode.score for episode in episodes) / count,
        "turns": len(turns) / count,
        "crop": sum("Crop" in names for names in used) / count,
        "zoom": sum("Zoom" in names for names in used) / count,
        "truncated": sum(episode.truncated for episode in episodes) / count,
        "given_up": sum("given_up" in episode.details for episode in episodes) / count,
        "tokens": tokens / count,
    }
    for part in ("accuracy", "format", "step"):
        means[f"reward_{part}"] = sum(float(episode.reward[part]) for episode in episodes) / count
    shares = {
        "valid": sum(turn.error is None for turn in turns) / max(1, len(turns)),
        "cut_short": cut / max(1, len(turns)),
    }
    counts = {"episodes": float(count), "turns_played": float(len(turns)), "tokens_written": float(tokens)}
    return means | shares | counts


def task_metrics(
    episodes: Sequence[Transcript], returns: ArrayLike, owners: Sequence[str], tasks: Sequence[str]
) -> dict[str, float]:
    """Describe the episodes of each task where there are several.

    Args:
        episodes: The episodes.
        returns: (N,) their returns.
        owners: The task of each.
        tasks: The names of all tasks.

    Returns:
        For each task the means ``acc/TASK``, ``return/TASK`` and ``turns/TASK``, and the number ``episodes/TASK``. The
        means of a task without episodes are NaN.
    """
    if len(tasks) < 2:
        return {}
    values: NDArray[np.float64] = np.asarray(returns, np.float64)
    metrics: dict[str, float] = {}
    for task in tasks:
        mine = [number for number, owner in enumerate(owners) if owner == task]
        count = len(mine)
        sums = {
            "acc": sum(episodes[number].solved for number in mine),
            "return": float(values[mine].sum()),
            "turns": sum(len(episodes[number].turns) for number in mine),
        }
        metrics |= {f"{name}/{task}": value / count if count else math.nan for name, value in sums.items()}
        metrics[f"episodes/{task}"] = float(count)
    return metrics


def evaluation_metrics(episodes: Sequence[Transcript], tasks: Sequence[str]) -> dict[str, float]:
    """Describe the episodes of an evaluation.

    Args:
        episodes: The episodes, one a puzzle, at least one.
        tasks: The task of each.

    Returns:
        Metrics of `episode_metrics`, with 95% intervals ``acc_low``, ``acc_high`` (Wilson), ``score_low`` and
        ``score_high`` (bootstrap), and those of `task_metrics`.
    """
    returns = [float(episode.reward["total"]) for episode in episodes]
    metrics = episode_metrics(episodes, returns)
    acc = wilson(sum(episode.solved for episode in episodes), len(episodes))
    score = bootstrap_mean([episode.score for episode in episodes])
    metrics |= {"acc_low": acc.low, "acc_high": acc.high, "score_low": score.low, "score_high": score.high}
    return metrics | task_metrics(episodes, returns, tasks, sorted(set(tasks)))
