"""Commands of ``agile-gym``, one module each or two, and the parts that they share."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agile_gym.errors import ConfigurationError, TranscriptError, one_line

__all__ = ["add_env", "env_of", "find_modules_here", "find_run", "read_pairs", "warnings_above"]

__all__: list[str] = []


_WORDS = {"True": True, "False": False, "None": None}  # as in docstrings and messages


def read_pairs(texts: Sequence[str], flag: str, example: str) -> dict[str, Any]:
    """Read KEY=VALUE pairs; a value is JSON, or one of Python's words True, False and None, if it is such, else a text.

    Args:
        texts: The pairs.
        flag: The flag that they were given with, for the error.
        example: An example of a pair.

    Returns:
        The values by key.

    Raises:
        ConfigurationError: If one has no ``=``, or a key is given twice.
    """
    pairs: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigurationError(f"{flag} {text} is not of the form KEY=VALUE, such as {example}.")
        if key in pairs:
            raise ConfigurationError(f"{flag} {text}: {key} is given twice; leave one of the two out.")
        try:
            pairs[key] = _WORDS[value] if value in _WORDS else json.loads(value)
        except (ValueError, RecursionError):
            pairs[key] = value
    return pairs


def find_run(path: Path) -> Path:
    """Return the folder of transcripts: the one given, or, for the results of an evaluation, the folder beside them.

    Args:
        path: A folder of transcripts, a file in it, or the results (.json) or the journal (.jsonl) of an evaluation.

    Raises:
        TranscriptError: If results are given, and there are no transcripts beside them.
    """
    if path.suffix not in (".json", ".jsonl"):
        return path
    beside = path.with_name(f"{path.stem}-transcripts")
    if path.suffix == ".jsonl":
        return beside if beside.is_dir() else path
    if not beside.is_dir():
        raise TranscriptError(
            f"There are no transcripts of {path}: the folder {beside} does not exist. Give the folder of a run, or "
            "evaluate with transcripts kept."
        )
    return beside


def find_modules_here() -> None:
    """Allow modules in the present folder to be imported, such as one with a policy or an environment of the user's."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def add_env(command: argparse.ArgumentParser) -> None:
    """Add ``--env`` to a command."""
    text = "module:Class or a registered id of another environment (default: the jigsaw)"
    command.add_argument("--env", default=None, metavar="ENV", help=text)


def env_of(options: argparse.Namespace, allowed: Mapping[str, str]) -> str | None:
    """Return the environment that ``--env`` names, which may be in the present folder, or None for the jigsaw.

    Args:
        options: The options of the command line.
        allowed: The jigsaw's own flags: for each attribute that must then be None, its flag.

    Raises:
        ConfigurationError: If another environment is named, and one of the jigsaw's flags is given.
    """
    from agile_gym.envs.contract import JIGSAW, find_env

    if options.env in (None, JIGSAW):
        return None
    for name, flag in allowed.items():
        if getattr(options, name) is not None:
            raise ConfigurationError(f"{flag} is of the jigsaw; give the options of {options.env} with --option.")
    find_modules_here()
    find_env(options.env)
    return options.env


INTERVAL = 10.0
"""Seconds in which warnings that differ in numbers only are shown once."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@contextmanager
def warnings_above(write: Callable[[str], object]) -> Generator[None]:
    """Write this package's warnings above a progress bar, for the length of a ``with`` block.

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
