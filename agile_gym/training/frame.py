"""What the progress of a run looks like, as lines of text; see `agile_gym.training.console`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field

from agile_gym.terminal import printable
from agile_gym.training.figures import KEY_FIGURES, STAGE_TITLES, duration, shown

__all__ = ["Progress", "frame_lines", "header_line", "plain_line", "rows_of", "started_line"]

Figures = Mapping[str, float]

BAR = 24
"""Characters of the bar at most."""
_BOLD, _DIM, _WARN, _GOOD, _OFF = "\x1b[1m", "\x1b[2m", "\x1b[33m", "\x1b[36m", "\x1b[0m"
_STYLE = re.compile(r"\x1b\[\d*m")
_COLUMN = 10
"""Width of a column of plain lines."""
_CELL_GAP = 3


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        since: When it began, in seconds of the table's clock.
        stage: The stage, or "".
        total: Its iterations.
        iteration: The last one that is done.
        first: How many were done before the table began.
        begun: When the stage began.
        record: The last iteration's figures.
        held_out: The last figures with a held-out evaluation.
        status: What is being done.
        alarms: What looks wrong.
        finished: Earlier stages, and their seconds.
    """

    since: float
    stage: str = ""
    total: int = 0
    iteration: int = 0
    first: int = 0
    begun: float = 0.0
    record: Figures = field(default_factory=dict[str, float])
    held_out: Figures = field(default_factory=dict[str, float])
    status: str = ""
    alarms: list[str] = field(default_factory=list[str])
    finished: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])

    @property
    def title(self) -> str:
        """What the stage is called."""
        return _title(self.stage)

    def remaining(self, now: float) -> float | None:
        """Return the seconds that the stage will take from now, or None before its first iteration."""
        done = self.iteration - self.first
        if done <= 0:
            return None
        return (now - self.begun) / done * max(0, self.total - self.iteration)


def frame_lines(progress: Progress, now: float, width: int, *, colour: bool, rich: bool) -> list[str]:
    """Return the lines of a frame.

    Args:
        progress: What is shown.
        now: Seconds of the clock.
        width: Columns of the terminal; no line has as many characters, so that none is wrapped.
        colour: Whether lines may hold colours.
        rich: Whether the bar may have characters beyond ASCII.

    Returns:
        The lines, without line ends; none before the first stage.
    """
    if not progress.stage:
        return []
    room = max(1, width - 1)
    lines = [_styled(_head(progress, now, room, rich), _BOLD, colour)]
    if progress.finished:
        done = ", ".join(f"{_title(stage)} {duration(seconds)}" for stage, seconds in progress.finished)
        lines.append(_styled(f"  done: {done}"[:room], _DIM, colour))
    lines += _cells(progress, room)
    if progress.held_out:
        lines.append(_styled(_held_out(progress.held_out)[:room], _GOOD, colour))
    for alarm in progress.alarms:
        lines += [_styled(line, _WARN, colour) for line in _wrapped(alarm, room)]
    if progress.status:
        lines.append(_styled(f"  {progress.status}"[:room], _DIM, colour))
    return lines


def rows_of(line: str) -> int:
    """Return how many characters of a line are seen."""
    return len(_STYLE.sub("", line))


def started_line(progress: Progress) -> str:
    """Return the plain line with which a stage begins."""
    again = f", going on after iteration {progress.first}" if progress.first else ""
    return f"{progress.title}: {progress.total} iterations{again}"


def header_line(progress: Progress) -> str:
    """Return the names of the columns of `plain_line`, for the figures that its record has."""
    labels = [figure.label for figure in KEY_FIGURES if shown(figure, progress.record) is not None]
    return "".join(_pad(label) for label in ("iteration", "elapsed", "left", *labels))


def plain_line(progress: Progress, now: float) -> str:
    """Return the last iteration as a line of aligned columns, and the held-out evaluation behind it."""
    left = progress.remaining(now)
    values = [shown(figure, progress.record) for figure in KEY_FIGURES]
    cells = [
        f"{progress.iteration}/{progress.total}",
        duration(now - progress.since),
        "-" if left is None else duration(left),
        *(value for value in values if value is not None),
    ]
    line = "".join(_pad(cell) for cell in cells)
    return f"{line}   {_held_out(progress.record).strip()}" if "eval/acc" in progress.record else line


def _pad(cell: str) -> str:
    return cell.rjust(_COLUMN) if len(cell) < _COLUMN else f" {cell}"


def _title(stage: str) -> str:
    return printable(STAGE_TITLES.get(stage, stage))


def _styled(line: str, style: str, colour: bool) -> str:
    return f"{style}{line}{_OFF}" if colour and line else line


def _head(progress: Progress, now: float, room: int, rich: bool) -> str:
    """Return stage, bar and clocks; what does not fit is left out, the bar first."""
    left = progress.remaining(now)
    name = f"{progress.title} {progress.iteration}/{progress.total}"
    share = min(1.0, progress.iteration / progress.total) if progress.total > 0 else 0.0
    times = f"{duration(now - progress.since)} elapsed"
    if left is not None:
        times += f", {duration(left)} left"
    percent = f"{100 * share:3.0f}%"
    free = room - len(name) - len(percent) - len(times) - 8
    if free >= 5:
        length = min(BAR, free)
        full, empty = ("\u2588", "\u2591") if rich else ("#", ".")
        count = round(share * length)
        return f"{name}  [{full * count}{empty * (length - count)}] {percent}  {times}"
    return f"{name} {percent} {times}"[:room]


def _cells(progress: Progress, room: int) -> list[str]:
    """Return label and value of each figure, in columns, as many as fit."""
    cells = [(figure.label, value) for figure in KEY_FIGURES if (value := shown(figure, progress.record)) is not None]
    if not cells:
        return []
    label, value = (max(len(cell[side]) for cell in cells) for side in (0, 1))
    size = label + 1 + value
    per_line = max(1, min((room - 2 + _CELL_GAP) // (size + _CELL_GAP), 5))
    per_line = -(-len(cells) // -(-len(cells) // per_line))  # as many on each line
    texts = [f"{name.ljust(label)} {text.rjust(value)}" for name, text in cells]
    gap = " " * _CELL_GAP
    return [f"  {gap.join(texts[start : start + per_line])}"[:room] for start in range(0, len(texts), per_line)]


def _held_out(record: Figures) -> str:
    text = f"  held-out Acc {100 * record['eval/acc']:.1f}%"
    if "eval/acc_low" in record and "eval/acc_high" in record:
        text += f" ({100 * record['eval/acc_low']:.1f} to {100 * record['eval/acc_high']:.1f})"
    if "eval/score" in record:
        text += f", Score {100 * record['eval/score']:.1f}%"
    return f"{text} (iteration {int(record['iteration'])})" if "iteration" in record else text


def _wrapped(alarm: str, room: int) -> list[str]:
    indent = "  ! " if room >= 20 else ""
    return textwrap.wrap(alarm, max(1, room), initial_indent=indent, subsequent_indent=" " * len(indent)) or [""]
