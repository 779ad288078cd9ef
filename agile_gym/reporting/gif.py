"""Animated GIF of an episode: the board and the image of each turn, with its text and the answer to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from agile_gym.actions.tags import thoughts
from agile_gym.envs.contract import label_of
from agile_gym.envs.turns import MAX_TURNS
from agile_gym.errors import ConfigurationError
from agile_gym.files import replacing
from agile_gym.outputs import GENERATOR, check_replaceable, is_generated
from agile_gym.reporting.record import Puzzle, Tile, answer_tiles, puzzle_of, tiles_of
from agile_gym.reporting.viewer import shrink
from agile_gym.transcripts.record import Image, Transcript, Turn

__all__ = ["write_gif"]

WIDTH, HEIGHT, MARGIN = 720, 640, 24
PANEL_TOP, PANEL = 84, 324
TEXT_TOP, LINE = 446, 21
LINES = 8
_PANELS = 2
PAPER, INK, QUIET, RULE = (255, 255, 255), (28, 30, 33), (90, 95, 102), (222, 222, 216)
GOOD, BAD = (20, 108, 67), (176, 37, 28)
_LONGEST = 600  # characters of a text that are looked at; there is no room for more
_LONGEST_NAME = 20
_NARROWEST = 3  # pixels of the narrowest letter
_LAST_GLYPH = 0x17F  # Pillow's own font has the Latin letters up to here
_TURN_TAGS = ("code", "tool_call", "answer")

Colour = tuple[int, int, int]


class _Panel(NamedTuple):
    """A picture of a frame, and its caption."""

    picture: PILImage.Image
    caption: str


def write_gif(transcript: Transcript, path: str | Path, *, seconds: float = 2.0) -> int:
    """Write an episode as an animated GIF of 720 x 640 pixels.

    Args:
        transcript: The episode.
        path: The file; it is replaced only when it is complete.
        seconds: Time that a turn is shown; the last frame stays twice as long.

    Returns:
        The number of frames: the start, one a turn, and the end.

    Raises:
        ConfigurationError: If the transcript's puzzle is damaged, it has more turns than an episode can have, the file
            cannot be written there, or ``seconds`` is not between 0.02 and 600.
    """
    target = Path(path)
    if not 0.02 <= seconds <= 600:
        raise ConfigurationError(f"seconds={seconds!r} is not allowed; give 0.02 to 600.")
    if target.is_dir() or not target.parent.is_dir():
        raise ConfigurationError(
            f"The GIF cannot be written to {target}; give the name of a file in a folder that exists."
        )
    check_replaceable(target, is_generated, "a GIF of agile-gym view")
    puzzle = puzzle_of(transcript)
    if len(transcript.turns) > MAX_TURNS:
        raise ConfigurationError(
            f"The transcript {transcript.id!r} has {len(transcript.turns):,} turns; a GIF shows at most {MAX_TURNS:,}."
        )
    count = len(transcript.turns) + 2
    times = [round(seconds * 1000)] * (count - 1) + [round(seconds * 2000)]
    frames = _frames(transcript, puzzle)
    comment = GENERATOR.encode()
    with replacing(target) as temporary:
        next(frames).save(
            temporary, "GIF", save_all=True, append_images=frames, duration=times, loop=0, comment=comment
        )
    return count


def _frames(transcript: Transcript, puzzle: Puzzle) -> Iterator[PILImage.Image]:
    task, count = transcript.task, len(transcript.turns)
    if puzzle.names:
        kind = f"{task.get('grid')}" + ("" if task.get("level") is None else f", level {task.get('level')}")
        first = [_panel(puzzle, puzzle.start, "Start")]
    else:
        kind = ", ".join(filter(None, (str(task.get("env")), label_of(task))))
        first = [_Panel(_fit(image), "Shown at the start") for image in transcript.prompt_images[:_PANELS]]
    yield _frame(transcript, f"{kind}, policy {transcript.policy}", first)
    last, tiles = first, puzzle.start
    for number, turn in enumerate(transcript.turns, 1):
        tiles = tiles_of(turn.state, puzzle.names) or tiles
        answer = answer_tiles(turn, puzzle, rotations=bool(task.get("rotations")))
        if puzzle.names:
            last = [_panel(puzzle, answer or tiles, "The answer" if answer else f"The board after turn {number}")]
        seen = [_Panel(_fit(image), "What the model saw then") for image in turn.images[:1]]
        heading = f"Turn {number} of {count}: {turn.error or ', '.join(turn.primitives) or 'no action'}"
        feedback = (turn.feedback.replace("<image>", "(image)"), BAD if turn.error else QUIET)
        yield _frame(transcript, heading, [*last[: _PANELS - len(seen)], *seen], [*_written(turn), feedback])
    solution = [] if puzzle.solution is None else [_Panel(_board(puzzle, puzzle.solution, marks=False), "The solution")]
    summary = f"Reward {transcript.reward['total']:+.2f}, score {100 * transcript.score:.0f}%, turns {count}"
    heading, colour = ("Solved", GOOD) if transcript.solved else ("Not solved", BAD)
    yield _frame(transcript, heading, [*last, *solution], [(summary, INK)], colour)


def _frame(
    transcript: Transcript,
    heading: str,
    panels: Sequence[_Panel],
    texts: Sequence[tuple[str, Colour]] = (),
    colour: Colour = INK,
) -> PILImage.Image:
    frame = PILImage.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(frame)
    small, normal, large = (ImageFont.load_default(size) for size in (14, 16, 22))
    room = WIDTH - 2 * MARGIN
    draw.text((MARGIN, 16), _wrapped(transcript.id, small, room, 1)[0], QUIET, small)
    draw.text((MARGIN, 38), _wrapped(heading, large, room, 1)[0], colour, large)
    draw.line((MARGIN, PANEL_TOP - 12, WIDTH - MARGIN, PANEL_TOP - 12), RULE)
    for number, panel in enumerate(panels):
        left = MARGIN + number * (PANEL + MARGIN)
        frame.paste(panel.picture, (left, PANEL_TOP))
        draw.text((left, PANEL_TOP + PANEL + 8), _wrapped(panel.caption, small, PANEL, 1)[0], QUIET, small)
    top, free = TEXT_TOP, LINES
    for later, (text, ink) in zip(range(len(texts) - 1, -1, -1), texts, strict=True):
        lines = _wrapped(text, normal, room, max(free - 2 * later, 1))
        free -= len(lines)
        for line in lines:
            draw.text((MARGIN, top), line, ink, normal)
            top += LINE
    return frame.quantize(256, PILImage.Quantize.MEDIANCUT, dither=PILImage.Dither.FLOYDSTEINBERG)


def _board(puzzle: Puzzle, tiles: Sequence[Tile], *, marks: bool = True) -> PILImage.Image:
    """Return a board that fits a panel, with a frame around the tiles in place; pieces without images are grey."""
    height, width = puzzle.pieces[0].shape[:2] if puzzle.pieces else (1, 1)
    rows, cols = puzzle.rows, puzzle.cols
    gap, frame = (4, 3) if max(rows, cols) <= 5 else (2, 1)
    unit = min((PANEL - (rows - 1) * gap) / (rows * height), (PANEL - (cols - 1) * gap) / (cols * width))
    size = (max(int(width * unit), 1), max(int(height * unit), 1))
    board = PILImage.new("RGB", (cols * (size[0] + gap) - gap, rows * (size[1] + gap) - gap), PAPER)
    draw = ImageDraw.Draw(board)
    font = ImageFont.load_default(13)
    for place, (piece, angle) in enumerate(tiles):
        x, y = place % cols * (size[0] + gap), place // cols * (size[1] + gap)
        if puzzle.pieces:
            turned = np.ascontiguousarray(np.rot90(puzzle.pieces[piece], -angle // 90))
            board.paste(PILImage.fromarray(turned).resize(size, PILImage.Resampling.LANCZOS), (x, y))
        else:
            draw.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), RULE)
        if min(size) >= 40:
            name = _clean(puzzle.names[piece][:_LONGEST_NAME])
            draw.rectangle((x, y, x + font.getlength(name) + 8, y + 17), INK)
            draw.text((x + 4, y + 1), name, PAPER, font)
        if marks and puzzle.solution is not None and puzzle.solution[place] == (piece, angle):
            draw.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), outline=(47, 194, 125), width=frame)
    return board


def _fit(image: Image) -> PILImage.Image:
    return shrink(PILImage.fromarray(np.ascontiguousarray(image)), PANEL)


def _panel(puzzle: Puzzle, tiles: Sequence[Tile], title: str) -> _Panel:
    right = (
        "" if puzzle.solution is None else f", {sum(map(Tile.__eq__, tiles, puzzle.solution))}/{len(tiles)} in place"
    )
    return _Panel(_board(puzzle, tiles), title + right)


def _written(turn: Turn) -> list[tuple[str, Colour]]:
    """Return the reasoning of a turn, if there is any, and what follows it, without their tags."""
    thought = action = ""
    place = 0
    for start, end in thoughts(turn.text):
        thought += turn.text[start:end].removeprefix("<think>").removesuffix("</think>")
        action += turn.text[place:start]
        place = end
    action += turn.text[place:]
    for name in _TURN_TAGS:
        action = action.replace(f"<{name}>", "").replace(f"</{name}>", "")
    return [(text, ink) for text, ink in ((thought, QUIET), (action, INK)) if text.strip()]


def _clean(text: str) -> str:
    """Return one line of characters that the font has."""
    joined = " ".join(text.split())
    return "".join(char if char.isprintable() and ord(char) <= _LAST_GLYPH else "?" for char in joined)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, lines: int) -> list[str]:
    """Return a text as at most so many lines of so many pixels, at least one; dots mark that something is left out."""
    found: list[str] = []
    for paragraph in text[:_LONGEST].strip().split("\n"):
        rest = _clean(paragraph)
        while rest and len(found) <= lines:
            fitting = min(len(rest), width // _NARROWEST)
            while font.getlength(rest[:fitting]) > width:
                fitting -= 1
            if fitting < len(rest):
                space = rest.rfind(" ", 0, fitting + 1)
                fitting = space if space > 0 else max(fitting, 1)
            found.append(rest[:fitting])
            rest = rest[fitting:].lstrip()
    if len(found) > lines or len(text) > _LONGEST:
        del found[lines:]
        last = found.pop() if found else ""
        while font.getlength(last + "...") > width:
            last = last[:-1]
        found.append(last + "...")
    return found or [""]
