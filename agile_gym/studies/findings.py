"""Intervals over seeds and puzzles, and sentences that they support.

A mean over seeds and puzzles varies with both. Its variance is estimated as the sum of two parts: that of the seeds'
means, and that of the puzzles' means, with puzzles of one photograph as one draw; degrees of freedom are Welch's and
Satterthwaite's. With a single seed the first part is not known, and left out. All comparisons of an evaluation hold
together with 95%: their intervals are widened by Bonferroni's rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from agile_gym.evaluation.estimates import Estimate

__all__ = [
    "Finding",
    "Played",
    "compare",
    "describe_difference",
    "describe_trend",
    "difference",
    "mean",
    "points",
    "trend",
]

ALPHA = 0.05
_MEAN_ADDED = (0.0, 0.0, 1.0, 1.0)
_DIFFERENCE_ADDED = (-1.0, 1.0)
"""Values that are added to the puzzles' for their variance, as `bootstrap_mean` and `bootstrap_difference` do, so that
an interval is no point where all puzzles are alike."""


@dataclass(frozen=True)
class Played:
    """Values of an arm's puzzles.

    Attributes:
        seeds: The seeds.
        values: (seeds, puzzles) float64, each 0 to 1.
        clusters: The photograph of each puzzle.
    """

    seeds: tuple[int, ...]
    values: NDArray[np.float64]
    clusters: tuple[str, ...]

    def of(self, seeds: Sequence[int]) -> NDArray[np.float64]:
        """Return the rows of some seeds."""
        return self.values[[self.seeds.index(seed) for seed in seeds]]


@dataclass(frozen=True)
class Finding:
    """A sentence.

    Attributes:
        kind: ``"gain"``, ``"loss"``, or ``"none"``: no difference seen.
        text: The sentence.
    """

    kind: str
    text: str


def mean(played: Played) -> Estimate:
    """Estimate the mean of an arm, with its 95% interval."""
    value, low, high = _interval(played.values, played.clusters, _MEAN_ADDED, ALPHA)
    return Estimate(value, max(low, 0.0), min(high, 1.0))


def difference(arm: Played, reference: Played, comparisons: int = 1) -> Estimate | None:
    """Estimate how much larger the mean of an arm is than that of another one, over the seeds that both have.

    Args:
        arm: The arm.
        reference: The other one, which has played the same puzzles.
        comparisons: Number of comparisons that are to hold together.

    Returns:
        The difference with its interval; None without common seeds.
    """
    return compare({"arm": arm, "reference": reference}, {"arm": 1.0, "reference": -1.0}, comparisons)


def trend(arms: Sequence[Played], comparisons: int = 1) -> Estimate | None:
    """Estimate the rise from the first to the last of ordered arms, along the line that fits their means best.

    Args:
        arms: At least two, which have played the same puzzles.
        comparisons: Number of comparisons that are to hold together.

    Returns:
        The rise with its interval; None without common seeds.
    """
    places = np.arange(len(arms)) - (len(arms) - 1) / 2
    weights = places * (len(arms) - 1) / float(places @ places)
    named = {str(place): arm for place, arm in enumerate(arms)}
    return compare(named, {name: float(weight) for name, weight in zip(named, weights, strict=True)}, comparisons)


def compare(arms: Mapping[str, Played], weights: Mapping[str, float], comparisons: int) -> Estimate | None:
    """Estimate a weighted sum of arms' means, with weights that add up to 0; see `difference`."""
    first = next(iter(arms.values()))
    seeds = [seed for seed in first.seeds if all(seed in arm.seeds for arm in arms.values())]
    if not seeds:
        return None
    values = np.zeros((len(seeds), len(first.clusters)))
    for name, arm in arms.items():
        values += weights[name] * arm.of(seeds)
    return Estimate(*_interval(values, first.clusters, _DIFFERENCE_ADDED, ALPHA / max(1, comparisons)))


def _interval(
    values: NDArray[np.float64], clusters: Sequence[str], added: tuple[float, ...], alpha: float
) -> tuple[float, float, float]:
    seeds = len(values)
    of_seeds = float(values.mean(axis=1).var(ddof=1)) / seeds if seeds > 1 else 0.0
    names = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    place = np.array([names[name] for name in clusters])
    sums = np.concatenate([np.bincount(place, values.mean(axis=0)), added])
    sizes = np.concatenate([np.bincount(place), np.ones(len(added))])
    centre = sums.sum() / sizes.sum()
    count = len(sums)
    of_puzzles = count / (count - 1) * float(((sums - centre * sizes) ** 2).sum()) / float(sizes.sum()) ** 2
    whole = of_seeds + of_puzzles
    below = of_puzzles**2 / (count - 1) + (of_seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
    half = _quantile(1 - alpha / 2, whole**2 / below) * math.sqrt(whole)
    value = float(values.mean())
    return value, value - half, value + half


def _quantile(probability: float, freedom: float) -> float:
    from scipy.stats import t  # pyright: ignore[reportMissingTypeStubs] -- scipy has no types

    return float(cast("Any", t).ppf(probability, freedom))


def describe_difference(evaluation: str, arm: str, reference: str, found: Estimate, paper: str = "") -> Finding:
    """Return the sentence on a difference.

    Args:
        evaluation: Name of the evaluation.
        arm: Name of the arm.
        reference: Name of the one that it is compared with.
        found: The difference of Acc.
        paper: The paper's difference, as a part of the sentence, or ``""``.
    """
    more = f"; {paper}" if paper else ""
    if found.low <= 0 <= found.high:
        return Finding(
            "none", f"{evaluation}: no difference seen between {arm} and {reference} ({points(found)}{more})."
        )
    above = found.low > 0
    low, high = sorted((abs(found.low), abs(found.high)))
    return Finding(
        "gain" if above else "loss",
        f"{evaluation}: Acc of {arm} is {'above' if above else 'below'} that of {reference} by "
        f"{100 * abs(found.value):.1f} points ({100 * low:.1f} to {100 * high:.1f}{more}).",
    )


def describe_trend(
    evaluation: str, factor: str, ends: tuple[str, str], accs: tuple[float, float], found: Estimate, paper: str = ""
) -> Finding:
    """Return the sentence on a trend.

    Args:
        evaluation: Name of the evaluation.
        factor: Title of the factor.
        ends: Its first and last value.
        accs: Acc at both.
        found: The rise along the line.
        paper: The paper's rise, as a part of the sentence, or ``""``.
    """
    more = f"; {paper}" if paper else ""
    change = f"{100 * accs[0]:.1f}% at {ends[0]} and {100 * accs[1]:.1f}% at {ends[1]}"
    if found.low <= 0 <= found.high:
        return Finding(
            "none", f"{evaluation}: no difference seen over {factor}: Acc is {change} ({points(found)}{more})."
        )
    word = "rises" if found.low > 0 else "falls"
    kind = "gain" if found.low > 0 else "loss"
    return Finding(
        kind, f"{evaluation}: Acc {word} over {factor}: it is {change} (along the line {points(found)}{more})."
    )


def points(found: Estimate) -> str:
    """Return a difference of fractions in points, with its interval."""
    return f"{100 * found.value:+.1f} points, {100 * found.low:+.1f} to {100 * found.high:+.1f}"
