"""Whether two paths lead to the same content, so that what was begun with one can be gone on with from the other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

__all__ = ["adopt_paths", "fingerprint", "fingerprints"]

_PATHS = ("policy", "teacher", "adapter", "prompt", "path", "episodes")
"""Keys of settings that may hold a path; the first two as ``hf:PATH``."""
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
        digest = fingerprint(value.removeprefix("hf:"))
        if digest is not None:
            found[name] = digest
    return found


def adopt_paths(
    old: Mapping[str, Any], new: Mapping[str, Any], before: Mapping[str, Any], now: Mapping[str, str]
) -> dict[str, Any]:
    """Return older settings with the newer ones' paths wherever these lead to the same content.

    Where the same path leads to other content than before, it says so.

    Args:
        old: The older settings; nothing is certain about them.
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
    return value.startswith("hf:") or key not in ("policy", "teacher")


def _is_same_place(first: str, second: str) -> bool:
    first, second = first.removeprefix("hf:"), second.removeprefix("hf:")
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
