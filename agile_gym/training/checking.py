# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray, torch and transformers are incomplete.
"""Check of a run's settings before its first stage, the cluster's included; start and end of Ray."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from agile_gym.coldstart.config import EXPERT, ColdStartConfig, prepare
from agile_gym.envs.contract import JIGSAW, find_env, probe_env
from agile_gym.envs.jigsaw.config import JigsawConfig, resolve
from agile_gym.envs.jigsaw.env import open_source
from agile_gym.errors import ConfigurationError, one_line, require
from agile_gym.evaluation.run import prepare_plan
from agile_gym.images.sources import check_fraction
from agile_gym.interruption import STOP_SIGNALS, StopSignals, stops_blocked
from agile_gym.learner.checks import check_engine_starts, check_vllm_model
from agile_gym.learner.options import TINY, ModelOptions, build_vlm
from agile_gym.learner.resources import actor_needs, check_fits
from agile_gym.policies.base import POLICIES, check_policy, make_policy
from agile_gym.questions.opening import open_questions
from agile_gym.rollout.plan import plan_tokens
from agile_gym.training import stages
from agile_gym.training.fitting import check_memory
from agile_gym.training.settings import RunSettings
from agile_gym.training.tasks import (
    check_tasks,
    cold_start_config,
    cold_starts,
    environment_options,
    plays_environment,
    task_options,
    tasks_of,
)
from agile_gym.training.texts import naming
from agile_gym.transcripts.reading import read_headers

__all__ = ["check_machines", "check_settings", "cluster_address", "kill_children", "start_ray", "stop_ray"]

CONNECT_SECONDS = 5.0
"""Seconds that a machine may take to accept a connection."""
ANSWER_SECONDS = 30.0
"""Seconds that a cluster may take to list its machines, the start of a process with Ray included."""
_FORMS = "give 'auto' on a machine of the cluster, HOST:PORT (6379 unless set otherwise), or leave it out"
_SETTINGS = {
    "runner": "cpus_per_runner = {:g}",
    "evaluation runner": "cpus_per_runner = {:g}",
    "learner": "cpus_per_learner = {:g}",
}
_PROBE = """
import json, sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
    told = {"nodes": [node["Resources"] for node in ray.nodes() if node["Alive"]]}
except BaseException as error:
    told = {"error": str(error) or type(error).__name__}
print("\\n" + json.dumps(told), flush=True)
"""
"""Run in a process of its own: Ray waits for some servers for minutes, and ends the process at others."""


def cluster_address(settings: RunSettings) -> str | None:
    """Return the address of the Ray cluster that a run is to use; None where one is started on this machine."""
    address = settings.resources.address or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address


def check_machines(settings: RunSettings, config: Any) -> None:  # noqa: ANN401 -- an AlgorithmConfig
    """Check that the cluster answers, and that there are the CPUs and GPUs that processes are to have.

    Args:
        settings: The settings.
        config: The configuration of GRPO that follows from them.

    Raises:
        ConfigurationError: If not.
    """
    address = cluster_address(settings)
    nodes = [_this_machine()] if address is None else _ask(address, settings)
    resources = settings.resources
    if resources.gpus_per_learner and not resources.learners and not _this_machine()["GPU"]:
        raise ConfigurationError(
            f"[resources] gpus_per_learner = {resources.gpus_per_learner:g} with learners = 0: the learner runs in "
            "this process, where torch finds no GPU. Set gpus_per_learner = 0, or learners = 1 to send it to a machine "
            "with a GPU."
        )
    if config.check_resources:
        needs = [replace(need, setting=_SETTINGS[need.kind]) for need in actor_needs(config)]
        with naming("resources"):
            check_fits(
                needs,
                nodes,
                gpu_settings="gpus_per_runner and gpus_per_learner",
                more="or add machines to the cluster",
                growing="[grpo] check_resources = false",
            )


def _this_machine() -> dict[str, float]:
    """Return what a Ray that is started here has: a run lets it count as many CPUs as processes are to have."""
    import torch

    return {"CPU": float("inf"), "GPU": float(torch.cuda.device_count())}


def _ask(address: str, settings: RunSettings) -> list[Mapping[str, float]]:
    """Return the resources of each machine of a cluster."""
    origin = f"[resources] address = {address!r}"
    if settings.resources.address is None:
        origin = f"RAY_ADDRESS={address!r} (in the environment)"
    if address != "auto":
        _connect(address, origin)
    process = subprocess.Popen(
        [sys.executable, "-c", _PROBE, address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        told, log = process.communicate(timeout=ANSWER_SECONDS)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        raise ConfigurationError(
            f"{origin}: there is no Ray cluster that answers within {ANSWER_SECONDS:g} seconds; something else may "
            f"listen on this port. Start Ray there with 'ray start --head', or {_FORMS}."
        ) from None
    lines = told.strip().splitlines()
    reply: dict[str, Any] = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    if "nodes" not in reply:
        reason = one_line(str(reply.get("error", f"Ray ended with status {process.returncode}")), 300).rstrip(".")
        if "Unauthenticated" in log:
            reason = "it asks for its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN unless ~/.ray/auth_token is it"
        raise ConfigurationError(f"{origin}: there is no Ray cluster to connect to ({reason}). Or {_FORMS}.")
    return reply["nodes"]


def _connect(address: str, origin: str) -> None:
    """Check that an address has the right form, and that something listens there."""
    if address.startswith("ray://"):
        raise ConfigurationError(
            f"{origin} is one of Ray's client, which a run does not support; {_FORMS}. 'ray job submit' starts a run "
            "from outside."
        )
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]@?]+):(\d{1,5})", address)
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise ConfigurationError(f"{origin} is not the address of a Ray cluster; {_FORMS}.")
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), timeout=CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:
        reason = f"no answer in {CONNECT_SECONDS:g} seconds" if isinstance(error, TimeoutError) else str(error)
        raise ConfigurationError(
            f"{origin}: nothing listens there ({reason}). Start Ray there with 'ray start --head', or {_FORMS}."
        ) from error


def start_ray(settings: RunSettings, stops: StopSignals) -> None:
    """Start Ray on this machine, or connect to a cluster, unless that was done.

    Args:
        settings: The settings; see `cluster_address`.
        stops: The signals; while Ray starts on this machine they wait, so that it can be ended in order.
    """
    import ray

    if ray.is_initialized():
        stops.install()
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address, resources = cluster_address(settings), settings.resources
    stops.on_end = kill_children
    # Blocked until the handlers are back: a signal to the whole group leaves Ray's processes to this one. Ray itself
    # blocks SIGINT in them, so that here a second Ctrl-C gets through.
    blocked = stops_blocked(number for number in STOP_SIGNALS if number != signal.SIGINT)
    with stops.hold() if address is None else nullcontext(), blocked, _handlers_of(stops):
        if address is not None:
            ray.init(address=address, **quiet)
            return
        wanted = resources.runners * resources.cpus_per_runner
        wanted += resources.learners * resources.cpus_per_learner
        num_cpus = max(os.cpu_count() or 1, int(wanted) + 1)
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **quiet)


@contextmanager
def _handlers_of(stops: StopSignals) -> Generator[None]:
    """Keep handlers: `ray.init` replaces that of SIGTERM, in Python by ``sys.exit`` and natively by a stack dump."""
    from ray._private import utils

    install = cast("Any", utils.set_sigterm_handler)
    utils.set_sigterm_handler = _leave_handlers
    try:
        yield
    finally:
        utils.set_sigterm_handler = install
        stops.install()


def _leave_handlers(sigterm_handler: object) -> None:
    del sigterm_handler


def stop_ray(stops: StopSignals) -> None:
    """End Ray and all its processes on this machine, or leave the cluster.

    Args:
        stops: The signals, which wait until it is done.
    """
    import ray

    stops.on_end = None
    if not ray.is_initialized():
        return
    from ray._private import worker

    node: Any = getattr(worker, "_global_node", None)
    with stops.hold():
        if node is not None:
            kill = node.kill_all_processes

            def kill_now(**options: Any) -> None:  # noqa: ANN401 -- Ray's
                _kill(process.pid for _, process in node.live_processes())
                kill(**options)

            node.kill_all_processes = kill_now  # they do not see SIGTERM: Ray would wait a second for each of them
        ray.shutdown()


def _kill(pids: Iterable[int]) -> None:
    """Kill processes and those that they have started: some of Ray's take a minute to see that it has ended."""
    import psutil  # Ray brings it

    found: list[Any] = []
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]  # the parent first, which would start others again
    for process in found:
        with suppress(psutil.Error):
            process.kill()


def kill_children() -> None:
    """Kill all processes that this one has started, and theirs."""
    import psutil

    _kill(process.pid for process in psutil.Process().children())


def check_settings(settings: RunSettings, *, elsewhere: bool = False) -> None:
    """Check what can be checked before anything takes long: values, photographs, the model's files, the cluster.

    Args:
        settings: The settings.
        elsewhere: True if the run is only planned here: machines and packages for GPUs are then not looked for.

    Raises:
        ConfigurationError: If a setting is not allowed; the message names it as ``[section] key = value``.
        ImageError: If there are no photographs.
        ModelError: If the model cannot be used.
        MissingDependencyError: If a package is missing.
    """
    _check_environment(settings)
    with naming("model"):
        options = stages.model_options(settings)
        if not elsewhere:
            _check_packages(options)
    if settings.vision.given():
        with naming("vision"):
            stages.vision_config(settings)
    if settings.has_cold_start:
        _check_cold_start(settings)
    with naming("grpo"):
        grpo = stages.grpo_config(settings, options.path)
        grpo.validate()
    with naming("sft", count="replay_count"):
        sft = stages.sft_config(settings, options.path, Path(), 1, Path("replay"))
        sft.validate()
        if settings.has_cold_start and settings.env is None:
            replay = stages.replay_config(settings)
            if sft.replay_size:
                prepare(replay)
    with naming("grpo", grid="tasks: grid", level="tasks: level"):
        plan = stages.evaluation_plan(settings, options.path)
    with naming("evaluation"):
        prepare_plan(plan)
        for key, file in stages.benchmark_files(settings).items():
            open_questions(file, key)
    with naming("grpo"):
        check_engine_starts(grpo, options.path, installed=not elsewhere)
    if options.path != TINY:
        with naming("model", "path", options.path):
            _check_files(options.path)
        _check_tokens(settings, grpo)
    elif options.train == "lora" and options.lora_targets:
        with naming("model"):
            build_vlm(options, for_training=True, on_gpu=False)  # it takes no time, and has the layers' names
    check_memory(settings)
    if not elsewhere:
        check_machines(settings, grpo)


def _check_environment(settings: RunSettings) -> None:
    """Check the environment's options, and that there are photographs, or that it keeps the contract."""
    if settings.env is not None:
        _check_other(settings)
    else:
        options = settings.environment.given()
        with naming("environment"):
            resolve(JigsawConfig.from_options(options))
            check_fraction(options.get("test_fraction", JigsawConfig.test_fraction))
    for test in (False, True):
        options = environment_options(settings, test=test)
        if settings.env is not None:
            with naming("environment"):
                probe_env(settings.env, options)
            continue
        key = "test" if test and settings.images.test is not None else "train"
        with naming("images", key, options["images"], images=key):
            open_source(JigsawConfig.from_options(options))
    check_tasks(settings)


def _check_other(settings: RunSettings) -> None:
    """Check that there is another environment than the jigsaw, and that no stage plays the jigsaw then."""
    env, pretrains = settings.environment.id, bool(settings.vision.given())
    with naming("environment", "id", env):
        find_env(env)
    if pretrains or settings.sft.given().get("replay_size"):
        what = "[vision]" if pretrains else "[sft] replay_size"
        raise ConfigurationError(f"{what} plays the jigsaw; leave it out, as the environment is {env}.")
    cold, needed = settings.cold_start, settings.has_cold_start and plays_environment(settings)
    if needed and cold.episodes is None and cold.given().get("teacher", EXPERT) == EXPERT:
        raise ConfigurationError(
            f"[cold_start] the expert plays the jigsaw only, and the environment is {env}. Set teacher to a policy "
            "that plays it, such as 'module:Class'; episodes to a folder of transcripts; or count = 0 to leave the "
            "cold start out."
        )


def _check_cold_start(settings: RunSettings) -> None:
    """Check how episodes are made, with their teachers, or that they are there."""
    given = settings.cold_start.episodes
    with naming("cold_start"):
        configs = list(cold_starts(settings).values()) if given is None else [cold_start_config(settings)]
        if given is not None:
            require(Path(given).is_dir(), "episodes", given, "a folder that `agile-gym coldstart` wrote")
            if not any(True for _ in read_headers(Path(given))):
                raise ConfigurationError(f"episodes={given!r} holds no episodes; a cold start needs some.")
        for config in configs if given is None else ():
            prepare(config)
    for config in configs:
        with naming("cold_start", *_teacher_of(config)):
            _check_teacher(config)


def _teacher_of(config: ColdStartConfig) -> tuple[str, object]:
    """Return what errors of the teacher are about: its options, if there are any, or its name, if it is unknown."""
    options, kind = config.teacher_options, config.teacher.partition(":")[0]
    known = config.is_expert or kind in POLICIES or ":" in config.teacher
    return ("teacher_options", dict(options)) if options and known else ("teacher", config.teacher)


def _check_teacher(config: ColdStartConfig) -> None:
    """Check that there is the teacher, and that it takes its options."""
    name, options = config.policy_call()
    check_policy(name, **options)
    kind, _, path = name.partition(":")
    if config.is_expert:
        make_policy(name, **options)  # which checks values, too
    elif kind in ("hf", "vllm"):
        _check_files(path)
    if kind == "vllm":
        check_vllm_model(path, installed=True)


def _check_tokens(settings: RunSettings, grpo: Any) -> None:  # noqa: ANN401 -- a GRPOConfig
    """Check that the model's context holds the prompts and looks of an episode, however short its turns are."""
    from agile_gym.models.chat import ChatFormat
    from agile_gym.models.loading import load_config
    from agile_gym.models.processors import load_processor

    options = stages.model_options(settings)
    context = getattr(load_config(options.path).get_text_config(), "max_position_embeddings", None)
    if not isinstance(context, int) or grpo.policy_class is not None:
        return
    longest: object = (grpo.engine_options or {}).get("max_model_len")
    limited = isinstance(longest, int) and longest < context
    context = longest if isinstance(longest, int) and limited else context
    chat = ChatFormat(load_processor(options.path), system=options.system)
    for task in tasks_of(settings):
        env, given = task_options(settings, task, test=False)
        env = None if env == JIGSAW else env
        plan = plan_tokens(chat, given, context=context, new_tokens=grpo.max_new_tokens, window=grpo.window, env=env)
        least = replace(plan, new_tokens=min(plan.new_tokens, plan.shortest_turn)).needed()
        if least > context:
            look = max((entry.board for entry in plan.feedback), default=0)
            raise ConfigurationError(
                f"[model] path = {options.path!r}: its context of {context:,} tokens"
                f"{' (max_model_len in [grpo] engine_options)' if limited else ''} is too short for an episode of "
                f"{plan.turns} turns: it takes {least:,} even if turns are written in {plan.shortest_turn:,}, with "
                f"{plan.opening:,} of the prompt and {look:,} of each look. Set a smaller image_size or fewer "
                "max_turns in [environment], or [grpo] window, so that only the last images stay in the context."
            )


def _check_packages(options: ModelOptions) -> None:
    """Check that what the options need is installed."""
    for needed, package, why in (
        (options.train == "lora", "peft", "train='lora'"),
        (options.attention == "flash_attention_2", "flash_attn", "attention='flash_attention_2'"),
    ):
        if needed and find_spec(package) is None:
            raise ConfigurationError(f"{why} needs the package {package!r}, which is not installed.")


def _check_files(path: str) -> None:
    """Check that a model's files are there, and those of a model that reads images."""
    from agile_gym.models.loading import load_config
    from agile_gym.models.processors import check_processor, load_processor
    from agile_gym.models.sources import check_config

    check_config(load_config(path), path)
    check_processor(load_processor(path), path)
