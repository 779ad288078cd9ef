"""What the figures of a run are called, and how they are written, on the terminal and in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["KEY_FIGURES", "STAGE_TITLES", "Figure", "duration", "shown"]

STAGE_TITLES = {"eyes": "eyes", "sft": "cold start", "grpo": "GRPO"}
"""What the stages are called."""
_MINUTE, _HOUR = 60, 3600


class Figure(NamedTuple):
    """A figure of a record.

    Attributes:
        key: Its name in the record.
        label: What it is called.
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
"""What is shown of an iteration, in this order, where it is known. The loss is that of supervised stages."""


def shown(figure: Figure, record: Mapping[str, float]) -> str | None:
    """Return a figure of a record as a text, or None if the record does not have it.

    GRPO's loss is left out: it says nothing about progress.
    """
    value = record.get(figure.key)
    if value is None or (figure.key == "learner/loss" and "return" in record):
        return None
    if figure.form == "percent":
        return f"{100 * value:.1f}%"
    return f"{value:+.3f}" if figure.form == "signed" else format(value, figure.form)


def duration(seconds: float) -> str:
    """Return a time as minutes and seconds, such as ``"4:05"``, or hours, such as ``"1:04:05"``."""
    whole = max(0, round(seconds))
    minutes = f"{whole // _MINUTE % _MINUTE:02d}:{whole % _MINUTE:02d}"
    return f"{whole // _HOUR}:{minutes}" if whole >= _HOUR else minutes.removeprefix("0")
