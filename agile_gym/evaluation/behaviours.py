"""Table of the behaviours that a policy shows, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agile_gym.evaluation.report import grid_lines
from agile_gym.transcripts.behaviours import BEHAVIOURS

__all__ = ["format_behaviours"]


def format_behaviours(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the fractions of episodes that show each behaviour, with a column for each level.

    Args:
        summary: Result of `agile_gym.evaluation.summarize`.

    Returns:
        Plain text, one table a grid; empty if no behaviours are recorded.
    """
    parts: list[str] = []
    for grid, columns in summary.items():
        figures: dict[str, Mapping[str, Any]] = {
            name: column["behaviours"] for name, column in columns.items() if column.get("behaviours")
        }
        rows: list[list[str]] = []
        for name, title in BEHAVIOURS.items():
            entries = [column.get(name) for column in figures.values()]
            if any(entries):
                for label, key in ((title, "value"), ("  95% interval, from", "low"), ("  to", "high")):
                    rows.append([label, *("-" if entry is None else f"{100 * entry[key]:.1f}" for entry in entries)])
        if rows:
            parts.append(f"{grid} Behaviours: episodes that ... (%)\n{grid_lines(['', *figures], rows)}")
    return "\n\n".join(parts)
