"""``agile-gym study``: many trainings that differ in named factors, and a page on the differences."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agile_gym.commands import find_modules_here, read_pairs
from agile_gym.errors import ConfigurationError, import_optional

if TYPE_CHECKING:
    from agile_gym.studies.spec import Study

__all__ = ["add_study_command"]


def add_study_command(commands: Any) -> None:  # noqa: ANN401 -- argparse names no type for it
    """Add the command.

    Args:
        commands: Result of ``ArgumentParser.add_subparsers``.
    """
    command: argparse.ArgumentParser = commands.add_parser(
        "study",
        help="train many models that differ in named factors, and write a page on the differences",
        description="Trains all arms of a study, stages that they share once, and compares them. Interrupted or "
        "killed, the same command goes on.",
    )
    add = command.add_argument
    add("study", nargs="?", metavar="STUDY", help="a study of this package (--list), or a TOML file")
    add("--size", default="tiny", help="tiny or paper, of a study of this package (default: %(default)s)")
    add("--list", dest="listed", action="store_true", help="list the studies of this package, and exit")
    add("--print", dest="shown", action="store_true", help="print the file of a study, and exit")
    add("--images", help="photographs to train on (default: the built-in ones)")
    add("--test-images", help="photographs to test on (default: a split of the others)")
    add("--output", type=Path, default=None, metavar="DIR", help="folder of the study (default: study-NAME)")
    add("--jobs", type=int, default=None, help="trainings at the same time (default: one a processor, or 1 with GPUs)")
    add("--arms", nargs="+", default=None, metavar="ARM", help="arms to train, by name (default: all)")
    add("--seeds", type=int, nargs="+", default=None, help="seeds of each arm (default: the study's)")
    add("--budget-hours", type=float, default=None, help="most hours that it may take (default: the study's)")
    add("--set", dest="changes", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change all arms")
    add("--dry-run", action="store_true", help="print the arms, what they share and the estimated time, and exit")
    command.set_defaults(run=_study)


def _study(options: argparse.Namespace) -> int:
    from agile_gym.studies.spec import SIZES, builtin_names, builtin_text, read_study

    if options.listed:
        for name in builtin_names():
            for size in SIZES:
                print(f"{name:12} {size:6} {read_study(name, size).title}")
        return 0
    if options.study is None:
        raise ConfigurationError(f"Give a study: {', '.join(builtin_names())}, or a TOML file.")
    if options.shown:
        name: str = options.study
        print(Path(name).read_text("utf-8") if name.endswith(".toml") else builtin_text(name, options.size), end="")
        return 0
    for package in ("ray", "pydantic"):
        import_optional(package, extra="train", purpose="run a study")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait leave the processor to others
    find_modules_here()
    study = _changed(read_study(options.study, options.size), options)
    output: Path = options.output or Path(f"study-{study.name}")
    if options.dry_run:
        with tempfile.TemporaryDirectory() as scratch:
            return _plan(study, options, Path(scratch))
    return _run(study, options, output)


def _changed(study: Study, options: argparse.Namespace) -> Study:
    """Return the study with the changes of the command line."""
    from dataclasses import replace

    from agile_gym.errors import is_number, require, require_seed
    from agile_gym.studies.spec import no_duplicates

    changes = read_pairs(options.changes, "--set", "grpo.iterations=20")
    factors = {key: factor.name for factor in study.factors for value in factor.values.values() for key in value}
    for key in changes:
        if key in factors:
            raise ConfigurationError(f"--set {key} is what the factor {factors[key]} changes; leave it out.")
    if options.seeds is not None:
        no_duplicates("seed", map(str, options.seeds))
    seeds = study.seeds if options.seeds is None else tuple(require_seed(seed) for seed in options.seeds)
    budget = study.budget_hours if options.budget_hours is None else options.budget_hours
    require(budget is None or is_number(budget, 1e-6, 1e6), "--budget-hours", budget, "a number of hours above 0")
    require(options.jobs is None or 1 <= options.jobs <= 1000, "--jobs", options.jobs, "a number from 1 to 1,000")
    return replace(study, settings={**study.settings, **changes}, seeds=seeds, budget_hours=budget)


def _prepare(study: Study, options: argparse.Namespace, folder: Path) -> Any:  # noqa: ANN401 -- a Prepared
    from agile_gym.studies.preparing import prepare_study

    return prepare_study(
        study, folder, options.images, options.test_images, options.jobs, options.arms, elsewhere=options.dry_run
    )


def _plan(study: Study, options: argparse.Namespace, scratch: Path) -> int:
    prepared = _prepare(study, options, scratch)
    print("\n".join(prepared.describe()))
    print("\n".join(prepared.estimate()))
    return 0


def _run(study: Study, options: argparse.Namespace, output: Path) -> int:
    from agile_gym.outputs import check_output
    from agile_gym.studies.running import StudyFolder, run_all

    check_output(output, options.images)
    folder = StudyFolder(output)
    try:
        prepared = _prepare(study, options, output / "photographs")
        folder.check(prepared.jobs)
        left = prepared.left(output)
        if study.budget_hours is not None and left:
            prepared.check_budget(left, folder.spent)
        for name, job in prepared.jobs.items():
            job.write(output, name)
        print(f"{len(prepared.arms)} arms, {len(study.seeds)} seeds: {len(prepared.runs)} runs, {len(left)} left")
        budget = None if study.budget_hours is None else 3600 * study.budget_hours
        outcome = run_all(folder, prepared.runs, jobs=prepared.processes, budget=budget, show=_show)
        if outcome.status is not None:
            print("\nSaved. The same command goes on.", file=sys.stderr)
            return outcome.status
        page, results = prepared.write(output, outcome.left)
    finally:
        folder.close()
    for one in results:
        for finding in one.findings:
            print(finding.text)
    print(f"\nWritten: {page} (page), {output / 'study.json'} (figures)")
    for name, why in outcome.failed.items():
        print(f"agile-gym: {name} failed: {why} See {output / 'logs' / name}.log.", file=sys.stderr)
    if outcome.spent:
        print("agile-gym: the budget is spent; the same command with more --budget-hours goes on.", file=sys.stderr)
    return 1 if outcome.left else 0


def _show(line: str) -> None:
    print(line, flush=True)
