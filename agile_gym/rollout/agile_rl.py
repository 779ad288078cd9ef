"""AGILE's puzzles for reinforcement learning, from verl's Parquet files: photographs, and how they were shuffled.

A row holds ``images`` (``[{"bytes"}]``: the pieces, or the pieces and a reference image, or one photograph) and
``reward_model`` (``ground_truth``: JSON text of ``[[piece, angle], ...]``, row by row).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import ImageError, import_optional
from agile_gym.images import DEFAULT_MAX_PIXELS, SkippedImage, SkippedImageWarning, decode_image
from agile_gym.images.cache import shared_cache
from agile_gym.images.formats import describe_error
from agile_gym.puzzle.board import JigsawPuzzle, parse_grid
from agile_gym.rollout.agile_rows import encoded_images, examine_row

__all__ = ["AgilePuzzle", "AgilePuzzles", "read_agile_rl"]

BATCH_ROWS = 16
_NAMED = 3
Grid = int | str | Sequence[int]


@dataclass(frozen=True, slots=True)
class AgilePuzzle:
    """A row: a photograph, and how it was shuffled.

    Attributes:
        name: File and row.
        image: Index of the photograph in `AgilePuzzles`.
        kind: What the row showed: ``"pieces"``, ``"pieces+reference"`` or one ``"photograph"``.
        puzzle: Grid and permutation; None for a photograph.
        image_size: Height and width of the photograph, in pixels.
        data_source: verl's word for the reward, such as ``"puzzle"``; "" if the row has none.
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
    """What a photograph is put together from."""

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
        grid: Grid of the puzzles, such as ``"2x3"``; squares by default, as in AGILE's files, which do not tell it.
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
