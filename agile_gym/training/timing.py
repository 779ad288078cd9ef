"""Where the time of a run went, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence

from agile_gym.training.charts import bars
from agile_gym.training.figures import STAGE_TITLES, duration
from agile_gym.training.markup import Markup, element
from agile_gym.training.runlog import Record

__all__ = ["StageTime", "stage_times", "timing_table"]

StageTime = dict[str, float]
"""``iterations``, and seconds: ``all``, ``rollout``, ``update``, ``sync`` and ``other``."""

_PARTS = (("playing", "rollout", 1), ("update", "update", 2), ("sync", "sync", 3), ("other", "other", 4))


def stage_times(records: Sequence[Record]) -> dict[str, StageTime]:
    """Add up the time of each stage.

    Args:
        records: The records of a run, in order.

    Returns:
        For each stage its time. A stage lasts from the last record of the one before it to its own last record; what is
        neither playing, updating nor syncing (evaluation, checkpoints, start) is ``other``.
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


def timing_table(records: Sequence[Record]) -> Markup:
    """Return the table of `stage_times`, with a bar a stage; empty without records."""
    times = stage_times(records)
    if not times:
        return Markup("")
    keys = [
        element("th", element("svg.swatch", element(f"rect.fill-{colour}", width=10, height=10), viewbox="0 0 10 10"),
                name, scope="col")
        for name, _, colour in _PARTS
    ]  # fmt: skip
    head = element(
        "tr", *(element("th", name, scope="col") for name in ("stage", "iterations", "in all", "an iteration")), *keys,
        element("th", "share", scope="col"),
    )  # fmt: skip
    rows = [_row(stage, time) for stage, time in times.items()]
    table = element("table", element("thead", head), element("tbody", *rows))
    return element("div.table", table, tabindex=0, role="region", aria_label="Time of each stage")


def _row(stage: str, time: StageTime) -> Markup:
    whole = time["all"] or 1.0
    title = STAGE_TITLES.get(stage, stage)
    parts = [(name, colour, time[key] / whole) for name, key, colour in _PARTS]
    return element(
        "tr",
        element("th", title, scope="row"),
        element("td", f"{time['iterations']:,.0f}"),
        element("td", duration(time["all"])),
        element("td", f"{time['all'] / time['iterations']:.3g} s"),
        *(element("td", duration(time[key])) for _, key, _ in _PARTS),
        element("td", bars(parts, label=f"Time of {title}")),
    )
