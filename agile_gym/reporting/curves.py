"""Charts of a run's report and of an evaluation: curves, time by stage, Acc and Score by level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from agile_gym.errors import printable
from agile_gym.evaluation.estimates import Estimate
from agile_gym.evaluation.metrics import AVERAGE, looks_shown
from agile_gym.evaluation.plan import pieces_of
from agile_gym.evaluation.report import INTERVALS, Interval, metric_title, reference_rows, short_name
from agile_gym.reporting.charts import Chart, Series, draw_chart, draw_points, draw_rows, require_matplotlib
from agile_gym.reporting.outcome import StageResult, behaviours_of
from agile_gym.reporting.runlog import Record
from agile_gym.transcripts.behaviours import BEHAVIOURS

__all__ = ["StageTime", "behaviour_charts", "curves", "look_charts", "plot_summary", "stage_times"]


class _Plot(NamedTuple):
    """A chart: its title, and key and label of each curve."""

    title: str
    curves: tuple[tuple[str, str], ...]
    percent: bool = False
    from_zero: bool = False


_PLOTS = (
    _Plot("Acc", (("acc", "training"), ("eval/acc", "held out")), percent=True),
    _Plot("Score", (("score", "training"), ("eval/score", "held out")), percent=True),
    _Plot("Return", (("return", "training"),)),
    _Plot(
        "Reward, part by part", (("reward_accuracy", "accuracy"), ("reward_format", "format"), ("reward_step", "step"))
    ),
    _Plot("Loss of supervised stages", (("learner/loss", "cross-entropy"),), from_zero=True),
    _Plot("Turns an episode", (("turns", "training"), ("eval/turns", "held out")), from_zero=True),
    _Plot("Valid turns", (("valid", "training"), ("eval/valid", "held out")), percent=True),
    _Plot("Episodes that use", (("crop", "crop"), ("zoom", "zoom")), percent=True),
    _Plot("Entropy (nats a token)", (("learner/entropy", "training"),), from_zero=True),
    _Plot("Groups without variance", (("share_constant", "of those played"),), percent=True),
    _Plot("Clipped tokens", (("learner/clip_frac_low", "below"), ("learner/clip_frac_high", "above")), percent=True),
    _Plot("KL to the reference (nats a token)", (("learner/kl_ref", "k3"),), from_zero=True),
    _Plot("Norm of the gradient", (("learner/grad_norm", "before clipping"),), from_zero=True),
    _Plot("Learning rate", (("learner/lr", "mean of an iteration"),), from_zero=True),
    _Plot("Episodes a second", (("episodes_per_second", "whole iteration"),), from_zero=True),
    _Plot(
        "Tokens a second",
        (("tokens_per_second", "written, while playing"), ("trained_tokens_per_second", "trained, while updating")),
        from_zero=True,
    ),
)
_MOST_TASKS = 4
"""Tasks of a chart, each in a colour of its own."""


def curves(records: Sequence[Record], results: Sequence[StageResult]) -> list[Chart]:
    """Draw all curves that the records have figures for.

    Args:
        records: The records of a run.
        results: The evaluations after the stages; the Acc and Score before GRPO become level lines.

    Returns:
        The drawings.
    """
    drawings = (_draw(plot, records, results) for plot in (*_PLOTS, *_task_plots(records)))
    return [drawing for drawing in drawings if drawing is not None]


def _task_plots(records: Sequence[Record]) -> list[_Plot]:
    """Return the charts of each task's figures, where there are several tasks; a chart has `_MOST_TASKS` at most."""
    plots: list[_Plot] = []
    for title, key, percent in (
        ("Acc by task", "acc", True),
        ("Acc by task, held out", "eval/acc", True),
        ("Return by task", "return", False),
        ("Turns an episode by task", "turns", False),
    ):
        tasks = sorted(
            {name.removeprefix(f"{key}/") for record in records for name in record if name.startswith(f"{key}/")}
        )
        for first in range(0, len(tasks), _MOST_TASKS):
            shown = tasks[first : first + _MOST_TASKS]
            part = f" ({first // _MOST_TASKS + 1})" if len(tasks) > _MOST_TASKS else ""
            named = tuple((f"{key}/{task}", printable(task)) for task in shown)
            plots.append(_Plot(f"{title}{part}", named, percent=percent, from_zero=key == "turns"))
    return plots


def _draw(plot: _Plot, records: Sequence[Record], results: Sequence[StageResult]) -> Chart | None:
    keys = [key for key, _ in plot.curves]
    stages: dict[str, list[Record]] = {}
    for record in records:
        if record["stage"] != "grpo" or "learner/loss" not in keys:
            stages.setdefault(record["stage"], []).append(record)
    stages = {stage: mine for stage, mine in stages.items() if any(key in record for record in mine for key in keys)}
    series = [Series(label, key, dots=key.startswith("eval/")) for key, label in plot.curves]
    marks = _levels(plot.title.lower(), results) if plot.title in ("Acc", "Score") and "grpo" in stages else []
    return draw_chart(plot.title, stages, series, percent=plot.percent, from_zero=plot.from_zero, marks=marks)


def _levels(metric: str, results: Sequence[StageResult]) -> list[tuple[str, float]]:
    """Return the results of the stage before GRPO, if a single grid was evaluated."""
    before = [result for result in results if result.name != "grpo"]
    if not before or len(before[-1].report.summary) != 1:
        return []
    (columns,) = before[-1].report.summary.values()
    return [(f"{before[-1].title}, held out", float(columns[AVERAGE][metric]["value"]))]


def look_charts(results: Sequence[StageResult]) -> dict[str, Chart]:
    """Draw Acc by the number of looks after each stage, for each grid whose looks are recorded.

    Args:
        results: The evaluations, in the order of the stages.
    """
    charts: dict[str, Chart] = {}
    for grid in dict.fromkeys(grid for result in results for grid in result.report.summary):
        series: dict[str, dict[str, Mapping[str, float]]] = {}
        for result in results:
            looks = result.report.summary.get(grid, {}).get(AVERAGE, {}).get("looks")
            if looks:
                series[result.title] = dict(looks_shown(looks["by_looks"]))
        if series:
            charts[grid] = draw_points(
                f"{grid}: Acc by number of looks", series, "looks before the answer, and episodes"
            )
    return charts


def behaviour_charts(results: Sequence[StageResult]) -> dict[str, Chart]:
    """Draw the fractions of episodes that show each behaviour after each stage, for each grid that has any.

    Args:
        results: The evaluations, in the order of the stages.
    """
    charts: dict[str, Chart] = {}
    for grid, mine in behaviours_of(results).items():
        series = {
            title: {label: found[name] for name, label in BEHAVIOURS.items() if name in found}
            for title, found in mine.items()
            if found
        }
        charts[grid] = draw_rows(f"{grid}: episodes by behaviour", series)
    return charts


StageTime = dict[str, float]
"""``iterations``, and seconds: ``all``, ``rollout``, ``update``, ``sync`` and ``other``."""


def stage_times(records: Sequence[Record]) -> dict[str, StageTime]:
    """Add up the time of each stage.

    Args:
        records: The records of a run, in order.

    Returns:
        For each stage its time. A stage lasts from the last record of the one before it to its own last record; time
        for anything but playing, updating and syncing (evaluation, checkpoints, start) is ``other``.
    """
    times: dict[str, StageTime] = {}
    since = 0.0
    for stage in dict.fromkeys(record["stage"] for record in records):
        mine = [record for record in records if record["stage"] == stage]
        until = float(mine[-1]["seconds"])
        parts = {
            "rollout": sum(float(record.get("seconds_rollout", 0.0)) for record in mine),
            "update": sum(float(record.get("seconds_update", record.get("learner/seconds", 0.0))) for record in mine),
            "sync": sum(float(record.get("seconds_sync", 0.0)) for record in mine),
        }
        whole = max(until - since, sum(parts.values()))
        other = whole - sum(parts.values())
        times[stage] = {"iterations": float(len(mine)), "all": whole, **parts, "other": other}
        since = until
    return times


# Okabe and Ito's colours, distinct with any kind of colour vision; markers distinguish them in grey.
_OWN = "#D55E00"
_PAPER = {
    "Qwen2.5-VL-7B + cold start + RL (AGILE)": ("paper: AGILE (Qwen2.5-VL-7B + cold start + RL)", "#0072B2", "s", "-"),
    "Gemini-2.5-Pro": ("paper: Gemini-2.5-Pro", "#009E73", "^", "--"),
    "GPT-4o": ("paper: GPT-4o", "#CC79A7", "v", "--"),
    "Qwen2.5-VL-7B": ("paper: Qwen2.5-VL-7B", "#56B4E9", "D", "-."),
    "Random": ("paper: Random", "#7F7F7F", "x", ":"),
}
_MAX_TICKS = 12


Figure = Any
"""A `matplotlib.figure.Figure`, which is optional and has no types."""
Axes = Any
"""One of its panes."""


def plot_summary(summary: Mapping[str, Mapping[str, Any]], policy: str, *, interval: Interval = "puzzle") -> Figure:
    """Draw Acc and Score by level, one row of pictures a grid.

    Args:
        summary: Result of `agile_gym.evaluation.summarize`, with at least one grid.
        policy: Name of the policy.
        interval: Unit that the 95% intervals are over: ``"puzzle"`` or ``"photograph"``.

    Returns:
        The figure; ``figure.savefig(path)`` writes it.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    figure: Any = require_matplotlib().Figure(figsize=(10, 0.9 + 3.1 * len(summary)), dpi=120, layout="constrained")
    rows = figure.subplots(len(summary), 2, squeeze=False)
    for axes, (grid, columns) in zip(rows, summary.items(), strict=True):
        for pane, metric in zip(axes, ("acc", "score"), strict=True):
            _draw_row(pane, grid, metric, columns, policy, interval)
    lines: dict[str, Any] = {}
    for pane in rows.ravel():
        handles, labels = pane.get_legend_handles_labels()
        lines.update(zip(labels, handles, strict=True))
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _draw_row(pane: Axes, grid: str, metric: str, columns: Mapping[str, Any], policy: str, interval: Interval) -> None:
    names = [name for name in columns if name != AVERAGE] or [AVERAGE]
    places = list(range(len(names)))
    for row in reference_rows(grid, metric):
        if row.model in _PAPER:
            label, colour, marker, line = _PAPER[row.model]
            values = [row.levels[int(name.removeprefix("L"))] for name in names]
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
    title, _, meaning = metric_title(metric, grid).partition(": ")
    pane.set_title(f"{grid}: {meaning}", fontsize=10, loc="left")
    step = -(-len(names) // _MAX_TICKS)
    pane.set_xticks(places[::step], names[::step])
    pane.set_xlim(-0.3, len(names) - 0.7)
    pane.set_ylim(-3, 105)
    pane.set_xlabel("level (pieces in place at the start)" if pieces_of(grid) else "label", fontsize=9)
    pane.set_ylabel(f"{title} (%)", fontsize=9)
    pane.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    pane.set_axisbelow(True)
    for side in ("top", "right"):
        pane.spines[side].set_visible(False)
