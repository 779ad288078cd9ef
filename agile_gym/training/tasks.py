"""Tasks of a run: their options, their parts of the cold start and of the evaluation, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, cast

from agile_gym.coldstart.config import EXPERT, ColdStartConfig
from agile_gym.envs.contract import JIGSAW, probe_env
from agile_gym.envs.jigsaw.config import JigsawConfig, resolve
from agile_gym.errors import MAX_SEED, ConfigurationError, did_you_mean
from agile_gym.evaluation.plan import EnvironmentEntry, SuiteEntry
from agile_gym.learner.groups import TaskMix
from agile_gym.puzzle.board import parse_level
from agile_gym.training.sections import NONE
from agile_gym.training.settings import RunSettings, section_class
from agile_gym.training.texts import naming

__all__ = [
    "check_tasks",
    "cold_start_config",
    "cold_starts",
    "divide",
    "environment_options",
    "evaluation_entries",
    "plays_environment",
    "separate_tasks",
    "task_options",
    "tasks_of",
]

_MAIN = ""
"""Stands for the run's environment among the names of tasks."""
_SEEDS = 7919
"""Distance of the seeds of two tasks' cold starts."""


def environment_options(settings: RunSettings, *, test: bool) -> dict[str, Any]:
    """Return the options of the environment: its settings, and the photographs to train on or to test on."""
    images = settings.images
    options = settings.environment.given()
    source = images.test if test and images.test is not None else images.train
    if settings.env is not None:
        return options if source is None else {**options, "images": source}
    split = ("test" if test else "train") if images.test is None else None
    return {**settings.environment.defaults, **options, "images": source, "split": split}


def tasks_of(settings: RunSettings) -> tuple[TaskMix, ...]:
    """Return the tasks."""
    return TaskMix.from_mappings(settings.grpo.given().get("tasks") or [{}])


def separate_tasks(settings: RunSettings) -> list[TaskMix]:
    """Return the tasks with an environment or photographs of their own."""
    return [task for task in tasks_of(settings) if task.is_separate(settings.environment.id)]


def plays_environment(settings: RunSettings) -> bool:
    """Return whether a task of a weight above 0 is played in the run's environment."""
    separate = separate_tasks(settings)
    return any(task.weight > 0 and task not in separate for task in tasks_of(settings))


def task_options(settings: RunSettings, task: TaskMix, *, test: bool) -> tuple[str, dict[str, Any]]:
    """Return the environment that plays a task, and its options."""
    return task.resolve(settings.environment.id, environment_options(settings, test=test), test=test)


def check_tasks(settings: RunSettings) -> None:
    """Check that the environments of tasks can be made, to train and to test.

    Raises:
        ConfigurationError: If not; the message names the task.
        ImageError: If there are no photographs.
    """
    with naming("grpo"):
        tasks = separate_tasks(settings)
    for task in tasks:
        env, _ = task_options(settings, task, test=False)
        with naming("grpo", f"tasks, {task.name}: env", env):
            for test in (False, True):
                probe_env(*task_options(settings, task, test=test))


def cold_start_config(settings: RunSettings) -> ColdStartConfig:
    """Return how the cold start's episodes of the run's environment are made, as if there were no other tasks."""
    options = environment_options(settings, test=False)
    return _cold_start(settings.environment.id, options, settings.cold_start.given(), settings.seed)


def _cold_start(env: str, options: dict[str, Any], given: Mapping[str, Any], seed: int) -> ColdStartConfig:
    if env != JIGSAW:
        return ColdStartConfig(**given, env=env, seed=seed, options=options)
    images, split = options.pop("images"), options.pop("split")
    grid, level = options.pop("grid", JigsawConfig.grid), options.pop("level", JigsawConfig.level)
    cold = ColdStartConfig(**{"grid": grid, "level": level, **given}, images=images, split=split, seed=seed)
    most = cold.turn_range[1]
    return replace(cold, options={**options, "max_turns": max(options.get("max_turns", most), most)})


def cold_starts(settings: RunSettings) -> dict[str, ColdStartConfig]:
    """Return how the cold start's episodes are made, by the task's name.

    Tasks with an environment or photographs of their own have a cold start of their own; all others are played in that
    of the run's environment, by the name ``""``. Each gets episodes by its weight among those that have a teacher;
    where none of them has, a task of the run's environment with the weight 0 gets all.

    Raises:
        ConfigurationError: If a task has no teacher and is not left out, or a setting is not allowed.
    """
    separate = {task.name: task for task in separate_tasks(settings)}
    own = _own_settings(settings, separate)
    if not separate:
        return {_MAIN: cold_start_config(settings)}
    weights: dict[str, float] = {}
    for task in tasks_of(settings):
        name = task.name if task.name in separate else _MAIN
        if task.weight > 0 and own.get(name, {}).get("teacher") != NONE:
            weights[name] = weights.get(name, 0.0) + task.weight
    if not weights and any(task.name not in separate for task in tasks_of(settings)):
        weights[_MAIN] = 1.0  # such as jigsaws first, and then GRPO of questions alone
    if not weights:
        raise ConfigurationError('no task is left: teacher = "none" leaves out all. Set count = 0 instead.')
    shared = settings.cold_start.given()
    count = shared.pop("count", ColdStartConfig.count)
    shares = divide(count, list(weights.values()))
    found: dict[str, ColdStartConfig] = {}
    for number, (name, share) in enumerate(zip(weights, shares, strict=True)):
        if share < 1:
            raise ConfigurationError(f"count={count} is too few: each of {len(weights)} tasks gets some by its weight.")
        if name == _MAIN:
            options = environment_options(settings, test=False)
            found[name] = _cold_start(settings.environment.id, options, {**shared, "count": share}, settings.seed)
            continue
        env, options = task_options(settings, separate[name], test=False)
        given = {**(shared if env == settings.environment.id else {}), **own.get(name, {})}
        if env != JIGSAW and given.get("teacher", EXPERT) == EXPERT:
            raise ConfigurationError(
                f"the task {name!r} has no teacher: the expert plays the jigsaw only. Set tasks = {{ {name} = "
                f"{{ teacher = 'module:Class' }} }} to a policy that plays {env}, or teacher = 'none' there to leave "
                "the task out of the cold start; or count = 0 to leave the cold start out."
            )
        seed = (settings.seed + _SEEDS * (number + 1)) % (MAX_SEED + 1)
        try:
            found[name] = _cold_start(env, options, {**given, "count": share}, seed)
        except ConfigurationError as error:
            raise ConfigurationError(f"tasks, {name}: {error}") from error
    return found


def _own_settings(settings: RunSettings, separate: Mapping[str, TaskMix]) -> dict[str, dict[str, Any]]:
    """Return the settings of tasks' cold starts, checked for their names."""
    own: Any = settings.cold_start.tasks or {}
    elsewhere = {*section_class("cold_start").elsewhere, "count"}
    allowed = [field.name for field in fields(ColdStartConfig) if field.name not in elsewhere]
    for name, entry in own.items():
        if name not in separate:
            raise ConfigurationError(
                f"tasks: {name!r} is not a task with an environment or images of its own. "
                + (did_you_mean(name, separate) if separate else "There is none in [grpo] tasks.")
            )
        if not isinstance(entry, Mapping):
            raise ConfigurationError(f"tasks: {name} = {entry!r:.100} must be a table, such as {{ teacher = 'none' }}.")
        for key in cast("Mapping[str, Any]", entry):
            if key not in allowed:
                raise ConfigurationError(f"tasks: {name} has no key {key!r}. {did_you_mean(key, allowed)}")
    return own


def divide(count: int, weights: list[float]) -> list[int]:
    """Divide a number by weights, as exactly as whole numbers allow.

    Args:
        count: The number.
        weights: The weights, all above 0.

    Returns:
        The parts, which add up to the number; none differs from its exact share by 1 or more.
    """
    total = sum(weights)
    exact = [count * weight / total for weight in weights]
    parts = [int(share) for share in exact]
    largest = sorted(range(len(parts)), key=lambda place: parts[place] - exact[place])
    for place in largest[: count - sum(parts)]:
        parts[place] += 1
    return parts


def evaluation_entries(settings: RunSettings, options: dict[str, Any]) -> list[SuiteEntry | EnvironmentEntry]:
    """Return what is evaluated: grids and levels of the run's jigsaw, or its environment, and each separate task.

    Args:
        settings: The settings.
        options: Options of the run's environment; grid and level are taken out of them.
    """
    separate = separate_tasks(settings)
    main = [task for task in tasks_of(settings) if task not in separate]
    count = max(1, settings.evaluation.episodes // (len(separate) + bool(main)))
    entries: list[SuiteEntry | EnvironmentEntry] = []
    for task in separate:
        env, own = task_options(settings, task, test=True)
        entries.append(EnvironmentEntry(env, count, task.name, own))
    if settings.env is not None:
        alone = EnvironmentEntry(settings.env, count, options=dict(options) if separate else None)
        return [alone, *entries] if main else entries
    own_grid, own_level = options.pop("grid", JigsawConfig.grid), options.pop("level", JigsawConfig.level)
    levels: dict[str, set[int]] = {}
    for task in main:
        grid: Any = own_grid if task.grid is None else task.grid
        level: Any = own_level if task.level is None else task.level
        rules = resolve(JigsawConfig(grid=grid, level=level, image_size=8000))
        pieces = rules.rows * rules.cols
        levels.setdefault(f"{rules.rows}x{rules.cols}", set()).update(rules.levels or parse_level("all", pieces) or ())
    each = max(1, count // max(1, sum(map(len, levels.values()))))
    return [*(SuiteEntry(grid, tuple(sorted(chosen)), each) for grid, chosen in levels.items()), *entries]
