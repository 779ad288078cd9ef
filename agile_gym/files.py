"""Files that get their name when they are complete, and locks, so that two processes never write the same one."""

from __future__ import annotations

import errno
import glob
import importlib
import os
import re
import shutil
import weakref
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from agile_gym.errors import AgileGymError, ConfigurationError, error_number, import_optional

__all__ = ["Lock", "filling", "import_pyarrow", "is_left_over", "replacing", "sweep", "write_rows", "write_text"]


class Lock:
    """Lock against other processes until it is released or the process ends, where the system supports it.

    The processes that this one starts do not inherit it: neither new programs, as Ray's, nor forks of this one.
    """

    def __init__(self, path: Path, message: str, error: type[ConfigurationError] = ConfigurationError) -> None:
        """Take the lock.

        Args:
            path: A file or a folder that is there.
            message: Text of the error: the other process's work, and what to try.
            error: The error that has the message.

        Raises:
            ConfigurationError: If another process has it.
            OSError: If the file cannot be opened.
        """
        self._descriptor = -1
        fcntl = _fcntl()
        if fcntl is None:
            return
        self._descriptor = os.open(path, os.O_RDONLY)
        _HELD.add(self)
        lock: Callable[[int, int], None] = fcntl.flock
        try:
            lock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.let_go()
            raise error(message) from None
        except OSError:  # a file system without locks
            pass

    def let_go(self) -> None:
        """Release the lock; once is enough."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        """Release the lock when nothing refers to it any more."""
        if hasattr(self, "_descriptor"):
            self.let_go()


_HELD: weakref.WeakSet[Lock] = weakref.WeakSet()


def _fcntl() -> ModuleType | None:
    try:
        return importlib.import_module("fcntl")
    except ImportError:
        return None


def _after_fork() -> None:
    """Close the parent's locks, which would otherwise last as long as this process."""
    for lock in _HELD:
        lock.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


_DEVICES = (("/", "dev"), ("/", "dev", "fd"))
_TEMPORARY = re.compile(r"\..+-(\d{1,10})\.new", re.DOTALL)

GROUP_BYTES = 4 * 1024 * 1024
GROUP_ROWS = 256


@contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """Give the path of a new file, which replaces another one in its folder at the end of the ``with`` block.

    If the block raises, the new file is removed and the other one stays as it was. A partial file of the same name that
    a killed process has left is removed. A link is replaced itself, not its target.

    Raises:
        ConfigurationError: If something other than a file is there: a device or a pipe would be replaced, too.
        OSError: If the file cannot be written; it names the file.
    """
    with _naming(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if (path.exists() and not path.is_file()) or path.parent.resolve().parts in _DEVICES:
            raise ConfigurationError(f"{path} is a device or a pipe, and cannot be replaced. Give the name of a file.")
        sweep(path.parent, path.name)
        temporary = _beside(path)
        temporary.unlink(missing_ok=True)  # a file of this name may be a link to somewhere else
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def filling(folder: Path, *, replace: bool = True) -> Generator[Path, None, None]:
    """Give the path of a new folder, whose files move into another one at the end of the ``with`` block.

    If the block raises, the new folder is removed and the other one stays as it was. Files of the other one that have
    other names stay in any case.

    Args:
        folder: The other folder; it is made.
        replace: True to replace files of the same names.

    Raises:
        FileExistsError: If there are some that are not to be replaced; none is then.
        OSError: If the files cannot be written; it names the folder.
    """
    temporary = _beside(folder)
    with _naming(folder):
        sweep(folder.parent, folder.name)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            moves = {path: folder / path.relative_to(temporary) for path in sorted(temporary.rglob("*"))}
            there = [target for path, target in moves.items() if target.exists() and not path.is_dir()]
            if there and not replace:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(there[0]))
            for path, target in moves.items():
                if path.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove partial files and folders that killed processes have left.

    Args:
        folder: The folder, or a pattern of folders within one, as `Path.glob` takes it.
        name: Name of the file or folder that they were writing; None for all.
    """
    pattern = ".*-*.new" if name is None else f".{glob.escape(name)}-*.new"
    with suppress(OSError):
        for path in folder.glob(pattern):
            if not is_left_over(path.name):
                continue
            with suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def is_left_over(name: str) -> bool:
    """Return whether a name is that of a partial file or folder of a dead process."""
    found = _TEMPORARY.fullmatch(name)
    return found is not None and not _is_alive(int(found[1]))


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}-{os.getpid()}.new")


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere, the question would end the process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


@contextmanager
def _naming(path: Path) -> Generator[None, None, None]:
    """Name the file that could not be written in the errors of the system, and of the libraries that hide them."""
    try:
        yield
    except AgileGymError:
        raise
    except Exception as error:
        number = error_number(error)
        name = error.filename if isinstance(error, OSError) else None
        if number is None or (name is not None and _beside(path).name not in str(name)):  # that has its own name
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


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
        size: Function that estimates the bytes of a row.

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
