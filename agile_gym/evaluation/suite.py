"""Suites: named lists of puzzles in TOML files.

A file has the keys ``summary`` (a sentence), ``seed``, ``samples``, ``images``, a table ``[options]`` with options of
the environment, and one table ``[[puzzles]]`` for each grid, with ``grid``, ``levels`` (left out for all) and
``episodes`` (puzzles a level). Only ``puzzles`` is required.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from agile_gym.envs.jigsaw.config import JigsawConfig
from agile_gym.errors import ConfigurationError, did_you_mean
from agile_gym.evaluation.plan import SuiteEntry

__all__ = ["Suite", "load_suite", "suite_names"]

MAX_SUITE = 65_536
"""Largest size of a suite's file, in bytes."""
MAX_LINE = 4096
"""Largest length of one of its lines: `tomllib` takes quadratic time for some."""

_TYPES: dict[str, tuple[type, ...]] = {
    "summary": (str,),
    "seed": (int,),
    "samples": (int,),
    "images": (str,),
    "options": (dict,),
    "puzzles": (list,),
}
_ENTRY_TYPES: dict[str, tuple[type, ...]] = {"grid": (str, int), "levels": (list,), "episodes": (int,)}


@dataclass(frozen=True)
class Suite:
    """A list of puzzles with a name.

    Attributes:
        name: Its name.
        entries: Its puzzles.
        summary: Its purpose, in a sentence.
        seed: Seed of its puzzles.
        samples: Number of times that each puzzle is played.
        images: Source of the photographs; None for the built-in ones.
        options: Options of the environment.
    """

    name: str
    entries: tuple[SuiteEntry, ...]
    summary: str = ""
    seed: int = 0
    samples: int = 1
    images: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


def suite_names() -> tuple[str, ...]:
    """Return the names of the suites of this package."""
    folder = files("agile_gym.evaluation").joinpath("suites")
    return tuple(sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml")))


def load_suite(name: str) -> Suite:
    """Read a suite.

    Args:
        name: One of `suite_names`, or the path of a TOML file.

    Returns:
        The suite.

    Raises:
        ConfigurationError: If there is none, or its file is not right; file and key are named.
    """
    if name in suite_names():
        text = files("agile_gym.evaluation").joinpath("suites", f"{name}.toml").read_text(encoding="utf-8")
        return _parse(text, name, f"suite {name}")
    path = Path(name)
    if not path.is_file():
        if path.suffix == ".toml":
            raise ConfigurationError(f"There is no file {name}. Give the path of a suite's TOML file.")
        raise ConfigurationError(
            f"There is no suite {name!r}. {did_you_mean(name, suite_names())} The path of a TOML file names one of "
            "your own."
        )
    with path.open("rb") as file:
        data = file.read(MAX_SUITE + 1)
    if len(data) > MAX_SUITE or max(map(len, data.splitlines()), default=0) > MAX_LINE:
        raise ConfigurationError(
            f"{path} has more than {MAX_SUITE:,} bytes, or {MAX_LINE:,} in a line, which no suite needs. Give another."
        )
    try:
        return _parse(data.decode("utf-8"), path.stem, str(path))
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: this is not TOML: {error}") from error


def _parse(text: str, name: str, origin: str) -> Suite:
    """Read the text of a suite's file; ``origin`` is its name in messages."""
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number can be too long, and lists nested too deep
        raise ConfigurationError(f"{origin}: this is not TOML: {error}") from error
    _check_keys(values, _TYPES, origin)
    puzzles: list[Any] = values.pop("puzzles", [])
    if not puzzles:
        raise ConfigurationError(f'{origin}: there are no puzzles; add a table [[puzzles]] with grid = "2x2".')
    entries: list[SuiteEntry] = []
    for number, puzzle in enumerate(puzzles, 1):
        place = f"{origin}: puzzles {number}"
        if not isinstance(puzzle, dict):
            raise ConfigurationError(f"{place}: {puzzle!r} is not a table; write [[puzzles]] and its keys below.")
        entry = dict(cast("dict[str, Any]", puzzle))
        _check_keys(entry, _ENTRY_TYPES, place)
        if "grid" not in entry:
            raise ConfigurationError(f"{place}: the key 'grid' is missing; write grid = \"2x2\".")
        if "levels" in entry:
            entry["levels"] = tuple(entry["levels"])
        try:
            entries.append(SuiteEntry(**entry))
        except ConfigurationError as error:
            raise ConfigurationError(f"{place}: {error}") from error
    try:
        JigsawConfig.from_options(values.get("options", {}))
    except ConfigurationError as error:
        raise ConfigurationError(f"{origin}: options: {error}") from error
    return Suite(name, tuple(entries), **values)


def _check_keys(values: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], place: str) -> None:
    for key, value in values.items():
        if key not in types:
            raise ConfigurationError(f"{place}: there is no key {key!r}. {did_you_mean(key, types)}")
        if not isinstance(value, types[key]) or isinstance(value, bool):
            wanted = " or ".join(kind.__name__ for kind in types[key])
            raise ConfigurationError(f"{place}: {key} = {value!r:.100} must be of the type {wanted}.")
