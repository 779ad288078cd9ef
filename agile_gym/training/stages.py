# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray are incomplete.
"""The configurations of a run's stages, made of its settings."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from agile_gym.arguments import is_whole
from agile_gym.coldstart import ColdStartConfig
from agile_gym.envs.config import JigsawConfig, resolve
from agile_gym.envs.jigsaw import open_source
from agile_gym.evaluation import EvaluationPlan, SuiteEntry
from agile_gym.evaluation.run import photographs_of
from agile_gym.fingerprints import fingerprints
from agile_gym.learner.model import TINY
from agile_gym.learner.tasks import TaskMix
from agile_gym.puzzle.board import parse_level
from agile_gym.training.settings import TrainSettings

__all__ = [
    "ENVIRONMENT",
    "cold_start_config",
    "content_of",
    "environment_options",
    "evaluation_plan",
    "grpo_config",
    "has_eyes",
    "replay_config",
    "sft_config",
    "sft_iterations",
    "tasks_of",
]

ENVIRONMENT = "JigsawVision-v0"
_REPLAY_SEED = 1_000_003
"""Added to the run's seed, so that other puzzles are replayed than the cold start has."""
_TRAIN_ONLY = ("iterations", "tasks")
_SFT_ONLY = (
    *("epochs", "batch_size", "replay_size", "replay_count", "skip_mistakes", "max_tokens", "freeze"),
    "lr_warmup_share",
)


def environment_options(settings: TrainSettings, *, test: bool) -> dict[str, Any]:
    """Return the options of the environment: its settings, and the photographs to train on or to test on."""
    images = settings.images
    options: dict[str, Any] = {"crop": "random", **settings.environment}
    if images["test"] is None:
        return {**options, "images": images["train"], "split": "test" if test else "train"}
    return {**options, "images": images["test" if test else "train"], "split": None}


def content_of(settings: TrainSettings) -> dict[str, str]:
    """Return hashes of what is at the paths in the settings: the photographs, a model, episodes that are there.

    Raises:
        ImageError: If there are no photographs.
    """
    content = fingerprints(settings.to_mapping())
    for name, test in (("images.train", False), ("images.test", True)):
        source = open_source(JigsawConfig.from_options(environment_options(settings, test=test)))
        content[name] = photographs_of(source)["sha256"]
    return content


def tasks_of(settings: TrainSettings) -> tuple[TaskMix, ...]:
    """Return the tasks."""
    return TaskMix.from_mappings(settings.grpo["tasks"] or [{}])


def has_eyes(settings: TrainSettings) -> bool:
    """Tell whether the model is the tiny one, and gets its eyes first."""
    return settings.model.get("path", TINY) == TINY and bool(settings.eyes)


def cold_start_config(settings: TrainSettings) -> ColdStartConfig:
    """Return how the cold start's episodes are made."""
    options = environment_options(settings, test=False)
    images, split = options.pop("images"), options.pop("split")
    grid, level = options.pop("grid", 2), options.pop("level", 0)
    given = {key: value for key, value in settings.cold_start.items() if key != "episodes" and value is not None}
    high = given.get("turns", (4, 8))
    most = high if isinstance(high, int) else max(high)
    options["max_turns"] = max(options.get("max_turns", most), most)
    return ColdStartConfig(
        **{"grid": grid, "level": level, **given},
        images=images,
        split=split,
        seed=settings.seed,
        options=options,
    )


def _shared(config: Any, settings: TrainSettings, model: str) -> Any:  # noqa: ANN401 -- a configuration, returned
    """Set what supervised training and GRPO have in common."""
    resources, evaluation = settings.resources, settings.evaluation
    test = environment_options(settings, test=True)
    return (
        config.environment(ENVIRONMENT, env_config=environment_options(settings, test=False))
        .vlm(**{**settings.model, "path": model, "seed": settings.seed})
        .env_runners(
            num_env_runners=resources["runners"],
            num_cpus_per_env_runner=resources["cpus_per_runner"],
            num_gpus_per_env_runner=resources["gpus_per_runner"],
        )
        .learners(
            num_learners=resources["learners"],
            num_cpus_per_learner=resources["cpus_per_learner"],
            num_gpus_per_learner=resources["gpus_per_learner"],
        )
        .evaluation(
            evaluation_interval=evaluation["interval"] or None,
            evaluation_duration=evaluation["interval_episodes"],
            evaluation_config={"env_config": test},
        )
        .debugging(seed=settings.seed)
    )


def grpo_config(settings: TrainSettings, model: str) -> Any:  # noqa: ANN401 -- a GRPOConfig
    """Return the configuration of GRPO.

    Args:
        settings: The settings.
        model: Folder of the model to begin with.
    """
    from agile_gym.learner import GRPOConfig

    given = {key: value for key, value in settings.grpo.items() if key not in _TRAIN_ONLY}
    steps = settings.grpo["iterations"] * given.get("num_minibatches", 1) * given.get("num_epochs", 1)
    given.setdefault("lr_total_steps", max(1, steps))
    config = _shared(GRPOConfig(), settings, model).training(**given)
    if settings.grpo["tasks"]:
        config.training(tasks=list(settings.grpo["tasks"]))
    return config


def replay_config(settings: TrainSettings) -> ColdStartConfig:
    """Return how the episodes are made that the cold start replays: puzzles that are answered at once.

    There is no thought: the answer is not to be read off from it.
    """
    cold = cold_start_config(settings)
    return replace(
        cold,
        count=settings.sft["replay_count"],
        teacher="oracle",
        teacher_options={"think": ""},
        turns=1,
        balance="none",
        seed=cold.seed + _REPLAY_SEED,
    )


def sft_config(settings: TrainSettings, model: str, transcripts: Path, episodes: int, replay: Path) -> Any:  # noqa: ANN401 -- an SFTConfig
    """Return the configuration of supervised training.

    Args:
        settings: The settings.
        model: Folder of the model to begin with.
        transcripts: The cold start's episodes.
        episodes: Their number.
        replay: Those that are replayed, if the settings want some.
    """
    from agile_gym.learner.supervised import SFTConfig

    sft = settings.sft
    given = {key: value for key, value in sft.items() if key not in _SFT_ONLY}
    steps = math.ceil(sft["epochs"] * episodes / sft["batch_size"])
    given.setdefault("lr_total_steps", max(1, steps))
    given.setdefault("lr_warmup_steps", round(sft["lr_warmup_share"] * steps))
    for name in ("max_new_tokens", "rollout_batch", "temperature", "window", "micro_batch_tokens"):
        if name in settings.grpo:
            given.setdefault(name, settings.grpo[name])
    config = _shared(SFTConfig(), settings, model).training(**given)
    if sft["freeze"] is not None:
        config.vlm(freeze=sft["freeze"])
    return config.supervise(
        transcripts=transcripts,
        batch_size=sft["batch_size"],
        replay=replay,
        replay_size=sft["replay_size"],
        skip_mistakes=sft["skip_mistakes"],
        max_tokens=sft["max_tokens"],
    )


def sft_iterations(settings: TrainSettings, episodes: int) -> int:
    """Return the number of iterations of supervised training."""
    steps = math.ceil(settings.sft["epochs"] * episodes / settings.sft["batch_size"])
    return math.ceil(steps / settings.sft.get("num_minibatches", 1))


def evaluation_plan(settings: TrainSettings, model: str) -> EvaluationPlan:
    """Return the puzzles that every stage's model is evaluated on: each task's, of photographs that are held out.

    Args:
        settings: The settings.
        model: Folder of the model.
    """
    options = environment_options(settings, test=True)
    images = options.pop("images")
    own_grid, own_level = options.pop("grid", 2), options.pop("level", 0)
    levels: dict[str, set[int]] = {}
    for task in tasks_of(settings):
        grid: Any = own_grid if task.grid is None else task.grid
        level: Any = own_level if task.level is None else task.level
        rules = resolve(JigsawConfig(grid=grid, level=level, image_size=8000))
        pieces = rules.rows * rules.cols
        levels.setdefault(f"{rules.rows}x{rules.cols}", set()).update(rules.levels or parse_level("all", pieces) or ())
    count = settings.evaluation["episodes"]
    total = sum(map(len, levels.values()))
    entries = [SuiteEntry(grid, tuple(sorted(chosen)), max(1, count // total)) for grid, chosen in levels.items()]
    grpo = settings.grpo
    chosen: dict[str, Any] = {"temperature": 0.0}
    for name in ("max_new_tokens", "window"):
        if is_whole(grpo.get(name), 10**9):
            chosen[name] = grpo[name]
    if settings.model.get("system") is not None:
        chosen["system"] = settings.model["system"]
    return EvaluationPlan(
        policy=f"hf:{model}",
        entries=entries,
        seed=settings.evaluation["seed"],
        images=images,
        options=options,
        policy_options=chosen,
    )
