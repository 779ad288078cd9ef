"""Lets a person solve a puzzle in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from agile_gym.actions.dialects import write_answer
from agile_gym.actions.primitives import Answer
from agile_gym.arguments import require_seed
from agile_gym.envs.jigsaw.env import JigsawVisionEnv
from agile_gym.envs.rendering import ansi_text
from agile_gym.errors import ConfigurationError, reason_of
from agile_gym.files import replacing
from agile_gym.outputs import GENERATOR, check_output, check_replaceable, is_generated

__all__ = ["play", "turn_text"]

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
        images: Where photographs come from.
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
            print(f"What you saw is in {output}.")
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
