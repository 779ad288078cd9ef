"""Progress of a run: a live table on a terminal, and plain lines anywhere else."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TextIO, cast

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.control import Control
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.segment import ControlType, Segment
from rich.table import Table
from rich.text import Text

from agile_gym.errors import one_line, printable
from agile_gym.reporting.charts import KEY_FIGURES, STAGE_TITLES, duration, shown, task_figures, tasks_in

__all__ = ["LiveTable", "Progress", "frame", "header_line", "plain_line", "started_line"]

Figures = Mapping[str, float]

BAR = 24
"""Characters of the bar at most."""
_NARROW = 60
"""In windows of fewer columns there is no bar."""
_COLUMN = 10
"""Width of a column of plain lines."""


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        since: When it began, in seconds of the table's clock.
        stage: The stage, or "".
        total: Its iterations.
        iteration: The last one that is done.
        first: Number of iterations done before the table began.
        begun: When the stage began.
        record: The last iteration's figures.
        held_out: The last figures with a held-out evaluation.
        status: Description of the work in progress.
        alarms: The alarms shown.
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
        """Title of the stage."""
        return _title(self.stage)

    def remaining(self, now: float) -> float | None:
        """Return the seconds that the stage will take from now, or None before its first iteration."""
        done = self.iteration - self.first
        if done <= 0:
            return None
        return (now - self.begun) / done * max(0, self.total - self.iteration)


def frame(progress: Progress, now: float, width: int) -> RenderableType:
    """Return a frame of the table; none of its texts is read as markup.

    Args:
        progress: The progress to show.
        now: Seconds of the clock.
        width: Columns of the terminal.
    """
    return Group(*_parts(progress, now, width))


def _parts(progress: Progress, now: float, width: int) -> Iterator[RenderableType]:
    left = progress.remaining(now)
    name = f"{progress.title} {progress.iteration}/{progress.total}"
    share = min(1.0, progress.iteration / progress.total) if progress.total > 0 else 0.0
    times = f"{duration(now - progress.since)} elapsed" + ("" if left is None else f", {duration(left)} left")
    if width < _NARROW:
        yield _line(f"{name} {100 * share:3.0f}% {times}", "bold")
    else:
        head = Table.grid(padding=(0, 2))
        head.add_column(no_wrap=True)
        head.add_column(max_width=BAR)
        head.add_column(no_wrap=True)
        head.add_column(no_wrap=True)
        bar = ProgressBar(completed=100 * share)
        head.add_row(_line(name, "bold"), bar, _line(f"{100 * share:3.0f}%", "bold"), _line(times, "bold"))
        yield head
    if progress.finished:
        done = ", ".join(f"{_title(stage)} {duration(seconds)}" for stage, seconds in progress.finished)
        yield _line(f"  done: {done}", "dim")
    cells = [(figure.label, value) for figure in KEY_FIGURES if (value := shown(figure, progress.record)) is not None]
    if cells:
        label, value = (max(len(cell[side]) for cell in cells) for side in (0, 1))
        texts = [_line(f"{name.ljust(label)} {text.rjust(value)}") for name, text in cells]
        yield Padding(Columns(texts, padding=(0, 3), equal=True), (0, 0, 0, 2), expand=False)
    for task in tasks_in(progress.record):
        yield _line(f"  {printable(task)}: {task_figures(progress.record, task)}")
    if progress.held_out:
        yield _line(f"  {_held_out(progress.held_out)}", "cyan")
    if progress.alarms:
        alarms = Table.grid(padding=(0, 1))
        for alarm in progress.alarms:
            alarms.add_row(Text("  !", "yellow", no_wrap=True), Text(alarm, "yellow"))
        yield alarms
    if progress.status:
        yield _line(f"  {progress.status}", "dim")


def _line(text: str, style: str = "") -> Text:
    """Return a text that is cut off where it does not fit."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def started_line(progress: Progress) -> str:
    """Return the plain line with which a stage begins."""
    again = f", going on after iteration {progress.first}" if progress.first else ""
    return f"{progress.title}: {progress.total} iterations{again}"


def header_line(progress: Progress) -> str:
    """Return the names of the columns of `plain_line`, for the figures that its record has."""
    labels = [figure.label for figure in KEY_FIGURES if shown(figure, progress.record) is not None]
    return "".join(_pad(label) for label in ("iteration", "elapsed", "left", *labels))


def plain_line(progress: Progress, now: float) -> str:
    """Return the last iteration as a line of aligned columns; behind them its tasks, and the held-out evaluation."""
    left = progress.remaining(now)
    values = [shown(figure, progress.record) for figure in KEY_FIGURES]
    cells = [
        f"{progress.iteration}/{progress.total}",
        duration(now - progress.since),
        "-" if left is None else duration(left),
        *(value for value in values if value is not None),
    ]
    line = "".join(_pad(cell) for cell in cells)
    tasks = tasks_in(progress.record)
    line += "".join(f"   {printable(task)}: {task_figures(progress.record, task)}" for task in tasks)
    return f"{line}   {_held_out(progress.record)}" if "eval/acc" in progress.record else line


def _pad(cell: str) -> str:
    return cell.rjust(_COLUMN) if len(cell) < _COLUMN else f" {cell}"


def _title(stage: str) -> str:
    return printable(STAGE_TITLES.get(stage, stage))


def _held_out(record: Figures) -> str:
    text = f"held-out Acc {100 * record['eval/acc']:.1f}%"
    if "eval/acc_low" in record and "eval/acc_high" in record:
        text += f" ({100 * record['eval/acc_low']:.1f} to {100 * record['eval/acc_high']:.1f})"
    if "eval/score" in record:
        text += f", Score {100 * record['eval/score']:.1f}%"
    tasks = [f"{printable(task)} {100 * record[f'eval/acc/{task}']:.1f}%" for task in tasks_in(record, "eval/")]
    text += f"; Acc by task: {', '.join(tasks)}" if tasks else ""
    return f"{text} (iteration {int(record['iteration'])})" if "iteration" in record else text


PER_SECOND = 4
"""Frames of the table a second."""
HEADER_EVERY = 20
"""Plain lines from one header to the next."""


class LiveTable:
    """Live table of a run's progress. Use it in a ``with`` block, or call `close`.

    On a terminal, a thread of its own draws, so that Ctrl-C never falls into the middle of a frame; anything else
    printed meanwhile stands above the table. If the terminal goes away, the run goes on unseen.
    """

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin; nothing is shown before the first stage.

        Args:
            stream: Stream to write to; standard output by default.
            clock: Function that returns seconds.
        """
        given = sys.stdout if stream is None else stream
        self._stream, self._terminal = _Stream(given), given
        self._clock = clock
        self._lock = threading.Lock()
        self._progress = Progress(since=clock())
        self._closed = False
        self._above: list[str] = []
        self._drawn: list[int] = []
        self._header, self._lines = "", 0
        self._alarms: set[str] = set()
        self._live: Live | None = None
        if _is_terminal(given):
            self._console = Console(
                file=cast(Any, self._stream), force_terminal=True, force_interactive=True, markup=False, emoji=False,
                highlight=False,
            )  # fmt: skip
            self._live = Live(
                console=self._console, get_renderable=self._frame, refresh_per_second=PER_SECOND,
                redirect_stdout=given is sys.stdout, redirect_stderr=_is_terminal(sys.stderr),
            )  # fmt: skip

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
            if self._live is None:
                self._write(started_line(progress))
        if self._live is not None:
            self._live.start(refresh=True)

    def update(self, record: Mapping[str, float]) -> None:
        """Show an iteration.

        Args:
            record: Result of `agile_gym.reporting.runlog.RunLog.add`: ``iteration``, and figures.
        """
        with self._lock:
            progress = self._progress
            progress.iteration = int(record.get("iteration", progress.iteration + 1))
            progress.record, progress.status = dict(record), ""
            if "eval/acc" in record:
                progress.held_out = dict(record)
            if self._live is None:
                now = self._clock()
                header = header_line(progress)
                if header != self._header or self._lines % HEADER_EVERY == 0:
                    self._header, self._lines = header, 0
                    self._write(header)
                self._lines += 1
                self._write(plain_line(progress, now))

    def status(self, text: str) -> None:
        """Show the work in progress, such as ``"playing 64 groups"``, until the next iteration is shown."""
        with self._lock:
            self._progress.status = one_line(text, 200)

    def alarms(self, sentences: Sequence[str]) -> None:
        """Show alarms under the table until they are given anew; elsewhere, each new one as a line."""
        texts = [one_line(sentence, 600) for sentence in sentences]
        with self._lock:
            self._progress.alarms = texts
            if self._live is None:
                # Numbers change from iteration to iteration; the beginning of a sentence identifies it.
                fresh = [text for text in texts if _kind(text) not in self._alarms]
                self._write(*(f"! {text}" for text in fresh))
            self._alarms = {_kind(text) for text in texts}

    def print_above(self, text: str) -> None:
        """Write lines above the table, where they stay; control characters stand as their numbers."""
        lines = [one_line(line) for line in text.splitlines()] or [""]
        if self._live is not None and self._live.is_started:
            with self._lock:
                self._above += lines
        else:
            self._write(*lines)

    def close(self) -> None:
        """Draw for the last time, and leave the table where it is."""
        with self._lock:
            self._progress.status, self._closed = "", True
        if self._live is not None:
            self._live.stop()

    def __enter__(self) -> Self:
        """Return the table itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the table."""
        self.close()

    def _frame(self) -> RenderableType:
        """Return the frame that is drawn now, and go to where the last one begins if the window became narrower."""
        width, height = self._console.size = _size(self._terminal)
        # The last frame takes more rows than it had lines, if the terminal has wrapped them.
        more = sum(max(1, -(-length // width)) for length in self._drawn) - len(self._drawn)
        if more > 0:
            self._console.control(Control(*((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)) * more))
        with self._lock:
            above, self._above = self._above, []
            shown = frame(self._progress, self._clock(), width)
            if not self._closed:  # the cursor has a line of its own, which takes the ^C that a terminal echoes
                shown = Group(shown, "")
        if above:
            self._console.print(Text("\n".join(above)), soft_wrap=True)
        lines = self._console.render_lines(shown, pad=False)
        self._drawn = [Segment.get_line_length(line) for line in lines[:height]]
        return shown

    def _write(self, *lines: str) -> None:
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()


class _Stream:
    """A stream that takes any character; its terminal, or the reader of its pipe, may go away."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = stream.encoding or "ascii"

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def _kind(text: str) -> str:
    return "".join(character for character in text if not character.isdigit())[:40]


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty() and os.environ.get("TERM", "") != "dumb"
    except ValueError:
        return False


def _size(stream: TextIO) -> tuple[int, int]:
    """Return columns and rows of a terminal; 80 x 24 where it does not report them."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return 80, 24
    return size.columns or 80, size.lines or 24
