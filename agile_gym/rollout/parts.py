"""Transcripts as Parquet: one row an episode, its images and tokens in it, in numbered parts.

A row has the columns of `part_schema`: a few to select by, ``record`` (JSON, see `agile_gym.rollout.records`, without
segments), ``segments`` with the tokens as typed lists, and ``images``, each distinct one once as PNG, under the name
``<hash>.png``, in the form that the ``datasets`` package reads as images.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from agile_gym.images.folder import PART
from agile_gym.rollout.files import write_rows
from agile_gym.rollout.part_reading import part_ids, part_schema, read_rows
from agile_gym.rollout.records import dump_record, image_refs
from agile_gym.rollout.segments import SEGMENT_TYPES, get_segments

__all__ = ["filter_part", "list_parts", "next_part", "write_part"]


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
