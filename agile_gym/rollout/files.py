"""Files that get their name when they are complete, so that no half file is taken for a whole one; and a lock."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from agile_gym.errors import TranscriptError, import_optional

__all__ = ["filling", "import_pyarrow", "lock_folder", "replacing", "write_rows", "write_text"]

GROUP_BYTES = 4 * 1024 * 1024
GROUP_ROWS = 256


@contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """Give the path of a new file beside another one, which it replaces at the end of the ``with`` block.

    If the block raises, the new file is removed and the other one stays as it was.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}.new")
    temporary.unlink(missing_ok=True)  # what has this name may be a link to somewhere else
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def filling(folder: Path) -> Generator[Path, None, None]:
    """Give the path of a new folder, whose files move into another one at the end of the ``with`` block.

    If the block raises, the new folder is removed and the other one stays as it was. Files of the other one that have
    other names stay in any case.
    """
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in sorted(temporary.rglob("*")):
            target = folder / path.relative_to(temporary)
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def write_text(path: Path) -> Generator[TextIO, None, None]:
    """Open a text file for writing; see `replacing`."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file


def write_rows(
    path: Path,
    schema: Any,  # noqa: ANN401 -- a pyarrow.Schema
    rows: Iterable[dict[str, Any]],
    size: Callable[[dict[str, Any]], int],
) -> int:
    """Write a Parquet file row by row, holding one row group at a time; see `replacing`.

    Args:
        path: The file.
        schema: Its ``pyarrow.Schema``.
        rows: The rows, as Python values; images in a column ``images``, encoded, under ``bytes``.
        size: Tells about how many bytes a row has.

    Returns:
        The number of rows.

    Raises:
        MissingDependencyError: If pyarrow is not installed.
        OSError: If the file cannot be written.
    """
    pa, pq = import_pyarrow()
    count = held = 0
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        group: list[dict[str, Any]] = []
        for row in rows:
            group.append(row)
            held += size(row)
            count += 1
            if held > GROUP_BYTES or len(group) >= GROUP_ROWS:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group, held = [], 0
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema))
    return count


def import_pyarrow() -> tuple[Any, Any]:
    """Import pyarrow and its Parquet module.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    purpose = "read and write Parquet files"
    return (
        import_optional("pyarrow", extra="data", purpose=purpose),
        import_optional("pyarrow.parquet", extra="data", purpose=purpose),
    )


def lock_folder(folder: Path) -> int:
    """Make sure that no other process writes transcripts to a folder, where the system can do that.

    Args:
        folder: The folder.

    Returns:
        A descriptor that holds the lock until it is closed or the process ends, or -1.

    Raises:
        TranscriptError: If another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        return -1
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise TranscriptError(
            f"Another process is writing transcripts to {folder}. Wait for it to end, or give another folder."
        ) from None
    except OSError:  # a file system without locks
        pass
    return descriptor
