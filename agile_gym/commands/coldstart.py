"""``agile-gym coldstart``: writes expert episodes that a model learns the game from, before reinforcement learning."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agile_gym.commands.shared import add_env, env_of, find_modules_here, read_pairs
from agile_gym.errors import ConfigurationError

if TYPE_CHECKING:
    from agile_gym.coldstart.config import ColdStartConfig

__all__ = ["add_coldstart_command"]

_EXPERT_FLAGS = ("style", "mistakes", "slips")


def add_coldstart_command(commands: Any) -> None:  # noqa: ANN401 -- argparse names no type for it
    """Add the command ``coldstart``.

    Args:
        commands: What ``ArgumentParser.add_subparsers`` returned.
    """
    command: argparse.ArgumentParser = commands.add_parser(
        "coldstart",
        help="write expert episodes for supervised fine-tuning",
        description="Lets a teacher play, and keeps solved episodes, balanced over turns and kinds of action.",
    )
    add = command.add_argument
    add("--output", type=Path, default=Path("cold-start"), metavar="DIR", help="folder (default: %(default)s)")
    add("--count", type=int, default=1600, help="episodes wanted (default: %(default)s)")
    add("--teacher", default="expert", help="expert, hf:PATH, api:MODEL or module:attribute (default: %(default)s)")
    add("--teacher-option", action="append", default=[], metavar="KEY=VALUE", help="option of the teacher")
    add("--style", default=None, help="of the expert: full, short or none (default: as the prompt)")
    add("--mistakes", type=float, default=None, help="of the expert: share with wrong moves (default: 0.3)")
    add("--slips", type=float, default=None, help="of the expert: share with actions that are errors (default: 0)")
    add_env(command)
    add("--grid", nargs="+", default=None, help="grids, such as 2 or 2 3 2x4 (default: 2)")
    add("--level", default=None, help="pieces in place at the start: 0, 0-2, all or any (default: 0)")
    add("--turns", type=int, nargs="+", default=None, metavar="N", help="smallest and largest (default: 4 8)")
    add("--balance", default="both", help="over turns, looks, both or none (default: %(default)s)")
    add("--looks", nargs="+", default=None, help="board (no closer look), crop, zoom, both (default: all)")
    add("--images", default=None, help="folder, file, or hf:NAME[:SPLIT[:COLUMN]] (default: built-in photographs)")
    add("--split", default="train", choices=("train", "all"), help="all: no image is for tests (default: train)")
    add("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the environment")
    add("--seed", type=int, default=0, help="seed of puzzles and episodes (default: %(default)s)")
    add("--allow-errors", action="store_true", help="keep episodes with errors that were mended")
    add("--same-texts", action="store_true", help="keep episodes with the text of another one")
    add("--max-attempts", type=int, default=None, help="episodes played at most (default: 10 for each one wanted)")
    add("--batch", type=int, default=8, help="episodes side by side (default: %(default)s)")
    add("--workers", type=int, default=1, help="processes that play (default: %(default)s)")
    add("--format", default="jsonl", help="jsonl or parquet (default: %(default)s)")
    add("--resume", action="store_true", help="go on with a cold start that was interrupted")
    add("--overwrite", action="store_true", help="begin anew even if the folder holds transcripts")
    command.set_defaults(run=_coldstart)


def _coldstart(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from agile_gym.coldstart.making import make_cold_start
    from agile_gym.interruption import stop_signals

    config = _config(options)
    if not config.is_expert:
        find_modules_here()
    with tqdm(total=config.count, unit="episode", file=sys.stderr) as bar, stop_signals() as stops:

        def show(attempts: int, kept: int) -> None:
            bar.set_postfix_str(f"{attempts:,} played", False)
            bar.update(kept - bar.n)
            stops.check()

        try:
            report = make_cold_start(
                options.output,
                config,
                batch=options.batch,
                workers=options.workers,
                format=options.format,
                resume=options.resume,
                overwrite=options.overwrite,
                on_attempt=show,
                on_lost=lambda sentence: bar.write(f"agile-gym: {sentence}", file=sys.stderr),
            )
        except BaseException:
            if bar.n:
                bar.write(f"{bar.n:,} episodes are kept; add --resume to go on.", file=sys.stderr)
            raise
    print(report.text())
    print(f"\nWritten: {report.folder} ({report.kept:,} episodes)")
    if not report.complete:
        print(f"agile-gym: {report.shortage()}", file=sys.stderr)
        return 1
    return 0


def _config(options: argparse.Namespace) -> ColdStartConfig:
    from agile_gym.coldstart.config import ColdStartConfig

    teacher_options = read_pairs(options.teacher_option, "--teacher-option", "temperature=0.7")
    for name in _EXPERT_FLAGS:
        value = getattr(options, name)
        if value is not None:
            if options.teacher != "expert":
                raise ConfigurationError(f"--{name} is an option of the expert; leave it out with another teacher.")
            teacher_options[name] = value
    jigsaw_only = ("grid", "level", "looks", *_EXPERT_FLAGS)
    env = env_of(options, {name: f"--{name}" for name in jigsaw_only})
    turns: list[int] | None = options.turns
    level = "0" if options.level is None else options.level
    return ColdStartConfig(
        count=options.count,
        teacher=options.teacher,
        teacher_options=teacher_options,
        grid=options.grid or ["2"],
        level=None if level == "any" else int(level) if level.isdecimal() else level,
        turns=turns[0] if turns is not None and len(turns) == 1 else turns,
        balance=options.balance,
        **({"looks": options.looks} if options.looks else {}),
        images=options.images,
        split="train" if options.split == "train" else None,
        seed=options.seed,
        options=read_pairs(options.option, "--option", "image_size=224"),
        distinct_texts=False if options.same_texts else None,
        allow_errors=options.allow_errors,
        max_attempts=options.max_attempts,
        env=env,
    )
