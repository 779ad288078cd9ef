"""What a learner tells of the episodes that were played."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from agile_gym.evaluation.metrics import bootstrap_mean, wilson
from agile_gym.rollout.transcript import Transcript

__all__ = ["episode_metrics", "evaluation_metrics"]


def episode_metrics(episodes: Sequence[Transcript], returns: ArrayLike) -> dict[str, float]:
    """Describe the episodes of an iteration.

    Args:
        episodes: The episodes, at least one.
        returns: (N,) what they are trained on.

    Returns:
        Means over episodes: ``return``, ``acc``, ``score``, ``turns``, ``reward_accuracy``, ``reward_format``,
        ``reward_step``, ``crop`` and ``zoom`` (shares of episodes that use them), ``truncated`` (share whose turns ran
        out), ``given_up`` (share that the policy gave up), ``tokens`` written; ``valid`` and ``cut_short``, shares of
        turns without an error, and of those cut off by the limit of tokens; and the counts ``episodes``,
        ``turns_played`` and ``tokens_written``.
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


def evaluation_metrics(episodes: Sequence[Transcript], tasks: Sequence[str]) -> dict[str, float]:
    """Describe the episodes of an evaluation.

    Args:
        episodes: The episodes, one a puzzle, at least one.
        tasks: The task of each.

    Returns:
        What `episode_metrics` tells, with 95% intervals ``acc_low``, ``acc_high`` (Wilson), ``score_low`` and
        ``score_high`` (bootstrap), and ``acc/TASK`` for each task where there are several.
    """
    metrics = episode_metrics(episodes, [float(episode.reward["total"]) for episode in episodes])
    acc = wilson(sum(episode.solved for episode in episodes), len(episodes))
    score = bootstrap_mean([episode.score for episode in episodes])
    metrics |= {"acc_low": acc.low, "acc_high": acc.high, "score_low": score.low, "score_high": score.high}
    names = sorted(set(tasks))
    if len(names) > 1:
        for name in names:
            mine = [episode.solved for episode, task in zip(episodes, tasks, strict=True) if task == name]
            metrics[f"acc/{name}"] = sum(mine) / len(mine)
    return metrics
