"""The paper's tables (arXiv 2510.01304), to be shown beside one's own figures."""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

__all__ = ["REFERENCE_GRIDS", "ReferenceRow", "reference_rows"]

REFERENCE_GRIDS = ("2x2", "3x3")
"""Grids that the paper reports."""


class ReferenceRow(NamedTuple):
    """A model's row of one of the paper's tables.

    Attributes:
        model: Name of the model, as in the paper.
        levels: Percentage at each level, from L0 on.
        average: Mean percentage over the levels, as printed.
    """

    model: str
    levels: tuple[float, ...]
    average: float


@lru_cache
def reference_rows(grid: str, metric: str) -> tuple[ReferenceRow, ...]:
    """Return the paper's rows for a grid.

    Args:
        grid: Such as ``"2x2"``.
        metric: ``"acc"`` or ``"score"``.

    Returns:
        The rows, in the paper's order; none for a grid that it does not report.
    """
    text = files("agile_gym.evaluation").joinpath("reference_results.csv").read_text(encoding="utf-8")
    rows: list[ReferenceRow] = []
    for row in csv.DictReader(text.splitlines()):
        levels = [float(value) for key, value in row.items() if key.startswith(f"{grid}_L")]
        if row["metric"] == metric and levels:
            rows.append(ReferenceRow(row["model"], tuple(levels), float(row[f"{grid}_avg"])))
    return tuple(rows)
