"""Transcripts as Parquet: one row an episode, in numbered parts, read with limits on the unfolded size of a row.

Parquet keeps a value that is repeated once, so a small file can stand for any number of large images. Texts and images
are therefore read as references to distinct values, and the unfolded size of a row is computed before it is made.

A row has the columns of `part_schema`: a few to select by, ``record`` (JSON, see `agile_gym.transcripts.values`,
without segments), ``segments`` with the tokens as typed lists, and ``images``, each distinct one once as PNG, under the
name ``<hash>.png``, in the form that the ``datasets`` package reads as images.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agile_gym.errors import TranscriptError, import_optional
from agile_gym.files import import_pyarrow, write_rows
from agile_gym.images.folder import PART
from agile_gym.transcripts.record import Segment
from agile_gym.transcripts.values import (
    MAX_LINE,
    SEGMENT_TYPES,
    RecordProblem,
    dump_record,
    get_segments,
    image_refs,
    parse_record,
)

__all__ = [
    "StoredRow",
    "filter_part",
    "is_part",
    "list_parts",
    "next_part",
    "part_ids",
    "part_schema",
    "read_part",
    "read_row",
    "read_rows",
    "write_part",
]

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
    """An episode of a part, and its place.

    Attributes:
        record: The record, with no segments.
        segments: The segments; None where they were not requested.
        images: The PNG files, by reference; None where they were not requested.
        group: The row group.
        row: The row within it.
    """

    record: dict[str, Any]
    segments: tuple[Segment, ...] | None
    images: dict[str, bytes] | None
    group: int
    row: int


def is_part(path: Path) -> bool:
    """Return whether a file is Parquet with the columns of a part.

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
        distinct: True if texts and images are references to distinct values, as they are read.
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
        content: True to read segments and images, which are most of it.

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
        "are read by agile_gym.transcripts.importing."
    )


def _group(path: Path, file: Any, group: int, columns: list[str] | None) -> Any:  # noqa: ANN401 -- pyarrow's
    """Read columns of a row group, if it is of a size that can be; a pyarrow.Table."""
    pa, _ = import_pyarrow()
    about = file.metadata.row_group(group)
    values = max(about.num_rows, *(about.column(place).num_values for place in range(about.num_columns)))
    if about.total_byte_size > MAX_GROUP or values > MAX_VALUES:
        raise TranscriptError(
            f"{path} declares that row group {group} has {about.total_byte_size:,} bytes and {values:,} values; "
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
    """Return the number of bytes of the values of an array, repeated ones counted."""
    compute: Any = import_optional("pyarrow.compute", extra="data", purpose="read Parquet files")
    lengths = compute.binary_length(array.dictionary).take(array.indices)
    return compute.sum(compute.cast(lengths, "int64")).as_py() or 0


def _segment(entry: Any) -> Segment:  # noqa: ANN401 -- a pyarrow.StructScalar
    arrays: dict[str, Any] = {}
    for name, kind in SEGMENT_TYPES.items():
        values = entry[name].values if entry.is_valid else None
        if values is None and name != "advantages":
            raise RecordProblem("has a segment without ids, loss_mask, logps or turns")
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


def list_parts(folder: Path) -> list[Path]:
    """Return the parts in a folder, in the order in which they were written."""
    return sorted(path for path in folder.glob("episodes-*.parquet") if PART.fullmatch(path.name))


def next_part(folder: Path) -> Path:
    """Return the name of the next part."""
    numbers = [int(path.name[len("episodes-") :][:5]) for path in list_parts(folder)]
    return folder / f"episodes-{max(numbers, default=-1) + 1:05}.parquet"


def write_part(path: Path, records: Iterable[dict[str, Any]], png: Callable[[str], bytes]) -> None:
    """Write a part; the file gets its name when it is complete.

    Args:
        path: The file.
        records: The records, with their segments.
        png: Returns the PNG file of a reference.

    Raises:
        MissingDependencyError: If pyarrow is not installed.
        OSError: If it cannot be written.
    """
    write_rows(path, part_schema(), (_row(record, png) for record in records), _size)


def filter_part(path: Path, ids: Collection[str]) -> None:
    """Drop the episodes of a part whose id is not among those given; see `read_part`."""
    present = part_ids(path)
    if all(name in ids for name in present):
        return
    if not any(name in ids for name in present):
        path.unlink()
        return

    def size(row: dict[str, Any]) -> int:
        return len(row["record"]) + sum(len(image["bytes"]) for image in row["images"])

    write_rows(path, part_schema(), (row for row in read_rows(path) if row["id"] in ids), size)


def _row(record: dict[str, Any], png: Callable[[str], bytes]) -> dict[str, Any]:
    task = record["task"]
    grid, level = task.get("grid"), task.get("level")
    return {
        "format": record["format"],
        "id": record["id"],
        "policy": _readable(record["policy"]),
        "grid": _readable(grid) if isinstance(grid, str) else None,
        "level": level if isinstance(level, int) and abs(level) < 2**31 else None,
        "solved": record["solved"],
        "score": record["score"],
        "reward": record["reward"]["total"],
        "turns": len(record["turns"]),
        "record": dump_record({**record, "segments": []}).decode("ascii"),
        "segments": [
            {
                **{name: getattr(segment, name) for name in SEGMENT_TYPES},
                "images": list(segment.images),
            }
            for segment in get_segments(record["segments"])
        ],
        "images": [{"bytes": png(ref), "path": f"{ref}.png"} for ref in dict.fromkeys(image_refs(record))],
    }


def _size(row: dict[str, Any]) -> int:
    tokens = sum(segment["ids"].nbytes for segment in row["segments"])
    return len(row["record"]) + 4 * tokens + sum(len(image["bytes"]) for image in row["images"])


def _readable(text: str) -> str:
    """Return a text without lone surrogates, which Parquet cannot hold; the record has it as it is."""
    return text.encode("utf-8", "replace").decode("utf-8")
