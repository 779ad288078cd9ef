# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray are incomplete.
"""Starts and ends Ray, so that signals that ask the run to end stay the run's."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from agile_gym.interruption import STOP_SIGNALS, StopSignals, stops_blocked

__all__ = ["start_ray", "stop_ray"]


def start_ray(resources: Mapping[str, Any], stops: StopSignals) -> None:
    """Start Ray on this machine, or connect to a cluster, unless that was done.

    Args:
        resources: The section ``resources`` of `agile_gym.training.settings.TrainSettings`.
        stops: The signals; while Ray starts on this machine they wait, so that it can be ended in order.
    """
    import ray

    if ray.is_initialized():
        stops.install()
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    local = resources["address"] is None
    stops.on_end = _kill_children
    # Blocked until the handlers are back: a signal to the whole group leaves Ray's processes to this one. Ray itself
    # blocks SIGINT in them, so that here a second Ctrl-C gets through.
    blocked = stops_blocked(number for number in STOP_SIGNALS if number != signal.SIGINT)
    with stops.hold() if local else nullcontext(), blocked, _handlers_of(stops):
        if not local:
            ray.init(address=resources["address"], **quiet)
            return
        wanted = resources["runners"] * resources["cpus_per_runner"]
        wanted += resources["learners"] * resources["cpus_per_learner"]
        ray.init(num_cpus=max(os.cpu_count() or 1, int(wanted) + 1), include_dashboard=False, **quiet)


@contextmanager
def _handlers_of(stops: StopSignals) -> Generator[None]:
    """Keep handlers: `ray.init` replaces that of SIGTERM, in Python by ``sys.exit`` and natively by a stack dump."""
    from ray._private import utils

    install = utils.set_sigterm_handler
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


def _kill_children() -> None:
    import psutil

    _kill(process.pid for process in psutil.Process().children())
