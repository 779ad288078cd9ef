"""The commands ``agile-gym eval`` and ``agile-gym compare``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agile_gym.commands import add_env, env_of, find_modules_here, read_pairs
from agile_gym.commands.benchmarks import add_benchmarks, eval_benchmarks
from agile_gym.errors import ConfigurationError

if TYPE_CHECKING:
    from agile_gym.evaluation.journal import Session
    from agile_gym.evaluation.plan import EvaluationPlan
    from agile_gym.images.sources import ImageSource
    from agile_gym.policies.base import Policy

__all__ = ["add_compare_command", "add_eval_command"]

Subparsers = Any
"""Type of the result of `argparse.ArgumentParser.add_subparsers`, which argparse does not name."""


def add_eval_command(commands: Subparsers) -> None:
    """Add ``eval`` to the subcommands of a parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "eval", help="play many puzzles and print Acc and Score beside the paper's"
    )
    add = command.add_argument
    players = "edge, random, hf:PATH, vllm:PATH, api:MODEL or module:attribute"
    add("--policy", default="edge", help=f"{players} (default: %(default)s)")
    add("--policy-option", action="append", default=[], metavar="KEY=VALUE", help="option of the policy")
    add_env(command)
    add_benchmarks(command)
    add("--suite", default=None, help="paper, quick, large, or a TOML file (default: paper)")
    add("--grid", nargs="+", default=None, help="grids instead of a suite, such as 2 3 2x4")
    add("--levels", nargs="+", default=None, help="all, or numbers such as 0 1 2 (default: all)")
    add("--episodes", type=int, default=None, help="puzzles a level (default: those of the suite, or 300)")
    add("--samples", type=int, default=None, help="times that each puzzle is played, for pass@k (default: 1)")
    add("--seed", type=int, default=None, help="seed of the puzzles (default: that of the suite, or 0)")
    add("--images", default=None, help="folder, file, or hf:NAME[:SPLIT[:COLUMN]] (default: built-in photographs)")
    add("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the environment")
    add("--batch", type=int, default=8, help="episodes played in one batch (default: %(default)s)")
    add("--workers", type=int, default=1, help="processes that play, each with its own policy (default: %(default)s)")
    add("--output", type=Path, default=Path("agile-eval.json"), help="JSON file (default: %(default)s)")
    add("--keep", default=None, help="transcripts kept a level: a number, all or none (default: 10, or all of a model)")
    add("--blank-looks", action="store_true", help="also play every puzzle with its looks blanked, and compare")
    add("--resume", action="store_true", help="go on with an evaluation that was interrupted")
    add("--overwrite", action="store_true", help="begin anew even if the output holds puzzles")
    add("--interval", default="puzzle", help="unit of the intervals: puzzle or photograph (default: %(default)s)")
    add("--training-images", default=None, metavar="IMAGES", help="report photographs or pictures that are among these")
    add("--plots", action="store_true", help="also draw Acc and Score by level, beside the output")
    command.set_defaults(run=_eval)


def add_compare_command(commands: Subparsers) -> None:
    """Add ``compare`` to the subcommands of a parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "compare", help="compare two evaluations of the same puzzles, pair by pair"
    )
    command.add_argument("first", type=Path, help="JSON file of an evaluation")
    command.add_argument("second", type=Path, help="JSON file of another one")
    command.add_argument("--output", type=Path, default=None, help="also write the figures to this JSON file")
    command.set_defaults(run=_compare)


def _eval(options: argparse.Namespace) -> int:
    from agile_gym.evaluation.behaviours import format_behaviours
    from agile_gym.evaluation.compare import compare_blanked, format_looks
    from agile_gym.evaluation.contamination import find_overlap
    from agile_gym.evaluation.journal import Session, blanked_path
    from agile_gym.evaluation.report import format_cost, format_tables, is_report, write_report
    from agile_gym.evaluation.run import prepare_plan
    from agile_gym.files import replacing
    from agile_gym.outputs import GENERATOR, check_output, check_replaceable, is_generated

    output: Path = options.output
    _check_numbers(options)
    _check_output(output)
    if options.benchmark is not None or options.benchmarks is not None:
        return eval_benchmarks(options, _policy, _play, _keep(options.keep))
    format_tables({}, "", interval=options.interval)
    if options.plots:
        from agile_gym.reporting.charts import require_matplotlib

        require_matplotlib()
        check_replaceable(output.with_suffix(".png"), is_generated, "a picture of agile-gym eval")
    plan = _plan(options)
    if options.plots:
        check_output(output.with_suffix(".png"), plan.images, "The picture of --plots:")
    policy = _policy(plan, options.workers)
    prepared = prepare_plan(plan)
    if options.training_images is not None and prepared.source is None:
        raise ConfigurationError(f"--training-images compares photographs of the jigsaw; leave it out with {plan.env}.")
    training = _training_images(options.training_images)
    keep, photographs = _keep(options.keep), prepared.photographs()
    files = {output: prepared}
    if options.blank_looks:
        check_replaceable(blanked_path(output), is_report, "a file of results of agile-gym eval")
        files[blanked_path(output)] = replace(prepared, plan=replace(plan, blank_looks=True))
    with ExitStack() as opened:  # all of them before anything is played
        sessions = [
            opened.enter_context(Session(mine, path, keep=keep, resume=options.resume, overwrite=options.overwrite))
            for path, mine in files.items()
        ]
        for session in sessions:
            _play(session, policy, options)
    results, *blanked = (session.journal.results for session in sessions)
    overlap = None if training is None or prepared.source is None else find_overlap(prepared.source, training, results)
    blank_looks = compare_blanked(results, blanked[0]) if blanked else None
    if blanked:
        plan_blanked = sessions[1].plan.to_json()
        write_report(blanked_path(output), blanked[0], plan=plan_blanked, photographs=photographs)
    summary, cost = write_report(  # before anything is printed: a reader may close the pipe early
        output,
        results,
        plan=plan.to_json(),
        photographs=photographs,
        overlap=None if overlap is None else overlap.to_json(),
        blank_looks=blank_looks,
    )
    written: list[str] = []
    for path, session in zip(files, sessions, strict=True):
        written += [f"{path} (results)", f"{path.with_suffix('.jsonl')} (every puzzle)"]
        if session.transcripts.exists():
            written.append(f"{session.transcripts} (transcripts)")
    if options.plots:
        from agile_gym.reporting.curves import plot_summary

        picture = output.with_suffix(".png")
        figure = plot_summary(summary, plan.policy, interval=options.interval)
        with replacing(picture) as beside:
            figure.savefig(beside, format="png", metadata={"Source": GENERATOR})
        written.append(f"{picture} (picture)")
    print(format_tables(summary, plan.policy, interval=options.interval))
    looks = format_looks(summary, blank_looks)
    for table in (looks, format_behaviours(summary)):
        if table:  # not so where all episodes are of an older version
            print(f"\n{table}")
    if overlap is not None:
        print(f"\nTraining images\n{overlap.text()}")
    print(f"\n{format_cost(cost)}")
    print(f"\nWritten: {', '.join(written)}")
    return 0


def _play(session: Session, policy: Policy | None, options: argparse.Namespace) -> None:
    """Play the remaining puzzles, and show the progress."""
    from tqdm import tqdm

    from agile_gym.commands import warnings_above
    from agile_gym.evaluation.metrics import column_name
    from agile_gym.interruption import stop_signals

    journal = session.journal
    if journal.unread:
        lines = f"{journal.unread:,} line" + "s" * (journal.unread > 1)
        print(f"agile-gym: {lines} of {journal.path} cannot be read; played again.", file=sys.stderr)
    solved = sum(result.solved for result in journal.results)
    try:
        unit = "blanked puzzle" if session.plan.blank_looks else "puzzle"
        with tqdm(total=len(session.plan), initial=len(journal.results), unit=unit, file=sys.stderr) as bar:

            def write(sentence: str) -> None:
                bar.write(f"agile-gym: {sentence}", file=sys.stderr)

            def show(where: str = "") -> None:
                bar.set_postfix_str(f"{where}Acc {100 * solved / len(journal.results):.1f}%", False)

            if journal.results:
                show()
            with warnings_above(write), stop_signals() as stops:
                for result in session.play(policy, batch=options.batch, workers=options.workers, on_lost=write):
                    solved += result.solved
                    show(f"{result.grid} {column_name(result.level, result.label)} ".replace("  ", " "))
                    bar.update()
                    stops.check()
    except BaseException:
        if journal.results:
            print(f"\n{len(journal.results)} puzzles are kept; add --resume to go on.", file=sys.stderr)
        raise


def _check_numbers(options: argparse.Namespace) -> None:
    from agile_gym.evaluation.workers import MAX_WORKERS

    if options.batch < 1:
        raise ConfigurationError(f"--batch {options.batch} is not allowed; give at least 1.")
    if not 1 <= options.workers <= MAX_WORKERS:
        raise ConfigurationError(f"--workers {options.workers} is not allowed; give 1 to {MAX_WORKERS}.")


def _check_output(output: Path) -> None:
    if output.suffix != ".json" or output.is_dir():
        raise ConfigurationError(f"--output {output} is not allowed; give the name of a file that ends in .json.")


def _plan(options: argparse.Namespace) -> EvaluationPlan:
    """Put the plan together: a suite, or another environment than the jigsaw, and the flags given besides."""
    from agile_gym.evaluation.plan import (
        DEFAULT_EPISODES,
        EnvironmentEntry,
        EvaluationPlan,
        choose_entries,
        restrict_levels,
    )
    from agile_gym.evaluation.suite import load_suite

    env = env_of(options, {"suite": "--suite", "grid": "--grid", "levels": "--levels"})
    if env is not None:
        return EvaluationPlan(
            policy=options.policy,
            entries=[EnvironmentEntry(env, DEFAULT_EPISODES if options.episodes is None else options.episodes)],
            samples=1 if options.samples is None else options.samples,
            seed=0 if options.seed is None else options.seed,
            images=options.images,
            options=read_pairs(options.option, "--option", "size=64"),
            policy_options=read_pairs(options.policy_option, "--policy-option", "temperature=0.7"),
        )
    if options.suite is not None and options.grid is not None:
        raise ConfigurationError("--suite and --grid exclude each other: a suite names its grids. Leave one out.")
    levels = _levels(options.levels)
    suite = load_suite(options.suite or "paper")
    entries = suite.entries
    if options.grid is not None:
        entries = choose_entries(
            options.grid, levels, DEFAULT_EPISODES if options.episodes is None else options.episodes
        )
    else:
        if levels is not None:
            entries = restrict_levels(entries, levels)
        if options.episodes is not None:
            entries = tuple(replace(entry, episodes=options.episodes) for entry in entries)
    return EvaluationPlan(
        policy=options.policy,
        entries=entries,
        samples=suite.samples if options.samples is None else options.samples,
        seed=suite.seed if options.seed is None else options.seed,
        images=suite.images if options.images is None else options.images,
        options={**suite.options, **read_pairs(options.option, "--option", "image_size=224")},
        policy_options=read_pairs(options.policy_option, "--policy-option", "temperature=0.7"),
    )


def _policy(plan: EvaluationPlan, workers: int) -> Policy | None:
    """Make the policy, or check its options where worker processes make their own: nothing is overwritten before."""
    from agile_gym.policies.base import POLICIES, check_policy, make_policy

    if plan.policy.partition(":")[0] not in POLICIES:
        find_modules_here()
    if workers == 1:
        return make_policy(plan.policy, **plan.policy_options)
    check_policy(plan.policy, **plan.policy_options)
    return None


def _training_images(images: str | None) -> ImageSource | None:
    from agile_gym.images.opening import open_images

    return None if images is None else open_images(images)


def _levels(words: Sequence[str] | None) -> tuple[int, ...] | None:
    if words is None or list(words) == ["all"]:
        return None
    try:
        return tuple(int(word.lower().removeprefix("l")) for word in words)
    except ValueError:
        raise ConfigurationError(f"--levels {' '.join(words)}: give 'all', or numbers such as 0 1 2.") from None


def _keep(word: str | None) -> int | None:
    """Read the number of transcripts kept a level; None leaves it to the policy."""
    if word is None:
        return None
    if word in ("all", "none"):
        return sys.maxsize if word == "all" else 0
    if not word.isdecimal():
        raise ConfigurationError(f"--keep {word}: give a number, 'all' or 'none'.")
    return int(word)


def _compare(options: argparse.Namespace) -> int:
    from agile_gym.evaluation.compare import compare_reports, format_comparison, is_comparison
    from agile_gym.evaluation.report import read_report
    from agile_gym.files import write_text
    from agile_gym.outputs import check_replaceable

    if options.output is not None:
        _check_output(options.output)
        check_replaceable(options.output, is_comparison, "a file of agile-gym compare")
    first, second = read_report(options.first), read_report(options.second)
    comparison = compare_reports(first, second)
    print(format_comparison(comparison, first, second))
    if options.output is not None:
        with write_text(options.output) as file:
            file.write(json.dumps(comparison, indent=2) + "\n")
        print(f"\nWritten: {options.output}")
    return 0
