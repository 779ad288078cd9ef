# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray, torch and transformers are incomplete.
"""Estimate of a training run before it begins: sizes, memory, tokens and time."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from agile_gym.errors import import_optional
from agile_gym.learner.options import TINY, build_vlm, part_of
from agile_gym.models.chat import ChatFormat
from agile_gym.rollout.plan import TokenPlan, plan_tokens
from agile_gym.training import stages
from agile_gym.training.settings import RunSettings
from agile_gym.transcripts.reading import read_headers

__all__ = ["describe_run", "measure_iteration"]

_GIB = 2**30
_ADAM_BYTES = 8
_GRADIENT_BYTES = 4
_MEASURED_GROUPS = 4
"""Groups of the iterations that are timed."""


def describe_run(settings: RunSettings, *, measure: bool = True) -> list[str]:
    """Return the lines of a plan.

    Args:
        settings: The settings.
        measure: True to load the model and time two small iterations.

    Returns:
        Lines for people. Memory counts weights, gradients, the optimiser and key-value caches; activations are not in
        it, as they depend on the model's code.

    Raises:
        ModelError: If the model cannot be used.
    """
    options = stages.model_options(settings)
    torch = import_optional("torch", extra="train", purpose="train")
    on_gpu = bool(settings.resources.gpus_per_learner)
    vlm = build_vlm(options, for_training=True, on_gpu=on_gpu)
    parameters = list(vlm.model.named_parameters())
    sizes = Counter[str]()
    for name, parameter in parameters:
        sizes[part_of(name)] += parameter.numel()
    trained = sum(parameter.numel() for _, parameter in parameters if parameter.requires_grad)
    weights = sum(parameter.numel() * parameter.element_size() for _, parameter in parameters)
    learner = weights + trained * (_ADAM_BYTES + _GRADIENT_BYTES)
    grpo = stages.grpo_config(settings, options.path)
    tokens = _tokens(settings, grpo, vlm)
    cache = _cache_bytes(vlm.model.config.get_text_config(), torch, on_gpu=on_gpu) * tokens.needed()
    side_by_side = min(grpo.rollout_batch, grpo.groups_per_iteration * grpo.group_size)
    lines = [
        f"Model       {options.path}: {_count(sum(sizes.values()))} parameters ("
        + ", ".join(f"{part} {_count(size)}" for part, size in sizes.items())
        + f"), {_count(trained)} trained ({options.train})",
        f"Episode     {tokens.turns} turns, a prompt of {tokens.opening:,} tokens, at most {tokens.needed():,} in all",
        *_stage_lines(settings, grpo),
        f"Learner     {_gib(learner)} each: weights {_gib(weights)}, gradients and optimiser "
        f"{_gib(learner - weights)}; activations come on top",
        f"Runner      {_gib(weights + side_by_side * cache)} each at most: weights {_gib(weights)}, caches of "
        f"{side_by_side} episodes {_gib(side_by_side * cache)}",
        f"Processes   {settings.resources.runners or 'no'} runners and {settings.resources.learners or 'no'} "
        "learners of their own" + ("" if settings.resources.runners else ": this process does both"),
    ]
    if on_gpu and not torch.cuda.is_available():
        lines.append("Time        not measured: learners are to have GPUs, and this process has none")
    elif measure:
        del vlm
        lines += _time_lines(settings, grpo)
    return lines


def _tokens(settings: RunSettings, grpo: Any, vlm: Any) -> TokenPlan:  # noqa: ANN401 -- a GRPOConfig, a VLM
    options = stages.environment_options(settings, test=False)
    for task in stages.tasks_of(settings)[:1]:
        options |= task.env_options()
    context = getattr(vlm.text_config, "max_position_embeddings", None) or 10**9
    chat = ChatFormat(vlm.processor, system=stages.model_options(settings).system)
    return plan_tokens(
        chat,
        options,
        context=context,
        new_tokens=grpo.max_new_tokens,
        window=grpo.window,
        env=settings.env,
    )


def _cache_bytes(config: Any, torch: Any, *, on_gpu: bool) -> int:  # noqa: ANN401 -- transformers and torch
    """Return the bytes of a token's keys and values."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    number = torch.bfloat16 if on_gpu else torch.float32
    return 2 * config.num_hidden_layers * heads * size * number.itemsize


def _stage_lines(settings: RunSettings, grpo: Any) -> list[str]:  # noqa: ANN401 -- a GRPOConfig
    lines: list[str] = []
    if stages.has_vision_pretraining(settings):
        vision = stages.vision_config(settings)
        lines.append(f"Vision      {vision.steps:,} steps of {vision.batch:,} boards")
    if settings.has_cold_start:
        given = settings.cold_start.episodes
        count = stages.cold_start_config(settings).count if given is None else sum(1 for _ in read_headers(Path(given)))
        sft = stages.sft_config(settings, TINY, Path(), count, Path("replay"))
        steps = stages.sft_steps(settings, sft, count)
        lines.append(f"Cold start  {count:,} episodes, {steps:,} steps of {sft.batch_size} episodes")
    else:
        lines.append("Cold start  none")
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
    config.training(sharding="none", cpu_offload=False)  # there is one learner
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
    total = settings.grpo.iterations * (rollout + update)
    return [
        f"Time        GRPO about {_minutes(total)}: {rollout:.1f} s of play, {update:.1f} s of learning an iteration,",
        f"            if all goes on as in two small iterations with the model as it is (they took {spent:.0f} s),",
        "            every episode is learned from, and processes do not share processors. A model that has not yet",
        "            learned when to stop writes the longest turns: after the cold start, turns are often shorter,",
        "            and then this is too much; where thoughts grow in training, it is too little",
    ]


def _count(number: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _gib(size: float) -> str:
    return f"{size / _GIB:.3g} GiB"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
