"""Images in the rows of a table or of a Parquet file: one a row, or lists of them, encoded, decoded or by path."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agile_gym.errors import ImageError, did_you_mean, import_optional
from agile_gym.images.decode import decode_image, read_file
from agile_gym.images.formats import SMALLEST, Size, describe_error, header_problem, size_problem
from agile_gym.images.items import Item, SkippedImage, decode_checked, hash_bytes, hash_pixels, shared_cache

__all__ = [
    "ParquetTable",
    "RowItem",
    "TableLike",
    "file_inside",
    "find_column",
    "list_rows",
    "parquet_images",
    "quoted",
]

_PROBED = 100
"""Largest number of rows that are searched for the column of images."""
_DEPTH = 8
_MARK = "mark it with dataset.cast_column(NAME, datasets.Image()), or name it in 'hf:NAME:SPLIT:COLUMN'"


class TableLike(Protocol):
    """Interface of a table: named columns, a length, and rows as dictionaries."""

    @property
    def column_names(self) -> Sequence[str]:
        """Names of the columns."""
        ...

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """Return a row."""
        ...


class Locator(Protocol):
    """A table whose rows may name files."""

    def locate(self, path: str) -> str:
        """Return the path of a file that a row names, or raise an `ImageError` if it must not be read."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class RowItem:
    """An image in a row of a table.

    Attributes:
        name: Name of the image in messages.
        content_hash: SHA-256 of the encoded image, or of the pixels where the table holds decoded images.
        table: The table.
        column: Column that holds the image.
        row: Index of the row.
        position: Index of the image among those of the row.
    """

    name: str
    content_hash: str
    table: TableLike
    column: str
    row: int
    position: int

    def load(self, max_pixels: int) -> NDArray[np.uint8]:
        """Return the pixels, from the cache or decoded; see `agile_gym.images.items.Item.load`."""

        def decode() -> NDArray[np.uint8]:
            label = f"in row {self.row} of the dataset"
            values = list(_leaves(self.table[self.row][self.column]))
            value = _image(values[self.position] if self.position < len(values) else None, self.table)
            if isinstance(value, bytes):
                return decode_checked(value, self.content_hash, label, max_pixels)
            return decode_image(value, max_pixels=max_pixels, name=label)

        return shared_cache().get(self.content_hash, decode)


def list_rows(
    table: TableLike, column: str, max_pixels: int, min_size: Size = SMALLEST, prefix: str = ""
) -> tuple[list[Item], list[SkippedImage]]:
    """List the images of a column.

    All rows are read once, to hash their images; encoded images are not decoded for this.

    Args:
        table: The table.
        column: The column.
        max_pixels: Most pixels that an image may have.
        min_size: Height and width that an image must have, in pixels.
        prefix: Begin of the images' names.

    Returns:
        The images, named by the index of their row, with that in the row's list in brackets where there is one; and
        those that cannot be used.
    """
    items: list[Item] = []
    skipped: list[SkippedImage] = []
    for row in range(len(table)):
        name = f"{prefix}{row}"
        try:
            value: object = table[row][column]
            values = list(_leaves(value))
            if not values:
                raise ImageError("the row has no image")
        except ImageError as error:
            skipped.append(SkippedImage(name, str(error)))
            continue
        for position, leaf in enumerate(values):
            full = f"{name}[{position}]" if isinstance(value, list | tuple) else name
            try:
                content_hash = _hash(_image(leaf, table), f"in row {row}", max_pixels, min_size)
            except ImageError as error:
                skipped.append(SkippedImage(full, str(error)))
            else:
                items.append(RowItem(full, content_hash, table, column, row, position))
    return items, skipped


def find_column(table: TableLike, wanted: str | None, marked: Callable[[str], bool]) -> str:
    """Return the column that holds the images.

    Args:
        table: The table.
        wanted: Its name, if given.
        marked: Function that returns whether the table marks a column as one of images.

    Returns:
        The column: that of the given name; the first that is marked; the first with an image in one of the first rows;
        the first that has the form of images there.

    Raises:
        ImageError: If there is none.
    """
    columns = list(table.column_names)
    if wanted is not None:
        if wanted in columns:
            return wanted
        raise ImageError(
            f"The dataset has no column {wanted!r}. {did_you_mean(wanted, columns)} Its columns: {quoted(columns)}."
        )
    for column in columns:
        if marked(column):
            return column
    probed = {column: list(_probe(table, column)) for column in columns}
    readable = [column for column, leaves in probed.items() if any(_is_readable(leaf, table) for leaf in leaves)]
    found = readable or [column for column, leaves in probed.items() if leaves]
    if found:
        return found[0]
    raise ImageError(
        f"No column of the dataset holds images. Its columns: {quoted(columns)}. If one of them holds encoded images, "
        f"{_MARK}."
    )


def quoted(words: Mapping[str, object] | Sequence[str]) -> str:
    """Return words in quotes with commas between them."""
    return ", ".join(repr(word) for word in words) or "none"


def _leaves(value: object, depth: int = 0) -> Iterator[object]:
    """Yield the images of a value that may be a list of lists of them.

    Raises:
        ImageError: If something in it has not the form of an image.
    """
    if isinstance(value, list | tuple):
        if depth == _DEPTH:
            raise ImageError(f"the row holds lists within lists, more than {_DEPTH} deep")
        for entry in cast("Sequence[object]", value):
            yield from _leaves(entry, depth + 1)
    elif value is None or _has_form(value):
        yield value
    else:
        raise ImageError(f"the row holds a value of type {type(value).__name__}, no image")


def _has_form(value: object) -> bool:
    """Return whether a value has the form of an image: encoded, decoded, or a structure of bytes or path."""
    if isinstance(value, Mapping):
        parts = cast("Mapping[str, object]", value)
        data, path = parts.get("bytes"), parts.get("path")
        named = "bytes" in parts or list(parts) == ["path"]
        return named and isinstance(data, bytes | None) and isinstance(path, str | None)
    return isinstance(value, bytes | Image.Image)


def _image(value: object, table: TableLike) -> bytes | Image.Image:
    """Return an image of a row, encoded if the table has it so.

    Raises:
        ImageError: If there is none.
    """
    if isinstance(value, bytes | Image.Image):
        return value
    if isinstance(value, Mapping):
        parts = cast("Mapping[str, object]", value)
        data, path = parts.get("bytes"), parts.get("path")
        if isinstance(data, bytes):
            return data
        if isinstance(path, str):
            found = cast("Locator", table).locate(path) if hasattr(table, "locate") else path
            if os.path.isfile(found):
                return read_file(found)
            raise ImageError(f"the row names the file {path!r:.200}, which does not exist")
    raise ImageError("the row has no image")


def _hash(value: bytes | Image.Image, label: str, max_pixels: int, min_size: Size) -> str:
    """Return the content hash of an image that can be used.

    Raises:
        ImageError: If it cannot.
    """
    if isinstance(value, bytes):
        problem = header_problem(io.BytesIO(value), max_pixels, min_size)
        content_hash = hash_bytes(value)
    else:
        pixels = decode_image(value, max_pixels=max_pixels, name=label)
        problem = size_problem((pixels.shape[1], pixels.shape[0]), max_pixels, min_size)
        content_hash = hash_pixels(pixels)
    if problem is not None:
        raise ImageError(problem)
    return content_hash


def _probe(table: TableLike, column: str) -> Iterator[object]:
    """Yield the values of a column's first rows, up to the first that holds an image; stop where one cannot be read."""
    select = getattr(table, "select_columns", None)
    alone = cast("TableLike", select([column])) if callable(select) else table
    for row in range(min(len(table), _PROBED)):
        try:
            leaves = [leaf for leaf in _leaves(alone[row][column]) if leaf is not None]
        except Exception:  # a column of sound, say, whose decoder is not installed
            return
        yield from leaves
        if any(_is_readable(leaf, table) for leaf in leaves):
            return


def _is_readable(leaf: object, table: TableLike) -> bool:
    """Return whether a value is an image, judged by its header."""
    try:
        value = _image(leaf, table)
    except ImageError:
        return False
    return isinstance(value, Image.Image) or header_problem(io.BytesIO(value), len(value) ** 2 + 1) is None


MAX_FILE = 256 * 1024 * 1024
"""Largest size of an image file that a row names, in bytes."""


def file_inside(folder: str, path: str, table: str) -> str:
    """Return the path of a file that a row names, relative to a folder; it need not exist.

    Args:
        folder: The folder.
        path: The name in the row, with slashes of either kind.
        table: Name of the table in messages, which lies in the folder.

    Raises:
        ImageError: If the path leads out of that folder, or to a file that is too large.
    """
    folder = os.path.realpath(folder)
    parts = path.replace("\\", "/").split("/")
    inside = "\0" not in path and ".." not in parts and not os.path.isabs(path) and not os.path.splitdrive(path)[0]
    found = os.path.realpath(os.path.join(folder, *parts)) if inside else ""
    if not inside or os.path.commonpath([folder, found]) != folder:
        raise ImageError(f"the row names the file {path!r:.200}; only files in the folder of {table} are read")
    if os.path.isfile(found) and os.path.getsize(found) > MAX_FILE:
        raise ImageError(f"the row names the file {path!r:.200}, which has more than {MAX_FILE:,} bytes")
    return found


class ParquetTable:
    """The rows of a Parquet file.

    The row group that was read last stays in memory. Pickles hold the path only.

    Attributes:
        path: Absolute path of the file.
        column_names: Names of the columns that are read.
    """

    def __init__(self, path: str, columns: Sequence[str] | None = None) -> None:
        """Open a file.

        Args:
            path: Path of the file.
            columns: The columns to read; all by default.

        Raises:
            MissingDependencyError: If pyarrow is not installed.
            ImageError: If it is no Parquet file, or damaged.
        """
        self.path = os.path.abspath(path)
        self._file: Any = None
        self._group: tuple[int, Any] = (-1, None)
        file = self._open()
        self.column_names: list[str] = list(file.schema_arrow.names if columns is None else columns)
        counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        self._ends = [sum(counts[: group + 1]) for group in range(len(counts))]

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row.

        Raises:
            ImageError: If it cannot be read.
        """
        group = bisect_right(self._ends, index)
        try:
            if self._group[0] != group:
                self._group = (-1, None)
                self._group = (group, self._open().read_row_group(group, columns=self.column_names))
            table = self._group[1]
            return table.slice(index - self._ends[group] + len(table), 1).to_pylist()[0]
        except Exception as error:
            raise ImageError(f"the row cannot be read ({describe_error(error)})") from error

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open file and the row group in memory."""
        return {**self.__dict__, "_file": None, "_group": (-1, None)}

    def select_columns(self, columns: Sequence[str]) -> ParquetTable:
        """Return the same rows with some of their columns."""
        return ParquetTable(self.path, columns)

    def locate(self, path: str) -> str:
        """Return the path of a file that a row names, relative to the folder of the Parquet file.

        Raises:
            ImageError: If the path leads out of that folder, or to a file that is too large.
        """
        return file_inside(os.path.dirname(self.path), path, "the Parquet file")

    def _open(self) -> Any:  # noqa: ANN401 -- pyarrow is untyped
        if self._file is None:
            module = import_optional("pyarrow.parquet", extra="data", purpose="read images from Parquet files")
            try:
                self._file = module.ParquetFile(self.path)
            except Exception as error:
                raise ImageError(f"it is not a Parquet file, or damaged ({describe_error(error)})") from error
        return self._file


def parquet_images(
    path: str, max_pixels: int, min_size: Size = SMALLEST, prefix: str = ""
) -> tuple[list[Item], list[SkippedImage]]:
    """List the images of a Parquet file.

    Args:
        path: The file. Its column of images is found as that of a dataset is; images may also lie in lists, and a row
            may name files in the folder of the Parquet file.
        max_pixels: Most pixels that an image may have.
        min_size: Height and width that an image must have, in pixels.
        prefix: Begin of the images' names.

    Returns:
        The images, and those that cannot be used.

    Raises:
        MissingDependencyError: If pyarrow is not installed.
        ImageError: If it is no Parquet file, or no column holds images.
    """
    table = ParquetTable(path)
    column = find_column(table, None, lambda _: False)
    return list_rows(table.select_columns([column]), column, max_pixels, min_size, prefix)
