"""Figures of an evaluation: fractions and means with 95% intervals, pass@k, exact paired tests, summaries."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from fractions import Fraction
from statistics import fmean
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from agile_gym.evaluation.plan import pieces_of
from agile_gym.evaluation.run import EpisodeResult

__all__ = [
    "AVERAGE",
    "LOOK_FRACTIONS",
    "Estimate",
    "bootstrap_difference",
    "bootstrap_mean",
    "column_name",
    "columns_of",
    "looks_shown",
    "mcnemar",
    "pass_at_k",
    "pass_counts",
    "sign_flip",
    "summarize",
    "summarize_cost",
    "summarize_looks",
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


AVERAGE = "avg"
"""Name of the column over all levels of a grid."""


def columns_of(results: Iterable[EpisodeResult]) -> dict[str, dict[str, list[EpisodeResult]]]:
    """Sort results by grid, then into the columns of its table.

    Args:
        results: In any order.

    Returns:
        For each grid, in the order of its size, a mapping from ``"L0"``, ``"L1"``, ... and `AVERAGE` (all episodes) to
        the results, whose order does not depend on the order given. Of another environment than the jigsaw, the columns
        are the labels that it gives, if it gives some.
    """
    grids: dict[str, dict[str, list[EpisodeResult]]] = {}
    for result in sorted(results, key=lambda result: (pieces_of(result.grid), result.label or "", *result.key)):
        grids.setdefault(result.grid, {}).setdefault(column_name(result.level, result.label), []).append(result)
    return {
        grid: {
            **{name: column for name, column in columns.items() if name},
            AVERAGE: [result for column in columns.values() for result in column],
        }
        for grid, columns in grids.items()
    }


def column_name(level: int, label: str | None) -> str:
    """Return the column that a result belongs to: its level, or its label; empty for that of all results alone."""
    if label is None:
        return f"L{level}"
    return f"{label} " if label == AVERAGE else label


def pass_counts(samples: int) -> tuple[int, ...]:
    """Return the numbers k for which pass@k is reported: powers of two below ``samples``, and ``samples``."""
    return tuple(sorted({samples, *(2**power for power in range(samples.bit_length()) if 2**power < samples)}))


def summarize(results: Iterable[EpisodeResult]) -> dict[str, dict[str, Any]]:
    """Compute the figures that depend on the puzzles and the policy alone, for each grid and level.

    Args:
        results: Finished episodes, in any order.

    Returns:
        For each grid a mapping from the columns of `columns_of`, ``"L0"``, ``"L1"``, ... and ``"avg"`` (over all
        episodes), to

        - ``episodes``, ``puzzles``, ``photographs``: their numbers;
        - ``acc``: ``value``, ``low`` and ``high``, Wilson's interval (where puzzles were played several times: the
          bootstrap over puzzles);
        - ``score``: likewise, by the bootstrap over puzzles, see `bootstrap_mean`;
        - ``acc_by_photograph``, ``score_by_photograph``: the same values with intervals by the bootstrap over
          photographs, as puzzles made of one photograph are alike;
        - ``pass``: where puzzles were played several times, for each k of `pass_counts` the estimate of pass@k;
        - ``turns`` (mean) and ``turn_counts`` (episodes by their number of turns);
        - ``valid``: fraction of turns that could be carried out; ``errors``: number that could not, by kind;
        - ``answered``: fraction of episodes that ended with an answer;
        - ``given_up``: episodes that the policy gave up, by kind of error;
        - ``uses``: primitives an episode, by name;
        - ``reward`` (mean) and ``reward_parts`` (means);
        - ``looks``: result of `summarize_looks`.
    """
    return {
        grid: {name: _column(column) for name, column in columns.items()}
        for grid, columns in columns_of(results).items()
    }


def _column(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    count = len(results)
    turns = sum(result.turns for result in results)
    errors = _total(result.errors for result in results)
    uses = _total(result.primitives for result in results)
    solved = [float(result.solved) for result in results]
    scores = [result.score for result in results]
    puzzles = [(result.grid, result.level, result.episode) for result in results]
    photographs = [result.image_id for result in results]
    samples = Counter(puzzles)
    repeated = len(samples) < count
    acc = bootstrap_mean(_means(solved, puzzles)) if repeated else wilson(round(sum(solved)), count)
    return {
        "episodes": count,
        "puzzles": len(samples),
        "photographs": len(set(photographs)),
        "acc": acc._asdict(),
        "score": bootstrap_mean(_means(scores, puzzles))._asdict(),
        "acc_by_photograph": bootstrap_mean(solved, photographs)._asdict(),
        "score_by_photograph": bootstrap_mean(scores, photographs)._asdict(),
        "pass": _pass_rates(results, samples) if repeated else {},
        "turns": turns / count,
        "turn_counts": {str(number): n for number, n in sorted(Counter(result.turns for result in results).items())},
        "valid": 1 - sum(errors.values()) / turns,
        "errors": dict(sorted(errors.items())),
        "answered": fmean(result.answer is not None for result in results),
        "given_up": dict(sorted(Counter(result.given_up for result in results if result.given_up is not None).items())),
        "uses": {name: number / count for name, number in sorted(uses.items())},
        "reward": fmean(result.reward.get("total", 0.0) for result in results),
        "reward_parts": {
            part: fmean(result.reward.get(part, 0.0) for result in results)
            for part in ("accuracy", "format", "step", "score")
        },
        "looks": summarize_looks(results),
    }


LOOK_FRACTIONS = {"noticed": "wrong", "mended": "wrong", "spoiled": "right"}
"""Outcomes of the boards that were seen, and the boards that each is a fraction of."""


def summarize_looks(results: Iterable[EpisodeResult]) -> dict[str, Any] | None:
    """Compute the figures of looks, as `agile_gym.transcripts.record.count_looks` counts them.

    Args:
        results: Finished episodes.

    Returns:
        None if no episode records its looks, else

        - ``episodes``: number of episodes that do;
        - ``by_looks``: Acc of the episodes by the number of images that were seen after the first observation;
        - of a jigsaw, ``noticed`` and ``mended``, fractions of the wrong boards that were seen, and ``spoiled``, a
          fraction of the right ones.

        A fraction has ``count``, ``of`` and, unless that is 0, ``value``, ``low`` and ``high``: Wilson's interval,
        which takes episodes, and the boards of an episode, as independent.
    """
    known = [(result.looks, result.solved) for result in results if result.looks is not None]
    if not known:
        return None
    episodes = Counter(looks["images"] for looks, _ in known)
    solved = Counter(looks["images"] for looks, right in known if right)
    figures: dict[str, Any] = {
        "episodes": len(known),
        "by_looks": {str(number): _fraction(solved[number], count) for number, count in sorted(episodes.items())},
    }
    if any("wrong" in looks for looks, _ in known):
        boards = _total(looks for looks, _ in known)
        figures |= {name: _fraction(boards[name], boards[kind]) for name, kind in LOOK_FRACTIONS.items()}
    return figures


def _fraction(count: int, of: int) -> dict[str, float]:
    return {"count": count, "of": of, **(wilson(count, of)._asdict() if of else {})}


def looks_shown(by_looks: Mapping[str, Mapping[str, float]], most: int = 8) -> dict[str, dict[str, float]]:
    """Return Acc by the number of looks, with the episodes of ``most`` looks and more taken together.

    Args:
        by_looks: As `summarize_looks` returns it.
        most: Largest number of looks of the result; it is called ``"8+"`` where there are more.
    """
    totals: dict[int, list[int]] = {}
    for number, entry in by_looks.items():
        total = totals.setdefault(min(int(number), most), [0, 0])
        total[0] += int(entry["count"])
        total[1] += int(entry["of"])
    more = any(int(number) > most for number in by_looks)
    return {
        f"{number}+" if more and number == most else str(number): _fraction(*total)
        for number, total in sorted(totals.items())
    }


def _means(values: Iterable[float], puzzles: Iterable[tuple[str, int, int]]) -> list[float]:
    """Return the mean of each puzzle, which may have been played several times."""
    groups: dict[tuple[str, int, int], list[float]] = {}
    for value, puzzle in zip(values, puzzles, strict=True):
        groups.setdefault(puzzle, []).append(value)
    return [fmean(group) for group in groups.values()]


def _total(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def _pass_rates(results: Sequence[EpisodeResult], samples: Counter[tuple[str, int, int]]) -> dict[str, Any]:
    """Estimate pass@k over the puzzles, for the numbers k that all of them allow."""
    solved: Counter[tuple[str, int, int]] = Counter()
    for result in results:
        solved[result.grid, result.level, result.episode] += result.solved
    rates: dict[str, Any] = {}
    for k in pass_counts(min(samples.values())):
        chances = [pass_at_k(number, solved[puzzle], k) for puzzle, number in samples.items()]
        rates[str(k)] = bootstrap_mean(chances)._asdict()
    return rates


def summarize_cost(results: Iterable[EpisodeResult]) -> dict[str, dict[str, float | None]]:
    """Compute the means of time and tokens an episode, which differ from run to run.

    Args:
        results: Finished episodes.

    Returns:
        For each grid ``policy_seconds`` and ``env_seconds``, and ``context_tokens``, ``computed_tokens`` and
        ``new_tokens``, each None where an episode does not record it; see `EpisodeResult`.
    """
    cost: dict[str, dict[str, float | None]] = {}
    for grid, columns in columns_of(results).items():
        rows = columns[AVERAGE]
        cost[grid] = {
            f"{part}_seconds": fmean(row.seconds.get(part, 0.0) for row in rows) for part in ("policy", "env")
        }
        for part in ("context", "computed", "new"):
            counts = [row.tokens.get(part) for row in rows]
            known = [count for count in counts if count is not None]
            cost[grid][f"{part}_tokens"] = fmean(known) if len(known) == len(counts) else None
    return cost
