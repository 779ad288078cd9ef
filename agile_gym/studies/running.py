"""All runs of a study, as many at a time as there are jobs, each a process of its own, until the budget is spent.

They are processes and not trials of Ray Tune: a run starts and ends Ray itself and handles signals in its main thread,
and its folder is exact after a kill at any moment, while Tune's own state is that of its last snapshot.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from agile_gym.errors import ConfigurationError, one_line
from agile_gym.files import Lock, write_text
from agile_gym.interruption import StopSignals, stop_signals
from agile_gym.outputs import read_mark, write_mark
from agile_gym.studies.arm import JOBS, LOGS, Job, done_path, run_folder
from agile_gym.studies.arms import Run
from agile_gym.training.settings import RunSettings

__all__ = ["KIND", "Outcome", "StudyFolder", "run_all"]

KIND = "study"
SPENT = "spent.json"
_FIXED = ("seed", "environment", "model", "vision", "cold_start", "sft", "grpo")
"""Sections that a run is not gone on with if they change; its photographs are checked by their content."""
_POLL, _NOTE = 0.1, 2.0
"""Seconds between two looks at the processes, and between two notes of the time that is spent."""
_TAIL = 4096


class StudyFolder:
    """Folder of a study, which this process alone works in, until `close` is called.

    Attributes:
        path: The folder: ``runs``, one folder each, ``evaluations``, ``jobs``, ``logs``, ``photographs``,
            ``spent.json``, ``study.json`` and ``study.html``.
    """

    def __init__(self, path: Path) -> None:
        """Open it: a new or an empty folder, or one that holds a study.

        Raises:
            ConfigurationError: If anything else is there, or another process works in it.
        """
        self.path = path
        if path.exists() and not path.is_dir():
            raise ConfigurationError(f"{path} is not a folder. Give another --output.")
        path.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(
            path, f"Another process runs the study in {path}. Wait for it to end, or give another --output."
        )
        try:
            if not read_mark(path, KIND):
                if any(not entry.name.startswith(".") for entry in path.iterdir()):
                    raise ConfigurationError(f"{path} is not empty, and no study is there. Give a new --output.")
                write_mark(path, KIND)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other processes work in the folder."""
        self._lock.let_go()

    def check(self, jobs: Mapping[str, Job]) -> None:
        """Check that runs that have begun are those of these jobs.

        Raises:
            ConfigurationError: If one has other settings or evaluations; the message names what differs.
        """
        for name, job in jobs.items():
            if not (self.path / JOBS / f"{name}.json").exists():
                continue
            there = Job.read(self.path, name)
            old, new = (RunSettings.from_toml(one.settings, name).to_mapping() for one in (there, job))
            differ = [f"[{section}]" for section in _FIXED if old[section] != new[section]]
            differ += ["evaluations"] * (_shape(there) != _shape(job))
            differ += ["shared stages"] * ((there.base, there.last) != (job.base, job.last))
            if differ:
                raise ConfigurationError(
                    f"{self.path} holds a study whose run {name} has other {', '.join(differ)}. Give another --output, "
                    "or the study that it was begun with."
                )

    @property
    def spent(self) -> float:
        """Seconds that the study has taken."""
        try:
            return float(json.loads((self.path / SPENT).read_text("utf-8"))["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0

    def spend(self, seconds: float) -> None:
        """Note the seconds that the study has taken."""
        with write_text(self.path / SPENT) as file:
            file.write(json.dumps({"seconds": round(seconds, 1)}) + "\n")


def _shape(job: Job) -> list[Any]:
    """Return the evaluations of a job, but for paths of photographs."""
    found: list[Any] = []
    for entry in job.evaluations:
        options = {key: value for key, value in entry.options.items() if "images" not in key}
        found.append([entry.name, entry.grid, entry.levels, entry.env, entry.episodes, options])
    return found


@dataclass
class Outcome:
    """End of a call of `run_all`.

    Attributes:
        failed: Runs that failed, with the last line of their log.
        left: Runs that were not begun or not finished.
        status: Exit status of the signal that interrupted it, or None.
        spent: True if the budget is spent.
    """

    failed: dict[str, str] = field(default_factory=dict[str, str])
    left: list[str] = field(default_factory=list[str])
    status: int | None = None
    spent: bool = False


def run_all(
    folder: StudyFolder, runs: Sequence[Run], *, jobs: int, budget: float | None, show: Callable[[str], object]
) -> Outcome:
    """Do all runs that are left, or go on with them; their jobs have been written.

    Args:
        folder: The study's folder.
        runs: The runs; one comes after the one that it begins with.
        jobs: Number of processes at a time.
        budget: Seconds that the study may take in all, with earlier calls; None for no limit.
        show: Called with a line when a run begins or ends.

    Returns:
        What is left, and why.
    """
    path = folder.path
    waiting = {run.name: run for run in runs if not done_path(path, run.name).exists()}
    outcome = Outcome(left=list(waiting))
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    before, began = folder.spent, time.monotonic()
    noted = began
    (path / LOGS).mkdir(exist_ok=True)
    with (
        stop_signals() as stops,
        tqdm(total=len(runs), initial=len(runs) - len(waiting), unit="run", disable=None, file=sys.stderr) as bar,
    ):
        stops.on_end = lambda: [process.kill() for process, _ in running.values()]

        def tell(line: str) -> None:
            with tqdm.external_write_mode(sys.stderr):
                show(line)

        try:
            while waiting or running:
                stops.check()
                now = time.monotonic()
                if now - noted > _NOTE:
                    noted = now
                    folder.spend(before + now - began)
                    bar.set_postfix_str("; ".join(f"{name} {_state(path, name)}" for name in running)[:100])
                if budget is not None and before + now - began > budget:
                    outcome.spent = True
                    break
                for name, (process, since) in list(running.items()):
                    status = process.poll()
                    if status is None:
                        continue
                    _close(process)
                    del running[name]
                    if status == 0:
                        outcome.left.remove(name)
                        bar.update()
                        tell(f"{name}: done in {now - since:,.0f} s ({len(runs) - len(outcome.left)} of {len(runs)})")
                    else:
                        outcome.failed[name] = _last_line(path / LOGS / f"{name}.log") or f"exit status {status}"
                        tell(f"{name}: failed: {outcome.failed[name]}")
                for name in _ready(waiting, running, outcome)[: jobs - len(running)]:
                    del waiting[name]
                    running[name] = _start(path, name, jobs), now
                    tell(f"{name}: begun")
                if not running and not _ready(waiting, running, outcome):
                    break
                time.sleep(_POLL)
        except KeyboardInterrupt:
            if stops.received is None:
                raise
            outcome.status = stops.status
        finally:
            _end(running, stops)
            stops.on_end = None
            folder.spend(before + time.monotonic() - began)
    return outcome


def _ready(waiting: Mapping[str, Run], running: Mapping[str, object], outcome: Outcome) -> list[str]:
    """Return the runs that can begin: those whose base is done."""
    open_runs = {*waiting, *running, *outcome.failed}
    return [name for name, run in waiting.items() if run.base not in open_runs]


def _start(folder: Path, name: str, jobs: int) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    environment.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    with (folder / LOGS / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "agile_gym.studies.arm", str(folder), name],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C goes to this process alone, which ends them in order
        )


def _end(running: Mapping[str, tuple[subprocess.Popen[bytes], float]], stops: StopSignals) -> None:
    """Interrupt processes, so that they save, and wait for them."""
    for process, _ in running.values():
        process.send_signal(signal.SIGTERM)
    for process, _ in running.values():
        while process.poll() is None:
            if stops.repeated:
                process.kill()
            time.sleep(_POLL)
        _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _state(folder: Path, name: str) -> str:
    """Return the stage and the iteration that a run has reached."""
    line = _last_line(run_folder(folder, name) / "metrics.jsonl")
    try:
        record = json.loads(line)
        return f"{record['stage']} {record['iteration']}"
    except (ValueError, KeyError, TypeError):
        return "starting"


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return one_line(lines[-1], _TAIL) if lines else ""
