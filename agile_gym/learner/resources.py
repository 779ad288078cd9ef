# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray are incomplete.
"""Resources that a configuration needs of a cluster, and their check: Ray itself would wait for them in silence."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import ray
import torch

from agile_gym.errors import ConfigurationError

__all__ = [
    "ActorNeeds",
    "actor_needs",
    "check_cluster",
    "check_fits",
    "check_sharding",
    "free_places",
    "places_for_learners",
]

_TOLERANCE = 1e-6
_HALF = 0.5
_places: ContextVar[list[Any]] = ContextVar("places")
"""Actors that take the learners' places on GPUs until `free_places`."""


@dataclass(frozen=True)
class ActorNeeds:
    """Resources of some equal processes.

    Attributes:
        kind: Their name in messages.
        count: Their number.
        cpus: CPUs of each.
        gpus: GPUs of each.
        setting: Call that sets the number of CPUs of each, with a field for it.
    """

    kind: str
    count: int
    cpus: float
    gpus: float
    setting: str


def actor_needs(config: Any) -> list[ActorNeeds]:  # noqa: ANN401 -- an AlgorithmConfig
    """Return the resources of a configuration's processes; those that run in the driver need nothing."""
    per_learner = config.num_cpus_per_learner
    if per_learner == "auto":
        per_learner = 1 if config.num_gpus_per_learner == 0 else 0
    runners = (
        config.num_cpus_per_env_runner,
        config.num_gpus_per_env_runner,
        "env_runners(num_cpus_per_env_runner={:g})",
    )
    needs = [
        ActorNeeds("runner", config.num_env_runners or 0, *runners),
        ActorNeeds("evaluation runner", config.evaluation_num_env_runners or 0, *runners),
        ActorNeeds(
            "learner",
            config.num_learners or 0,
            per_learner,
            config.num_gpus_per_learner or 0,
            "learners(num_cpus_per_learner={:g})",
        ),
    ]
    return [need for need in needs if need.count]


def check_fits(
    needs: Sequence[ActorNeeds],
    nodes: Sequence[Mapping[str, float]],
    *,
    gpu_settings: str = "num_gpus_per_env_runner and num_gpus_per_learner",
    more: str = "or start Ray with more, such as ray.init(num_cpus={})",
    growing: str = "training(check_resources=False)",
) -> None:
    """Check that a cluster can hold processes.

    Args:
        needs: The processes.
        nodes: Resources of each machine, as Ray names them.
        gpu_settings: Settings of the number of GPUs, for the error.
        more: Advice for more CPUs, with a field for their number.
        growing: Setting to change if the cluster grows on demand.

    Raises:
        ConfigurationError: If there are too few CPUs or GPUs, or a process needs more than any machine has.
    """
    for name, attribute in (("CPU", "cpus"), ("GPU", "gpus")):
        have = sum(node.get(name, 0.0) for node in nodes)
        largest = max((node.get(name, 0.0) for node in nodes), default=0.0)
        wanted = [(need, float(getattr(need, attribute))) for need in needs]
        total = sum(need.count * each for need, each in wanted)
        told = ", ".join(
            f"{need.count} {need.kind}{'s' if need.count > 1 else ''} with {each:g}" for need, each in wanted if each
        )
        if total > have + _TOLERANCE:
            if name == "CPU":
                share = have / sum(need.count for need in needs)
                calls = dict.fromkeys(need.setting.format(_below(share)) for need in needs if need.cpus)
                hint = (
                    f"Use fewer processes, give each a part of a CPU, such as with {' and '.join(calls)}, "
                    f"{more.format(math.ceil(total))}."
                )
            else:
                hint = f"Use fewer processes, give each a part of a GPU ({gpu_settings}), or none: 0."
            raise ConfigurationError(
                f"This needs {total:g} {name}s ({told}), and Ray has {have:g}. {hint} If the cluster grows on demand, "
                f"set {growing}."
            )
        for need, each in wanted:
            if each > largest + _TOLERANCE:
                raise ConfigurationError(
                    f"Each {need.kind} needs {each:g} {name}s, and no machine has more than {largest:g}."
                )


def check_cluster(config: Any) -> None:  # noqa: ANN401 -- an AlgorithmConfig
    """Check that the cluster can hold the processes of a configuration.

    Raises:
        ConfigurationError: If it cannot.
    """
    if config.num_gpus_per_learner and not config.num_learners and not torch.cuda.is_available():
        raise ConfigurationError(
            f"num_gpus_per_learner={config.num_gpus_per_learner:g} with num_learners=0: the learner runs in this "
            "process, where torch finds no GPU. Set num_gpus_per_learner=0, or num_learners=1 to send it to a machine "
            "with a GPU."
        )
    needs = actor_needs(config)
    if not needs:
        return
    if not ray.is_initialized():
        ray.init()
    check_fits(needs, [node["Resources"] for node in ray.nodes() if node["Alive"]])


def check_sharding(config: Any) -> None:  # noqa: ANN401 -- an AlgorithmConfig
    """Check that learners do not share GPUs, and that there are sharded ones if anything is to be offloaded.

    Raises:
        ConfigurationError: If not.
    """
    gpus = config.num_gpus_per_learner
    if (config.num_learners or 0) > 1 and 0 < gpus <= _HALF:
        raise ConfigurationError(
            f"num_gpus_per_learner={gpus:g} with {config.num_learners} learners: Ray may give two of them one GPU, "
            "where they cannot exchange gradients. Set more than 0.5, such as 0.6 beside runners of 0.4."
        )
    sharded = config.sharding == "full"
    if config.cpu_offload and not sharded:
        raise ConfigurationError("cpu_offload=True with sharding='none' offloads nothing; set sharding='full'.")
    if config.cpu_offload and not config.num_learners:
        raise ConfigurationError(
            "cpu_offload=True with num_learners=0: a learner in this process is not sharded, and offloads nothing. Set "
            "num_learners=1 or more, or cpu_offload=False."
        )


class _Place:
    """Actor that does nothing."""

    def ready(self) -> None:
        """Return once it is there."""


@contextmanager
def places_for_learners(config: Any) -> Generator[None]:  # noqa: ANN401 -- an AlgorithmConfig
    """Take a place on a GPU for each learner while runners start, if they are to share GPUs.

    Runners start first, and Ray puts as many of them on a GPU as it holds, so that learners, which need more than half
    of one, would find too few. With their places taken, a runner is put beside each.

    Args:
        config: The configuration.
    """
    gpus, count = config.num_gpus_per_learner, config.num_learners or 0
    places: list[Any] = []
    if count and _HALF < gpus < 1 and config.num_env_runners and 0 < config.num_gpus_per_env_runner < 1:
        place = ray.remote(num_cpus=0, num_gpus=gpus)(_Place)
        places += [place.remote() for _ in range(count)]
        ray.get([each.ready.remote() for each in places])
    token = _places.set(places)
    try:
        yield
    finally:
        free_places()
        _places.reset(token)


def free_places() -> None:
    """Give back the places that `places_for_learners` has taken, as learners are about to start."""
    places = _places.get([])
    while places:
        ray.kill(places.pop())


def _below(share: float) -> float:
    """Return a number that is not above a fraction, with two digits."""
    return max(0.01, int(share * 100) / 100)
