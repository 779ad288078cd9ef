"""Figures of an evaluation: Acc and Score with intervals, what the policy did, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from agile_gym.evaluation.metrics import bootstrap_mean, pass_at_k, wilson
from agile_gym.evaluation.results import EpisodeResult

__all__ = ["AVERAGE", "columns_of", "pass_counts", "summarize", "summarize_cost"]

AVERAGE = "avg"
"""Name of the column over all levels of a grid."""


def columns_of(results: Iterable[EpisodeResult]) -> dict[str, dict[str, list[EpisodeResult]]]:
    """Sort results by grid, then into the columns of its table.

    Args:
        results: In any order.

    Returns:
        For each grid, in the order of its size, a mapping from ``"L0"``, ``"L1"``, ... and `AVERAGE` (all episodes) to
        the results, whose order does not depend on the order given.
    """
    grids: dict[str, dict[str, list[EpisodeResult]]] = {}
    for result in sorted(results, key=lambda result: (_pieces(result.grid), *result.key)):
        grids.setdefault(result.grid, {}).setdefault(f"L{result.level}", []).append(result)
    return {
        grid: {**columns, AVERAGE: [result for column in columns.values() for result in column]}
        for grid, columns in grids.items()
    }


def _pieces(grid: str) -> int:
    rows, _, cols = grid.partition("x")
    return int(rows) * int(cols)


def pass_counts(samples: int) -> tuple[int, ...]:
    """Return the numbers k for which pass@k is reported: powers of two below ``samples``, and ``samples``."""
    return tuple(sorted({samples, *(2**power for power in range(samples.bit_length()) if 2**power < samples)}))


def summarize(results: Iterable[EpisodeResult]) -> dict[str, dict[str, Any]]:
    """Compute what depends on the puzzles and the policy alone, for each grid and level.

    Args:
        results: Finished episodes, in any order.

    Returns:
        For each grid a mapping from ``"L0"``, ``"L1"``, ... and ``"avg"`` (over all episodes) to

        - ``episodes``, ``puzzles``, ``photographs``: how many;
        - ``acc``: ``value``, ``low`` and ``high``, Wilson's interval (where puzzles were played several times: the
          bootstrap over puzzles);
        - ``score``: likewise, by the bootstrap over puzzles, see `bootstrap_mean`;
        - ``acc_by_photograph``, ``score_by_photograph``: the same values with intervals by the bootstrap over
          photographs, as puzzles made of one photograph are alike;
        - ``pass``: where puzzles were played several times, for each k of `pass_counts` the estimate of pass@k;
        - ``turns`` (mean) and ``turn_counts`` (episodes by their number of turns);
        - ``valid``: share of turns that could be carried out; ``errors``: how many could not, by kind;
        - ``answered``: share of episodes that ended with an answer;
        - ``given_up``: episodes that the policy gave up, by kind of error;
        - ``uses``: primitives an episode, by name;
        - ``reward`` (mean) and ``reward_parts`` (means).
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
        ``new_tokens``, each None where an episode does not tell; see `EpisodeResult`.
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
