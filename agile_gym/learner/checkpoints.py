"""Checkpoints that are whole or not there: written beside the old one, put in its place, and checked before use."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from agile_gym.errors import ConfigurationError

__all__ = ["MANIFEST", "check_checkpoint", "replace_checkpoint", "write_manifest"]

MANIFEST = "manifest.json"
"""Holds the size and hash of every file of a checkpoint."""
_VERSION = 1
_PARTIAL, _PREVIOUS = ".partial", ".previous"


def replace_checkpoint(path: Path, write: Callable[[Path], object]) -> None:
    """Write a checkpoint; a former one at the same place stays until the new one is whole.

    Args:
        path: Its folder, on a local disk. What is not a checkpoint there is left alone, and written beside.
        write: Writes it into a folder.

    Raises:
        OSError: If it cannot be written, such as on a full disk; a former one is as it was.
    """
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).exists():
        write(path)
        write_manifest(path)
        return
    partial, previous = path.with_name(path.name + _PARTIAL), path.with_name(path.name + _PREVIOUS)
    _remove(partial)
    try:
        partial.mkdir(parents=True)
        write(partial)
        write_manifest(partial)
    except BaseException:
        _remove(partial)
        raise
    _remove(previous)
    if path.is_dir():
        path.rename(previous)
    partial.rename(path)
    _remove(previous)


def write_manifest(folder: Path) -> None:
    """Write down the size and hash of all files of a checkpoint, once they are on the disk."""
    files = {name: _describe(folder / name) for name in _files(folder)}
    target = folder / MANIFEST
    with target.open("w", encoding="utf-8") as stream:
        json.dump({"version": _VERSION, "files": files}, stream, indent=1, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())


def check_checkpoint(path: Path) -> None:
    """Check that a checkpoint is there and whole. Nothing of it is unpickled.

    A former checkpoint is put back if a new one was being put in its place when everything stopped.

    Args:
        path: Its folder.

    Raises:
        ConfigurationError: If it is not.
    """
    previous = path.with_name(path.name + _PREVIOUS)
    if not path.exists() and (previous / MANIFEST).exists():
        previous.rename(path)
    if not path.is_dir():
        raise ConfigurationError(
            f"There is no checkpoint {str(path)!r}; give the folder that save_to_path has written."
        )
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = cast("dict[str, dict[str, Any]]", manifest["files"])
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{str(path)!r} is not a checkpoint of GRPO, or was not written to its end: {MANIFEST} is missing. Give "
            "the folder that save_to_path has written."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(_damaged(path, MANIFEST, "cannot be read")) from error
    for name, (size, digest) in expected.items():
        file = path / name
        if not file.is_file():
            raise ConfigurationError(_damaged(path, name, "is missing"))
        found = _describe(file) if file.stat().st_size == size else None
        if found is None or found["sha256"] != digest:
            raise ConfigurationError(_damaged(path, name, "is not what was written"))


def _damaged(path: Path, name: str, what: str) -> str:
    return f"The checkpoint {str(path)!r} is damaged: {name} {what}. Use an earlier one, or copy it again."


def _files(folder: Path) -> list[str]:
    found = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return [name for name in found if name != MANIFEST]


def _describe(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
