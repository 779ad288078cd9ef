"""``agile-gym export``: writes the episodes of a run for other trainers."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import Protocol

from agile_gym.commands.runs import find_run
from agile_gym.errors import ConfigurationError

__all__ = ["LAYOUTS", "add_export_command"]

LAYOUTS = ("sharegpt", "trl", "verl")


class Commands(Protocol):
    """What `argparse.ArgumentParser.add_subparsers` returns."""

    def add_parser(self, name: str, *, help: str) -> argparse.ArgumentParser:  # noqa: A002 -- argparse's word
        """Add a command."""
        ...


def add_export_command(commands: Commands) -> None:
    """Add the command ``export``.

    Args:
        commands: The commands of the command line.
    """
    command = commands.add_parser("export", help="write the episodes of a run for LLaMA-Factory, TRL or verl")
    command.add_argument(
        "input", type=Path, metavar="RUN", help="folder of transcripts, a file in it, or the results of eval (.json)"
    )
    command.add_argument("--to", required=True, choices=LAYOUTS, help="sharegpt (LLaMA-Factory), trl or verl")
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder that the files go to")
    command.add_argument("--name", default=None, help="name of the data set (default: agile_gym, or train)")
    command.add_argument("--solved", action="store_true", help="only episodes that were solved")
    command.add_argument("--no-errors", action="store_true", help="only episodes without a turn that was an error")
    command.add_argument("--max-turns", type=int, default=None, help="only episodes of at most so many turns")
    command.add_argument("--limit", type=int, default=None, help="at most so many episodes, the first ones")
    command.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from agile_gym.rollout.export import export_sharegpt, export_trl, export_verl
    from agile_gym.rollout.reading import TranscriptHeader, read_transcripts

    for name in ("max_turns", "limit"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigurationError(f"--{name.replace('_', '-')} {value} is not allowed; give at least 1.")
    seen = 0

    def select(header: TranscriptHeader) -> bool:
        nonlocal seen
        seen += 1
        return (
            (header.solved or not options.solved)
            and not (options.no_errors and any(header.errors))
            and (options.max_turns is None or header.turns <= options.max_turns)
        )

    chosen = islice(read_transcripts(find_run(options.input), select=select), options.limit)
    exporters = {"sharegpt": export_sharegpt, "trl": export_trl, "verl": export_verl}
    names = {} if options.name is None else {"name": options.name}
    count = exporters[options.to](chosen, options.output, **names)
    what = "puzzles" if options.to == "verl" else "conversations"
    print(f"Written: {count} {what} from {seen} episodes to {options.output}")
    return 0
