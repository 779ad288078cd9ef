"""Comparison of evaluations: two of the same puzzles, pair by pair, and with looks blanked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple, cast

from agile_gym.errors import ConfigurationError, one_line
from agile_gym.evaluation.estimates import bootstrap_difference, mcnemar, sign_flip
from agile_gym.evaluation.metrics import AVERAGE, column_name, looks_shown, summarize
from agile_gym.evaluation.plan import EvaluationPlan, pieces_of
from agile_gym.evaluation.report import EpisodeRow, Report, grid_lines, short_name
from agile_gym.evaluation.run import EpisodeResult, evaluate, prepare_plan
from agile_gym.policies.base import Observation, Policy, as_policy

__all__ = [
    "LOOK_TITLES",
    "LooksReport",
    "compare_blanked",
    "compare_reports",
    "format_comparison",
    "format_looks",
    "is_comparison",
    "looks_report",
]

Puzzle = tuple[str, int, int]
_Rows = Mapping[Puzzle, Sequence[EpisodeRow | EpisodeResult]]
_FINEST = 1000
"""Largest denominator of a score that is not of a jigsaw."""
_MCNEMAR = "McNemar's exact test"
_SIGN_FLIP = "the sign-flip permutation test"
_IGNORED = ("policy", "policy_options", "samples")


def compare_reports(first: Report, second: Report) -> dict[str, dict[str, Any]]:
    """Compare two evaluations of the same puzzles.

    Args:
        first: One.
        second: Another one, of the same puzzles.

    Returns:
        For each grid a mapping from ``"L0"``, ``"L1"``, ... and ``"avg"`` to

        - ``puzzles``: number of pairs;
        - ``acc`` and ``score``, each with ``first`` and ``second`` (means), ``difference`` (second minus first),
          ``low`` and ``high`` (95% interval, by the bootstrap over pairs) and ``p``: two-sided, of McNemar's exact test
          for Acc and of the sign-flip permutation test for Score (and for Acc where puzzles were played several
          times); ``test`` names it;
        - ``only_first``, ``only_second``: puzzles that one alone solved, or solved more often.

    Raises:
        ConfigurationError: If the puzzles are not the same.
    """
    ours, theirs = _by_puzzle(first.rows), _by_puzzle(second.rows)
    _check_puzzles(first, second, ours, theirs)
    return _compare_puzzles(ours, theirs)


def _compare_puzzles(ours: _Rows, theirs: _Rows) -> dict[str, dict[str, Any]]:
    grids: dict[str, dict[str, list[Puzzle]]] = {}
    for puzzle in sorted(ours):
        columns = grids.setdefault(puzzle[0], {})
        columns.setdefault(column_name(puzzle[1], ours[puzzle][0].label), []).append(puzzle)
    return {
        grid: {
            name: _compare([(ours[puzzle], theirs[puzzle]) for puzzle in puzzles])
            for name, puzzles in {**columns, AVERAGE: [p for column in columns.values() for p in column]}.items()
            if name
        }
        for grid, columns in sorted(grids.items(), key=lambda item: (pieces_of(item[0]), item[0]))
    }


def is_comparison(head: bytes) -> bool:
    """Return whether a file that begins so holds a result of `compare_reports`."""
    return head.startswith(b"{") and b'"only_first"' in head and b'"difference"' in head


def _by_puzzle(rows: Sequence[EpisodeRow | EpisodeResult]) -> dict[Puzzle, list[EpisodeRow | EpisodeResult]]:
    puzzles: dict[Puzzle, list[EpisodeRow | EpisodeResult]] = {}
    for row in rows:
        puzzles.setdefault((row.grid, row.level, row.episode), []).append(row)
    return puzzles


def _check_puzzles(first: Report, second: Report, ours: _Rows, theirs: _Rows) -> None:
    names = f"{first.path} and {second.path}"
    if ours.keys() != theirs.keys():
        both = len(ours.keys() & theirs.keys())
        raise ConfigurationError(
            f"{names} do not hold the same puzzles: {len(ours)} and {len(theirs)}, of which {both} are called the "
            "same. Evaluate both with the same --suite, --grid, --levels and --episodes."
        )
    for what, flag in (("seed", "--seed"), ("image_id", "--images")):
        differ = sum(getattr(ours[puzzle][0], what) != getattr(theirs[puzzle][0], what) for puzzle in ours)
        if differ:
            raise ConfigurationError(
                f"{names} do not hold the same puzzles: {differ} of {len(ours)} have another {what}. Evaluate both "
                f"with the same {flag}."
            )


def _exact_score(row: EpisodeRow | EpisodeResult) -> Fraction:
    """Return a score as the fraction that it was rounded from: of a jigsaw, a number of its pieces."""
    pieces = pieces_of(row.grid)
    return Fraction(round(row.score * pieces), pieces) if pieces else Fraction(row.score).limit_denominator(_FINEST)


def _compare(
    pairs: Sequence[tuple[Sequence[EpisodeRow | EpisodeResult], Sequence[EpisodeRow | EpisodeResult]]],
) -> dict[str, Any]:
    def mean(rows: Sequence[EpisodeRow | EpisodeResult], *, score: bool) -> Fraction:
        values = [_exact_score(row) if score else Fraction(row.solved) for row in rows]
        return sum(values, Fraction(0)) / len(values)

    comparison: dict[str, Any] = {"puzzles": len(pairs)}
    for metric in ("acc", "score"):
        ours = [mean(rows, score=metric == "score") for rows, _ in pairs]
        theirs = [mean(rows, score=metric == "score") for _, rows in pairs]
        differences = [b - a for a, b in zip(ours, theirs, strict=True)]
        estimate = bootstrap_difference([float(difference) for difference in differences])
        worse, better = (sum(sign * d > 0 for d in differences) for sign in (-1, 1))
        exact = metric == "acc" and all(len(rows) == 1 for pair in pairs for rows in pair)
        comparison[metric] = {
            "first": float(sum(ours, Fraction(0)) / len(pairs)),
            "second": float(sum(theirs, Fraction(0)) / len(pairs)),
            "difference": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "p": mcnemar(worse, better) if exact else sign_flip(differences),
            "test": _MCNEMAR if exact else _SIGN_FLIP,
        }
        if metric == "acc":
            comparison["only_first"], comparison["only_second"] = worse, better
    return comparison


def option_differences(first: Report, second: Report) -> list[str]:
    """Return the differences in the settings of two evaluations, but for policy and samples, one sentence each."""
    sentences: list[str] = []
    for name in sorted(first.plan.keys() | second.plan.keys()):
        ours, theirs = first.plan.get(name), second.plan.get(name)
        if ours == theirs or name in _IGNORED:
            continue
        if isinstance(ours, dict) and isinstance(theirs, dict):
            left, right = cast("dict[str, Any]", ours), cast("dict[str, Any]", theirs)
            sentences += [
                f"{key}: {left.get(key, 'default')!r:.200} and {right.get(key, 'default')!r:.200}"
                for key in sorted({**left, **right})
                if left.get(key) != right.get(key)
            ]
        else:
            sentences.append(f"{name}: {ours!r:.200} and {theirs!r:.200}")
    return sentences


def format_comparison(comparison: Mapping[str, Mapping[str, Any]], first: Report, second: Report) -> str:
    """Write a comparison for people.

    Args:
        comparison: Result of `compare_reports`.
        first: The first evaluation.
        second: The second one.

    Returns:
        Plain text, two tables a grid.
    """
    names = [short_name(first.policy), short_name(second.policy)]
    if names[0] == names[1]:
        names = [short_name(str(first.path)), short_name(str(second.path))]
    lines = [f"First: {first.policy} ({first.path})", f"Second: {second.policy} ({second.path})"]
    differ = option_differences(first, second)
    if differ:
        lines.append("Their settings differ in " + "; ".join(differ))
    parts = ["\n".join(one_line(line) for line in lines)]
    for grid, columns in comparison.items():
        header = ["", *columns]
        for metric, title in (("acc", "Acc (%)"), ("score", "Score (%)")):
            values = [column[metric] for column in columns.values()]
            test = values[-1]["test"]
            rows = [
                [names[0], *(f"{100 * value['first']:.1f}" for value in values)],
                [names[1], *(f"{100 * value['second']:.1f}" for value in values)],
                ["second minus first", *(f"{100 * value['difference']:+.1f}" for value in values)],
                ["  95% interval, from", *(f"{100 * value['low']:+.1f}" for value in values)],
                ["  to", *(f"{100 * value['high']:+.1f}" for value in values)],
                ["  p", *(_p_value(value["p"]) for value in values)],
            ]
            if metric == "acc":
                rows.append(["better in the first alone", *(str(c["only_first"]) for c in columns.values())])
                rows.append(["better in the second alone", *(str(c["only_second"]) for c in columns.values())])
            rows.append(["puzzles", *(str(column["puzzles"]) for column in columns.values())])
            parts.append(f"{grid} {title}, p by {test}\n{grid_lines(header, rows)}")
    parts.append(
        "Pairs are the same puzzle played by both. Intervals are by the bootstrap over pairs. The p-values are "
        "two-sided and not corrected for their number."
    )
    return "\n\n".join(parts)


def _p_value(p: float) -> str:
    return "<1e-9" if p < 1e-9 else f"{p:.2g}" if p < 0.001 else f"{p:.3f}"


def compare_blanked(results: Sequence[EpisodeResult], blanked: Sequence[EpisodeResult]) -> dict[str, dict[str, Any]]:
    """Compare episodes with those of the same puzzles whose looks were blanked.

    Args:
        results: The episodes with looks.
        blanked: Those with blanked looks, see `EvaluationPlan`.

    Returns:
        As `compare_reports`, with the blanked looks first, so that a difference is what looks add; and ``blanked`` with
        ``acc`` and ``score`` of `summarize`.

    Raises:
        ConfigurationError: If the puzzles are not the same.
    """
    ours, theirs = ([(*result.key, result.seed, result.image_id) for result in mine] for mine in (results, blanked))
    if sorted(ours) != sorted(theirs):
        raise ConfigurationError(
            f"The {len(theirs)} episodes with blanked looks are not of the same puzzles as the {len(ours)} with looks. "
            "Evaluate both with one plan."
        )
    summary = summarize(blanked)
    return {
        grid: {
            name: {**column, "blanked": {metric: summary[grid][name][metric] for metric in ("acc", "score")}}
            for name, column in columns.items()
        }
        for grid, columns in _compare_puzzles(_by_puzzle(blanked), _by_puzzle(results)).items()
    }


class LooksReport(NamedTuple):
    """Episodes with looks and with blanked ones, and their figures.

    Attributes:
        results: The episodes.
        blanked: Those of the same puzzles with blanked looks.
        summary: Result of `summarize` for ``results``; ``looks`` holds the figures of looks.
        blank_looks: Result of `compare_blanked`.
    """

    results: list[EpisodeResult]
    blanked: list[EpisodeResult]
    summary: dict[str, dict[str, Any]]
    blank_looks: dict[str, dict[str, Any]]

    def text(self) -> str:
        """Return the figures as tables."""
        return format_looks(self.summary, self.blank_looks)


def looks_report(policy: Policy | Callable[[Observation], str], plan: EvaluationPlan, *, batch: int = 8) -> LooksReport:
    """Play the puzzles of a plan in this process with looks, then with blanked ones.

    Args:
        policy: Plays; any policy, or a function from an observation to a text.
        plan: The puzzles.
        batch: Number of episodes played in one batch.

    Returns:
        The episodes, and their figures.

    Raises:
        ConfigurationError: As `evaluate`; so its other errors.
    """
    player = as_policy(policy)
    prepared = prepare_plan(replace(plan, blank_looks=False))
    results = evaluate(player, prepared.plan, batch=batch, prepared=prepared)
    prepared = replace(prepared, plan=replace(plan, blank_looks=True))
    blanked = evaluate(player, prepared.plan, batch=batch, prepared=prepared)
    return LooksReport(results, blanked, summarize(results), compare_blanked(results, blanked))


LOOK_TITLES = {
    "noticed": "wrong boards noticed",
    "mended": "wrong boards mended",
    "spoiled": "right boards spoiled",
}
"""Titles of the outcomes of boards, `agile_gym.evaluation.metrics.LOOK_FRACTIONS`."""


def format_looks(
    summary: Mapping[str, Mapping[str, Any]], blank_looks: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """Write the figures of looks for people, over all levels of each grid.

    Args:
        summary: Result of `summarize`.
        blank_looks: Result of `compare_blanked`, if there is one.

    Returns:
        Plain text, one table a grid; empty if no looks are recorded.
    """
    parts: list[str] = []
    tests: set[str] = set()
    for grid, columns in summary.items():
        column = columns[AVERAGE]
        rows: list[list[str]] = []
        if blank_looks is not None:
            pair = blank_looks[grid][AVERAGE]
            acc, puzzles = pair["acc"], str(pair["puzzles"])
            rows.append(_look_row("Acc", column["acc"], puzzles))
            rows.append(_look_row("Acc, looks blanked", pair["blanked"]["acc"], puzzles))
            difference = {"value": acc["difference"], "low": acc["low"], "high": acc["high"]}
            rows.append(_look_row(f"  difference, p {_p_value(acc['p'])}", difference, puzzles, form="+.1f"))
            tests.add(f" The difference is paired, its p by {acc['test']}.")
        looks: Mapping[str, Any] = column.get("looks") or {}
        for name, label in LOOK_TITLES.items():
            if name in looks:
                rows.append(_look_row(label, looks[name], str(looks[name]["of"])))
        for number, entry in looks_shown(looks.get("by_looks", {})).items():
            rows.append(_look_row(f"Acc after {number} look{'s' * (number != '1')}", entry, str(entry["of"])))
        if rows:
            parts.append(f"{grid} Looks (%)\n{grid_lines(['', 'value', 'from', 'to', 'of'], rows)}")
    note = "Looks are images of feedback that the policy saw. From and to are the 95% interval."
    return "\n\n".join([*parts, note + "".join(sorted(tests))]) if parts else ""


def _look_row(label: str, estimate: Mapping[str, Any], of: str, *, form: str = ".1f") -> list[str]:
    cells = [format(100 * estimate[key], form) if key in estimate else "-" for key in ("value", "low", "high")]
    return [label, *cells, of]
