"""Image files found, checked and hashed without decoding their pixels; the built-in photographs among them."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePath

from agile_gym.errors import ImageError
from agile_gym.images.formats import (
    SMALLEST,
    TABLE_EXTENSION,
    Size,
    describe_error,
    header_problem,
    readable_extensions,
    unsupported_extensions,
)
from agile_gym.images.items import FileItem, SkippedImage
from agile_gym.images.sources import ImageCollection

__all__ = ["EPISODES", "MARK", "PART", "PHOTOGRAPHS", "Scan", "builtin_images", "scan_file", "scan_folder"]

MARK = "agile-gym.json"
"""Name of the file that marks the folder of a run."""
EPISODES = "episodes.jsonl"
"""Name of the file of a folder of transcripts."""
PART = re.compile(r"episodes-(\d{5})\.parquet")
"""Names of its parts as Parquet."""
REMEMBERED = 1 << 18
"""Files at most whose hashes are remembered."""
PHOTOGRAPHS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "photographs")
"""Folder of the built-in photographs."""


def _no_items() -> list[FileItem]:
    return []


def _no_skipped() -> list[SkippedImage]:
    return []


def _no_tables() -> list[tuple[str, str]]:
    return []


def _no_counts() -> Counter[str]:
    return Counter()


@dataclass(slots=True)
class Scan:
    """What was found in a folder.

    Attributes:
        items: The usable image files, in the order of their relative posix paths.
        skipped: Image files that cannot be used.
        tables: Names and paths of the Parquet files, in the same order.
        ignored: How many files of other kinds there were, by extension in lower case (``""`` for none).
    """

    items: list[FileItem] = field(default_factory=_no_items)
    skipped: list[SkippedImage] = field(default_factory=_no_skipped)
    tables: list[tuple[str, str]] = field(default_factory=_no_tables)
    ignored: Counter[str] = field(default_factory=_no_counts)


def scan_folder(folder: str, max_pixels: int, min_size: Size = SMALLEST) -> Scan:
    """Find the images in a folder and in the folders below it.

    What this package writes is no photograph: the folders of runs, and the images of transcripts, are passed over.
    Every file whose extension is that of an image is hashed whole, while only its header is decoded. Hidden files and
    folders (whose names start with a dot), broken links and anything that is not a regular file are passed over. Links
    are followed; a folder that links lead to more than once is visited once.

    Args:
        folder: Path of the folder.
        max_pixels: Most pixels that an image may have.
        min_size: Height and width that an image must have, in pixels.

    Returns:
        What was found; the order does not depend on the machine.

    Raises:
        ImageError: If the folder itself cannot be listed.
    """
    scan = Scan()
    extensions, unsupported = readable_extensions(), unsupported_extensions()
    root = os.path.abspath(folder)
    found = [(_relative_name(path, root), path) for path in _walk(root, root, set(), scan.skipped)]
    for name, path in sorted(found, key=lambda entry: (unicodedata.normalize("NFC", entry[0]), entry[1])):
        extension = os.path.splitext(name)[1].lower()
        if extension in extensions:
            item = scan_file(path, name, max_pixels, min_size)
            if isinstance(item, FileItem):
                scan.items.append(item)
            else:
                scan.skipped.append(item)
        elif extension in unsupported:
            reason = f"{extension} files are not supported; save it as PNG or JPEG"
            scan.skipped.append(SkippedImage(name, reason))
        else:
            if extension == TABLE_EXTENSION:
                scan.tables.append((name, path))
            scan.ignored[extension] += 1
    return scan


def scan_file(path: str, name: str, max_pixels: int, min_size: Size = SMALLEST) -> FileItem | SkippedImage:
    """Hash a file and check its header.

    Args:
        path: Path of a regular file, whatever its extension.
        name: What people call it.
        max_pixels: Most pixels that an image may have.
        min_size: Height and width that an image must have, in pixels.

    Returns:
        The image, or the reason why it cannot be used.
    """
    try:
        status = os.stat(path)
        state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        problem, content_hash = _read(os.path.abspath(path), max_pixels, min_size, state)
    except OSError as error:
        return SkippedImage(name, f"it cannot be read ({describe_error(error)})")
    return FileItem(name, content_hash, os.path.abspath(path)) if problem is None else SkippedImage(name, problem)


@lru_cache(maxsize=REMEMBERED)
def _read(path: str, max_pixels: int, min_size: Size, state: tuple[int, ...]) -> tuple[str | None, str]:
    """Return what is wrong with a file, or None, and the hash of its content, if nothing is.

    A file that has not changed (``state``) is read once in a process, as many environments may have the same folder.
    """
    del state
    with open(path, "rb") as stream:
        problem = header_problem(stream, max_pixels, min_size)
        if problem is not None:
            return problem, ""
        stream.seek(0)
        return None, hashlib.file_digest(stream, "sha256").hexdigest()


def readable_name(path: str) -> str:
    """Return a path as text that can be printed, with slashes on every system."""
    posix = PurePath(path).as_posix()
    return posix.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _relative_name(path: str, root: str) -> str:
    """Return the path of a file within the folder."""
    return readable_name(os.path.relpath(path, root))


def _walk(folder: str, root: str, visited: set[tuple[int, int]], skipped: list[SkippedImage]) -> Iterator[str]:
    """Yield the paths of all regular files that are not hidden.

    Args:
        folder: Where to look.
        root: Folder that the search started in.
        visited: Device and inode of the folders seen so far; grows.
        skipped: Takes the folders that cannot be listed.

    Raises:
        ImageError: If ``root`` cannot be listed.
    """
    try:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in visited:
            return
        visited.add(identity)
        names = sorted(os.listdir(folder))
    except OSError as error:
        if folder == root:
            raise ImageError(f"The folder {folder!r} cannot be listed: {describe_error(error)}.") from error
        skipped.append(SkippedImage(_relative_name(folder, root), f"it cannot be listed ({describe_error(error)})"))
        return
    if MARK in names and folder != root:
        return
    has_transcripts = EPISODES in names or any(map(PART.fullmatch, names))
    for name in names:
        if name.startswith(".") or (has_transcripts and name == "images"):
            continue
        path = os.path.join(folder, name)
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue  # a broken link, or a file that has just gone
        if stat.S_ISDIR(mode):
            yield from _walk(path, root, visited, skipped)
        elif stat.S_ISREG(mode):
            yield path


@lru_cache(maxsize=8)
def builtin_images(max_pixels: int, folder: str = PHOTOGRAPHS) -> ImageCollection:
    """Return the photographs that come with this package: animals, buildings, landscapes, plants and things.

    ``ATTRIBUTION.toml`` beside them names their authors and licences. Their content hashes are such that each is in the
    split that its folder is named after, whatever the share of test images. They are listed once in a process.

    Args:
        max_pixels: Most pixels that an image may have.
        folder: Where they are, in folders below.

    Returns:
        The photographs, in the order of their names.

    Raises:
        ImageError: If there are none that can be used.
    """
    paths = sorted(Path(folder).glob("*/*.jpg"), key=lambda path: path.stem)
    found = [scan_file(str(path), path.stem, max_pixels) for path in paths]
    items = [item for item in found if isinstance(item, FileItem)]
    skipped = [item for item in found if isinstance(item, SkippedImage)]
    if not items:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3]) or "there are none"
        raise ImageError(
            f"None of the built-in photographs can be used ({reasons}). They were looked for in {folder!r}. "
            "Install agile-gym again, or give a folder of your own images."
        )
    return ImageCollection(items, max_pixels=max_pixels, skipped=skipped)
