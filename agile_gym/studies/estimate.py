# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray and torch are incomplete.
"""Estimate of a study's time, from two small iterations of GRPO and a few steps of vision pretraining."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agile_gym.envs.jigsaw.config import JigsawConfig
from agile_gym.envs.jigsaw.env import open_source
from agile_gym.errors import ConfigurationError
from agile_gym.interruption import stop_signals
from agile_gym.studies.arms import Run
from agile_gym.studies.spec import Evaluation, Study
from agile_gym.training import stages
from agile_gym.training.checking import start_ray, stop_ray
from agile_gym.training.dry_run import measure_iteration, model_seconds
from agile_gym.training.settings import RunSettings
from agile_gym.training.tasks import cold_starts, environment_options

__all__ = ["Speed", "check_budget", "hours_of", "measure", "work_seconds"]

_START = 15.0
"""Seconds that a run takes besides its stages: start, checks, report."""
_STEPS = 3


@dataclass(frozen=True)
class Speed:
    """Seconds of small units of work.

    Attributes:
        rollout: Playing an episode.
        update: Learning from an episode.
        vision: A step of vision pretraining; 0 without it.
    """

    rollout: float
    update: float
    vision: float = 0.0


def measure(settings: RunSettings) -> Speed:
    """Measure the speed of a run here, or compute it for GPUs.

    Args:
        settings: Its settings, with their photographs.
    """
    if settings.resources.gpus_per_learner:
        return Speed(*model_seconds(settings))
    with stop_signals() as stops:
        start_ray(settings, stops)
        try:
            seconds = measure_iteration(settings)
        finally:
            stop_ray(stops)
    vision = 0.0
    if stages.has_vision_pretraining(settings):
        from agile_gym.models.tiny.build import build_tiny
        from agile_gym.models.tiny.pretraining import pretrain_vision

        config = replace(stages.vision_config(settings), steps=_STEPS, probes=8, few=0)
        images = open_source(JigsawConfig.from_options(environment_options(settings, test=False)))
        marks: list[float] = []
        pretrain_vision(build_tiny(0)[0], images, config, lambda _: marks.append(time.perf_counter()))
        vision = (marks[-1] - marks[0]) / (len(marks) - 1)
    processes = max(1, settings.resources.runners), max(1, settings.resources.learners)
    return Speed(seconds["rollout"] / processes[0], seconds["update"] / processes[1], vision)


def work_seconds(run: Run, settings: RunSettings, evaluations: Sequence[Evaluation], speed: Speed) -> float:
    """Estimate the time of a run, without the stages that it takes from another one.

    Args:
        run: The run.
        settings: Its settings.
        evaluations: The study's evaluations.
        speed: The speed.
    """
    seconds, rollout, model = _START, speed.rollout, stages.model_options(settings).path
    if stages.has_vision_pretraining(settings) and run.base is None:
        seconds += stages.vision_config(settings).steps * speed.vision
    evaluation = settings.evaluation.episodes * rollout
    if settings.has_cold_start and run.last != "cold_start":
        count = sum(cold.count for cold in cold_starts(settings).values())
        seconds += settings.sft.epochs * count * speed.update + evaluation
    grpo = stages.grpo_config(settings, model)
    iterations = settings.grpo.iterations
    if iterations:
        seconds += iterations * grpo.groups_per_iteration * grpo.group_size * (rollout + speed.update) + evaluation
        if settings.evaluation.interval:
            seconds += iterations // settings.evaluation.interval * settings.evaluation.interval_episodes * rollout
    if run.arm is not None:
        for entry in evaluations:
            seconds += _episodes(entry) * rollout
    return seconds


def _episodes(entry: Evaluation) -> int:
    from agile_gym.evaluation.plan import SuiteEntry
    from agile_gym.puzzle.board import parse_grid, parse_level

    if entry.grid is None:
        return entry.episodes
    rows, cols = parse_grid(entry.grid)
    levels = SuiteEntry(entry.grid, parse_level(entry.levels, rows * cols)).levels or ()
    return entry.episodes * len(levels)


def hours_of(seconds: Mapping[str, float], runs: Sequence[Run], jobs: int) -> float:
    """Return the hours that runs take together, as many at a time as there are jobs, each after its base."""
    ends: dict[str, float] = {}
    free = [0.0] * jobs
    for run in runs:
        begin = max(min(free), ends.get(run.base or "", 0.0))
        free[free.index(min(free))] = ends[run.name] = begin + seconds[run.name]
    return max(ends.values(), default=0.0) / 3600


def check_budget(study: Study, budget: float | None, hours: float, longest: float) -> None:
    """Check that a budget is not far too small.

    Args:
        study: The study.
        budget: The budget in hours, or None.
        hours: Estimate of the hours of all that is left.
        longest: Estimate of the hours of the longest run.

    Raises:
        ConfigurationError: If not even half of the estimate fits, or no run.
    """
    if budget is None or (budget >= hours / 2 and budget >= longest / 2):
        return
    fewer = "fewer seeds" if len(study.seeds) > 1 else "fewer arms"
    raise ConfigurationError(
        f"the budget of {budget:g} hours is too small: the study takes about {hours:.2g} hours. Give --budget-hours "
        f"{math.ceil(10 * hours * 1.2) / 10:g} or more, {fewer}, or more --jobs."
    )
