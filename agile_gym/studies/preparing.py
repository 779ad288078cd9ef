"""A study made ready: its arms and runs, checked, and what one call of ``agile-gym study`` does with them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agile_gym.errors import ConfigurationError, did_you_mean
from agile_gym.evaluation.run import prepare_plan
from agile_gym.studies.arm import Job, done_path
from agile_gym.studies.arms import (
    Arm,
    Run,
    check_arms,
    divides_photographs,
    evaluation_of,
    expand,
    fill,
    fill_evaluations,
    plan_runs,
)
from agile_gym.studies.estimate import Speed, check_budget, hours_of, measure, work_seconds
from agile_gym.studies.page import write_page
from agile_gym.studies.photographs import Photographs
from agile_gym.studies.results import Results, collect, put_together, study_json, write_json
from agile_gym.studies.spec import Evaluation, Study
from agile_gym.training import stages
from agile_gym.training.checking import check_settings, cluster_address
from agile_gym.training.settings import RunSettings

__all__ = ["Prepared", "prepare_study"]


@dataclass
class Prepared:
    """A study that was checked.

    Attributes:
        study: The study.
        arms: Its arms.
        runs: Its runs, each after the one that it begins with.
        settings: Settings of the runs, with their photographs.
        evaluations: Its evaluations, with theirs.
        jobs: Work of the processes, by run.
        processes: Number of them at a time.
        speed: Speed of the first arm, once it has been measured.
    """

    study: Study
    arms: list[Arm]
    runs: list[Run]
    settings: dict[str, RunSettings]
    evaluations: list[Evaluation]
    jobs: dict[str, Job]
    processes: int
    speed: Speed | None = None

    def left(self, folder: Path) -> list[Run]:
        """Return the runs that are not done in a study's folder."""
        return [run for run in self.runs if not done_path(folder, run.name).exists()]

    def describe(self) -> list[str]:
        """Return the lines of a plan: arms, and stages that they share."""
        study = self.study
        lines = [
            study.title,
            f"{len(self.arms)} arms, {len(study.seeds)} seeds ({', '.join(map(str, study.seeds))}), "
            f"{sum(run.arm is None for run in self.runs)} shared stages: {len(self.runs)} runs",
            "",
        ]
        for arm in self.arms:
            changes = {
                key: value
                for key, value in arm.changes["grpo"].items()
                if key not in study.settings or study.settings[key] != value
            }
            lines.append(f"  {arm.name:24} " + ("; ".join(f"{key} = {value}" for key, value in changes.items()) or "-"))
        lines += ["", "Shared"]
        for run in self.runs:
            if run.arm is None:
                after = f", after {run.base}" if run.base else ""
                lines.append(f"  {run.name:24} for {run.users} trainings, seed {run.seed}{after}")
        if all(run.arm is not None for run in self.runs):
            lines.append("  nothing: the arms differ from their first stage on")
        lines += ["", "Evaluations of every last model"]
        for entry in self.evaluations:
            what = f"{entry.grid}, levels {entry.levels}: {entry.episodes} puzzles each" if entry.grid else entry.env
            lines.append(f"  {entry.name:24} {what}" + ("" if entry.grid else f": {entry.episodes} episodes"))
        return lines

    def estimate(self) -> list[str]:
        """Return the lines on time, which is measured for the first arm; see `agile_gym.studies.estimate`."""
        seconds = self._seconds(self.runs)
        hours = hours_of(seconds, self.runs, self.processes)
        unshared = sum(self._alone(run) for run in self.runs if run.arm is not None) / 3600
        return [
            "",
            f"Time    about {_hours(hours)} with --jobs {self.processes}; {_hours(sum(seconds.values()) / 3600)} one "
            f"after the other, and {_hours(unshared)} if no stage was shared",
            "        from two small iterations with the first arm's model as it is, and processes that do not share",
            "        processors; turns of a trained model are often shorter, and then this is too much",
        ]

    def check_budget(self, left: Sequence[Run], spent: float) -> None:
        """Check that the budget is not far too small for the runs that are left.

        Args:
            left: The runs.
            spent: Seconds that were spent before.

        Raises:
            ConfigurationError: If it is.
        """
        seconds = self._seconds(left)
        budget = self.study.budget_hours
        rest = None if budget is None else budget - spent / 3600
        check_budget(self.study, rest, hours_of(seconds, left, self.processes), max(seconds.values()) / 3600)

    def _seconds(self, runs: Sequence[Run]) -> dict[str, float]:
        speed = self._speed()
        return {run.name: work_seconds(run, self.settings[run.name], self.evaluations, speed) for run in runs}

    def _alone(self, run: Run) -> float:
        alone = Run(run.name, run.settings, run.seed, run.arm)
        return work_seconds(alone, self.settings[run.name], self.evaluations, self._speed())

    def _speed(self) -> Speed:
        if self.speed is None:
            self.speed = measure(self.settings[next(run.name for run in self.runs if run.arm is not None)])
        return self.speed

    def write(self, folder: Path, missing: Sequence[str]) -> tuple[Path, list[Results]]:
        """Write ``study.json`` and ``study.html`` of what is done.

        Args:
            folder: The study's folder.
            missing: Runs that are not done.

        Returns:
            The page, and the results.

        Raises:
            ConfigurationError: If a file of results is damaged, or arms have played different puzzles.
        """
        results = put_together(self.study, self.arms, collect(folder, self.study, self.runs))
        write_json(folder / "study.json", study_json(self.study, self.arms, results, missing))
        page = folder / "study.html"
        write_page(page, self.study, self.arms, self.runs, results, missing)
        return page, results


def prepare_study(
    study: Study,
    folder: Path,
    images: str | None,
    test_images: str | None,
    jobs: int | None,
    only: Sequence[str] | None = None,
    *,
    elsewhere: bool = False,
) -> Prepared:
    """Check a study, before anything takes long.

    Args:
        study: The study.
        folder: Folder for parts of the photographs.
        images: Photographs to train on; None for the built-in ones.
        test_images: Photographs to test on; None for a split of the others.
        jobs: Processes at a time; None for one a processor, or one if they use GPUs.
        only: Names of the arms to be run, with the stages that they share with others; None for all.
        elsewhere: True if it is run on another machine, so that GPUs and packages of this one do not matter.

    Raises:
        ConfigurationError: If there are no arms, two are alike, or a setting, a factor or an evaluation is not allowed.
        ImageError: If there are no photographs.
        MissingDependencyError: If a package is missing.
    """
    arms = expand(study)
    check_arms(study, arms)
    photographs = Photographs(folder, images, test_images, divided=divides_photographs(study))
    runs = plan_runs(study, arms)
    if only is not None:
        arms, runs = _choose(arms, runs, only)
    settings = {run.name: fill(run.settings, photographs) for run in runs}
    evaluations = fill_evaluations(study, photographs)
    tested: dict[str, object] = {}
    for arm in arms:
        run = next(run for run in runs if run.arm == arm.name)
        try:
            check_settings(settings[run.name], elsewhere=elsewhere)
            for entry in evaluations:
                model = stages.model_options(settings[run.name]).path
                there = prepare_plan(evaluation_of(entry, settings[run.name], model)).photographs()
                if tested.setdefault(entry.name, there) != there:
                    raise ConfigurationError(
                        f"the evaluation {entry.name!r} would have other photographs than those of the arm "
                        f"{arms[0].name!r}. Set [images] test for all arms."
                    )
        except ConfigurationError as error:
            raise type(error)(f"arm {arm.name!r}: {error}") from error
    work = {
        run.name: Job(settings[run.name].to_toml(), run.base, run.last, () if run.arm is None else tuple(evaluations))
        for run in runs
    }
    processes = _processes(list(settings.values()), jobs)
    return Prepared(study, arms, runs, settings, evaluations, work, processes)


def _choose(arms: Sequence[Arm], runs: Sequence[Run], only: Sequence[str]) -> tuple[list[Arm], list[Run]]:
    """Return some of the arms, their runs, and the runs that these begin with."""
    names = [arm.name for arm in arms]
    for name in only:
        if name not in names:
            raise ConfigurationError(f"--arms: there is no arm {name!r}. {did_you_mean(name, names)}")
    needed = {run.name for run in runs if run.arm in only}
    for run in reversed(runs):  # each comes after the one that it begins with
        if run.name in needed and run.base is not None:
            needed.add(run.base)
    return [arm for arm in arms if arm.name in only], [run for run in runs if run.name in needed]


def _processes(settings: Sequence[RunSettings], jobs: int | None) -> int:
    on_gpus = any(one.resources.gpus_per_learner and cluster_address(one) is None for one in settings)
    if on_gpus and (jobs or 1) > 1:
        raise ConfigurationError(
            f"--jobs {jobs}: trainings on this machine's GPUs would not see each other. Leave --jobs out, or start a "
            "Ray cluster and set resources.address = 'auto'."
        )
    return jobs or (1 if on_gpus else min(len(settings), os.cpu_count() or 1))


def _hours(hours: float) -> str:
    return f"{60 * hours:.0f} minutes" if hours < 2 else f"{hours:.1f} hours"
