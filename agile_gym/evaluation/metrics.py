"""Figures of an evaluation: by grid and level, of looks, of behaviours, and of cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from agile_gym.evaluation.estimates import Estimate, bootstrap_mean, pass_at_k, wilson
from agile_gym.evaluation.plan import pieces_of
from agile_gym.evaluation.run import EpisodeResult
from agile_gym.transcripts.behaviours import BEHAVIOURS

__all__ = [
    "AVERAGE",
    "LOOK_FRACTIONS",
    "column_name",
    "columns_of",
    "looks_shown",
    "pass_counts",
    "summarize",
    "summarize_behaviours",
    "summarize_cost",
    "summarize_looks",
]


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
        - ``looks``: result of `summarize_looks`;
        - ``behaviours``: result of `summarize_behaviours`.
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
    acc = _fraction_of(solved, puzzles)
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
        "behaviours": summarize_behaviours(results),
    }


def _fraction_of(flags: Sequence[float], puzzles: Sequence[tuple[str, int, int]]) -> Estimate:
    """Return Wilson's estimate of a fraction of episodes, or the bootstrap's where puzzles were played repeatedly."""
    repeated = len(set(puzzles)) < len(puzzles)
    return bootstrap_mean(_means(flags, puzzles)) if repeated else wilson(round(sum(flags)), len(flags))


def summarize_behaviours(results: Iterable[EpisodeResult]) -> dict[str, Any] | None:
    """Compute the fractions of episodes that show each behaviour, as `find_behaviours` finds it.

    Args:
        results: Finished episodes.

    Returns:
        None if no episode records its behaviours, else for each of `agile_gym.transcripts.behaviours.BEHAVIOURS` that
        can be seen in any of them ``count`` (episodes that show it), ``of`` (episodes in which it can be seen),
        ``value``, ``low`` and ``high``: the interval is that of Acc.
    """
    known = [(result, result.behaviours) for result in results if result.behaviours is not None]
    if not known:
        return None
    figures: dict[str, Any] = {}
    for name in BEHAVIOURS:
        mine = [(float(found[name]), (one.grid, one.level, one.episode)) for one, found in known if name in found]
        if mine:
            flags = [flag for flag, _ in mine]
            estimate = _fraction_of(flags, [puzzle for _, puzzle in mine])
            figures[name] = {"count": round(sum(flags)), "of": len(flags), **estimate._asdict()}
    return figures


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
