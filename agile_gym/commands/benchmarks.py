"""The part of ``agile-gym eval`` that plays benchmarks of questions."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agile_gym.commands import read_pairs
from agile_gym.errors import ConfigurationError

if TYPE_CHECKING:
    from agile_gym.evaluation.journal import Session
    from agile_gym.evaluation.plan import EvaluationPlan
    from agile_gym.policies.base import Policy

__all__ = ["add_benchmarks", "eval_benchmarks"]

_JIGSAW = ("env", "suite", "grid", "levels", "images")


def add_benchmarks(command: argparse.ArgumentParser) -> None:
    """Add ``--benchmark`` and ``--benchmarks`` to a command."""
    add = command.add_argument
    add(
        "--benchmark",
        nargs="+",
        default=None,
        metavar="NAME=FILE",
        help="questions instead of puzzles, such as mmvp=MMVP.tsv; see docs/benchmarks.md",
    )
    add("--benchmarks", type=Path, default=None, metavar="DIR", help="all files of benchmarks in a folder")


def eval_benchmarks(
    options: argparse.Namespace,
    make: Callable[[EvaluationPlan, int], Policy | None],
    play: Callable[[Session, Policy | None, argparse.Namespace], None],
    keep: int | None,
) -> int:
    """Play benchmarks, write a file of results for each and one of all scores, and print the tables.

    Args:
        options: The options of ``agile-gym eval``.
        make: Makes the policy of a plan.
        play: Plays the remaining questions of a session, and shows the progress.
        keep: Transcripts to be kept of each; None for the default.

    Raises:
        ConfigurationError: If a flag is of the jigsaw, or a file is not right.
    """
    from agile_gym.evaluation.benchmarks import (
        counted,
        format_benchmarks,
        is_benchmarks,
        plan_benchmark,
        score_benchmark,
        write_benchmarks,
    )
    from agile_gym.evaluation.contamination import BenchmarkOverlap, find_training_pictures
    from agile_gym.evaluation.journal import Session
    from agile_gym.evaluation.report import write_report
    from agile_gym.evaluation.run import KEEP_DEFAULT, prepare_plan
    from agile_gym.images.opening import open_images
    from agile_gym.outputs import check_replaceable
    from agile_gym.questions.judging import rule_of

    for name in _JIGSAW:
        if getattr(options, name) is not None:
            raise ConfigurationError(f"--{name.replace('_', '-')} does not go with benchmarks; leave it out.")
    if options.blank_looks or options.plots:
        raise ConfigurationError("--blank-looks and --plots do not go with benchmarks; leave them out.")
    output: Path = options.output
    check_replaceable(output, is_benchmarks, "a file of scores of agile-gym eval")
    named = _files(options)
    own: dict[str, Any] = read_pairs(options.option, "--option", "unwrap=true")
    plans = {
        key: plan_benchmark(
            key,
            file,
            options.policy,
            policy_options=read_pairs(options.policy_option, "--policy-option", "temperature=0"),
            options=own,
            limit=options.episodes,
            samples=1 if options.samples is None else options.samples,
            seed=0 if options.seed is None else options.seed,
        )
        for key, file in named.items()
    }
    overlaps: dict[str, BenchmarkOverlap] = {}
    if options.training_images is not None:  # before anything is played, as a file may be wrong
        overlaps = find_training_pictures(named, open_images(options.training_images))
    policy = make(next(iter(plans.values())), options.workers)
    prepared = {key: prepare_plan(plan) for key, plan in plans.items()}
    paths = {key: output.with_name(f"{output.stem}-{key}.json") for key in plans}
    written = [f"{output} (scores)"]
    with ExitStack() as opened:
        sessions = {
            key: opened.enter_context(
                Session(
                    mine,
                    paths[key],
                    keep=KEEP_DEFAULT if keep is None else keep,
                    resume=options.resume,
                    overwrite=options.overwrite,
                )
            )
            for key, mine in prepared.items()
        }
        for session in sessions.values():
            play(session, policy, options)
    scores = [
        score_benchmark(plans[key], session.journal.results, rule_of(key, own.get("rule")), overlaps.get(key))
        for key, session in sessions.items()
    ]
    for key, session in sessions.items():
        overlap = asdict(overlaps[key]) if key in overlaps else None
        results = counted(session.journal.results)
        write_report(paths[key], results, plan=plans[key].to_json(), photographs={}, overlap=overlap)
        written.append(f"{paths[key]} (results)")
    write_benchmarks(output, scores, options.policy)
    print(format_benchmarks(scores, options.policy))
    print(f"\nWritten: {', '.join(written)}")
    return 0


def _files(options: argparse.Namespace) -> dict[str, Path]:
    from agile_gym.questions.opening import find_benchmarks, name_files

    found = {} if options.benchmarks is None else find_benchmarks(options.benchmarks)
    return {**found, **name_files(options.benchmark or (), "--benchmark")}
