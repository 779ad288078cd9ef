# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray, torch and transformers are incomplete.
"""Estimate of a training run before it begins: sizes, memory, tokens and time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from agile_gym.learner.options import TINY, build_vlm
from agile_gym.rollout.plan import TokenPlan
from agile_gym.training import stages
from agile_gym.training.fitting import count_tokens, describe_pool, load_of
from agile_gym.training.memory import GPU, Load, ModelShapes, iteration_time, memory_phases
from agile_gym.training.settings import RunSettings
from agile_gym.training.tasks import cold_starts, tasks_of
from agile_gym.transcripts.reading import read_headers

__all__ = ["describe_run", "measure_iteration", "model_seconds"]

_MEASURED_GROUPS = 4
"""Groups of the iterations that are timed."""


def describe_run(settings: RunSettings, *, measure: bool = True) -> list[str]:
    """Return the lines of a plan.

    Args:
        settings: The settings.
        measure: True to load the model and time two small iterations, where learners are to have no GPUs.

    Returns:
        Lines for people. The model is built on torch's meta device, so that its weights need not be there; see
        `agile_gym.training.memory` for what is counted.

    Raises:
        ModelError: If the model cannot be used.
    """
    options = stages.model_options(settings)
    on_gpu = bool(settings.resources.gpus_per_learner)
    vlm = build_vlm(options, for_training=True, on_gpu=on_gpu, shapes_only=True)
    shapes = ModelShapes.of(vlm.model)
    grpo = stages.grpo_config(settings, options.path)
    tokens = count_tokens(settings, grpo, vlm)
    load = load_of(settings, grpo, tokens, vlm)
    phases = memory_phases(shapes, load)
    lines = [
        f"Model       {options.path}: {_count(shapes.total)} parameters ("
        + ", ".join(f"{part} {_count(size)}" for part, size in shapes.parameters.items())
        + f"), {_count(shapes.trained)} trained ({options.train})",
        f"Episode     {tokens.turns} turns, a prompt of {tokens.opening:,} tokens, at most {tokens.needed():,} in all",
        *_stage_lines(settings, grpo),
        f"Batches     at most {grpo.micro_batch_tokens:,} tokens at a time, or one episode, "
        + ("packed without padding" if load.packed else "padded to one length"),
        *(f"{phase.name.capitalize():<12}{phase}" for phase in phases),
        f"            of each {'GPU, which a runner and a learner share' if load.shared else 'process'}; not counted: "
        "activations of the vision part",
        f"            at most: every turn writes max_new_tokens = {grpo.max_new_tokens:,}; shorter turns take less",
        *([] if load.pool is None else [f"vLLM        {describe_pool(settings, grpo, load, load.pool)}"]),
        f"Processes   {settings.resources.runners or 'no'} runners and {settings.resources.learners or 'no'} "
        "learners of their own" + ("" if settings.resources.runners else ": this process does both"),
    ]
    if on_gpu:
        lines += _modelled_time(settings, grpo, shapes, load, tokens)
    elif measure:
        del vlm
        lines += _time_lines(settings, grpo)
    return lines


def _modelled_time(
    settings: RunSettings,
    grpo: Any,  # noqa: ANN401 -- a GRPOConfig
    shapes: ModelShapes,
    load: Load,
    tokens: TokenPlan,
) -> list[str]:
    gpu, episodes = GPU(), grpo.groups_per_iteration * grpo.group_size
    took = iteration_time(shapes, load, episodes, tokens.turns * tokens.new_tokens, gpu)
    total = settings.grpo.iterations * _together(grpo, took.play, took.update)
    return [
        f"Time        GRPO at most {_minutes(total)}: {took.play:,.0f} s of play, {took.update:,.0f} s of learning an "
        "iteration,",
        f"            not measured: GPUs of {gpu.flops / 1e12:g} TFLOP/s, {gpu.used:.0%} of it used, and "
        f"{gpu.bandwidth / 1e12:g} TB/s, {gpu.read:.0%} of it",
        "            reached; every turn as long as it may be (max_new_tokens). Shorter turns take less",
    ]


def model_seconds(settings: RunSettings) -> tuple[float, float]:
    """Compute the time of an episode on GPUs; see `agile_gym.training.memory.iteration_time`.

    Args:
        settings: The settings.

    Returns:
        Seconds of playing one and of learning from one, if every turn is as long as it may be.
    """
    options = stages.model_options(settings)
    vlm = build_vlm(options, for_training=True, on_gpu=True, shapes_only=True)
    grpo = stages.grpo_config(settings, options.path)
    tokens = count_tokens(settings, grpo, vlm)
    episodes = grpo.groups_per_iteration * grpo.group_size
    load = load_of(settings, grpo, tokens, vlm)
    took = iteration_time(ModelShapes.of(vlm.model), load, episodes, tokens.turns * tokens.new_tokens, GPU())
    return took.play / episodes, took.update / episodes


def _stage_lines(settings: RunSettings, grpo: Any) -> list[str]:  # noqa: ANN401 -- a GRPOConfig
    lines: list[str] = []
    if stages.has_vision_pretraining(settings):
        vision = stages.vision_config(settings)
        lines.append(f"Vision      {vision.steps:,} steps of {vision.batch:,} boards")
    if settings.has_cold_start:
        given = settings.cold_start.episodes
        parts = {name or "default": cold.count for name, cold in cold_starts(settings).items()} if given is None else {}
        count = sum(parts.values()) if given is None else sum(1 for _ in read_headers(Path(given)))
        sft = stages.sft_config(settings, TINY, Path(), count, Path("replay"))
        steps = stages.sft_steps(settings, sft, count)
        lines.append(f"Cold start  {count:,} episodes, {steps:,} steps of {sft.batch_size} episodes")
        if len(parts) > 1:
            lines.append("            " + ", ".join(f"{name} {part:,}" for name, part in parts.items()))
    else:
        lines.append("Cold start  none")
    tasks = tasks_of(settings)
    if len(tasks) > 1:
        total = sum(task.weight for task in tasks)
        lines.append("Tasks       " + ", ".join(f"{task.name} {task.weight / total:.1%}" for task in tasks))
    iterations, groups, size = settings.grpo.iterations, grpo.groups_per_iteration, grpo.group_size
    low, high = grpo.clip_range
    lines += [
        f"GRPO        {iterations:,} iterations of {groups} puzzles, {size} episodes each: "
        f"{iterations * groups * size:,} episodes",
        f"Loss        {grpo.loss}, ratios clipped at {1 - low:g} and {1 + high:g} (clip_low = {low:g}, clip_high = "
        f"{high:g})",
    ]
    return lines


def measure_iteration(settings: RunSettings) -> dict[str, float]:
    """Time a small iteration of GRPO in this process, with the model as it is before training.

    Returns:
        ``rollout`` and ``update``, seconds for each episode.
    """
    config = stages.grpo_config(settings, stages.model_options(settings).path)
    groups, size = min(_MEASURED_GROUPS, config.groups_per_iteration), config.group_size
    config.env_runners(num_env_runners=0).learners(num_learners=0)
    config.training(groups_per_iteration=groups, filter_zero_variance_groups=False, num_minibatches=1)
    config.training(sharding="none", cpu_offload=False, max_lag=0)  # there is one process
    config.evaluation(evaluation_interval=None)
    algorithm = config.build_algo()
    try:
        algorithm.train()  # warms up
        result = algorithm.train()["grpo"]
    finally:
        algorithm.stop()
    return {
        "rollout": float(result["seconds_rollout"]) / (groups * size),
        "update": float(result["seconds_update"]) / (groups * size),
    }


def _time_lines(settings: RunSettings, config: Any) -> list[str]:  # noqa: ANN401 -- a GRPOConfig
    began = time.perf_counter()
    seconds = measure_iteration(settings)
    spent = time.perf_counter() - began
    resources = settings.resources
    episodes = config.groups_per_iteration * config.group_size
    rollout = episodes * seconds["rollout"] / max(1, resources.runners)
    update = episodes * seconds["update"] / max(1, resources.learners)
    total = settings.grpo.iterations * _together(config, rollout, update)
    return [
        f"Time        GRPO about {_minutes(total)}: {rollout:.1f} s of play, {update:.1f} s of learning an iteration,",
        f"            if all goes on as in two small iterations with the model as it is (they took {spent:.0f} s),",
        "            every episode is learned from, and processes do not share processors. A model that has not yet",
        "            learned when to stop writes the longest turns: after the cold start, turns are often shorter,",
        "            and then this is too much; where thoughts grow in training, it is too little",
    ]


def _together(grpo: Any, play: float, update: float) -> float:  # noqa: ANN401 -- a GRPOConfig
    """Return the seconds of an iteration from those of its parts, which overlap if groups are played ahead."""
    return max(play, update) if grpo.max_lag else play + update


def _count(number: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
