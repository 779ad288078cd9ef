"""Which curves a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agile_gym.evaluation.summary import AVERAGE
from agile_gym.training.charts import Axis, Series, line_chart
from agile_gym.training.markup import Markup
from agile_gym.training.outcome import StageResult
from agile_gym.training.runlog import Record

__all__ = ["curves"]


class _Chart(NamedTuple):
    """A chart: its title, and key and label of each curve."""

    title: str
    curves: tuple[tuple[str, str], ...]
    percent: bool = False
    from_zero: bool = False


_CHARTS = (
    _Chart("Acc", (("acc", "training"), ("eval/acc", "held out")), percent=True),
    _Chart("Score", (("score", "training"), ("eval/score", "held out")), percent=True),
    _Chart("Return", (("return", "training"),)),
    _Chart(
        "Reward, part by part", (("reward_accuracy", "accuracy"), ("reward_format", "format"), ("reward_step", "step"))
    ),
    _Chart("Loss of supervised stages", (("learner/loss", "cross-entropy"),), from_zero=True),
    _Chart("Turns an episode", (("turns", "training"), ("eval/turns", "held out")), from_zero=True),
    _Chart("Valid turns", (("valid", "training"), ("eval/valid", "held out")), percent=True),
    _Chart("Episodes that use", (("crop", "crop"), ("zoom", "zoom")), percent=True),
    _Chart("Entropy (nats a token)", (("learner/entropy", "training"),), from_zero=True),
    _Chart("Groups without variance", (("share_constant", "of those played"),), percent=True),
    _Chart("Clipped tokens", (("learner/clipped_low", "below"), ("learner/clipped_high", "above")), percent=True),
    _Chart("KL to the reference (nats a token)", (("learner/kl_ref", "k3"),), from_zero=True),
    _Chart("Norm of the gradient", (("learner/grad_norm", "before clipping"),), from_zero=True),
    _Chart("Learning rate", (("learner/lr", "mean of an iteration"),), from_zero=True),
    _Chart("Episodes a second", (("episodes_per_second", "whole iteration"),), from_zero=True),
    _Chart(
        "Tokens a second",
        (("tokens_per_second", "written, while playing"), ("trained_tokens_per_second", "trained, while updating")),
        from_zero=True,
    ),
)


def curves(records: Sequence[Record], results: Sequence[StageResult]) -> list[Markup]:
    """Draw all curves that the records have figures for.

    Args:
        records: The records of a run.
        results: The evaluations after the stages; the Acc and Score before GRPO become level lines.

    Returns:
        The drawings.
    """
    drawings = (_draw(chart, records, results) for chart in _CHARTS)
    return [drawing for drawing in drawings if drawing]


def _draw(chart: _Chart, records: Sequence[Record], results: Sequence[StageResult]) -> Markup:
    supervised = chart.curves[0][0] == "learner/loss"
    chosen = [record for record in records if not supervised or record["stage"] != "grpo"]
    keys = [key for key, _ in chart.curves]
    stages = {record["stage"] for record in chosen if any(key in record for key in keys)}
    mine = [record for record in chosen if record["stage"] in stages]
    if not mine:
        return Markup("")
    axis = Axis(mine)
    series = [
        Series(label, number, axis.points(mine, key), dots=key.startswith("eval/"))
        for number, (key, label) in enumerate(chart.curves, 1)
    ]
    marks = _levels(chart.title.lower(), results) if chart.title in ("Acc", "Score") and "grpo" in stages else []
    return line_chart(chart.title, axis, series, percent=chart.percent, from_zero=chart.from_zero, marks=marks)


def _levels(metric: str, results: Sequence[StageResult]) -> list[tuple[str, float]]:
    """Return what the stage before GRPO has reached, if a single grid was evaluated."""
    before = [result for result in results if result.name != "grpo"]
    if not before or len(before[-1].report.summary) != 1:
        return []
    (columns,) = before[-1].report.summary.values()
    return [(f"{before[-1].title}, held out", float(columns[AVERAGE][metric]["value"]))]
