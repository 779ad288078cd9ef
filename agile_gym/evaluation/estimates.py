"""Estimates with 95% intervals, pass@k, and exact paired tests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Estimate",
    "bootstrap_difference",
    "bootstrap_mean",
    "mcnemar",
    "pass_at_k",
    "sign_flip",
    "wilson",
]

RESAMPLES = 2000


class Estimate(NamedTuple):
    """A fraction between 0 and 1, or a difference of two, with its 95% interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, trials: int) -> Estimate:
    """Estimate a probability by Wilson's score interval.

    Args:
        successes: Number of successes, 0 to ``trials``.
        trials: Number of trials, at least 1.

    Returns:
        The fraction of successes and its 95% interval.

    Raises:
        ValueError: If the numbers are out of range.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes in {trials} trials make no sense.")
    interval = _binomial_test(successes, trials).proportion_ci(method="wilson")
    return Estimate(successes / trials, float(interval.low), float(interval.high))


def _binomial_test(successes: int, trials: int) -> Any:  # noqa: ANN401 -- scipy has no types
    """Return scipy's binomial test of an even chance; its import takes a second, so it waits for the first use."""
    from scipy.stats import binomtest  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType] -- scipy has no types

    return cast(Any, binomtest)(successes, trials)


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
        clusters: Cluster of each value, if values of one cluster are alike, such as puzzles made of one
            photograph; then whole clusters are drawn.
        resamples: Number of times that the sample is drawn anew.
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
        resamples: Number of times that they are drawn anew.
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
        samples: Number of times that the puzzle was played, at least ``k``.
        solved: Number of times that it was solved, 0 to ``samples``.
        k: Number of samples that are drawn without putting back, at least 1.

    Returns:
        1 - C(samples - solved, k) / C(samples, k) (Chen et al., arXiv 2107.03374).

    Raises:
        ValueError: If the numbers are out of range.
    """
    if not 1 <= k <= samples or not 0 <= solved <= samples:
        raise ValueError(f"pass@{k} of {solved} solved in {samples} samples makes no sense.")
    return 1.0 - math.comb(samples - solved, k) / math.comb(samples, k)


MAX_LATTICE = 1 << 22
FLIPS = 20_000


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the p-value of McNemar's exact test, two-sided.

    Args:
        only_first: Puzzles that only the first policy solved, at least 0.
        only_second: Puzzles that only the second one solved, at least 0.

    Returns:
        The chance that puzzles solved by one alone split as unevenly as these or more, if each is as likely to be the
        one's as the other's.
    """
    count = only_first + only_second
    return float(_binomial_test(only_first, count).pvalue) if count else 1.0


def sign_flip(differences: Sequence[Fraction], *, seed: int = 0) -> float:
    """Return the p-value of the sign-flip permutation test of paired differences, two-sided.

    The differences are multiples of a common unit, such as a ninth for scores of 3x3 puzzles. So the distribution of
    their sum over all assignments of signs is computed exactly, from its characteristic function. Only where the unit
    is too fine, signs are drawn.

    Args:
        differences: One a pair.
        seed: Seed of the draws, if there are any.

    Returns:
        The fraction of all assignments of signs whose sum is as far from 0 as that of the differences, or farther.
        Values below 1e-12 are not exact.
    """
    unit = math.lcm(*(difference.denominator for difference in differences)) if differences else 1
    whole = [int(difference * unit) for difference in differences if difference]
    if not whole:
        return 1.0
    divisor = math.gcd(*whole)
    sizes = Counter(abs(number) // divisor for number in whole)
    observed = abs(sum(whole)) // divisor
    furthest = sum(size * count for size, count in sizes.items())
    if furthest <= MAX_LATTICE:
        length = 1 << (2 * furthest).bit_length()  # more than the 2 * furthest + 1 possible sums
        angles = 2 * np.pi * np.arange(length // 2 + 1) / length
        transform = np.ones(len(angles))
        for size, count in sizes.items():
            transform *= np.cos(size * angles) ** count
        chances = np.fft.irfft(transform, length)
        tail = 2 * float(chances[observed : furthest + 1].sum()) if observed else 1.0
        return float(np.clip(tail, 2.0 ** (1 - len(whole)), 1.0))
    rng = np.random.default_rng(seed)
    sums = np.zeros(FLIPS)
    for size, count in sizes.items():
        sums += size * (2.0 * rng.binomial(count, 0.5, FLIPS) - count)
    return float((1 + np.count_nonzero(np.abs(sums) >= observed)) / (1 + FLIPS))
