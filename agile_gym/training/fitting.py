# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Check that GPUs hold what a run's processes are to, from its settings, and what would if they do not."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agile_gym.envs.contract import JIGSAW
from agile_gym.errors import ConfigurationError, import_optional, is_number, is_whole, require
from agile_gym.learner.options import build_vlm, resolve_autocast
from agile_gym.models.chat import ChatFormat
from agile_gym.models.packing import find_obstacle, resolve_packing
from agile_gym.models.vllm_inputs import CPU_CACHE, GPU_SHARE
from agile_gym.rollout.plan import TokenPlan, plan_tokens
from agile_gym.training import stages
from agile_gym.training.memory import GIB, POOL, EnginePool, Load, ModelShapes, Phase, memory_phases
from agile_gym.training.settings import RunSettings
from agile_gym.training.tasks import separate_tasks, task_options, tasks_of

__all__ = ["check_memory", "count_tokens", "describe_pool", "load_of"]

_ROUNDING = 1e-6
_UNLIMITED = 10**9
"""Tokens of the context of a model that has no limit."""


def check_memory(settings: RunSettings) -> None:
    """Check that GPUs hold what they are to: nothing where there are none, or their memory is not known.

    Raises:
        ConfigurationError: If they do not; it says what takes the memory, and what would fit.
    """
    room = _room(settings)
    if room is None:
        return
    options = stages.model_options(settings)
    vlm = build_vlm(options, for_training=True, on_gpu=True, shapes_only=True)
    grpo = stages.grpo_config(settings, options.path)
    tokens = count_tokens(settings, grpo, vlm)
    shapes, load = ModelShapes.of(vlm.model), load_of(settings, grpo, tokens, vlm)
    pool = load.pool if load.pool is not None and load.pool.on_gpu else None
    if pool is not None and pool.size < pool.needed:
        raise ConfigurationError(f"[grpo] engine_options: {_too_small(pool, room, tokens)}")
    worst = max(_on_gpus(settings, shapes, load), key=lambda phase: phase.total)
    if worst.total <= room * GIB:
        return
    told = "" if pool is None or not worst.parts.get(POOL) else f"vLLM {describe_pool(settings, grpo, load, pool)}. "
    raise ConfigurationError(
        f"[resources] a GPU of {room:g} GiB does not hold the phase {worst.name!r}, which takes {worst}. {told}"
        f"{_what_fits(settings, shapes, load, room, packs=find_obstacle(vlm.model) is None)}"
    )


def _room(settings: RunSettings) -> float | None:
    """Return the GiB of each GPU; None where none are used, or their memory is not known."""
    if not settings.resources.gpus_per_learner or settings.resources.gpu_memory is not None:
        return settings.resources.gpu_memory if settings.resources.gpus_per_learner else None
    torch = import_optional("torch", extra="train", purpose="train")
    return torch.cuda.get_device_properties(0).total_memory / GIB if torch.cuda.is_available() else None


def _on_gpus(settings: RunSettings, shapes: ModelShapes, load: Load) -> list[Phase]:
    """Return the phases of GPUs, without that of runners that play on CPUs."""
    phases, resources = memory_phases(shapes, load), settings.resources
    on_cpus = resources.runners and not resources.gpus_per_runner
    return phases[1:] if on_cpus else phases


def _holds(phases: Sequence[Phase], room: float) -> bool:
    """Return True if a GPU with some GiB holds all phases."""
    return all(phase.total <= room * GIB for phase in phases)


def _too_small(pool: EnginePool, room: float, tokens: TokenPlan) -> str:
    """Return a sentence on a pool that vLLM cannot start with, and what would be enough."""
    hints: list[str] = []
    least = math.ceil(100 * pool.needed / (room * GIB)) / 100
    if least <= 1:
        hints.append(f"gpu_memory_utilization = {least:g}")
    longest = int((pool.size - pool.weights) // pool.token)
    if longest >= min(tokens.needed(), pool.context):
        hints.append(f"max_model_len = {longest}")
    return (
        f"vLLM does not start with {pool.size / GIB:.3g} GiB of a GPU of {room:g} GiB: its weights and the keys and "
        f"values of a context of {pool.context:,} tokens take {pool.needed / GIB:.3g} GiB. "
        + (f"Set {' or '.join(hints)}." if hints else "Take larger GPUs.")
    )


def describe_pool(settings: RunSettings, grpo: Any, load: Load, pool: EnginePool) -> str:  # noqa: ANN401 -- a GRPOConfig
    """Return what vLLM reserves, why, and if it frees it while learners compute."""
    given = grpo.engine_options or {}
    size = f"{pool.size / GIB:.3g} GiB ({pool.weights / GIB:.3g} of them weights)"
    if not pool.on_gpu:
        return f"takes {size} of the memory of each runner's machine"
    if given.get("kv_cache_memory_bytes"):
        told = f"takes {size} of each runner's GPU: kv_cache_memory_bytes is given"
    elif "gpu_memory_utilization" in given:
        told = f"reserves {given['gpu_memory_utilization']:g} of each runner's GPU: {size}"
    else:
        told = (
            f"reserves {GPU_SHARE:g} of each runner's GPU, its default, as gpu_memory_utilization is not in "
            f"engine_options: {size}"
        )
    if _room(settings) is None:
        told += ", or more: the memory of GPUs is not known (gpu_memory in [resources])"
    if not load.shared:
        return told
    return told + (
        ", freed while learners compute (engine_sleep = true)"
        if pool.sleeps
        else ", also while learners compute (engine_sleep = false)"
    )


def _what_fits(settings: RunSettings, shapes: ModelShapes, load: Load, room: float, *, packs: bool) -> str:
    """Return the changes each of which is enough, or a sentence that none of them is.

    Args:
        settings: The settings.
        shapes: The model.
        load: The work.
        room: GiB of a GPU.
        packs: True if sequences of the model can be packed.
    """
    changes = {
        f'sharding = "full" in [grpo] with {load.learners} learners': replace(load, sharded=True),
        "cpu_offload = true in [grpo]": replace(load, offloaded=load.sharded),
        "kl_coef = 0 in [grpo]": replace(load, referred=False),
        "twice as many learners": replace(load, learners=2 * load.learners),
        "gradient_checkpointing = true in [model]": replace(load, checkpointed=True),
        "half of micro_batch_tokens in [grpo]": replace(load, batch_tokens=load.batch_tokens // 2),
        'packing = "on" in [grpo]': replace(load, packed=packs, masked=load.masked and not packs),
        "half of rollout_batch in [grpo]": replace(load, episodes=max(1, load.episodes // 2)),
        "GPUs of their own for runners": replace(load, shared=False, joint=False, players=1),
        "max_lag = 0 in [grpo]": replace(load, overlapping=False),
        **_other_pools(shapes, load, room),
    }
    enough = [
        name
        for name, changed in changes.items()
        if changed != load and _holds(_on_gpus(settings, shapes, changed), room)
    ]
    if enough:
        return f"Enough would be: {'; or '.join(enough)}."
    return 'No single change is enough; train an adapter (train = "lora"), or take more or larger GPUs.'


def _other_pools(shapes: ModelShapes, load: Load, room: float) -> dict[str, Load]:
    """Return loads with a pool that sleeps, a smaller one, and one that does both, by the settings that make it so."""
    pool = load.pool
    if pool is None or not pool.on_gpu or not load.shared:
        return {}
    sleeping = load if load.overlapping else replace(load, pool=replace(pool, sleeps=True))
    found = {"engine_sleep = true in [grpo]": sleeping}
    for changed, also in ((load, ""), *([] if sleeping == load else [(sleeping, "engine_sleep = true and ")])):
        rest = [phase.total - phase.parts[POOL] for phase in memory_phases(shapes, changed) if phase.parts.get(POOL)]
        share = math.floor(100 * (room * GIB - max(rest)) / load.players / (room * GIB)) / 100
        size = share * room * GIB
        alone = bool(also) and _holds(memory_phases(shapes, changed), room)
        if pool.needed <= size < pool.size and changed.pool is not None and not alone:
            name = f"{also}gpu_memory_utilization = {share:g} in engine_options"
            found[name] = replace(changed, pool=replace(changed.pool, size=size))
    return found


def load_of(settings: RunSettings, grpo: Any, tokens: TokenPlan, vlm: Any) -> Load:  # noqa: ANN401 -- a GRPOConfig, a VLM
    """Return the work of the processes of a run."""
    resources, options = settings.resources, stages.model_options(settings)
    on_gpu = bool(resources.gpus_per_learner)
    runners, each = max(1, resources.runners), resources.gpus_per_runner
    beside = on_gpu and 0 < each <= 1 - resources.gpus_per_learner + _ROUNDING
    shared = beside or not resources.runners
    players = int((1 - resources.gpus_per_learner * beside) / each + _ROUNDING) if resources.runners and each else 1
    packed = resolve_packing(grpo.packing, vlm.model)
    load = Load(
        learners=max(1, resources.learners),
        runners=runners,
        sharded=grpo.sharding == "full",
        offloaded=grpo.cpu_offload,
        half=resolve_autocast(options, on_gpu=on_gpu) is not None,
        checkpointed=options.gradient_checkpointing,
        batch_tokens=grpo.micro_batch_tokens,
        written=tokens.turns * tokens.new_tokens / tokens.needed(),
        episode_tokens=tokens.needed(),
        episodes=min(grpo.rollout_batch, -(-grpo.groups_per_iteration * grpo.group_size // runners)),
        shared=shared,
        opening=tokens.opening,
        packed=packed,
        masked=not packed and options.attention != "flash_attention_2",
        players=min(players, runners),
        referred=bool(grpo.kl_coef) and options.train == "full",
        joint=not resources.runners and not resources.learners,
        overlapping=bool(grpo.max_lag),
    )
    return replace(load, pool=_pool(settings, grpo, ModelShapes.of(vlm.model), load, tokens))


def _pool(
    settings: RunSettings,
    grpo: Any,  # noqa: ANN401 -- a GRPOConfig
    shapes: ModelShapes,
    load: Load,
    tokens: TokenPlan,
) -> EnginePool | None:
    """Return what vLLM reserves for a runner, if it plays."""
    if grpo.engine != "vllm" or grpo.policy_class is not None:
        return None
    given, resources, room = grpo.engine_options or {}, settings.resources, _room(settings)
    share: Any = given.get("gpu_memory_utilization")
    cache: Any = given.get("kv_cache_memory_bytes")
    longest: Any = given.get("max_model_len")
    fits = share is None or (is_number(share, 0, 1) and share > 0)
    require(fits, "[grpo] engine_options: gpu_memory_utilization", share, "a fraction above 0, up to 1")
    on_gpu = bool(resources.gpus_per_runner if resources.runners else resources.gpus_per_learner)
    number = 1 if str(given.get("kv_cache_dtype")).startswith("fp8") else load.number
    most = tokens.context if tokens.context < _UNLIMITED else tokens.needed()
    pool = EnginePool(
        size=0,
        weights=shapes.weight_bytes if load.joint else shapes.total * load.number,
        context=longest if is_whole(longest, most) else most,
        token=shapes.cached * number,
        on_gpu=on_gpu,
        sleeps=grpo.engine_sleep,
    )
    whole = None if room is None else room * GIB
    if not on_gpu:
        whole = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        cache = CPU_CACHE if cache is None and share is None else cache
    if is_number(cache, 1, 1 << 50):
        return replace(pool, size=pool.weights + cache)
    return replace(pool, size=pool.needed if whole is None else (GPU_SHARE if share is None else share) * whole)


def count_tokens(settings: RunSettings, grpo: Any, vlm: Any) -> TokenPlan:  # noqa: ANN401 -- a GRPOConfig, a VLM
    """Return the token plan of the first task, or of the longest if some have environments of their own."""
    separate = separate_tasks(settings)
    context = getattr(vlm.text_config, "max_position_embeddings", None) or _UNLIMITED
    chat = ChatFormat(vlm.processor, system=stages.model_options(settings).system)
    plans: list[TokenPlan] = []
    for task in tasks_of(settings) if separate else tasks_of(settings)[:1]:
        env, options = task_options(settings, task, test=False)
        plans.append(
            plan_tokens(
                chat,
                options,
                context=context,
                new_tokens=grpo.max_new_tokens,
                window=grpo.window,
                env=None if env == JIGSAW else env,
            )
        )
    return max(plans, key=lambda plan: plan.needed())
