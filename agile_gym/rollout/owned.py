"""What is this package's own on a disk: nothing else is replaced or removed.

A folder that a command fills is marked by a file, `MARK`, which is written first. What is removed from a folder is
known by its name, and what is replaced, by its content.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from agile_gym.errors import ConfigurationError, reason_of
from agile_gym.images.folder import MARK
from agile_gym.rollout.files import is_left_over, write_text

__all__ = [
    "GENERATOR",
    "MARK",
    "Known",
    "check_output",
    "check_replaceable",
    "clear_folder",
    "is_generated",
    "list_names",
    "read_mark",
    "write_mark",
]

GENERATOR = "agile_gym"
"""What pages and pictures name as the program that wrote them."""
_FORMAT = 1
_HEAD = 1 << 16
_SHOWN = 3

Known = Mapping[str, Callable[[Path], bool] | None]
"""Paths within a folder, as patterns with ``**`` for any folders, each with what tells whether the file is our own."""


def write_mark(folder: Path, kind: str) -> None:
    """Mark a folder as one that a command fills.

    Args:
        folder: The folder.
        kind: What is in it, such as ``"training run"``.
    """
    with write_text(folder / MARK) as file:
        file.write(mark_text(kind) + "\n")


def mark_text(kind: str) -> str:
    """Return what a mark holds."""
    return json.dumps({"kind": kind, "format": _FORMAT})


def read_mark(folder: Path, kind: str) -> bool:
    """Tell whether a folder is marked as of a kind.

    Raises:
        ConfigurationError: If it is marked as of another kind, by a newer version, or the mark is damaged.
    """
    path = folder / MARK
    try:
        value: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {reason_of(error)}. Give another folder.") from error
    except (ValueError, RecursionError):
        value = None
    mark = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if not isinstance(mark.get("kind"), str) or not isinstance(mark.get("format"), int):
        raise ConfigurationError(
            f"{path} is damaged. If {folder} holds a {kind}, write this into it: {mark_text(kind)}; or give another "
            "folder."
        )
    if mark["kind"] != kind:
        raise ConfigurationError(f"{folder} holds a {mark['kind']!s:.40}, not a {kind}. Give another folder.")
    if mark["format"] != _FORMAT:
        raise ConfigurationError(
            f"{folder} holds a {kind} of format {mark['format']}; this version of agile_gym reads {_FORMAT}. Use the "
            "version that wrote it, or give another folder."
        )
    return True


def clear_folder(folder: Path, known: Known, what: str) -> None:
    """Remove what is known from a folder, which stays, as its mark does. Links are removed, not what they lead to.

    Args:
        folder: The folder.
        known: What may be removed.
        what: What wrote it, for the message.

    Raises:
        ConfigurationError: If anything else is there; then nothing is removed.
        OSError: If something cannot be removed.
    """
    files: list[Path] = []
    folders: list[Path] = []
    left: list[Path] = []
    foreign: list[str] = []

    def walk(place: Path, parts: tuple[str, ...]) -> None:
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            path, inner = Path(entry.path), (*parts, entry.name)
            if is_left_over(entry.name):
                left.append(path)
            elif entry.is_dir(follow_symlinks=False):
                if _is_known_folder(inner, known):
                    folders.append(path)
                    walk(path, inner)
                else:
                    foreign.append("/".join(inner) + "/")
            elif inner != (MARK,):
                link = entry.is_symlink()
                if _is_known_file(inner, path, known) or (link and _is_known_folder(inner, known)):
                    files.append(path)
                else:
                    foreign.append("/".join(inner))

    walk(folder, ())
    if foreign:
        raise ConfigurationError(
            f"{folder} also holds what {what} did not write: {list_names(foreign)}. Nothing was removed. Move that "
            "away, or give another folder."
        )
    for path in left:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in files:
        path.unlink()
    for path in reversed(folders):
        path.rmdir()


def check_replaceable(path: Path, is_own: Callable[[bytes], bool], what: str) -> None:
    """Check that a file that a command is about to replace is one that it wrote: missing, empty, a link, or known.

    Args:
        path: The file.
        is_own: Tells it of the file's first bytes.
        what: What may be replaced, such as ``"a page of agile-gym view"``.

    Raises:
        ConfigurationError: If it is anything else.
    """
    try:
        if path.is_symlink() or not path.exists():  # a link is replaced itself
            return
        if not path.is_file():
            raise ConfigurationError(f"{path} is not a file, and cannot be replaced. Give the name of a file.")
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {reason_of(error)}. Give another file.") from error
    if head and not is_own(head):
        raise ConfigurationError(f"{path} is not {what}, and would be replaced. Move it away, or give another file.")


def is_generated(head: bytes) -> bool:
    """Tell whether a page or a picture names this package as the program that wrote it."""
    return GENERATOR.encode() in head and head.startswith((b"<!doctype html>", b"\x89PNG\r\n", b"GIF8"))


def check_output(output: Path, images: object, flag: str = "--output") -> None:
    """Check that what is written does not become one of the photographs.

    Args:
        output: The file or folder that is to be written.
        images: Where photographs are taken from.
        flag: What names the output, for the message.

    Raises:
        ConfigurationError: If it is in the folder of the photographs, or is one.
    """
    if not isinstance(images, str | os.PathLike):
        return
    given = cast("str | os.PathLike[str]", images)
    try:
        folder, target = Path(given).resolve(), output.resolve()
        inside = folder.exists() and (target == folder or folder in target.parents)
    except (OSError, RuntimeError, ValueError):
        return
    if inside:
        raise ConfigurationError(
            f"{flag} {output} is in {os.fspath(given)}, where the photographs are: what is written there would be "
            "taken for some. Give a place outside of it."
        )


def list_names(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - _SHOWN:,} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more


def _is_known_file(parts: tuple[str, ...], path: Path, known: Known) -> bool:
    return any(_matches(parts, pattern) and (check is None or check(path)) for pattern, check in known.items())


def _is_known_folder(parts: tuple[str, ...], known: Known) -> bool:
    for pattern in known:
        wanted = pattern.split("/")
        if "**" in wanted[: len(parts)]:
            wanted = _stretched(wanted, len(parts) + 1)
        if len(wanted) > len(parts) and all(map(fnmatchcase, parts, wanted[: len(parts)])):
            return True
    return False


def _matches(parts: tuple[str, ...], pattern: str) -> bool:
    wanted = pattern.split("/")
    if "**" in wanted:
        wanted = _stretched(wanted, len(parts))
    return len(wanted) == len(parts) and all(map(fnmatchcase, parts, wanted))


def _stretched(wanted: list[str], length: int) -> list[str]:
    """Return a pattern in which ``**`` stands for as many parts as make it of some length; for none, if need be."""
    at = wanted.index("**")
    count = max(length - len(wanted) + 1, 0)
    return [*wanted[:at], *["*"] * count, *wanted[at + 1 :]]
