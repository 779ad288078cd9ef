"""Reads the parts that `agile_gym.rollout.parts` writes, with limits on what a row can unfold to.

Parquet keeps a value that is repeated once, so a small file can stand for any number of large images. Texts and images
are therefore read as references to distinct values, and what a row unfolds to is counted before it is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agile_gym.errors import TranscriptError, import_optional
from agile_gym.rollout.fields import RecordProblem
from agile_gym.rollout.files import import_pyarrow
from agile_gym.rollout.records import MAX_LINE, parse_record
from agile_gym.rollout.segments import SEGMENT_TYPES
from agile_gym.rollout.transcript import Segment

__all__ = ["StoredRow", "is_part", "part_ids", "part_schema", "read_part", "read_row", "read_rows"]

MAX_GROUP = 1 << 31
"""Most bytes of a row group."""
MAX_VALUES = 1 << 24
"""Most values of a column of a row group, repeated ones counted."""
MAX_ROW_IMAGES = 1 << 30
"""Most bytes of the image files of an episode, repeated ones counted."""
MAX_NAMES = 1 << 24
"""Most bytes of the ids of a row group, or of the names of an episode's images."""
_RESTORE = "Restore it from a copy."


class StoredRow(NamedTuple):
    """An episode of a part, and where it is.

    Attributes:
        record: The record, with no segments.
        segments: The segments; None where they were not asked for.
        images: The PNG files, by reference; None where they were not asked for.
        group: The row group.
        row: The row within it.
    """

    record: dict[str, Any]
    segments: tuple[Segment, ...] | None
    images: dict[str, bytes] | None
    group: int
    row: int


def is_part(path: Path) -> bool:
    """Tell whether a file is Parquet with the columns of a part.

    Raises:
        MissingDependencyError: If pyarrow is not installed.
    """
    pa, pq = import_pyarrow()
    try:
        names = set(pq.read_schema(path).names)
    except (OSError, pa.ArrowException):
        return False
    return {"format", "id", "record", "segments", "images"} <= names


def part_schema(*, distinct: bool = False) -> Any:  # noqa: ANN401 -- a pyarrow.Schema
    """Return the columns of a part.

    Args:
        distinct: Whether texts and images are references to distinct values, as they are read.
    """
    pa, _ = import_pyarrow()
    types = {"<i4": pa.int32(), "|b1": pa.bool_(), "<f4": pa.float32(), "<i2": pa.int16()}
    arrays = [(name, pa.list_(types[kind])) for name, kind in SEGMENT_TYPES.items()]

    def repeated(kind: Any) -> Any:  # noqa: ANN401 -- a pyarrow.DataType
        return pa.dictionary(pa.int32(), kind) if distinct else kind

    text, image = repeated(pa.string()), repeated(pa.binary())
    return pa.schema(
        [
            ("format", pa.int32()),
            ("id", text),
            ("policy", text),
            ("grid", text),
            ("level", pa.int64()),
            ("solved", pa.bool_()),
            ("score", pa.float64()),
            ("reward", pa.float64()),
            ("turns", pa.int32()),
            ("record", text),
            ("segments", pa.list_(pa.struct([*arrays, ("images", pa.list_(pa.int32()))]))),
            ("images", pa.list_(pa.struct([("bytes", image), ("path", text)]))),
        ]
    )


def read_part(path: Path, *, content: bool = True) -> Iterator[StoredRow]:
    """Read the episodes of a part, a row group at a time.

    Args:
        path: The file.
        content: Whether segments and images are read, which are most of it.

    Yields:
        The episodes, in order.

    Raises:
        TranscriptError: If it is not a part, or damaged.
        MissingDependencyError: If pyarrow is not installed.
    """
    columns = ["record", "segments", "images"] if content else ["record"]
    with _open(path) as file:
        for group in range(file.num_row_groups):
            table = _group(path, file, group, columns)
            for row in range(table.num_rows):
                yield _stored(path, table, group, row)


def read_row(path: Path, group: int, row: int, name: str) -> StoredRow:
    """Read one episode again, with everything; see `read_part`.

    Args:
        path: The file.
        group: The row group.
        row: The row within it.
        name: The id that it must have.
    """
    with _open(path) as file:
        if group < file.num_row_groups:
            table = _group(path, file, group, ["record", "segments", "images"])
            if row < table.num_rows:
                stored = _stored(path, table, group, row)
                if stored.record["id"] == name:
                    return stored
    raise TranscriptError(f"{path} has changed since it was listed. Read it again.")


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a part as Python values, as they are written; see `read_part`."""
    with _open(path) as file:
        for group in range(file.num_row_groups):
            table = _group(path, file, group, None)
            for row in range(table.num_rows):
                _stored(path, table, group, row)  # checks it
                (values,) = table.slice(row, 1).to_pylist()
                yield values


def part_ids(path: Path) -> list[str]:
    """Return the ids of the episodes of a part; see `read_part`."""
    with _open(path) as file:
        names: list[str] = []
        for group in range(file.num_row_groups):
            column = _group(path, file, group, ["id"]).column("id")
            if sum(map(_unfolded, column.chunks)) > MAX_NAMES or column.null_count:
                raise TranscriptError(f"{path} is damaged in row group {group}: it has no ids. {_RESTORE}")
            names += column.to_pylist()
        return names


def _open(path: Path) -> Any:  # noqa: ANN401 -- a pyarrow.parquet.ParquetFile
    pa, pq = import_pyarrow()
    if not path.is_file():
        raise TranscriptError(f"{path} is not a file. {_RESTORE}")
    texts = ["id", "policy", "grid", "record", "images.list.element.bytes", "images.list.element.path"]
    try:
        schema = pq.read_schema(path)
        if schema.equals(part_schema()):
            return pq.ParquetFile(path, read_dictionary=texts)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TranscriptError(f"{path} cannot be read as Parquet: {error}. {_RESTORE}") from error
    raise TranscriptError(
        f"{path} is not a file of transcripts: it has the columns {', '.join(schema.names):.300}. AGILE's own files "
        "are read by agile_gym.rollout.importing."
    )


def _group(path: Path, file: Any, group: int, columns: list[str] | None) -> Any:  # noqa: ANN401 -- pyarrow's
    """Read columns of a row group, if it is of a size that can be; a pyarrow.Table."""
    pa, _ = import_pyarrow()
    about = file.metadata.row_group(group)
    values = max(about.num_rows, *(about.column(place).num_values for place in range(about.num_columns)))
    if about.total_byte_size > MAX_GROUP or values > MAX_VALUES:
        raise TranscriptError(
            f"{path} says that row group {group} has {about.total_byte_size:,} bytes and {values:,} values; "
            f"{MAX_GROUP:,} and {MAX_VALUES:,} can be read. {_RESTORE}"
        )
    try:
        return file.read_row_group(group, columns)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TranscriptError(f"{path} is damaged in row group {group}: {error}. {_RESTORE}") from error


def _stored(path: Path, table: Any, group: int, row: int) -> StoredRow:  # noqa: ANN401 -- a pyarrow.Table
    try:
        record = parse_record(_text(table.column("record").slice(row, 1), "record", MAX_LINE))
        if "segments" not in table.column_names:
            return StoredRow(record, None, None, group, row)
        segments = tuple(_segment(entry) for entry in table.column("segments")[row].values or ())
        return StoredRow(record, segments, _images(table.column("images")[row].values), group, row)
    except RecordProblem as problem:
        raise TranscriptError(f"{path}, row {row} of row group {group}, {problem}. {_RESTORE}") from problem


def _text(column: Any, name: str, limit: int) -> str:  # noqa: ANN401 -- a pyarrow.ChunkedArray with one value
    if _unfolded(column.chunk(0)) > limit:
        raise RecordProblem(f"has more than {limit:,} bytes as {name!r}")
    try:
        return column[0].as_py() or ""
    except UnicodeDecodeError as error:
        raise RecordProblem(f"has a {name!r} that is not a text ({error})") from error


def _images(entries: Any) -> dict[str, bytes]:  # noqa: ANN401 -- a pyarrow.StructArray, or None
    if entries is None:
        return {}
    for name, limit in (("bytes", MAX_ROW_IMAGES), ("path", MAX_NAMES)):
        if _unfolded(entries.field(name)) > limit:
            raise RecordProblem(f"has images of more than {limit:,} bytes")
    if entries.null_count or entries.field("bytes").null_count or entries.field("path").null_count:
        raise RecordProblem("has an image without bytes or path")
    try:
        return {image["path"].removesuffix(".png"): image["bytes"] for image in entries.to_pylist()}
    except UnicodeDecodeError as error:
        raise RecordProblem(f"has an image whose path is not a text ({error})") from error


def _unfolded(array: Any) -> int:  # noqa: ANN401 -- a pyarrow.DictionaryArray
    """Return how many bytes the values of an array have, repeated ones counted."""
    compute: Any = import_optional("pyarrow.compute", extra="data", purpose="read Parquet files")
    lengths = compute.binary_length(array.dictionary).take(array.indices)
    return compute.sum(compute.cast(lengths, "int64")).as_py() or 0


def _segment(entry: Any) -> Segment:  # noqa: ANN401 -- a pyarrow.StructScalar
    arrays: dict[str, Any] = {}
    for name, kind in SEGMENT_TYPES.items():
        values = entry[name].values if entry.is_valid else None
        if values is None and name != "advantages":
            raise RecordProblem("has a segment without ids, mask, logps or turns")
        if values is not None and values.null_count:
            raise RecordProblem(f"has a segment with gaps in its {name}")
        dtype = np.dtype(kind).newbyteorder("=")
        arrays[name] = None if values is None else values.to_numpy(zero_copy_only=False).astype(dtype)
    images = entry["images"].as_py()
    if images is None or any(index is None or index < 0 for index in images):
        raise RecordProblem("has a segment with images that are not there")
    try:
        return Segment(images=tuple(images), **arrays)
    except ValueError as error:
        raise RecordProblem(f"has a damaged segment: {error}") from error
