"""Transcripts as Parquet: one row an episode, its images and tokens in it, in numbered parts.

A row has the columns of `part_schema`: a few to select by, ``record`` (JSON, see `agile_gym.rollout.records`, without
segments), ``segments`` with the tokens as typed lists, and ``images``, each distinct one once as PNG, under the name
``<hash>.png``, in the form that the ``datasets`` package reads as images.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agile_gym.errors import TranscriptError
from agile_gym.rollout.fields import RecordProblem
from agile_gym.rollout.files import import_pyarrow, replacing, write_rows
from agile_gym.rollout.records import dump_record, image_refs, parse_record
from agile_gym.rollout.segments import SEGMENT_TYPES, get_segments
from agile_gym.rollout.transcript import Segment

__all__ = ["StoredRow", "filter_part", "list_parts", "next_part", "part_ids", "read_part", "read_row", "write_part"]

_NAME = re.compile(r"episodes-(\d{5})\.parquet")


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


def list_parts(folder: Path) -> list[Path]:
    """Return the parts in a folder, in the order in which they were written."""
    return sorted(path for path in folder.glob("episodes-*.parquet") if _NAME.fullmatch(path.name))


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


def part_schema() -> Any:  # noqa: ANN401 -- a pyarrow.Schema
    """Return the columns of a part."""
    pa, _ = import_pyarrow()
    types = {"<i4": pa.int32(), "|b1": pa.bool_(), "<f4": pa.float32(), "<i2": pa.int16()}
    arrays = [(name, pa.list_(types[kind])) for name, kind in SEGMENT_TYPES.items()]
    return pa.schema(
        [
            ("format", pa.int32()),
            ("id", pa.string()),
            ("policy", pa.string()),
            ("grid", pa.string()),
            ("level", pa.int64()),
            ("solved", pa.bool_()),
            ("score", pa.float64()),
            ("reward", pa.float64()),
            ("turns", pa.int32()),
            ("record", pa.string()),
            ("segments", pa.list_(pa.struct([*arrays, ("images", pa.list_(pa.int32()))]))),
            ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
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
    with _open(path) as file:
        for group in range(file.num_row_groups):
            table = _group(path, file, group, content)
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
            table = _group(path, file, group, True)
            if row < table.num_rows:
                stored = _stored(path, table.slice(row, 1), group, 0)
                if stored.record["id"] == name:
                    return stored
    raise TranscriptError(f"{path} has changed since it was listed. Read it again.")


def part_ids(path: Path) -> list[str]:
    """Return the ids of the episodes of a part; see `read_part`."""
    with _open(path) as file:
        return file.read(["id"]).column("id").to_pylist()


def filter_part(path: Path, ids: Collection[str]) -> None:
    """Drop the episodes of a part whose id is not among those given; see `read_part`."""
    present = part_ids(path)
    if all(name in ids for name in present):
        return
    if not any(name in ids for name in present):
        path.unlink()
        return
    pa, pq = import_pyarrow()
    with (
        replacing(path) as temporary,
        _open(path) as file,
        pq.ParquetWriter(temporary, file.schema_arrow, compression="zstd") as writer,
    ):
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            writer.write_table(table.filter(pa.array([name in ids for name in table.column("id").to_pylist()])))


def _open(path: Path) -> Any:  # noqa: ANN401 -- a pyarrow.parquet.ParquetFile
    pa, pq = import_pyarrow()
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise TranscriptError(f"{path} cannot be read as Parquet: {error}. Restore it from a copy.") from error
    if not file.schema_arrow.equals(part_schema()):
        names = ", ".join(file.schema_arrow.names)
        file.close()
        raise TranscriptError(
            f"{path} is not a file of transcripts: it has the columns {names:.300}. AGILE's own files are read by "
            "agile_gym.rollout.importing."
        )
    return file


def _group(path: Path, file: Any, group: int, content: bool) -> Any:  # noqa: ANN401 -- from pyarrow, and a Table
    pa, _ = import_pyarrow()
    try:
        return file.read_row_group(group, None if content else ["record"])
    except (OSError, pa.ArrowException) as error:
        raise TranscriptError(f"{path} is damaged in row group {group}: {error}. Restore it from a copy.") from error


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


def _stored(path: Path, table: Any, group: int, row: int) -> StoredRow:  # noqa: ANN401 -- a pyarrow.Table
    where = f"{path}, row {row} of row group {group},"
    try:
        record = parse_record(table.column("record")[row].as_py() or "")
    except RecordProblem as problem:
        raise TranscriptError(f"{where} {problem}. Restore the file from a copy.") from problem
    if "segments" not in table.column_names:
        return StoredRow(record, None, None, group, row)
    images: dict[str, bytes] = {}
    for image in table.column("images")[row].as_py() or ():
        images[image["path"].removesuffix(".png")] = image["bytes"]
    segments = tuple(_segment(entry) for entry in table.column("segments")[row].values or ())
    return StoredRow(record, segments, images, group, row)


def _segment(entry: Any) -> Segment:  # noqa: ANN401 -- a pyarrow.StructScalar
    arrays: dict[str, Any] = {}
    for name, kind in SEGMENT_TYPES.items():
        values = entry[name].values
        dtype = np.dtype(kind).newbyteorder("=")
        arrays[name] = None if values is None else values.to_numpy(zero_copy_only=False).astype(dtype)
    return Segment(images=tuple(entry["images"].as_py()), **arrays)


def _readable(text: str) -> str:
    """Return a text without lone surrogates, which Parquet cannot hold; the record has it as it is."""
    return text.encode("utf-8", "replace").decode("utf-8")
