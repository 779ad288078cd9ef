# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of transformers are incomplete.
"""Episodes as data for pages: boards that a transcript shows, its turns, its tokens."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.primitives import ActionError
from agile_gym.actions.reading import read_whole
from agile_gym.actions.tags import answer_span, read_answer, thoughts
from agile_gym.envs.contract import label_of
from agile_gym.errors import ConfigurationError, ModelError, import_optional, is_whole
from agile_gym.puzzle.pixels import MAX_SIDE_PIXELS, WHITE
from agile_gym.transcripts.behaviours import find_behaviours
from agile_gym.transcripts.record import Image, Segment, Transcript, Turn

__all__ = ["Puzzle", "answer_tiles", "episode_record", "index_row", "load_token_texts", "puzzle_of", "segment_record"]


class Tile(NamedTuple):
    """A piece at a place of a board.

    Attributes:
        piece: Number of the piece, from 0.
        angle: Degrees by which it is turned clockwise: 0, 90, 180 or 270.
    """

    piece: int
    angle: int


class BoardImage(NamedTuple):
    """An image that is nothing but pieces laid out on white.

    Attributes:
        tiles: The piece at each place, row by row.
        gap: White pixels between two columns, and between two rows.
    """

    tiles: tuple[Tile, ...]
    gap: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Puzzle:
    """The board of an episode; of another environment than the jigsaw, one without pieces.

    Attributes:
        rows: Number of rows.
        cols: Number of columns.
        names: Names of the pieces, in the order of the first state.
        pieces: Their images, each (piece_height, piece_width, 3) uint8; empty where the transcript holds no images.
        solution: The right tile at each place, or None if the solution is no state of this board.
    """

    rows: int
    cols: int
    names: tuple[str, ...]
    pieces: tuple[Image, ...]
    solution: tuple[Tile, ...] | None

    @property
    def start(self) -> tuple[Tile, ...]:
        """The first state."""
        return tuple(Tile(piece, 0) for piece in range(len(self.names)))


def puzzle_of(transcript: Transcript) -> Puzzle:
    """Read the puzzle of a transcript.

    Raises:
        ConfigurationError: If its task has a grid that is none, or not a name for each piece.
    """
    task = transcript.task
    if "env" in task and "grid" not in task:
        return Puzzle(0, 0, (), (), None)
    grid = re.fullmatch(r"([0-9]{1,2})x([0-9]{1,2})", str(task.get("grid")))
    given: object = task.get("names")
    names = tuple(str(name) for name in cast(Sequence[object], given)) if isinstance(given, list | tuple) else ()
    if grid is None or not names or int(grid[1]) * int(grid[2]) != len(names) or len(set(names)) != len(names):
        raise ConfigurationError(
            f"The transcript {transcript.id!r} has the grid {task.get('grid')!r:.80} and the names {given!r:.200}; a "
            "grid is written like '2x2', and every piece of it has a name of its own."
        )
    rows, cols = int(grid[1]), int(grid[2])
    pieces = _pieces(transcript, rows, cols)
    return Puzzle(rows, cols, names, pieces, tiles_of(transcript.solution, names))


def tiles_of(state: Sequence[Any], names: Sequence[str]) -> tuple[Tile, ...] | None:
    """Read a state as a model writes it, names or [name, angle] pairs, as tiles.

    Args:
        state: The state, or any value given as an answer.
        names: Names of the pieces.

    Returns:
        The tiles, or None if they are not every piece exactly once.
    """
    if not names:
        return None
    numbers = {name: piece for piece, name in enumerate(names)}
    tiles: list[Tile] = []
    for entry in state:
        pair = cast(Sequence[object], entry) if isinstance(entry, list | tuple) else (entry, 0)
        name, given = pair if len(pair) == 2 else (None, 0)
        angle = read_whole(given)
        if not isinstance(name, str) or name not in numbers or angle is None or angle % 90:
            return None
        tiles.append(Tile(numbers[name], angle % 360))
    return tuple(tiles) if sorted(tile.piece for tile in tiles) == list(range(len(names))) else None


def answer_tiles(turn: Turn, puzzle: Puzzle, *, rotations: bool) -> tuple[Tile, ...] | None:
    """Return the board that a turn gave as its answer, or None if it gave none or no whole board."""
    if turn.primitives != ("Answer",):
        return None
    span = answer_span(turn.text)
    if span is None:
        return None
    try:
        answer = read_answer(turn.text[slice(*span)], puzzle.names, rotations=rotations)
    except ActionError:
        return None
    state = answer.order if answer.turns is None else list(zip(answer.order, answer.turns, strict=True))
    return tiles_of(state, puzzle.names)


class PieceReader:
    """Recognition of images that are boards made of given pieces, pixel by pixel."""

    def __init__(self, puzzle: Puzzle) -> None:
        """Prepare for a puzzle; without pieces nothing is recognised."""
        self._puzzle = puzzle
        self._tiles: dict[bytes, list[Tile]] = {}
        for piece, image in enumerate(puzzle.pieces):
            angles = (0, 90, 180, 270) if image.shape[0] == image.shape[1] else (0, 180)
            for angle in angles:
                key = np.ascontiguousarray(np.rot90(image, -angle // 90)).tobytes()
                self._tiles.setdefault(key, []).append(Tile(piece, angle))

    def read(self, image: Image, expected: Sequence[Tile] | None = None) -> BoardImage | None:
        """Return the board that an image shows, or None if it is not exactly a board.

        Args:
            image: The image.
            expected: The tiles to prefer where pieces look the same.
        """
        puzzle = self._puzzle
        if not puzzle.pieces:
            return None
        height, width = puzzle.pieces[0].shape[:2]
        gap_y, gap_x = _gap(image.shape[0], puzzle.rows, height), _gap(image.shape[1], puzzle.cols, width)
        if gap_y is None or gap_x is None or image.shape[2] != puzzle.pieces[0].shape[2]:
            return None
        rest = np.ones(image.shape[:2], np.bool_)
        tiles: list[Tile] = []
        for row in range(puzzle.rows):
            for col in range(puzzle.cols):
                y, x = row * (height + gap_y), col * (width + gap_x)
                cell = image[y : y + height, x : x + width]
                fitting = self._tiles.get(np.ascontiguousarray(cell).tobytes())
                if fitting is None:
                    return None
                hint = expected[len(tiles)] if expected else fitting[0]
                tiles.append(hint if hint in fitting else fitting[0])
                rest[y : y + height, x : x + width] = False
        if bool(rest.any()) and not bool((image[rest] == WHITE).all()):
            return None
        return BoardImage(tuple(tiles), (gap_x, gap_y))


def _gap(length: int, count: int, side: int) -> int | None:
    """Return the pixels between ``count`` pieces that together have a length, or None if they do not fit."""
    rest = length - count * side
    if count == 1 or rest < 0:
        return 0 if rest == 0 else None
    return rest // (count - 1) if rest % (count - 1) == 0 else None


def _pieces(transcript: Transcript, rows: int, cols: int) -> tuple[NDArray[np.uint8], ...]:
    """Find the pieces among the images of the prompt, or cut them from the first board."""
    images, count = transcript.prompt_images, rows * cols
    if transcript.task.get("initial_view") != "board":
        same = len({image.shape for image in images[:count]}) == 1
        return images[:count] if len(images) >= count and same else ()
    size: object = transcript.task.get("piece_size")
    sides = cast(Sequence[object], size) if isinstance(size, list | tuple) else ()
    if not images or len(sides) != 2 or not all(is_whole(side, MAX_SIDE_PIXELS) for side in sides):
        return ()
    height, width = cast(tuple[int, int], sides)
    gap_y, gap_x = _gap(images[0].shape[0], rows, height), _gap(images[0].shape[1], cols, width)
    if gap_y is None or gap_x is None:
        return ()
    return tuple(
        images[0][y : y + height, x : x + width]
        for y in range(0, rows * (height + gap_y), height + gap_y)
        for x in range(0, cols * (width + gap_x), width + gap_x)
    )


_WORD_START = "\u2581"  # how SentencePiece writes the space before a word, which decoding one token alone drops


class TokenTexts(NamedTuple):
    """Tokenizer facts for the token strip.

    Attributes:
        decode: Returns the text of a token.
        image_tokens: Ids of the tokens that stand for images.
    """

    decode: Callable[[int], str]
    image_tokens: frozenset[int]


def load_token_texts(path: str | Path) -> TokenTexts:
    """Load a tokenizer; no code that may be beside it is run.

    Args:
        path: A model's folder, or its name on the hub.

    Raises:
        ModelError: If there is no tokenizer.
        MissingDependencyError: If transformers is not installed.
    """
    transformers = import_optional("transformers", extra="vlm", purpose="read a tokenizer")
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"There is no tokenizer at {str(path)!r}: {reason} Give the folder of the model that was played, or its "
            "name on the hub; or leave it out to see tokens as numbers."
        ) from error

    def decode(token: int) -> str:
        if not 0 <= token < len(tokenizer):
            return f"({token})"
        text = str(tokenizer.decode([token]))
        piece = tokenizer.convert_ids_to_tokens(token)
        dropped = isinstance(piece, str) and piece.startswith(_WORD_START) and not text.startswith(" ")
        return f" {text}" if dropped else text

    return TokenTexts(decode, _image_tokens(path, tokenizer, transformers))


def _image_tokens(path: str | Path, tokenizer: Any, transformers: Any) -> frozenset[int]:  # noqa: ANN401 -- untyped
    """Look for the id of the image token in the tokenizer, then in the model's configuration."""
    found = getattr(tokenizer, "image_token_id", None)
    if not isinstance(found, int):
        try:
            config = transformers.AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        except (OSError, ValueError, KeyError):  # a tokenizer alone, without a model
            return frozenset()
        found = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    return frozenset([found]) if isinstance(found, int) else frozenset()


MIN_RUN = 4
"""From so many on, equal tokens in a row that the model did not write are kept as one entry with a count."""
_DIGITS = 5
_MAX_INT = 2**53 - 1  # JavaScript reads larger numbers as their neighbours


def plain_json(value: object) -> Any:  # noqa: ANN401 -- any JSON value
    """Return a value in the types that a browser reads: numbers that are not finite, or too large, become text."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _MAX_INT else str(value)
    if isinstance(value, np.generic):
        return plain_json(cast(object, value.item()))
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in cast(Mapping[object, object], value).items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in cast(Sequence[object], value)]
    return str(value)


def index_row(transcript: Transcript) -> dict[str, Any]:
    """Return the entry of a transcript in the list of episodes."""
    turns = transcript.turns
    tokens = [turn.usage.new_tokens for turn in turns if turn.usage.new_tokens is not None]
    return {
        "id": transcript.id,
        "policy": transcript.policy,
        "grid": plain_json(transcript.task.get("grid", transcript.task.get("env"))),
        "level": plain_json(
            transcript.task.get("level") if "grid" in transcript.task else label_of(transcript.task) or None
        ),
        "solved": transcript.solved,
        "score": plain_json(transcript.score),
        "reward": plain_json(transcript.reward["total"]),
        "turns": len(turns),
        "errors": dict(Counter(turn.error for turn in turns if turn.error is not None)),
        "truncated": transcript.truncated,
        "seconds": plain_json(round(sum(turn.usage.seconds + turn.env_seconds for turn in turns), 6)),
        "tokens": plain_json(sum(tokens)) if tokens else None,
        "behaviours": find_behaviours(transcript),
    }


def episode_record(transcript: Transcript, puzzle: Puzzle, add_image: Callable[[Image, bool], int]) -> dict[str, Any]:
    """Return all parts of an episode that the page shows, but its tokens.

    Args:
        transcript: The episode.
        puzzle: Its puzzle.
        add_image: Function that stores an image and returns its number; its second argument is True for a piece.
    """
    reader = PieceReader(puzzle)
    pieces = [add_image(piece, True) for piece in puzzle.pieces]

    def reference(image: Image, expected: Sequence[Tile] | None) -> dict[str, Any]:
        board = None if len(pieces) <= 1 else reader.read(image, expected)
        if board is None:
            return {"image": add_image(image, False)}
        return _board_reference(board, image)

    rotations = bool(transcript.task.get("rotations"))
    return {
        "id": transcript.id,
        "policy": transcript.policy,
        "task": plain_json(transcript.task),
        "rows": puzzle.rows,
        "cols": puzzle.cols,
        "names": puzzle.names,
        "pieces": pieces,
        "start": puzzle.start,
        "solution": plain_json(transcript.solution),
        "solution_tiles": puzzle.solution,
        "system": transcript.system,
        "prompt": transcript.prompt,
        "prompt_images": [reference(image, puzzle.start) for image in transcript.prompt_images],
        "turns": [_turn_record(turn, puzzle, rotations, reference) for turn in transcript.turns],
        "solved": transcript.solved,
        "score": plain_json(transcript.score),
        "reward": plain_json(transcript.reward),
        "truncated": transcript.truncated,
        "details": plain_json(transcript.details),
    }


def _turn_record(
    turn: Turn,
    puzzle: Puzzle,
    rotations: bool,
    reference: Callable[[Image, Sequence[Tile] | None], dict[str, Any]],
) -> dict[str, Any]:
    tiles = tiles_of(turn.state, puzzle.names)
    return {
        "text": turn.text,
        "thoughts": [[_utf16(turn.text, place) for place in span] for span in thoughts(turn.text)],
        "feedback": turn.feedback,
        "images": [reference(image, tiles) for image in turn.images],
        "primitives": turn.primitives,
        "error": turn.error,
        "state": plain_json(turn.state),
        "tiles": tiles,
        "answer_tiles": answer_tiles(turn, puzzle, rotations=rotations),
        "reward": plain_json(turn.reward),
        "env_seconds": plain_json(turn.env_seconds),
        "usage": plain_json(asdict(turn.usage)),
    }


def _utf16(text: str, place: int) -> int:
    """Return a place in a text as JavaScript counts it."""
    return place if text.isascii() else len(text[:place].encode("utf-16-le", "surrogatepass")) // 2


def _board_reference(board: BoardImage, image: Image) -> dict[str, Any]:
    height, width = image.shape[:2]
    return {"board": board.tiles, "gap": board.gap, "size": (width, height)}


def segment_record(segment: Segment) -> dict[str, Any]:
    """Return the tokens of a segment.

    Returns:
        ``length``; ``ids``, where equal ids in a row that the model did not write can be one [id, count]; ``mask``, the
        [start, end) spans that the model wrote; ``logps`` of the marked tokens, in order; ``turns`` and ``advantages``
        (or None) of all tokens as [value, count] runs; ``images``.
    """
    ids, mask = segment.ids, segment.loss_mask
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return {
        "length": len(ids),
        "ids": _collapsed(ids, mask),
        "mask": edges.reshape(-1, 2).tolist(),
        "logps": _numbers(segment.logps[mask]),
        "turns": _runs(segment.turns),
        "advantages": None if segment.advantages is None else _runs(segment.advantages),
        "images": list(segment.images),
    }


def _collapsed(ids: NDArray[np.int32], mask: NDArray[np.bool_]) -> list[Any]:
    entries: list[Any] = []
    for start, end in _run_spans(np.stack([ids, mask.astype(np.int32)])):
        count, token = end - start, int(ids[start])
        entries += [[token, count]] if count >= MIN_RUN and not mask[start] else [token] * count
    return entries


def _runs(values: NDArray[Any]) -> list[list[Any]]:
    spans = _run_spans(values[None])
    numbers = _numbers(values[[start for start, _ in spans]])
    return [[number, end - start] for (start, end), number in zip(spans, numbers, strict=True)]


def _run_spans(rows: NDArray[Any]) -> list[tuple[int, int]]:
    """Return the [start, end) spans in which the columns of (R, T) are equal."""
    length = rows.shape[1]
    if length == 0:
        return []
    changes = np.flatnonzero((rows[:, 1:] != rows[:, :-1]).any(axis=0)) + 1
    ends: list[int] = [*changes.tolist(), length]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _numbers(values: Iterable[Any]) -> list[Any]:
    """Return numbers, rounded to five significant digits if they are not whole."""
    return [
        plain_json(number if isinstance(number, int) else _rounded(number)) for number in np.asarray(values).tolist()
    ]


def _rounded(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")
