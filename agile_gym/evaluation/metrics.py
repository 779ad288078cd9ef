"""Statistics of puzzle results: shares and means with 95% intervals, and pass@k."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "bootstrap_difference", "bootstrap_mean", "pass_at_k", "wilson"]

_Z = 1.959963984540054
"""The 97.5% quantile of the standard normal distribution."""
RESAMPLES = 2000


class Estimate(NamedTuple):
    """A share between 0 and 1, or a difference of two, with its 95% interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, trials: int) -> Estimate:
    """Estimate a probability by Wilson's score interval.

    Args:
        successes: Number of successes, 0 to ``trials``.
        trials: Number of trials, at least 1.

    Returns:
        The share of successes and its 95% interval.

    Raises:
        ValueError: If the numbers are out of range.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes in {trials} trials make no sense.")
    share = successes / trials
    scale = 1 + _Z**2 / trials
    centre = (share + _Z**2 / (2 * trials)) / scale
    half = _Z / scale * math.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    # At 0 and 1 the bound on that side is exact; rounding would miss it.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Estimate(share, low, high)


def bootstrap_mean(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Estimate the mean of values between 0 and 1 by the percentile bootstrap.

    A plain bootstrap cannot draw what a sample has not shown: where all values are 1, its interval is 1 to 1. So two
    values of 0 and two of 1 are drawn from as well, as Agresti and Coull add them to approximate Wilson's interval.
    The mean itself is that of the values alone.

    Args:
        values: The sample, at least one value, each 0 to 1.
        clusters: What each value belongs to, if values of one cluster are alike, such as puzzles made of one
            photograph; then whole clusters are drawn.
        resamples: How often the sample is drawn anew.
        seed: Seed of the draws.

    Returns:
        The mean and its 95% interval.

    Raises:
        ValueError: If there are no values.
    """
    return _bootstrap(np.asarray(values, np.float64), clusters, (0.0, 0.0, 1.0, 1.0), resamples, seed)


def bootstrap_difference(differences: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Estimate the mean of paired differences between -1 and 1 by the percentile bootstrap.

    One difference of 1 and one of -1 are drawn from as well, as Bonett and Price add them to Wald's interval, so that
    the interval is not a point where all pairs are alike.

    Args:
        differences: One a pair, at least one, each -1 to 1.
        resamples: How often they are drawn anew.
        seed: Seed of the draws.

    Returns:
        The mean difference and its 95% interval.

    Raises:
        ValueError: If there are no differences.
    """
    return _bootstrap(np.asarray(differences, np.float64), None, (-1.0, 1.0), resamples, seed)


def _bootstrap(
    sample: NDArray[np.float64],
    clusters: Sequence[Hashable] | None,
    added: tuple[float, ...],
    resamples: int,
    seed: int,
) -> Estimate:
    """Draw clusters, or single values, and the added values, each a cluster of its own, in equal number."""
    if sample.size == 0:
        raise ValueError("The mean of no values does not exist.")
    rng = np.random.default_rng(seed)
    value = float(sample.mean())
    if clusters is None:
        # The mean of a resample depends only on how often each distinct value was drawn.
        sums, repeats = np.unique(np.concatenate([sample, added]), return_counts=True)
        sizes = np.ones(len(sums))
    else:
        names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
        index = np.array([names[name] for name in clusters])
        sums = np.concatenate([np.bincount(index, sample), added])
        sizes = np.concatenate([np.bincount(index), np.ones(len(added))])
        repeats = np.ones(len(sums))
    draws = rng.multinomial(int(repeats.sum()), repeats / repeats.sum(), size=resamples)
    means = (draws @ sums) / (draws @ sizes)
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    return Estimate(value, min(low, value), max(high, value))


def pass_at_k(samples: int, solved: int, k: int) -> float:
    """Return the chance that at least one of ``k`` samples of a puzzle solves it, estimated without bias.

    Args:
        samples: How often the puzzle was played, at least ``k``.
        solved: How often it was solved, 0 to ``samples``.
        k: Number of samples that are drawn without putting back, at least 1.

    Returns:
        1 - C(samples - solved, k) / C(samples, k) (Chen et al., arXiv 2107.03374).

    Raises:
        ValueError: If the numbers are out of range.
    """
    if not 1 <= k <= samples or not 0 <= solved <= samples:
        raise ValueError(f"pass@{k} of {solved} solved in {samples} samples makes no sense.")
    return 1.0 - math.comb(samples - solved, k) / math.comb(samples, k)
