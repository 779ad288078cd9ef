"""The progress of a run: a table that is drawn anew in place on a terminal, and plain lines anywhere else."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self, TextIO

from agile_gym.terminal import one_line
from agile_gym.training.frame import Progress, frame_lines, header_line, plain_line, rows_of, started_line

__all__ = ["LiveTable"]

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
            stage: Name of the stage, one of `agile_gym.training.runlog.STAGES`, or another text.
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
            record: What `agile_gym.training.runlog.RunLog.add` returned: ``iteration``, and figures.
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
