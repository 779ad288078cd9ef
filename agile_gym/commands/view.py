"""``agile-gym view``: episodes of a run as a page or GIFs; ``export``: for other trainers; ``play``: in a terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from agile_gym.actions.dialects import write_answer
from agile_gym.actions.primitives import Answer
from agile_gym.commands import find_run
from agile_gym.envs.jigsaw.env import JigsawVisionEnv
from agile_gym.envs.spaces import ansi_text
from agile_gym.errors import ConfigurationError, TranscriptError, did_you_mean, reason_of, require_seed
from agile_gym.files import replacing
from agile_gym.outputs import GENERATOR, check_output, check_replaceable, is_generated

if TYPE_CHECKING:
    from agile_gym.transcripts.reading import TranscriptHeader
    from agile_gym.transcripts.record import Transcript

__all__ = ["LAYOUTS", "ONLY", "add_export_command", "add_view_command", "play", "turn_text"]

LAYOUTS = ("sharegpt", "trl", "verl")


class Commands(Protocol):
    """Type of the result of `argparse.ArgumentParser.add_subparsers`."""

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
    from agile_gym.transcripts.export import export_sharegpt, export_trl, export_verl
    from agile_gym.transcripts.reading import read_transcripts

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


ONLY = ("solved", "unsolved", "errors", "truncated")
_FIRST = ""
_LONGEST_HINT = 300


def add_view_command(commands: Any) -> None:  # noqa: ANN401 -- argparse names no type for it
    """Add the command ``view``.

    Args:
        commands: Result of ``ArgumentParser.add_subparsers``.
    """
    command: argparse.ArgumentParser = commands.add_parser(
        "view",
        help="write an HTML page, or a GIF, of episodes to look at",
        description="Writes the episodes of a run as one HTML page, which needs no network and no other file.",
    )
    command.add_argument(
        "input", type=Path, metavar="RUN", help="folder of transcripts, a file in it, or the results of eval (.json)"
    )
    command.add_argument("--output", type=Path, metavar="FILE", help="default: page.html, or ID.gif, in the folder")
    command.add_argument("--limit", type=int, metavar="N", help="at most so many episodes, the first ones")
    command.add_argument("--only", choices=ONLY, help="only such episodes; errors: with a turn that was an error")
    command.add_argument("--tokenizer", metavar="PATH", help="model whose tokens were recorded, to show them as text")
    command.add_argument(
        "--image-side", type=int, default=224, metavar="PX", help="largest side (default: %(default)s)"
    )
    command.add_argument(
        "--gif", nargs="?", const=_FIRST, metavar="ID", help="write an animated GIF of this episode (or the first one)"
    )
    command.set_defaults(run=_view)


def _view(options: argparse.Namespace) -> int:
    if options.limit is not None and options.limit < 1:
        raise ConfigurationError(f"--limit {options.limit} is not allowed; give at least 1.")
    run = find_run(options.input)
    folder = run if run.is_dir() else run.parent
    return _write_gif(run, folder, options) if options.gif is not None else _write_page(run, folder, options)


def _write_page(run: Path, folder: Path, options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from agile_gym.reporting.record import load_token_texts
    from agile_gym.reporting.viewer import write_page
    from agile_gym.transcripts.reading import read_transcripts

    tokens = None if options.tokenizer is None else load_token_texts(options.tokenizer)
    chosen = _at_least_one(
        islice(read_transcripts(run, select=_select(options.only)), options.limit), run, options.only
    )
    with tqdm(chosen, unit="episode", file=sys.stderr, disable=None) as episodes:
        info = write_page(
            episodes,
            options.output or folder / "page.html",
            title=run.resolve().name,
            max_side=options.image_side,
            decode=None if tokens is None else tokens.decode,
            image_tokens=() if tokens is None else tokens.image_tokens,
        )
    print(
        f"Written: {options.output or folder / 'page.html'} ({info.episodes:,} episodes, {info.images:,} images, "
        f"{info.size / 1e6:.1f} MB)"
    )
    return 0


def _write_gif(run: Path, folder: Path, options: argparse.Namespace) -> int:
    from agile_gym.reporting.gif import write_gif
    from agile_gym.transcripts.reading import read_headers

    wanted, select = options.gif, _select(options.only)
    seen: list[str] = []
    for header in read_headers(run):
        if header.id == wanted or (wanted == _FIRST and select(header)):
            output = options.output or folder / f"{header.id}.gif"
            frames = write_gif(header.load(), output)
            print(f"Written: {output} ({frames} frames)")
            return 0
        seen.append(header.id)
    if wanted == _FIRST or not seen:
        raise _nothing(run, options.only)
    hint = did_you_mean(wanted, seen)
    if len(hint) > _LONGEST_HINT:
        hint = f"There are {len(seen):,}, from {seen[0]!r} to {seen[-1]!r}."
    raise ConfigurationError(f"There is no episode {wanted!r} in {run}. {hint}")


def _select(only: str | None) -> Any:  # noqa: ANN401 -- a function from a header to a bool
    def select(header: TranscriptHeader) -> bool:
        match only:
            case "solved":
                return header.solved
            case "unsolved":
                return not header.solved
            case "errors":
                return any(header.errors)
            case "truncated":
                return header.truncated
            case _:
                return True

    return select


def _at_least_one(transcripts: Iterator[Transcript], run: Path, only: str | None) -> Iterable[Transcript]:
    """Pass transcripts on, and raise an error if there is none."""
    empty = True
    for transcript in transcripts:
        empty = False
        yield transcript
    if empty:
        raise _nothing(run, only)


def _nothing(run: Path, only: str | None) -> TranscriptError:
    if only is None:
        return TranscriptError(f"There is no episode in {run} yet: none was written, or the writing was interrupted.")
    return TranscriptError(f"No episode of {run} is chosen by --only {only}; leave it out to see all.")


_HELP = """\
Write one line of code a turn, several statements separated by ;
  swap("A", "B")                        exchange two pieces; the board is then shown
  observe()                             show the board
  crop(image_list[0], [0.5, 0, 1, 1])   show the right half of piece A
  zoom(image_list[0], 1.5)              show piece A larger
  answer                                answer with the board as it is
  help, quit"""


def turn_text(line: str, env: JigsawVisionEnv) -> str:
    """Turn a line that a person typed into the text of a turn.

    Args:
        line: Code, or ``answer``. If nothing in the code shows an image, the board is shown.
        env: The environment, whose board becomes the answer.

    Returns:
        The text for `JigsawVisionEnv.step`.
    """
    if line == "answer":
        return write_answer(Answer(tuple(env.describe_state())), "By hand.")
    code = line.replace(";", "\n")
    if not any(word in code for word in ("observ", "Observ", "crop", "Crop", "zoom", "Zoom", "rotate")):
        code += "\nobserve()"
    return f"<think>By hand.</think>\n<code>\n{code}\n</code>"


def play(
    *,
    images: str | None,
    grid: str,
    level: str | None,
    turns: int,
    seed: int | None,
    output: Path,
    columns: int,
) -> int:
    """Play one episode on standard input and output, and save every image that was shown.

    Args:
        images: Source of the photographs.
        grid: Such as ``"2x3"``.
        level: Pieces in place at the start, or None for any.
        turns: Largest number of turns.
        seed: Seed of the puzzle.
        output: Folder for ``00.png`` (the start), ``01.png``, ...
        columns: Width of the pictures in characters.

    Returns:
        0, whether the puzzle was solved or not.

    Raises:
        ConfigurationError: If an option is not allowed, or the folder cannot be made.
    """
    if seed is not None:
        require_seed(seed)
    env = JigsawVisionEnv(images=images, grid=grid, level=level, max_turns=turns, labels=True, canvas_size=None)
    observation, info = env.reset(seed=seed)
    check_output(output, images)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"The folder {output} cannot be made: {reason_of(error)}. Give another --output."
        ) from error
    for number in range(turns + 1):
        check_replaceable(output / f"{number:02d}.png", is_generated, "a picture of agile-gym play")
    print(_HELP)
    _show(observation, output / "00.png", columns)
    while True:
        print(f"[turn {info['turn'] + 1} of {turns}] > ", end="", flush=True)
        line = sys.stdin.readline()
        word = line.strip()
        if not line or word == "quit":
            print("Left unsolved.")
            return 0
        if word in ("", "help"):
            print(_HELP)
            continue
        observation, _, terminated, truncated, info = env.step(turn_text(word, env))
        print(observation["text"].replace("<image>", "").strip())
        _show(observation, output / f"{info['turn']:02d}.png", columns)
        if terminated or truncated:
            right = f"{100 * info['score']:.0f}% of the pieces were right."
            print("Solved!" if info["solved"] else f"Not solved: {right if terminated else 'no turns left.'}")
            print(f"The images are in {output}.")
            return 0


def _show(observation: dict[str, Any], path: Path, columns: int) -> None:
    height, width = observation["image_size"]
    if height and width:
        image: NDArray[np.uint8] = observation["image"][:height, :width]
        print(ansi_text(image, columns), end="")
        about = PngInfo()
        about.add_text("Software", GENERATOR)
        with replacing(path) as beside:
            Image.fromarray(image).save(beside, "PNG", pnginfo=about)
