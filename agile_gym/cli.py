"""The command line: ``agile-gym list | play | eval | bench``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agile_gym.errors import AgileGymError, ConfigurationError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after the program's name; those of the process by default.

    Returns:
        The exit status: 0 for success, 1 for a mistake of the user's, 130 for an interruption.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (AgileGymError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"agile-gym: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nagile-gym: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="agile-gym", description="Jigsaw environments for vision-language models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="list the environments")
    command.set_defaults(run=_list)

    command = commands.add_parser("play", help="solve a puzzle yourself, in the terminal")
    _add_images(command)
    command.add_argument("--grid", default="2x2", help="such as 3 or 2x3 (default: %(default)s)")
    command.add_argument("--level", default=None, help="pieces in place at the start, such as 0 or 0-2 (default: any)")
    command.add_argument("--turns", type=int, default=20, help="largest number of turns (default: %(default)s)")
    command.add_argument("--seed", type=int, default=None, help="seed of the puzzle (default: another one each time)")
    command.add_argument(
        "--output", type=Path, default=Path("play"), help="folder for PNG files (default: %(default)s)"
    )
    command.add_argument("--columns", type=int, default=72, help="width of pictures, in characters (default: 72)")
    command.set_defaults(run=_play)

    command = commands.add_parser("eval", help="play many puzzles and print Acc and Score beside the paper's")
    _add_images(command)
    command.add_argument("--policy", default="edge", help="edge, random, or module:attribute (default: %(default)s)")
    command.add_argument("--grid", nargs="+", default=["2x2", "3x3"], help="such as 2 3 2x4 (default: 2x2 3x3)")
    command.add_argument("--levels", nargs="+", default=["all"], help="all, or numbers such as 0 1 2 (default: all)")
    command.add_argument("--episodes", type=int, default=300, help="puzzles a level (default: %(default)s)")
    command.add_argument("--seed", type=int, default=0, help="seed of the puzzles (default: %(default)s)")
    command.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the environment")
    command.add_argument("--batch", type=int, default=8, help="episodes side by side (default: %(default)s)")
    command.add_argument(
        "--output", type=Path, default=Path("agile-eval.json"), help="JSON file (default: %(default)s)"
    )
    command.add_argument("--resume", action="store_true", help="go on with an evaluation that was interrupted")
    command.add_argument("--overwrite", action="store_true", help="begin anew even if the output holds puzzles")
    command.set_defaults(run=_eval)

    command = commands.add_parser("bench", help="measure the speed of the environment on this machine")
    command.add_argument("--seconds", type=float, default=1.0, help="time a figure (default: %(default)s)")
    command.set_defaults(run=_bench)
    return parser


def _add_images(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--images", default=None, help="folder, file, or hf:NAME[:SPLIT[:COLUMN]] (default: built-in photographs)"
    )


def _list(options: argparse.Namespace) -> int:
    from agile_gym.registration import load_catalogue

    for card in load_catalogue().values():
        print(f"{card.id:24} {card.summary}")
    return 0


def _eval(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from agile_gym.evaluation import EvaluationPlan, Journal, check_plan, evaluate, format_tables, summarize
    from agile_gym.evaluation.plan import grid_name
    from agile_gym.policies import make_policy

    policy = make_policy(options.policy)
    plan = EvaluationPlan(
        policy=options.policy,
        grids=tuple(dict.fromkeys(grid_name(grid) for grid in options.grid)),
        levels=_levels(options.levels),
        episodes=options.episodes,
        seed=options.seed,
        images=options.images,
        options=dict(_option(text) for text in options.option),
    )
    if options.batch < 1:
        raise ConfigurationError(f"--batch {options.batch} is not allowed; give at least 1.")
    output: Path = options.output
    if output.suffix != ".json" or output.is_dir():
        raise ConfigurationError(f"--output {output} is not allowed; give the name of a file that ends in .json.")
    makers = check_plan(plan)
    journal = Journal(output.with_suffix(".jsonl"), plan, resume=options.resume, overwrite=options.overwrite)
    try:
        total = sum(1 for _ in plan.tasks())
        with tqdm(total=total, initial=len(journal.results), unit="puzzle", file=sys.stderr) as bar:
            solved = sum(result.solved for result in journal.results)

            def on_result(result: Any) -> None:  # noqa: ANN401 -- an EpisodeResult
                nonlocal solved
                journal.add(result)
                solved += result.solved
                bar.set_postfix_str(
                    f"{result.grid} L{result.level} Acc {100 * solved / len(journal.results):.1f}%", False
                )
                bar.update()

            done = [result.task for result in journal.results]
            evaluate(policy, plan, batch=options.batch, done=done, on_result=on_result, makers=makers)
    except KeyboardInterrupt:
        print(f"\n{len(journal.results)} puzzles are kept; add --resume to go on.", file=sys.stderr)
        raise
    finally:
        journal.close()
    summary = summarize(journal.results)
    print(format_tables(summary, options.policy))
    report = {"plan": plan.to_json(), "summary": summary, "episodes": len(journal.results)}
    temporary = output.with_name(output.name + ".new")
    temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, output)
    print(f"\nWritten: {output} (summary), {output.with_suffix('.jsonl')} (every puzzle)")
    return 0


def _levels(words: Sequence[str]) -> tuple[int, ...] | None:
    if list(words) == ["all"]:
        return None
    try:
        return tuple(int(word.lower().removeprefix("l")) for word in words)
    except ValueError:
        raise ConfigurationError(f"--levels {' '.join(words)}: give 'all', or numbers such as 0 1 2.") from None


def _option(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE; the value is JSON if it can be read as such, else a text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(f"--option {text} is not of the form KEY=VALUE, such as image_size=224.")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _play(options: argparse.Namespace) -> int:
    from agile_gym.play import play

    if options.columns < 1:
        raise ConfigurationError(f"--columns {options.columns} is not allowed; give at least 1.")
    return play(
        images=options.images,
        grid=options.grid,
        level=options.level,
        turns=options.turns,
        seed=options.seed,
        output=options.output,
        columns=options.columns,
    )


def _bench(options: argparse.Namespace) -> int:
    from agile_gym.benchmark import format_speed, measure_speed

    if not 0 < options.seconds <= 3600:
        raise ConfigurationError(f"--seconds {options.seconds} is not allowed; give a number above 0, up to 3600.")
    print(format_speed(measure_speed(seconds=options.seconds)))
    return 0
