"""A file of records, one JSON text a line, whose last line may have been cut short by a kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from agile_gym.errors import TranscriptError, reason_of
from agile_gym.images.folder import EPISODES
from agile_gym.rollout.fields import RecordProblem
from agile_gym.rollout.records import MAX_LINE, parse_record

__all__ = ["EPISODES", "StoredLine", "read_line", "read_lines"]


class StoredLine(NamedTuple):
    """A record and where it is.

    Attributes:
        record: The record.
        number: Number of its line, from 1.
        offset: Where the line begins, in bytes.
        length: How long it is, its end included, in bytes.
        whole: Whether it has its end.
    """

    record: dict[str, Any]
    number: int
    offset: int
    length: int
    whole: bool


def read_lines(path: Path) -> Iterator[StoredLine]:
    """Read the records of a file, one by one; what a kill has cut short at the end is passed over.

    Args:
        path: The file.

    Yields:
        The records, in order.

    Raises:
        TranscriptError: If the file cannot be read, or a line is not a record.
    """
    try:
        if not path.is_file():  # a pipe would be waited for without end
            raise OSError("it is not a file")
        with path.open("rb") as file:
            number, offset = 0, 0
            while data := file.readline(MAX_LINE + 1):
                number += 1
                whole = data.endswith(b"\n")
                if len(data) > MAX_LINE:
                    raise _damaged(path, number, f"has more than {MAX_LINE:,} bytes")
                if data.strip():
                    try:
                        record = parse_record(data)
                    except RecordProblem as problem:
                        if not whole:
                            return
                        raise _damaged(path, number, str(problem)) from problem
                    yield StoredLine(record, number, offset, len(data), whole)
                offset += len(data)
    except OSError as error:
        raise TranscriptError(
            f"{path} cannot be read: {reason_of(error)}. Give a folder or a file of transcripts."
        ) from error


def read_line(path: Path, number: int, offset: int, length: int, name: str) -> dict[str, Any]:
    """Read one record again.

    Args:
        path: The file.
        number: Number of its line.
        offset: Where it begins, in bytes.
        length: How long it is, in bytes.
        name: The id that it must have.

    Raises:
        TranscriptError: If the file has changed since it was listed.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            record = parse_record(file.read(length))
    except (OSError, RecordProblem) as error:
        raise TranscriptError(f"{path}, line {number}, has changed since it was listed. Read it again.") from error
    if record["id"] != name:
        raise TranscriptError(f"{path}, line {number}, has changed since it was listed. Read it again.")
    return record


def _damaged(path: Path, number: int, problem: str) -> TranscriptError:
    return TranscriptError(
        f"{path}, line {number}, {problem}. Restore the file from a copy, or delete the line to go on without it."
    )
