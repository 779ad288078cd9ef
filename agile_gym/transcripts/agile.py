"""AGILE's puzzles for reinforcement learning, from verl's Parquet files, checked row by row.

A row holds ``images`` (``[{"bytes"}]``: the pieces, or the pieces and a reference image, or one photograph) and
``reward_model`` (``ground_truth``: JSON text of ``[[piece, angle], ...]``, row by row).
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.reading import read_whole
from agile_gym.errors import ImageError, import_optional
from agile_gym.images.decode import decode_image
from agile_gym.images.formats import DEFAULT_MAX_PIXELS, describe_error, header_problem, open_header
from agile_gym.images.items import SkippedImage, shared_cache
from agile_gym.images.opening import SkippedImageWarning
from agile_gym.puzzle.board import JigsawPuzzle, parse_grid, piece_numbers

__all__ = ["AgilePuzzle", "AgilePuzzles", "PuzzleRow", "encoded_images", "examine_row", "read_agile_rl"]

MAX_PIECES = 100
MAX_TRUTH = 10_000
"""Longest ground truth that is read, in characters."""


class PuzzleRow(NamedTuple):
    """Content of a row.

    Attributes:
        kind: Kind of its images, see `AgilePuzzle.kind`.
        puzzle: Grid and permutation; None for a photograph.
        image_size: Height and width of the photograph, in pixels.
        content_hash: Hash of the photograph.
        data_source: verl's name of the reward; "" if the row has none.
    """

    kind: Literal["pieces", "pieces+reference", "photograph"]
    puzzle: JigsawPuzzle | None
    image_size: tuple[int, int]
    content_hash: str
    data_source: str


def examine_row(entry: Mapping[str, Any], grid: tuple[int, int] | None, max_pixels: int) -> PuzzleRow:
    """Check a row without decoding its images.

    Raises:
        ImageError: If it cannot be used; the message is the reason, as part of a sentence.
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


BATCH_ROWS = 16
_NAMED = 3
Grid = int | str | Sequence[int]


@dataclass(frozen=True, slots=True)
class AgilePuzzle:
    """A row: a photograph and its permutation.

    Attributes:
        name: File and row.
        image: Index of the photograph in `AgilePuzzles`.
        kind: Images of the row: ``"pieces"``, ``"pieces+reference"`` or one ``"photograph"``.
        puzzle: Grid and permutation; None for a photograph.
        image_size: Height and width of the photograph, in pixels.
        data_source: verl's name of the reward, such as ``"puzzle"``; "" if the row has none.
    """

    name: str
    image: int
    kind: Literal["pieces", "pieces+reference", "photograph"]
    puzzle: JigsawPuzzle | None
    image_size: tuple[int, int]
    data_source: str

    @property
    def reset_options(self) -> dict[str, Any]:
        """Options for the ``reset`` of an environment that was made with these photographs and the puzzle's grid.

        Made with ``image_size=puzzle.image_size`` (and ``crop="center"``, the default) it shows the row's own pieces.
        """
        options: dict[str, Any] = {"image": self.image}
        if self.puzzle is not None:
            options["permutation"] = list(self.puzzle.home)
            if any(self.puzzle.turns):
                options["turns"] = list(self.puzzle.turns)
        return options


class _Row(NamedTuple):
    """Source of a photograph: file, row and permutation."""

    file: int
    row: int
    puzzle: JigsawPuzzle | None
    content_hash: str


class AgilePuzzles:
    """The photographs of AGILE's puzzles, put together again; an `agile_gym.images.ImageSource`.

    A photograph's content hash is SHA-256 of the encoded image or, where it was cut, of the hashes of its encoded
    pieces in their right order.

    Attributes:
        puzzles: The rows that can be used, in order.
        skipped: The others, with the reasons.
    """

    def __init__(
        self, files: Sequence[Path], *, grid: Grid | None = None, max_pixels: int = DEFAULT_MAX_PIXELS
    ) -> None:
        """List the rows of some files; see `read_agile_rl`."""
        self._files = tuple(path.stem for path in files)
        self._tables = tuple(_open(path) for path in files)
        self._max_pixels = max_pixels
        self._rows: list[_Row] = []
        puzzles: list[AgilePuzzle] = []
        skipped: list[SkippedImage] = []
        known: dict[str, int] = {}
        sides = None if grid is None else parse_grid(grid)
        for number, table in enumerate(self._tables):
            for row, entry in enumerate(_entries(table)):
                name = f"{self._files[number]}:{row}"
                try:
                    found = examine_row(entry, sides, max_pixels)
                except ImageError as problem:
                    skipped.append(SkippedImage(name, str(problem)))
                    continue
                image = known.setdefault(found.content_hash, len(known))
                if image == len(self._rows):
                    self._rows.append(_Row(number, row, found.puzzle, found.content_hash))
                puzzles.append(AgilePuzzle(name, image, found.kind, found.puzzle, found.image_size, found.data_source))
        self.puzzles = tuple(puzzles)
        self.skipped = tuple(skipped)

    def __len__(self) -> int:
        """Return the number of photographs."""
        return len(self._rows)

    def __repr__(self) -> str:
        """Return the numbers of puzzles and photographs."""
        return f"AgilePuzzles({len(self.puzzles)} puzzles, {len(self)} photographs, {len(self.skipped)} skipped)"

    def content_hash(self, index: int) -> str:
        """Return the hash of a photograph; see the class."""
        return self._rows[index].content_hash

    def name(self, index: int) -> str:
        """Return file and row of a photograph."""
        return f"{self._files[self._rows[index].file]}:{self._rows[index].row}"

    def load(self, index: int) -> NDArray[np.uint8]:
        """Return the pixels of a photograph; see `agile_gym.images.ImageSource.load`."""
        row = self._rows[index]

        def put_together() -> NDArray[np.uint8]:
            name = self.name(index)
            data = encoded_images(self._tables[row.file][row.row].to_pylist()[0])
            if row.puzzle is None:
                return decode_image(data[0], max_pixels=self._max_pixels, name=name)
            pieces = [decode_image(piece, max_pixels=self._max_pixels, name=name) for piece in data]
            return _assemble(pieces, row.puzzle)

        return shared_cache().get(row.content_hash, put_together)


def read_agile_rl(
    path: str | Path | Sequence[str | Path], *, grid: Grid | None = None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> AgilePuzzles:
    """Read AGILE's puzzles for reinforcement learning, or others in their layout.

    Args:
        path: A Parquet file, a folder of them, or a list of files.
        grid: Grid of the puzzles, such as ``"2x3"``; squares by default, as in AGILE's files, which do not include it.
        max_pixels: Most pixels that an image may have; rows with a larger one are skipped.

    Returns:
        The photographs, for ``images=`` of an environment, and the puzzles that were made of them.

    Raises:
        ImageError: If a file cannot be read, lacks a column, or no row can be used.
        ConfigurationError: If ``grid`` is not one.
        MissingDependencyError: If the ``datasets`` package is not installed. It gives access to single rows, through a
            copy of the files in its cache.
    """
    if isinstance(path, str | Path):
        given = Path(path)
        files = sorted(given.glob("*.parquet")) if given.is_dir() else [given]
        if not files:
            raise ImageError(f"{given} holds no .parquet file. Give AGILE's folder RL, or a file in it.")
    else:
        files = [Path(entry) for entry in path]
    for file in files:
        if not file.is_file():
            raise ImageError(f"{file} does not exist. Give AGILE's folder RL, or a file in it.")
    source = AgilePuzzles(files, grid=grid, max_pixels=max_pixels)
    named = "; ".join(f"{name}: {reason}" for name, reason in source.skipped[:_NAMED])
    if not len(source):
        raise ImageError(f"No row of {', '.join(map(str, files))} can be used ({named or 'there are none'}).")
    if source.skipped:
        more = ", ..." if len(source.skipped) > _NAMED else ""
        warnings.warn(
            f"{len(source.skipped)} rows skipped ({named}{more}); {len(source.puzzles)} used. The attribute 'skipped' "
            "lists all.",
            SkippedImageWarning,
            stacklevel=2,
        )
    return source


def _open(path: Path) -> Any:  # noqa: ANN401 -- a datasets.Dataset that returns pyarrow tables
    """Open a file so that its rows can be read in any order."""
    datasets = import_optional("datasets", extra="data", purpose="read AGILE's Parquet files")
    try:
        table = datasets.load_dataset("parquet", data_files=[str(path)], split="train")
    except Exception as error:
        raise ImageError(f"{path} cannot be read as Parquet: {describe_error(error)}.") from error
    missing = [name for name in ("images", "reward_model") if name not in table.column_names]
    if missing:
        raise ImageError(
            f"{path} has no column {' and '.join(missing)}, so it is not in AGILE's layout; its columns are "
            f"{', '.join(table.column_names)}."
        )
    names = [name for name in ("images", "reward_model", "data_source") if name in table.column_names]
    return table.select_columns(names).with_format("arrow")


def _entries(table: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 -- a datasets.Dataset
    for start in range(0, len(table), BATCH_ROWS):
        yield from table[start : start + BATCH_ROWS].to_pylist()


def _assemble(pieces: Sequence[NDArray[np.uint8]], puzzle: JigsawPuzzle) -> NDArray[np.uint8]:
    """Put pieces together in their right order, each turned upright."""
    upright = [np.rot90(pieces[piece], -puzzle.turns[piece] // 90) for piece in puzzle.solution]
    rows = [np.concatenate(upright[row * puzzle.cols : (row + 1) * puzzle.cols], axis=1) for row in range(puzzle.rows)]
    return np.ascontiguousarray(np.concatenate(rows, axis=0))
