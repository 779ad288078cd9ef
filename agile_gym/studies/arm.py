"""One run of a study in a process of its own: ``python -m agile_gym.studies.arm FOLDER NAME``.

It ends with its parent, whatever ends that: its standard input is a pipe that then closes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agile_gym.errors import AgileGymError, ConfigurationError, explain_os_error, one_line
from agile_gym.evaluation.journal import Session
from agile_gym.evaluation.report import write_report
from agile_gym.evaluation.run import prepare_plan
from agile_gym.files import Lock, write_text
from agile_gym.interruption import stop_signals
from agile_gym.outputs import write_mark
from agile_gym.policies.base import make_policy
from agile_gym.reporting.runlog import read_records
from agile_gym.studies.arms import evaluation_of
from agile_gym.studies.spec import Evaluation
from agile_gym.training import stages
from agile_gym.training.folder import KIND, SETTINGS, STATE
from agile_gym.training.pipeline import Interrupted, TrainingRun
from agile_gym.training.settings import RunSettings, read_settings

__all__ = ["Job", "done_path", "evaluation_path", "final_model", "main", "run_folder"]

JOBS, RUNS, EVALUATIONS, LOGS = "jobs", "runs", "evaluations", "logs"
"""Folders of a study."""
_STAGES = {"vision": ("vision",), "cold_start": ("vision", "cold-start", "replay", "sft")}
"""Stages of the pipeline up to the last one that a run takes from another."""
_EVALUATED, _RECORDS = "coldstart", "metrics.jsonl"
_WAIT = 60.0
"""Seconds that the process of a killed parent may take to end."""
_KEPT = 4
"""Transcripts that are kept of each level."""


@dataclass(frozen=True)
class Job:
    """Work of one process.

    Attributes:
        settings: Settings of the run, in TOML.
        base: The run whose stages it begins with, or None.
        last: The last stage that it takes from there: ``"vision"`` or ``"cold_start"``.
        evaluations: Evaluations that its last model plays.
    """

    settings: str
    base: str | None
    last: str | None
    evaluations: tuple[Evaluation, ...]

    def write(self, folder: Path, name: str) -> None:
        """Write it into a study's folder, by the run's name."""
        path = folder / JOBS / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_text(path) as file:
            file.write(json.dumps(asdict(self), default=str) + "\n")

    @classmethod
    def read(cls, folder: Path, name: str) -> Job:
        """Read it from a study's folder."""
        values: dict[str, Any] = json.loads((folder / JOBS / f"{name}.json").read_text("utf-8"))
        evaluations = tuple(Evaluation(**entry) for entry in values["evaluations"])
        return cls(values["settings"], values["base"], values["last"], evaluations)


def run_folder(folder: Path, name: str) -> Path:
    """Return the folder of a run."""
    return folder / RUNS / name


def done_path(folder: Path, name: str) -> Path:
    """Return the file that is there once a run is done, with its evaluations."""
    return folder / JOBS / f"{name}.done"


def evaluation_path(folder: Path, name: str, place: int) -> Path:
    """Return the file of results of an evaluation.

    Args:
        folder: The study's folder.
        name: Name of the run.
        place: Number of the evaluation, from 0.
    """
    return folder / EVALUATIONS / name / f"{place + 1}.json"


def final_model(run: Path, settings: RunSettings) -> str:
    """Return the model that a run ends with: its folder, or the one that it began with."""
    done = {
        "grpo": bool(settings.grpo.iterations),
        "sft": settings.has_cold_start,
        "vision": stages.has_vision_pretraining(settings),
    }
    for stage, is_done in done.items():
        if is_done:
            return str(run / stage / "model")
    return stages.model_options(settings).path


def _begin(folder: Path, name: str, job: Job, settings: RunSettings) -> None:
    """Begin a run with the stages of another one, unless it has begun."""
    target = run_folder(folder, name)
    if job.base is None or target.exists():
        return
    base = run_folder(folder, job.base)
    beside = target.with_name(f".{name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    there = json.loads((base / STATE).read_text("utf-8"))["done"]
    done = [stage for stage in _STAGES[str(job.last)] if stage in there]
    for stage in done:
        _link_tree(base / stage, beside / stage)
    theirs = read_settings(base / SETTINGS)
    evaluated = f"evaluate-{_EVALUATED}"
    if job.last == "cold_start" and evaluated in there and _same_evaluation(theirs, settings):
        (beside / "evaluation").mkdir()
        for path in (base / "evaluation").glob(f"{_EVALUATED}*"):
            (_link_tree if path.is_dir() else _link)(path, beside / "evaluation" / path.name)
        done.append(evaluated)
    kept = [record for record in read_records(base / _RECORDS) if record["stage"] in done]
    with write_text(beside / _RECORDS) as file:
        file.writelines(json.dumps(record) + "\n" for record in kept)
    with write_text(beside / STATE) as file:
        file.write(json.dumps({"done": done}))
    with write_text(beside / SETTINGS) as file:
        file.write(settings.to_toml())
    write_mark(beside, KIND)
    beside.rename(target)


def _same_evaluation(first: RunSettings, second: RunSettings) -> bool:
    plans = [(stages.evaluation_plan(one, "model").to_json(), one.evaluation.blank_looks) for one in (first, second)]
    return plans[0] == plans[1]


def _link_tree(source: Path, target: Path) -> None:
    """Copy a finished stage without its checkpoint; its files are never changed, so that they can be links."""
    ignored = shutil.ignore_patterns("checkpoint*", ".*")
    shutil.copytree(source, target, ignore=ignored, copy_function=_link)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _evaluate(folder: Path, name: str, job: Job, settings: RunSettings) -> None:
    """Play the study's evaluations with the run's last model, those that are left."""
    model = final_model(run_folder(folder, name), settings)
    for place, entry in enumerate(job.evaluations):
        output = evaluation_path(folder, name, place)
        if output.exists():
            continue
        output.parent.mkdir(parents=True, exist_ok=True)
        plan = evaluation_of(entry, settings, model)
        prepared = prepare_plan(plan)
        workers = settings.evaluation.workers
        policy = make_policy(plan.policy, **plan.policy_options) if workers == 1 else None
        there = output.with_suffix(".jsonl").exists()
        with stop_signals() as stops, Session(prepared, output, keep=_KEPT, resume=there) as session:
            for _ in session.play(policy, batch=settings.evaluation.batch, workers=workers):
                stops.check()
            results = session.journal.results
        write_report(output, results, plan=plan.to_json(), photographs=prepared.photographs())
        solved = sum(result.solved for result in results)
        print(f"{entry.name}: Acc {100 * solved / len(results):.1f}% on {len(results)}", flush=True)


def _await_lock(folder: Path) -> None:
    """Wait until no other process trains in a folder: that of a killed parent takes a moment to end."""
    until = time.monotonic() + _WAIT
    while folder.is_dir():
        try:
            Lock(folder, f"Another process is training in {folder}. Wait for it to end.").let_go()
            return
        except ConfigurationError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _run(folder: Path, name: str) -> None:
    job = Job.read(folder, name)
    settings = RunSettings.from_toml(job.settings, name)
    place = run_folder(folder, name)
    _await_lock(place)
    _begin(folder, name, job, settings)
    TrainingRun(settings, place, resume=(place / SETTINGS).exists()).run()
    _evaluate(folder, name, job, settings)
    done_path(folder, name).touch()


def _end_with_parent() -> None:
    """End this process and its children when the parent's end of the pipe closes."""
    os.set_inheritable(0, False)
    while os.read(0, 1024):
        pass
    from agile_gym.training.checking import kill_children

    try:
        kill_children()
    finally:
        os._exit(1)


def main(arguments: Iterable[str]) -> int:
    """Do a run of a study, or go on with it.

    Args:
        arguments: Folder of the study, and name of the run.

    Returns:
        The exit status: 0 if it is done, 1 for an error, or that of an interruption.
    """
    folder, name = arguments
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with stop_signals(end=True) as stops:
        try:
            _run(Path(folder), name)
            return 0
        except Interrupted as interruption:
            return interruption.status
        except KeyboardInterrupt:
            return stops.status
        except (AgileGymError, OSError) as error:
            if stops.received is not None:
                return stops.status
            text = explain_os_error(error) if isinstance(error, OSError) else str(error)
            print(f"agile-gym: {one_line(text)}", file=sys.stderr, flush=True)
            return 1
        except Exception:
            if stops.received is None:
                raise
            return stops.status


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    sys.exit(main(sys.argv[1:]))
