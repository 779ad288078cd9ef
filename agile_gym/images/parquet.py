"""Images in Parquet files: read by row, without the `datasets` package and without a copy of the file."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from agile_gym.errors import ImageError, import_optional
from agile_gym.images.formats import SMALLEST, Size, describe_error
from agile_gym.images.items import Item, SkippedImage
from agile_gym.images.rows import find_column, list_rows

__all__ = ["ParquetTable", "parquet_images"]

MAX_FILE = 256 * 1024 * 1024
"""Largest size of an image file that a row names, in bytes."""


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
            path: Where it is.
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
        """Leave out what is open."""
        return {**self.__dict__, "_file": None, "_group": (-1, None)}

    def select_columns(self, columns: Sequence[str]) -> ParquetTable:
        """Return the same rows with some of their columns."""
        return ParquetTable(self.path, columns)

    def locate(self, path: str) -> str:
        """Return where a file is that a row names, relative to the folder of the Parquet file.

        Raises:
            ImageError: If the path leads out of that folder, or to a file that is too large.
        """
        folder = os.path.realpath(os.path.dirname(self.path))
        parts = path.replace("\\", "/").split("/")
        inside = "\0" not in path and ".." not in parts and not os.path.isabs(path) and not os.path.splitdrive(path)[0]
        found = os.path.realpath(os.path.join(folder, *parts)) if inside else ""
        if not inside or os.path.commonpath([folder, found]) != folder:
            raise ImageError(
                f"the row names the file {path!r:.200}; only files in the folder of the Parquet file are read"
            )
        if os.path.isfile(found) and os.path.getsize(found) > MAX_FILE:
            raise ImageError(f"the row names the file {path!r:.200}, which has more than {MAX_FILE:,} bytes")
        return found

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
        The images, and what cannot be used.

    Raises:
        MissingDependencyError: If pyarrow is not installed.
        ImageError: If it is no Parquet file, or no column holds images.
    """
    table = ParquetTable(path)
    column = find_column(table, None, lambda _: False)
    return list_rows(table.select_columns([column]), column, max_pixels, min_size, prefix)
