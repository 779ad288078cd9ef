"""Images of a folder of files, and of a dataset of Hugging Face."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TypeGuard, cast

from agile_gym.errors import ImageError, import_optional
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
from agile_gym.images.rows import TableLike, find_column, list_rows, quoted
from agile_gym.images.sources import ImageCollection

__all__ = [
    "EPISODES",
    "MARK",
    "PART",
    "PHOTOGRAPHS",
    "DatasetLike",
    "DatasetSpec",
    "Scan",
    "builtin_images",
    "dataset_images",
    "encoded_column",
    "is_dataset",
    "load_dataset",
    "parse_dataset_spec",
    "scan_file",
    "scan_folder",
]

MARK = "agile-gym.json"
"""Name of the file that marks the folder of a run."""
EPISODES = "episodes.jsonl"
"""Name of the file of a folder of transcripts."""
PART = re.compile(r"episodes-(\d{5})\.parquet")
"""Names of its parts as Parquet."""
REMEMBERED = 1 << 18
"""Largest number of files whose hashes are kept."""
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
    """Content of a folder.

    Attributes:
        items: The usable image files, in the order of their relative posix paths.
        skipped: Image files that cannot be used.
        tables: Names and paths of the Parquet files, in the same order.
        ignored: Number of files of other kinds, by extension in lower case (``""`` for none).
    """

    items: list[FileItem] = field(default_factory=_no_items)
    skipped: list[SkippedImage] = field(default_factory=_no_skipped)
    tables: list[tuple[str, str]] = field(default_factory=_no_tables)
    ignored: Counter[str] = field(default_factory=_no_counts)


def scan_folder(folder: str, max_pixels: int, min_size: Size = SMALLEST) -> Scan:
    """Find the images in a folder and in the folders below it.

    Outputs of this package are no photographs: the folders of runs, and the images of transcripts, are passed over.
    Every file whose extension is that of an image is hashed whole, while only its header is decoded. Hidden files and
    folders (whose names start with a dot), broken links and anything that is not a regular file are passed over. Links
    are followed; a folder that links lead to more than once is visited once.

    Args:
        folder: Path of the folder.
        max_pixels: Most pixels that an image may have.
        min_size: Height and width that an image must have, in pixels.

    Returns:
        The content; the order does not depend on the machine.

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
        name: Name of the image in messages.
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
    """Return the problem with a file, or None, and the hash of its content if there is none.

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
        folder: Folder to list.
        root: Folder that the search started in.
        visited: Device and inode of the folders visited so far; grows.
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


PREFIX = "hf:"
FORMAT = "'hf:NAME', 'hf:NAME:SPLIT' or 'hf:NAME:SPLIT:COLUMN'"


DatasetLike = TableLike
"""Interface that is used of a ``datasets.Dataset``."""


class DatasetSpec(NamedTuple):
    """The parts of an ``hf:`` string.

    Attributes:
        name: Name of the dataset, or path of a local one.
        split: Split of the dataset, may have a slice such as ``train[:100]``; ``None`` if left out.
        column: Column that holds the images; ``None`` if left out.
    """

    name: str
    split: str | None
    column: str | None


def is_dataset(value: object) -> TypeGuard[DatasetLike]:
    """Return whether a value has rows and named columns as a ``datasets.Dataset`` does."""
    columns = getattr(value, "column_names", None)
    return isinstance(columns, (list, tuple)) and hasattr(value, "__len__") and hasattr(value, "__getitem__")


def parse_dataset_spec(text: str) -> DatasetSpec:
    """Take an ``hf:`` string apart.

    Args:
        text: ``"hf:NAME[:SPLIT[:COLUMN]]"``; colons within square brackets belong to the split.

    Returns:
        The parts.

    Raises:
        ImageError: If the name is missing, a part is empty, or there are too many parts.
    """
    parts = re.split(r":(?![^\[]*\])", text.removeprefix(PREFIX))
    if len(parts) > 3 or not all(part.strip() for part in parts):
        raise ImageError(
            f"images={text!r} does not name a dataset. Write {FORMAT}, for example 'hf:mnist:train:image'."
        )
    name, split, column = (*(part.strip() for part in parts), None, None)[:3]
    return DatasetSpec(cast("str", name), split, column)


def load_dataset(spec: DatasetSpec) -> DatasetLike:
    """Load a dataset with the ``datasets`` package.

    Args:
        spec: The parts. Without a split, a dataset's only split is taken, or else the one called ``train``.

    Returns:
        The dataset.

    Raises:
        MissingDependencyError: If the package is not installed.
        ImageError: If the dataset cannot be loaded, or it has several splits and none is called ``train``.
    """
    module = import_optional("datasets", extra="data", purpose="load images from a Hugging Face dataset")
    try:
        loaded: object = module.load_dataset(spec.name, split=spec.split)
    except Exception as error:
        raise ImageError(
            f"The dataset {spec.name!r}, split {spec.split or 'not given'}, could not be loaded: "
            f"{type(error).__name__}: {describe_error(error)}. Write {FORMAT} and check the name, the split and the "
            "connection; a dataset on disk can be given as an object."
        ) from error
    if isinstance(loaded, Mapping):
        splits = cast("Mapping[str, object]", loaded)
        if len(splits) != 1 and "train" not in splits:
            raise ImageError(
                f"The dataset {spec.name!r} has the splits {quoted(splits)}. Name one: "
                f"'{PREFIX}{spec.name}:{next(iter(splits), 'SPLIT')}'."
            )
        loaded = splits["train"] if "train" in splits else next(iter(splits.values()))
    if not is_dataset(loaded):
        raise ImageError(
            f"Loading {spec.name!r} gave a value of type {type(loaded).__name__}, which has no columns of images."
        )
    return loaded


def dataset_images(
    dataset: DatasetLike, column: str | None, max_pixels: int, min_size: Size = SMALLEST
) -> ImageCollection:
    """List the images of a dataset.

    Rows whose image is missing or cannot be read are skipped.

    Args:
        dataset: The dataset.
        column: Column that holds the images; found by itself if ``None``: the first whose feature is an image, or else
            a list of images, or else the first that holds images in the first rows; see `find_column`.
        max_pixels: Most pixels that an image may have.
        min_size: Height and width that an image must have, in pixels.

    Returns:
        The images, named by the index of their row. Empty if no row has a usable one.

    Raises:
        ImageError: If there is no such column.
    """
    dataset = _reset_format(dataset)
    features = _features(dataset)
    images = [name for name, feature in features.items() if _is_image_feature(feature)]
    images = images or [name for name, feature in features.items() if _undecoded(feature) is not None]
    column = find_column(dataset, column, lambda name: name in images)
    items, skipped = list_rows(_encoded(dataset, column), column, max_pixels, min_size)
    return ImageCollection(items, max_pixels=max_pixels, skipped=skipped)


def encoded_column(dataset: DatasetLike, column: str) -> DatasetLike:
    """Return one column of a dataset, with images encoded where the dataset can give them so."""
    return _encoded(_reset_format(dataset), column)


def _reset_format(dataset: DatasetLike) -> DatasetLike:
    """Return the dataset with plain Python values, whatever arrays or tensors it is set to return."""
    with_format = getattr(dataset, "with_format", None)
    return cast("DatasetLike", with_format(None)) if callable(with_format) else dataset


def _encoded(dataset: DatasetLike, column: str) -> DatasetLike:
    """Return the column alone, giving encoded images instead of decoded ones where the dataset can."""
    select = getattr(dataset, "select_columns", None)
    if not callable(select):
        return dataset
    alone: object = select([column])
    undecoded = _undecoded(_features(dataset).get(column))
    return cast("DatasetLike", alone if undecoded is None else cast("Any", alone).cast_column(column, undecoded))


def _undecoded(feature: object) -> object:
    """Return the feature of images, or of lists of images, that leaves them encoded; None for another feature."""
    if _is_image_feature(feature):
        return cast("Any", type(feature))(decode=False)
    if isinstance(feature, list):
        inner = _undecoded(*cast("list[object]", feature)[:1])
        return None if inner is None else [inner]
    inner = _undecoded(getattr(feature, "feature", None)) if is_dataclass(feature) else None
    return None if inner is None else replace(cast("Any", feature), feature=inner)


def _features(dataset: DatasetLike) -> Mapping[str, object]:
    """Return the features of the columns, empty if the dataset has none."""
    features: object = getattr(dataset, "features", None)
    return cast("Mapping[str, object]", features) if isinstance(features, Mapping) else {}


def _is_image_feature(feature: object) -> bool:
    """Return whether a feature is that of images."""
    return type(feature).__name__ == "Image"
