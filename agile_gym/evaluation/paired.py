"""Exact tests of whether two policies differ on the same puzzles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

__all__ = ["mcnemar", "sign_flip"]

MAX_EXACT = 20_000
"""Most pairs that differ for which McNemar's test is computed in whole numbers."""
MAX_LATTICE = 1 << 22
FLIPS = 20_000


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the p-value of McNemar's exact test, two-sided.

    Args:
        only_first: Puzzles that only the first policy solved, at least 0.
        only_second: Puzzles that only the second one solved, at least 0.

    Returns:
        The chance that puzzles solved by one alone split as unevenly as these or more, if each is as likely to be the
        one's as the other's. It is exact, but for more than `MAX_EXACT` such puzzles to one part in a million.
    """
    count, few = only_first + only_second, min(only_first, only_second)
    if count > MAX_EXACT:  # the same sum in logarithms
        successes = np.arange(few, dtype=np.float64)
        terms = np.concatenate([[0.0], np.cumsum(np.log((count - successes) / (successes + 1)))])
        largest = float(terms.max())
        tail = largest + math.log(float(np.exp(terms - largest).sum()))
        return min(1.0, math.exp(tail + (1 - count) * math.log(2)))
    term = tail = 1
    for successes in range(few):
        term = term * (count - successes) // (successes + 1)
        tail += term
    return min(1.0, float(Fraction(2 * tail, 2**count)))


def sign_flip(differences: Sequence[Fraction], *, seed: int = 0) -> float:
    """Return the p-value of the sign-flip permutation test of paired differences, two-sided.

    The differences are multiples of a common unit, such as a ninth for scores of 3x3 puzzles. So the distribution of
    their sum over all assignments of signs is computed exactly, from its characteristic function. Only where the unit
    is too fine, signs are drawn.

    Args:
        differences: One a pair.
        seed: Seed of the draws, if there are any.

    Returns:
        The share of all assignments of signs whose sum is as far from 0 as that of the differences, or farther. Values
        below 1e-12 are not exact.
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
