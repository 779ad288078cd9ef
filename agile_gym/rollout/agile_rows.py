"""Rows of AGILE's puzzles, checked without decoding their images; see `agile_gym.rollout.agile_rl`."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

from agile_gym.actions.reading import read_whole
from agile_gym.errors import ImageError
from agile_gym.images.formats import header_problem, open_header
from agile_gym.puzzle.board import JigsawPuzzle, piece_numbers

__all__ = ["PuzzleRow", "encoded_images", "examine_row"]

MAX_PIECES = 100
MAX_TRUTH = 10_000
"""Longest ground truth that is read, in characters."""


class PuzzleRow(NamedTuple):
    """What a row holds.

    Attributes:
        kind: What it shows.
        puzzle: Grid and permutation; None for a photograph.
        image_size: Height and width of the photograph, in pixels.
        content_hash: Hash of the photograph.
        data_source: verl's word for the reward; "" if the row has none.
    """

    kind: Literal["pieces", "pieces+reference", "photograph"]
    puzzle: JigsawPuzzle | None
    image_size: tuple[int, int]
    content_hash: str
    data_source: str


def examine_row(entry: Mapping[str, Any], grid: tuple[int, int] | None, max_pixels: int) -> PuzzleRow:
    """Check a row without decoding its images.

    Raises:
        ImageError: If it cannot be used; the message says why, as part of a sentence.
    """
    data = encoded_images(entry)
    sizes = [_size(image, max_pixels) for image in data]
    source: object = entry.get("data_source")
    source = source if isinstance(source, str) else ""
    if len(data) == 1:
        return PuzzleRow("photograph", None, sizes[0], hashlib.sha256(data[0]).hexdigest(), source)
    puzzle = _puzzle(entry["reward_model"], grid)
    count = len(puzzle.home)
    if len(data) not in (count, count + 1):
        raise ImageError(f"it has {len(data)} images for {count} pieces")
    upright = [size if turn % 180 == 0 else size[::-1] for size, turn in zip(sizes, puzzle.turns, strict=False)]
    cells = [upright[piece] for piece in puzzle.solution]
    heights = [cell[0] for cell in cells[:: puzzle.cols]]
    widths = [cell[1] for cell in cells[: puzzle.cols]]
    if cells != [(height, width) for height in heights for width in widths]:
        raise ImageError("its pieces do not fit together")
    digest = hashlib.sha256(f"{puzzle.rows}x{puzzle.cols}:".encode())
    for piece in puzzle.solution:
        digest.update(hashlib.sha256(data[piece]).digest() + bytes([puzzle.turns[piece] // 90]))
    kind = "pieces" if len(data) == count else "pieces+reference"
    return PuzzleRow(kind, puzzle, (sum(heights), sum(widths)), digest.hexdigest(), source)


def encoded_images(entry: Mapping[str, Any]) -> list[bytes]:
    """Return the encoded images of a row."""
    images: object = entry["images"]
    found: list[bytes] = []
    for image in cast("list[object]", images) if isinstance(images, list) else []:
        data = cast("Mapping[str, object]", image).get("bytes") if isinstance(image, Mapping) else image
        if not isinstance(data, bytes):
            raise ImageError("one of its images has no bytes")
        found.append(data)
    if not found:
        raise ImageError("it has no images")
    return found


def _size(data: bytes, max_pixels: int) -> tuple[int, int]:
    stream = io.BytesIO(data)
    problem = header_problem(stream, max_pixels)
    image = open_header(stream) if problem is None else None
    if image is None:
        raise ImageError(f"one of its images cannot be used: {problem}")
    return image.height, image.width


def _puzzle(model: object, grid: tuple[int, int] | None) -> JigsawPuzzle:
    """Read the ground truth of a row."""
    text = cast("Mapping[str, object]", model).get("ground_truth") if isinstance(model, Mapping) else None
    try:
        given: object = json.loads(text) if isinstance(text, str) and len(text) <= MAX_TRUTH else None
    except (ValueError, RecursionError):
        given = None
    pairs = cast("list[object]", given) if isinstance(given, list) else []
    count = len(pairs)
    numbers = piece_numbers(min(count, MAX_PIECES))
    home, turns = [-1] * count, [0] * count
    for place, pair in enumerate(pairs):
        piece, given = _pair(pair)
        angle = read_whole(given)
        if isinstance(piece, str) and piece in numbers and angle is not None and angle % 90 == 0:
            home[numbers[piece]], turns[numbers[piece]] = place, angle % 360
    if count < 2 or sorted(home) != list(range(count)):
        raise ImageError(f"its ground truth {text!r:.80} is not JSON of [piece, angle] pairs, each piece once")
    side = math.isqrt(count)
    rows, cols = grid or (side, side)
    if rows * cols != count:
        raise ImageError(f"{count} pieces do not make a grid of {rows}x{cols}; give their grid, such as grid='2x3'")
    return JigsawPuzzle(rows, cols, tuple(home), tuple(turns))


def _pair(entry: object) -> tuple[object, object]:
    """Return piece and angle; a piece alone has the angle 0."""
    parts = cast("list[object]", entry) if isinstance(entry, list) else [entry, 0]
    return (parts[0], parts[1]) if len(parts) == 2 else (None, None)
