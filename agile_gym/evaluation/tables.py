"""Summaries and tables of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agile_gym.evaluation.metrics import Estimate, bootstrap_mean, wilson
from agile_gym.evaluation.reference import reference_rows
from agile_gym.evaluation.run import EpisodeResult

__all__ = ["format_tables", "summarize"]


def summarize(results: Sequence[EpisodeResult]) -> dict[str, dict[str, Any]]:
    """Compute Acc and Score, overall and a level, for each grid.

    Args:
        results: Finished episodes.

    Returns:
        For each grid a mapping from ``"L0"``, ``"L1"``, ... and ``"avg"`` (over all episodes) to ``episodes``, ``acc``
        (with ``value``, ``low`` and ``high``, a Wilson interval), ``score`` (likewise, by the bootstrap), ``turns``,
        ``valid`` (share of turns that could be carried out) and ``reward``, the latter three as means.
    """
    grids: dict[str, dict[str, list[EpisodeResult]]] = {}
    for result in sorted(results, key=lambda result: (result.grid, result.level, result.episode)):
        columns = grids.setdefault(result.grid, {})
        columns.setdefault(f"L{result.level}", []).append(result)
    summary: dict[str, dict[str, Any]] = {}
    for grid, columns in grids.items():
        everything = [result for column in columns.values() for result in column]
        summary[grid] = {name: _column(column) for name, column in {**columns, "avg": everything}.items()}
    return summary


def _column(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    turns = sum(result.turns for result in results)
    return {
        "episodes": len(results),
        "acc": wilson(sum(result.solved for result in results), len(results))._asdict(),
        "score": bootstrap_mean([result.score for result in results])._asdict(),
        "turns": turns / len(results),
        "valid": 1 - sum(result.errors for result in results) / turns,
        "reward": sum(result.reward for result in results) / len(results),
    }


def format_tables(summary: Mapping[str, Mapping[str, Any]], policy: str) -> str:
    """Write the tables for people: one's own rows, with their intervals below, and the paper's rows.

    Args:
        summary: What `summarize` returned.
        policy: Name of the policy.

    Returns:
        Plain text, percentages, at most two tables a grid.
    """
    parts: list[str] = []
    for grid, columns in summary.items():
        for metric, title in (("acc", "Acc: puzzles with every piece right"), ("score", "Score: pieces right")):
            names = list(columns)
            estimates = [Estimate(**columns[name][metric]) for name in names]
            rows = [
                [policy, *(f"{100 * estimate.value:.1f}" for estimate in estimates)],
                ["  95% interval, from", *(f"{100 * estimate.low:.1f}" for estimate in estimates)],
                ["  to", *(f"{100 * estimate.high:.1f}" for estimate in estimates)],
                ["  episodes", *(str(columns[name]["episodes"]) for name in names)],
            ]
            for row in reference_rows(grid, metric):
                paper = {f"L{level}": value for level, value in enumerate(row.levels)} | {"avg": row.average}
                rows.append([f"paper: {row.model}", *(f"{paper[name]:.1f}" for name in names)])
            parts.append(f"{grid} {title} (%)\n{_grid_lines(['', *names], rows)}")
    return "\n\n".join(parts)


def _grid_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(line.rstrip() for line in lines)
