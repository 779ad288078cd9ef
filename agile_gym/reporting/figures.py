"""Key figures of a run's records as texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["KEY_FIGURES", "STAGE_TITLES", "TASK_FIGURES", "Figure", "duration", "shown", "task_figures", "tasks_in"]

STAGE_TITLES = {"vision": "vision pretraining", "sft": "cold start", "grpo": "GRPO"}
"""Titles of the stages."""
_MINUTE, _HOUR = 60, 3600


class Figure(NamedTuple):
    """A figure of a record.

    Attributes:
        key: Its name in the record.
        label: Its label.
        form: ``"percent"``, ``"signed"``, or a format of Python's.
    """

    key: str
    label: str
    form: str


KEY_FIGURES = (
    Figure("return", "return", "signed"),
    Figure("acc", "Acc", "percent"),
    Figure("score", "Score", "percent"),
    Figure("turns", "turns", ".2f"),
    Figure("valid", "valid", "percent"),
    Figure("learner/loss", "loss", ".4f"),
    Figure("learner/entropy", "entropy", ".3f"),
    Figure("share_constant", "constant", "percent"),
    Figure("learner/grad_norm", "grad norm", ".3g"),
    Figure("episodes_per_second", "episodes/s", ".3g"),
)
"""Figures of an iteration that are shown, in this order, where present. The loss is that of supervised stages."""


def shown(figure: Figure, record: Mapping[str, float]) -> str | None:
    """Return a figure of a record as a text, or None if the record does not have it.

    GRPO's loss is left out: it does not measure progress.
    """
    value = record.get(figure.key)
    if value is None or (figure.key == "learner/loss" and "return" in record):
        return None
    if figure.form == "percent":
        return f"{100 * value:.1f}%"
    return f"{value:+.3f}" if figure.form == "signed" else format(value, figure.form)


TASK_FIGURES = (
    Figure("acc", "Acc", "percent"),
    Figure("return", "return", "signed"),
    Figure("turns", "turns", ".2f"),
)
"""Figures of each task, where there are several."""


def tasks_in(record: Mapping[str, float], prefix: str = "") -> list[str]:
    """Return the tasks that a record has figures of.

    Args:
        record: The record.
        prefix: ``"eval/"`` for those of a held-out evaluation.
    """
    before = f"{prefix}{TASK_FIGURES[0].key}/"
    return sorted(key.removeprefix(before) for key in record if key.startswith(before))


def task_figures(record: Mapping[str, float], task: str) -> str:
    """Return the figures of a task as a text, such as ``"Acc 25.0%, return +0.250, turns 1.50"``."""
    figures = [figure._replace(key=f"{figure.key}/{task}") for figure in TASK_FIGURES]
    cells = [(figure.label, shown(figure, record)) for figure in figures]
    return ", ".join(f"{label} {value}" for label, value in cells if value is not None)


def duration(seconds: float) -> str:
    """Return a time as minutes and seconds, such as ``"4:05"``, or hours, such as ``"1:04:05"``."""
    whole = max(0, round(seconds))
    minutes = f"{whole // _MINUTE % _MINUTE:02d}:{whole % _MINUTE:02d}"
    return f"{whole // _HOUR}:{minutes}" if whole >= _HOUR else minutes.removeprefix("0")
