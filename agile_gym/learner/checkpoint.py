"""Atomic, checksummed checkpoints: written beside the old one, put in its place, and checked before use."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from agile_gym.errors import ConfigurationError, reason_of
from agile_gym.outputs import clear_folder

__all__ = ["CHECKPOINT_FILES", "MANIFEST", "check_checkpoint", "replace_checkpoint", "write_manifest"]

MANIFEST = "manifest.json"
"""Name of the file with the size and hash of every file of a checkpoint."""
CHECKPOINT_FILES = (
    *(MANIFEST, "rllib_checkpoint.json", "metadata.json", "complete.txt", "algorithm_state.pkl"),
    *("class_and_ctor_args.pkl", "state.pkl", "module_state.pkl", "state.msgpack", "module_state.msgpack"),
    *(".metadata", ".metadata.tmp", "__*.distcp"),  # of sharded learners
)
"""Names of the files of RLlib's checkpoints, by which half of one, without a manifest, is recognised."""
_VERSION = 1
_PARTIAL, _PREVIOUS = ".partial", ".previous"


def replace_checkpoint(path: Path, write: Callable[[Path], object]) -> None:
    """Write a checkpoint; a former one at the same place stays until the new one is whole.

    Args:
        path: Its folder, on a local disk. Files there that are not a checkpoint's are left alone; it is written beside.
        write: Function that writes it into a folder.

    Raises:
        OSError: If it cannot be written, such as on a full disk, or files to be removed are no checkpoint's; a former
            one is as it was.
    """
    path = path.resolve()  # of a link, the folder that it leads to
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
        shutil.rmtree(partial, ignore_errors=True)
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
        version = manifest["version"]
        files = cast("dict[str, dict[str, Any]]", manifest["files"])
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{str(path)!r} is not a checkpoint of GRPO, or was not written to its end: {MANIFEST} is missing. Give "
            "the folder that save_to_path has written."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigurationError(_damaged(path, MANIFEST, "cannot be read")) from error
    if version != _VERSION:
        raise ConfigurationError(
            f"The checkpoint {str(path)!r} has the version {version!r:.80}; this version of agile_gym reads {_VERSION}."
            " Use the version that wrote it."
        )
    problem = _problem(path, expected)
    if problem is not None:
        raise ConfigurationError(_damaged(path, *problem))


def _problem(path: Path, expected: Mapping[str, tuple[object, object]]) -> tuple[str, str] | None:
    """Return the first file that differs from the one written, and how."""
    for name, (size, digest) in expected.items():
        file = path / name
        if not file.is_file():
            return name, "is missing"
        try:
            found = _describe(file) if file.stat().st_size == size else None
        except OSError as error:
            return name, f"cannot be read ({reason_of(error)})"
        if found is None or found["sha256"] != digest:
            return name, "is not what was written"
    return None


def _damaged(path: Path, name: str, what: str) -> str:
    other = _newest_whole(path)
    if other is None:
        advice = "There is no other whole one beside it: copy it again, or move it away and begin anew."
    elif other.name in (path.name + _PARTIAL, path.name + _PREVIOUS):
        advice = f"Whole is {str(other)!r}: move it there in its place."
    else:
        advice = f"The newest whole one beside it is {str(other)!r}: use that."
    return f"The checkpoint {str(path)!r} is damaged: {name} {what}. {advice}"


def _newest_whole(path: Path) -> Path | None:
    """Return the newest whole checkpoint in the folder that a damaged one is in."""
    found: list[tuple[float, Path]] = []
    with suppress(OSError):
        for manifest in path.parent.glob(f"*/{MANIFEST}"):
            if manifest.parent.name != path.name:
                found.append((manifest.stat().st_mtime, manifest.parent))
    for _, other in sorted(found, reverse=True):
        try:
            content = json.loads((other / MANIFEST).read_text(encoding="utf-8"))
            expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in content["files"].items()}
            if content["version"] == _VERSION and _problem(other, expected) is None:
                return other
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return None


def _files(folder: Path) -> list[str]:
    found = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return [name for name in found if name != MANIFEST]


def _describe(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def _remove(folder: Path) -> None:
    """Remove a checkpoint, or half of one.

    Raises:
        OSError: If there is anything else in it; then nothing is removed.
    """
    if folder.is_symlink():
        folder.unlink()
    if not folder.is_dir():
        return
    listed = _listed(folder)
    known = {**{f"**/{name}": None for name in CHECKPOINT_FILES}, **dict.fromkeys(listed)}
    try:
        clear_folder(folder, known, "a learner")
    except ConfigurationError as error:
        raise OSError(str(error)) from error
    folder.rmdir()


def _listed(folder: Path) -> list[str]:
    """Return the files that a checkpoint's manifest names, as far as it can be read."""
    try:
        return [glob.escape(name) for name in json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
