"""A study as data: settings of all trainings, factors with named values, seeds and evaluations, read from TOML.

Keys of the file: ``title``, ``summary``, ``preset``, ``design``, ``reference``, ``seeds``, ``budget_hours``; tables
``[settings]`` (changes of the preset), ``[factors.NAME]`` (see `Factor`), ``[paper]`` (``figure``: its name, and
``arms``: its value by arm), and one ``[[evaluations]]`` for each evaluation (see `Evaluation`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from agile_gym.errors import ConfigurationError, did_you_mean, is_number, is_whole, require, require_seed
from agile_gym.evaluation.plan import MAX_EPISODES, grid_name
from agile_gym.puzzle.board import parse_grid, parse_level

__all__ = [
    "BASE",
    "DESIGNS",
    "SIZES",
    "STAGES",
    "Evaluation",
    "Factor",
    "Study",
    "builtin_names",
    "builtin_text",
    "flat",
    "no_duplicates",
    "read_study",
]

BASE = "base"
"""Name of the arm without any change, in the design ``"one"``."""
DESIGNS = ("one", "grid")
SIZES = ("tiny", "paper")
STAGES = ("vision", "cold_start", "grpo")
"""Stages that a factor may begin with, in their order."""
FOLDER = Path(__file__).parent / "builtin"
_MAX_FILE = 1 << 18
_MAX_NAME = 60
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+%-]*")
_MOST_SEEDS = 100


@dataclass(frozen=True)
class Factor:
    """One factor, and its values by name.

    Attributes:
        name: Its name.
        values: For each value the settings that it changes, by ``"section.key"``. In the file a value is a table of
            them, or, where ``setting`` names one, its value.
        title: Title for the page.
        stage: The first stage that it changes: ``"vision"`` (also where there is none), ``"cold_start"`` or ``"grpo"``.
            Stages before it are those of the arm without this factor, and run once.
        ordered: True if the values are in an order, such as a number of photographs: a curve is drawn over them.
    """

    name: str
    values: Mapping[str, Mapping[str, Any]]
    title: str = ""
    stage: str = STAGES[0]
    ordered: bool = False


@dataclass(frozen=True)
class Evaluation:
    """Held-out puzzles, or episodes of another environment, that the last model of every arm plays.

    Attributes:
        name: Its name on the page.
        grid: Grid of the jigsaw.
        levels: Its levels, such as ``"all"``, ``0`` or ``"0-2"``.
        env: Another environment than the jigsaw, instead of grid and levels.
        episodes: Puzzles a level, or episodes.
        options: Options of the environment besides those of the run (of another environment: all).
    """

    name: str
    grid: str | None = None
    levels: int | str = "all"
    env: str | None = None
    episodes: int = 300
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        name: Its name.
        title: Title of the page.
        summary: Purpose and limits, in a few sentences.
        preset: Preset or file that the settings begin with.
        settings: Changes of it, by ``"section.key"`` or ``"seed"``.
        factors: The factors.
        design: ``"one"``: an arm without changes, called ``base``, and for each value of each factor one with this
            change alone; ``"grid"``: all combinations.
        reference: The arm that others are compared with; by default the first one.
        seeds: Seeds of each arm.
        evaluations: What the last models play.
        budget_hours: Most hours that the study may take; None for no limit.
        paper_figure: Name of the figure that the paper gives.
        paper: The paper's values by arm, as it prints them.
    """

    name: str
    title: str
    factors: tuple[Factor, ...]
    evaluations: tuple[Evaluation, ...]
    preset: str = "tiny"
    summary: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    design: str = "one"
    reference: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    budget_hours: float | None = None
    paper_figure: str = ""
    paper: Mapping[str, float] = field(default_factory=dict[str, float])


def builtin_names() -> list[str]:
    """Return the names of the studies of this package."""
    return sorted({path.name.split(".")[0] for path in FOLDER.glob("*.toml")})


def builtin_text(name: str, size: str) -> str:
    """Return the file of a study of this package.

    Args:
        name: Its name.
        size: ``"tiny"`` or ``"paper"``.

    Raises:
        ConfigurationError: If there is none.
    """
    names = builtin_names()
    if name not in names:
        raise ConfigurationError(
            f"There is no study {name!r}. {did_you_mean(name, names)} A path that ends in .toml names one of your own."
        )
    require(size in SIZES, "--size", size, " or ".join(SIZES))
    return FOLDER.joinpath(f"{name}.{size}.toml").read_text(encoding="utf-8")


def read_study(name: str, size: str = SIZES[0]) -> Study:
    """Read a study, and check all that needs no settings.

    Args:
        name: One of `builtin_names`, or the path of a TOML file.
        size: Size of one of this package.

    Raises:
        ConfigurationError: If there is none, or its file is not right; the message names file and key.
    """
    if not name.endswith(".toml"):
        return _parse(builtin_text(name, size), f"{name}-{size}", f"study {name}")
    path = Path(name)
    if not path.is_file():
        raise ConfigurationError(f"There is no file {name}. Give the TOML file of a study, or {builtin_names()}.")
    if path.stat().st_size > _MAX_FILE:
        raise ConfigurationError(f"{path} is too large to be a study.")
    try:
        return _parse(path.read_text(encoding="utf-8-sig"), path.stem, str(path))
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not a text file in UTF-8: {error}") from error


def _parse(text: str, name: str, origin: str) -> Study:
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        hint = " A value or a factor is named twice." if "overwrite" in str(error) else ""
        raise ConfigurationError(f"{origin}: this is not TOML: {error}.{hint}") from error
    try:
        return _study(values, name)
    except ConfigurationError as error:
        raise ConfigurationError(f"{origin}: {error}") from None


def _study(values: Mapping[str, Any], name: str) -> Study:
    types: dict[str, tuple[type, ...]] = {
        **dict.fromkeys(("title", "summary", "preset", "design", "reference"), (str,)),
        **dict.fromkeys(("settings", "factors", "paper"), (dict,)),
        **dict.fromkeys(("seeds", "evaluations"), (list,)),
        "budget_hours": (int, float),
    }
    _check_keys(values, types, "")
    design = values.get("design", DESIGNS[0])
    require(design in DESIGNS, "design", design, " or ".join(map(repr, DESIGNS)))
    factors = tuple(_factor(key, entry) for key, entry in values.get("factors", {}).items())
    if not factors:
        raise ConfigurationError("there is no factor, and so no arm; add a table [factors.NAME] with values.")
    evaluations = tuple(_evaluation(entry, place) for place, entry in enumerate(values.get("evaluations", [])))
    if not evaluations:
        raise ConfigurationError('there is no evaluation; add [[evaluations]] with name = "2x2" and grid = "2x2".')
    no_duplicates("evaluation", (entry.name for entry in evaluations))
    if design == "one":
        no_duplicates("arm", [BASE, *(value for factor in factors for value in factor.values)])
    seeds = values.get("seeds", [0, 1, 2])
    require(0 < len(seeds) <= _MOST_SEEDS, "seeds", seeds, f"a list of 1 to {_MOST_SEEDS} numbers, such as [0, 1, 2]")
    budget = values.get("budget_hours")
    require(budget is None or is_number(budget, 1e-6, 1e6), "budget_hours", budget, "a number of hours above 0")
    paper = values.get("paper", {})
    _check_keys(paper, {"figure": (str,), "arms": (dict,)}, "[paper] ")
    for arm, figure in paper.get("arms", {}).items():
        require(is_number(figure, -1e9, 1e9), f"[paper] {arm}", figure, "a number")
    seeds = tuple(require_seed(seed) for seed in seeds)
    no_duplicates("seed", map(str, seeds))
    return Study(
        name=name,
        title=values.get("title", name),
        summary=values.get("summary", ""),
        preset=values.get("preset", "tiny"),
        settings=flat(values.get("settings", {})),
        factors=factors,
        design=design,
        reference=values.get("reference"),
        seeds=seeds,
        evaluations=evaluations,
        budget_hours=budget,
        paper_figure=paper.get("figure", ""),
        paper=paper.get("arms", {}),
    )


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by ``"section.key"``, from that form or from sections.

    Raises:
        ConfigurationError: If a key is given in both forms.
    """
    pairs: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and "." not in name:
            pairs += [(f"{name}.{key}", entry) for key, entry in cast("Mapping[str, Any]", value).items()]
        else:
            pairs.append((name, cast("Any", value)))
    found = dict(pairs)
    for key in found:
        if [name for name, _ in pairs].count(key) > 1:
            raise ConfigurationError(f"{key} is set twice; leave one of the two out.")
    return found


def _factor(name: str, entry: object) -> Factor:
    place = f"[factors.{name}] "
    if not isinstance(entry, Mapping):
        raise ConfigurationError(f"{place}must be a table, with values.")
    given = cast("Mapping[str, Any]", entry)
    _check_name("factor", name)
    types: dict[str, tuple[type, ...]] = {
        **dict.fromkeys(("title", "setting", "stage"), (str,)),
        "ordered": (bool,),
        "values": (dict, list),
    }
    _check_keys(given, types, place)
    stage, setting = given.get("stage", STAGES[0]), given.get("setting")
    require(stage in STAGES, f"{place}stage", stage, " or ".join(map(repr, STAGES)))
    listed: Any = given.get("values", {})
    if isinstance(listed, list):
        every = cast("list[Any]", listed)
        no_duplicates("value", map(_value_name, every))
        listed = {_value_name(value): value for value in every}
    values: dict[str, dict[str, Any]] = {}
    for value, change in cast("Mapping[str, Any]", listed).items():
        _check_name(f"{place}value", value)
        if setting is not None:
            values[value] = {setting: change}
        elif isinstance(change, Mapping):
            values[value] = flat(cast("Mapping[str, Any]", change))
        else:
            raise ConfigurationError(
                f'{place}{value} = {change!r:.100} is no table of settings. Write {{ "grpo.lr" = 1e-4 }}, or name the '
                'setting of all values as setting = "grpo.lr".'
            )
    if not values:
        raise ConfigurationError(f"{place}has no values, and so no arm; add some, such as values = [1e-4, 1e-5].")
    return Factor(name, values, given.get("title", name), stage, given.get("ordered", False))


def _value_name(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _evaluation(entry: object, place: int) -> Evaluation:
    at = f"[[evaluations]] {place + 1}: "
    if not isinstance(entry, Mapping):
        raise ConfigurationError(f"{at}must be a table.")
    given = cast("Mapping[str, Any]", entry)
    types: dict[str, tuple[type, ...]] = {
        **dict.fromkeys(("name", "grid", "env"), (str,)),
        "levels": (int, str),
        "episodes": (int,),
        "options": (dict,),
    }
    assert types.keys() == {part.name for part in fields(Evaluation)}
    _check_keys(given, types, at)
    if ("grid" in given) == ("env" in given):
        raise ConfigurationError(f'{at}give either grid, such as "2x2", or env, another environment.')
    if "env" in given and "levels" in given:
        raise ConfigurationError(f"{at}levels are of the jigsaw; leave them out with env.")
    episodes = given.get("episodes", 300)
    require(is_whole(episodes, MAX_EPISODES), f"{at}episodes", episodes, f"a number from 1 to {MAX_EPISODES:,}")
    if "grid" in given:
        rows, cols = parse_grid(given["grid"])
        parse_level(given.get("levels", "all"), rows * cols)
        given = {**given, "grid": grid_name(given["grid"])}
    name = given.get("name", given.get("grid", given.get("env", "")))
    _check_name(f"{at}name", name)
    settings: dict[str, Any] = {**given, "name": name}
    return Evaluation(**settings)


def _check_keys(values: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], place: str) -> None:
    for key, value in values.items():
        if key not in types:
            raise ConfigurationError(f"{place}there is no key {key!r:.100}. {did_you_mean(key, types)}")
        if not isinstance(value, types[key]) or (isinstance(value, bool) and bool not in types[key]):
            wanted = " or ".join(
                {"str": "text", "dict": "table"}.get(kind.__name__, kind.__name__) for kind in types[key]
            )
            raise ConfigurationError(f"{place}{key} = {value!r:.100} must be of the type {wanted}.")


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
        raise ConfigurationError(
            f"{what} {name!r:.100} cannot be a name; write at most {_MAX_NAME} letters, digits, spaces and any of "
            "._+%-, with a letter or a digit first."
        )


def no_duplicates(what: str, names: Iterable[str]) -> None:
    """Check that names differ, also in small letters, as they become names of folders.

    Args:
        what: Kind of the names, for the message.
        names: The names.

    Raises:
        ConfigurationError: If two are alike.
    """
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise ConfigurationError(f"two {what}s are called {name!r}; names must differ, also in small letters.")
        seen.add(name.lower())
