"""Tables of questions on disk, TSV and Parquet: rows of texts, and cells of images that are read when needed.

A TSV may have gigabytes. It is read through once, row by row, and only the places of the rows with images are kept.
"""

from __future__ import annotations

import ast
import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from agile_gym.errors import ConfigurationError, ImageError, import_optional, reason_of
from agile_gym.images.decode import read_file
from agile_gym.images.formats import describe_error
from agile_gym.questions.records import Picture, from_base64
from agile_gym.questions.spool import Spool

__all__ = ["MAX_FIELD", "Row", "TsvTable", "parquet_columns", "parquet_rows", "read_list", "tsv_columns"]

MAX_FIELD = 512 * 1024 * 1024
"""Largest size of a field, in characters."""
MAX_REFERENCE = 64
"""Longest value of an image's cell that is the index of another row."""
MAX_LITERAL = 100_000
"""Longest list literal of texts that is read, in characters."""


@dataclass(slots=True)
class Row:
    """A row of a table.

    Attributes:
        texts: Texts of the columns that hold no images; missing ones are empty.
        values: Of Parquet, the values as they are.
        pictures: Its pictures by column, in order.
    """

    texts: dict[str, str]
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    pictures: list[Picture] = field(default_factory=list[Picture])


def read_list(text: str) -> list[str] | None:
    """Return the texts of a list literal, or None if it is none; nothing is executed."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        value: Any = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    if not isinstance(value, list) or not all(
        isinstance(one, str | int | float) for one in cast("list[object]", value)
    ):
        return None
    return [str(one) for one in cast("list[object]", value)]


class _Lines:
    """Lines of a file as texts, with the place that was reached; it also notes whether the last line ended."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.place, self.ended = file.tell(), True
        self._file, self._path = file, path

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_FIELD)
        if not line:
            raise StopIteration
        self.place += len(line)
        self.ended = line.endswith(b"\n")
        try:
            return line.decode("utf-8-sig" if self.place == len(line) else "utf-8")
        except UnicodeDecodeError as error:
            raise ConfigurationError(
                f"{self._path} is not a text in UTF-8 ({error.reason}). Give a TSV file."
            ) from None


def _reader(lines: Iterator[str]) -> Iterator[list[str]]:
    if csv.field_size_limit() < MAX_FIELD:
        csv.field_size_limit(MAX_FIELD)
    return csv.reader(lines, delimiter="\t", strict=True)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {reason_of(error)}. Give a benchmark's file.") from error


def tsv_columns(path: Path) -> list[str]:
    """Return the names of the columns of a TSV.

    Raises:
        ConfigurationError: If it cannot be read, or is no TSV.
    """
    with _open(path) as file:
        try:
            return next(iter(_reader(_Lines(file, path))), list[str]())
        except csv.Error as error:
            raise ConfigurationError(f"{path} is not a TSV: {error}.") from None


class TsvTable:
    """Rows of a TSV as VLMEvalKit has them.

    Attributes:
        path: The file.
        columns: Names of the columns.
    """

    def __init__(self, path: Path) -> None:
        """Open a file; see `rows`."""
        self.path = path
        self.columns: list[str] = tsv_columns(path)
        self._places: dict[str, tuple[int, int]] = {}

    def rows(self) -> list[Row]:
        """Read the whole file once.

        Returns:
            The rows, without the images themselves.

        Raises:
            ConfigurationError: If a row is not whole, an index is there twice, or an image's index is not there.
        """
        images = {"image", "image_path"} & set(self.columns)
        found: list[tuple[Row, str, int]] = []
        with _open(self.path) as file:
            lines = _Lines(file, self.path)
            reader, number = _reader(lines), 0
            try:
                next(reader)
                start = lines.place
                for values in reader:
                    number += 1
                    if len(values) != len(self.columns):
                        raise ConfigurationError(
                            f"{self.path}: row {number} has {len(values)} of {len(self.columns)} columns; the file was "
                            "cut short, or is damaged. Get it again."
                        )
                    row = dict(zip(self.columns, values, strict=True))
                    texts = {name: value for name, value in row.items() if name not in images}
                    index = texts.get("index", "").strip()
                    if index in self._places:
                        raise ConfigurationError(
                            f"{self.path}: the index {index!r:.80} is there twice (again in row {number}). Give a file "
                            "in which each question is once."
                        )
                    self._places[index] = (start, lines.place - start)
                    cell = row.get("image", "").strip()
                    reference, count = "", 1
                    if not cell:
                        paths = row.get("image_path", "").strip()
                        names = read_list(paths) or ([paths] if paths else [])
                        found.append((Row(texts, pictures=self._files(names)), "", 0))
                        start = lines.place
                        continue
                    if len(cell) <= MAX_REFERENCE:
                        reference = cell
                    elif cell.startswith("["):
                        count = len(read_list(cell) or [cell])
                    found.append((Row(texts), reference or index, count))
                    start = lines.place
            except csv.Error as error:
                raise ConfigurationError(
                    f"{self.path}: row {number + 1} cannot be read ({error}); the file was cut short, or is damaged. "
                    "Get it again."
                ) from None
            if not lines.ended:
                raise ConfigurationError(
                    f"{self.path} ends in the middle of a line, so it was cut short. Get it again; of a file that is "
                    "whole, end the last line with a line break."
                )
        for row, target, count in found:
            if target:
                row.pictures = self._pictures(target, count)
        return [row for row, *_ in found]

    def _files(self, names: Sequence[str]) -> list[Picture]:
        """Return the pictures that VLMEvalKit has unpacked, which lie under ``images/NAME/`` beside the file."""
        root = self.path.resolve().parent
        folder = root / "images" / self.path.stem.removesuffix("_local")

        def read(name: str) -> bytes:
            parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
            if os.path.isabs(name):
                given = Path(name).resolve()
                found = given if given.is_relative_to(root) and given.is_file() else folder / parts[-1]
            else:
                found = folder.joinpath(*parts).resolve()
            if not found.resolve().is_relative_to(root):
                raise ImageError(f"the row names the file {name!r:.200}, which is not in {folder}")
            return read_file(found)

        return [Picture(name[:200], partial(read, name)) for name in names]

    def _pictures(self, index: str, count: int) -> list[Picture]:
        """Return the pictures of a row, or, of a row that names another one, of that."""
        place = self._places.get(index)

        def read(position: int) -> bytes:
            if place is None:
                raise ImageError(f"its image is that of the row {index!r:.80}, which is not there")
            with _open(self.path) as file:
                file.seek(place[0])
                text = file.read(place[1]).decode("utf-8", "replace")
            values = next(_reader(iter(io.StringIO(text, newline=""))), list[str]())
            cell = dict(zip(self.columns, values, strict=False)).get("image", "").strip()
            if len(cell) <= MAX_REFERENCE:
                raise ImageError(f"the row {index!r:.80}, whose image it uses, has none of its own")
            cells = (read_list(cell) or []) if cell.startswith("[") else [cell]
            if position >= len(cells):
                raise ImageError(f"the images of row {index!r:.80} are not a list of base64 texts")
            return from_base64(cells[position], f"row {index!r:.80}")

        return [
            Picture(
                f"the image of row {index[:80]}" + (f" ({position + 1})" if count > 1 else ""), partial(read, position)
            )
            for position in range(count)
        ]


def parquet_columns(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file.

    Raises:
        ConfigurationError: If it is none, or damaged.
        MissingDependencyError: If pyarrow is not installed.
    """
    return list(_open_parquet(path).schema_arrow.names)


def parquet_rows(path: Path, images: Sequence[str], spool: Spool) -> list[Row]:
    """Read the rows of a Parquet file, whose pictures are copied to a temporary file.

    Parquet has no access to single rows: a page, which can be a whole group of rows, is read for each. So the columns
    of images are read once, and the page that is in memory is let go.

    Args:
        path: The file.
        images: Columns that hold images: structures with bytes, or base64 texts. Empty cells are no pictures.
        spool: Takes the pictures.

    Returns:
        The rows, without the images themselves.

    Raises:
        ConfigurationError: If the file cannot be read, or the pictures cannot be copied.
        MissingDependencyError: If pyarrow is not installed.
    """
    file = _open_parquet(path)
    names = file.schema_arrow.names
    rows: list[Row] = []
    try:
        for batch in file.iter_batches(batch_size=256, columns=[name for name in names if name not in images]):
            for values in batch.to_pylist():
                texts = {name: "" if value is None else str(value) for name, value in values.items()}
                rows.append(Row(texts, values))
        for name in images:
            if name in names:
                _add_pictures(path, name, rows, spool)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"{path} cannot be read ({describe_error(error)}). Get it again.") from error
    return rows


def _open_parquet(path: Path) -> Any:  # noqa: ANN401 -- pyarrow is untyped
    module = import_optional("pyarrow.parquet", extra="data", purpose="read questions from Parquet files")
    try:
        return module.ParquetFile(str(path), memory_map=True, pre_buffer=False)
    except Exception as error:
        raise ConfigurationError(
            f"{path} is not a Parquet file, or damaged ({describe_error(error)}). Get it again."
        ) from error


def _add_pictures(path: Path, column: str, rows: Sequence[Row], spool: Spool) -> None:
    """Copy the images of a column, row by row, and add them to the rows."""
    module = import_optional("pyarrow", extra="data", purpose="read questions from Parquet files")
    batches = _open_parquet(path).iter_batches(batch_size=1, columns=[column])
    for number, (row, batch) in enumerate(zip(rows, batches, strict=True)):
        value: Any = batch.column(0)[0].as_py()
        if isinstance(value, dict):
            cell = cast("dict[str, Any]", value)
            value = cell if cell.get("bytes") or cell.get("path") else None
        if value is not None and value != "":
            name = f"{column} of row {number} of {path.name}"
            row.pictures.append(Picture(name, _reader_of(value, column, f"row {number} of {path.name}", spool)))
    del batches
    module.default_memory_pool().release_unused()


def _reader_of(value: object, column: str, label: str, spool: Spool) -> Callable[[], bytes]:
    """Copy an image, and return a function that reads it, or raises the error that it has."""
    data: Any = value
    try:
        if isinstance(value, str):
            data = from_base64(value, label)
        elif isinstance(value, dict):
            data = cast("dict[str, Any]", value).get("bytes")
        if not isinstance(data, bytes) or not data:
            raise ImageError(f"{label} has no image in {column!r}")
    except ImageError as error:
        return partial(_refuse, str(error))
    return partial(spool.read, spool.add(data))


def _refuse(message: str) -> bytes:
    raise ImageError(message)
