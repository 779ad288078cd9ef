"""Pictures of an evaluation: Acc and Score by level, beside the paper's rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agile_gym.errors import import_optional
from agile_gym.evaluation.metrics import Estimate
from agile_gym.evaluation.reference import reference_rows
from agile_gym.evaluation.summary import AVERAGE
from agile_gym.evaluation.tables import INTERVALS, Interval, short_name

__all__ = ["plot_summary", "require_matplotlib"]

# Okabe and Ito's colours, which people with any kind of colour vision tell apart; markers tell them apart in grey.
_OWN = "#D55E00"
_PAPER = {
    "Qwen2.5-VL-7B + cold start + RL (AGILE)": ("paper: AGILE (Qwen2.5-VL-7B + cold start + RL)", "#0072B2", "s", "-"),
    "Gemini-2.5-Pro": ("paper: Gemini-2.5-Pro", "#009E73", "^", "--"),
    "GPT-4o": ("paper: GPT-4o", "#CC79A7", "v", "--"),
    "Qwen2.5-VL-7B": ("paper: Qwen2.5-VL-7B", "#56B4E9", "D", "-."),
    "Random": ("paper: Random", "#7F7F7F", "x", ":"),
}
_TITLES = {"acc": ("Acc", "puzzles with every piece right"), "score": ("Score", "pieces right")}
_MAX_TICKS = 12


Figure = Any
"""A `matplotlib.figure.Figure`, which is optional and does not tell its types."""
Axes = Any
"""One of its panes."""


def require_matplotlib() -> Any:  # noqa: ANN401 -- a module
    """Make sure that pictures can be drawn.

    Returns:
        The module ``matplotlib.figure``.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    return import_optional("matplotlib.figure", extra="plots", purpose="draw pictures of an evaluation")


def plot_summary(summary: Mapping[str, Mapping[str, Any]], policy: str, *, interval: Interval = "puzzle") -> Figure:
    """Draw Acc and Score by level, one row of pictures a grid.

    Args:
        summary: What `agile_gym.evaluation.summarize` returned, with at least one grid.
        policy: Name of the policy.
        interval: Whether the 95% intervals are over puzzles, or over photographs.

    Returns:
        The figure; ``figure.savefig(path)`` writes it.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    figure: Any = require_matplotlib().Figure(figsize=(10, 0.9 + 3.1 * len(summary)), dpi=120, layout="constrained")
    rows = figure.subplots(len(summary), 2, squeeze=False)
    for axes, (grid, columns) in zip(rows, summary.items(), strict=True):
        for pane, metric in zip(axes, _TITLES, strict=True):
            _draw(pane, grid, metric, columns, policy, interval)
    lines: dict[str, Any] = {}
    for pane in rows.ravel():
        handles, labels = pane.get_legend_handles_labels()
        lines.update(zip(labels, handles, strict=True))
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _draw(pane: Axes, grid: str, metric: str, columns: Mapping[str, Any], policy: str, interval: Interval) -> None:
    names = [name for name in columns if name != AVERAGE]
    places = list(range(len(names)))
    levels = [int(name.removeprefix("L")) for name in names]
    for row in reference_rows(grid, metric):
        if row.model in _PAPER:
            label, colour, marker, line = _PAPER[row.model]
            values = [row.levels[level] for level in levels]
            pane.plot(
                places, values, color=colour, marker=marker, linestyle=line, markersize=5, linewidth=1.4, label=label
            )
    key = metric if interval == INTERVALS[0] else f"{metric}_by_photograph"
    estimates = [Estimate(**columns[name][key]) for name in names]
    pane.errorbar(
        places,
        [100 * estimate.value for estimate in estimates],
        yerr=[
            [100 * (estimate.value - estimate.low) for estimate in estimates],
            [100 * (estimate.high - estimate.value) for estimate in estimates],
        ],
        color=_OWN,
        marker="o",
        markersize=6,
        linewidth=2.2,
        capsize=4,
        zorder=5,
        label=f"{short_name(policy)}, with 95% interval over {interval}s",
    )
    title, meaning = _TITLES[metric]
    pane.set_title(f"{grid}: {meaning}", fontsize=10, loc="left")
    step = -(-len(names) // _MAX_TICKS)
    pane.set_xticks(places[::step], names[::step])
    pane.set_xlim(-0.3, len(names) - 0.7)
    pane.set_ylim(-3, 105)
    pane.set_xlabel("level (pieces in place at the start)", fontsize=9)
    pane.set_ylabel(f"{title} (%)", fontsize=9)
    pane.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    pane.set_axisbelow(True)
    for side in ("top", "right"):
        pane.spines[side].set_visible(False)
