"""Ownership and content of outputs: only what this package wrote is replaced or removed, moved inputs are found again.

A folder that a command fills is marked by a file, `MARK`, which is written first. Files to remove are
recognised by their names, and files to replace, by their content.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from agile_gym.errors import ConfigurationError, reason_of
from agile_gym.files import is_left_over, write_text
from agile_gym.images.folder import MARK

__all__ = [
    "GENERATOR",
    "MARK",
    "Known",
    "adopt_paths",
    "check_output",
    "check_replaceable",
    "clear_folder",
    "fingerprint",
    "fingerprints",
    "is_generated",
    "list_names",
    "read_mark",
    "write_mark",
]

GENERATOR = "agile_gym"
"""Name of this program in the pages and pictures that it writes."""
_FORMAT = 1
_HEAD = 1 << 16
_SHOWN = 3

Known = Mapping[str, Callable[[Path], bool] | None]
"""Paths within a folder, as patterns with ``**`` for any folders, each with a check for files of our own."""


def write_mark(folder: Path, kind: str) -> None:
    """Mark a folder as one that a command fills.

    Args:
        folder: The folder.
        kind: Kind of its content, such as ``"training run"``.
    """
    with write_text(folder / MARK) as file:
        file.write(mark_text(kind) + "\n")


def mark_text(kind: str) -> str:
    """Return the text of a mark."""
    return json.dumps({"kind": kind, "format": _FORMAT})


def read_mark(folder: Path, kind: str) -> bool:
    """Return whether a folder is marked as of a kind.

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
    """Remove the known files from a folder, which stays, as its mark does. Links are removed, not their targets.

    Args:
        folder: The folder.
        known: Files that may be removed.
        what: Name of the program that wrote it, for the message.

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
        is_own: Function from the file's first bytes to whether it is one's own.
        what: Kind of file that may be replaced, such as ``"a page of agile-gym view"``.

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
    """Return whether a page or a picture names this package as the program that wrote it."""
    return GENERATOR.encode() in head and head.startswith((b"<!doctype html>", b"\x89PNG\r\n", b"GIF8"))


def check_output(output: Path, images: object, flag: str = "--output") -> None:
    """Check that an output does not become one of the photographs.

    Args:
        output: The file or folder that is to be written.
        images: Source of the photographs.
        flag: Option that names the output, for the message.

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
            f"{flag} {output} is in {os.fspath(given)}, where the photographs are: files written there would be "
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


_PATHS = ("policy", "teacher", "adapter", "prompt", "path", "episodes")
"""Keys of settings that may hold a path; the first two behind one of `_KINDS`."""
_KINDS = ("hf:", "vllm:")
_NAMES = ("full", "short", "tiny")
"""Values of these keys that are names."""
_BLOCK = 1 << 16
_BLOCKS = 16


def fingerprint(path: str | Path) -> str | None:
    """Return a hash of a file, or of the files of a folder without those below it.

    Large files are sampled, at 16 places each, so that it takes no time even for the weights of a large model.

    Args:
        path: The file or folder.

    Returns:
        Hexadecimal digits; None if there is no such file or folder, or it cannot be read.
    """
    try:
        place = Path(path)
        if not place.is_dir():
            return _digest([place]) if place.is_file() else None
        files = sorted(entry for entry in place.iterdir() if entry.is_file() and not entry.name.startswith("."))
        return _digest(files) if files else None
    except (OSError, ValueError):
        return None


def fingerprints(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the fingerprints of the paths in settings, by ``"key"`` or ``"section.key"``."""
    found: dict[str, str] = {}
    for name, value in _paths(settings).items():
        kind, path = _kind_and_path(value)
        digest = fingerprint(path)
        if digest is not None:
            found[name] = digest if kind in ("", "hf:") else kind + digest  # the same model, played by another
    return found


def adopt_paths(
    old: Mapping[str, Any], new: Mapping[str, Any], before: Mapping[str, Any], now: Mapping[str, str]
) -> dict[str, Any]:
    """Return older settings with the newer ones' paths wherever these lead to the same content.

    A path that leads to other content than before is marked as such.

    Args:
        old: The older settings, unchecked.
        new: The newer ones.
        before: Fingerprints of the older ones, as they were then.
        now: Fingerprints of the newer ones.
    """
    adopted = {key: dict(cast("Mapping[str, Any]", v)) if isinstance(v, Mapping) else v for key, v in old.items()}
    theirs, ours = _paths(old), _paths(new)
    for name in theirs.keys() & ours.keys():
        section, _, key = name.rpartition(".")
        holder = adopted[section] if section else adopted
        if before.get(name) is None or now.get(name) is None:
            if theirs[name] != ours[name] and _is_same_place(theirs[name], ours[name]):
                holder[key] = ours[name]
        elif before[name] == now[name]:
            holder[key] = ours[name]
        elif theirs[name] == ours[name]:
            holder[key] = f"{theirs[name]} (with other content)"
    return adopted


def _paths(settings: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            section = cast("Mapping[str, Any]", value)
            found |= {f"{name}.{key}": text for key, text in section.items() if _is_path(key, text)}
        elif _is_path(name, value):
            found[name] = value
    return found


def _is_path(key: str, value: object) -> bool:
    if key not in _PATHS or not isinstance(value, str) or not value or value in _NAMES:
        return False
    return value.startswith(_KINDS) or key not in ("policy", "teacher")


def _kind_and_path(value: str) -> tuple[str, str]:
    """Return the kind of policy that a path is given to, which may be empty, and the path."""
    kind = next((kind for kind in _KINDS if value.startswith(kind)), "")
    return kind, value.removeprefix(kind)


def _is_same_place(first: str, second: str) -> bool:
    (one, first), (other, second) = _kind_and_path(first), _kind_and_path(second)
    if one != other:
        return False
    try:
        return Path(second).exists() and Path(first).resolve() == Path(second).resolve()
    except (OSError, RuntimeError, ValueError):
        return False


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name if len(files) > 1 else ''}\0{size}\0".encode("utf-8", "surrogateescape"))
        with path.open("rb") as file:
            if size <= _BLOCK * _BLOCKS:
                digest.update(file.read())
                continue
            for number in range(_BLOCKS):
                file.seek(number * (size - _BLOCK) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()
