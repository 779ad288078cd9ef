"""Statistics of puzzle results: Acc and Score with 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Estimate", "bootstrap_mean", "wilson"]

_Z = 1.959963984540054
"""The 97.5% quantile of the standard normal distribution."""


class Estimate(NamedTuple):
    """A share between 0 and 1 with its 95% interval."""

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


def bootstrap_mean(values: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Estimate a mean by the percentile bootstrap.

    Args:
        values: The sample, at least one value.
        resamples: How often it is drawn anew.
        seed: Seed of the draws.

    Returns:
        The mean and its 95% interval.

    Raises:
        ValueError: If there are no values.
    """
    sample = np.asarray(values, np.float64)
    if sample.size == 0:
        raise ValueError("The mean of no values does not exist.")
    rng = np.random.default_rng(seed)
    # The mean of a resample depends only on how often each distinct value was drawn.
    distinct, counts = np.unique(sample, return_counts=True)
    draws = rng.multinomial(sample.size, counts / sample.size, size=resamples)
    means = draws @ distinct / sample.size
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    return Estimate(float(sample.mean()), low, high)
