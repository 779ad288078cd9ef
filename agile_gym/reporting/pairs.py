"""The same puzzles before and after, side by side: what the model saw, wrote, and answered."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agile_gym.actions.tags import thoughts
from agile_gym.errors import ConfigurationError
from agile_gym.reporting.boards import Puzzle, Tile, puzzle_of
from agile_gym.reporting.charts import Markup, element, join
from agile_gym.reporting.record import episode_record
from agile_gym.reporting.viewer import PictureStore
from agile_gym.transcripts.reading import TranscriptHeader, read_headers
from agile_gym.transcripts.record import Image, Transcript

__all__ = ["Pictures", "choose_pairs", "pair_markup"]

Record = Mapping[str, Any]
"""What `agile_gym.reporting.record.episode_record` returned."""

PIECE_SIDE, IMAGE_SIDE, QUALITY = 160, 224, 75
LONGEST = 1500
"""Characters of a text that are shown."""
_FINE = 5
"""Boards with more rows or columns have no names on their pieces."""
_TAG = re.compile(r"<(code|tool_call|answer)>")
_TITLES = {"think": "Think", "code": "Code", "tool_call": "Tool call", "answer": "Answer"}


class Pictures:
    """The images of a page, each stored once; drawings refer to them by number."""

    def __init__(self) -> None:
        """Begin without images."""
        self._store = PictureStore(QUALITY)
        self._sizes: list[tuple[int, int]] = []
        self._parts: list[Markup] = []

    def add(self, image: Image, is_piece: bool) -> int:
        """Store an image and return its number."""
        number = self._store.add(image, PIECE_SIDE if is_piece else IMAGE_SIDE)
        for width, height, data in self._store.take_new()[1]:
            self._parts.append(
                element(
                    "image",
                    id=f"i{len(self._sizes)}",
                    width=width,
                    height=height,
                    preserveAspectRatio="none",
                    href=f"data:{self._store.mime};base64,{data}",
                )
            )
            self._sizes.append((width, height))
        return number

    def size(self, number: int) -> tuple[int, int]:
        """Return width and height of an image, in pixels."""
        return self._sizes[number]

    def markup(self) -> Markup:
        """Return what holds the images; it must stand in the page once."""
        return element("svg.store", element("defs", *self._parts), width=0, height=0, aria_hidden="true")


def choose_pairs(before: Path, after: Path, count: int = 10) -> list[tuple[Transcript, Transcript]]:
    """Return episodes of the same puzzles from two folders of transcripts.

    Args:
        before: A folder of transcripts.
        after: Another one.
        count: How many puzzles at most; they are spread evenly over those in both, whatever came of them.

    Returns:
        The pairs, by grid, level and number; none if a folder is missing.

    Raises:
        TranscriptError: If the transcripts are damaged.
    """
    if not before.is_dir() or not after.is_dir():
        return []
    ours = {header.id: header for header in read_headers(before)}
    theirs = {header.id: header for header in read_headers(after)}
    both = sorted((name for name in ours if name in theirs and _same(ours[name], theirs[name])), key=_natural)
    chosen = [both[place * len(both) // count] for place in range(count)] if len(both) > count else both
    return [(ours[name].load(), theirs[name].load()) for name in chosen]


def _same(first: TranscriptHeader, second: TranscriptHeader) -> bool:
    return all(first.task.get(key) == second.task.get(key) for key in ("grid", "seed", "image_id", "names"))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def pair_markup(
    before: Transcript, after: Transcript, titles: tuple[str, str], pictures: Pictures, *, unfolded: bool = False
) -> Markup:
    """Return a puzzle as it was played before and after.

    Args:
        before: The earlier episode.
        after: The later one, of the same puzzle.
        titles: What the two are called.
        pictures: Takes the images.
        unfolded: Whether its turns are seen at once.

    Returns:
        A ``details`` with the boards at its head and the turns within; a note if one has no puzzle.
    """
    try:
        puzzle = puzzle_of(after)
        records = [episode_record(one, puzzle_of(one), pictures.add) for one in (before, after)]
    except ConfigurationError as error:
        return element("p.quiet", str(error))
    level = records[1]["task"].get("level")
    name = f"{puzzle.rows}x{puzzle.cols}" + ("" if level is None else f", level {level}")
    results = [_result(record) for record in records]
    heading = element(
        "span.pair-title",
        element("b", f"{after.id}"),
        f" {name}",
        *(
            join(element("span.which", f"{title} "), _badge(record, result))
            for title, record, result in zip(titles, records, results, strict=True)
        ),
    )
    boards = element(
        "span.quartet",
        _figure("As shown", _board(records[1], puzzle.start, puzzle, pictures)),
        *(
            _figure(f"{title}: {_last_title(record)}", _board(record, _last_board(record), puzzle, pictures))
            for title, record in zip(titles, records, strict=True)
        ),
        None if puzzle.solution is None else _figure("Solution", _board(records[1], puzzle.solution, puzzle, pictures)),
    )
    columns = [
        element(
            "section.side",
            element("h4", title, " ", _badge(record, result)),
            *(_turn(record, number, puzzle, pictures) for number in range(len(record["turns"]))),
            element("p.quiet", "The turns ran out.") if record["truncated"] else None,
            aria_label=f"{title}, {after.id}",
        )
        for title, record, result in zip(titles, records, results, strict=True)
    ]
    return element("details.pair", element("summary", heading, boards), element("div.sides", *columns), open=unfolded)


def _result(record: Record) -> str:
    if record["solved"]:
        return "\u2713 right"
    pieces = record["rows"] * record["cols"]
    return f"\u2717 wrong, {round(float(record['score']) * pieces)} of {pieces} pieces right"


def _badge(record: Record, result: str) -> Markup:
    return element("span.result.good" if record["solved"] else "span.result.bad", result)


def _last_board(record: Record) -> Sequence[Tile]:
    """Return the answer, or the last board where none was given."""
    for turn in reversed(record["turns"]):
        tiles = turn["answer_tiles"] or turn["tiles"]
        if tiles is not None:
            return tiles
    return record["start"]


def _last_title(record: Record) -> str:
    turns = record["turns"]
    if turns and turns[-1]["answer_tiles"]:
        return "answer"
    return "last board" if record["truncated"] else "no whole board"


def _figure(caption: str, drawing: Markup) -> Markup:
    return element("span.board-figure", drawing, element("small", caption))


def _board(record: Record, tiles: Sequence[Tile], puzzle: Puzzle, pictures: Pictures) -> Markup:
    """Draw a board: its pieces with their names, and a frame around each that is in place."""
    pieces = record["pieces"]
    width, height = pictures.size(pieces[0]) if pieces else (100, 100)
    gap = 0.02 * width
    cols, rows = puzzle.cols, puzzle.rows
    parts: list[Markup] = []
    for place, (piece, angle) in enumerate(tiles):
        x, y = (place % cols) * (width + gap), (place // cols) * (height + gap)
        turn = f" rotate({angle} {width / 2} {height / 2})" if angle else ""
        move = f"translate({x:.1f} {y:.1f})"
        if pieces:
            parts.append(element("use", href=f"#i{pieces[piece]}", transform=f"{move}{turn}"))
        else:
            parts.append(element("rect.bare", width=width, height=height, transform=move))
        if max(cols, rows) <= _FINE:
            parts.append(_name(record["names"][piece], x, y, min(width, height) * max(cols, rows)))
        if puzzle.solution is not None and puzzle.solution[place] == (piece, angle):
            line = 0.011 * width * cols
            inner = width - line, height - line
            parts.append(
                element(
                    "rect.right", x=x + line / 2, y=y + line / 2, width=inner[0], height=inner[1], stroke_width=line
                )
            )
    names = " ".join(str(record["names"][piece]) for piece, _ in tiles)
    size = f"0 0 {cols * (width + gap) - gap:.1f} {rows * (height + gap) - gap:.1f}"
    return element("svg.board-drawing", *parts, viewbox=size, role="img", aria_label=f"Board: {names}")


def _name(name: str, x: float, y: float, side: float) -> Markup:
    """Return the name of a piece in its corner; ``side`` is that of the whole board."""
    font = 0.085 * side
    back = element("rect.name-back", x=x, y=y, width=font * (0.62 * len(name) + 0.5), height=font * 1.2)
    return join(back, element("text.name", name, x=x + 0.25 * font, y=y + 0.95 * font, font_size=font))


def _turn(record: Record, number: int, puzzle: Puzzle, pictures: Pictures) -> Markup:
    turn = record["turns"][number]
    error = None if turn["error"] is None else element("span.chip-label.bad", f"Error: {turn['error']}")
    head = element(
        "p.turn-head",
        element("b", f"Turn {number + 1}"),
        *(element("span.chip-label", name) for name in turn["primitives"]),
        error,
    )
    blocks = [_block(kind, body, closed=closed) for kind, body, closed in _cut(turn["text"])]
    said = turn["feedback"].replace("<image>", "").strip(" :\n")
    shown = [_seen(image, record, puzzle, pictures) for image in turn["images"]]
    before = record["turns"][number - 1]["tiles"] if number else record["start"]
    if turn["answer_tiles"]:
        shown.append(_figure("The answer", _board(record, turn["answer_tiles"], puzzle, pictures)))
    elif turn["tiles"] and turn["tiles"] != before and not any("board" in image for image in turn["images"]):
        shown.append(_figure("The board now (not seen)", _board(record, turn["tiles"], puzzle, pictures)))
    words = element(
        "div.words",
        *(blocks or [element("p.quiet", "The model wrote nothing.")]),
        element("p.said", _shortened(said)) if said else None,
    )
    images = element("div.seen-images", *shown) if shown else None
    return element("div.one-turn", head, element("div.exchange", words, images))


def _seen(image: Mapping[str, Any], record: Record, puzzle: Puzzle, pictures: Pictures) -> Markup:
    if "board" in image:
        return _figure("Seen", _board(record, image["board"], puzzle, pictures))
    number = image["image"]
    width, height = pictures.size(number)
    drawing = element(
        "svg.board-drawing", element("use", href=f"#i{number}"), viewbox=f"0 0 {width} {height}", role="img",
        aria_label=f"Image of {width} by {height} pixels",
    )  # fmt: skip
    return _figure(f"Seen, {width}\u00d7{height}", drawing)


def _block(kind: str, body: str, *, closed: bool) -> Markup:
    body = _shortened(body.strip("\n").rstrip())
    note = None if closed else element("span.flag", "not closed")
    title = element("span.block-title", _TITLES.get(kind, "Outside the tags"), " ", note)
    if kind in ("code", "tool_call", "answer"):
        return element(f"div.written.{kind}", title, element("pre", body))
    return element(f"div.written.{kind}", title, element("p", body))


def _shortened(body: str) -> str:
    if len(body) <= LONGEST:
        return body
    return f"{body[:LONGEST]} ... ({len(body) - LONGEST:,} more characters)"


def _cut(text: str) -> list[tuple[str, str, bool]]:
    """Cut a turn's text at its tags: kind (or ``"outside"``), what is in it, and whether it is closed."""
    blocks: list[tuple[str, str, bool]] = []
    place = 0
    for start, end in thoughts(text):
        thought = text[start:end]
        inside = thought.removeprefix("<think>").removesuffix("</think>")
        blocks += [*_cut_outside(text[place:start]), ("think", inside, thought.endswith("</think>"))]
        place = end
    return blocks + _cut_outside(text[place:])


def _cut_outside(text: str) -> list[tuple[str, str, bool]]:
    """Cut what stands outside the thoughts."""
    blocks: list[tuple[str, str, bool]] = []

    def outside(part: str) -> None:
        if part.strip():
            blocks.append(("outside", part, True))

    place = 0
    while (found := _TAG.search(text, place)) is not None:
        outside(text[place : found.start()])
        close = f"</{found[1]}>"
        end = text.find(close, found.end())
        blocks.append((found[1], text[found.end() : end if end >= 0 else None], end >= 0))
        place = len(text) if end < 0 else end + len(close)
    outside(text[place:])
    return blocks
