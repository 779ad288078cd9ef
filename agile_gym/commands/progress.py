"""Warnings above a progress bar, where they do not break it, and equal ones once in a while."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from agile_gym.terminal import one_line

__all__ = ["warnings_above"]

INTERVAL = 10.0
"""Seconds in which warnings that differ in numbers only are shown once."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@contextmanager
def warnings_above(write: Callable[[str], object]) -> Generator[None]:
    """Write what this package warns of above a progress bar, for the length of a ``with`` block.

    Many requests that fail for one reason, each several times, warn once in `INTERVAL`.

    Args:
        write: Writes a line above the bar.
    """
    handler = _AboveBar(write)
    logger = logging.getLogger("agile_gym")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _AboveBar(logging.Handler):
    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._write = write
        self._shown: dict[str, tuple[float, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text = one_line(record.getMessage(), 500)
        kind, now = _NUMBER.sub("0", text), time.monotonic()
        since, hidden = self._shown.get(kind, (now - INTERVAL, 0))
        if now - since < INTERVAL:
            self._shown[kind] = since, hidden + 1
            return
        self._shown[kind] = now, 0
        more = f" ({hidden} more like this were not shown)" if hidden else ""
        self._write(f"{text}{more}")
