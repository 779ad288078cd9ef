"""Progress of a run: a live table on a terminal, and plain lines anywhere else."""

from __future__ import annotations

import os
import re
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TextIO

from agile_gym.reporting.charts import KEY_FIGURES, STAGE_TITLES, duration, shown
from agile_gym.terminal import one_line, printable

__all__ = ["LiveTable", "Progress", "frame_lines", "header_line", "plain_line", "rows_of", "started_line"]

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


INTERVAL = 1.0
"""Seconds between two frames where nothing happens, so that clocks go on."""
LEAST = 0.05
"""Seconds between two frames at least."""
HEADER_EVERY = 20
"""Plain lines from one header to the next."""


class LiveTable:
    """Shows how a run goes. Use it in a ``with`` block, or call `close`.

    On a terminal, a thread of its own draws, so that Ctrl-C never falls into the middle of a frame; nothing else should
    write to the terminal meanwhile, but through `print_above`. If the terminal goes away, the run goes on unseen.
    """

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin; nothing is shown before the first stage.

        Args:
            stream: Where to; standard output by default.
            clock: Tells seconds.
        """
        self._stream = sys.stdout if stream is None else stream
        self._live = _is_terminal(self._stream)
        self._colour = self._live and not os.environ.get("NO_COLOR")
        self._clock = clock
        self._lock = threading.Lock()
        self._progress = Progress(since=clock())
        self._above: list[str] = []
        self._drawn: list[int] = []
        self._header, self._lines = "", 0
        self._alarms: set[str] = set()
        self._gone = self._closed = False
        self._wake, self._end = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        if self._live:
            self._thread = threading.Thread(target=self._draw_on, name="progress", daemon=True)
            self._thread.start()

    def begin(self, stage: str, total: int, *, done: int = 0) -> None:
        """Begin a stage.

        Args:
            stage: Name of the stage, one of `agile_gym.reporting.runlog.STAGES`, or another text.
            total: Its number of iterations.
            done: Iterations that were done before, in a run that was interrupted.
        """
        with self._lock:
            progress = self._progress
            if progress.stage:
                progress.finished.append((progress.stage, self._clock() - progress.begun))
            progress.stage, progress.total, progress.iteration, progress.first = stage, total, done, done
            progress.begun, progress.record, progress.alarms, progress.status = self._clock(), {}, [], ""
            self._header = ""
            if not self._live:
                self._write(started_line(progress) + "\n")
        self._wake.set()

    def update(self, record: Mapping[str, float]) -> None:
        """Show an iteration.

        Args:
            record: What `agile_gym.reporting.runlog.RunLog.add` returned: ``iteration``, and figures.
        """
        with self._lock:
            progress = self._progress
            progress.iteration = int(record.get("iteration", progress.iteration + 1))
            progress.record, progress.status = dict(record), ""
            if "eval/acc" in record:
                progress.held_out = dict(record)
            if not self._live:
                now = self._clock()
                header = header_line(progress)
                if header != self._header or self._lines % HEADER_EVERY == 0:
                    self._header, self._lines = header, 0
                    self._write(f"{header}\n")
                self._lines += 1
                self._write(f"{plain_line(progress, now)}\n")
        self._wake.set()

    def status(self, text: str) -> None:
        """Say what is being done, such as ``"playing 64 groups"``, until the next iteration is shown."""
        with self._lock:
            self._progress.status = one_line(text, 200)
        self._wake.set()

    def alarms(self, sentences: Sequence[str]) -> None:
        """Show alarms under the table until they are given anew; elsewhere, each new one as a line."""
        texts = [one_line(sentence, 600) for sentence in sentences]
        with self._lock:
            self._progress.alarms = texts
            if not self._live:
                # Numbers change from iteration to iteration; how a sentence begins tells which it is.
                fresh = [text for text in texts if _kind(text) not in self._alarms]
                self._write("".join(f"! {text}\n" for text in fresh))
            self._alarms = {_kind(text) for text in texts}
        self._wake.set()

    def print_above(self, text: str) -> None:
        """Write lines above the table, where they stay; control characters stand as their numbers."""
        lines = [one_line(line) for line in text.splitlines()] or [""]
        with self._lock:
            if self._live and self._thread is not None and self._thread.is_alive():
                self._above += lines
            else:
                self._write("".join(f"{line}\n" for line in lines))
        self._wake.set()

    def close(self) -> None:
        """Draw for the last time, and leave the table where it is."""
        if self._closed:
            return
        self._closed = True
        with self._lock:
            self._progress.status = ""
        self._end.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def __enter__(self) -> Self:
        """Return the table itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the table."""
        self.close()

    def _draw_on(self) -> None:
        while not self._end.is_set() and not self._gone:
            self._wake.wait(INTERVAL)
            self._wake.clear()
            self._draw()
            self._end.wait(LEAST)
        self._draw()

    def _draw(self) -> None:
        """Draw a frame over the last one, in one piece."""
        width, height = _size(self._stream)
        with self._lock:
            above, self._above = self._above, []
            lines = frame_lines(self._progress, self._clock(), width, colour=self._colour, rich=_is_rich(self._stream))
        lines = lines[: max(1, height - 1)]
        # What was drawn may take more rows by now, if the window became narrower.
        rows = sum(max(1, -(-length // width)) for length in self._drawn)
        back = f"\x1b[{min(rows, height - 1)}A" if rows and height > 1 else ""
        text = "".join(f"{line}\n" for line in (*above, *lines))
        self._write(f"{back}\r\x1b[J{text}")
        self._drawn = [rows_of(line) for line in lines]

    def _write(self, text: str) -> None:
        if self._gone or not text:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError):  # the terminal, or the reader of a pipe, is gone
            self._gone = True


def _kind(text: str) -> str:
    return "".join(character for character in text if not character.isdigit())[:40]


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty() and os.environ.get("TERM", "") != "dumb"
    except ValueError:
        return False


def _is_rich(stream: TextIO) -> bool:
    """Tell whether a stream takes the characters of a smooth bar."""
    return (stream.encoding or "").lower().replace("-", "") == "utf8"


def _size(stream: TextIO) -> tuple[int, int]:
    """Return columns and rows of a terminal; 80 x 24 where it does not tell."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return 80, 24
    return size.columns or 80, size.lines or 24
