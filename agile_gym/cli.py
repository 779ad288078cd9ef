"""The command line: ``agile-gym COMMAND``; ``agile-gym --help`` lists the commands."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from agile_gym.commands.bench import add_plan_command
from agile_gym.commands.eval import add_compare_command, add_eval_command
from agile_gym.commands.study import add_study_command
from agile_gym.commands.train import add_coldstart_command, add_tiny_command, add_train_command
from agile_gym.commands.view import add_export_command, add_view_command
from agile_gym.errors import AgileGymError, ConfigurationError, explain_os_error, one_line, show_all_characters
from agile_gym.interruption import stop_signals

__all__ = ["main"]

_OUTPUT = "The output"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after the program's name; those of the process by default.

    Returns:
        The exit status: 0 for success, 1 for a mistake of the user's, 128 and the signal's number for an interruption:
        130 for Ctrl-C, 143 for SIGTERM. A second signal ends the process at once.
    """
    with stop_signals(end=True) as stops:
        why = ""
        try:
            show_all_characters()
            options = _parser().parse_args(arguments)
            status: int = options.run(options)
            _flush_output()  # a full disk shows here, not when the process ends
            return status
        except KeyboardInterrupt:
            pass
        except (AgileGymError, OSError) as error:
            text = one_line(explain_os_error(error) if isinstance(error, OSError) else str(error))
            if isinstance(error, BrokenPipeError):  # the reader, such as head, closed the pipe
                _drop_standard_output()
                return 0
            if isinstance(error, OSError) and error.filename in (None, _OUTPUT):
                _drop_standard_output()
            if stops.received is None:
                print(f"agile-gym: {text}", file=sys.stderr)
                return 1
            why = f" ({text})"
        except Exception as error:
            if stops.received is None:
                raise
            why = f" ({one_line(repr(error))})"  # libraries turn an interruption into errors of their own
        _say_last(f"\nagile-gym: interrupted{why}")
        return stops.status


def _say_last(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:  # the terminal was closed
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(null, stream.fileno())


def _flush_output() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, _OUTPUT) from error


def _drop_standard_output() -> None:
    """Discard the rest of the output, so that it is not tried again when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="agile-gym", description="Jigsaw environments for vision-language models.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
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

    add_plan_command(commands)
    add_eval_command(commands)
    add_compare_command(commands)
    add_view_command(commands)
    add_export_command(commands)
    add_tiny_command(commands)
    add_coldstart_command(commands)
    add_train_command(commands)
    add_study_command(commands)

    command = commands.add_parser("bench", help="measure the speed of the environment on this machine")
    command.add_argument("--seconds", type=float, default=1.0, help="time a figure (default: %(default)s)")
    command.set_defaults(run=_bench)
    return parser


class _Version(argparse.Action):
    """Action that prints the version, whose module is imported only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from agile_gym import __version__

        print(f"agile-gym {__version__}")
        parser.exit()


def _add_images(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--images", default=None, help="folder, file, or hf:NAME[:SPLIT[:COLUMN]] (default: built-in photographs)"
    )


def _list(options: argparse.Namespace) -> int:
    from agile_gym.registration import load_catalogue

    for card in load_catalogue().values():
        print(f"{card.id:24} {card.summary}")
    return 0


def _play(options: argparse.Namespace) -> int:
    from agile_gym.commands.view import play

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
    from agile_gym.commands.bench import format_speed, measure_speed

    if not 0 < options.seconds <= 3600:
        raise ConfigurationError(f"--seconds {options.seconds} is not allowed; give a number above 0, up to 3600.")
    print(format_speed(measure_speed(seconds=options.seconds)))
    return 0
